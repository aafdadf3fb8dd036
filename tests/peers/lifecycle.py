"""Users come and go at localstripe, a stateful imitation of Stripe by other people; its webhooks must move their tiers.

localstripe speaks the oldest dialect that the server understands: plans instead of prices, periods on the subscription.
It delivers each event once, about a second after its cause and in any order.
"""

import base64
import contextlib
import json
import pathlib
import subprocess
import sys
import urllib.parse
import uuid

from peer import Checks, Trueup, eventually, request

HERE = pathlib.Path(__file__).parent
KEY = {"Authorization": "Basic " + base64.b64encode(b"sk_test_12345:").decode()}


class Localstripe:
    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"

    def call(self, method, path, form=None):
        headers, body = dict(KEY), None
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urllib.parse.urlencode(form).encode()
        reply = request(self.url, method, path, headers, body)
        if reply.status != 200:
            raise RuntimeError(f"localstripe: {method} {path}: {reply}")
        return reply.json() if reply.body else None

    def events(self):
        """All events, as {id: type}."""
        found, after = {}, ""
        while True:
            page = self.call("GET", "/v1/events?limit=100" + (f"&starting_after={after}" if after else ""))
            found.update((event["id"], event["type"]) for event in page["data"])
            if not page["has_more"]:
                return found
            after = page["data"][-1]["id"]

    def customer(self, email, **metadata):
        form = {"email": email} | {f"metadata[{name}]": value for name, value in metadata.items()}
        customer = self.call("POST", "/v1/customers", form)["id"]
        card = {"type": "card", "card[number]": "4242424242424242", "card[exp_month]": "12", "card[exp_year]": "2040",
                "card[cvc]": "123"}
        method = self.call("POST", "/v1/payment_methods", card)["id"]
        self.call("POST", f"/v1/payment_methods/{method}/attach", {"customer": customer})
        self.call("POST", f"/v1/customers/{customer}", {"invoice_settings[default_payment_method]": method})
        return customer

    def subscribe(self, customer):
        return self.call("POST", "/v1/subscriptions", {"customer": customer, "items[0][plan]": "pro-monthly"})["id"]


@contextlib.contextmanager
def localstripe():
    process = subprocess.Popen([sys.executable, HERE / "localstripe_server.py"], stdout=subprocess.PIPE, text=True)
    try:
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError("localstripe did not start")
        peer = Localstripe(port)

        def answers():
            try:
                return peer.call("GET", "/v1/events") is not None, ""
            except OSError as error:
                return False, error

        ready, error = eventually(answers)
        if not ready:
            raise RuntimeError(f"localstripe did not get ready: {error}")
        yield peer
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Lifecycle:
    def __init__(self, peer):
        self.peer, self.server, self.checks = peer, Trueup(), Checks("localstripe")

    def reads(self, who, user_id, what, **wanted):
        """Waits until the user reads as wanted."""

        def look():
            reply = self.server.user(user_id)
            if reply.status != 200:
                return False, str(reply)
            user = reply.json()
            now = {"limit": user["usage"]["limit"]} | {name: user["subscription"].get(name) for name in
                   ("tier", "access", "stripe_customer_id", "stripe_subscription_id")}
            return all(now[name] == value for name, value in wanted.items()), f"wanted {wanted}, is {json.dumps(user)}"

        ok, detail = eventually(look)
        self.checks.check(ok, f"{who}: {what}", detail)

    def add_user(self, who, user_id, email):
        reply = self.server.put_user(user_id, email)
        self.checks.check(reply.status == 201, f"{who}: is made", reply)

    def is_pro(self, who, user_id, customer, subscription):
        self.reads(who, user_id, "is on tier pro", tier="pro", access=True, limit=100, stripe_customer_id=customer,
                   stripe_subscription_id=subscription)

    def cancel(self, who, user_id, subscription):
        self.peer.call("DELETE", f"/v1/subscriptions/{subscription}")
        self.reads(who, user_id, "is back on tier free after the deletion", tier="free", access=False, limit=5)

    def run(self):
        peer, server, checks = self.peer, self.server, self.checks
        hook = {"url": f"{server.url}/api/v1/stripe/webhook", "secret": server.secrets[0]}
        peer.call("POST", "/_config/webhooks/trueup", hook)
        product = peer.call("POST", "/v1/products", {"name": "Pro", "type": "service"})["id"]
        peer.call("POST", "/v1/plans", {"id": "pro-monthly", "product": product, "amount": "1900", "currency": "usd",
                                        "interval": "month"})

        named, mailed, late = (str(uuid.uuid4()) for _ in range(3))

        who = "user named in the customer's metadata"
        self.add_user(who, named, "named@example.com")
        self.reads(who, named, "begins on tier free", tier="free", limit=5)
        customer = peer.customer("accounting@example.com", user_id=named)
        subscription = peer.subscribe(customer)
        self.is_pro(who, named, customer, subscription)
        self.cancel(who, named, subscription)
        subscription = peer.subscribe(customer)
        self.is_pro(f"{who}, coming back", named, customer, subscription)

        who = "user known by e-mail only"
        self.add_user(who, mailed, "Mailed@Example.com")
        customer = peer.customer("mailed@example.com")
        subscription = peer.subscribe(customer)
        self.is_pro(who, mailed, customer, subscription)
        self.cancel(who, mailed, subscription)

        who = "user made after the subscription"
        customer = peer.customer("late@example.com")
        before = set(server.inbox())
        subscription = peer.subscribe(customer)

        def waits():
            inbox = server.inbox()
            mine = [hook for event, hook in inbox.items()
                    if event not in before and hook["event_type"] == "customer.subscription.created"]
            return bool(mine) and mine[0]["status"] == "pending" and bool(mine[0]["error"]), mine

        ok, detail = eventually(waits)
        checks.check(ok, f"{who}: the subscription waits for its user", detail)
        self.add_user(who, late, "late@example.com")
        self.is_pro(who, late, customer, subscription)

        self.reads("user named in the customer's metadata", named, "is on tier pro to the end", tier="pro", access=True)
        self.everything_arrived()
        return checks.finish()

    def everything_arrived(self):
        sent, inbox = {}, {}

        def settled():
            sent.update(self.peer.events())
            inbox.clear()
            inbox.update(self.server.inbox())
            open_ = {event: hook["status"] for event, hook in inbox.items() if hook["status"] in ("pending", "processing")}
            return set(sent) == set(inbox) and not open_, f"missing or strange: {sorted(set(sent) ^ set(inbox))}, open: {open_}"

        ok, detail = eventually(settled)
        self.checks.check(ok, f"all {len(sent)} events that localstripe made are in the inbox and done with", detail)
        self.checks.check(all(inbox[event]["event_type"] == kind for event, kind in sent.items() if event in inbox),
                          f"each under its type ({len(set(sent.values()))} types)")
        failed = [hook for hook in inbox.values() if hook["status"] not in ("completed", "skipped")]
        self.checks.check(not failed, "none has failed", failed)
        kinds = set(sent.values())
        self.checks.check({"customer.subscription.created", "customer.subscription.deleted", "customer.created",
                           "invoice.payment_succeeded"} <= kinds, "the events that matter were among them", sorted(kinds))


def main():
    with localstripe() as peer:
        return Lifecycle(peer).run()


if __name__ == "__main__":
    sys.exit(main())
