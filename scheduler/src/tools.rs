//! What jobs work with; put together once, where the process is put together.

use std::{fmt, sync::Arc};

use billing::{
    catalog::Catalog,
    inbox::IntakeRules,
    mail::Mailer,
    policy::Policy,
    processor::{self, Processor},
    retention::Retention,
    stripe::Stripe,
    usage::Watch,
};
use tokio::sync::Notify;

use crate::{JobError, Observers};

/// Everything that some job needs, but for the database, which every run gets fenced by its lease ([`crate::JobContext::db`]).
#[derive(Clone)]
pub struct Tools {
    /// The plans.
    pub catalog: Arc<Catalog>,
    /// The operator's switches.
    pub policy: Arc<Policy>,
    /// Which events are ours to apply.
    pub intake: Arc<IntakeRules>,
    /// Stripe's API; none without a key.
    pub stripe: Option<Arc<dyn Stripe>>,
    /// Applies events; a job works on its own database with [`Processor::on`].
    pub processor: Processor,
    /// Is told of every pass in which a job applied events, as it is of the processor's own.
    pub passes: processor::Observer,
    /// Wakes the processor.
    pub nudge: Arc<Notify>,
    /// Told of every batch of users that was rolled: their windows, and what ended by date.
    pub rolled: Watch,
    /// Sends e-mails; none without a mail server.
    pub mailer: Option<Arc<Mailer>>,
    /// What is kept for how long.
    pub retention: Retention,
    /// Where Stripe reaches this server, without the path; none where that is not configured.
    pub public_url: Option<String>,
    /// Whom to tell what runs came to.
    pub observers: Observers,
}

impl Tools {
    /// What every job needs, and nothing that some jobs can do without: no API of Stripe, no mail server, nobody who is told.
    pub fn new(catalog: Arc<Catalog>, policy: Arc<Policy>, processor: Processor) -> Self {
        Self {
            catalog,
            policy,
            intake: Arc::default(),
            stripe: None,
            processor,
            passes: Arc::new(|_| {}),
            nudge: Arc::default(),
            rolled: Watch::default(),
            mailer: None,
            retention: Retention::default(),
            public_url: None,
            observers: Observers::default(),
        }
    }

    /// Stripe's API, for a job that cannot do without.
    pub fn stripe(&self) -> Result<&Arc<dyn Stripe>, JobError> {
        self.stripe.as_ref().ok_or_else(|| {
            JobError::NotConfigured(
                "there is no API key of Stripe; set STRIPE_SECRET_KEY to a secret or restricted key".to_owned(),
            )
        })
    }
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tools").field("stripe", &self.stripe).finish_non_exhaustive()
    }
}
