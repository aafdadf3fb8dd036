//! Finding the subscriptions of which Stripe alone can tell how they are: ambiguous ones, and those without a real snapshot.

use sea_orm_migration::prelude::*;

use crate::dialect::run;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000005_refetch"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // Ranks below 2 are unseen and provisional.
        run(manager, &["CREATE INDEX subscriptions_flagged ON subscriptions (id) WHERE needs_refresh OR rank < 2"])
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, &["DROP INDEX subscriptions_flagged"]).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
