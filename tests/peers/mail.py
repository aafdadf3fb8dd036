"""E-mails of the real server arrive at aiosmtpd, a mail server by other people: once each, also when it is away at first, when events come twice
and are replayed, and when the server is killed between sending an e-mail and noting that it did (then one comes twice, and no more).
"""

import asyncio
import email
import email.policy
import hashlib
import hmac
import json
import os
import pathlib
import secrets
import sys
import tempfile
import threading
import time
import uuid

from aiosmtpd.controller import Controller

from peer import Checks, Trueup, eventually, request
from with_server import CONFIG, Server, free_port

DAY = 86_400
MAIL = """
[mail]
from = "Example <billing@example.com>"
product_name = "Example"
timeout = "20s"
"""


class Mailbox:
    """Keeps what arrives. While `held` is set it keeps a letter, and its answer to itself."""

    def __init__(self):
        self.letters, self.held, self.kept = [], threading.Event(), threading.Event()

    async def handle_DATA(self, _server, _session, envelope):
        letter = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.letters.append((envelope.rcpt_tos, letter))
        if self.held.is_set():
            self.kept.set()
            await asyncio.sleep(3600)  # until the other end is gone
        return "250 OK"

    def ids(self):
        return [letter["Message-ID"] for _, letter in self.letters]


class Stripe:
    """Makes events and signs them as Stripe does."""

    def __init__(self, server, secret):
        self.server, self.secret = server, secret

    def deliver(self, event):
        body = json.dumps(event).encode()
        at = str(int(time.time()))
        digest = hmac.new(self.secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
        headers = {"Stripe-Signature": f"t={at},v1={digest}", "Content-Type": "application/json"}
        return request(self.server.url, "POST", "/api/v1/stripe/webhook", headers, body)


def event(number, kind, item):
    return {"id": f"evt_{number}", "object": "event", "type": kind, "created": int(time.time()), "livemode": False,
            "api_version": "2026-10-28.endive", "data": {"object": item}}


def subscription(number, user, status="active", trial_end=None):
    now = int(time.time())
    return {"id": f"sub_{number}", "object": "subscription", "customer": f"cus_{number}", "status": status,
            "metadata": {"user_id": user}, "created": now - DAY, "trial_end": trial_end, "livemode": False,
            "items": {"object": "list", "data": [{
                "id": f"si_{number}", "price": {"id": "pro-monthly", "recurring": {"interval": "month", "interval_count": 1}},
                "current_period_start": now - DAY, "current_period_end": now + 29 * DAY, "quantity": 1}]}}


def invoice(number, name, attempt=1):
    return {"id": f"in_{name}", "object": "invoice", "customer": f"cus_{number}", "status": "open", "livemode": False,
            "billing_reason": "subscription_cycle", "currency": "usd", "amount_due": 1900, "amount_paid": 0,
            "attempt_count": attempt, "next_payment_attempt": int(time.time()) + 3 * DAY, "created": int(time.time()),
            "number": f"EX-{name}", "hosted_invoice_url": f"https://invoice.stripe.com/i/acct_1/test_{name}",
            "parent": {"subscription_details": {"subscription": f"sub_{number}", "metadata": {}}}}


class Suite:
    def __init__(self, directory):
        self.checks = Checks("mail")
        self.port = free_port()
        self.mailbox = Mailbox()
        self.controller = None
        secret = "whsec_" + secrets.token_hex(16)
        settings = {"SMTP_URL": f"smtp://127.0.0.1:{self.port}"}
        self.process = Server(directory, secret, settings, CONFIG + MAIL)
        self.process.start()
        os.environ |= {"PEERS_URL": self.process.url, "PEERS_SECRETS": secret,
                       "PEERS_API_TOKEN": self.process.private["TRUEUP_API_TOKEN"],
                       "PEERS_ADMIN_TOKEN": self.process.private["TRUEUP_ADMIN_TOKEN"]}
        self.trueup = Trueup()
        self.stripe = Stripe(self.trueup, secret)
        self.user = str(uuid.uuid4())

    def open_mail_server(self):
        self.controller = Controller(self.mailbox, hostname="127.0.0.1", port=self.port)
        self.controller.start()

    def deliver(self, *events):
        for item in events:
            reply = self.stripe.deliver(item)
            if reply.status != 200:
                raise RuntimeError(f"a webhook was not taken: {reply}")

    def all_applied(self):
        def look():
            open_ = {event: hook["status"] for event, hook in self.trueup.inbox().items() if hook["status"] != "completed"}
            return not open_, open_

        ok, detail = eventually(look)
        self.checks.check(ok, "every event is applied", detail)

    def arrive(self, count, what):
        ok, detail = eventually(lambda: (len(self.mailbox.letters) >= count, len(self.mailbox.letters)))
        self.checks.check(ok, what, f"{detail} of {count}")

    def series(self, name):
        text = request(self.trueup.url, "GET", "/metrics").body.decode()
        return next((float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + " ")), None)

    def nothing_waits(self):
        ok, detail = eventually(lambda: ((waiting := self.series("trueup_emails_pending")) == 0, waiting))
        self.checks.check(ok, "nothing waits in the outbox", detail)

    def away_at_first(self):
        self.trueup.put_user(self.user, "ada@example.com")
        trial = subscription(2, self.user, "trialing", int(time.time()) + 3 * DAY)
        self.events = [
            event("sub", "customer.subscription.updated", subscription(1, self.user)),
            event("failed", "invoice.payment_failed", invoice(1, "failed")),
            event("action", "invoice.payment_action_required", invoice(1, "action")),
            event("trial", "customer.subscription.trial_will_end", trial),
        ]
        self.deliver(*self.events)
        self.all_applied()
        ok, _ = eventually(lambda: ("the mail server does not take e-mails now" in self.process.log_text(), ""))
        self.checks.check(ok, "a mail server that is away is told in the log")
        self.checks.check(self.series("trueup_emails_pending") == 3, "the e-mails wait")
        self.open_mail_server()
        self.arrive(3, "they arrive once the mail server is there")
        self.nothing_waits()

    def contents(self):
        check = self.checks.check
        by_subject = {letter["Subject"]: (to, letter) for to, letter in self.mailbox.letters}
        check(sorted(by_subject)[:2] == ["Please confirm your payment for Example", "Your payment for Example did not go through"]
              and sorted(by_subject)[2].startswith("Your trial of Example ends on "), "one of each kind", sorted(by_subject))
        to, letter = by_subject["Your payment for Example did not go through"]
        plain = letter.get_body(("plain",)).get_content()
        html = letter.get_body(("html",)).get_content()
        check(to == ["ada@example.com"] and letter["From"] == "Example <billing@example.com>", "to the user, from the sender", letter["From"])
        link = "https://invoice.stripe.com/i/acct_1/test_failed"
        check(all(part in plain for part in ("19.00 USD", "plan pro", "EX-failed", link)), "plain text tells amount, plan and link", plain)
        check("19.00 USD" in html and "<a href=" in html, "so does the HTML", html)
        check(letter["Auto-Submitted"] == "auto-generated", "it says that a program wrote it")
        check(not any(part.defects for _, part in self.mailbox.letters), "another program's parser finds nothing wrong with any")

    def twice_and_replayed(self):
        self.deliver(*self.events)
        headers = self.trueup.admin
        reply = request(self.trueup.url, "POST", "/api/v1/admin/webhooks/retry", headers, {"status": "completed"})
        self.checks.check(reply.status == 200 and reply.json()["retried"] >= 4, "the events are replayed", reply)
        self.all_applied()
        # What is queued later is sent later: with it, whatever the replay had queued would be here.
        self.deliver(event("failed_again", "invoice.payment_failed", invoice(1, "failed", attempt=2)))
        self.arrive(4, "the next attempt has an e-mail of its own")
        self.nothing_waits()
        self.checks.check(len(self.mailbox.letters) == 4, "what came twice and was replayed has sent nothing twice", len(self.mailbox.letters))

    def killed_between_sending_and_noting(self):
        before = len(self.mailbox.letters)
        self.mailbox.held.set()
        self.deliver(event("killed", "invoice.payment_failed", invoice(1, "killed")))
        self.checks.check(self.mailbox.kept.wait(60), "an e-mail is taken, and the server does not know yet")
        self.process.kill()
        self.mailbox.held.clear()
        self.process.start()
        self.arrive(before + 2, "started anew, it sends that one once more")
        self.deliver(event("after", "invoice.payment_failed", invoice(1, "after")))
        self.arrive(before + 3, "and goes on with the next")
        self.nothing_waits()
        ids = self.mailbox.ids()[before:]
        self.checks.check(len(ids) == 3 and ids[0] == ids[1] != ids[2], "one repeat and no more, under the same Message-ID", ids)

    def run(self):
        try:
            self.away_at_first()
            self.contents()
            self.twice_and_replayed()
            self.killed_between_sending_and_noting()
            code = self.process.stop()
            self.checks.check(code == 0, "the server ends with exit code 0 on SIGTERM", code)
            self.checks.check(not any(text in self.process.log_text() for text in ("ada@", "billing@")), "its log holds no address of ours")
        finally:
            self.process.stop()
            if self.controller:
                self.controller.stop()
        failed = self.checks.finish()
        if failed:
            print("the end of the server's log:", *self.process.log_text().splitlines()[-40:], sep="\n  | ", flush=True)
        return failed


def main():
    with tempfile.TemporaryDirectory(prefix="trueup-peers.", ignore_cleanup_errors=True) as directory:
        return Suite(pathlib.Path(directory)).run()


if __name__ == "__main__":
    sys.exit(main())
