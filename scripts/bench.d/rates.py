"""How many events a second, how fast, and for how much memory. Each function is one measure on an empty inbox."""

import subprocess
import threading
import time

from lab import CUSTOMERS, Failed, say


def pgbench(lab):
    """32 clients insert the same row, one per transaction, into the server's own table with all its indexes."""
    lab.empty()
    payload = subprocess.run([lab.ingest, "payload"], check=True, capture_output=True, text=True).stdout.rstrip("\n")
    script = subprocess.run([lab.ingest, "pgbench", "--customers", str(CUSTOMERS)], check=True, capture_output=True, text=True).stdout
    path = lab.work / "insert.sql"
    path.write_text(script)
    command = [lab.postgres.tool("pgbench"), "-n", "-M", "prepared", "-c", "32", "-j", "2", "-T", str(lab.seconds), "-f", path]
    with lab.cost("pgbench") as cost:
        done = subprocess.run([*command, "-D", f"payload={payload}", lab.postgres.url], capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"pgbench: {done.stderr.strip()[-1000:]}")
        cost.events = lab.stored()
    for line in done.stdout.splitlines():
        if line.startswith("tps = "):
            lab.figures.add("pgbench", line.split()[2])
        if line.startswith("latency average = "):
            lab.figures.add("pgbench-p50", line.split()[3])
    # Never fewer requests than a server could take.
    lab.most = max(lab.most, lab.figures["pgbench"] * 2)
    say(f"    {lab.figures['pgbench']:.0f} rows/s")


def acknowledged(lab, connections):
    """Signed events of 4.6 KB over HTTP, closed loop, to a server that stores them and applies none."""
    name = f"ack{connections}"
    lab.empty()
    with lab.serve("--no-processor") as server:
        with lab.cost(name, server) as cost:
            cost.events = lab.send(server.url, name, connections)["acknowledged"]
        lab.expect_stored(cost.events)
        lab.figures.add(f"{name}-peak", server.mebibytes("VmHWM"))


def backlog(lab, name, events, options=()):
    """A server works off a backlog that was acknowledged before; every event changes what its user may do. Its start counts."""
    lab.empty()
    with lab.serve("--no-processor") as server:
        lab.send(server.url, f"{name}-stored", 256, events=events, options=options)
    lab.expect_stored(events)
    lab.postgres.sql("VACUUM ANALYZE stripe_webhooks")
    lab.postgres.sql("CHECKPOINT")
    begun = lab.now()
    with lab.cost(name) as cost, lab.serve() as server:
        cost.events = events
        lab.drained()
        lab.applied_since(name, begun)
        lab.figures.add(f"{name}-server-us", server.ticks() * 1e4 / events)
        lab.figures.add(f"{name}-peak", server.mebibytes("VmHWM"))
    say(f"    {lab.figures[name]:.0f} applied/s")


def both(lab):
    """Acknowledged and applied at once, closed loop; memory before it and at its worst."""
    lab.empty()
    with lab.serve() as server:
        time.sleep(2)
        lab.figures.add("idle", server.mebibytes("VmRSS"))
        begun = lab.now()
        with lab.cost("both", server) as cost:
            cost.events = lab.send(server.url, "both", 64)["acknowledged"]
            lab.drained()
        lab.applied_since("both-applied", begun)
        lab.figures.add("both-peak", server.mebibytes("VmHWM"))
    say(f"    {lab.figures['both-applied']:.0f} applied/s")


def half_rate(lab):
    """An open loop at half of what was acknowledged at most: latency, alone and while everything is applied as well, and the queue."""
    rate = lab.figures["ack64"] / 2
    seconds = max(lab.seconds, 8)
    lab.empty()
    with lab.serve("--no-processor") as server:
        lab.send(server.url, "half-alone", 64, seconds=seconds, rate=rate)
    lab.empty()
    with lab.serve() as server:
        depth = []
        stop = threading.Event()

        def watch():
            while not stop.wait(1):
                depth.append(lab.waiting())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            lab.send(server.url, "half", 64, seconds=seconds, rate=rate)
        finally:
            stop.set()
            watcher.join()
        lab.drained()
    middle = len(depth) // 2
    early, late = depth[1:middle] or depth, depth[middle:] or depth
    lab.figures.add("queue-early", sum(early) / max(len(early), 1))
    lab.figures.add("queue-late", sum(late) / max(len(late), 1))
    say(f"    events waiting, second by second: {' '.join(map(str, depth))}")


def sqlite(lab):
    """Acknowledged over 64 connections, on the embedded database on the same disk."""
    for file in lab.work.glob("bench.db*"):
        file.unlink()
    with lab.serve("--no-processor", database=f"sqlite://{lab.work}/bench.db") as server:
        lab.send(server.url, "sqlite", 64)
        lab.figures.add("sqlite-peak", server.mebibytes("VmHWM"))
    for file in lab.work.glob("bench.db*"):
        file.unlink()


def statements(lab):
    """Statements for each event while events are acknowledged and applied. Not in the measured rounds: counting costs a little itself."""
    own = "pg_stat|clock_timestamp|count\\(\\*\\) FROM stripe_webhooks"
    lab.empty()
    with lab.serve() as server:
        lab.postgres.sql("SELECT pg_stat_statements_reset()")
        events = lab.send(server.url, "counted", 64)["acknowledged"]
        lab.drained()
    calls = lab.postgres.sql(f"SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query !~ '{own}'")
    lab.figures.add("statements", int(calls) / events)
    return lab.postgres.sql(
        f"SELECT calls || '|' || round((total_exec_time * 1000 / {events})::numeric, 1) || '|' || rows || '|' ||"
        f" left(regexp_replace(query, '\\s+', ' ', 'g'), 110) FROM pg_stat_statements WHERE query !~ '{own}'"
        " ORDER BY total_exec_time DESC LIMIT 14"
    )
