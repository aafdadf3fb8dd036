//! Fetches the events whose webhooks never arrived.

use std::time::Duration;

use billing::recovery::{RecoverError, Recovery, Report, Unfinished};

use crate::{Job, JobContext, JobError, JobSpec, Missed};

/// See [`billing::recovery`].
#[derive(Debug, Clone, Copy)]
pub(super) struct RecoverMissedEvents;

impl Job for RecoverMissedEvents {
    type Report = Report;

    fn spec(&self) -> JobSpec {
        JobSpec {
            name: "recover_missed_events",
            about: "Asks Stripe for the events since the last time, and stores those whose webhooks never arrived",
            schedule: "0 */15 * * * *",
            timeout: Duration::from_mins(30),
            missed: Missed::Once,
        }
    }

    async fn run(&self, context: &JobContext) -> Result<Report, JobError> {
        let tools = &context.tools;
        let recovery = Recovery { db: &context.db, stripe: &**tools.stripe()?, intake: &tools.intake };
        let (report, error) = match recovery.run(None, &context.progress, &context.stop).await {
            Ok(report) => (report, None),
            Err(unfinished) => {
                let Unfinished { error, report } = *unfinished;
                (report, Some(error))
            }
        };
        (tools.observers.recovered)(&report);
        if report.stored > 0 {
            tools.nudge.notify_one();
        }
        match error {
            None => Ok(report),
            Some(RecoverError::Stopped) => Err(JobError::CutOff { report: None }.with(&report)),
            Some(RecoverError::Database(error)) => Err(JobError::from(error).with(&report)),
            Some(error) => Err(JobError::failed(error).with(&report)),
        }
    }
}
