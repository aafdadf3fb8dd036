//! Lets access end that ends by date.

use std::time::Duration;

use billing::usage::{Expired, Meter};

use crate::{Job, JobContext, JobError, JobSpec, Missed};

pub(super) struct ExpireEntitlements;

impl Job for ExpireEntitlements {
    type Report = Expired;

    fn spec(&self) -> JobSpec {
        JobSpec {
            name: "expire_entitlements",
            about: "Lets access end that ends by date: scheduled cancellations, grace, overrides",
            schedule: "30 * * * * *",
            timeout: Duration::from_mins(5),
            missed: Missed::Once,
        }
    }

    async fn run(&self, context: &JobContext) -> Result<Expired, JobError> {
        let JobContext { db, tools, stop, progress, .. } = context;
        let mut report = Expired::default();
        let meter = Meter::new(db, &tools.catalog, &tools.policy);
        let ended = meter.expire(stop, progress, &tools.rolled, &mut report).await;
        ended.map_err(|error| JobError::from(error).with(&report))?;
        if stop.is_cancelled() {
            return Err(JobError::CutOff { report: None }.with(&report));
        }
        Ok(report)
    }
}
