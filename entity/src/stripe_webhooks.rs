//! The inbox: every event that was acknowledged, and where it stands.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Time,
    enums::{EventSource, ProcessingStatus},
    ids::{EventId, UserId},
};

/// One event of the inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "stripe_webhooks")]
pub struct Model {
    /// Ours; time-ordered (UUIDv7) where this program made it.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// Stripe's id; the unique key that makes a second delivery a duplicate.
    #[sea_orm(unique)]
    pub event_id: EventId,
    /// For example `customer.subscription.updated`; a thin event's type without its `v1.`.
    pub event_type: String,
    /// The event as it was signed, but for what the database cannot hold.
    #[sea_orm(column_type = "JsonBinary")]
    pub payload: Json,
    /// Size of the payload as received, in bytes.
    pub payload_bytes: i32,
    /// True once completed or skipped.
    pub processed: bool,
    /// Where the event stands.
    pub processing_status: ProcessingStatus,
    /// Attempts that ended in an error of the event's data.
    pub processing_attempts: i32,
    /// Last error, or why the event was skipped or parked.
    pub processing_error: Option<String>,
    /// Kind, chain of causes and history of the attempts.
    #[sea_orm(column_type = "JsonBinary")]
    pub processing_error_details: Option<Json>,
    /// Equal for failures of the same cause.
    pub error_fingerprint: Option<String>,
    /// Whose event it is, once known.
    pub user_id: Option<UserId>,
    /// The customer the event names.
    pub stripe_customer_id: Option<String>,
    /// The subscription whose owner a parked event waits for.
    pub waits_for: Option<String>,
    /// When it was applied, skipped or given up.
    pub processed_at: Option<Time>,
    /// When it was stored.
    pub created_at: Time,
    /// When the row last changed.
    pub updated_at: Time,
    /// Stripe's `created`, in whole seconds.
    pub stripe_created_at: Option<Time>,
    /// The API version the payload was rendered in.
    pub api_version: Option<String>,
    /// True where a signature or an authenticated fetch vouches for the row; no other row is ever processed.
    pub signature_verified: bool,
    /// Stripe's `livemode`.
    pub livemode: bool,
    /// The Connect account, where there is one.
    pub account: Option<String>,
    /// How it came here.
    pub source: EventSource,
    /// When it is due, by the database's clock.
    pub next_attempt_at: Time,
    /// The instance that claimed it.
    pub claimed_by: Option<String>,
    /// The claim; a lost one can mark nothing.
    pub claim_token: Option<Uuid>,
    /// End of the lease, by the database's clock.
    pub claimed_until: Option<Time>,
    /// Leases that ran out.
    pub crashes: i32,
    /// When its payload was emptied, if it was: what is there in its place is no event.
    pub payload_emptied_at: Option<Time>,
}

/// No relations: the domain reads sets of rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
