//! The ledger of usage: one row for each window a user was in.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Time, ids::UserId};

/// One window of one user. Nothing is ever reset: the next window is another row, and one that is entered again goes on counting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "usage_periods")]
pub struct Model {
    /// Whose.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: UserId,
    /// `free`, or the id of the subscription that governs it.
    #[sea_orm(primary_key, auto_increment = false)]
    pub source: String,
    /// First moment inside.
    #[sea_orm(primary_key, auto_increment = false)]
    pub period_start: Time,
    /// First moment after.
    pub period_end: Time,
    /// Used in it.
    pub used: i64,
    /// The allowance when it was last entered or changed; none is unlimited.
    pub usage_limit: Option<i64>,
    /// The tier when it was last entered or changed.
    pub tier: String,
    /// When it was left; none while it is open. Each user has one open window at most.
    pub closed_at: Option<Time>,
}

/// No relations: the domain reads sets of rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
