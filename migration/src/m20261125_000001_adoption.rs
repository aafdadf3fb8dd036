//! Where a host lived in the database before us: its usage columns and ours are kept in step, what users have is carried over, and the indexes
//! that were left out are built beside whoever writes. In any other database nothing happens here.

use sea_orm_migration::prelude::*;

use crate::{
    adoption::{carry, ground, inbox, is_adopted, step, text},
    indexes::{Index, build, unbuild},
    m20261124_000001_core, m20261124_000003_usage, m20261124_000006_outbox_and_feed,
};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261125_000001_adoption"
    }
}

/// What earlier migrations left out on tables that are adopted.
fn left_out(table: &str) -> impl Iterator<Item = &'static Index> {
    let all =
        [m20261124_000001_core::INDEXES, m20261124_000003_usage::INDEXES, m20261124_000006_outbox_and_feed::INDEXES];
    all.into_iter().flatten().filter(move |index| index.table == table)
}

/// A unique column `email` of the host's has an index of the name that ours would have.
const EMAIL: &str = "users_email_key";
const EMAIL_BESIDE: &str = "trueup_users_email_key";

/// The index, under a name that is free for it.
async fn beside(manager: &SchemaManager<'_>, index: &Index) -> Result<Index, DbErr> {
    if index.name == EMAIL {
        let sql = format!("SELECT pg_get_indexdef(to_regclass('{EMAIL}')) AS one");
        let there = text(manager.get_connection(), &sql).await?;
        if there.is_some_and(|definition| !definition.contains("lower(")) {
            return Ok(Index { name: EMAIL_BESIDE, ..*index });
        }
    }
    Ok(*index)
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["users", "stripe_webhooks"] {
            if !is_adopted(manager, table).await? {
                continue;
            }
            if table == "users" {
                // In step first, so that nothing the host counts meanwhile is lost.
                step::keep(manager).await?;
                carry::carry_over(manager).await?;
            } else {
                inbox::settle(manager).await?;
            }
            for index in left_out(table) {
                build(manager, &beside(manager, index).await?).await?;
            }
        }
        ground::make_good(manager).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["stripe_webhooks", "users"] {
            if !is_adopted(manager, table).await? {
                continue;
            }
            for index in left_out(table) {
                unbuild(manager, index).await?;
            }
            if table == "users" {
                unbuild(manager, &Index { name: EMAIL_BESIDE, ..Index::new(EMAIL, "users", "") }).await?;
                step::let_go(manager).await?;
            }
        }
        Ok(())
    }

    /// Batches are transactions of their own, and `CONCURRENTLY` knows none. Cut off in between, the next run goes on where this one was.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }
}
