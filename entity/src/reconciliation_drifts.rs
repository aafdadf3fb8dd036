//! What a reconciliation found: one row for each difference.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{enums::DriftKind, ids::UserId};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "reconciliation_drifts")]
pub struct Model {
    /// Time-ordered (UUIDv7).
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// Which reconciliation found it.
    pub reconciliation_id: Uuid,
    /// What differs.
    pub kind: DriftKind,
    /// Whose it is.
    pub user_id: Option<UserId>,
    /// The subscription, where it is about one.
    pub subscription_id: Option<String>,
    /// Names of what differs, where both sides know the thing.
    #[sea_orm(column_type = "JsonBinary")]
    pub fields: Json,
    /// How it is here.
    #[sea_orm(column_type = "JsonBinary")]
    pub local: Option<Json>,
    /// How it is at Stripe, or by what is stored of Stripe; what a repair takes in.
    #[sea_orm(column_type = "JsonBinary")]
    pub stripe: Option<Json>,
    /// True once it is gone.
    pub repaired: bool,
}

/// No relations: the domain reads sets of rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
