//! Stripe's subscriptions: the newest snapshot of each, with the version that makes it the newest.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Time,
    enums::{LinkEvidence, SubscriptionStatus},
    ids::{SubscriptionId, UserId},
};

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "subscriptions")]
pub struct Model {
    /// Stripe's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: SubscriptionId,
    /// The owner, derived from the link, else from the customer.
    pub user_id: Option<UserId>,
    /// The user the strongest link names, whether we know that user or not.
    pub link_user_id: Option<UserId>,
    /// What the link rests on.
    pub link_evidence: Option<LinkEvidence>,
    /// The second of the event that made the link.
    pub link_at: Option<Time>,
    /// The event that made the link.
    pub link_event_id: Option<String>,
    /// The customer who pays.
    pub stripe_customer_id: Option<String>,
    /// Status of the snapshot; what it means for access is derived.
    pub status: SubscriptionStatus,
    /// Every item.
    #[sea_orm(column_type = "JsonBinary")]
    pub items: Json,
    /// Price of the item that decides the tier.
    pub price_id: Option<String>,
    /// Product of that item.
    pub product_id: Option<String>,
    /// Lookup key of that price.
    pub lookup_key: Option<String>,
    /// Quantity of that item.
    pub quantity: Option<i64>,
    /// Three-letter currency code, lower case.
    pub currency: Option<String>,
    /// `day`, `week`, `month` or `year`.
    pub interval: Option<String>,
    /// Intervals in a billing period.
    pub interval_count: Option<i64>,
    /// The moment billing periods are counted from.
    pub billing_cycle_anchor: Option<Time>,
    /// Earliest start among the items.
    pub current_period_start: Option<Time>,
    /// Latest end among the items.
    pub current_period_end: Option<Time>,
    /// Start of the trial.
    pub trial_start: Option<Time>,
    /// End of the trial.
    pub trial_end: Option<Time>,
    /// A date on which it is scheduled to end.
    pub cancel_at: Option<Time>,
    /// True where it ends with the period.
    pub cancel_at_period_end: bool,
    /// When the end was asked for.
    pub canceled_at: Option<Time>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// How collection is paused, where it is.
    pub pause_collection: Option<String>,
    /// Stripe's `livemode`.
    pub livemode: bool,
    /// Stripe's metadata.
    #[sea_orm(column_type = "JsonBinary")]
    pub metadata: Json,
    /// 0 unseen, 1 provisional, 2 incomplete, 3 any other, 4 terminal: Stripe never goes back along this line.
    pub rank: i16,
    /// The second the snapshot belongs to.
    pub version_at: Time,
    /// 0 for `.created`, 1 for any other.
    pub version_kind: i16,
    /// The event it came with; the last tie-break.
    pub version_event_id: String,
    /// True while two snapshots of one second disagree.
    pub needs_refresh: bool,
    /// When Stripe made it.
    pub stripe_created_at: Option<Time>,
    /// When the row was made.
    pub created_at: Time,
    /// When the row last changed.
    pub updated_at: Time,
}

/// No relations: the domain reads sets of rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
