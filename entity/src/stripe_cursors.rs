//! How far Stripe's lists have been read.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Time;

/// One list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "stripe_cursors")]
pub struct Model {
    /// Which.
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// The last thing of it that was read.
    pub last_event_id: Option<String>,
    /// The second up to which everything of it is stored, on Stripe's clock.
    pub last_created: Option<Time>,
    /// When it was last moved.
    pub updated_at: Time,
}

/// No relations: the domain reads sets of rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
