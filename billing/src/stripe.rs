//! Stripe's API, as far as the domain needs it. One trait, so that tests can stand in for a service that is not ours; the database
//! is never a trait.

use async_trait::async_trait;
use entity::Time;

use crate::events::Related;

/// An object as Stripe shows it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The object, as JSON text.
    pub object: String,
    /// The second it belongs to, on Stripe's clock: the reply's `Date` less the time the request took.
    pub at: Time,
}

/// Why Stripe did not answer as hoped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StripeError {
    /// Stripe knows no such object.
    #[error("Stripe knows no {kind} {id}; it was deleted, or belongs to another account or mode than the API key")]
    Missing {
        /// For example `subscription`.
        kind: String,
        /// For example `sub_…`.
        id: String,
    },
    /// Another try may help: a limit, a fault, the network.
    #[error("Stripe's API is not available: {0}; it is tried again")]
    Unavailable(String),
    /// No other try helps: the key is wrong, or may not read this.
    #[error("Stripe's API refused: {0}; check STRIPE_SECRET_KEY and what it may read")]
    Refused(String),
}

/// What the domain asks of Stripe. Never called while a transaction is open.
#[async_trait]
pub trait Stripe: Send + Sync + std::fmt::Debug {
    /// Fetches the object that a thin event names.
    async fn fetch(&self, related: &Related) -> Result<Fetched, StripeError>;
}
