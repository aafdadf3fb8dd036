"""Processes die while a simulated world is delivered; see scripts/proof.d/kills."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import effects
from databases import Database, Postgres, Sqlite
from http11 import Client
from proxy import WEBHOOK, Proxy
from servers import Setting, Trueup, forget, free_port, spawn
from smtp_sink import MailSink
from stripe_events import event, signed
from verdict import Verdict, complain, prove, workshop

KEY = "sk_test_simulated"
CLAIMED = "SELECT count(*) AS n FROM stripe_webhooks WHERE processing_status = 'processing'"
CONSUMERS = 4


class Consumers:
    """The host uses allowances all the while, each piece of work under a key of its own, and asks again until it knows."""

    def __init__(self, proxy: Proxy, setting: Setting, rng: random.Random) -> None:
        self.proxy, self.setting, self.rng = proxy, setting, rng
        self.counted: dict[tuple[str, str], int] = {}
        self.refused: set[tuple[str, str]] = set()
        self.released: set[tuple[str, str]] = set()
        self.asked_again = 0
        self.strange: list[str] = []
        self.done = False

    async def run(self, number: int) -> None:
        """One of them."""
        client = Client(self.proxy.port, self.setting.api_token)
        piece = 0
        while not self.done:
            await asyncio.sleep(0.01)
            if not self.proxy.seen.users:
                continue
            piece += 1
            user, key, amount = self.rng.choice(self.proxy.seen.users), f"work-{number}-{piece}", self.rng.randint(1, 3)
            name = (user.replace("-", ""), key)
            status, _ = await self._until_known(client, f"/api/v1/users/{user}/usage", {"amount": amount, "idempotency_key": key})
            if status == 200:
                self.counted[name] = amount
                if self.rng.random() < 0.1:
                    status, told = await self._until_known(client, f"/api/v1/users/{user}/usage/release", {"idempotency_key": key})
                    if told.get("outcome") in ("released", "already_released"):
                        self.released.add(name)
            elif status == 429:
                self.refused.add(name)
            else:
                self.strange.append(f"{status} for {key}")
        client.close()

    async def _until_known(self, client: Client, path: str, body: dict[str, object]) -> tuple[int, dict[str, object]]:
        while True:
            try:
                answer = await client.ask("POST", path, body)
                if answer.status < 500:
                    return answer.status, answer.json()
            except (OSError, TimeoutError):
                pass
            self.asked_again += 1
            await asyncio.sleep(0.05)


class Prober:
    """Delivers one small event after the other, and tries each again every 50 ms: how long nothing is taken."""

    def __init__(self, proxy: Proxy, setting: Setting) -> None:
        self.proxy, self.setting = proxy, setting
        self.longest = 0.0
        self.done = False

    async def run(self) -> None:
        """Until everything is delivered: then the simulation waits for an inbox in which nothing moves."""
        client, number = Client(self.proxy.port), 0
        while not self.proxy.seen.delivered and not self.done:
            number += 1
            told = event(f"evt_probe_{number}", "product.created", {"id": "prod_probe", "object": "product"}, int(time.time()))
            begun = time.monotonic()
            while not await self.taken(client, told):
                await asyncio.sleep(0.05)
            self.longest = max(self.longest, time.monotonic() - begun)
            await asyncio.sleep(0.05)
        client.close()

    async def taken(self, client: Client, told: dict[str, Any]) -> bool:
        """True where it was answered 200."""
        try:
            answer = await client.ask("POST", WEBHOOK, *signed(told, self.setting.webhook_secret))
        except (OSError, TimeoutError):
            return False
        return answer.status == 200


class Reaper:
    """Kills servers, and restarts PostgreSQL, as long as deliveries are under way."""

    def __init__(self, database: Database, servers: list[Trueup], proxy: Proxy, rng: random.Random) -> None:
        self.database, self.servers, self.proxy, self.rng = database, servers, proxy, rng
        self.kills = self.in_a_batch = self.claims_left = self.restarts = 0
        self.slowest_start = 0.0

    async def run(self, restarts_wanted: int, kills_wanted: int) -> None:
        """As often as is wanted, or until everything is delivered."""
        due = [round((number + 1) * kills_wanted / (restarts_wanted + 1)) for number in range(restarts_wanted)]
        while not self.proxy.seen.delivered and (due or self.kills < kills_wanted):
            await self._pause(self.rng.uniform(0.2, 1.2))
            if isinstance(self.database, Postgres) and due and self.kills >= due[0]:
                # Turn about, and `fast` first.
                await self.database.server.restart("immediate" if self.restarts % 2 else "fast")
                self.restarts += 1
                due.pop(0)
                continue
            victim = self.servers[0]
            if self.kills % 2:
                await self._until_a_batch_is_under_way(1.0)
            if self.proxy.seen.delivered:
                return
            victim.kill()
            self.kills += 1
            left = self._claims(alive=len(self.servers) > 1)
            if len(self.servers) == 1:
                self.in_a_batch += left > 0
                self.claims_left += left
            # Some stay away for a while.
            await asyncio.sleep(self.rng.choice([0.0, 0.0, 0.5]))
            self.slowest_start = max(self.slowest_start, await victim.start())

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.proxy.seen.delivered:
            await asyncio.sleep(0.02)

    def _claims(self, alive: bool) -> int:
        return int((self.database.rows if alive else self.database.rows_of_the_dead)(CLAIMED)[0]["n"])

    async def _until_a_batch_is_under_way(self, at_most: float) -> None:
        until = time.monotonic() + at_most
        while time.monotonic() < until and not self.proxy.seen.delivered and not self._claims(alive=True):
            await asyncio.sleep(0.0005)


async def world(title: str, database: Database, folder: Path, options: argparse.Namespace, replicas: int, kills: int, restarts: int) -> Verdict:
    """One world on one database."""
    verdict = Verdict(title)
    rng = random.Random(options.seed)
    mail, api_port = MailSink(), free_port()
    await mail.start()
    setting = Setting(folder, database.url)
    setting.environment |= {"STRIPE_API_BASE": f"http://127.0.0.1:{api_port}", "STRIPE_SECRET_KEY": KEY, "TRUEUP_LOG": "warn",
                            "SMTP_URL": f"smtp://127.0.0.1:{mail.port}"}
    setting.configure('[mail]\nfrom = "billing@example.com"\n')
    servers = [Trueup(setting, f"server{number}") for number in range(replicas)]
    for server in servers:
        await server.start()
    proxy = Proxy([server.port for server in servers])
    await proxy.start()
    consumers, reaper = Consumers(proxy, setting, rng), Reaper(database, servers, proxy, rng)
    # Paced, so that it lasts as long as the killing.
    speed = options.days / (kills * 1.7 + restarts * 3)
    command = [setting.binary, "simulate", "--json", "--against", f"http://127.0.0.1:{proxy.port}", "--api-listen", f"127.0.0.1:{api_port}",
               "--customers", str(options.customers), "--days", str(options.days), "--seed", str(options.seed), "--speed", f"{speed:.3f}",
               "--duplicate", "10%", "--reorder", "20%", "--delay", "5%", "--twins", "3%", "--bursts", "20%", "--patience", "8"]
    complain(f"{title}: at least {kills} kills" + (f", {restarts} restarts of PostgreSQL" if restarts else ""))
    simulation = spawn(command, cwd=folder, env=setting.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    begun = time.monotonic()
    output = asyncio.create_task(asyncio.to_thread(simulation.communicate))
    prober = Prober(proxy, setting)
    using = [asyncio.create_task(consumers.run(number)) for number in range(CONSUMERS)] + [asyncio.create_task(prober.run())]
    await reaper.run(restarts, kills)
    out, err = await output
    forget(simulation)
    consumers.done = prober.done = True
    await asyncio.gather(*using)
    try:
        report = json.loads(out)
    except ValueError:
        verdict.must(False, f"the simulation broke off: {err.decode()[-600:]}\n{servers[0].tail()}")
        return verdict
    await judge(verdict, database, servers, proxy, consumers, reaper, prober, report, mail, kills, restarts)
    verdict.tell("seconds", f"{time.monotonic() - begun:.0f}")
    for server in servers:
        code, _ = await server.stop()
        verdict.equal("exit code of a server that is told to stop", 0, code)
    verdict.none("what the database finds wrong with itself", database.mistakes())
    database.close()
    proxy.stop()
    mail.stop()
    return verdict


async def judge(verdict: Verdict, database: Database, servers: list[Trueup], proxy: Proxy, consumers: Consumers, reaper: Reaper,
                prober: Prober, report: dict[str, Any], mail: MailSink, kills: int, restarts: int) -> None:
    """Everything that has to hold in the end."""
    seen = proxy.seen
    await until_mails_are_out(database)
    verdict.tell("kills survived (SIGKILL)", reaper.kills)
    if len(servers) == 1:
        verdict.tell("of these in the middle of a batch", f"{reaper.in_a_batch}, with {reaper.claims_left} events claimed")
        verdict.must(reaper.in_a_batch > 0, "no kill came in the middle of a batch")
    verdict.must(reaper.kills >= kills, f"{reaper.kills} kills, and at least {kills} were wanted: give the world more days")
    if isinstance(database, Postgres):
        verdict.tell("restarts of PostgreSQL survived", reaper.restarts)
        verdict.equal("restarts of PostgreSQL", restarts, reaper.restarts)
    verdict.tell("requests cut off by a kill", seen.cut_off)
    verdict.tell("acknowledged", f"{len(seen.acknowledged)} events, {seen.acknowledgements} times")
    verdict.tell("answered 503", seen.statuses.get(503, 0))
    verdict.tell("found no server", seen.nobody)
    verdict.tell("longest outage", f"{prober.longest:.2f} s until a webhook was taken that was tried every 50 ms")
    verdict.tell("slowest start of a server", f"{reaper.slowest_start:.2f} s")
    strange = {status: count for status, count in seen.statuses.items() if status not in (200, 502, 503)}
    verdict.must(not strange, f"webhooks were answered {strange}")
    verdict.equal("deliveries given up", 0, report["gave_up"])
    verdict.equal("events failed for good", 0, report["failed"])
    verdict.equal("differences with the simulated truth", [], report["differences"])
    verdict.tell("users and subscriptions compared", f"{report['users']} and {report['subscriptions']}")
    verdict.tell("differences after webhooks alone, in the end",
                 f"{report['differences_after_webhooks']}, {len(report['differences'])}")
    effects.inbox_holds(verdict, database, set(seen.acknowledged))
    verdict.tell("changes in the timeline", effects.timeline_is_single(verdict, database))
    verdict.tell("invoices", effects.invoices_are_as_told(verdict, database, list(seen.acknowledged.values())))
    sent, repeated = effects.emails_went_out_once(verdict, database, mail.taken, reaper.kills + reaper.restarts)
    verdict.tell("e-mails sent", f"{sent}, {repeated} of them repeated under the same Message-ID")
    verdict.none("strange answers to consumers", consumers.strange)
    used = effects.usage_is_counted_once(verdict, database, consumers.counted, consumers.released, consumers.refused)
    verdict.tell("usage: keys counted, given back, refused", f"{len(consumers.counted)}, {len(consumers.released)}, {len(consumers.refused)}")
    verdict.tell("usage: asked again, in the ledger", f"{consumers.asked_again}, {used}")


async def until_mails_are_out(database: Database) -> None:
    """Waits until no e-mail is due, at most a minute: one whose outcome is not known rests until its claim runs out."""
    until = time.monotonic() + 60
    while time.monotonic() < until and database.rows("SELECT count(*) AS n FROM email_outbox WHERE status = 'pending'")[0]["n"]:
        await asyncio.sleep(0.2)


def main() -> int:
    """The parts that are wanted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--customers", type=int, default=120)
    parser.add_argument("--days", type=int, default=45)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    with workshop() as folder:
        def place(name: str) -> Path:
            (folder / name).mkdir()
            return folder / name

        async def sqlite() -> Verdict:
            return await world("SQLite, one server", Sqlite(place("sqlite") / "proof.db"), folder / "sqlite", options, 1, options.kills, 0)

        async def postgres() -> Verdict:
            return await world("PostgreSQL, one server", Postgres("kills_one"), place("one"), options, 1, options.kills, options.restarts)

        async def replicas() -> Verdict:
            kills = max(options.kills // 2, 1)
            return await world("PostgreSQL, two replicas, one of them killed", Postgres("kills_two"), place("two"), options, 2, kills, 0)

        parts = {"sqlite": sqlite, "postgres": postgres, "replicas": replicas}
        chosen = [part for name, part in parts.items() if not options.only or name in options.only.split(",")]
        return prove("everything acknowledged is there, applied once in effect, and nothing differs", chosen)


if __name__ == "__main__":
    sys.exit(main())
