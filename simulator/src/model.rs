//! What the simulated Stripe keeps. Seconds since 1970 are plain numbers here, as in Stripe's API; money is in minor units.

use std::collections::BTreeMap;

use crate::{
    calendar::{DAY, Interval},
    table::Row,
};

/// Stripe's `metadata`: values are always text.
pub(crate) type Metadata = BTreeMap<String, String>;

/// What is sold.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) active: bool,
    pub(crate) created: i64,
    pub(crate) metadata: Metadata,
}

/// For how much, how often.
#[derive(Debug, Clone)]
pub(crate) struct Price {
    pub(crate) id: String,
    pub(crate) product: String,
    pub(crate) active: bool,
    pub(crate) created: i64,
    pub(crate) currency: String,
    pub(crate) unit_amount: i64,
    /// None: paid once.
    pub(crate) interval: Option<Interval>,
    pub(crate) lookup_key: Option<String>,
    pub(crate) nickname: Option<String>,
    pub(crate) metadata: Metadata,
}

/// What happens when a customer is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Card {
    /// It pays.
    Good,
    /// It is declined.
    Declines,
    /// The bank asks the customer to confirm.
    NeedsAction,
    /// There is none.
    None,
}

/// Who pays.
#[derive(Debug, Clone)]
pub(crate) struct Customer {
    pub(crate) id: String,
    pub(crate) email: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) created: i64,
    pub(crate) metadata: Metadata,
    pub(crate) card: Card,
    pub(crate) deleted: bool,
    /// Invoices so far.
    pub(crate) invoices: u32,
}

/// One item of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) price: String,
    pub(crate) quantity: i64,
    pub(crate) created: i64,
    pub(crate) period_start: i64,
    pub(crate) period_end: i64,
}

/// Where a subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Incomplete,
    IncompleteExpired,
    Trialing,
    Active,
    PastDue,
    Unpaid,
    Canceled,
    Paused,
}

impl Status {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::IncompleteExpired => "incomplete_expired",
            Self::Trialing => "trialing",
            Self::Active => "active",
            Self::PastDue => "past_due",
            Self::Unpaid => "unpaid",
            Self::Canceled => "canceled",
            Self::Paused => "paused",
        }
    }

    /// True for what never comes back.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Canceled | Self::IncompleteExpired)
    }

    /// True where periods pass and invoices are made.
    pub(crate) fn renews(self) -> bool {
        matches!(self, Self::Trialing | Self::Active | Self::PastDue | Self::Unpaid)
    }
}

/// What becomes of a subscription whose trial ends and whose customer has no card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoCard {
    CreateInvoice,
    Pause,
    Cancel,
}

impl NoCard {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::CreateInvoice => "create_invoice",
            Self::Pause => "pause",
            Self::Cancel => "cancel",
        }
    }
}

/// What becomes of a subscription when all tries to collect have failed. At Stripe this is a setting of the account; here every
/// subscription draws its own, so that one run sees all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterDunning {
    Cancel,
    Unpaid,
    LeavePastDue,
}

/// A collection of payments that is paused; the status stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PausedCollection {
    /// `keep_as_draft`, `mark_uncollectible` or `void`
    pub(crate) behavior: String,
    pub(crate) resumes_at: Option<i64>,
}

/// A subscription.
#[derive(Debug, Clone)]
pub(crate) struct Subscription {
    pub(crate) id: String,
    pub(crate) customer: String,
    pub(crate) status: Status,
    pub(crate) created: i64,
    pub(crate) items: Vec<Item>,
    /// What periods are counted from.
    pub(crate) anchor: i64,
    pub(crate) cancel_at: Option<i64>,
    pub(crate) cancel_at_period_end: bool,
    pub(crate) canceled_at: Option<i64>,
    pub(crate) cancellation_reason: Option<&'static str>,
    pub(crate) ended_at: Option<i64>,
    pub(crate) trial_start: Option<i64>,
    pub(crate) trial_end: Option<i64>,
    pub(crate) no_card: NoCard,
    pub(crate) after_dunning: AfterDunning,
    pub(crate) pause_collection: Option<PausedCollection>,
    /// Why it is paused, in endive's words.
    pub(crate) paused_for: Option<&'static str>,
    /// Flexible billing; else classic.
    pub(crate) flexible: bool,
    pub(crate) metadata: Metadata,
    /// Oldest first.
    pub(crate) invoices: Vec<String>,
    /// The second of its last event.
    pub(crate) changed: i64,
}

impl Subscription {
    /// The latest end among its items.
    pub(crate) fn period_end(&self) -> Option<i64> {
        self.items.iter().map(|item| item.period_end).max()
    }

    /// The earliest end among its items: when something is billed next.
    pub(crate) fn next_end(&self) -> Option<i64> {
        self.items.iter().map(|item| item.period_end).min()
    }

    /// When it is scheduled to end.
    pub(crate) fn scheduled_end(&self) -> Option<i64> {
        self.cancel_at.or(if self.cancel_at_period_end { self.period_end() } else { None })
    }
}

/// Where an invoice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InvoiceStatus {
    Draft,
    Open,
    Paid,
    Void,
    Uncollectible,
}

impl InvoiceStatus {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Open => "open",
            Self::Paid => "paid",
            Self::Void => "void",
            Self::Uncollectible => "uncollectible",
        }
    }
}

/// One line of an invoice: an item for a period.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) item: String,
    pub(crate) price: String,
    pub(crate) quantity: i64,
    pub(crate) amount: i64,
    pub(crate) start: i64,
    pub(crate) end: i64,
}

/// An invoice.
#[derive(Debug, Clone)]
pub(crate) struct Invoice {
    pub(crate) id: String,
    pub(crate) customer: String,
    pub(crate) customer_email: Option<String>,
    pub(crate) subscription: Option<String>,
    /// The subscription's metadata when the invoice was made.
    pub(crate) subscription_metadata: Metadata,
    pub(crate) status: InvoiceStatus,
    pub(crate) billing_reason: &'static str,
    pub(crate) created: i64,
    pub(crate) currency: String,
    pub(crate) lines: Vec<Line>,
    pub(crate) amount_due: i64,
    pub(crate) amount_paid: i64,
    pub(crate) attempts: u32,
    pub(crate) next_attempt: Option<i64>,
    pub(crate) auto_advance: bool,
    pub(crate) period_start: i64,
    pub(crate) period_end: i64,
    pub(crate) number: Option<String>,
    pub(crate) finalized_at: Option<i64>,
    pub(crate) paid_at: Option<i64>,
    pub(crate) voided_at: Option<i64>,
    pub(crate) uncollectible_at: Option<i64>,
    pub(crate) charge: Option<String>,
}

/// A charge.
#[derive(Debug, Clone)]
pub(crate) struct Charge {
    pub(crate) id: String,
    pub(crate) customer: String,
    pub(crate) invoice: Option<String>,
    pub(crate) amount: i64,
    pub(crate) refunded: i64,
    pub(crate) currency: String,
    pub(crate) created: i64,
    pub(crate) paid: bool,
    pub(crate) disputed: bool,
}

/// A chargeback.
#[derive(Debug, Clone)]
pub(crate) struct Dispute {
    pub(crate) id: String,
    pub(crate) charge: String,
    pub(crate) amount: i64,
    pub(crate) currency: String,
    pub(crate) created: i64,
}

/// Where a checkout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionStatus {
    Open,
    Complete,
    Expired,
}

/// A checkout that sells a subscription.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) status: SessionStatus,
    /// `unpaid`, `paid` or `no_payment_required`
    pub(crate) payment_status: &'static str,
    pub(crate) customer: Option<String>,
    pub(crate) customer_email: Option<String>,
    pub(crate) reference: Option<String>,
    pub(crate) subscription: Option<String>,
    pub(crate) invoice: Option<String>,
    pub(crate) metadata: Metadata,
    pub(crate) subscription_metadata: Metadata,
    pub(crate) line_items: Vec<(String, i64)>,
    pub(crate) trial_days: u32,
    pub(crate) created: i64,
    pub(crate) expires_at: i64,
}

impl Session {
    /// Stripe lets a session live for a day.
    pub(crate) const LIFE: i64 = DAY;
}

/// Where events are sent.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) url: String,
    pub(crate) enabled: bool,
    /// `*`, or types.
    pub(crate) types: Vec<String>,
    pub(crate) created: i64,
    pub(crate) description: Option<String>,
    pub(crate) metadata: Metadata,
    /// Each with the second in which it ends, where it does; the newest first.
    pub(crate) secrets: Vec<(String, Option<i64>)>,
    pub(crate) deleted: bool,
}

impl Endpoint {
    /// The secrets in force.
    pub(crate) fn secrets_at(&self, now: i64) -> Vec<&str> {
        let in_force = self.secrets.iter().filter(|(_, end)| end.is_none_or(|end| now < end));
        in_force.map(|(secret, _)| secret.as_str()).collect()
    }

    /// True where events of this type are sent here.
    pub(crate) fn wants(&self, event_type: &str) -> bool {
        self.enabled && !self.deleted && self.types.iter().any(|wanted| wanted == "*" || wanted == event_type)
    }
}

macro_rules! rows {
    ($($kind:ty),*) => {$(
        impl Row for $kind {
            fn id(&self) -> &str {
                &self.id
            }
        }
    )*};
}
rows!(Product, Price, Customer, Subscription, Invoice, Charge, Dispute, Session, Endpoint);
