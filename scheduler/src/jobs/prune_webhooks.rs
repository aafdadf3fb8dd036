//! Empties and deletes what is old.

use std::time::Duration;

use billing::retention::{self, Pruned};

use crate::{Job, JobContext, JobError, JobSpec, Missed};

/// See [`retention::prune`].
#[derive(Debug)]
pub(super) struct PruneWebhooks;

impl Job for PruneWebhooks {
    type Report = Pruned;

    fn spec(&self) -> JobSpec {
        JobSpec {
            name: "prune_webhooks",
            about: "Empties the payloads of events that are long done, and deletes what is older still",
            schedule: "0 30 3 * * *",
            timeout: Duration::from_hours(1),
            missed: Missed::Once,
        }
    }

    async fn run(&self, context: &JobContext) -> Result<Pruned, JobError> {
        let mut report = Pruned::default();
        let (stop, progress) = (&context.stop, &context.progress);
        retention::prune(&context.db, &context.tools.retention, stop, progress, &mut report)
            .await
            .map_err(|error| JobError::from(error).with(&report))?;
        Ok(report)
    }
}
