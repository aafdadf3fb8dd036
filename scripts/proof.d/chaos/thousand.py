"""A thousand webhooks at one moment; see scripts/proof.d/thousand."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import effects
from databases import Database, Postgres, Sqlite
from servers import Setting, Trueup, forget, spawn
from verdict import Verdict, complain, prove, workshop

INGEST = os.environ["TRUEUP_INGEST_BIN"]
CUSTOMERS = 300
# How long the slowest of them may wait: Stripe waits longer.
ANSWER_AT_MOST = 10.0


async def ingest(server: Trueup, *arguments: str) -> dict[str, Any]:
    """One run of the load generator, in a process of its own with file descriptors of its own."""
    command = [INGEST, "run", "--url", f"http://127.0.0.1:{server.port}/api/v1/stripe/webhook", *arguments]
    process = spawn(command, env={"STRIPE_WEBHOOK_SECRET": server.setting.webhook_secret}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = await asyncio.to_thread(process.communicate)
    forget(process)
    if process.returncode:
        raise RuntimeError(err.decode())
    return json.loads(out)


async def deliveries(server: Trueup) -> dict[str, int]:
    """Webhooks by what became of them, as the server counts."""
    client = server.nobody()
    text = (await client.ask("GET", "/metrics")).body.decode()
    client.close()
    found: dict[str, int] = {}
    for outcome, count in re.findall(r'^trueup_webhooks_received_total\{[^}]*outcome="(\w+)"[^}]*\} (\d+)', text, re.MULTILINE):
        found[outcome] = found.get(outcome, 0) + int(count)
    return found


async def world(title: str, database: Database, folder: Path, options: argparse.Namespace) -> Verdict:
    """Two bursts on one database: one on an idle server, one while the processor works off a backlog."""
    complain(title)
    verdict = Verdict(title)
    setting = Setting(folder, database.url)
    setting.environment["TRUEUP_LOG"] = "warn"
    server = Trueup(setting)
    await server.start()
    host = server.host()
    for number in range(CUSTOMERS):
        user = f"b3ec0000-0000-4000-8000-{number:012x}"
        assert (await host.ask("PUT", f"/api/v1/users/{user}", {"email": f"bench-{number}@example.com"})).status == 201
    sent = options.connections
    burst = ("--at-once", "--connections", str(sent), "--events", str(sent), "--duplicates", "30", "--customers", str(CUSTOMERS))

    first = await ingest(server, *burst)
    stored = count(database)
    tell(verdict, "first burst", first, sent)
    after = await deliveries(server)
    verdict.equal("first burst: rows in the inbox, and webhooks counted as recorded", stored, after.get("recorded", 0))
    verdict.equal("first burst: webhooks counted as duplicates", sent - stored, after.get("duplicate", 0))
    verdict.must(0.6 * sent <= stored <= 0.8 * sent, f"first burst: {stored} different events of {sent}, and 30 % duplicates were wanted")
    verdict.tell("first burst: new, duplicates", f"{stored}, {sent - stored}")
    await settled(database)

    # A backlog is made and worked off while the second burst comes.
    background = asyncio.create_task(ingest(server, "--connections", "32", "--events", str(options.background), "--duplicates", "30",
                                            "--customers", str(CUSTOMERS)))
    while count(database) < stored + options.background // 10:
        await asyncio.sleep(0.02)
    waiting = database.rows("SELECT count(*) AS n FROM stripe_webhooks WHERE processing_status IN ('pending', 'processing')")[0]["n"]
    second = await ingest(server, *burst)
    verdict.must(not background.done(), "the other load was over before the second burst was: give --background more")
    others = await background
    tell(verdict, "second burst", second, sent)
    tell(verdict, "beside it", others, options.background)
    verdict.tell("second burst: events waiting when it began", waiting)
    await settled(database)
    total = count(database)
    after = await deliveries(server)
    verdict.equal("webhooks recorded", total, after.get("recorded", 0))
    verdict.equal("webhooks known already", 2 * sent + options.background - total, after.get("duplicate", 0))
    verdict.equal("webhooks that were not stored", 0, after.get("unavailable", 0) + after.get("refused", 0))

    states = database.rows("SELECT processing_status AS status, count(*) AS n FROM stripe_webhooks GROUP BY processing_status")
    verdict.equal("rows by status", [{"status": "completed", "n": total}], states)
    changes = effects.timeline_is_single(verdict, database)
    verdict.tell("events in all, entries of the timeline", f"{total}, {changes}")
    newest = f"SELECT stripe_customer_id, max({seconds(database, 'stripe_created_at')}) AS newest FROM stripe_webhooks GROUP BY stripe_customer_id"
    wrong = database.rows(f"SELECT s.id FROM subscriptions AS s JOIN ({newest}) AS n ON n.stripe_customer_id = s.stripe_customer_id "
                          f"WHERE {seconds(database, 's.version_at')} <> n.newest")
    verdict.none("subscriptions that are not as the newest event told", wrong)
    code, _ = await server.stop()
    verdict.equal("exit code", 0, code)
    verdict.none("what the database finds wrong with itself", database.mistakes())
    database.close()
    return verdict


def seconds(database: Database, column: str) -> str:
    """A moment in seconds."""
    return f"unixepoch({column})" if database.kind == "SQLite" else f"extract(epoch FROM {column})::bigint"


def count(database: Database) -> int:
    """Rows in the inbox."""
    return int(database.rows("SELECT count(*) AS n FROM stripe_webhooks")[0]["n"])


def tell(verdict: Verdict, which: str, report: dict[str, Any], sent: int) -> None:
    """Everything was answered, and well."""
    latency = report["latency_ms"]
    verdict.equal(f"{which}: acknowledged", sent, report["acknowledged"])
    verdict.equal(f"{which}: not acknowledged", {}, report["errors"])
    verdict.must(latency["max"] <= ANSWER_AT_MOST * 1000, f"{which}: an answer took {latency['max']} ms")
    verdict.tell(f"{which}: acknowledged", f"{report['acknowledged']} over {report['connections']} connections in {report['seconds']} s; "
                 f"ms p50 {latency['p50']:.0f}, p99 {latency['p99']:.0f}, max {latency['max']:.0f}")


async def settled(database: Database) -> None:
    """Waits until nothing is left to be applied, at most two minutes."""
    until = time.monotonic() + 120
    while database.rows("SELECT 1 AS there FROM stripe_webhooks WHERE processing_status IN ('pending', 'processing') LIMIT 1"):
        if time.monotonic() > until:
            raise TimeoutError("events were not applied within two minutes")
        await asyncio.sleep(0.1)


def main() -> int:
    """The parts that are possible here."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--background", type=int, default=20_000)
    options = parser.parse_args()
    with workshop() as folder:
        def place(name: str) -> Path:
            (folder / name).mkdir()
            return folder / name

        async def sqlite() -> Verdict:
            return await world("SQLite", Sqlite(place("sqlite") / "proof.db"), folder / "sqlite", options)

        async def postgres() -> Verdict:
            return await world("PostgreSQL", Postgres("thousand"), place("postgres"), options)

        parts = [sqlite] if "TRUEUP_TEST_POSTGRES" not in os.environ else [sqlite, postgres]
        return prove("all were answered, none with 5xx, and duplicates changed nothing", parts)


if __name__ == "__main__":
    sys.exit(main())
