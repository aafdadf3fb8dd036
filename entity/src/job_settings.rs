//! What is remembered about a job between its runs: one row for each job.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Time;

/// One job's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "job_settings")]
pub struct Model {
    /// Name of the job.
    #[sea_orm(primary_key, auto_increment = false)]
    pub job: String,
    /// True while no slot is run.
    pub paused: bool,
    /// When it was paused last.
    pub paused_at: Option<Time>,
    /// When it was resumed last.
    pub resumed_at: Option<Time>,
    /// The schedule by which its slots are counted; empty while it is switched off.
    pub schedule: String,
    /// Slots up to this moment are nobody's to catch up: it was seen for the first time, resumed, or got another schedule then.
    pub slots_after: Time,
}

/// No relations: the scheduler reads rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
