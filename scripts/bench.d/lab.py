"""What every measure needs: the database, the server, the load generator, and what they cost."""

import json
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request

CUSTOMERS = 5000
SECRET = "whsec_bench_ingest"
API_TOKEN = "bench-ingest-api-token"
ADMIN_TOKEN = "bench-ingest-admin-token"
START_SECONDS = 20
STOP_SECONDS = 15
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """The measure means nothing: something did not do what it was to do."""


def say(text):
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


def stat_ticks(pid):
    """Processor time of a process, and of its children that have ended, in ticks; zeros where it is gone."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0, 0
    return int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])


class Figures:
    """Every figure of every round by name; a figure is the median of its rounds."""

    def __init__(self):
        self.all = {}

    def add(self, name, value):
        self.all.setdefault(name, []).append(float(value))

    def __contains__(self, name):
        return name in self.all

    def __getitem__(self, name):
        return statistics.median(self.all[name])

    def ratio(self, over, under):
        """The quotient of two figures, or None where one was not measured."""
        return self[over] / self[under] if over in self and under in self and self[under] else None


class Postgres:
    """The throwaway server. Only ever the one that was made for this run."""

    def __init__(self, url, tools):
        self.url = url
        self.tools = pathlib.Path(tools)
        self.data = pathlib.Path(self.sql("SHOW data_directory"))

    def tool(self, name):
        own = self.tools / name
        return str(own if own.exists() else name)

    def sql(self, text):
        """Runs statements, and returns what they print, without headings."""
        command = [self.tool("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", self.url]
        env = {**os.environ, "PGOPTIONS": "-c client_min_messages=warning"}
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=env)
        if done.returncode:
            raise Failed(f"psql: {done.stderr.strip()[-2000:]}")
        return done.stdout.strip()

    def ticks(self):
        """Processor time of the server and of all its children, in ticks."""
        main = (self.data / "postmaster.pid").read_text().split()[0]
        children = pathlib.Path(f"/proc/{main}/task/{main}/children").read_text().split()
        own, ended = stat_ticks(main)
        return own + ended + sum(stat_ticks(child)[0] for child in children)

    def counters(self):
        """Commits, flushes of the log and bytes of the log since the start."""
        commits = self.sql("SELECT sum(xact_commit) FROM pg_stat_database")
        syncs, written = self.sql("SELECT wal_sync, wal_bytes FROM pg_stat_wal").split("|")
        return int(commits), int(syncs), int(written)

    def restart_with(self, setting, value):
        """Sets what only a start can change."""
        self.sql(f"ALTER SYSTEM SET {setting} = '{value}'")
        owner = self.data.stat().st_uid
        command = [self.tool("pg_ctl"), "restart", "-D", self.data, "-m", "fast", "-w", "-t", "120", "-s", "-l", self.data.parent / "log"]
        switch = {} if owner == os.geteuid() else {"user": owner, "group": self.data.stat().st_gid, "extra_groups": []}
        subprocess.run(command, check=True, cwd=self.data, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **switch)


class Server:
    """One `trueup serve`, or whatever else takes webhooks, while a measure lasts."""

    def __init__(self, lab, command, env, ready, folder):
        self.lab, self.command, self.env, self.ready, self.folder = lab, command, env, ready, folder
        self.log = folder / "server.log"

    def __enter__(self):
        for _ in range(5):
            port = random.randrange(10000, 20000)
            self.url = f"http://127.0.0.1:{port}"
            env = {**os.environ, **{name: text.format(port=port) for name, text in self.env.items()}}
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(self.command, env=env, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            until = time.monotonic() + START_SECONDS
            while self.process.poll() is None and time.monotonic() < until:
                wait = [self.lab.ingest, "wait", "--url", self.url + self.ready, "--seconds", "1"]
                if subprocess.run(wait, stderr=subprocess.DEVNULL).returncode == 0 and self.process.poll() is None:
                    return self
            self.process.kill()
            self.process.wait()
            if "in use" not in self.log.read_text().lower():
                break
        raise Failed(f"{self.command[0]} did not start: {self.tail()}")

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            say(f"    {self.command[0]} did not stop within {STOP_SECONDS} s")
            self.process.kill()
            self.process.wait()

    def ticks(self):
        own, ended = stat_ticks(self.process.pid)
        return own + ended

    def mebibytes(self, key):
        """`VmRSS` or `VmHWM` of the process."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{key}:\s+(\d+)", status, re.M)[1]) / 1024

    def seconds_of(self, path):
        """Time of one admin request, from its start to its last byte."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
        begun = time.perf_counter()
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
        return time.perf_counter() - begun


class Lab:
    """Everything together."""

    def __init__(self, postgres, trueup, ingest, work, seconds):
        self.postgres, self.trueup, self.ingest = postgres, str(trueup), str(ingest)
        self.work, self.seconds = pathlib.Path(work), seconds
        self.figures = Figures()
        self.most = 20_000

    def serve(self, *options, database=None):
        """`trueup serve` on the PostgreSQL of this run, or on another database."""
        env = {
            "DATABASE_URL": database or self.postgres.url,
            "TRUEUP_LISTEN": "127.0.0.1:{port}",
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "TRUEUP_API_TOKEN": API_TOKEN,
            "TRUEUP_ADMIN_TOKEN": ADMIN_TOKEN,
        }
        return Server(self, [self.trueup, "serve", *options], env, "/readyz", self.work)

    def empty(self, customers=CUSTOMERS):
        """Users and an empty inbox, and nothing left to write from before."""
        users = subprocess.run([self.ingest, "users", "--count", str(customers)], check=True, capture_output=True, text=True).stdout
        self.postgres.sql(f"TRUNCATE users, stripe_webhooks, subscriptions, stripe_customers, invoices CASCADE;\n{users}")
        self.postgres.sql("VACUUM ANALYZE users")
        self.postgres.sql("CHECKPOINT")

    def send(self, url, name, connections=64, *, events=None, seconds=None, rate=None, options=(), path="/api/v1/stripe/webhook"):
        """Sends events and notes how many a second were acknowledged, and how fast. Returns what the generator reports."""
        seconds = seconds or self.seconds
        # A run is to end by its time, unless the number of events is what counts: then more can be sent than is needed.
        budget = events or int((rate or self.most * 2) * seconds * 1.05) + 2500
        command = [self.ingest, "run", "--url", url + path, "--secret", SECRET, "--connections", str(connections), "--events", str(budget)]
        command += [] if events else ["--duration", str(seconds)]
        command += ["--rate", str(rate)] if rate else []
        done = subprocess.run(command + list(options), capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"the generator: {done.stderr.strip()}")
        say(f"    {done.stderr.strip()}")
        report = json.loads(done.stdout)
        if report["errors"]:
            raise Failed(f"not every event was acknowledged: {report['errors']}")
        figures = self.figures
        figures.add(name, report["per_second"])
        figures.add(f"{name}-p50", report["latency_ms"]["p50"])
        figures.add(f"{name}-p99", report["latency_ms"]["p99"])
        figures.add(f"{name}-generator-us", report["cpu_seconds"] * 1e6 / max(report["acknowledged"], 1))
        return report

    def stored(self):
        return int(self.postgres.sql("SELECT count(*) FROM stripe_webhooks"))

    def expect_stored(self, acknowledged):
        stored = self.stored()
        if stored != acknowledged:
            raise Failed(f"{acknowledged} events acknowledged, {stored} stored")

    def waiting(self):
        """Events that are not applied, by the partial indexes of the queue."""
        return int(
            self.postgres.sql(
                "SELECT (SELECT count(*) FROM stripe_webhooks WHERE processing_status = 'pending' AND signature_verified AND crashes < 2)"
                " + (SELECT count(*) FROM stripe_webhooks WHERE processing_status = 'processing')"
            )
        )

    def drained(self, seconds=240):
        """Waits until everything is applied, and checks that it was."""
        until = time.monotonic() + seconds
        while self.waiting():
            if time.monotonic() > until:
                raise Failed(f"the backlog was not worked off within {seconds} s: {self.waiting()} left")
            time.sleep(0.5)
        left = self.postgres.sql(
            "SELECT processing_status, processing_error, count(*) FROM stripe_webhooks WHERE processing_status <> 'completed' GROUP BY 1, 2"
        )
        if left:
            raise Failed(f"events were not applied: {left}")

    def applied_since(self, name, moment):
        """Notes how many events were applied a second since that moment of the database's clock."""
        query = f"SELECT count(*) / extract(epoch FROM max(processed_at) - '{moment}') FROM stripe_webhooks WHERE processed"
        self.figures.add(name, self.postgres.sql(query))

    def now(self):
        return self.postgres.sql("SELECT clock_timestamp()")

    def cost(self, name, server=None):
        """A context that notes what each of the events of its body cost; the body sets `.events`."""
        return Cost(self, name, server)


class Cost:
    def __init__(self, lab, name, server):
        self.lab, self.name, self.server, self.events = lab, name, server, 0

    def __enter__(self):
        self.commits, self.syncs, self.written = self.lab.postgres.counters()
        self.postgres_ticks = self.lab.postgres.ticks()
        self.server_ticks = self.server.ticks() if self.server else 0
        return self

    def __exit__(self, kind, *_):
        if kind or not self.events:
            return
        figures, name, events = self.lab.figures, self.name, self.events
        us = 1e6 / TICKS_PER_SECOND / events
        figures.add(f"{name}-postgres-us", (self.lab.postgres.ticks() - self.postgres_ticks) * us)
        if self.server:
            figures.add(f"{name}-server-us", (self.server.ticks() - self.server_ticks) * us)
        # What a session did reaches the shared counters within a second of its falling idle.
        time.sleep(1.2)
        commits, syncs, written = self.lab.postgres.counters()
        figures.add(f"{name}-commits", (commits - self.commits) / events)
        figures.add(f"{name}-syncs", (syncs - self.syncs) / events)
        figures.add(f"{name}-wal", (written - self.written) / events)
