//! One run, from the moment its slot is taken up until its outcome is written.
//!
//! The job runs in a task of its own, so that its panics are its own. Beside it the lease is renewed; a run that outlasts its time, whose
//! process stops, or whose lease is lost is told to stop, and ended where it does not.

use std::{error::Error as StdError, sync::Arc};

use billing::{
    db::{Blame, Db, Fence, blame},
    processor::failure::{chain, short},
    progress::Progress,
};
use entity::enums::RunOutcome;
use sea_orm::{DbBackend, DbErr};
use serde_json::Value;
use tokio::{
    task::JoinError,
    time::{Duration, Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::Instrument;

use crate::{
    JobContext, JobError, Tools,
    lease::{self, Ending, Taken},
    news::{Beat, News, Observer},
    settings::Planned,
};

/// For the task of a run that was aborted to be gone; one that never yields is left behind, and can write nothing.
const ABORTING: Duration = Duration::from_millis(200);

/// For the outcome to be written while the process stops.
const ENDING: Duration = Duration::from_secs(1);

/// What every run of a process has in common.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) db: Db,
    pub(crate) tools: Arc<Tools>,
    /// See [`crate::EngineOptions::lease`].
    pub(crate) lease: Duration,
    /// See [`crate::EngineOptions::grace`].
    pub(crate) grace: Duration,
    pub(crate) observer: Observer,
}

/// Why a run did not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Stopped,
    TimedOut,
    Lost,
}

type Ended = Result<Result<Value, JobError>, JoinError>;

/// Sees a run through, and tells how it ended; nothing where its lease was lost and nothing was written.
pub(crate) async fn see_through(
    ground: &Ground,
    planned: &Planned,
    taken: Taken,
    stop: &CancellationToken,
    progress: Progress,
    beat: &Arc<Beat>,
) -> Option<Ending> {
    let (job, Taken { run, missed }) = (planned.spec.name, taken);
    let span = tracing::info_span!("job", job, run = %run.id);
    let begun = Instant::now();
    if missed > 0 {
        tracing::warn!(job, slots = missed, "slots were missed and are not caught up");
        (ground.observer)(&News::Missed { job, slots: missed });
    }
    (ground.observer)(&News::Started { job });
    let lost = CancellationToken::new();
    let keeper = keep(ground.clone(), job, run.token, lost.clone(), Arc::clone(beat));
    let _keeper = AbortOnDropHandle::new(tokio::spawn(keeper));

    let told = CancellationToken::new();
    let context = JobContext {
        db: ground.db.fenced(Fence { job, token: run.token }),
        tools: Arc::clone(&ground.tools),
        stop: told.clone(),
        progress,
        slot: run.slot,
    };
    let code = Arc::clone(&planned.job);
    let task = async move { code.run(&context).await };
    let task = AbortOnDropHandle::new(tokio::spawn(task.instrument(span.clone())));
    let limit = planned.settings.timeout;
    let (cut, ended) = until_end(task, limit, ground.grace, stop, &lost, &told).await;
    let panicked = matches!(&ended, Some(Err(error)) if error.is_panic());
    let ending = ending(cut, ended, limit);
    let written = async {
        tokio::select! {
            written = write(ground, job, run.token, run.id, ending, &lost) => written,
            () = async { stop.cancelled().await; sleep(ENDING).await } => {
                tracing::warn!("the outcome of a run could not be written before the process had to stop; its lease runs out");
                None
            }
        }
    };
    let ending = written.instrument(span.clone()).await;

    let outcome = ending.as_ref().map_or(RunOutcome::Interrupted, |ending| ending.outcome);
    let seconds = begun.elapsed().as_secs_f64();
    (ground.observer)(&News::Ended { job, outcome, seconds });
    let error = ending.as_ref().and_then(|ending| ending.error.as_deref());
    span.in_scope(|| match outcome {
        RunOutcome::Succeeded => tracing::info!(%outcome, seconds, slot = %run.slot, "a run succeeded"),
        _ if ending.is_none() => {
            tracing::warn!(seconds, slot = %run.slot, "a run lost its lease; nothing of it is written any more");
        }
        RunOutcome::Failed | RunOutcome::TimedOut => {
            // Of a panic its own line has told.
            if panicked {
                tracing::error!(%outcome, seconds, slot = %run.slot, error, after_panic = true, "a run did not succeed");
            } else {
                tracing::error!(%outcome, seconds, slot = %run.slot, error, "a run did not succeed");
            }
        }
        outcome => tracing::warn!(%outcome, seconds, slot = %run.slot, error, "a run did not succeed"),
    });
    ending
}

/// Waits for the end of the task, or brings it about.
async fn until_end(
    mut task: AbortOnDropHandle<Result<Value, JobError>>,
    limit: Duration,
    grace: Duration,
    stop: &CancellationToken,
    lost: &CancellationToken,
    told: &CancellationToken,
) -> (Option<Cut>, Option<Ended>) {
    let cut = tokio::select! {
        biased;
        ended = &mut task => return (None, Some(ended)),
        () = lost.cancelled() => Cut::Lost,
        () = stop.cancelled() => Cut::Stopped,
        () = sleep(limit) => Cut::TimedOut,
    };
    told.cancel();
    if let Ok(ended) = timeout(grace, &mut task).await {
        return (Some(cut), Some(ended));
    }
    task.abort();
    let _ = timeout(ABORTING, &mut task).await;
    (Some(cut), None)
}

/// What is written of a run that ended so.
fn ending(cut: Option<Cut>, ended: Option<Ended>, limit: Duration) -> Ending {
    let late = format!("it was not done within {limit:?}");
    let (outcome, report, error) = match (ended, cut) {
        (None, Some(Cut::TimedOut)) => {
            (RunOutcome::TimedOut, None, Some(format!("{late}, and did not stop when told")))
        }
        (None, _) => (RunOutcome::Interrupted, None, Some("the process stopped, and it did not when told".to_owned())),
        (Some(Ok(Ok(report))), Some(Cut::TimedOut)) => (RunOutcome::TimedOut, Some(report), Some(late)),
        (Some(Ok(Ok(report))), _) => (RunOutcome::Succeeded, Some(report), None),
        (Some(Ok(Err(error))), cut) => failure(error, cut, late),
        (Some(Err(error)), _) if error.is_panic() => {
            // What a panic says may hold anything; the panic hook has told where it came from.
            let text = "it panicked, which is a mistake in Trueup; the log of its process tells where".to_owned();
            (RunOutcome::Failed, None, Some(text))
        }
        (Some(Err(_)), _) => (RunOutcome::Interrupted, None, Some("the process stopped".to_owned())),
    };
    Ending { outcome, report, error: error.map(|text| short(&text).replace('\0', "\u{fffd}")) }
}

fn failure(error: JobError, cut: Option<Cut>, late: String) -> (RunOutcome, Option<Value>, Option<String>) {
    let interrupted = |report| (RunOutcome::Interrupted, report, Some("the process stopped".to_owned()));
    match (error, cut) {
        (JobError::NotConfigured(why), _) => (RunOutcome::NotConfigured, None, Some(why)),
        (JobError::Refused { why, report }, _) => (RunOutcome::Refused, report, Some(why)),
        // Told to stop, it may have failed for just that.
        (JobError::Failed { report, .. } | JobError::CutOff { report }, Some(Cut::TimedOut)) => {
            (RunOutcome::TimedOut, report, Some(late))
        }
        (JobError::Failed { report, .. } | JobError::CutOff { report }, Some(_)) => interrupted(report),
        (JobError::Failed { error, report }, None) => (RunOutcome::Failed, report, Some(told(&*error))),
        (JobError::CutOff { report }, None) => {
            (RunOutcome::Interrupted, report, Some("it gave up before it was done".to_owned()))
        }
    }
}

/// An error with its causes, in one line; some repeat their cause in their own text.
fn told(error: &(dyn StdError + 'static)) -> String {
    chain(error).into_iter().fold(String::new(), |told, text| match told.as_str() {
        "" => text,
        told if told.contains(&text) => told.to_owned(),
        told => format!("{told}: {text}"),
    })
}

/// Renews a lease until dropped. `lost` is cancelled when somebody else has it, or when for its whole length nobody could say.
async fn keep(ground: Ground, job: &'static str, token: i64, lost: CancellationToken, beat: Arc<Beat>) {
    let mut renewed = Instant::now();
    let give_up = || {
        (ground.observer)(&News::LeaseLost { job });
        lost.cancel();
    };
    loop {
        sleep(ground.lease / 3).await;
        let begun = Instant::now();
        let reserved = ground.db.reserved();
        let renewing = lease::renew(&reserved, job, token, ground.lease);
        // On SQLite it may wait for a long transaction of this very run; nobody else can take the lease over meanwhile.
        let renewing = if ground.db.backend() == DbBackend::Sqlite {
            renewing.await
        } else {
            let unanswered = |_| Err(DbErr::Custom("the database does not answer".to_owned()));
            timeout(ground.lease, renewing).await.unwrap_or_else(unanswered)
        };
        match renewing {
            Ok(true) => renewed = begun,
            Ok(false) => return give_up(),
            Err(error) => {
                tracing::warn!(job, %error, "a lease could not be renewed");
                if renewed.elapsed() >= ground.lease {
                    return give_up();
                }
            }
        }
        beat.beat();
    }
}

/// Writes how a run ended, however often that takes while the lease is held; nothing where it is lost.
async fn write(
    ground: &Ground,
    job: &str,
    token: i64,
    run: uuid::Uuid,
    mut ending: Ending,
    lost: &CancellationToken,
) -> Option<Ending> {
    let mut pause = Duration::from_millis(50);
    while !lost.is_cancelled() {
        match lease::end(&ground.db, job, token, run, &ending).await {
            Ok(true) => return Some(ending),
            Ok(false) => return None,
            Err(error) if blame(&error) == Blame::Data => {
                tracing::error!(%error, "the database does not take the report of a run");
                ending.report.take()?;
                let said = ending.error.take().map(|said| format!("; {said}")).unwrap_or_default();
                ending.error = Some(format!("its report could not be stored{said}"));
            }
            Err(error) => {
                tracing::warn!(%error, "the outcome of a run could not be written yet");
                tokio::select! {
                    () = lost.cancelled() => {}
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    fn outcome(cut: Option<Cut>, ended: Option<Ended>) -> (&'static str, Option<Value>, Option<String>) {
        let Ending { outcome, report, error } = ending(cut, ended, LIMIT);
        (outcome.as_str(), report, error)
    }

    #[test]
    fn whatever_way_a_run_ends_its_report_is_kept_and_the_outcome_says_who_ended_it() {
        let report = || Some(json!({"done": 3}));
        let ok = || Some(Ok(Ok(json!({"done": 3}))));
        let error = |error: JobError| Some(Ok(Err(error.with(&json!({"done": 3})))));
        let cut_off = || error(JobError::CutOff { report: None });
        let failed = || error(JobError::failed("no room"));
        let refused = || error(JobError::Refused { why: "too many".into(), report: None });
        assert_eq!(outcome(None, ok()), ("succeeded", report(), None));
        assert_eq!(outcome(Some(Cut::Stopped), ok()), ("succeeded", report(), None), "it was done all the same");
        assert_eq!(outcome(None, failed()), ("failed", report(), Some("no room".into())));
        assert_eq!(outcome(None, refused()), ("refused", report(), Some("too many".into())));
        for ended in [cut_off(), failed()] {
            assert_eq!(
                outcome(Some(Cut::Stopped), ended),
                ("interrupted", report(), Some("the process stopped".into()))
            );
        }
        for ended in [ok(), cut_off(), failed()] {
            let (outcome, told, error) = outcome(Some(Cut::TimedOut), ended);
            assert_eq!((outcome, told), ("timed_out", report()));
            assert_eq!(error.as_deref(), Some("it was not done within 60s"));
        }
        assert_eq!(outcome(Some(Cut::TimedOut), None).0, "timed_out");
        assert_eq!(outcome(Some(Cut::Stopped), None).0, "interrupted");
        let missing = error(JobError::NotConfigured("set STRIPE_SECRET_KEY".into()));
        assert_eq!(outcome(None, missing), ("not_configured", None, Some("set STRIPE_SECRET_KEY".into())));
    }

    #[test]
    fn an_error_is_told_with_its_causes_and_what_no_database_takes_is_replaced() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner \0"));
        let (_, _, told) = outcome(None, Some(Ok(Err(JobError::failed(error)))));
        assert_eq!(told.as_deref(), Some("outer: inner \u{fffd}"));
    }
}
