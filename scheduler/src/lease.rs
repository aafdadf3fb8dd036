//! Taking up a slot and ending its run, each in one transaction.

use std::time::Duration;

use billing::db::Db;
use chrono::{TimeDelta, Timelike};
use entity::{
    Time,
    enums::{RunOutcome, RunTrigger},
    job_runs,
};
use sea_orm::DbErr;
use uuid::Uuid;

use crate::{
    settings::Planned,
    slots::{Decision, Past, TakenUp, decide},
    store::{self, NewRun, View},
};

/// A slot that this process has taken up: its run is written down and the lease is held.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) run: job_runs::Model,
    /// Slots that were passed over for it.
    pub(crate) missed: u64,
}

/// What came of an attempt to take a slot up.
#[derive(Debug)]
pub(crate) enum Take {
    /// Taken.
    Taken(Taken),
    /// Another process has the lease.
    Held,
    /// Another process was faster: there is nothing left to do.
    Nothing,
}

/// What a look at a job tells the pure function.
pub(crate) fn decision(planned: &Planned, view: &View) -> Decision {
    if !planned.settings.enabled || view.paused {
        return Decision::default();
    }
    let settings = &planned.settings;
    let last = view.last_slot.zip(view.last_attempt).map(|(slot, attempt)| {
        // Whoever asks holds the lease, or nobody does: what runs still by the table has been cut off.
        let cut_off = matches!(view.last_outcome, Some(RunOutcome::Interrupted | RunOutcome::Running));
        TakenUp { slot, attempt, cut_off }
    });
    let slack = TimeDelta::from_std(settings.jitter).unwrap_or_default();
    decide(&settings.schedule, settings.missed, slack, &Past { after: view.slots_after, last }, view.now)
}

/// Takes the lease and the first slot that is due; or, where none is, only puts in order what a dead process left behind.
pub(crate) async fn take_due(db: &Db, planned: &Planned, runner: &str, lease: Duration) -> Result<Take, DbErr> {
    let job = planned.spec.name;
    let tx = db.write().await?;
    let Some(token) = store::take_over(&*tx, job, runner, lease).await? else { return Ok(Take::Held) };
    store::interrupt_earlier(&*tx, job, token).await?;
    let view = store::look(&*tx, job).await?;
    let decision = view.as_ref().map(|view| decision(planned, view)).unwrap_or_default();
    let begun = match (view, decision.due.first()) {
        (Some(view), Some(due)) => {
            let trigger = if due.late { RunTrigger::CatchUp } else { RunTrigger::Scheduled };
            let run = NewRun { job, slot: due.slot, attempt: due.attempt, trigger, token, now: view.now, runner };
            store::begin(&*tx, &run).await?
        }
        _ => None,
    };
    let take = if let Some(run) = begun {
        Take::Taken(Taken { run, missed: decision.missed })
    } else {
        store::release(&*tx, job, token).await?;
        Take::Nothing
    };
    tx.commit().await?;
    Ok(take)
}

/// Takes the lease for a run that a person asks for, with a slot of its own: now. Nothing where the job is running.
pub(crate) async fn take_now(db: &Db, job: &str, runner: &str, lease: Duration) -> Result<Option<Taken>, DbErr> {
    let tx = db.write().await?;
    store::ensure(&*tx, job).await?;
    let Some(token) = store::take_over(&*tx, job, runner, lease).await? else { return Ok(None) };
    store::interrupt_earlier(&*tx, job, token).await?;
    let now = billing::db::clock(&*tx).await?;
    let mut slot = milliseconds(now);
    // Whatever else was asked for in this very millisecond has it; the next is as good.
    let run = loop {
        let run = NewRun { job, slot, attempt: 1, trigger: RunTrigger::Manual, token, now, runner };
        match store::begin(&*tx, &run).await? {
            Some(run) => break run,
            None => slot += TimeDelta::milliseconds(1),
        }
    };
    tx.commit().await?;
    Ok(Some(Taken { run, missed: 0 }))
}

/// As every database and every reader of JSON keeps it.
fn milliseconds(at: Time) -> Time {
    at.with_nanosecond(at.nanosecond() / 1_000_000 * 1_000_000).unwrap_or(at)
}

/// Prolongs a lease; false where it is lost.
pub(crate) async fn renew(db: &Db, job: &str, token: i64, lease: Duration) -> Result<bool, DbErr> {
    let tx = db.write().await?;
    let held = store::renew(&*tx, job, token, lease).await?;
    tx.commit().await?;
    Ok(held)
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ending {
    pub(crate) outcome: RunOutcome,
    pub(crate) report: Option<serde_json::Value>,
    pub(crate) error: Option<String>,
}

/// Writes down how a run ended, and gives its lease back. False where the lease is lost, and nothing is written.
pub(crate) async fn end(db: &Db, job: &str, token: i64, id: Uuid, ending: &Ending) -> Result<bool, DbErr> {
    let tx = db.write().await?;
    if !store::release(&*tx, job, token).await? {
        return Ok(false);
    }
    store::end(&*tx, id, ending.outcome, ending.report.as_ref(), ending.error.as_deref()).await?;
    tx.commit().await?;
    Ok(true)
}
