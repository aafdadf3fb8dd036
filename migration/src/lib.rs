//! How the schema comes to be, on SQLite and PostgreSQL.
//!
//! A migration spells every name out itself and never uses the entities: history must not change when they do.
//!
//! - [`up`], [`down`], [`status`]: what the command line and the start of the server call
//! - one module per migration, in the order of their names

mod dialect;
mod m20261124_000001_core;
mod m20261124_000002_jobs;
mod m20261124_000003_usage;
mod m20261124_000004_reconcile;
mod m20261124_000005_refetch;
mod m20261124_000006_outbox_and_feed;
mod runner;

pub use runner::{MigrateError, State, down, pending, status, up};
use sea_orm_migration::prelude::*;

/// Every migration, oldest first.
#[derive(Debug)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261124_000001_core::Migration),
            Box::new(m20261124_000002_jobs::Migration),
            Box::new(m20261124_000003_usage::Migration),
            Box::new(m20261124_000004_reconcile::Migration),
            Box::new(m20261124_000005_refetch::Migration),
            Box::new(m20261124_000006_outbox_and_feed::Migration),
        ]
    }
}
