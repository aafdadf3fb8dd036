//! The indexes of production. What each serves, and by how much, is measured by `scripts/explain-indexes` and told in `docs/indexes.md`.
//!
//! Some of them the core has already made. They are listed all the same: one that was lost or left half-built comes back.

use sea_orm_migration::prelude::*;

use crate::indexes::{Index, build, unbuild};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000009_production_indexes"
    }
}

/// On a table of ours, in the words of both databases.
const fn ours(name: &'static str, table: &'static str, on: &'static str) -> Index {
    Index { name, table, kind: "INDEX", on, needs: &[], postgres_only: false }
}

/// On a table that may be the host's.
const fn host(
    name: &'static str,
    table: &'static str,
    on: &'static str,
    needs: &'static [(&'static str, &'static str)],
) -> Index {
    Index { name, table, kind: "INDEX", on, needs, postgres_only: false }
}

/// As `host`, and of a kind that only PostgreSQL has.
const fn host_gin(
    name: &'static str,
    table: &'static str,
    on: &'static str,
    needs: &'static [(&'static str, &'static str)],
) -> Index {
    Index { name, table, kind: "INDEX", on, needs, postgres_only: true }
}

/// The type of a column that any type serves.
const ANY: &str = "any";

const INDEXES: &[Index] = &[
    Index { kind: "UNIQUE INDEX", ..ours("idx_stripe_webhooks_event_id", "stripe_webhooks", "(event_id)") },
    // The list of one type, newest first. Every change of an event's row costs an entry in every index that is not partial.
    ours("idx_stripe_webhooks_event_type", "stripe_webhooks", "(event_type, created_at DESC, id DESC)"),
    ours(
        "idx_stripe_webhooks_status",
        "stripe_webhooks",
        "(processing_status, created_at DESC) WHERE processing_status IN ('failed', 'skipped')",
    ),
    ours(
        "idx_stripe_webhooks_customer",
        "stripe_webhooks",
        "(stripe_customer_id) WHERE stripe_customer_id IS NOT NULL",
    ),
    ours("idx_stripe_webhooks_user", "stripe_webhooks", "(user_id) WHERE user_id IS NOT NULL"),
    ours("idx_stripe_webhooks_recent", "stripe_webhooks", "(created_at DESC, id DESC)"),
    // What failed, and what the host put there. An event that goes its usual way never enters this index; those that wait for our own
    // processor have indexes of their own.
    ours(
        "idx_stripe_webhooks_failed",
        "stripe_webhooks",
        "(next_attempt_at, processing_attempts)
            WHERE processing_status = 'failed' OR (processing_status = 'pending' AND NOT signature_verified)",
    ),
    ours(
        "idx_users_stripe_customer_lookup",
        "users",
        "(subscription_stripe_customer_id) WHERE subscription_stripe_customer_id IS NOT NULL",
    ),
    ours(
        "idx_users_stripe_subscription_lookup",
        "users",
        "(subscription_stripe_subscription_id) WHERE subscription_stripe_subscription_id IS NOT NULL",
    ),
    ours(
        "idx_users_paying_subscribers",
        "users",
        "(subscription_tier, subscription_status, created_at DESC)
            WHERE subscription_tier <> 'free' AND subscription_status = 'active'",
    ),
    ours("idx_users_last_login", "users", "(last_login DESC {nulls_last})"),
    // Whoever has nothing left. All the others are not in it.
    ours("idx_users_usage_tracking", "users", "(subscription_tier, usage_count DESC) WHERE usage_count >= usage_limit"),
    host(
        "idx_property_analyses_user_recent",
        "property_analyses",
        "(user_id, created_at DESC)",
        &[("user_id", ANY), ("created_at", ANY)],
    ),
    host_gin(
        "idx_property_analyses_data_gin",
        "property_analyses",
        "USING gin (analysis_result)",
        &[("analysis_result", "jsonb")],
    ),
    host_gin(
        "idx_property_analyses_address_search",
        "property_analyses",
        "USING gin (to_tsvector('english', address))",
        &[("address", ANY)],
    ),
    host("idx_property_analyses_recent_all", "property_analyses", "(created_at DESC)", &[("created_at", ANY)]),
    host(
        "idx_support_chats_conversation_messages",
        "support_chats",
        "(conversation_id, created_at)",
        &[("conversation_id", ANY), ("created_at", ANY)],
    ),
    host(
        "idx_support_chats_user_history",
        "support_chats",
        "(user_id, created_at DESC)",
        &[("user_id", ANY), ("created_at", ANY)],
    ),
    // A user's conversations with the time of the last message, from the index alone.
    host(
        "idx_support_chats_user_conversation",
        "support_chats",
        "(user_id, conversation_id, created_at DESC)",
        &[("user_id", ANY), ("conversation_id", ANY), ("created_at", ANY)],
    ),
    host("idx_support_chats_role", "support_chats", "(role, created_at DESC)", &[("role", ANY), ("created_at", ANY)]),
    host("idx_onboarding_status_email", "onboarding_status", "(user_email)", &[("user_email", ANY)]),
    host_gin(
        "idx_onboarding_status_scheduled",
        "onboarding_status",
        "USING gin (emails_scheduled) WHERE emails_scheduled <> '[]'::jsonb",
        &[("emails_scheduled", "jsonb")],
    ),
    host(
        "idx_onboarding_status_campaign",
        "onboarding_status",
        "(campaign_started_at DESC)",
        &[("campaign_started_at", ANY)],
    ),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for index in INDEXES {
            build(manager, index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for index in INDEXES.iter().rev() {
            unbuild(manager, index).await?;
        }
        Ok(())
    }

    /// `CONCURRENTLY` knows no transaction. Cut off in between, the next run goes on where this one was.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }
}
