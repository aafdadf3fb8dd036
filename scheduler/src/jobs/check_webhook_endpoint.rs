//! Looks our webhook endpoint up at Stripe.

use std::time::Duration;

use billing::endpoint::{self, Expected, Report};

use crate::{Job, JobContext, JobError, JobSpec, Missed};

/// See [`billing::endpoint`].
#[derive(Debug, Clone, Copy)]
pub(super) struct CheckWebhookEndpoint;

impl Job for CheckWebhookEndpoint {
    type Report = Report;

    fn spec(&self) -> JobSpec {
        JobSpec {
            name: "check_webhook_endpoint",
            about: "Looks our webhook endpoint up at Stripe: whether it is there, enabled, and listens to what we handle",
            schedule: "0 7 * * * *",
            timeout: Duration::from_mins(5),
            missed: Missed::Once,
        }
    }

    async fn run(&self, context: &JobContext) -> Result<Report, JobError> {
        let tools = &context.tools;
        let expected = Expected { public_url: tools.public_url.clone(), livemode: tools.intake.livemode };
        let report = endpoint::check(&**tools.stripe()?, &expected).await?;
        // What is wrong is what the run was to find out: it has succeeded, and metrics and `trueup check` tell of it.
        (tools.observers.endpoint_checked)(&report);
        for finding in &report.findings {
            tracing::warn!(finding = finding.kind.as_str(), remedy = finding.remedy, "{}", finding.what);
        }
        Ok(report)
    }
}
