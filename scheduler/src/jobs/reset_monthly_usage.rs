//! Rolls every usage window that is over.

use std::time::Duration;

use billing::usage::{Meter, Reset};

use crate::{Job, JobContext, JobError, JobSpec, Missed};

pub(super) struct ResetMonthlyUsage;

impl Job for ResetMonthlyUsage {
    type Report = Reset;

    fn spec(&self) -> JobSpec {
        JobSpec {
            name: "reset_monthly_usage",
            about: "Gives every user whose usage window is over the next one",
            schedule: "0 */5 * * * *",
            timeout: Duration::from_mins(15),
            missed: Missed::Once,
        }
    }

    async fn run(&self, context: &JobContext) -> Result<Reset, JobError> {
        let JobContext { db, tools, stop, progress, .. } = context;
        let mut report = Reset::default();
        let meter = Meter::new(db, &tools.catalog, &tools.policy);
        let ended = meter.reset(stop, progress, &tools.rolled, &mut report).await;
        ended.map_err(|error| JobError::from(error).with(&report))?;
        if stop.is_cancelled() {
            return Err(JobError::CutOff { report: None }.with(&report));
        }
        Ok(report)
    }
}
