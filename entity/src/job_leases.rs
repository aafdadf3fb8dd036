//! Which process may run a job: one row for each job.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Time;

/// The lease of one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "job_leases")]
pub struct Model {
    /// Name of the job.
    #[sea_orm(primary_key, auto_increment = false)]
    pub job: String,
    /// Who has it; nobody while no run is under way.
    pub holder: Option<String>,
    /// When it runs out unless renewed, by the database's clock.
    pub expires_at: Time,
    /// Rises whenever the lease is taken or given back: whoever had an earlier one can write nothing any more.
    pub token: i64,
}

/// No relations: the scheduler reads rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
