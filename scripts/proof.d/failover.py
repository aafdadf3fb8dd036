"""The play of scripts/proof.d/failover: an address that moves, webhooks that come in, a primary that dies. See there."""

import argparse
import hashlib
import hmac
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

SECRET = "whsec_failover"
CUSTOMERS = 40
SENDERS = 8
# Stripe waits longer; the server promises less.
LONGEST_ANSWER = 5.0
DAYS_30 = 30 * 86_400


class Address:
    """A TCP address whose server can be another one from one moment to the next."""

    def __init__(self, port):
        self.target, self.silent, self.lock, self.open = port, False, threading.Lock(), set()
        # Connections of an era that is over are neither answered nor broken off.
        self.era, self.over = 0, -1
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            near, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near):
        with self.lock:
            target = None if self.silent else self.target
        if target is None:
            # Taken by the kernel, and never answered.
            with self.lock:
                self.open.add(near)
            return
        try:
            far = socket.create_connection(("127.0.0.1", target), timeout=5)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        with self.lock:
            self.open |= {near, far}
        for one, other in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(one, other, self.era), daemon=True).start()

    def _pump(self, one, other, era):
        try:
            while data := one.recv(65536):
                while self.silent and era > self.over:
                    time.sleep(0.01)
                if era > self.over:
                    other.sendall(data)
        except OSError:
            pass
        if era <= self.over:
            return
        for end in (one, other):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def move(self, port):
        """What is open breaks off; whoever comes from now on is led to the other server."""
        with self.lock:
            self.target = port
            broken, self.open = self.open, set()
        for end in broken:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def fall_silent(self):
        with self.lock:
            self.silent = True

    def speak(self, again):
        """From now on the address answers; what was open before goes on only where `again`."""
        with self.lock:
            self.silent = False
            if not again:
                self.over = self.era
            self.era += 1


class Webhooks:
    """Events in order for each customer, each sent until it is acknowledged."""

    def __init__(self, url):
        self.host = url.removeprefix("http://")
        self.begun = int(time.time()) - 200_000
        self.acknowledged, self.answers, self.problems = {}, [], []
        self.stop, self.lock = threading.Event(), threading.Lock()
        self.threads = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(SENDERS)]
        for thread in self.threads:
            thread.start()

    def _body(self, customer, number):
        created = self.begun + number
        user = f"b3ec0000-0000-4000-8000-{customer:012x}"
        item = {
            "id": f"si_{customer}", "object": "subscription_item", "quantity": 1, "current_period_start": created,
            "current_period_end": created + DAYS_30,
            "price": {"id": "price_pro", "object": "price", "lookup_key": "pro", "unit_amount": 2900, "currency": "usd",
                      "product": "prod_pro", "recurring": {"interval": "month", "interval_count": 1}},
        }
        subscription = {
            "id": f"sub_failover{customer}", "object": "subscription", "customer": f"cus_failover{customer}", "status": "active",
            "created": self.begun, "start_date": self.begun, "billing_cycle_anchor": self.begun, "cancel_at_period_end": False,
            "cancel_at": None, "canceled_at": None, "ended_at": None, "currency": "usd", "livemode": False,
            "latest_invoice": None, "metadata": {"user_id": user, "tier": "pro"},
            "items": {"object": "list", "data": [item], "has_more": False},
        }
        return json.dumps({
            "id": f"evt_failover{customer}x{number:06}", "object": "event", "api_version": "2026-10-28.endive", "created": created,
            "livemode": False, "type": "customer.subscription.updated", "pending_webhooks": 1,
            "data": {"object": subscription, "previous_attributes": {}},
        }).encode()

    def _send(self, sender):
        connection, number = None, 0
        while not self.stop.is_set():
            number += 1
            for customer in range(sender, CUSTOMERS, SENDERS):
                body = self._body(customer, number)
                while not self.stop.is_set():
                    now = int(time.time())
                    mac = hmac.new(SECRET.encode(), f"{now}.".encode() + body, hashlib.sha256).hexdigest()
                    begun = time.monotonic()
                    try:
                        connection = connection or http.client.HTTPConnection(self.host, timeout=30)
                        connection.request("POST", "/api/v1/stripe/webhook", body, {"stripe-signature": f"t={now},v1={mac}"})
                        answer = connection.getresponse()
                        answer.read()
                        status = answer.status
                    except (OSError, http.client.HTTPException) as error:
                        connection, status = None, repr(error)
                    ended = time.monotonic()
                    with self.lock:
                        self.answers.append((ended, ended - begun, status))
                        if status == 200:
                            self.acknowledged[customer, number] = ended
                    if status == 200:
                        break
                    self.stop.wait(0.1)

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()


def fail(text):
    sys.exit(f"failover: {text}")


def main():
    parser = argparse.ArgumentParser()
    for name in ("trueup", "psql", "work", "primary-data"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("primary", "standby", "seconds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    on = parser.parse_args()

    def sql(port, text):
        ran = subprocess.run([on.psql, "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", f"postgres://postgres@127.0.0.1:{port}/postgres"],
                             input=text, capture_output=True, text=True, timeout=60)
        if ran.returncode != 0:
            fail(f"psql: {ran.stderr}")
        return ran.stdout.strip()

    def until(what, seconds, look):
        begun = time.monotonic()
        while not look():
            if time.monotonic() - begun > seconds:
                fail(f"{what}: not within {seconds} s")
            time.sleep(0.05)

    until("synchronous replication", 30, lambda: sql(on.primary, "SELECT sync_state FROM pg_stat_replication") == "sync")

    address = Address(on.primary)
    with open(f"{on.work}/trueup.toml", "w") as file:
        file.write('[jobs.retry_pending_webhooks]\nschedule = "*/2 * * * * *"\n')
    log = open(f"{on.work}/server.log", "w")
    server = subprocess.Popen(
        [on.trueup, "serve"], cwd=on.work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        env={"DATABASE_URL": f"postgres://postgres@127.0.0.1:{address.port}/postgres", "TRUEUP_LISTEN": "127.0.0.1:0",
             "STRIPE_WEBHOOK_SECRET": SECRET, "TRUEUP_API_TOKEN": "failover-api-token-0123", "TRUEUP_ADMIN_TOKEN": "failover-admin-token-0123",
             "TRUEUP_LOG": "warn", "PATH": os.environ.get("PATH", "")})
    try:
        play(on, sql, until, address, server)
    except BaseException:
        log.flush()
        print("".join(open(f"{on.work}/server.log").readlines()[-15:]), file=sys.stderr)
        raise
    finally:
        server.kill()


def play(on, sql, until, address, server):
    url = next((line.split()[-1] for line in server.stdout if " listens on " in line), None) or fail("the server did not start")
    threading.Thread(target=server.stdout.read, daemon=True).start()
    sql(on.primary, f"""INSERT INTO users (id, email) SELECT ('b3ec0000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
        'failover-' || n || '@example.com' FROM generate_series(0, {CUSTOMERS - 1}) AS n""")
    webhooks = Webhooks(url)

    def count():
        with webhooks.lock:
            return len(webhooks.acknowledged)

    def first_after(moment):
        with webhooks.lock:
            return min((at for at in webhooks.acknowledged.values() if at > moment), default=None)

    def taken_again(moment, what, seconds):
        until(f"webhooks taken again after {what}", seconds, lambda: first_after(moment) is not None)
        return first_after(moment)

    time.sleep(on.seconds)
    before = count()
    before > 0 or fail("no webhook was acknowledged while all was well")

    # 1. The primary dies: first the postmaster, so that it restarts nothing; then all its children.
    postmaster = int(open(f"{on.primary_data}/postmaster.pid").readline())
    children = open(f"/proc/{postmaster}/task/{postmaster}/children").read().split()
    for pid in [postmaster, *map(int, children)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    killed = time.monotonic()
    # As long as it may take somebody to notice; longer than a webhook waits for its commit, so that 503 shows.
    time.sleep(6)
    sql(on.standby, "SELECT pg_promote(true, 60)") == "t" or fail("the standby was not promoted")
    promoted = time.monotonic()
    # What was acknowledged before the standby was promoted had reached it.
    with webhooks.lock:
        at_promotion = {key for key, at in webhooks.acknowledged.items() if at < promoted}
    address.move(on.standby)
    moved = time.monotonic()
    again = taken_again(moved, "the failover", 30)
    time.sleep(on.seconds)

    # 2. Silence, after which all goes on; and 3., after which only new connections do.
    quiet = []
    for again_open in (True, False):
        address.fall_silent()
        silent = time.monotonic()
        time.sleep(8)
        address.speak(again_open)
        heard = time.monotonic()
        quiet.append((silent, heard, taken_again(heard, "the silence", 60)))
        time.sleep(on.seconds)
    jobs_since = sql(on.standby, "SELECT clock_timestamp()")
    webhooks.end()

    ids = {f"evt_failover{c}x{n:06}" for c, n in webhooks.acknowledged}
    until("everything applied", 60, lambda: sql(on.standby, "SELECT count(*) FROM stripe_webhooks WHERE processing_status <> 'completed'") == "0")
    rows = sql(on.standby, "SELECT event_id FROM stripe_webhooks").split()
    lost = ids - set(rows)
    lost and fail(f"{len(lost)} acknowledged webhooks are gone, such as {sorted(lost)[:3]}")
    len(rows) == len(set(rows)) or fail("an event is stored twice")
    twice = sql(on.standby, "SELECT count(*) FROM (SELECT event_id FROM entitlement_changes WHERE event_id IS NOT NULL GROUP BY event_id HAVING count(*) > 1) AS t")
    twice == "0" or fail(f"{twice} events changed an account twice")
    ends = dict(line.split("|") for line in sql(on.standby, """SELECT ('x' || right(id::text, 12))::bit(48)::bigint,
        extract(epoch FROM subscription_current_period_end)::bigint FROM users""").splitlines())
    for customer in range(CUSTOMERS):
        # What was stored and never acknowledged counts as well: Stripe would send it again.
        last = max(int(row.rpartition("x")[2]) for row in rows if row.startswith(f"evt_failover{customer}x"))
        ends[str(customer)] == str(webhooks.begun + last + DAYS_30) or fail(f"customer {customer} does not end as the last event says")
    until("a job after all this", 30, lambda: sql(on.standby, f"SELECT count(*) FROM job_runs WHERE outcome = 'succeeded' AND started_at > '{jobs_since}'") != "0")
    server.poll() is None or fail("the server has ended")
    ready = http.client.HTTPConnection(webhooks.host, timeout=10)
    ready.request("GET", "/readyz")
    ready.getresponse().status == 200 or fail("the server is not ready in the end")

    statuses = Counter(status for _, _, status in webhooks.answers)
    set(statuses) <= {200, 503} or fail(f"answers other than 200 and 503: {statuses}")
    silences = [("address was silent", silent, heard) for silent, heard, _ in quiet]
    for what, since, to in [("primary was gone", killed, moved), *silences]:
        any(since < at < to and status == 503 for at, _, status in webhooks.answers) or fail(f"nothing was answered 503 while the {what}")
    longest = max(took for _, took, _ in webhooks.answers)
    longest < LONGEST_ANSWER or fail(f"an answer took {longest:.1f} s")

    print(f"{len(ids)} webhooks acknowledged, {len(at_promotion)} of them before the standby was promoted; {statuses[503]} answers were 503; none lost, none twice in effect")
    print(f"killed and promoted: {again - killed:.1f} s from the kill to the first webhook taken again, {promoted - killed:.1f} s of them until the standby was promoted")
    print(f"                     {again - moved:.2f} s from the address's move")
    for (silent, heard, back), what in zip(quiet, ("what was open goes on", "what was open is never answered")):
        print(f"silent for {heard - silent:.1f} s, {what}: {back - heard:.2f} s from its end to the first webhook taken again")
    print(f"longest answer {longest:.2f} s; the same process throughout, ready in the end")


main()
