"""Due users on SQLite, as reset-users.sql makes them on PostgreSQL. make FILE USERS, plain FILE, check FILE USES."""

import calendar
import hashlib
import json
import sqlite3
import sys
import time
from datetime import datetime, timedelta, timezone

NOW = datetime.now(timezone.utc).replace(microsecond=0)
MONTH = NOW.replace(day=1, hour=0, minute=0, second=0)


def plus_months(moment, months):
    number = moment.year * 12 + moment.month - 1 + months
    year, month = divmod(number, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)


def text(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%S+00:00")


def connect(file):
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("PRAGMA synchronous = full")
    connection.execute("PRAGMA temp_store = memory")
    return connection


def made(number):
    kind, used = number % 20, number % 7
    days, months = number % 25 + 1, number % 11 + 1
    user = hashlib.md5(f"user {number}".encode()).digest()
    if kind < 16:
        start = plus_months(MONTH, -1)
        row = (user, f"user{number}@example.com", "free", 0, None, None, used, 5, text(start), text(MONTH), "free", text(MONTH))
        return row, None
    yearly, renewed = kind == 19, kind in (16, 17)
    anchor = plus_months(NOW, -(months if yearly else 1)) - timedelta(days=days)
    start = plus_months(anchor, months - 1) if yearly else anchor
    end = plus_months(anchor, months) if yearly else plus_months(anchor, 1)
    subscription = f"sub_{number}"
    if yearly:
        period = (anchor, plus_months(anchor, 12))
    else:
        period = (end, plus_months(anchor, 2)) if renewed else (anchor, end)
    rolls_at = "1970-01-01T00:00:00+00:00" if renewed else text(end)
    row = (user, f"user{number}@example.com", "pro", 1, f"cus_{number}", subscription, used, 100, text(start), text(end),
           subscription, rolls_at)
    interval = "year" if yearly else "month"
    items = json.dumps([{"lookup_key": "pro", "interval": interval, "interval_count": 1}])
    facts = (subscription, user, f"cus_{number}", items, interval, text(anchor), text(period[0]), text(period[1]), text(anchor))
    return row, facts


def make(file, users):
    connection = connect(file)
    rows = [made(number) for number in range(1, int(users) + 1)]
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO users (id, email, subscription_tier, subscription_access, subscription_stripe_customer_id,"
        " subscription_stripe_subscription_id, usage_count, usage_limit, usage_period_start, usage_period_end, usage_source,"
        " rolls_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [row for row, _ in rows])
    connection.execute(
        "INSERT INTO usage_periods (user_id, source, period_start, period_end, used, usage_limit, tier)"
        " SELECT id, usage_source, usage_period_start, usage_period_end, usage_count, usage_limit, subscription_tier FROM users")
    connection.executemany(
        "INSERT INTO subscriptions (id, user_id, stripe_customer_id, status, items, interval, interval_count, billing_cycle_anchor,"
        " current_period_start, current_period_end, rank, version_at, version_kind, version_event_id)"
        " VALUES (?, ?, ?, 'active', ?, ?, 1, ?, ?, ?, 3, ?, 1, 'evt')", [facts for _, facts in rows if facts])
    connection.execute("COMMIT")
    connection.execute("ANALYZE")
    print(sum(row[6] for row, _ in rows))
    connection.execute("PRAGMA wal_checkpoint(truncate)")
    connection.close()


def plain(file):
    connection = connect(file)
    begun = time.monotonic()
    connection.execute("UPDATE users SET usage_count = 0, usage_period_start = ?, usage_period_end = ?, updated_at = ?",
                       (text(MONTH), text(plus_months(MONTH, 1)), text(NOW)))
    print(f"{time.monotonic() - begun:.3f}")


def check(file, uses):
    connection = connect(file)
    one = lambda sql, *values: connection.execute(sql, values).fetchone()[0]
    users, now = one("SELECT count(*) FROM users"), text(datetime.now(timezone.utc))
    found = {
        "still due": (0, one("SELECT count(*) FROM users WHERE rolls_at <= ?", now)),
        "open windows": (users, one("SELECT count(*) FROM usage_periods WHERE closed_at IS NULL")),
        "open windows that hold now and are mirrored": (users, one(
            "SELECT count(*) FROM users AS u JOIN usage_periods AS p ON p.user_id = u.id AND p.source = u.usage_source"
            " AND p.period_start = u.usage_period_start AND p.period_end = u.usage_period_end AND p.used = u.usage_count"
            " WHERE p.closed_at IS NULL AND p.used = 0 AND p.period_start <= ?1 AND ?1 < p.period_end", now)),
        "windows": (2 * users, one("SELECT count(*) FROM usage_periods")),
        "uses": (int(uses), one("SELECT sum(used) FROM usage_periods")),
    }
    wrong = {what: pair for what, pair in found.items() if pair[0] != pair[1]}
    if wrong:
        sys.exit(f"expected and found: {wrong}")


{"make": make, "plain": plain, "check": check}[sys.argv[1]](*sys.argv[2:])
