//! Where a host lives in the database already: a note of what is there. In an empty database nothing happens here.

use sea_orm_migration::prelude::*;

use crate::adoption::ground;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000000_ground"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        ground::lay(manager).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        ground::take_back(manager).await
    }

    /// Indexes go and come `CONCURRENTLY`. Cut off in between, the next run goes on where this one was.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }
}
