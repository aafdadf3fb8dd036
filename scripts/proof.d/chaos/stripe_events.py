"""Events as Stripe would send them, signed, where a proof needs its own rather than the simulator's."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any


def signed(event: dict[str, Any], secret: str) -> tuple[bytes, dict[str, str]]:
    """The body and its headers."""
    body = json.dumps(event).encode()
    at = int(time.time())
    signature = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return body, {"Stripe-Signature": f"t={at},v1={signature}"}


def event(event_id: str, event_type: str, subject: dict[str, Any], created: int) -> dict[str, Any]:
    """An event about an object."""
    return {"id": event_id, "object": "event", "api_version": "2026-10-28.endive", "created": created, "livemode": False,
            "pending_webhooks": 1, "request": {"id": None, "idempotency_key": None}, "type": event_type, "data": {"object": subject}}


def subscription(name: str, user: str, tier: str, period: tuple[int, int], status: str = "active", **more: Any) -> dict[str, Any]:
    """A subscription, billed monthly, to the plan of that name."""
    start, end = period
    price = {"id": f"price_{tier}", "object": "price", "active": True, "currency": "usd", "lookup_key": tier, "metadata": {},
             "product": f"prod_{tier}", "type": "recurring", "unit_amount": 1000, "recurring": {"interval": "month", "interval_count": 1}}
    item = {"id": f"si_{name}", "object": "subscription_item", "price": price, "quantity": 1, "metadata": {},
            "current_period_start": start, "current_period_end": end}
    return {"id": f"sub_{name}", "object": "subscription", "customer": f"cus_{name}", "status": status, "livemode": False,
            "metadata": {"user_id": user}, "created": start, "start_date": start, "billing_cycle_anchor": start, "cancel_at": None,
            "cancel_at_period_end": False, "canceled_at": None, "ended_at": None, "currency": "usd", "collection_method": "charge_automatically",
            "trial_start": None, "trial_end": None, "pause_collection": None, "latest_invoice": None,
            "items": {"object": "list", "data": [item], "has_more": False}, **more}
