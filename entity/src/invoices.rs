//! Stripe's invoices: where the outcome of a payment is kept.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Time,
    enums::InvoiceStatus,
    ids::{InvoiceId, UserId},
};

/// One invoice. Amounts are integers in the currency's minor unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "invoices")]
pub struct Model {
    /// Stripe's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: InvoiceId,
    /// The owner, derived.
    pub user_id: Option<UserId>,
    /// The customer who pays.
    pub stripe_customer_id: Option<String>,
    /// The subscription it bills.
    pub subscription_id: Option<String>,
    /// As printed on it.
    pub number: Option<String>,
    /// Moves forward only.
    pub status: Option<InvoiceStatus>,
    /// Why it was made, for example `subscription_cycle`.
    pub billing_reason: Option<String>,
    /// Three-letter currency code, lower case.
    pub currency: Option<String>,
    /// Minor units.
    pub amount_due: Option<i64>,
    /// Minor units.
    pub amount_paid: Option<i64>,
    /// Payment attempts so far.
    pub attempt_count: Option<i64>,
    /// When Stripe tries again; none for the last try.
    pub next_payment_attempt: Option<Time>,
    /// Where the customer can pay.
    pub hosted_invoice_url: Option<String>,
    /// The document.
    pub invoice_pdf: Option<String>,
    /// Start of the invoiced period.
    pub period_start: Option<Time>,
    /// End of the invoiced period.
    pub period_end: Option<Time>,
    /// First second in which a payment failed.
    pub first_failed_at: Option<Time>,
    /// Last second in which a payment failed.
    pub failed_at: Option<Time>,
    /// Last second in which a payment succeeded.
    pub paid_at: Option<Time>,
    /// Status the version told; a later second of an earlier status does not replace it.
    pub version_status: Option<InvoiceStatus>,
    /// The second the other columns belong to.
    pub version_at: Time,
    /// The event they came with.
    pub version_event_id: String,
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
