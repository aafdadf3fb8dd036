//! Users of the host application, with what Stripe says of them.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Time, ids::UserId};

/// One user. The `subscription_*` and `usage_*` columns are Trueup's projection; the host reads them, and does not write them.
///
/// `last_login`, `created_at` and `updated_at` are not among these: a host that was there first may have them without time zone, and nothing
/// here ever reads them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "users")]
pub struct Model {
    /// The host's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: UserId,
    /// Unique without regard to case.
    pub email: String,
    /// For people to read.
    pub full_name: Option<String>,
    /// Tier that governs now, `free` without one.
    pub subscription_tier: String,
    /// Status of the governing subscription, or of the best one left.
    pub subscription_status: String,
    /// True while a subscription entitles.
    pub subscription_access: bool,
    /// The customer of the governing subscription, else the one linked.
    pub subscription_stripe_customer_id: Option<String>,
    /// The governing subscription, else the best one left.
    pub subscription_stripe_subscription_id: Option<String>,
    /// End of the paid period.
    pub subscription_current_period_end: Option<Time>,
    /// When access is scheduled to end.
    pub subscription_cancel_at: Option<Time>,
    /// Used in the open window.
    pub usage_count: i64,
    /// Allowance of a window; none is unlimited.
    pub usage_limit: Option<i64>,
    /// Start of the open window.
    pub usage_period_start: Option<Time>,
    /// End of the open window.
    pub usage_period_end: Option<Time>,
    /// Source of the open window: `free`, or a subscription's id; none before the first window.
    pub usage_source: Option<String>,
    /// True while that subscription is only provisional: its count goes over to the window of the real one.
    pub usage_provisional: bool,
    /// The next moment at which time alone changes what the user may do: a scheduled end, the end of grace or of an override.
    pub entitlement_changes_at: Option<Time>,
    /// From then on window and entitlement have to be derived anew. The epoch: at once.
    pub rolls_at: Time,
}

/// No relations: the domain reads sets of rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
