"""Runs `trueup simulate` over many seeds and checks its reports; see scripts/proof.d/converge --help."""

import argparse
import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

VERSIONS = ["2020-08-27", "2023-10-16", "2025-03-31.basil", "2025-09-30.clover", "2026-10-28.endive"]
AT_ONCE = 4
PATIENCE = 900  # seconds that one run may take, on a machine that others use too

running, running_lock = set(), threading.Lock()
ended = threading.Event()


class Failed(Exception):
    pass


def psql(sql):
    command = [os.environ["PSQL"], "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", os.environ["TRUEUP_TEST_POSTGRES"], "-c", sql]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def simulate(folder, seed, kind, words, name):
    """One run on an empty database of that kind: its exit code and its report."""
    arguments = [os.environ["TRUEUP_BIN"], "simulate", "--json", "--seed", str(seed), *words]
    database = f"converge_{name}_{seed}"
    if kind == "postgres":
        psql(f"CREATE DATABASE {database}")
        arguments += ["--database", os.environ["TRUEUP_TEST_POSTGRES"].rsplit("/", 1)[0] + "/" + database]
    try:
        if ended.is_set():
            raise Failed("stopped")
        with running_lock:
            process = subprocess.Popen(
                arguments, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            running.add(process)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.terminate()
            raise Failed(f"took longer than {PATIENCE} s: {' '.join(arguments[1:])}") from None
        finally:
            with running_lock:
                running.discard(process)
        try:
            return process.returncode, json.loads(out)
        except ValueError:
            raise Failed(f"no report of: {' '.join(arguments[1:])}\n{out}{err}") from None
    finally:
        if kind == "postgres":
            psql(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")


def disorder(seed):
    """What varies with the seed."""
    words = ["--duplicate", "10%", "--reorder", "25%", "--api-version", VERSIONS[seed % 5], "--patience", "3"]
    if seed % 2:
        words += ["--rotate"]
    if seed % 3:
        words += ["--delay", "5%", "--twins", "3%", "--forged", "2%"]
    return words


def ids(report, of):
    return {difference["id"] for difference in report["differences"] if difference["of"] == of}


def check(right, what, report):
    if not right:
        differences = report["differences"]
        raise Failed(f"{what}: {json.dumps({**report, 'differences': differences[:10], 'left': len(differences)})}")


def always(report):
    """What must hold whatever the deliveries suffer."""
    check(report["failed"] == 0, "an event failed", report)
    check(report["forged_taken"] == 0, "a forged delivery was taken", report)
    check(report["gave_up"] == 0, "a delivery was given up", report)
    check(report["users"] > 0 and report["subscriptions"] > 0, "nothing was compared", report)


def order(code, report):
    always(report)
    check(code == 0 and not report["differences"], "differences after webhooks alone", report)
    check(report["sent_twice"] > 0 and report["reordered"] > 0, "nothing went wrong", report)


def seconds_with_key(code, report):
    always(report)
    check(code == 0 and report["differences_after_webhooks"] == 0, "differences in spite of the key", report)
    check(not report["needs_refresh"], "marks in spite of the key", report)


def seconds_without_key(_, report):
    always(report)
    marked = set(report["needs_refresh"])
    check(marked == set(report["ambiguous"]), "what is marked is not what the events leave open", report)
    check(ids(report, "subscription") <= marked, "an unmarked subscription differs", report)
    check(ids(report, "user") <= set(report["ambiguous_users"]), "a user differs whose subscriptions are certain", report)


def lost(code, report):
    always(report)
    check(report["dropped"] > 0, "nothing was lost", report)
    check(report["recovery"] and report["recovery"]["outcome"] == "succeeded", "recovery did not succeed", report)
    dry_run = report["dry_run"]
    check(dry_run and dry_run["outcome"] == "succeeded", "the dry run did not succeed", report)
    check(not dry_run["untold"] and not dry_run["unfounded"], "the dry run does not tell what differs", report)
    check(code == 0 and not report["differences"], "differences after recovery and reconciliation", report)


class Part:
    """Many runs alike, on each database, and what they came to together."""

    def __init__(self, name, seeds, words, verdict, kinds=("sqlite", "postgres")):
        self.name, self.seeds, self.words, self.verdict, self.kinds = name, seeds, words, verdict, kinds

    def run(self, folder):
        started = time.monotonic()
        total, failures, slowest = {}, [], 0
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = {
                pool.submit(simulate, folder, seed, kind, self.words(seed), self.name.replace(" ", "_")): (seed, kind)
                for seed in self.seeds
                for kind in self.kinds
            }
            for job in concurrent.futures.as_completed(jobs):
                seed, kind = jobs[job]
                try:
                    code, report = job.result()
                    for key in FIGURES:
                        value = report.get(key) or 0
                        total[key] = total.get(key, 0) + (value if isinstance(value, int) else len(value))
                    dry_run = report.get("dry_run") or {"by_kind": {}, "past_owners": 0}
                    total["drifts"] = total.get("drifts", 0) + sum(dry_run["by_kind"].values())
                    total["past_owners"] = total.get("past_owners", 0) + dry_run["past_owners"]
                    slowest = max(slowest, report.get("converged_after_ms") or 0)
                    self.verdict(code, report)
                except Failed as failure:
                    failures.append(f"{self.name}, seed {seed}, {kind}: {failure}")
                    print(f"FAILED {failures[-1]}", flush=True)
        runs = len(self.seeds) * len(self.kinds)
        took = time.monotonic() - started
        print(f"{self.name}: {len(self.seeds)} seeds, {runs} runs, {len(failures)} failed, {took:.0f} s")
        print("  " + ", ".join(f"{key} {value}" for key, value in total.items() if value))
        print(f"  slowest convergence after the last delivery: {slowest} ms", flush=True)
        return total, failures


FIGURES = [
    "events", "delivered", "sent_twice", "reordered", "delayed", "twins", "forged", "dropped", "needs_refresh", "ambiguous",
    "differences_after_webhooks", "recovered", "differences_after_recovery", "repaired", "differences",
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("parts", nargs="+")
    options = parser.parse_args()

    def share(of):
        return max(1, options.seeds // of)

    people = ["--customers", "20", "--days", "100"]
    burst = [*people, "--bursts", "100%"]
    size = ["--customers", "1000" if options.large else "150", "--days", "90", "--drop", "5%", "--duplicate", "10%", "--reorder", "20%"]
    faults = ["--api-limits", "8%", "--api-errors", "4%", "--api-hangs", "1%"]
    parts = {
        "order": [Part("order", range(1, options.seeds + 1), lambda s: [*people, "--no-key", *disorder(s)], order)],
        "seconds": [
            Part("seconds with a key", range(1001, 1001 + share(5)), lambda s: [*burst, "--no-repair", *disorder(s)], seconds_with_key),
            Part("seconds without", range(2001, 2001 + share(5)), lambda s: [*burst, "--no-key", *disorder(s)], seconds_without_key),
        ],
        "lost": [Part("lost", range(3001, 3001 + share(4)), lambda s: [*people, "--drop", "8%", *disorder(s)], lost)],
        "api": [
            Part("api", range(4001, 4001 + share(12)), lambda s: [*people, "--drop", "8%", *faults, *disorder(s)], lost, ("sqlite",))
        ],
        "size": [Part("size", [7], lambda s: [*size, "--patience", "5"], lost)],
    }

    def stop(*_):
        ended.set()
        with running_lock:
            for process in running:
                process.terminate()
        # What runs ends at once, and what waits does not begin.
        sys.exit(143)

    signal.signal(signal.SIGTERM, stop)
    failures = []
    with tempfile.TemporaryDirectory(prefix="trueup-converge.") as folder:
        for name in options.parts:
            for part in parts[name]:
                total, failed = part.run(pathlib.Path(folder))
                failures += failed
                # A proof that nothing could fail is none.
                if part.name == "seconds without" and not (total.get("ambiguous") and total.get("differences")):
                    failures.append(f"{part.name}: no seed left anything open")
                if part.name in ("lost", "size") and not (total.get("recovered") and total.get("repaired")):
                    failures.append(f"{part.name}: nothing was recovered, or nothing repaired")
    for failure in failures:
        print("FAILED", failure[:300])
    print("converge:", f"{len(failures)} failures" if failures else "no difference without its reason")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
