//! Every job: a file here, and a line in [`all`].

mod check_webhook_endpoint;
mod reconcile_subscriptions;
mod recover_missed_events;

pub use check_webhook_endpoint::CheckWebhookEndpoint;
pub use reconcile_subscriptions::ReconcileSubscriptions;
pub use recover_missed_events::RecoverMissedEvents;

use crate::AnyJob;

/// Every job there is.
pub fn all() -> Vec<Box<dyn AnyJob>> {
    vec![Box::new(ReconcileSubscriptions), Box::new(RecoverMissedEvents), Box::new(CheckWebhookEndpoint)]
}
