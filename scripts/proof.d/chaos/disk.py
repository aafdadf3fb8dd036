"""The disk is full, or the database read-only, while webhooks keep coming; see scripts/proof.d/disk."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import effects
from databases import Database, Postgres, PostgresServer, Sqlite
from http11 import Answer, Client
from servers import Setting, Trueup, end_all
from stripe_events import event, signed, subscription
from verdict import Verdict, complain, prove, workshop

USERS = 12
SENDERS = 8
# Webhooks a second, of all senders together.
RATE = 80
# Log lines while nothing can be written, whatever comes in: at first, and each second.
LINES_AT_FIRST, LINES_A_SECOND = 150, 15
# How long a webhook may wait for its 503: Stripe gives an answer some ten seconds at least.
ANSWER_AT_MOST = 8.0

Trouble = Callable[[], None]


class Traffic:
    """Webhooks and calls of the host, at a steady rate, each written down with its answer."""

    def __init__(self, server: Trueup, users: list[str]) -> None:
        self.server, self.users = server, users
        self.acknowledged: set[str] = set()
        self.refused: dict[str, bytes] = {}
        self.without_retry_after = 0
        self.slowest = 0.0
        self.statuses: dict[int, int] = {}
        self.calls: dict[int, int] = {}
        self.lost = 0
        self.done = False
        self._numbers = itertools.count(1)
        self._base = int(time.time()) - 86_400 * 20

    def _event(self) -> tuple[str, bytes]:
        number = next(self._numbers)
        place = number % USERS
        start = self._base + number // USERS
        subject = subscription(f"disk{place}", self.users[place], "pro", (start, start + 86_400 * 30), description="x" * 3000)
        told = event(f"evt_disk_{number}", "customer.subscription.updated", subject, self._base + number // USERS)
        return told["id"], signed(told, self.server.setting.webhook_secret)[0]

    async def deliver(self, client: Client, event_id: str, body: bytes) -> int:
        """One delivery; its status, 0 where no answer came."""
        _, headers = signed(json.loads(body), self.server.setting.webhook_secret)
        begun = time.monotonic()
        try:
            answer = await client.ask("POST", "/api/v1/stripe/webhook", body, headers)
        except (OSError, TimeoutError):
            self.lost += 1
            self.refused[event_id] = body
            return 0
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        if answer.status == 200:
            self.acknowledged.add(event_id)
            self.refused.pop(event_id, None)
        else:
            self.refused[event_id] = body
            self.without_retry_after += not answer.headers.get("retry-after", "").isdigit()
        return answer.status

    async def send(self) -> None:
        """One sender."""
        client, pause = self.server.nobody(), SENDERS / RATE
        while not self.done:
            due = time.monotonic() + pause
            await self.deliver(client, *self._event())
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        client.close()

    async def call(self) -> None:
        """The host: reads, writes and counts, once in a while."""
        client, number = self.server.host(), itertools.count()
        while not self.done:
            user = self.users[next(number) % USERS]
            for method, path, body in (("GET", f"/api/v1/users/{user}", None),
                                       ("PUT", f"/api/v1/users/{user}", {"email": f"{user}@example.com"}),
                                       ("POST", f"/api/v1/users/{user}/usage", {"amount": 1})):
                with contextlib.suppress(OSError, TimeoutError):
                    answer = await client.ask(method, path, body)
                    self.calls[answer.status] = self.calls.get(answer.status, 0) + 1
            await asyncio.sleep(0.2)
        client.close()

    async def deliver_what_was_refused(self) -> bool:
        """As Stripe does, until everything is taken; false where that takes more than a minute."""
        client, until = self.server.nobody(), time.monotonic() + 60
        while self.refused and time.monotonic() < until:
            for event_id, body in list(self.refused.items()):
                await self.deliver(client, event_id, body)
        client.close()
        return not self.refused


async def readiness(server: Trueup) -> Answer:
    """What `/readyz` says; 0 where it says nothing."""
    client = server.nobody()
    try:
        return await client.ask("GET", "/readyz")
    except (OSError, TimeoutError):
        return Answer(0)
    finally:
        client.close()


async def until(what: str, holds: Callable[[], object], seconds: float) -> float:
    """Waits for a condition; the seconds that took."""
    begun = time.monotonic()
    while True:
        held = holds()
        if asyncio.iscoroutine(held):
            held = await held
        if held:
            return time.monotonic() - begun
        if time.monotonic() - begun > seconds:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        await asyncio.sleep(0.05)


async def ready(server: Trueup) -> bool:
    """True where `/readyz` answers 200."""
    return (await readiness(server)).status == 200


async def part(title: str, database: Database, folder: Path, seconds: float, begin: Trouble, end: Trouble,
               prepare: Callable[[Trueup], None] = lambda _: None) -> Verdict:
    """One kind of trouble: it comes, lasts, goes, comes again, and the server is told to stop within it."""
    complain(title)
    verdict = Verdict(title)
    setting = Setting(folder, database.url)
    server = Trueup(setting)
    await server.start()
    prepare(server)
    host, users = server.host(), [str(uuid.uuid4()) for _ in range(USERS)]
    for user in users:
        assert (await host.ask("PUT", f"/api/v1/users/{user}", {"email": f"{user}@example.com"})).status == 201
    traffic = Traffic(server, users)
    running = [asyncio.create_task(traffic.send()) for _ in range(SENDERS)] + [asyncio.create_task(traffic.call())]
    await until("the first hundred webhooks", lambda: len(traffic.acknowledged) >= 100, 30)
    verdict.must(traffic.statuses.keys() == {200}, f"before the trouble: {traffic.statuses}")

    begin()
    first = await until("the first 503", lambda: traffic.statuses.get(503), 60)
    unready = await until("readyz tells", lambda: not_ready(server), 20)
    told = (await readiness(server)).json()["database"]["detail"]
    lines, refused, begun, stayed_ready, looks, dead = server.lines(), traffic.statuses.get(503, 0), time.monotonic(), 0, 0, 0
    nobody = server.nobody()
    while time.monotonic() - begun < seconds:
        await asyncio.sleep(0.5)
        looks += 1
        stayed_ready += await ready(server)
        dead += (await nobody.ask("GET", "/healthz")).status != 200
    nobody.close()
    lasted = time.monotonic() - begun
    lines, refusals = server.lines() - lines, traffic.statuses.get(503, 0) - refused
    verdict.tell("first 503, and readyz tells", f"{first:.1f} s and {unready:.1f} s later: {told}")
    verdict.tell("while it lasts: webhooks answered 503", f"{refusals} in {lasted:.0f} s, {RATE} a second sent")
    verdict.tell("while it lasts: readyz said ready", f"{stayed_ready} of {looks} times")
    verdict.tell("while it lasts: log lines", f"{lines}, {lines / lasted:.1f} a second")
    most = LINES_AT_FIRST + LINES_A_SECOND * lasted
    verdict.must(lines <= most, f"{lines} log lines in {lasted:.0f} s; at most {most:.0f}")
    verdict.must(refusals > 0, "nothing was refused while it lasted")
    verdict.equal("readyz said ready", 0, stayed_ready)
    verdict.equal("healthz said dead", 0, dead)

    answered = len(traffic.acknowledged)
    end()
    recovered = await until("an acknowledgement once it is over", lambda: len(traffic.acknowledged) > answered, 60)
    try:
        ready_again = await until("readyz is ready again", lambda: ready(server), 60)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {(await readiness(server)).body.decode()}\n{server.troubles()}") from error
    verdict.tell("over: first acknowledgement, and ready", f"{recovered:.1f} s, and {ready_again:.1f} s after it")
    verdict.must(await traffic.deliver_what_was_refused(), f"{len(traffic.refused)} webhooks are refused still")

    # Once more, and told to stop in the midst of it.
    before = traffic.statuses.get(503, 0)
    begin()
    await until("a 503 once more", lambda: traffic.statuses.get(503, 0) > before, 60)
    code, took = await server.stop()
    verdict.tell("SIGTERM while it lasts", f"exit code {code} after {took:.1f} s")
    verdict.equal("exit code after SIGTERM", 0, code)
    verdict.must(took <= 10.0, f"it took {took:.1f} s to stop; at most 10")
    traffic.done = True
    await asyncio.gather(*running)
    end()
    await server.start()
    verdict.must(await traffic.deliver_what_was_refused(), f"{len(traffic.refused)} webhooks are refused still")
    client = server.host()
    for user in users:
        answer = await client.ask("GET", f"/api/v1/users/{user}")
        verdict.equal("tier of a user", "pro", answer.json()["subscription"]["tier"])
    await until("everything is applied", lambda: not database.rows(
        "SELECT 1 AS there FROM stripe_webhooks WHERE processing_status IN ('pending', 'processing')"), 60)
    effects.inbox_holds(verdict, database, traffic.acknowledged)
    effects.timeline_is_single(verdict, database)
    verdict.none("events that failed", database.rows("SELECT event_id FROM stripe_webhooks WHERE processing_status = 'failed'"))
    verdict.tell("acknowledged", len(traffic.acknowledged))
    verdict.tell("answered 503", f"{traffic.statuses.get(503, 0)}, the slowest answer after {traffic.slowest:.1f} s")
    verdict.tell("calls of the host, by status", dict(sorted(traffic.calls.items())))
    verdict.equal("503s without Retry-After", 0, traffic.without_retry_after)
    verdict.must(traffic.slowest <= ANSWER_AT_MOST, f"a webhook was answered after {traffic.slowest:.1f} s; at most {ANSWER_AT_MOST:.0f}")
    verdict.must(traffic.statuses.keys() <= {200, 503}, f"webhooks were answered {traffic.statuses}")
    verdict.must(traffic.calls.keys() <= {200, 201, 429, 503}, f"calls of the host were answered {traffic.calls}")
    code, _ = await server.stop()
    verdict.equal("exit code in the end", 0, code)
    mistakes = database.mistakes()
    verdict.none("what the database finds wrong with itself", mistakes)
    verdict.tell("the database's own check", "nothing wrong" if not mistakes else "WRONG")
    database.close()
    return verdict


async def not_ready(server: Trueup) -> bool:
    """True where `/readyz` answers 503."""
    return (await readiness(server)).status == 503


def may_mount() -> bool:
    """True where a file system can be mounted here, where nobody else sees it (the script has seen to that)."""
    return os.environ.get("TRUEUP_PROOF_MOUNTS") == "1"


class Small:
    """A small file system, and a file that takes all its room."""

    def __init__(self, place: Path, megabytes: int) -> None:
        self.place = place
        place.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(place)], check=True)
        self.filler = place / "filler"

    def fill(self) -> None:
        """No byte is left."""
        with self.filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                for size in (1 << 20, 1 << 12, 1):
                    with contextlib.suppress(OSError):
                        file.write(b"\0" * size)
                        break
                else:
                    return

    def free(self) -> None:
        """There is room again."""
        self.filler.unlink(missing_ok=True)

    def remove(self) -> None:
        """Nothing is left of it."""
        subprocess.run(["umount", "--lazy", str(self.place)], check=False)


def sqlite_on_a_small_disk(folder: Path, seconds: float) -> Callable[[], object]:
    """A full file system."""
    async def run() -> Verdict:
        small = Small(folder, 24)
        try:
            return await part("SQLite, the file system is full (tmpfs of 24 MB)", Sqlite(folder / "proof.db"), folder, seconds, small.fill,
                              small.free)
        finally:
            end_all()
            small.remove()
    return run


def sqlite_with_a_limit(folder: Path, seconds: float) -> Callable[[], object]:
    """No file may grow: what comes nearest to a full disk where nothing can be mounted."""
    async def run() -> Verdict:
        # Without it the kernel would end the process; a child inherits that it is ignored.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        database = Sqlite(folder / "proof.db")
        servers: list[Trueup] = []

        def limit(size: int) -> None:
            process = servers[0].process
            if process is not None and process.poll() is None:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        def begin() -> None:
            # The log is the longer of the two and written from its start again and again: it is cut off as well.
            limit(database.path.stat().st_size)

        return await part("SQLite, no file may grow (RLIMIT_FSIZE)", database, folder, seconds, begin, lambda: limit(resource.RLIM_INFINITY),
                          servers.append)
    return run


def postgres_on_a_small_disk(folder: Path, seconds: float) -> Callable[[], object]:
    """A full file system under a tablespace."""
    async def run() -> Verdict:
        server = PostgresServer()
        place = server.folder / "small"
        small = Small(place, 64)
        subprocess.run(["chown", "-R", server.user, str(place)], check=True)
        space = place / "space"
        subprocess.run(server.as_user(["mkdir", str(space)]), check=True, cwd="/")
        command = [server.program("psql"), "-Xq", "-v", "ON_ERROR_STOP=1", "-c", f"CREATE TABLESPACE small LOCATION '{space}'",
                   os.environ["TRUEUP_TEST_POSTGRES"]]
        subprocess.run(command, check=True)
        database = Postgres("disk_full", "small")
        try:
            return await part("PostgreSQL, the file system of the tables is full (tmpfs of 64 MB)", database, folder, seconds, small.fill,
                              small.free)
        finally:
            end_all()
            small.free()
            database.admin("DROP DATABASE disk_full WITH (FORCE)")
            database.admin("DROP TABLESPACE small")
            small.remove()
    return run


def postgres_read_only(folder: Path, seconds: float) -> Callable[[], object]:
    """A database that takes no writes, as a standby does not."""
    async def run() -> Verdict:
        database = Postgres("disk_read_only")

        def begin() -> None:
            database.admin("ALTER SYSTEM SET default_transaction_read_only = on")
            database.admin("SELECT pg_reload_conf()")

        def end() -> None:
            # Counts as reading.
            database.admin("ALTER SYSTEM RESET default_transaction_read_only")
            database.admin("SELECT pg_reload_conf()")

        return await part("PostgreSQL, default_transaction_read_only = on", database, folder, seconds, begin, end)
    return run


def main() -> int:
    """The parts that are possible here."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    with workshop() as folder:
        parts = {"limit": sqlite_with_a_limit, "read-only": postgres_read_only}
        if may_mount():
            parts |= {"sqlite": sqlite_on_a_small_disk, "postgres": postgres_on_a_small_disk}
        else:
            complain("nothing can be mounted here: a full file system is not measured, a limit on the size of files is")
        chosen = []
        for name, make in parts.items():
            if not options.only or name in options.only.split(","):
                (folder / name).mkdir()
                chosen.append(make(folder / name, options.seconds))
        return prove("what could not be stored was answered 503, nothing that was acknowledged is lost, and all came back by itself", chosen)


if __name__ == "__main__":
    sys.exit(main())
