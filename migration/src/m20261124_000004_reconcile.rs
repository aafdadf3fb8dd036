//! Reconciliations, what they found, and how far Stripe's lists have been read.

use sea_orm_migration::prelude::*;

use crate::{
    adoption::{self, is_adopted},
    dialect::run,
};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000004_reconcile"
    }
}

const RECONCILIATIONS: &str = "
CREATE TABLE reconciliations (
    id {uuid} PRIMARY KEY DEFAULT {new_uuid},
    started_at {time} NOT NULL DEFAULT {now},
    beat_at {time} NOT NULL DEFAULT {now},
    finished_at {time},
    mode {text} NOT NULL CHECK (mode IN ('dry_run', 'apply')),
    outcome {text} NOT NULL DEFAULT 'running'
        CHECK (outcome IN ('running', 'succeeded', 'failed', 'refused', 'interrupted')),
    requested_by {text} NOT NULL CHECK (requested_by IN ('schedule', 'cli', 'api')),
    user_id {uuid} REFERENCES users (id) ON DELETE SET NULL,
    scanned {bigint} NOT NULL DEFAULT 0,
    drifted {bigint} NOT NULL DEFAULT 0,
    repaired {bigint} NOT NULL DEFAULT 0,
    report {json},
    error {text}
)";

const DRIFTS: &str = "
CREATE TABLE reconciliation_drifts (
    id {uuid} PRIMARY KEY DEFAULT {new_uuid},
    reconciliation_id {uuid} NOT NULL REFERENCES reconciliations (id) ON DELETE CASCADE,
    kind {text} NOT NULL,
    user_id {uuid} REFERENCES users (id) ON DELETE SET NULL,
    subscription_id {text},
    fields {json} NOT NULL DEFAULT {empty_array},
    local {json},
    stripe {json},
    repaired {bool} NOT NULL DEFAULT {false}
)";

const CURSORS: &str = "
CREATE TABLE stripe_cursors (
    name {text} PRIMARY KEY,
    last_event_id {text},
    last_created {time},
    updated_at {time} NOT NULL DEFAULT {now}
)";

const INDEXES: &[&str] = &[
    // Never two at once, whoever asks: the command line, the clock, an operator, on any replica.
    "CREATE UNIQUE INDEX reconciliations_one_running ON reconciliations (outcome) WHERE outcome = 'running'",
    // The last one of everybody that came to its end.
    "CREATE INDEX reconciliations_complete ON reconciliations (finished_at)
        WHERE outcome = 'succeeded' AND user_id IS NULL",
    "CREATE INDEX reconciliations_user ON reconciliations (user_id) WHERE user_id IS NOT NULL",
    "CREATE INDEX reconciliation_drifts_page ON reconciliation_drifts (reconciliation_id, id)",
    "CREATE INDEX reconciliation_drifts_by_user ON reconciliation_drifts (reconciliation_id, user_id)",
    "CREATE INDEX reconciliation_drifts_user ON reconciliation_drifts (user_id) WHERE user_id IS NOT NULL",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if is_adopted(manager, "users").await? {
            run(manager, &[adoption::PATIENCE]).await?;
        }
        run(manager, &[RECONCILIATIONS, DRIFTS, CURSORS]).await?;
        run(manager, INDEXES).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if is_adopted(manager, "users").await? {
            run(manager, &[adoption::PATIENCE]).await?;
        }
        run(manager, &["DROP TABLE stripe_cursors", "DROP TABLE reconciliation_drifts", "DROP TABLE reconciliations"])
            .await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
