//! What a job is: a name, a schedule, and the parameterless call of a function of `billing`. Run twice, late, or on two replicas, it does no
//! harm; what it does not finish, its next run goes on with.

use std::{error::Error as StdError, fmt, future::Future, sync::Arc, time::Duration};

use billing::{
    db::{Db, is_lease_lost},
    progress::Progress,
    stripe::StripeError,
};
use entity::Time;
use futures::future::BoxFuture;
use sea_orm::DbErr;
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::Tools;

/// What becomes of slots that passed while no process was there to run them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missed {
    /// The last of them runs, once.
    Once,
    /// Each of them runs, the oldest first, the last 100 at most.
    All,
    /// None of them runs.
    Skip,
}

impl Missed {
    /// As it is configured and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::All => "all",
            Self::Skip => "skip",
        }
    }
}

/// What is fixed about a job; schedule, time limit and more can be set anew in `trueup.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobSpec {
    /// Part of the contract: configuration, history and metrics name it.
    pub name: &'static str,
    /// For people, in one sentence.
    pub about: &'static str,
    /// Cron expression of six fields, seconds first, in UTC.
    pub schedule: &'static str,
    /// How long one run may take.
    pub timeout: Duration,
    /// What becomes of missed slots.
    pub missed: Missed,
}

/// What a run has at hand.
#[derive(Debug, Clone)]
pub struct JobContext {
    /// The database, writable only while this run holds its job's lease.
    pub db: Db,
    /// Everything else.
    pub tools: Arc<Tools>,
    /// Cancelled when the run should end: it finishes or gives up the transaction it is in, and returns. With work left undone for that, it
    /// returns [`JobError::CutOff`], and its slot is run again; what returns `Ok` counts as done.
    pub stop: CancellationToken,
    /// How far it has come.
    pub progress: Progress,
    /// The moment the run belongs to. What is due is asked of the database's clock, never of this.
    pub slot: Time,
}

/// Something that runs by the clock.
pub trait Job: Send + Sync + 'static {
    /// What a run did, as history, metrics and people read it.
    type Report: Serialize + Send;

    /// Name, schedule, limits.
    fn spec(&self) -> JobSpec;

    /// Runs once. Cut off at any point, it leaves nothing half done.
    fn run(&self, context: &JobContext) -> impl Future<Output = Result<Self::Report, JobError>> + Send;
}

/// Why a run did not succeed. Whatever it got done is kept, and told in `report`.
#[derive(Debug)]
pub enum JobError {
    /// Something it needs is not set up; the text says what, and how to.
    NotConfigured(String),
    /// It could have gone on, and did not, so that nobody is hurt; a person decides.
    Refused {
        /// Why, and what to do.
        why: String,
        /// What it found.
        report: Option<Value>,
    },
    /// It failed; the next slot goes on.
    Failed {
        /// Why.
        error: Box<dyn StdError + Send + Sync>,
        /// What it got done.
        report: Option<Value>,
    },
    /// Another run has its lease, or the process stops.
    CutOff {
        /// What it got done.
        report: Option<Value>,
    },
}

impl JobError {
    /// The same error with what the run got done.
    #[must_use]
    pub fn with(self, report: &impl Serialize) -> Self {
        let told = serde_json::to_value(report).ok();
        match self {
            Self::NotConfigured(why) => Self::NotConfigured(why),
            Self::Refused { why, .. } => Self::Refused { why, report: told },
            Self::Failed { error, .. } => Self::Failed { error, report: told },
            Self::CutOff { .. } => Self::CutOff { report: told },
        }
    }

    /// A failure.
    pub fn failed(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Failed { error: error.into(), report: None }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConfigured(why) | Self::Refused { why, .. } => f.write_str(why),
            Self::Failed { error, .. } => error.fmt(f),
            Self::CutOff { .. } => f.write_str("cut off before its end; the next run goes on"),
        }
    }
}

impl StdError for JobError {}

impl From<DbErr> for JobError {
    fn from(error: DbErr) -> Self {
        if is_lease_lost(&error) { Self::CutOff { report: None } } else { Self::failed(error) }
    }
}

impl From<StripeError> for JobError {
    fn from(error: StripeError) -> Self {
        Self::failed(error)
    }
}

/// A [`Job`] of any report, as JSON.
pub trait AnyJob: Send + Sync + 'static {
    /// See [`Job::spec`].
    fn spec(&self) -> JobSpec;

    /// See [`Job::run`].
    fn run<'a>(&'a self, context: &'a JobContext) -> BoxFuture<'a, Result<Value, JobError>>;
}

impl<J: Job> AnyJob for J {
    fn spec(&self) -> JobSpec {
        Job::spec(self)
    }

    fn run<'a>(&'a self, context: &'a JobContext) -> BoxFuture<'a, Result<Value, JobError>> {
        Box::pin(async {
            let report = Job::run(self, context).await?;
            serde_json::to_value(report).map_err(JobError::failed)
        })
    }
}

impl fmt::Debug for dyn AnyJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Job").field(&self.spec().name).finish()
    }
}
