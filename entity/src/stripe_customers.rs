//! Stripe's customers: facts by which their events find a user.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Time,
    enums::LinkEvidence,
    ids::{CustomerId, UserId},
};

/// One customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "stripe_customers")]
pub struct Model {
    /// Stripe's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: CustomerId,
    /// The owner, derived from the link, the user's own row or the e-mail address.
    pub user_id: Option<UserId>,
    /// The user the strongest link names, whether we know that user or not.
    pub link_user_id: Option<UserId>,
    /// What the link rests on.
    pub link_evidence: Option<LinkEvidence>,
    /// The second of the event that made the link.
    pub link_at: Option<Time>,
    /// The event that made the link.
    pub link_event_id: Option<String>,
    /// Address, as the newest version tells it.
    pub email: Option<String>,
    /// Set for ever once Stripe deleted the customer.
    pub deleted_at: Option<Time>,
    /// When Stripe made it.
    pub stripe_created_at: Option<Time>,
    /// 0: only named by others; 1: told by a checkout session; 2: told by the customer object itself.
    pub version_rank: i16,
    /// The second the address belongs to.
    pub version_at: Time,
    /// The event the address came with.
    pub version_event_id: Option<String>,
    /// When the row was made.
    pub created_at: Time,
    /// When the row last changed.
    pub updated_at: Time,
}

/// No relations: the domain reads sets of rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
