"""What deliveries, however often they came, left in the database: looked at row by row, beside what was acknowledged."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import Any

from databases import Database
from verdict import Verdict

INVOICE_ORDER = ["draft", "open", "uncollectible", "void", "paid"]


def inbox_holds(verdict: Verdict, database: Database, acknowledged: set[str]) -> None:
    """Every acknowledged event is there, once, and is done."""
    rows = database.rows("SELECT event_id, processing_status FROM stripe_webhooks")
    stored = {row["event_id"]: row["processing_status"] for row in rows}
    verdict.equal("rows of the inbox by event id", len(rows), len(stored))
    verdict.none("acknowledged events that are not in the inbox", sorted(acknowledged - stored.keys()))
    undone = [f"{event} is {status}" for event, status in stored.items() if status not in ("completed", "skipped", "pending")]
    verdict.none("events that are neither done nor waiting", undone)


def timeline_is_single(verdict: Verdict, database: Database) -> int:
    """No event changed a user twice, and each change begins where the one before it ended. The number of changes."""
    text, uuid = database.text, database.uuid
    rows = database.rows(f"SELECT {uuid('id')} AS id, {uuid('user_id')} AS user_id, event_id, {text('before')} AS old, {text('after')} AS new "
                         "FROM entitlement_changes")
    twice: dict[tuple[str, str], int] = defaultdict(int)
    by_user: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_user[row["user_id"]].append(row)
        if row["event_id"]:
            twice[row["user_id"], row["event_id"]] += 1
    verdict.none("events that changed a user twice", [key for key, count in twice.items() if count > 1])
    verdict.none("entries of the timeline that change nothing", [row["id"] for row in rows if row["old"] == row["new"]])
    verdict.none("users whose timeline is no chain", [user for user, changes in by_user.items() if not is_chain(changes)])
    return len(rows)


def is_chain(changes: list[dict[str, Any]]) -> bool:
    """True where the changes, in the order of their ids, lead from one to the next: a change made twice, or lost, breaks it."""
    ordered = sorted(changes, key=lambda change: change["id"])
    return all(one["new"] == next_one["old"] for one, next_one in zip(ordered, ordered[1:]))


def invoices_are_as_told(verdict: Verdict, database: Database, events: list[dict[str, Any]]) -> int:
    """Each invoice of an acknowledged event is there once, with the furthest status that was told of it. The number of invoices."""
    told: dict[str, str] = {}
    for event in events:
        invoice = event["data"]["object"]
        if invoice.get("object") == "invoice" and invoice.get("id") and event["type"] != "invoice.created":
            told[invoice["id"]] = max(told.get(invoice["id"], "draft"), invoice["status"], key=INVOICE_ORDER.index)
    stored = {row["id"]: row["status"] for row in database.rows("SELECT id, status FROM invoices")}
    wrong = [f"{invoice} is {stored.get(invoice)}, not {status}" for invoice, status in told.items() if stored.get(invoice) != status]
    verdict.none("invoices that are not as told", wrong)
    return len(told)


def emails_went_out_once(verdict: Verdict, database: Database, taken: dict[str, int], kills: int) -> tuple[int, int]:
    """One e-mail for each reason, and each sent one with the mail server. What went out, and of it what was repeated.

    A kill between the mail server's taking an e-mail and our noting it repeats it: once, under the same Message-ID.
    """
    # The Message-ID follows from the reason.
    rows = {hashlib.sha256(row["dedupe_key"].encode()).hexdigest()[:32]: row["status"]
            for row in database.rows("SELECT dedupe_key, status FROM email_outbox")}
    sent = {name for name, status in rows.items() if status == "sent"}
    received = {name.strip("<>").split("@")[0]: count for name, count in taken.items()}
    verdict.none("e-mails that are sent and never arrived", sorted(sent - received.keys()))
    verdict.none("e-mails that arrived without a reason", sorted(received.keys() - rows.keys()))
    verdict.none("e-mails that arrived more than twice", [name for name, count in received.items() if count > 2])
    repeated = sum(count - 1 for count in received.values())
    verdict.must(repeated <= kills, f"{repeated} e-mails were repeated by {kills} kills")
    return len(received), repeated


def usage_is_counted_once(verdict: Verdict, database: Database, counted: dict[tuple[str, str], int], released: set[tuple[str, str]],
                          refused: set[tuple[str, str]], without_key: dict[str, int] | None = None,
                          unknown: dict[str, int] | None = None) -> int:
    """Ledger, mirror, records and answers agree. What is used in all.

    `counted` is the amount of each user's key that was answered 200, `without_key` what each user was granted beside that, `unknown` what may
    have been granted or not: without a key there is no asking again.
    """
    uuid = database.uuid
    records = {(row["user_id"], row["idempotency_key"]): row for row in database.rows(
        f"SELECT {uuid('user_id')} AS user_id, idempotency_key, source, {database.text('period_start')} AS period_start, amount, "
        "CASE WHEN released_at IS NULL THEN 0 ELSE 1 END AS released FROM usage_records")}
    verdict.none("keys that counted and have no record", [key for key in counted if key not in records])
    verdict.none("keys with another amount than was answered",
                 [key for key, amount in counted.items() if key in records and records[key]["amount"] != amount])
    verdict.none("records of keys that never counted", [key for key in records if key not in counted])
    verdict.none("keys that were refused and have a record", [key for key in refused - counted.keys() if key in records])
    given_back = {key for key, row in records.items() if row["released"]}
    verdict.none("keys that are given back here or there alone", sorted(given_back ^ released))
    periods = database.rows(f"SELECT {uuid('user_id')} AS user_id, source, {database.text('period_start')} AS period_start, used, usage_limit "
                            "FROM usage_periods")
    used: dict[str, int] = defaultdict(int)
    for row in periods:
        used[row["user_id"]] += row["used"]
    wanted: dict[str, int] = defaultdict(int, without_key or {})
    by_window: dict[tuple[str, str, str], int] = defaultdict(int)
    for key, amount in counted.items():
        if key not in released:
            wanted[key[0]] += amount
            if key in records:
                by_window[key[0], records[key]["source"], records[key]["period_start"]] += amount
    perhaps: dict[str, int] = defaultdict(int, unknown or {})
    wrong = [f"{user}: {wanted[user]} acknowledged, {used[user]} in the ledger" for user in wanted.keys() | used.keys()
             if not wanted[user] <= used[user] <= wanted[user] + perhaps[user]]
    verdict.none("users of whom more or less is used than was acknowledged", wrong)
    windows = {(row["user_id"], row["source"], row["period_start"]): row["used"] for row in periods}
    verdict.none("windows in which less is used than their keys took",
                 [f"{window}: {amount}, {windows.get(window)}" for window, amount in by_window.items() if windows.get(window, 0) < amount])
    if not without_key:
        verdict.none("windows in which another amount is used than their keys took",
                     [f"{window}: {by_window[window]}, {amount}" for window, amount in windows.items() if amount != by_window[window]])
    same_window = (f"p.user_id = u.id AND p.source = u.usage_source AND p.period_start = u.usage_period_start")
    mirror = database.rows(f"SELECT {uuid('u.id')} AS id, u.usage_count, p.used FROM users AS u LEFT JOIN usage_periods AS p ON {same_window} "
                           "WHERE u.usage_source IS NOT NULL")
    verdict.none("users whose mirror is not the ledger", [row for row in mirror if row["usage_count"] != row["used"]])
    return sum(used.values())
