//! The inbox's hot statements in `SQLite`'s words. `$1` and so on are explained where they are bound, in [`super::inbox`].

/// The database's clock, in milliseconds.
pub(crate) const NOW: &str = "strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')";

pub(crate) const INSERT: &str = "
INSERT INTO stripe_webhooks (id, event_id, event_type, payload, payload_bytes, processing_status, processed,
    processing_error, processed_at, stripe_customer_id, stripe_created_at, api_version, signature_verified, livemode,
    account, source)
SELECT unhex(value ->> '$.id', '-'), value ->> '$.event_id', value ->> '$.event_type', value ->> '$.payload', value ->> '$.bytes',
    CASE WHEN value ->> '$.skipped' = '' THEN 'pending' ELSE 'skipped' END, value ->> '$.skipped' <> '',
    nullif(value ->> '$.skipped', ''),
    CASE WHEN value ->> '$.skipped' <> '' THEN strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now') END,
    nullif(value ->> '$.customer', ''),
    CASE WHEN value ->> '$.created' >= 0 THEN strftime('%Y-%m-%dT%H:%M:%S+00:00', value ->> '$.created', 'unixepoch') END,
    nullif(value ->> '$.api_version', ''), 1, value ->> '$.livemode', nullif(value ->> '$.account', ''), value ->> '$.source'
FROM json_each($1) WHERE true
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id";

/// See the other database's.
pub(crate) const TAKE_OVER: &str = "
UPDATE stripe_webhooks
SET event_type = t.value ->> '$.event_type', payload = t.value ->> '$.payload', payload_bytes = t.value ->> '$.bytes',
    processing_status = CASE WHEN t.value ->> '$.skipped' = '' THEN 'pending' ELSE 'skipped' END, processed = t.value ->> '$.skipped' <> '',
    processing_attempts = 0, processing_error = nullif(t.value ->> '$.skipped', ''), processing_error_details = NULL,
    error_fingerprint = NULL,
    processed_at = CASE WHEN t.value ->> '$.skipped' <> '' THEN strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now') END,
    stripe_customer_id = nullif(t.value ->> '$.customer', ''),
    stripe_created_at = CASE WHEN t.value ->> '$.created' >= 0
        THEN strftime('%Y-%m-%dT%H:%M:%S+00:00', t.value ->> '$.created', 'unixepoch') END,
    api_version = nullif(t.value ->> '$.api_version', ''), signature_verified = 1, livemode = t.value ->> '$.livemode',
    account = nullif(t.value ->> '$.account', ''), source = t.value ->> '$.source',
    next_attempt_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now'), updated_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')
FROM json_each($1) AS t
WHERE stripe_webhooks.event_id = t.value ->> '$.event_id' AND NOT signature_verified
RETURNING event_id";

pub(crate) const CLAIM: &str = "
UPDATE stripe_webhooks
SET processing_status = 'processing', claimed_by = $3, claim_token = $4,
    claimed_until = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '+' || $5 || ' seconds'),
    updated_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')
WHERE id IN (
    SELECT id FROM (
        SELECT id, row_number() OVER queue AS place, sum(payload_bytes) OVER queue AS bytes FROM (
            SELECT id, payload_bytes, next_attempt_at FROM stripe_webhooks
            WHERE processing_status = 'pending' AND next_attempt_at <= strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')
                AND signature_verified AND {which}
            ORDER BY next_attempt_at LIMIT $1)
        WINDOW queue AS (ORDER BY next_attempt_at, id ROWS UNBOUNDED PRECEDING)
    ) WHERE place = 1 OR bytes <= $2)
RETURNING id, event_id, event_type, payload, processing_attempts, processing_error_details, source, created_at,
    stripe_created_at, next_attempt_at, strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now') AS db_now";

pub(crate) const MARK: &str = "
UPDATE stripe_webhooks
SET processing_status = r.value ->> '$.status', processed = r.value ->> '$.status' IN ('completed', 'skipped'),
    processing_error = r.value ->> '$.error', processing_error_details = nullif(r.value -> '$.details', 'null'),
    error_fingerprint = r.value ->> '$.fingerprint', user_id = COALESCE(unhex(r.value ->> '$.user_id', '-'), user_id),
    waits_for = r.value ->> '$.waits_for', processing_attempts = r.value ->> '$.attempts',
    processed_at = CASE WHEN r.value ->> '$.status' IN ('completed', 'skipped', 'failed')
        THEN strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now') END,
    next_attempt_at = CASE WHEN r.value ->> '$.delay' IS NULL THEN next_attempt_at
        ELSE strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '+' || (r.value ->> '$.delay') || ' seconds') END,
    claimed_by = NULL, claim_token = NULL, claimed_until = NULL, updated_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')
FROM json_each($1) AS r
WHERE stripe_webhooks.id = unhex(r.value ->> '$.id', '-') AND claim_token = $2";

pub(crate) const RENEW: &str = "
UPDATE stripe_webhooks SET claimed_until = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '+' || $2 || ' seconds')
WHERE claim_token = $1 AND processing_status = 'processing'";

/// Whatever was derived until now no longer holds: the user is due. Counts and windows are for [`super::usage`] alone to write.
pub(crate) const SAVE_USERS: &str = "
UPDATE users
SET subscription_tier = r.value ->> '$.tier', subscription_status = r.value ->> '$.status',
    subscription_access = r.value ->> '$.access', subscription_stripe_customer_id = r.value ->> '$.customer',
    subscription_stripe_subscription_id = r.value ->> '$.subscription',
    subscription_current_period_end = replace(r.value ->> '$.current_period_end', 'Z', '+00:00'),
    subscription_cancel_at = replace(r.value ->> '$.cancel_at', 'Z', '+00:00'),
    usage_limit = r.value ->> '$.usage_limit',
    entitlement_changes_at = replace(r.value ->> '$.entitlement_changes_at', 'Z', '+00:00'),
    rolls_at = '1970-01-01T00:00:00+00:00', updated_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')
FROM json_each($1) AS r WHERE users.id = unhex(r.value ->> '$.id', '-')";

/// Newest speaking invoice of each subscription.
pub(crate) const NEWEST_INVOICES: &str = "id IN (SELECT (SELECT i.id FROM invoices AS i WHERE i.subscription_id = s.value
    AND i.billing_reason IN ('subscription_create', 'subscription_cycle', 'subscription_threshold', 'subscription_update')
    ORDER BY i.stripe_created_at DESC, i.id DESC LIMIT 1) FROM json_each(?) AS s)";
