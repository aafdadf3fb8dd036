//! Every job: a file here, and a line in [`all`].

mod prune_webhooks;
mod send_emails;

use crate::AnyJob;

/// Every job there is.
pub fn all() -> Vec<Box<dyn AnyJob>> {
    vec![Box::new(send_emails::SendEmails), Box::new(prune_webhooks::PruneWebhooks)]
}
