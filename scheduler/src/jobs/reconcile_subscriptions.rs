//! Compares every subscription with Stripe, and repairs.

use std::{sync::Arc, time::Duration};

use billing::reconcile::{BeginError, Broken, Options, Reconciler, Report};
use entity::enums::{ReconcileMode, ReconcileOutcome, Requester};

use crate::{Job, JobContext, JobError, JobSpec, Missed};

/// See [`billing::reconcile`].
#[derive(Debug, Clone, Copy)]
pub(super) struct ReconcileSubscriptions;

impl Job for ReconcileSubscriptions {
    type Report = Report;

    fn spec(&self) -> JobSpec {
        JobSpec {
            name: "reconcile_subscriptions",
            about: "Compares every subscription with Stripe, writes down each difference, and repairs it",
            schedule: "0 0 */6 * * *",
            timeout: Duration::from_hours(1),
            missed: Missed::Once,
        }
    }

    async fn run(&self, context: &JobContext) -> Result<Report, JobError> {
        let tools = &context.tools;
        let reconciler = Reconciler {
            db: context.db.clone(),
            stripe: Arc::clone(tools.stripe()?),
            catalog: Arc::clone(&tools.catalog),
            policy: Arc::clone(&tools.policy),
            livemode: tools.intake.livemode,
        };
        let options = Options::new(ReconcileMode::Apply, Requester::Schedule);
        let run = reconciler.begin(options).await.map_err(|error| match error {
            BeginError::Database(error) => error.into(),
            // One that a person asked for: it does what this one would have done.
            other => JobError::failed(other),
        })?;
        let report = match run.run(&context.progress, &context.stop).await {
            Ok(report) => report,
            Err(Broken { source, report }) => {
                (tools.observers.reconciled)(&report);
                return Err(JobError::from(source).with(&report));
            }
        };
        (tools.observers.reconciled)(&report);
        let why = || report.error.clone().unwrap_or_default();
        match report.outcome {
            ReconcileOutcome::Succeeded | ReconcileOutcome::Running => {
                if report.repaired > 0 {
                    // Events that waited for an owner may go on.
                    tools.nudge.notify_one();
                }
                Ok(report)
            }
            ReconcileOutcome::Failed => Err(JobError::failed(why()).with(&report)),
            ReconcileOutcome::Refused => Err(JobError::Refused { why: why(), report: None }.with(&report)),
            ReconcileOutcome::Interrupted => Err(JobError::CutOff { report: None }.with(&report)),
        }
    }
}
