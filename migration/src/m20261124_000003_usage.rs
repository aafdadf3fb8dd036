//! The ledger of usage, idempotency keys, tier overrides, and when each user has to be looked at again.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{
    adoption::{self, is_adopted},
    dialect::run,
    indexes::{Index, make},
};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000003_usage"
    }
}

/// A user of whom nothing is derived yet is due since the epoch: one comparison finds whoever is due, and one index serves it.
const USERS: &[&str] = &[
    "ALTER TABLE users ADD COLUMN usage_source {text}",
    "ALTER TABLE users ADD COLUMN usage_provisional {bool} NOT NULL DEFAULT {false}",
    "ALTER TABLE users ADD COLUMN entitlement_changes_at {time}",
    "ALTER TABLE users ADD COLUMN rolls_at {time} NOT NULL DEFAULT '1970-01-01T00:00:00+00:00'",
];

const PERIODS: &str = "
CREATE TABLE usage_periods (
    user_id {uuid} NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    source {text} NOT NULL,
    period_start {time} NOT NULL,
    period_end {time} NOT NULL,
    used {bigint} NOT NULL DEFAULT 0 CHECK (used >= 0),
    usage_limit {bigint},
    tier {text} NOT NULL,
    closed_at {time},
    PRIMARY KEY (user_id, source, period_start)
)";

/// A key that counts twice at one moment runs into the check of `amount`: see the statement that consumes.
const RECORDS: &str = "
CREATE TABLE usage_records (
    user_id {uuid} NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    idempotency_key {text} NOT NULL,
    source {text} NOT NULL,
    period_start {time} NOT NULL,
    amount {bigint} NOT NULL CHECK (amount > 0),
    released_at {time},
    created_at {time} NOT NULL DEFAULT {now},
    PRIMARY KEY (user_id, idempotency_key)
)";

const OVERRIDES: &str = "
CREATE TABLE tier_overrides (
    user_id {uuid} PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    tier {text} NOT NULL,
    until {time} NOT NULL,
    reason {text} NOT NULL,
    by {text} NOT NULL,
    created_at {time} NOT NULL DEFAULT {now}
)";

pub(crate) const INDEXES: &[Index] = &[
    // With the id: whoever works off what is due goes on where it was, and meets every other index in order.
    Index::new("users_rolls_at", "users", "(rolls_at, id)"),
    Index::new(
        "users_entitlement_changes_at",
        "users",
        "(entitlement_changes_at, id)
            WHERE entitlement_changes_at IS NOT NULL",
    ),
];

/// A row of the ledger changes in place: as its window counts, and when it is left. Records are only ever added at the end, and pruned
/// from the front.
const POSTGRES: &[&str] = &[
    "ALTER TABLE usage_periods SET (fillfactor = 80)",
    "CREATE INDEX usage_records_created_at ON usage_records USING brin (created_at)",
];

const SQLITE: &[&str] = &["CREATE INDEX usage_records_created_at ON usage_records (created_at)"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if is_adopted(manager, "users").await? {
            run(manager, &[adoption::PATIENCE, "LOCK TABLE users IN ACCESS EXCLUSIVE MODE"]).await?;
        }
        run(manager, USERS).await?;
        run(manager, &[PERIODS, RECORDS, OVERRIDES]).await?;
        make(manager, INDEXES).await?;
        let own = if manager.get_database_backend() == DbBackend::Postgres { POSTGRES } else { SQLITE };
        run(manager, own).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if is_adopted(manager, "users").await? {
            run(manager, &[adoption::PATIENCE, "LOCK TABLE users IN ACCESS EXCLUSIVE MODE"]).await?;
        }
        run(
            manager,
            &[
                "DROP TABLE tier_overrides",
                "DROP TABLE usage_records",
                "DROP TABLE usage_periods",
                "DROP INDEX IF EXISTS users_entitlement_changes_at",
                "DROP INDEX IF EXISTS users_rolls_at",
                "ALTER TABLE users DROP COLUMN rolls_at",
                "ALTER TABLE users DROP COLUMN entitlement_changes_at",
                "ALTER TABLE users DROP COLUMN usage_provisional",
                "ALTER TABLE users DROP COLUMN usage_source",
            ],
        )
        .await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
