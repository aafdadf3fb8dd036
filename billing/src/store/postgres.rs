//! The inbox's hot statements in PostgreSQL's words. `$1` and so on are explained where they are bound, in [`super::inbox`].

/// The database's clock, in microseconds, and moving within a transaction.
pub(crate) const NOW: &str = "clock_timestamp()";

/// Every batch inserts its rows in the order of their ids, so that two batches with the same events cannot lock each other out.
pub(crate) const INSERT: &str = "
INSERT INTO stripe_webhooks (id, event_id, event_type, payload, payload_bytes, processing_status, processed,
    processing_error, processed_at, stripe_customer_id, stripe_created_at, api_version, signature_verified, livemode,
    account, source)
SELECT id, event_id, event_type, payload::jsonb, bytes, CASE WHEN skipped = '' THEN 'pending' ELSE 'skipped' END, skipped <> '',
    nullif(skipped, ''), CASE WHEN skipped <> '' THEN now() END, nullif(customer, ''),
    CASE WHEN created >= 0 THEN to_timestamp(created) END, nullif(api_version, ''), true, livemode,
    nullif(account, ''), source
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::bigint[], $9::text[],
    $10::boolean[], $11::text[], $12::text[])
    AS t (id, event_id, event_type, payload, bytes, skipped, customer, created, api_version, livemode, account, source)
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id";

/// A row that SQL put there (nobody vouches for it, and nobody applies it) must not stand in the way of the event itself: once that is
/// delivered and verified, the row is the event's, as if it had been recorded now.
pub(crate) const TAKE_OVER: &str = "
UPDATE stripe_webhooks AS w
SET event_type = t.event_type, payload = t.payload::jsonb, payload_bytes = t.bytes,
    processing_status = CASE WHEN t.skipped = '' THEN 'pending' ELSE 'skipped' END, processed = t.skipped <> '',
    processing_attempts = 0, processing_error = nullif(t.skipped, ''), processing_error_details = NULL, error_fingerprint = NULL,
    processed_at = CASE WHEN t.skipped <> '' THEN now() END, stripe_customer_id = nullif(t.customer, ''),
    stripe_created_at = CASE WHEN t.created >= 0 THEN to_timestamp(t.created) END, api_version = nullif(t.api_version, ''),
    signature_verified = true, livemode = t.livemode, account = nullif(t.account, ''), source = t.source,
    next_attempt_at = now(), updated_at = now()
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::bigint[], $9::text[],
    $10::boolean[], $11::text[], $12::text[])
    AS t (id, event_id, event_type, payload, bytes, skipped, customer, created, api_version, livemode, account, source)
WHERE w.event_id = t.event_id AND NOT w.signature_verified
RETURNING w.event_id";

pub(crate) const CLAIM: &str = "
WITH due AS (
    SELECT id, payload_bytes, next_attempt_at FROM stripe_webhooks
    WHERE processing_status = 'pending' AND next_attempt_at <= now() AND signature_verified AND {which}
    ORDER BY next_attempt_at LIMIT $1
    FOR UPDATE SKIP LOCKED
), fitting AS (
    SELECT id FROM (
        SELECT id, row_number() OVER queue AS place, sum(payload_bytes) OVER queue AS bytes FROM due
        WINDOW queue AS (ORDER BY next_attempt_at, id ROWS UNBOUNDED PRECEDING)
    ) AS queued WHERE place = 1 OR bytes <= $2
)
UPDATE stripe_webhooks AS w
SET processing_status = 'processing', claimed_by = $3, claim_token = $4,
    claimed_until = clock_timestamp() + make_interval(secs => $5), updated_at = now()
FROM fitting WHERE w.id = fitting.id
RETURNING w.id, w.event_id, w.event_type, w.payload::text AS payload, w.processing_attempts, w.processing_error_details,
    w.source, w.created_at, w.stripe_created_at, w.next_attempt_at, clock_timestamp() AS db_now";

/// The token alone tells that the claim holds: whatever ends a claim takes it away. A condition on the status as well would send the planner
/// to the index of claims, which a backlog fills with dead entries, once for every row.
pub(crate) const MARK: &str = "
UPDATE stripe_webhooks AS w
SET processing_status = r.status, processed = r.status IN ('completed', 'skipped'), processing_error = r.error,
    processing_error_details = r.details, error_fingerprint = r.fingerprint, user_id = COALESCE(r.user_id, w.user_id),
    waits_for = r.waits_for, processing_attempts = r.attempts,
    processed_at = CASE WHEN r.status IN ('completed', 'skipped', 'failed') THEN clock_timestamp() END,
    next_attempt_at = CASE WHEN r.delay IS NULL THEN w.next_attempt_at ELSE clock_timestamp() + make_interval(secs => r.delay) END,
    claimed_by = NULL, claim_token = NULL, claimed_until = NULL, updated_at = clock_timestamp()
FROM json_to_recordset($1::json) AS r (id uuid, status text, error text, details jsonb, fingerprint text, user_id uuid,
    waits_for text, attempts integer, delay double precision)
WHERE w.id = r.id AND w.claim_token = $2";

pub(crate) const RENEW: &str = "
UPDATE stripe_webhooks SET claimed_until = clock_timestamp() + make_interval(secs => $2)
WHERE claim_token = $1 AND processing_status = 'processing'";

/// Whatever was derived until now no longer holds: the user is due. Counts and windows are for [`super::usage`] alone to write.
pub(crate) const SAVE_USERS: &str = "
UPDATE users AS u
SET subscription_tier = r.tier, subscription_status = r.status, subscription_access = r.access,
    subscription_stripe_customer_id = r.customer, subscription_stripe_subscription_id = r.subscription,
    subscription_current_period_end = r.current_period_end, subscription_cancel_at = r.cancel_at,
    usage_limit = r.usage_limit, entitlement_changes_at = r.entitlement_changes_at, rolls_at = 'epoch', updated_at = clock_timestamp()
FROM json_to_recordset($1::json) AS r (id uuid, tier text, status text, access boolean, customer text, subscription text,
    current_period_end timestamptz, cancel_at timestamptz, usage_limit bigint, entitlement_changes_at timestamptz)
WHERE u.id = r.id";

/// Whoever else works on one of these keys waits until this transaction ends. Sorted, so that two waiters never wait for each other.
pub(crate) const LOCK_KEYS: &str = "
SELECT count(*) FROM (SELECT pg_advisory_xact_lock(key) FROM (SELECT DISTINCT unnest($1::bigint[]) AS key ORDER BY 1) AS keys) AS locked";

/// Newest speaking invoice of each subscription.
pub(crate) const NEWEST_INVOICES: &str = "id IN (SELECT (SELECT i.id FROM invoices AS i WHERE i.subscription_id = s.id
    AND i.billing_reason IN ('subscription_create', 'subscription_cycle', 'subscription_threshold', 'subscription_update')
    ORDER BY i.stripe_created_at DESC NULLS LAST, i.id COLLATE \"C\" DESC LIMIT 1) FROM unnest($1::text[]) AS s (id))";
