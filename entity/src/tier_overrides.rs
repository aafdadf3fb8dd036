//! Tiers that operators gave until a date.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Time, ids::UserId};

/// The tier one user has until a date, whatever their subscriptions say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "tier_overrides")]
pub struct Model {
    /// Whose.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: UserId,
    /// Which tier; one that no plan has any more is ignored.
    pub tier: String,
    /// First moment at which it no longer holds.
    pub until: Time,
    /// Why, for people.
    pub reason: String,
    /// Who gave it.
    pub by: String,
    /// When.
    pub created_at: Time,
}

/// No relations: the domain reads sets of rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
