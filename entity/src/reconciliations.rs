//! Reconciliations: what was compared with Stripe, when, and what came of it.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Time,
    enums::{ReconcileMode, ReconcileOutcome, Requester},
    ids::UserId,
};

/// One reconciliation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "reconciliations")]
pub struct Model {
    /// Time-ordered (UUIDv7).
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// When it began.
    pub started_at: Time,
    /// When it was last seen alive; one that is running and has not been for long is dead.
    pub beat_at: Time,
    /// When it ended.
    pub finished_at: Option<Time>,
    /// Whether it repairs.
    pub mode: ReconcileMode,
    /// How it stands.
    pub outcome: ReconcileOutcome,
    /// Who asked for it.
    pub requested_by: Requester,
    /// The one user it is about; none where it is about all.
    pub user_id: Option<UserId>,
    /// Subscriptions of Stripe that were looked at.
    pub scanned: i64,
    /// Differences found.
    pub drifted: i64,
    /// Differences that are gone.
    pub repaired: i64,
    /// Everything it has to tell, once it has ended.
    #[sea_orm(column_type = "JsonBinary")]
    pub report: Option<Json>,
    /// Why it did not succeed.
    pub error: Option<String>,
}

/// No relations: the domain reads sets of rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
