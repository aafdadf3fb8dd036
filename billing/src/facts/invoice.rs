//! An invoice as facts: the outcome of payments lives here, not on the subscription.

use entity::{
    Time,
    enums::InvoiceStatus,
    ids::{CustomerId, InvoiceId, SubscriptionId, UserId},
};

use super::{Stamp, earlier, later};

/// The parts of an invoice that the newest version replaces as a whole. Amounts are in the currency's minor unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InvoiceSnapshot {
    /// As printed on it.
    pub number: Option<String>,
    /// Three-letter code, lower case.
    pub currency: Option<String>,
    /// Minor units.
    pub amount_due: Option<i64>,
    /// Minor units.
    pub amount_paid: Option<i64>,
    /// Payment attempts so far.
    pub attempt_count: Option<i64>,
    /// When Stripe tries again.
    pub next_payment_attempt: Option<Time>,
    /// Where the customer can pay.
    pub hosted_invoice_url: Option<String>,
    /// The document.
    pub invoice_pdf: Option<String>,
    /// Start of the invoiced period.
    pub period_start: Option<Time>,
    /// End of the invoiced period.
    pub period_end: Option<Time>,
}

/// What is known of one invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    /// Stripe's id.
    pub id: InvoiceId,
    /// Derived: see `World`.
    pub owner: Option<UserId>,
    /// Who pays.
    pub customer: Option<CustomerId>,
    /// What it bills.
    pub subscription: Option<SubscriptionId>,
    /// Moves forward only.
    pub status: Option<InvoiceStatus>,
    /// Why it was made.
    pub billing_reason: Option<String>,
    /// First second in which a payment failed.
    pub first_failed_at: Option<Time>,
    /// Last second in which a payment failed.
    pub failed_at: Option<Time>,
    /// Last second in which it was told to be paid.
    pub paid_at: Option<Time>,
    /// When Stripe made it.
    pub made_at: Option<Time>,
    /// The rest, of the version that is furthest along, then latest.
    pub snapshot: InvoiceSnapshot,
    /// Status told by that version, then its stamp.
    pub version: (Option<InvoiceStatus>, Stamp),
    /// When our row was made, if it is stored already.
    pub stored_at: Option<Time>,
}

/// What one event tells of an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoiceTold {
    /// Which.
    pub id: InvoiceId,
    /// Who pays.
    pub customer: Option<CustomerId>,
    /// What it bills.
    pub subscription: Option<SubscriptionId>,
    /// Where it stands.
    pub status: Option<InvoiceStatus>,
    /// Why it was made.
    pub billing_reason: Option<String>,
    /// True where the event tells of a failed payment.
    pub failed: bool,
    /// When it was paid: the second of an event that tells of the payment, else what the invoice's own history says.
    pub paid_at: Option<Time>,
    /// When Stripe made it.
    pub made_at: Option<Time>,
    /// The rest.
    pub snapshot: InvoiceSnapshot,
}

/// How the payment of an invoice came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Paid in this second.
    Paid(Time),
    /// Failed, last in this second.
    Failed(Time),
    /// Nothing to say: not tried yet, void or given up.
    Open,
}

/// Reasons for which an invoice speaks for its subscription
/// (node `Invoices.d.ts`; the others bill something beside it).
const SPEAKING_REASONS: [&str; 4] =
    ["subscription_create", "subscription_cycle", "subscription_threshold", "subscription_update"];

impl Invoice {
    /// An invoice of which nothing is known yet.
    pub fn unseen(id: InvoiceId) -> Self {
        Self {
            id,
            owner: None,
            customer: None,
            subscription: None,
            status: None,
            billing_reason: None,
            first_failed_at: None,
            failed_at: None,
            paid_at: None,
            made_at: None,
            snapshot: InvoiceSnapshot::default(),
            version: (None, Stamp { at: Time::UNIX_EPOCH, event_id: String::new() }),
            stored_at: None,
        }
    }

    /// Takes in what an event tells; true where something changed.
    pub fn merge(&mut self, told: InvoiceTold, stamp: &Stamp) -> bool {
        let before = self.clone();
        // A payment told by an event whose object still reads `open` is a payment all the same.
        let status = if told.paid_at.is_some() { Some(InvoiceStatus::Paid) } else { told.status };
        self.customer = self.customer.take().or(told.customer);
        self.subscription = self.subscription.take().or(told.subscription);
        self.billing_reason = self.billing_reason.take().or(told.billing_reason);
        self.made_at = earlier(self.made_at, told.made_at);
        self.status = later(self.status, status);
        if told.failed {
            self.first_failed_at = earlier(self.first_failed_at, Some(stamp.at));
            self.failed_at = later(self.failed_at, Some(stamp.at));
        }
        self.paid_at = later(self.paid_at, told.paid_at);
        let version = (status, stamp.clone());
        if version > self.version {
            self.version = version;
            self.snapshot = told.snapshot;
        }
        *self != before
    }

    /// True where its payment says something of its subscription's standing.
    pub fn speaks(&self) -> bool {
        self.billing_reason.as_deref().is_some_and(|reason| SPEAKING_REASONS.contains(&reason))
    }

    /// True where a failure to pay it puts its subscription past due: renewals, not first payments or changes.
    pub fn renews(&self) -> bool {
        matches!(self.billing_reason.as_deref(), Some("subscription_cycle" | "subscription_threshold"))
    }

    /// How its payment came out: paid beats failed; void and uncollectible say nothing.
    pub fn outcome(&self) -> Outcome {
        match (self.status, self.paid_at, self.failed_at) {
            (_, Some(at), _) => Outcome::Paid(at),
            // Paid, nobody knows when: it beats a failure, and says nothing against a snapshot.
            (Some(InvoiceStatus::Paid), None, _) => Outcome::Paid(Time::UNIX_EPOCH),
            (Some(InvoiceStatus::Void | InvoiceStatus::Uncollectible), ..) | (_, None, None) => Outcome::Open,
            (_, None, Some(at)) => Outcome::Failed(at),
        }
    }

    /// Which of a subscription's invoices is the newest: by Stripe's own `created`, then id.
    pub(crate) fn age(&self) -> (Option<Time>, &InvoiceId) {
        (self.made_at, &self.id)
    }
}
