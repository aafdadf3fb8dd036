//! Every job: a file here, and a line in [`all`].

mod retry_pending_webhooks;

use crate::AnyJob;

/// Every job there is.
pub fn all() -> Vec<Box<dyn AnyJob>> {
    vec![Box::new(retry_pending_webhooks::RetryPendingWebhooks)]
}
