"""What millions of old events change: the way in, the claim, the operator's lists."""

import statistics
import time

from lab import Failed, say

# Lists that an operator asks for, by name.
LISTS = {
    "newest": "/api/v1/admin/webhooks?limit=100",
    "pending": "/api/v1/admin/webhooks?status=pending&limit=100",
    "processing": "/api/v1/admin/webhooks?status=processing&limit=100",
    "failed": "/api/v1/admin/webhooks?status=failed&limit=100",
    "completed": "/api/v1/admin/webhooks?status=completed&limit=100",
    "by type": "/api/v1/admin/webhooks?type=customer.subscription.updated&limit=100",
    "by customer": "/api/v1/admin/webhooks?customer=cus_Bench000000042&limit=100",
    "failures": "/api/v1/admin/webhooks/failures",
}
REQUESTS = 40
# Of all old events, so many still have their payloads, as within the first month.
FULL_PART = 50

OLD = """
INSERT INTO stripe_webhooks (event_id, event_type, payload, payload_bytes, processed, processing_status, processing_attempts,
    stripe_customer_id, processed_at, created_at, updated_at, stripe_created_at, api_version, signature_verified, next_attempt_at,
    payload_emptied_at)
SELECT 'evt_old' || lpad(n::text, 17, '0'), 'customer.subscription.updated',
    CASE WHEN n % {full} = 0 THEN (SELECT payload FROM stripe_webhooks WHERE event_id = 'evt_model') ELSE '{{}}' END, 4612, true,
    'completed', 1, 'cus_Bench' || lpad((n % 500000)::text, 9, '0'), at, at, at, at, '2026-10-28.endive', true, at,
    CASE WHEN n % {full} = 0 THEN NULL ELSE at + interval '30 days' END
FROM (SELECT n, now() - interval '1 day' - n * interval '1.5 seconds' AS at FROM generate_series({first}, {last}) AS n) AS old
"""


def fill(lab, rows):
    """Old events, as pruning leaves them: most without their payloads."""
    lab.empty()
    lab.postgres.sql(
        "INSERT INTO stripe_webhooks (event_id, event_type, payload, processing_status, processed)"
        " SELECT 'evt_model', 'model', jsonb_build_object('filler', string_agg(md5(n::text), '')), 'completed', true"
        " FROM generate_series(1, 140) AS n"
    )
    step = 500_000
    for first in range(1, rows + 1, step):
        lab.postgres.sql(OLD.format(full=FULL_PART, first=first, last=min(first + step - 1, rows)))
        say(f"    {min(first + step - 1, rows)} old events")
    lab.postgres.sql("DELETE FROM stripe_webhooks WHERE event_id = 'evt_model'")
    lab.postgres.sql("VACUUM ANALYZE stripe_webhooks")
    lab.postgres.sql("CHECKPOINT")
    lab.figures.add("scale-gib", lab.postgres.sql("SELECT pg_total_relation_size('stripe_webhooks') / 1024.0 ^ 3"))


def probe(lab, state, rate):
    """The same load and the same questions, whatever the inbox holds already."""
    lab.postgres.sql("SELECT pg_stat_statements_reset()")
    before = lab.stored()
    with lab.serve() as server:
        report = lab.send(server.url, f"ack-{state}", 32, seconds=max(lab.seconds, 8), rate=rate)
        lab.drained()
        if lab.stored() - before != report["acknowledged"]:
            raise Failed("not everything acknowledged was stored")
        for name, path in LISTS.items():
            server.seconds_of(path)
            times = []
            for _ in range(REQUESTS):
                times.append(server.seconds_of(path))
            lab.figures.add(f"list-{state}-{name}", statistics.median(times) * 1000)
    claim = lab.postgres.sql(
        "SELECT sum(total_exec_time) / sum(calls) FROM pg_stat_statements WHERE query ~ 'FOR UPDATE' AND query ~ 'claim_token' AND calls > 5"
    )
    if not claim:
        raise Failed("the statement of the claim was not found among the statements that ran")
    lab.figures.add(f"claim-{state}", claim)


def compare(lab, rows):
    """Empty and full, round by round, under a quarter of the load that an empty one takes."""
    rate = max(lab.figures["both"] / 4, 50) if "both" in lab.figures else 500
    for state, prepare in (("empty", lab.empty), ("full", lambda: fill(lab, rows))):
        say(f"  an inbox that is {state}" + (f": {rows} events" if state == "full" else ""))
        begun = time.monotonic()
        prepare()
        say(f"    made in {time.monotonic() - begun:.0f} s")
        for _ in range(2):
            probe(lab, state, rate)
