//! Row-level security on every table of ours (PostgreSQL).

use sea_orm::DbBackend;
use sea_orm_migration::prelude::*;

use crate::{
    // Turning row-level security on needs a table for itself for a moment.
    adoption::PATIENCE,
    dialect::run,
    policies::{secure, unsecure},
};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000008_policies"
    }
}

/// Those that exist are secured, of the host's tables those that we made. A table that a later migration makes is secured there.
const TABLES: &[&str] = &[
    "users",
    "stripe_webhooks",
    "stripe_customers",
    "subscriptions",
    "invoices",
    "entitlement_changes",
    "email_outbox",
    "settings",
    "job_runs",
    "job_leases",
    "job_settings",
    "usage_periods",
    "usage_records",
    "tier_overrides",
    "reconciliations",
    "reconciliation_drifts",
    "stripe_cursors",
    "change_feed",
    "seaql_migrations",
    "property_analyses",
    "support_chats",
    "onboarding_status",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DbBackend::Postgres {
            run(manager, &[PATIENCE]).await?;
            secure(manager, TABLES).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DbBackend::Postgres {
            run(manager, &[PATIENCE]).await?;
            unsecure(manager, TABLES).await?;
        }
        Ok(())
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
