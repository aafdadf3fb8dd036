//! The timeline: why is this user on this tier?

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Time, enums::ChangeSource, ids::UserId};

/// One change of what a user may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "entitlement_changes")]
pub struct Model {
    /// Time-ordered (UUIDv7).
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// Whose.
    pub user_id: UserId,
    /// When it was made.
    pub changed_at: Time,
    /// What made it.
    pub source: ChangeSource,
    /// The event, where one did.
    pub event_id: Option<String>,
    /// The reconciliation, where one did.
    pub reconciliation_id: Option<Uuid>,
    /// Tier, status, access, limit, period end and scheduled end before.
    #[sea_orm(column_type = "JsonBinary")]
    pub before: Json,
    /// The same after.
    #[sea_orm(column_type = "JsonBinary")]
    pub after: Json,
    /// For people: which rule made it so.
    pub reason: String,
    /// Its place in the feed; given once the change is committed, by whoever reads the feed. Writers leave it out.
    pub number: Option<i64>,
}

/// No relations: the domain reads sets of rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
