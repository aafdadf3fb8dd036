//! The history of jobs: one row for each attempt at each slot.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Time,
    enums::{RunOutcome, RunTrigger},
};

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "job_runs")]
pub struct Model {
    /// Time-ordered (UUIDv7).
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// Name of the job.
    pub job: String,
    /// The scheduled moment it belongs to; of a run that a person asked for, the moment of asking.
    pub slot: Time,
    /// 1, and one more each time the slot is run again because its run was cut off.
    pub attempt: i16,
    /// What started it.
    pub trigger: RunTrigger,
    /// The token of the lease it writes under.
    pub token: i64,
    /// When it began, by the database's clock.
    pub started_at: Time,
    /// When its outcome was written.
    pub finished_at: Option<Time>,
    /// How it ended; `running` until then.
    pub outcome: RunOutcome,
    /// What it did.
    #[sea_orm(column_type = "JsonBinary")]
    pub report: Option<Json>,
    /// Why it did not succeed.
    pub error: Option<String>,
    /// The process that ran it.
    pub runner: String,
}

/// No relations: the scheduler reads rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
