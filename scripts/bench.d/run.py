"""The measures in their order, and the table. Started by `scripts/bench`, which explains the options."""

import argparse
import pathlib
import shutil
import subprocess
import sys

import peer
import rates
import scale
import table
from lab import Failed, Lab, Postgres, say

PARTS = ("rates", "sustained", "hot", "latency", "sqlite", "statements", "peer", "scale")


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True)
    parser.add_argument("--tools", required=True)
    parser.add_argument("--trueup", required=True)
    parser.add_argument("--ingest", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--only", default=",".join(PARTS))
    given = parser.parse_args()
    given.only = given.only.split(",")
    for part in given.only:
        if part not in PARTS:
            parser.error(f"--only: `{part}` is none of {', '.join(PARTS)}")
    return given


def measure(lab, given):
    """Returns the statements that were counted, where they were."""
    only, counted = set(given.only), ""
    with lab.serve("--no-processor"):
        pass  # makes the tables
    folder = lab.work / "peer"
    if "peer" in only:
        folder.mkdir()
        if shutil.which("npm") and shutil.which("node"):
            peer.install(folder)
        else:
            say("Node.js and npm are missing (Debian: nodejs npm): the comparison is left out")
            only.discard("peer")
    # Rounds of everything that is compared, so that a noisy machine disturbs all alike.
    for number in range(given.rounds if only & {"rates", "latency", "peer"} else 0):
        say(f"round {number + 1} of {given.rounds}")
        say("  pgbench, 32 clients")
        rates.pgbench(lab)
        for connections in (64, 256):
            say(f"  acknowledged, {connections} connections")
            rates.acknowledged(lab, connections)
        say("  a backlog")
        rates.backlog(lab, "applied", int(lab.figures["ack64"] * lab.seconds))
        say("  acknowledged and applied at once, 64 connections")
        rates.both(lab)
        if "latency" in only:
            say("  half of the most, open loop")
            rates.half_rate(lab)
        if "sqlite" in only:
            say("  SQLite, 64 connections")
            rates.sqlite(lab)
        if "peer" in only:
            say("  @supabase/stripe-sync-engine")
            peer.measure(lab, folder)
    if "hot" in only:
        events = min(given.events, 20_000)
        for _ in range(given.rounds):
            say(f"  a backlog of {events} events of one customer, and of {rates.CUSTOMERS}")
            rates.backlog(lab, "hot", events, ("--hot",))
            rates.backlog(lab, "spread", events)
    if "sustained" in only:
        say(f"  a backlog of {given.events} events")
        rates.backlog(lab, "sustained", given.events)
    if only & {"statements", "scale"}:
        lab.postgres.restart_with("shared_preload_libraries", "pg_stat_statements")
        lab.postgres.sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    if "statements" in only:
        say("  statements, 64 connections")
        counted = rates.statements(lab)
    if "scale" in only:
        scale.compare(lab, given.rows)
    return counted


def main():
    given = arguments()
    lab = Lab(Postgres(given.database, given.tools), given.trueup, given.ingest, given.work, given.seconds)
    try:
        counted = measure(lab, given)
    except (Failed, subprocess.CalledProcessError) as error:
        say(f"bench: {error}")
        return 1
    table.show(lab, given, counted)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    sys.exit(main())
