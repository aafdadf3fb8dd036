//! The host's tables that the production indexes serve, and (PostgreSQL) the functions through which a host works with the inbox in SQL.
//!
//! The tables belong to the host: they are made only where they are missing, without foreign keys, since the lives of the host's rows are
//! not ours to tie to `users`. `down` drops one only if this migration made it and nobody has written to it.

use sea_orm::{ConnectionTrait, DbBackend, Statement};
use sea_orm_migration::prelude::*;

use crate::{
    dialect::run,
    made::{self, Made},
};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000007_production_schema"
    }
}

const HOST_TABLES: &[(&str, &str)] = &[
    (
        "property_analyses",
        "CREATE TABLE IF NOT EXISTS property_analyses (
    id {uuid} PRIMARY KEY DEFAULT {new_uuid},
    user_id {uuid} NOT NULL,
    address {text} NOT NULL,
    analysis_result {json} NOT NULL,
    wandb_run_id {text},
    created_at {time} NOT NULL DEFAULT {now}
)",
    ),
    (
        "support_chats",
        "CREATE TABLE IF NOT EXISTS support_chats (
    id {uuid} PRIMARY KEY DEFAULT {new_uuid},
    user_id {uuid} NOT NULL,
    conversation_id {text} NOT NULL,
    message {text} NOT NULL,
    role {text} NOT NULL CHECK (role IN ('user', 'assistant')),
    metadata {json} NOT NULL DEFAULT {empty_object},
    created_at {time} NOT NULL DEFAULT {now}
)",
    ),
    (
        "onboarding_status",
        "CREATE TABLE IF NOT EXISTS onboarding_status (
    id {uuid} PRIMARY KEY DEFAULT {new_uuid},
    user_id {uuid},
    user_email {text} NOT NULL,
    campaign_started_at {time} NOT NULL DEFAULT {now},
    emails_scheduled {json} NOT NULL DEFAULT {empty_array},
    emails_sent {json} NOT NULL DEFAULT {empty_array},
    created_at {time} NOT NULL DEFAULT {now},
    updated_at {time} NOT NULL DEFAULT {now}
)",
    ),
];

/// Functions of these names that the host has are put by under another, with their rights and all, to be given back by `down`: two of one
/// name would make calls ambiguous.
const PUT_BY: &str = "DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT p.oid, p.proname::text AS name, p.oid::regprocedure::text AS signature,
            pg_get_function_identity_arguments(p.oid) AS arguments
        FROM pg_proc AS p WHERE p.pronamespace = quote_ident(current_schema())::regnamespace
            AND p.proname IN ('get_or_create_webhook', 'mark_webhook_processed', 'get_pending_webhooks', 'get_webhook_stats') LOOP
        EXECUTE format('ALTER FUNCTION %s RENAME TO %I', f.signature, f.name || '_before_trueup');
        INSERT INTO settings (name, value) VALUES (format('kept.function.%I(%s)', f.name || '_before_trueup', f.arguments), f.name)
            ON CONFLICT DO NOTHING;
    END LOOP;
END $$";

const RESTORE: &str = "DO $$
DECLARE
    kept record;
BEGIN
    FOR kept IN SELECT substr(name, 15) AS signature, value FROM settings WHERE starts_with(name, 'kept.function.') LOOP
        EXECUTE format('ALTER FUNCTION %s RENAME TO %I', kept.signature, kept.value);
    END LOOP;
    DELETE FROM settings WHERE starts_with(name, 'kept.function.');
END $$";

/// Looks before it inserts, since most calls are repeats; whoever loses a race looks again and finds the winner's row. What is put here is
/// not verified: it waits for the host, never for our processor.
const GET_OR_CREATE: &str = "
CREATE FUNCTION get_or_create_webhook(p_event_id text, p_event_type text, p_payload jsonb, p_stripe_customer_id text DEFAULT NULL,
    p_api_version text DEFAULT NULL, p_stripe_created_at timestamptz DEFAULT NULL)
RETURNS TABLE (webhook_id uuid, already_processed boolean)
LANGUAGE plpgsql VOLATILE SET search_path = {schema}, pg_temp
AS $$
BEGIN
    LOOP
        RETURN QUERY SELECT w.id, w.processed FROM stripe_webhooks AS w WHERE w.event_id = p_event_id;
        IF FOUND THEN
            RETURN;
        END IF;
        RETURN QUERY INSERT INTO stripe_webhooks AS w (event_id, event_type, payload, payload_bytes, stripe_customer_id, api_version,
                stripe_created_at, livemode, account)
            VALUES (p_event_id, p_event_type, p_payload, octet_length(p_payload::text), p_stripe_customer_id, p_api_version,
                p_stripe_created_at, COALESCE(p_payload -> 'livemode' = 'true', false), p_payload ->> 'account')
            ON CONFLICT (event_id) DO NOTHING
            RETURNING w.id, w.processed;
        IF FOUND THEN
            RETURN;
        END IF;
    END LOOP;
END $$";

/// Only what the host put there itself is the host's to mark: marking a verified event would keep it from ever being applied.
const MARK: &str = "
CREATE FUNCTION mark_webhook_processed(p_event_id text, p_user_id uuid DEFAULT NULL, p_success boolean DEFAULT true,
    p_error text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = {schema}, pg_temp
AS $$
BEGIN
    UPDATE stripe_webhooks AS w
    SET processed = p_success, processing_status = CASE WHEN p_success THEN 'completed' ELSE 'failed' END,
        processing_attempts = w.processing_attempts + 1,
        processing_error = CASE WHEN p_success THEN NULL ELSE COALESCE(p_error, 'failed; the caller gave no reason') END,
        user_id = COALESCE(p_user_id, w.user_id), processed_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE w.event_id = p_event_id AND NOT w.signature_verified AND (p_success OR NOT w.processed);
    IF FOUND THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM stripe_webhooks AS w WHERE w.event_id = p_event_id) THEN
        RAISE EXCEPTION 'there is no webhook %', p_event_id
            USING ERRCODE = 'no_data_found', HINT = 'Put it there first: get_or_create_webhook().';
    END IF;
    IF EXISTS (SELECT FROM stripe_webhooks AS w WHERE w.event_id = p_event_id AND w.signature_verified) THEN
        RAISE WARNING 'webhook % was received by Trueup, which applies and marks it itself; this call changed nothing', p_event_id;
    END IF;
END $$";

/// Three parts, each in the words of one partial index and in its order, so that neither the table nor the queue is read as a whole:
/// what failed and what the host put there; what our processor will do; what it will do alone after crashes.
const PENDING: &str = "
CREATE FUNCTION get_pending_webhooks(p_max_attempts integer DEFAULT 5, p_limit integer DEFAULT 100)
RETURNS TABLE (id uuid, event_id text, event_type text, payload jsonb, stripe_customer_id text, processing_attempts integer,
    processing_error text, created_at timestamptz, next_attempt_at timestamptz, signature_verified boolean)
LANGUAGE sql STABLE SET search_path = {schema}, pg_temp
AS $$
    SELECT w.id, w.event_id, w.event_type, w.payload, w.stripe_customer_id, w.processing_attempts, w.processing_error,
        w.created_at, w.next_attempt_at, w.signature_verified
    FROM (
        (SELECT f.id, f.next_attempt_at FROM stripe_webhooks AS f
            WHERE (f.processing_status = 'failed' OR (f.processing_status = 'pending' AND NOT f.signature_verified))
                AND f.processing_attempts < p_max_attempts
            ORDER BY f.next_attempt_at LIMIT p_limit)
        UNION ALL
        (SELECT d.id, d.next_attempt_at FROM stripe_webhooks AS d
            WHERE d.processing_status = 'pending' AND d.signature_verified AND d.crashes < 2
                AND d.processing_attempts < p_max_attempts
            ORDER BY d.next_attempt_at LIMIT p_limit)
        UNION ALL
        (SELECT s.id, s.next_attempt_at FROM stripe_webhooks AS s
            WHERE s.processing_status = 'pending' AND s.signature_verified AND s.crashes >= 2
                AND s.processing_attempts < p_max_attempts
            ORDER BY s.next_attempt_at LIMIT p_limit)
        ORDER BY 2 LIMIT p_limit
    ) AS first JOIN stripe_webhooks AS w ON w.id = first.id
    ORDER BY w.next_attempt_at, w.id
$$";

const STATS: &str = "
CREATE FUNCTION get_webhook_stats(p_hours integer DEFAULT 24)
RETURNS TABLE (event_type text, total_count bigint, completed_count bigint, failed_count bigint, pending_count bigint,
    avg_processing_time numeric, success_rate numeric)
LANGUAGE sql STABLE SET search_path = {schema}, pg_temp
AS $$
    SELECT w.event_type, count(*), count(*) FILTER (WHERE w.processing_status = 'completed'),
        count(*) FILTER (WHERE w.processing_status = 'failed'),
        count(*) FILTER (WHERE w.processing_status IN ('pending', 'processing')),
        round(avg(extract(epoch FROM w.processed_at - w.created_at)::numeric)
            FILTER (WHERE w.processing_status = 'completed'), 3),
        round(100.0 * count(*) FILTER (WHERE w.processing_status = 'completed')
            / NULLIF(count(*) FILTER (WHERE w.processing_status IN ('completed', 'failed')), 0), 2)
    FROM stripe_webhooks AS w
    WHERE w.created_at > now() - make_interval(hours => p_hours)
    GROUP BY w.event_type
    ORDER BY count(*) DESC, w.event_type
$$";

const COMMENTS: &[&str] = &[
    "COMMENT ON FUNCTION get_or_create_webhook(text, text, jsonb, text, text, timestamptz) IS
        'The row of an event, made where there is none. Such a row is unverified: the host processes it, Trueup never does.'",
    "COMMENT ON FUNCTION mark_webhook_processed(text, uuid, boolean, text) IS
        'Marks an event that the host put there itself. Events that Trueup received are not changed.'",
    "COMMENT ON FUNCTION get_pending_webhooks(integer, integer) IS
        'What waits for an attempt, what is due first at the front. Those with signature_verified are for Trueup, the others for the host.'",
    "COMMENT ON FUNCTION get_webhook_stats(integer) IS
        'By type, of the last hours; no rows where nothing came. avg_processing_time: seconds from arrival to completion.
success_rate: completed of 100 that completed or failed, null where none did.'",
];

/// On Supabase every new function of the schema `public` may be called by browsers, unless that is taken back from each role by name.
const RIGHTS: &str = "DO $$
DECLARE
    callee text;
    caller text;
BEGIN
    FOREACH callee IN ARRAY ARRAY['get_or_create_webhook(text, text, jsonb, text, text, timestamptz)',
        'mark_webhook_processed(text, uuid, boolean, text)', 'get_pending_webhooks(integer, integer)', 'get_webhook_stats(integer)'] LOOP
        FOR caller IN SELECT 'PUBLIC' UNION ALL SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %s', callee, caller);
        END LOOP;
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'service_role') THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO service_role', callee);
        END IF;
    END LOOP;
END $$";

async fn make_functions(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let db = manager.get_connection();
    let sql = "SELECT quote_ident(current_schema()) AS name";
    let row = db.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
    let schema: Option<String> = row.map(|row| row.try_get("", "name")).transpose()?;
    let schema = schema.ok_or_else(|| {
        DbErr::Custom("no schema to make functions in: `search_path` of this connection names none that exists".into())
    })?;
    run(manager, &[PUT_BY]).await?;
    for function in [GET_OR_CREATE, MARK, PENDING, STATS] {
        run(manager, &[&function.replace("{schema}", &schema)]).await?;
    }
    run(manager, COMMENTS).await?;
    run(manager, &[RIGHTS]).await
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, create) in HOST_TABLES {
            made::note(manager, Made::Table, table).await?;
            run(manager, &[create]).await?;
        }
        if manager.get_database_backend() == DbBackend::Postgres {
            make_functions(manager).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        let backend = manager.get_database_backend();
        if backend == DbBackend::Postgres {
            run(
                manager,
                &[
                    "DROP FUNCTION IF EXISTS get_webhook_stats(integer)",
                    "DROP FUNCTION IF EXISTS get_pending_webhooks(integer, integer)",
                    "DROP FUNCTION IF EXISTS mark_webhook_processed(text, uuid, boolean, text)",
                    "DROP FUNCTION IF EXISTS get_or_create_webhook(text, text, jsonb, text, text, timestamptz)",
                    RESTORE,
                ],
            )
            .await?;
        }
        for (table, _) in HOST_TABLES.iter().rev() {
            if !made::is_ours(manager, Made::Table, table).await? {
                continue;
            }
            if backend == DbBackend::Postgres {
                // Nobody writes between the look and the drop.
                run(manager, &[&format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")]).await?;
            }
            let first = Statement::from_string(backend, format!("SELECT 1 AS one FROM {table} LIMIT 1"));
            if db.query_one_raw(first).await?.is_none() {
                run(manager, &[&format!("DROP TABLE {table}")]).await?;
            } else {
                tracing::warn!(table, "this table holds rows of the host and is left where it is");
            }
            made::forget(manager, Made::Table, table).await?;
        }
        Ok(())
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
