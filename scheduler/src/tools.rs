//! What jobs work with; put together once, where the process is put together.

use std::{fmt, sync::Arc};

use billing::{
    catalog::Catalog,
    inbox::IntakeRules,
    policy::Policy,
    processor::{self, Processor},
    stripe::Stripe,
};
use tokio::sync::Notify;

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
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tools").field("stripe", &self.stripe).finish_non_exhaustive()
    }
}
