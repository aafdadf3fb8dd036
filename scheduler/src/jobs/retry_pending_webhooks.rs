//! Applies whatever is due and was not applied: what a dead processor had claimed, what failed and rested, what waited for its user. Then asks
//! Stripe about subscriptions of which two snapshots of one second disagree, or of which only a checkout has told.

use std::time::Duration;

use billing::{
    inbox::parked,
    processor::{Outcome, Pass},
    refresh::Swept,
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
    /// Asked for at Stripe; nothing without an API key.
    refetched: Option<Swept>,
}

/// Subscriptions that one run asks Stripe about: half a minute of the budget at its default.
const REFETCHES: usize = 600;

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
            refetched: None,
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
        let mut report = Report::of(released, &pass);
        if let Some(refresher) = tools.processor.refresher() {
            let swept = refresher.on(db.clone()).refresh_flagged(REFETCHES, stop).await;
            let swept = swept.map_err(|error| JobError::from(error).with(&report))?;
            progress.add(swept.fetched as u64);
            report.refetched = Some(swept);
        }
        if stop.is_cancelled() {
            return Err(JobError::CutOff { report: None }.with(&report));
        }
        if pass.disturbed {
            let error = "events were given back for reasons that are not theirs: the database or Stripe was not well; the log tells";
            return Err(JobError::failed(error).with(&report));
        }
        if let Some(why) = report.refetched.as_ref().and_then(|swept| swept.stopped.clone()) {
            return Err(JobError::failed(why).with(&report));
        }
        Ok(report)
    }
}
