//! What was used under an idempotency key.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Time, ids::UserId};

/// One key of one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "usage_records")]
pub struct Model {
    /// Whose.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: UserId,
    /// The host's name for one piece of work.
    #[sea_orm(primary_key, auto_increment = false)]
    pub idempotency_key: String,
    /// Source of the window in which it counted.
    pub source: String,
    /// Start of that window.
    pub period_start: Time,
    /// How much it took; at least 1.
    pub amount: i64,
    /// When that was given back, if it was. The key may then count anew.
    pub released_at: Option<Time>,
    /// When it counted.
    pub created_at: Time,
}

/// No relations: the domain reads sets of rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
