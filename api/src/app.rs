//! What a running server shares among its requests and tasks.

use std::{fmt, sync::Arc};

use billing::{
    catalog::Catalog,
    changes::Feed,
    db::Db,
    inbox::{Inbox, IntakeRules},
    policy::Policy,
    processor::Beat,
    reconcile::Reconciler,
    refresh::Refresher,
    signature::{Tolerance, WebhookSecret},
    stripe::Stripe,
};
use ipnet::IpNet;
use metrics::Metrics;
use scheduler::{Handle, Registry};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use crate::{background::Background, config::edge::Docs};

/// Everything a request may need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    /// The database.
    pub db: Db,
    /// The plans.
    pub catalog: Arc<Catalog>,
    /// The operator's switches.
    pub policy: Arc<Policy>,
    /// The way into the inbox.
    pub inbox: Inbox,
    /// Which events are ours to apply.
    pub intake: Arc<IntakeRules>,
    /// Secrets that webhooks may be signed with; several while one is rolled.
    pub secrets: Arc<[WebhookSecret]>,
    /// How old, or how far ahead, a signature may be.
    pub tolerance: Tolerance,
    /// Opens the host's routes; without one they are closed.
    pub api_token: Option<Token>,
    /// Opens the operator's routes; without one they are closed.
    pub admin_token: Option<Token>,
    /// What Prometheus sees.
    pub metrics: Arc<Metrics>,
    /// The processor's sign of life; none where this process runs none.
    pub beat: Option<Arc<Beat>>,
    /// Wakes the processor.
    pub nudge: Arc<Notify>,
    /// Stripe's API; none without a key.
    pub stripe: Option<Arc<dyn Stripe>>,
    /// Asks Stripe how subscriptions are; none without an API key.
    pub refresher: Option<Refresher>,
    /// Wakes whoever waits for changes.
    pub feed: Feed,
    /// What requests begin and do not wait for.
    pub background: Background,
    /// Every job, with its settings.
    pub jobs: Registry,
    /// Runs them; none where this process runs none.
    pub scheduler: Option<Handle>,
    /// Who is let in to what beside the API.
    pub edge: Edge,
}

/// Who is let in to what beside the API, and whom requests are taken to come from.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Where the figures are, and what opens them.
    pub figures: Figures,
    /// Who may read the description of the API.
    pub docs: Docs,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Arc<[IpNet]>,
    /// Which pages of other origins may call from a browser.
    pub cors_origins: Arc<[String]>,
}

impl Default for Edge {
    /// Everything that is no part of the API is open, and nobody's word is taken for anything.
    fn default() -> Self {
        Self { figures: Figures::Open, docs: Docs::Open, trusted_proxies: Arc::default(), cors_origins: Arc::default() }
    }
}

/// Where the figures are, and what opens them.
#[derive(Debug, Clone)]
pub enum Figures {
    /// Beside the other routes, for everybody.
    Open,
    /// Beside the other routes, for this token.
    Behind(Token),
    /// By a listener of their own.
    Elsewhere,
}

impl App {
    /// Compares with Stripe; none without a key.
    pub fn reconciler(&self) -> Option<Reconciler> {
        Some(Reconciler {
            db: self.db.clone(),
            stripe: self.stripe.clone()?,
            catalog: Arc::clone(&self.catalog),
            policy: Arc::clone(&self.policy),
            livemode: self.intake.livemode,
        })
    }
}

/// A bearer token, kept as its hash: comparing hashes tells nothing of how much of a guess was right.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// Takes a token.
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// True for the same token.
    pub fn matches(&self, candidate: &str) -> bool {
        let candidate: [u8; 32] = Sha256::digest(candidate).into();
        self.0.ct_eq(&candidate).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}
