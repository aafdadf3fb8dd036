//! What is emptied and deleted, and when: payloads first, whole rows later, and nothing that is still needed.
//!
//! Events that wait, failed or are being applied stay as they are, however old. Stripe sends an event again for up to 30 days
//! (docs.stripe.com/webhooks, "Manually resend"), so its row, which makes that a duplicate, stays longer. The row of an e-mail stays as long as the
//! event that could queue it again.

use sea_orm::{DbBackend, DbErr};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{db::Db, progress::Progress, store::retention::Old};

/// Fewest days for which events stay: Stripe can send one for 30, and clocks and queues want some room.
pub const FEWEST_EVENT_DAYS: u32 = 35;

/// After how many days what is done is emptied or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Payloads of events, counted from when they were applied or skipped.
    pub payload_days: u32,
    /// Events, likewise; at least [`FEWEST_EVENT_DAYS`] and `payload_days`.
    pub event_days: u32,
    /// E-mails that were sent, dropped or given up; at least `event_days`, since the row is what keeps a replayed event from sending twice.
    pub email_days: u32,
    /// Runs of jobs.
    pub job_run_days: u32,
    /// Keys by which usage was counted once.
    pub usage_record_days: u32,
    /// Reconciliations with what they found.
    pub reconciliation_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            payload_days: 30,
            event_days: 90,
            email_days: 90,
            job_run_days: 90,
            usage_record_days: 90,
            reconciliation_days: 90,
        }
    }
}

/// What was pruned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Payloads emptied.
    pub payloads_emptied: u64,
    /// Events deleted.
    pub events_deleted: u64,
    /// E-mails deleted.
    pub emails_deleted: u64,
    /// Runs of jobs deleted.
    pub job_runs_deleted: u64,
    /// Keys of usage deleted.
    pub usage_records_deleted: u64,
    /// Findings of reconciliations deleted.
    pub drifts_deleted: u64,
    /// Reconciliations deleted.
    pub reconciliations_deleted: u64,
}

/// Prunes everything that is old, in short transactions, until nothing is left or `stop` is cancelled. `report` tells what was done, also where an
/// error ends it.
pub async fn prune(
    db: &Db,
    retention: &Retention,
    stop: &CancellationToken,
    progress: &Progress,
    report: &mut Pruned,
) -> Result<(), DbErr> {
    let sweeps: [(Old, u32, &mut u64); 7] = [
        (Old::Payloads, retention.payload_days, &mut report.payloads_emptied),
        (Old::Events, retention.event_days, &mut report.events_deleted),
        (Old::Emails, retention.email_days, &mut report.emails_deleted),
        (Old::JobRuns, retention.job_run_days, &mut report.job_runs_deleted),
        (Old::UsageRecords, retention.usage_record_days, &mut report.usage_records_deleted),
        (Old::Drifts, retention.reconciliation_days, &mut report.drifts_deleted),
        (Old::Reconciliations, retention.reconciliation_days, &mut report.reconciliations_deleted),
    ];
    for (old, days, count) in sweeps {
        while !stop.is_cancelled() {
            let tx = db.write().await?;
            let done = old.sweep(&*tx, days).await?;
            tx.commit().await?;
            *count += done;
            progress.add(done);
            if done < u64::from(old.slice(db.backend())) {
                break;
            }
        }
    }
    Ok(())
}

/// The statements that empty payloads and delete events, for a look at how the database plans them. `$1` is an age in seconds, `$2` a number of rows.
pub fn statements(backend: DbBackend) -> [String; 2] {
    [Old::Payloads, Old::Events].map(|old| old.statement(backend))
}
