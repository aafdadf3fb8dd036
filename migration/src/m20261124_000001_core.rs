//! Users, the inbox, the facts from Stripe, the timeline and the outbox.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{
    adoption::{self, columns},
    dialect::run,
    indexes::{Index, make},
    made::SETTINGS,
};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000001_core"
    }
}

const USERS: &str = "
CREATE TABLE users (
    id {uuid} PRIMARY KEY DEFAULT {new_uuid},
    email {text} NOT NULL,
    full_name {text},
    subscription_tier {text} NOT NULL DEFAULT 'free',
    subscription_status {text} NOT NULL DEFAULT 'active',
    subscription_access {bool} NOT NULL DEFAULT {false},
    subscription_stripe_customer_id {text},
    subscription_stripe_subscription_id {text},
    subscription_current_period_end {time},
    subscription_cancel_at {time},
    usage_count {bigint} NOT NULL DEFAULT 0,
    usage_limit {bigint} DEFAULT 5,
    usage_period_start {time},
    usage_period_end {time},
    last_login {time},
    created_at {time} NOT NULL DEFAULT {now},
    updated_at {time} NOT NULL DEFAULT {now}
)";

const WEBHOOKS: &str = "
CREATE TABLE stripe_webhooks (
    id {uuid} PRIMARY KEY DEFAULT {new_uuid},
    event_id {text} NOT NULL,
    event_type {text} NOT NULL,
    payload {json} NOT NULL,
    payload_bytes {int} NOT NULL DEFAULT 0,
    processed {bool} NOT NULL DEFAULT {false},
    processing_status {text} NOT NULL DEFAULT 'pending'
        CHECK (processing_status IN ('pending', 'processing', 'completed', 'failed', 'skipped')),
    processing_attempts {int} NOT NULL DEFAULT 0,
    processing_error {text},
    processing_error_details {json},
    error_fingerprint {text},
    user_id {uuid} REFERENCES users (id) ON DELETE SET NULL,
    stripe_customer_id {text},
    waits_for {text},
    processed_at {time},
    created_at {time} NOT NULL DEFAULT {now},
    updated_at {time} NOT NULL DEFAULT {now},
    stripe_created_at {time},
    api_version {text},
    signature_verified {bool} NOT NULL DEFAULT {false},
    livemode {bool} NOT NULL DEFAULT {false},
    account {text},
    source {text} NOT NULL DEFAULT 'webhook' CHECK (source IN ('webhook', 'recovery', 'replay')),
    next_attempt_at {time} NOT NULL DEFAULT {now},
    claimed_by {text},
    claim_token {uuid},
    claimed_until {time},
    crashes {int} NOT NULL DEFAULT 0
)";

const CUSTOMERS: &str = "
CREATE TABLE stripe_customers (
    id {text} PRIMARY KEY,
    user_id {uuid} REFERENCES users (id) ON DELETE SET NULL,
    link_user_id {uuid},
    link_evidence {text},
    link_at {time},
    link_event_id {text},
    email {text},
    deleted_at {time},
    stripe_created_at {time},
    version_rank {smallint} NOT NULL DEFAULT 0,
    version_at {time} NOT NULL,
    version_event_id {text},
    created_at {time} NOT NULL DEFAULT {now},
    updated_at {time} NOT NULL DEFAULT {now}
)";

const SUBSCRIPTIONS: &str = "
CREATE TABLE subscriptions (
    id {text} PRIMARY KEY,
    user_id {uuid} REFERENCES users (id) ON DELETE SET NULL,
    link_user_id {uuid},
    link_evidence {text},
    link_at {time},
    link_event_id {text},
    stripe_customer_id {text},
    status {text} NOT NULL,
    items {json} NOT NULL DEFAULT {empty_array},
    price_id {text},
    product_id {text},
    lookup_key {text},
    quantity {bigint},
    currency {text},
    interval {text},
    interval_count {bigint},
    billing_cycle_anchor {time},
    current_period_start {time},
    current_period_end {time},
    trial_start {time},
    trial_end {time},
    cancel_at {time},
    cancel_at_period_end {bool} NOT NULL DEFAULT {false},
    canceled_at {time},
    ended_at {time},
    pause_collection {text},
    livemode {bool} NOT NULL DEFAULT {false},
    metadata {json} NOT NULL DEFAULT {empty_object},
    rank {smallint} NOT NULL,
    version_at {time} NOT NULL,
    version_kind {smallint} NOT NULL,
    version_event_id {text} NOT NULL,
    needs_refresh {bool} NOT NULL DEFAULT {false},
    stripe_created_at {time},
    created_at {time} NOT NULL DEFAULT {now},
    updated_at {time} NOT NULL DEFAULT {now}
)";

const INVOICES: &str = "
CREATE TABLE invoices (
    id {text} PRIMARY KEY,
    user_id {uuid} REFERENCES users (id) ON DELETE SET NULL,
    stripe_customer_id {text},
    subscription_id {text},
    number {text},
    status {text},
    billing_reason {text},
    currency {text},
    amount_due {bigint},
    amount_paid {bigint},
    attempt_count {bigint},
    next_payment_attempt {time},
    hosted_invoice_url {text},
    invoice_pdf {text},
    period_start {time},
    period_end {time},
    first_failed_at {time},
    failed_at {time},
    paid_at {time},
    version_status {text},
    version_at {time} NOT NULL,
    version_event_id {text} NOT NULL,
    stripe_created_at {time},
    created_at {time} NOT NULL DEFAULT {now},
    updated_at {time} NOT NULL DEFAULT {now}
)";

const CHANGES: &str = "
CREATE TABLE entitlement_changes (
    id {uuid} PRIMARY KEY DEFAULT {new_uuid},
    user_id {uuid} NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    changed_at {time} NOT NULL DEFAULT {now},
    source {text} NOT NULL,
    event_id {text},
    reconciliation_id {uuid},
    before {json} NOT NULL,
    after {json} NOT NULL,
    reason {text} NOT NULL
)";

const OUTBOX: &str = "
CREATE TABLE email_outbox (
    id {uuid} PRIMARY KEY DEFAULT {new_uuid},
    user_id {uuid} NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    kind {text} NOT NULL,
    dedupe_key {text} NOT NULL UNIQUE,
    data {json} NOT NULL,
    status {text} NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'sent', 'dropped', 'failed')),
    attempts {int} NOT NULL DEFAULT 0,
    next_attempt_at {time} NOT NULL DEFAULT {now},
    error {text},
    sent_at {time},
    created_at {time} NOT NULL DEFAULT {now}
)";

pub(crate) const INDEXES: &[Index] = &[
    Index::unique("users_email_key", "users", "(lower(email {bytewise}))"),
    Index::new(
        "idx_users_stripe_customer_lookup",
        "users",
        "(subscription_stripe_customer_id)
            WHERE subscription_stripe_customer_id IS NOT NULL",
    ),
    Index::unique("idx_stripe_webhooks_event_id", "stripe_webhooks", "(event_id)"),
    // Newest first, in lists and by status.
    Index::new("idx_stripe_webhooks_recent", "stripe_webhooks", "(created_at DESC, id DESC)"),
    Index::new(
        "idx_stripe_webhooks_status",
        "stripe_webhooks",
        "(processing_status, created_at DESC)
            WHERE processing_status IN ('failed', 'skipped')",
    ),
    Index::new(
        "idx_stripe_webhooks_customer",
        "stripe_webhooks",
        "(stripe_customer_id)
            WHERE stripe_customer_id IS NOT NULL",
    ),
    Index::new("idx_stripe_webhooks_user", "stripe_webhooks", "(user_id) WHERE user_id IS NOT NULL"),
    // The queue: what is due, what is claimed, what waits for a user.
    Index::new(
        "stripe_webhooks_due",
        "stripe_webhooks",
        "(next_attempt_at)
            WHERE processing_status = 'pending' AND signature_verified AND crashes < 2",
    ),
    Index::new(
        "stripe_webhooks_suspect",
        "stripe_webhooks",
        "(next_attempt_at)
            WHERE processing_status = 'pending' AND signature_verified AND crashes >= 2",
    ),
    Index::new("stripe_webhooks_claimed", "stripe_webhooks", "(claimed_until) WHERE processing_status = 'processing'"),
    Index::new("stripe_webhooks_waiting", "stripe_webhooks", "(waits_for) WHERE waits_for IS NOT NULL"),
    Index::new("stripe_customers_user", "stripe_customers", "(user_id) WHERE user_id IS NOT NULL"),
    Index::new("stripe_customers_link_user", "stripe_customers", "(link_user_id) WHERE link_user_id IS NOT NULL"),
    Index::new("stripe_customers_email", "stripe_customers", "(lower(email {bytewise}))"),
    Index::new("subscriptions_user", "subscriptions", "(user_id) WHERE user_id IS NOT NULL"),
    Index::new("subscriptions_link_user", "subscriptions", "(link_user_id) WHERE link_user_id IS NOT NULL"),
    Index::new("subscriptions_customer", "subscriptions", "(stripe_customer_id) WHERE stripe_customer_id IS NOT NULL"),
    Index::new("subscriptions_refresh", "subscriptions", "(id) WHERE needs_refresh"),
    Index::new(
        "invoices_subscription",
        "invoices",
        "(subscription_id, stripe_created_at DESC {nulls_last}, id {bytewise} DESC)
            WHERE subscription_id IS NOT NULL",
    ),
    Index::new("invoices_user", "invoices", "(user_id) WHERE user_id IS NOT NULL"),
    Index::new("entitlement_changes_user", "entitlement_changes", "(user_id, changed_at DESC, id DESC)"),
    Index::new("email_outbox_due", "email_outbox", "(next_attempt_at) WHERE status = 'pending'"),
];

/// Payloads compress to a third with lz4 at a fraction of pglz's cost; the queue's rows change three times in their
/// lives, so room is left in their pages.
const POSTGRES_STORAGE: &[&str] = &[
    "DO $$ BEGIN
        ALTER TABLE stripe_webhooks ALTER COLUMN payload SET COMPRESSION lz4;
    EXCEPTION WHEN feature_not_supported OR syntax_error OR invalid_parameter_value THEN
        RAISE NOTICE 'lz4 is not available here; payloads keep the default compression';
    END $$",
    "ALTER TABLE stripe_webhooks SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05)",
];

/// Takes the host's tables, all at once and not for long: references to a table and new columns of it need it for themselves, and whoever took
/// them one by one could come to wait for somebody who waits for him.
async fn hold(manager: &SchemaManager<'_>, users: bool, webhooks: bool) -> Result<(), DbErr> {
    let tables: Vec<&str> = [("users", users), ("stripe_webhooks", webhooks)]
        .iter()
        .filter(|(_, hold)| *hold)
        .map(|(name, _)| *name)
        .collect();
    if tables.is_empty() {
        return Ok(());
    }
    run(manager, &[adoption::PATIENCE, &format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", tables.join(", "))]).await
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let users = adoption::is_adopted(manager, "users").await?;
        let webhooks = adoption::is_adopted(manager, "stripe_webhooks").await?;
        hold(manager, users, webhooks).await?;
        run(manager, &[SETTINGS]).await?;
        if users {
            let there = columns::columns(manager.get_connection(), "users").await?;
            let statements = columns::adopting("users", &there, columns::USERS);
            run(manager, &statements.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        } else {
            run(manager, &[USERS]).await?;
        }
        if webhooks {
            adoption::inbox::alter(manager).await?;
        } else {
            run(manager, &[WEBHOOKS]).await?;
        }
        run(manager, &[CUSTOMERS, SUBSCRIPTIONS, INVOICES, CHANGES, OUTBOX]).await?;
        make(manager, INDEXES).await?;
        if manager.get_database_backend() == DbBackend::Postgres && !webhooks {
            run(manager, POSTGRES_STORAGE).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let users = adoption::is_adopted(manager, "users").await?;
        let webhooks = adoption::is_adopted(manager, "stripe_webhooks").await?;
        hold(manager, users, webhooks).await?;
        run(
            manager,
            &[
                "DROP TABLE email_outbox",
                "DROP TABLE entitlement_changes",
                "DROP TABLE invoices",
                "DROP TABLE subscriptions",
                "DROP TABLE stripe_customers",
            ],
        )
        .await?;
        if webhooks {
            adoption::inbox::leave(manager).await?;
        } else {
            run(manager, &["DROP TABLE stripe_webhooks"]).await?;
        }
        if users {
            let statements = columns::leaving(manager.get_connection(), "users").await?;
            run(manager, &statements.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        } else {
            run(manager, &["DROP TABLE users"]).await?;
        }
        // What is noted of an adoption goes with its first step.
        if users || webhooks { Ok(()) } else { run(manager, &["DROP TABLE settings"]).await }
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
