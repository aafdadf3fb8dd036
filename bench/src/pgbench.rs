//! The same row, one per transaction, by the hand of pgbench.

/// The script. Row, columns and casts are those of the server's own statement (`billing/src/store/postgres.rs`); ids grow with time, as
/// the server's UUIDv7 and Stripe's event ids do. The payload is a parameter, so that it is sent and parsed every time, as any
/// client's would be. Rows are `completed` from the start, which spares pgbench the entry in the queue's index.
pub(crate) fn script(customers: u32) -> String {
    format!(
        r"\set customer random(0, {customers} - 1)
INSERT INTO stripe_webhooks (id, event_id, event_type, payload, payload_bytes, processing_status, processed,
    processing_error, processed_at, stripe_customer_id, stripe_created_at, api_version, signature_verified, livemode,
    account, source)
SELECT (prefix || substr(random, 13))::uuid, 'evt_1' || prefix || left(random, 14), 'customer.subscription.updated',
    :payload::text::jsonb, octet_length(:payload::text), 'completed', true, NULL, NULL,
    'cus_Bench' || lpad(:customer::text, 9, '0'), to_timestamp(floor(extract(epoch FROM now()))), '2026-10-28.endive', true,
    false, NULL, 'webhook'
FROM (SELECT lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') AS prefix,
    replace(gen_random_uuid()::text, '-', '') AS random) AS ids
ON CONFLICT (event_id) DO NOTHING;"
    )
}
