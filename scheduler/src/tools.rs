//! What jobs work with; put together once, where the process is put together.

use std::sync::Arc;

use billing::{
    catalog::Catalog, inbox::IntakeRules, policy::Policy, processor::Processor, stripe::Stripe, usage::Watch,
};
use tokio::sync::Notify;

/// Everything that some job needs, but for the database, which every run gets fenced by its lease ([`crate::JobContext::db`]).
#[derive(Debug, Clone)]
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
    /// Wakes the processor.
    pub nudge: Arc<Notify>,
    /// Told of every batch of users that was rolled: their windows, and what ended by date.
    pub rolled: Watch,
}
