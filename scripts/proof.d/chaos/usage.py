"""Hundreds of consumers on one allowance, over window rolls and plan changes; see scripts/proof.d/usage."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
import uuid
from collections import Counter, defaultdict
from pathlib import Path

import effects
from databases import Database, Postgres, Sqlite
from http11 import Answer, Client
from servers import Setting, Trueup
from stripe_events import event, signed, subscription
from verdict import Verdict, complain, prove, workshop

# None is unlimited.
LIMITS: dict[str, int | None] = {"free": 40, "small": 300, "big": 700, "endless": None}
# Seconds of a period: Stripe has none so short, and nobody forbids it.
PERIOD = 3

PLANS = "".join(f'[[plans]]\ntier = "{tier}"\nlookup_keys = ["{tier}"]\n' + ("" if limit is None else f"monthly_limit = {limit}\n")
                for tier, limit in LIMITS.items())
JOBS = '[jobs.reset_monthly_usage]\nschedule = "* * * * * *"\njitter = "0s"\n[jobs.expire_entitlements]\nschedule = "* * * * * *"\njitter = "0s"\n'


class Ledger:
    """What was answered, added up independently."""

    def __init__(self) -> None:
        self.counted: dict[tuple[str, str], int] = {}
        self.released: set[tuple[str, str]] = set()
        self.refused: set[tuple[str, str]] = set()
        self.without_key: dict[str, int] = defaultdict(int)
        self.unknown: dict[str, int] = defaultdict(int)
        self.statuses: Counter[int] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.asked_again = 0
        self.wrong: list[str] = []
        self.given_back: Counter[tuple[str, str]] = Counter()

    def granted(self, told: dict[str, int | None]) -> None:
        """No answer may tell of more than its limit."""
        used, limit = told["used"], told["limit"]
        if limit is not None and used is not None and used > limit:
            self.wrong.append(f"granted with {used} of {limit} used")

    def denied(self, told: dict[str, int | None], amount: int) -> None:
        """Nobody is refused what is there."""
        used, limit = told["used"], told["limit"]
        if limit is None or used is None or used + amount <= limit:
            self.wrong.append(f"{amount} more were refused with {used} of {limit} used")


class Consumer:
    """One of many, on one connection."""

    def __init__(self, server: Trueup, user: str, number: int, ledger: Ledger, seed: int) -> None:
        self.client, self.second = server.host(), server.host()
        self.user, self.number, self.ledger = user, number, ledger
        self.rng = random.Random(f"{seed}/{user}/{number}")
        self.pair = random.Random(f"{seed}/{user}/pair/{number // 2}")
        self.name = user.replace("-", "")

    async def run(self, until: float) -> None:
        """Until the time is over."""
        await self.client.open()
        turn = 0
        while time.monotonic() < until:
            turn += 1
            kind = turn % 4
            if kind in (0, 1):
                # Two consumers ask under one key, for the same amount, at about the same moment.
                await self.keyed(f"pair-{self.number // 2}-{turn}", self.pair.randint(1, 3))
            elif kind == 2:
                key = f"own-{self.number}-{turn}"
                if await self.keyed(key, self.rng.randint(1, 3)):
                    await asyncio.gather(self.release(self.client, key), self.release(self.second, key))
            else:
                await self.keyless(self.rng.randint(1, 2))
            await asyncio.sleep(self.rng.uniform(0.0, 0.3))
        self.client.close()
        self.second.close()

    async def keyed(self, key: str, amount: int) -> bool:
        """Asks until the answer is known; true where it counted."""
        answer, at_once = await self.known(self.client, "usage", {"amount": amount, "idempotency_key": key})
        if answer.status == 200:
            self.ledger.counted[self.name, key] = amount
            # What had counted before answers the figures of now, which may be over a limit that was lowered since.
            if at_once and key.startswith("own"):
                self.ledger.granted(answer.json())
            return True
        if answer.status == 429:
            self.ledger.denied(answer.json(), amount)
            self.ledger.refused.add((self.name, key))
        return False

    async def release(self, client: Client, key: str) -> None:
        """Gives back; of two who do, one does."""
        answer, at_once = await self.known(client, "usage/release", {"idempotency_key": key})
        outcome = answer.json().get("outcome", str(answer.status))
        self.ledger.outcomes[outcome] += 1
        if outcome == "released":
            self.ledger.given_back[self.name, key] += 1
            self.ledger.released.add((self.name, key))
        elif outcome == "already_released" and not at_once:
            # By this very call, before its answer was lost, or by the other: once in either case.
            self.ledger.released.add((self.name, key))

    async def keyless(self, amount: int) -> None:
        """Asks once: without a key nobody may ask again."""
        answer = await self.client.ask("POST", f"/api/v1/users/{self.user}/usage", {"amount": amount})
        self.ledger.statuses[answer.status] += 1
        if answer.status == 200:
            self.ledger.granted(answer.json())
            self.ledger.without_key[self.name] += amount
        elif answer.status == 429:
            self.ledger.denied(answer.json(), amount)
        else:
            # Nobody knows whether that was before or after its commit.
            self.ledger.unknown[self.name] += amount

    async def known(self, client: Client, what: str, body: dict[str, object]) -> tuple[Answer, bool]:
        """Asks until it is no 503; true where the first answer was none."""
        at_once = True
        while True:
            answer = await client.ask("POST", f"/api/v1/users/{self.user}/{what}", body)
            self.ledger.statuses[answer.status] += 1
            if answer.status != 503:
                return answer, at_once
            self.ledger.asked_again += 1
            at_once = False
            await asyncio.sleep(0.1)


class Story:
    """What a user buys: small, up, renewed, down, renewed, cancelled, and from the start again."""

    def __init__(self, servers: list[Trueup], user: str, number: int) -> None:
        self.servers, self.user, self.number = servers, user, number
        self.told = self.made = 0
        self.changes: Counter[str] = Counter()
        self.failed: list[str] = []

    async def run(self, until: float) -> None:
        """Until the time is over, and then to the end of the chapter."""
        chapter = 0
        while time.monotonic() < until:
            chapter += 1
            name = f"u{self.number}c{chapter}"
            start = int(time.time())
            self.made = start - 3600
            tiers = ["small", "big", "endless", "small"] if chapter % 2 else ["big", "small"]
            await self.tell(name, "created", tiers[0], start)
            for index, tier in enumerate(tiers):
                if index:
                    # The plan changes in the middle of the period.
                    await self.at(start + PERIOD / 2 + 0.2)
                    await self.tell(name, "updated", tier, start)
                    before, after = LIMITS[tiers[index - 1]], LIMITS[tier]
                    self.changes["up" if after is None or (before is not None and after > before) else "down"] += 1
                if time.monotonic() > until:
                    break
                # The period ends, and the event that tells of the next comes a little late.
                start += PERIOD
                await self.at(start + 0.4)
                await self.tell(name, "updated", tier, start)
                self.changes["renewed"] += 1
            await self.at(start + 1.5)
            await self.tell(name, "deleted", tiers[-1], start, "canceled")
            self.changes["cancelled"] += 1
            await asyncio.sleep(1.0)

    async def at(self, second: float) -> None:
        """Waits for that second."""
        await asyncio.sleep(max(0.0, second - time.time()))

    async def tell(self, name: str, what: str, tier: str, start: int, status: str = "active") -> None:
        """Delivers the event, until it is taken."""
        self.told += 1
        subject = subscription(name, self.user, tier, (start, start + PERIOD), status)
        # Of one subscription no two in one second: nothing is left open, so that no API key is needed.
        subject["created"] = subject["start_date"] = self.made
        told = event(f"evt_{name}_{self.told}", f"customer.subscription.{what}", subject, int(time.time()))
        server = self.servers[self.told % len(self.servers)]
        client = server.nobody()
        for _ in range(100):
            answer = await client.ask("POST", "/api/v1/stripe/webhook", *signed(told, server.setting.webhook_secret))
            if answer.status == 200:
                client.close()
                return
            await asyncio.sleep(0.1)
        self.failed.append(f"{told['id']}: {answer.status}")


async def world(title: str, database: Database, folder: Path, options: argparse.Namespace, replicas: int) -> Verdict:
    """Consumers and stories on one database."""
    complain(title)
    verdict = Verdict(title)
    setting = Setting(folder, database.url)
    setting.configure(PLANS + JOBS)
    setting.environment["TRUEUP_LOG"] = "warn"
    servers = [Trueup(setting, f"server{number}") for number in range(replicas)]
    for server in servers:
        await server.start()
    host, users = servers[0].host(), [str(uuid.uuid4()) for _ in range(options.users)]
    for user in users:
        answer = await host.ask("PUT", f"/api/v1/users/{user}", {"email": f"{user}@example.com"})
        assert answer.status == 201, answer
    ledger = Ledger()
    until = time.monotonic() + options.seconds
    stories = [Story(servers, user, number) for number, user in enumerate(users)]
    consumers = [Consumer(servers[number % replicas], user, number, ledger, options.seed) for user in users for number in range(options.consumers)]
    begun = time.monotonic()
    await asyncio.gather(*(story.run(until) for story in stories), *(consumer.run(until) for consumer in consumers))
    took = time.monotonic() - begun

    changes: Counter[str] = sum((story.changes for story in stories), Counter())
    pending = "SELECT event_id FROM stripe_webhooks WHERE processing_status NOT IN ('completed', 'skipped')"
    until = time.monotonic() + 20
    while database.rows(pending) and time.monotonic() < until:
        await asyncio.sleep(0.1)
    verdict.none("events that were not applied", database.rows(pending))
    for story in stories:
        verdict.none("events that were not taken", story.failed)
    # Read once more, each user is in the window of now.
    for user in users:
        view = (await host.ask("GET", f"/api/v1/users/{user}")).json()
        verdict.equal("tier in the end", "free", view["subscription"]["tier"])
    verdict.none("answers that pass a limit, or refuse what is there", ledger.wrong)
    verdict.none("keys that were given back twice", [key for key, times in ledger.given_back.items() if times > 1])
    verdict.must(set(ledger.statuses) <= {200, 429, 503}, f"answers were {dict(ledger.statuses)}")
    verdict.must(set(ledger.outcomes) <= {"released", "already_released", "window_over"}, f"releases were {dict(ledger.outcomes)}")
    used = effects.usage_is_counted_once(verdict, database, ledger.counted, ledger.released, ledger.refused, ledger.without_key,
                                         ledger.unknown)
    windows = database.rows(f"SELECT {database.uuid('user_id')} AS user_id, source, tier, used, usage_limit, closed_at IS NULL AS open FROM usage_periods")
    most = max(limit for limit in LIMITS.values() if limit is not None)
    endless = {f"sub_u{number}c{chapter}" for number in range(options.users) for chapter in range(1, 1000, 2)}
    over = [row for row in windows if row["used"] > (LIMITS["free"] if row["source"] == "free" else most) and row["source"] not in endless]
    verdict.none("windows in which more is used than any of their plans allows", over)
    verdict.equal("open windows by user", {user.replace("-", ""): 1 for user in users}, dict(Counter(row["user_id"] for row in windows if row["open"])))
    full = [row for row in windows if row["usage_limit"] is not None and row["used"] == row["usage_limit"]]
    verdict.must(bool(full) and ledger.statuses[429] > 0, "no allowance was ever used up: nothing is shown about its bound")
    verdict.must(len(windows) >= options.users * 4, f"only {len(windows)} windows: they did not roll")
    verdict.must(all(changes[kind] for kind in ("up", "down", "renewed", "cancelled")), f"not every kind of change happened: {changes}")
    verdict.tell("consumers at once", f"{options.consumers} for each of {options.users} users, on {replicas} server(s), {took:.0f} s")
    verdict.tell("answers by status", dict(sorted(ledger.statuses.items())))
    verdict.tell("acknowledged and not given back = in the ledger", used)
    verdict.tell("answered 503 without a key: not known", sum(ledger.unknown.values()))
    verdict.tell("keys counted, refused, given back", f"{len(ledger.counted)}, {len(ledger.refused - ledger.counted.keys())}, {len(ledger.released)}")
    verdict.tell("releases by outcome", dict(sorted(ledger.outcomes.items())))
    verdict.tell("windows, of these used to the last", f"{len(windows)}, {len(full)}")
    verdict.tell("changes of plan", dict(sorted(changes.items())))
    for server in servers:
        code, _ = await server.stop()
        verdict.equal("exit code", 0, code)
    database.close()
    return verdict


def main() -> int:
    """The parts that are possible here."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=35)
    parser.add_argument("--users", type=int, default=3)
    parser.add_argument("--consumers", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with workshop() as folder:
        def place(name: str) -> Path:
            (folder / name).mkdir()
            return folder / name

        async def sqlite() -> Verdict:
            return await world("SQLite, one server", Sqlite(place("sqlite") / "proof.db"), folder / "sqlite", options, 1)

        async def postgres() -> Verdict:
            return await world("PostgreSQL, two replicas", Postgres("usage_two"), place("postgres"), options, 2)

        parts = [sqlite] if "TRUEUP_TEST_POSTGRES" not in os.environ else [sqlite, postgres]
        return prove("no limit was passed, and what is used is what was acknowledged", parts)


if __name__ == "__main__":
    sys.exit(main())
