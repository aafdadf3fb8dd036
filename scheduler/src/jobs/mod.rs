//! Every job: a file here, and a line in [`all`].

mod check_webhook_endpoint;
mod expire_entitlements;
mod prune_webhooks;
mod reconcile_subscriptions;
mod recover_missed_events;
mod reset_monthly_usage;
mod retry_pending_webhooks;
mod send_emails;

use crate::AnyJob;

/// Every job there is.
pub fn all() -> Vec<Box<dyn AnyJob>> {
    vec![
        Box::new(retry_pending_webhooks::RetryPendingWebhooks),
        Box::new(reconcile_subscriptions::ReconcileSubscriptions),
        Box::new(recover_missed_events::RecoverMissedEvents),
        Box::new(reset_monthly_usage::ResetMonthlyUsage),
        Box::new(expire_entitlements::ExpireEntitlements),
        Box::new(check_webhook_endpoint::CheckWebhookEndpoint),
        Box::new(send_emails::SendEmails),
        Box::new(prune_webhooks::PruneWebhooks),
    ]
}
