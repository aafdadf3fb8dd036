"""250 users subscribe at localstripe, of which no webhook tells; `trueup reconcile` must find them, page by page, and repair what is edited away.

localstripe speaks the oldest dialect that the server understands, lists in its own order, and knows neither accounts nor event types.
"""

import json
import os
import sqlite3
import subprocess
import sys
import time
import uuid

from lifecycle import localstripe
from peer import Checks, Trueup, eventually

USERS = 250
ENDED = 10
# Users whose rows, or whose subscriptions' rows, are edited: by group of so many.
EDITED = 5


class Reconcile:
    def __init__(self, peer):
        self.peer, self.server, self.checks = peer, Trueup(), Checks("reconcile")

    def command(self, *arguments):
        """Runs `trueup reconcile` beside the server and returns its exit code and its report."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRUEUP_", "STRIPE_"))}
        environment |= {
            "DATABASE_URL": os.environ["PEERS_DATABASE_URL"],
            "TRUEUP_CONFIG": os.environ["PEERS_CONFIG"],
            "STRIPE_API_BASE": self.peer.url,
            "STRIPE_SECRET_KEY": "sk_test_12345",
            "STRIPE_WEBHOOK_SECRET": self.server.secrets[0],
        }
        done = subprocess.run([os.environ["TRUEUP_BIN"], "reconcile", "--json", *arguments], env=environment,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        try:
            report = json.loads(done.stdout)
        except ValueError:
            report = {"error": done.stdout + done.stderr}
        return done.returncode, report

    def expect(self, what, code, arguments, **wanted):
        """One run; its figures must be as wanted, and those of kinds that are not named nothing."""
        got, report = self.command(*arguments)
        kinds = {name: count for name, count in report.get("by_kind", {}).items() if count}
        now = {name: kinds if name == "by_kind" else report.get(name) for name in wanted}
        self.checks.check(got == code and now == wanted, what,
                          f"exit code {got} instead of {code}, {now} instead of {wanted}, {report.get('error')}")
        return report

    def subscribe(self, user):
        customer = self.peer.customer(f"{user}@example.com", user_id=user)
        form = {"customer": customer, "items[0][plan]": "pro-monthly", "metadata[user_id]": user}
        return self.peer.call("POST", "/v1/subscriptions", form)["id"]

    def tiers(self, users):
        counts = {}
        for user in users:
            tier = self.server.user(user).json()["subscription"]["tier"]
            counts[tier] = counts.get(tier, 0) + 1
        return counts

    def a_second_passes(self):
        """A fetch of the very second of the last one would not be newer."""
        second = int(time.time())
        eventually(lambda: (int(time.time()) > second, None))

    def edit(self, statement, values):
        path = os.environ["PEERS_DATABASE_URL"].removeprefix("sqlite://")
        with sqlite3.connect(path, timeout=30) as database:
            changed = database.executemany(statement, [(value,) for value in values]).rowcount
        database.close()
        return changed

    def run(self):
        peer, server, checks = self.peer, self.server, self.checks
        product = peer.call("POST", "/v1/products", {"name": "Pro", "type": "service"})["id"]
        peer.call("POST", "/v1/plans", {"id": "pro-monthly", "product": product, "amount": "1900", "currency": "usd",
                                        "interval": "month"})
        users = [str(uuid.uuid4()) for _ in range(USERS)]
        made = [server.put_user(user, f"{user}@example.com").status for user in users]
        checks.check(set(made) == {201}, f"{USERS} users are made", set(made))
        subscriptions = [self.subscribe(user) for user in users]
        for subscription in subscriptions[:ENDED]:
            peer.call("DELETE", f"/v1/subscriptions/{subscription}")

        self.a_second_passes()
        self.expect("a dry run finds all that is missing, in pages of 100", 2, ["--dry-run"], outcome="succeeded", pages=3,
                    scanned=USERS, repaired=0, by_kind={"missing": USERS})
        checks.check(self.tiers(users) == {"free": USERS}, "and changes nothing", self.tiers(users))
        self.expect("applying takes it in", 0, [], outcome="succeeded", repaired=USERS)
        tiers = self.tiers(users)
        checks.check(tiers == {"pro": USERS - ENDED, "free": ENDED}, "every user has what they pay for", tiers)
        self.a_second_passes()
        self.expect("a second run finds nothing", 0, ["--dry-run"], outcome="succeeded", by_kind={})

        group = [slice(ENDED + n * EDITED, ENDED + (n + 1) * EDITED) for n in range(4)]
        edits = [
            ("UPDATE subscriptions SET status = 'canceled' WHERE id = ?", subscriptions[group[0]]),
            ("UPDATE subscriptions SET current_period_end = '2020-01-01T00:00:00+00:00' WHERE id = ?", subscriptions[group[1]]),
            ("DELETE FROM subscriptions WHERE id = ?", subscriptions[group[2]]),
            ("UPDATE users SET subscription_tier = 'free', subscription_access = 0 WHERE id = ?",
             [uuid.UUID(user).bytes for user in users[group[3]]]),
        ]
        for statement, values in edits:
            changed = self.edit(statement, values)
            checks.check(changed == EDITED, f"edited: {statement.partition(' WHERE')[0]}", changed)
        # Whoever's subscription was edited has a row that no longer follows from it.
        drift = {"differs": 2 * EDITED, "missing": EDITED, "projection": 4 * EDITED}
        self.expect("drift made by editing rows is found", 2, ["--dry-run"], outcome="succeeded", by_kind=drift)
        report = self.expect("and repaired", 0, [], outcome="succeeded", by_kind=drift, repaired=sum(drift.values()))
        checks.check(report["access"]["lose"] == 0, "nobody loses access by it", report["access"])
        tiers = self.tiers(users)
        checks.check(tiers == {"pro": USERS - ENDED, "free": ENDED}, "every user has what they pay for again", tiers)
        self.a_second_passes()
        self.expect("a second run finds nothing again", 0, ["--dry-run"], outcome="succeeded", by_kind={})

        peer.call("DELETE", f"/v1/subscriptions/{subscriptions[-1]}")
        self.a_second_passes()
        report = self.expect("one user alone is reconciled", 0, ["--user", users[-1]], outcome="succeeded", scanned=1,
                             by_kind={"differs": 1}, repaired=1)
        tier = server.user(users[-1]).json()["subscription"]["tier"]
        checks.check(tier == "free", "and has lost what ended", tier)
        return checks.finish()


def main():
    with localstripe() as peer:
        return Reconcile(peer).run()


if __name__ == "__main__":
    sys.exit(main())
