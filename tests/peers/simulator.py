"""Stripe's library for Python works with the simulated Stripe as with the real one.

`trueup demo` is TRUEUP_BIN on free ports; the library is stripe-python in the version of requirements.txt.
"""

import os
import signal
import subprocess
import sys
import tempfile

import stripe

from peer import Checks
from with_server import free_port

KEY = "sk_test_simulated"
VERSIONS = ["2020-08-27", "2025-03-31.basil", "2026-10-28.endive"]


def start(folder):
    """The demo, and the address of its Stripe once it lives."""
    for _ in range(3):
        port = free_port()
        process = subprocess.Popen(
            [os.environ["TRUEUP_BIN"], "demo", "--listen", "127.0.0.1:0", "--api-listen", f"127.0.0.1:{port}",
             "--customers", "15", "--days", "45", "--seed", "5", "--pace", "600"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for line in process.stdout:
            if "the server's log" in line:
                return process, f"http://127.0.0.1:{port}"
        error = process.communicate()[1]
        if "cannot listen" not in error:
            raise RuntimeError(f"the demo ended: {error}")
    raise RuntimeError("no free port")


def refused(call):
    """How the library tells what Stripe refused: its class, the status and the code."""
    try:
        call()
    except stripe.StripeError as error:
        return type(error).__name__, error.http_status, error.code, str(error)
    return None, None, None, ""


def lists(checks):
    """Whatever is listed is of its kind, walked page by page, newest first, without a gap."""
    collections = [
        stripe.Product, stripe.Price, stripe.Customer, stripe.Invoice, stripe.Event, stripe.WebhookEndpoint, stripe.checkout.Session
    ]
    for kind in collections:
        found = list(kind.list(limit=7).auto_paging_iter())
        ids = [row.id for row in found]
        checks.check(found and all(isinstance(row, kind) for row in found), f"{len(found)} objects of {kind.OBJECT_NAME}", found[:1])
        checks.check(len(set(ids)) == len(ids), f"no {kind.OBJECT_NAME} comes twice")
        checks.check(kind.retrieve(ids[0]).id == ids[0], f"one {kind.OBJECT_NAME} by its id")
    subscriptions = list(stripe.Subscription.list(status="all", limit=5, expand=["data.latest_invoice"]).auto_paging_iter())
    checks.check(len(subscriptions) > 5, f"{len(subscriptions)} subscriptions", len(subscriptions))
    created = [row.created for row in subscriptions]
    checks.check(created == sorted(created, reverse=True), "subscriptions come newest first")
    checks.check(
        all(isinstance(row.latest_invoice, (stripe.Invoice, type(None))) for row in subscriptions), "an id is expanded on demand"
    )
    # Backwards the library hands them out oldest first.
    back = [row.id for row in stripe.Subscription.list(status="all", limit=4, ending_before=subscriptions[-1].id).auto_paging_iter()]
    checks.check(back == [row.id for row in reversed(subscriptions[:-1])], "and back again", back)


def events(checks):
    types = ["customer.subscription.created", "customer.subscription.updated"]
    found = list(stripe.Event.list(types=types, limit=20).auto_paging_iter())
    checks.check(bool(found) and {event.type for event in found} == set(types), f"{len(found)} events by type")
    checks.check(
        all(isinstance(event.data.object, stripe.Subscription) for event in found), "an event holds the object it is about"
    )
    changed = [event for event in found if event.type.endswith("updated")]
    checks.check(all(event.data.previous_attributes is not None for event in changed), "a change holds what was before")
    delivered = stripe.Event.list(delivery_success=True, limit=5).data
    checks.check(bool(delivered) and all(event.pending_webhooks == 0 for event in delivered), "events by delivery")
    middle = found[len(found) // 2].id
    newer = list(stripe.Event.list(types=types, ending_before=middle, limit=3).auto_paging_iter())
    checks.check(newer[-1].id == found[0].id, "events since one", newer[-1].id)


def versions(checks):
    subscription = stripe.Subscription.list(limit=1).data[0].id
    for version in VERSIONS:
        shown = stripe.Subscription.retrieve(subscription, stripe_version=version)
        old = version < "2025-03-31"
        item = shown["items"].data[0]
        checks.check(("current_period_end" in shown) == old, f"{version}: the period of a subscription is where it was then")
        checks.check(("current_period_end" in item) != old, f"{version}: and that of its items")
        headers = shown.last_response.headers
        checks.check(headers["stripe-version"] == version and headers["request-id"].startswith("req_"), f"{version}: headers", headers)
        checks.check("date" in headers, f"{version}: the time")


def changes(checks):
    product = stripe.Product.create(name="Gold", metadata={"tier": "pro"})
    prices = [
        stripe.Price.create(product=product.id, currency="usd", unit_amount=amount, recurring={"interval": "month"})
        for amount in (500, 700)
    ]
    customer = stripe.Customer.create(email="peer@example.com", payment_method="pm_card_visa", metadata={"user_id": "7"})
    items = [{"price": prices[0].id, "quantity": 2}, {"price": prices[1].id}]
    made = stripe.Subscription.create(customer=customer.id, items=items, expand=["latest_invoice"])
    checks.check(made.status == "active" and made.latest_invoice.amount_paid == 1700, "a subscription of two items is paid", made)
    other = stripe.Subscription.create(customer=customer.id, items=items[1:], trial_period_days=14)
    checks.check(other.status == "trialing" and other.trial_end > other.created, "a second one of the same customer is on trial")
    item = made["items"].data[0].id
    made = stripe.Subscription.modify(made.id, items=[{"id": item, "quantity": 5}], metadata={"note": "x"})
    checks.check(made["items"].data[0].quantity == 5 and made.metadata["note"] == "x", "another quantity")
    made = stripe.Subscription.modify(made.id, cancel_at_period_end=True)
    checks.check(made.cancel_at_period_end and made.cancel_at == made["items"].data[0].current_period_end, "an end with the period")
    made = stripe.Subscription.modify(made.id, cancel_at=made.created + 5 * 86_400)
    checks.check(not made.cancel_at_period_end and made.cancel_at == made.created + 5 * 86_400, "an end at a date", made.cancel_at)
    made = stripe.Subscription.modify(made.id, cancel_at="")
    checks.check(made.cancel_at is None, "no end at all")
    made = stripe.Subscription.modify(made.id, pause_collection={"behavior": "void"})
    checks.check(made.pause_collection.behavior == "void" and made.status == "active", "a collection is paused")
    other = stripe.Subscription.pause(other.id)
    checks.check(other.status == "paused", "the other one is paused", other.status)
    other = stripe.Subscription.resume(other.id)
    checks.check(other.status == "active", "and goes on", other.status)
    made = stripe.Subscription.cancel(made.id)
    checks.check(made.status == "canceled" and made.ended_at is not None, "an end now")
    session = stripe.checkout.Session.create(
        mode="subscription", line_items=[{"price": prices[0].id, "quantity": 1}], client_reference_id="7",
        subscription_data={"metadata": {"user_id": "7"}}, success_url="https://example.com/",
    )
    checks.check(session.status == "open" and session.url and session.client_reference_id == "7", "a checkout")
    endpoint = stripe.WebhookEndpoint.create(url="https://example.com/hook", enabled_events=["invoice.paid"])
    checks.check(endpoint.secret.startswith("whsec_") and endpoint.status == "enabled", "an endpoint with its secret")
    endpoint = stripe.WebhookEndpoint.modify(endpoint.id, disabled=True)
    checks.check(endpoint.status == "disabled", "which is switched off")
    checks.check(stripe.WebhookEndpoint.delete(endpoint.id).deleted, "and deleted")
    checks.check(stripe.Customer.delete(customer.id).deleted, "a customer is deleted")
    checks.check(stripe.Customer.retrieve(customer.id).deleted, "and known as that")
    checks.check(stripe.Subscription.retrieve(other.id).status == "canceled", "and what was theirs has ended")


def errors(checks):
    kind, status, code, _ = refused(lambda: stripe.Subscription.retrieve("sub_none"))
    checks.check((kind, status, code) == ("InvalidRequestError", 404, "resource_missing"), "what there is not", (kind, status, code))
    kind, status, code, _ = refused(lambda: stripe.Customer.list(limit=500))
    checks.check((kind, status) == ("InvalidRequestError", 400), "too much at once", (kind, status, code))
    kind, status, _, text = refused(lambda: stripe.PaymentLink.list())
    checks.check((kind, status) == ("InvalidRequestError", 404) and "Unrecognized request URL" in text, "what is not supported", text)
    kind, status, _, _ = refused(lambda: stripe.Customer.list(api_key="sk_test_wrong"))
    checks.check((kind, status) == ("AuthenticationError", 401), "a wrong key", (kind, status))
    one = stripe.Customer.create(email="once@example.com", idempotency_key="once")
    two = stripe.Customer.create(email="once@example.com", idempotency_key="once")
    checks.check(one.id == two.id, "what is repeated is done once")
    kind, status, _, _ = refused(lambda: stripe.Customer.create(email="other@example.com", idempotency_key="once"))
    checks.check((kind, status) == ("IdempotencyError", 400), "another under the same key", (kind, status))


def main():
    checks = Checks("simulator")
    stripe.api_key, stripe.max_network_retries = KEY, 5
    with tempfile.TemporaryDirectory(prefix="trueup-peers.", ignore_cleanup_errors=True) as folder:
        process, stripe.api_base = start(folder)
        try:
            for part in (lists, events, versions, changes, errors):
                try:
                    part(checks)
                except Exception as error:  # whatever the library makes of it
                    checks.check(False, f"{part.__name__} comes to its end", repr(error))
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
            code = process.wait(60)
        checks.check(code == 0, "the demo ends with exit code 0 on SIGTERM", code)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
