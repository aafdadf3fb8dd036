//! Stripe's API, as far as the domain needs it. One trait, so that tests can stand in for a service that is not ours; the database
//! is never a trait.
//!
//! Objects come as JSON text and are read by the same tolerant readers as events ([`crate::events::read_fetched`]).
//!
//! - this file: the trait, and what goes in and comes out
//! - [`objects`]: what is fetched, read as what it tells
//! - [`client`]: the trait over HTTP; `address` where things are, `answer` what replies say, `retry` when to try again, `tls` whom to believe
//! - [`budget`]: how many calls, and who goes first

mod address;
mod answer;
pub mod budget;
pub mod client;
pub mod objects;
mod retry;
pub mod tls;

pub use address::Endpoint;
pub use client::{Answer, ApiKey, ClientError, ClientObserver, ClientOptions, Observation, StripeClient};

use async_trait::async_trait;
use entity::{
    Time,
    ids::{CustomerId, EventId, InvoiceId, SubscriptionId},
};

use crate::events::Related;

/// One object, or the answer of one address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Resource {
    /// `GET /v1/subscriptions/:id`
    Subscription(SubscriptionId),
    /// `GET /v1/customers/:id`; a deleted one answers 200 with `deleted: true`.
    Customer(CustomerId),
    /// `GET /v1/checkout/sessions/:id`
    CheckoutSession(String),
    /// `GET /v1/invoices/:id`
    Invoice(InvoiceId),
    /// `GET /v1/events/:id`; reaches back 30 days.
    Event(EventId),
    /// `GET /v1/prices/:id`
    Price(String),
    /// `GET /v1/products/:id`
    Product(String),
    /// `GET /v1/charges/:id`
    Charge(String),
    /// `GET /v1/disputes/:id`
    Dispute(String),
    /// `GET /v1/account`: whose key this is.
    Account,
}

impl Resource {
    /// The object a thin event names; `None` for a kind that no event type of ours is about.
    pub fn of(related: &Related) -> Option<Self> {
        let id = related.id.clone();
        Some(match related.kind.as_str() {
            "subscription" => Self::Subscription(SubscriptionId::parse(id).ok()?),
            "customer" => Self::Customer(CustomerId::parse(id).ok()?),
            "checkout.session" => Self::CheckoutSession(id),
            "invoice" => Self::Invoice(InvoiceId::parse(id).ok()?),
            "charge" => Self::Charge(id),
            "dispute" => Self::Dispute(id),
            _ => return None,
        })
    }

    /// What it is, in Stripe's words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Subscription(_) => "subscription",
            Self::Customer(_) => "customer",
            Self::CheckoutSession(_) => "checkout.session",
            Self::Invoice(_) => "invoice",
            Self::Event(_) => "event",
            Self::Price(_) => "price",
            Self::Product(_) => "product",
            Self::Charge(_) => "charge",
            Self::Dispute(_) => "dispute",
            Self::Account => "account",
        }
    }

    /// Its id; empty for the account.
    pub fn id(&self) -> &str {
        match self {
            Self::Subscription(id) => id.as_str(),
            Self::Customer(id) => id.as_str(),
            Self::Invoice(id) => id.as_str(),
            Self::Event(id) => id.as_str(),
            Self::CheckoutSession(id) | Self::Price(id) | Self::Product(id) | Self::Charge(id) | Self::Dispute(id) => {
                id
            }
            Self::Account => "",
        }
    }
}

/// A list, walked page by page, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Collection {
    /// `GET /v1/subscriptions?status=all`, of one customer or of all. Without `status=all` the ended ones would be missing.
    Subscriptions {
        /// Only of this customer.
        customer: Option<CustomerId>,
    },
    /// `GET /v1/subscription_items?subscription=`: for a subscription that embeds only the first of its items.
    SubscriptionItems(SubscriptionId),
    /// `GET /v1/invoices?subscription=`
    Invoices(SubscriptionId),
    /// `GET /v1/checkout/sessions?subscription=`: the checkout that sold it, where one did.
    CheckoutSessions(SubscriptionId),
    /// `GET /v1/events`: at most 20 types in one call (node `EventListParams`).
    Events {
        /// Only of these types; at most 20.
        types: Vec<&'static str>,
        /// Only events made in this second or later.
        created_gte: Time,
        /// Only events made in this second or earlier.
        created_lte: Time,
    },
    /// `GET /v1/webhook_endpoints`
    WebhookEndpoints,
    /// `GET /v1/prices`
    Prices {
        /// Only those with one of these lookup keys, archived ones too; at most 10 (node `PriceListParams`). Empty: all that are active.
        lookup_keys: Vec<String>,
    },
}

/// Who waits for an answer: live work goes before walks in the background, within one budget of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// An event, or a person, waits.
    Live,
    /// A job that has time.
    Background,
}

/// An object as Stripe shows it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The object, as JSON text.
    pub object: String,
    /// The second it belongs to, on Stripe's clock: the reply's `Date` less the time the request took.
    pub at: Time,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Each object, as JSON text, in Stripe's order.
    pub objects: Vec<Listed>,
    /// True where there is a further page, after the last object's id.
    pub has_more: bool,
    /// The second it belongs to, on Stripe's clock: the reply's `Date` less the time the request took.
    pub at: Time,
}

/// One object of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id; the cursor of the next page.
    pub id: String,
    /// As JSON text.
    pub object: String,
}

/// Why Stripe did not answer as hoped. `request` is Stripe's `Request-Id`, for Stripe's support.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StripeError {
    /// Stripe knows no such object (404).
    #[error("Stripe knows no {kind} {id}{}; it was deleted, or belongs to another account or mode than the API key", told_as(request.as_ref()))]
    Missing {
        /// For example `subscription`.
        kind: &'static str,
        /// For example `sub_…`.
        id: String,
        /// Stripe's id of the request.
        request: Option<String>,
    },
    /// Another try may help: a limit, a fault, the network, our own time limit.
    #[error("Stripe's API is not available: {reason}{}; it is tried again", told_as(request.as_ref()))]
    Unavailable {
        /// What happened.
        reason: String,
        /// Stripe's id of the request.
        request: Option<String>,
    },
    /// The key is wrong or revoked (401). No other try helps.
    #[error("Stripe refused the API key: {message}{}; set STRIPE_SECRET_KEY to a key that is in force", told_as(request.as_ref()))]
    Key {
        /// Stripe's words.
        message: String,
        /// Stripe's id of the request.
        request: Option<String>,
    },
    /// The key may not do this (403). No other try helps.
    #[error("Stripe's API key may not read {what}: {message}{}; give the restricted key that permission", told_as(request.as_ref()))]
    Permission {
        /// What was asked for.
        what: &'static str,
        /// Stripe's words.
        message: String,
        /// Stripe's id of the request.
        request: Option<String>,
    },
    /// Stripe did not understand, or we did not understand Stripe. No other try helps.
    #[error("Stripe's API and this program do not agree: {message}{}; this is worth a report", told_as(request.as_ref()))]
    Protocol {
        /// What is wrong.
        message: String,
        /// Stripe's id of the request.
        request: Option<String>,
    },
}

fn told_as(request: Option<&String>) -> String {
    request.map(|id| format!(" (request {id})")).unwrap_or_default()
}

impl StripeError {
    /// True where the same call may succeed later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// True where the key itself is what is wrong: an operator has to act.
    pub fn blames_key(&self) -> bool {
        matches!(self, Self::Key { .. } | Self::Permission { .. })
    }
}

/// What the domain asks of Stripe. Never called while a transaction is open. Tries again by itself what another try may help, within
/// its own limits of time; what comes back as [`StripeError::Unavailable`] has been tried.
#[async_trait]
pub trait Stripe: Send + Sync + std::fmt::Debug {
    /// Fetches one object.
    async fn get(&self, resource: &Resource, lane: Lane) -> Result<Fetched, StripeError>;

    /// Fetches the page of at most 100 objects that comes after the object with the id `after`; the first page without one.
    async fn list(&self, collection: &Collection, after: Option<&str>, lane: Lane) -> Result<Page, StripeError>;
}
