//! Applies whatever is due and was not applied: what a dead processor had claimed, what failed and rested, what waited for its user.

use std::time::Duration;

use billing::{
    inbox::parked,
    processor::{Outcome, Pass},
};
use serde::Serialize;

use crate::{Job, JobContext, JobError, JobSpec, Missed};

pub(super) struct RetryPendingWebhooks;

/// What one run did, in events.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Parked ones whose user is there by now: made due.
    released: u64,
    /// Claims of a processor that died: taken back.
    rescued: u64,
    /// Applied.
    recovered: usize,
    /// Waiting for their user, still or from now on.
    parked: usize,
    /// Failed once more, and tried again later.
    retried: usize,
    /// Failed for good; they wait for a person.
    failed: usize,
    /// Not ours to apply.
    skipped: usize,
}

impl Report {
    fn of(released: u64, pass: &Pass) -> Self {
        let count = |outcome| pass.outcomes.get(&outcome).copied().unwrap_or_default();
        Self {
            released,
            rescued: pass.rescued,
            recovered: count(Outcome::Applied) + count(Outcome::Stale),
            parked: count(Outcome::Parked),
            retried: count(Outcome::Retried),
            failed: count(Outcome::Failed),
            skipped: count(Outcome::Skipped),
        }
    }
}

impl Job for RetryPendingWebhooks {
    type Report = Report;

    fn spec(&self) -> JobSpec {
        JobSpec {
            name: "retry_pending_webhooks",
            about: "Applies events that are due: failed ones, those of a processor that died, those whose user has come",
            schedule: "0 * * * * *",
            timeout: Duration::from_mins(5),
            missed: Missed::Once,
        }
    }

    async fn run(&self, context: &JobContext) -> Result<Report, JobError> {
        let JobContext { db, tools, stop, progress, .. } = context;
        let released = parked::release(db, &tools.policy).await?;
        let unfinished = Report { released, ..Report::default() };
        let pass = tools.processor.on(db.clone()).run_once(stop).await;
        let pass = pass.map_err(|error| JobError::from(error).with(&unfinished))?;
        (tools.passes)(&pass);
        progress.add(pass.events() as u64);
        let report = Report::of(released, &pass);
        if stop.is_cancelled() {
            return Err(JobError::CutOff { report: None }.with(&report));
        }
        if pass.disturbed {
            let error = "events were given back for reasons that are not theirs: the database or Stripe was not well; the log tells";
            return Err(JobError::failed(error).with(&report));
        }
        Ok(report)
    }
}
