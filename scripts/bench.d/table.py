"""What was measured, beside what it should be."""

import os
import subprocess

from scale import LISTS


def show(lab, given, counted):
    figures = lab.figures
    version = lab.postgres.sql("SHOW server_version").split()[0]
    kind = subprocess.run(["df", "--output=fstype", str(lab.postgres.data)], capture_output=True, text=True).stdout.split()
    print(
        f"\nPostgreSQL {version}, fsync and synchronous_commit on, {kind[-1] if kind else '?'}; {os.cpu_count()} processors shared by server, "
        f"database and load generator; medians of {given.rounds} round(s) of {given.seconds} s; the load average was {os.getloadavg()[2]:.1f}\n"
    )
    rows(figures)
    latencies(figures)
    costs(figures)
    memory(figures)
    if counted:
        print("\nstatements while events were acknowledged and applied, by their time (calls, microseconds an event, rows, text):")
        for line in counted.splitlines():
            calls, us, count, text = line.split("|", 3)
            print(f"  {calls:>8} {us:>8} {count:>9}  {text}")
    print("\neach round:")
    for name in ("pgbench", "ack64", "ack256", "applied", "both", "both-applied", "half-p50", "half-p99", "half-alone-p50", "half-alone-p99", "hot", "spread", "sqlite", "peer64", "peer256"):
        if name in figures:
            print(f"  {name:<16} {' '.join(f'{value:.1f}' for value in figures.all[name])}")


def line(what, figure, ratio, aim, reached):
    verdict = "" if reached is None else "reached" if reached else "MISSED"
    print(f"{what:<58} {figure:>12} {ratio:>8}  {aim:<34} {verdict}")


def rows(figures):
    """The measures that have an aim."""

    def rate(what, name, under, least, aim):
        if name not in figures:
            return
        ratio = figures.ratio(name, under) if under else None
        shown = f"{ratio:.2f}" if ratio else ""
        line(what, f"{figures[name]:.0f}/s", shown, aim, ratio >= least if ratio and least else None)

    line("", "rate", "ratio", "aim", None)
    rate("pgbench, one row a transaction, 32 clients", "pgbench", None, None, "")
    rate("acknowledged, 64 connections, to pgbench", "ack64", "pgbench", 1.0, ">= 1.0")
    rate("acknowledged, 256 connections, to pgbench", "ack256", "pgbench", 1.3, ">= 1.3")
    rate("applied, a backlog, to acknowledged at 64", "applied", "ack64", 0.7, ">= 0.7")
    rate("applied, the long backlog, to acknowledged at 64", "sustained", "ack64", 0.7, ">= 0.7")
    rate("both at once: acknowledged, to acknowledged alone", "both", "ack64", None, "")
    rate("both at once: applied, to acknowledged alone", "both-applied", "ack64", None, "")
    rate("applied, one customer, to spread over 5,000", "hot", "spread", 0.5, ">= 0.5")
    rate("SQLite: acknowledged, 64 connections, to PostgreSQL", "sqlite", "ack64", 0.5, ">= 0.5")
    if "peer64" in figures:
        best = max(figures["peer64"], figures["peer256"])
        figures.add("peer", best)
        rate("stripe-sync-engine: acknowledged and applied, its best", "peer", None, None, "")
        figures.add("ack-best", max(figures["ack64"], figures["ack256"]))
        rate("acknowledged, our best, to stripe-sync-engine's", "ack-best", "peer", 12, ">= 12")
        rate("applied, to stripe-sync-engine's", "applied", "peer", 8, ">= 8")
    if "queue-late" in figures:
        early, late = figures["queue-early"], figures["queue-late"]
        line("events waiting at half of the most: 2nd half, to 1st", f"{late:.0f}", f"{late / max(early, 1):.2f}", "not growing", late <= max(2 * early, figures["half"] / 2))
    if "statements" in figures:
        line("statements for each event acknowledged and applied", f"{figures['statements']:.3f}", "", "< 0.2", figures["statements"] < 0.2)


def latencies(figures):
    print(f"\n{'latency, ms':<58} {'p50':>12} {'p99':>8}")
    if "pgbench-p50" in figures:
        print(f"{'pgbench (its mean)':<58} {figures['pgbench-p50']:>12.1f}")
    names = {
        "ack64": "closed loop, 64 connections",
        "ack256": "closed loop, 256 connections",
        "both": "closed loop, 64 connections, applied as well",
        "half-alone": "open loop at half of the most",
        "half": "open loop at half of the most, applied as well",
        "sqlite": "SQLite, closed loop, 64 connections",
        "peer64": "stripe-sync-engine, closed loop, 64 connections",
    }
    for name, what in names.items():
        if f"{name}-p50" not in figures:
            continue
        p50, p99 = figures[f"{name}-p50"], figures[f"{name}-p99"]
        aim = "" if not name.startswith("half") else "  <= 3 and <= 25: " + ("reached" if p50 <= 3 and p99 <= 25 else "MISSED")
        print(f"{what:<58} {p50:>12.1f} {p99:>8.1f}{aim}")
    if "ack-full-p50" in figures:
        print(f"\n{'ms, inbox empty and full':<58} {'empty':>12} {'full':>8}  ratio (aim: <= 1.3)")
        pairs = [("acknowledged, p50", "ack-{}-p50"), ("acknowledged, p99", "ack-{}-p99"), ("claim, mean in the database", "claim-{}")]
        pairs += [(f"list: {name}", f"list-{{}}-{name}") for name in LISTS]
        for what, name in pairs:
            empty, full = figures[name.format("empty")], figures[name.format("full")]
            print(f"{what:<58} {empty:>12.2f} {full:>8.2f}  {full / empty:.2f} {'reached' if full <= 1.3 * empty else 'MISSED'}")
        print(f"the full inbox takes {figures['scale-gib']:.2f} GiB with its indexes")


def costs(figures):
    heads = ("server us", "postgres us", "generator us", "transactions", "WAL syncs", "WAL bytes")
    print(f"\n{'each event':<16}" + "".join(f"{head:>14}" for head in heads))
    for name in ("pgbench", "ack64", "ack256", "applied", "sustained", "both", "hot", "spread"):
        keys = (f"{name}-server-us", f"{name}-postgres-us", f"{name}-generator-us", f"{name}-commits", f"{name}-syncs", f"{name}-wal")
        if keys[1] in figures:
            digits = (0, 0, 0, 4, 4, 0)
            cells = (f"{figures[key]:.{digit}f}" if key in figures else "" for key, digit in zip(keys, digits, strict=True))
            print(f"{name:<16}" + "".join(f"{cell:>14}" for cell in cells))


def memory(figures):
    peaks = {name: figures[name] for name in figures.all if name.endswith("-peak") and not name.startswith(("peer", "sqlite"))}
    if "idle" in figures and peaks:
        idle, peak = figures["idle"], max(peaks.values())
        print(f"\nmemory, MiB: idle {idle:.0f} (aim <= 40: {'reached' if idle <= 40 else 'MISSED'}), at most {peak:.0f} (aim <= 120: {'reached' if peak <= 120 else 'MISSED'}); "
              + ", ".join(f"{name.removesuffix('-peak')} {value:.0f}" for name, value in peaks.items()))
    if "peer-peak" in figures:
        print(f"memory of stripe-sync-engine's server, MiB: {figures['peer-peak']:.0f}")
