//! How the schema comes to be, on SQLite and PostgreSQL, and whether a database has it.
//!
//! A migration spells every name out itself and never uses the entities: history must not change when they do.
//!
//! - [`up`], [`down`], [`status`], [`plan()`]: what the command line and the start of the server call
//! - [`verify()`]: the schema of a database, beside the one that these migrations make
//! - [`usage()`]: how large the indexes are, and how often each was used
//! - one module per migration, in the order of their names
//! - `adoption`: a database in which a host lives already; [`carry_over_again`] until Trueup takes over
//! - `dialect`, `indexes`, `policies`, `made`: what migrations are written with
//! - `ground`: the connections that they run on

mod adoption;
mod dialect;
mod ground;
mod indexes;
mod m20261124_000000_ground;
mod m20261124_000001_core;
mod m20261124_000002_jobs;
mod m20261124_000003_usage;
mod m20261124_000004_reconcile;
mod m20261124_000005_refetch;
mod m20261124_000006_outbox_and_feed;
mod m20261124_000007_production_schema;
mod m20261124_000008_policies;
mod m20261124_000009_production_indexes;
mod m20261125_000001_adoption;
mod made;
mod plan;
mod policies;
mod runner;
mod usage;
mod verify;

pub use adoption::carry_over_again;
pub use ground::Target;
pub use plan::{Plan, Planned, plan};
pub use runner::{MigrateError, State, down, newer, pending, status, up};
use sea_orm_migration::prelude::*;
pub use usage::{IndexUse, UsageError, usage};
pub use verify::{Finding, Kind, Problem, Verdict, VerifyError, verify};

/// Every migration, oldest first.
#[derive(Debug)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261124_000000_ground::Migration),
            Box::new(m20261124_000001_core::Migration),
            Box::new(m20261124_000002_jobs::Migration),
            Box::new(m20261124_000003_usage::Migration),
            Box::new(m20261124_000004_reconcile::Migration),
            Box::new(m20261124_000005_refetch::Migration),
            Box::new(m20261124_000006_outbox_and_feed::Migration),
            Box::new(m20261124_000007_production_schema::Migration),
            Box::new(m20261124_000008_policies::Migration),
            Box::new(m20261124_000009_production_indexes::Migration),
            Box::new(m20261125_000001_adoption::Migration),
        ]
    }
}
