//! What operators see and ask of jobs.

use chrono::{DateTime, Utc};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
};
use scheduler::{
    RunNowError, UnknownJob,
    control::{self, ControlError, JobState},
    history::{self, Cursor},
};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Tag,
    auth::AdminToken,
    body::Answer,
    problem::{BAD_REQUEST, JOB_RUNNING, JOB_UNKNOWN, Problem, RETRY_AFTER, SCHEDULER_OFF, STOPPING},
    within,
};
use crate::app::App;

#[derive(Debug, Clone)]
pub(super) struct JobsApi(pub(super) App);

/// One run of a job.
#[derive(Debug, Serialize, Object)]
struct JobRun {
    /// Time-ordered.
    id: Uuid,
    /// Name of the job.
    job: String,
    /// The scheduled moment it belongs to; of a run that a person asked for, the moment of asking.
    slot: DateTime<Utc>,
    /// 1, and one more each time the slot is run again because its run was cut off.
    attempt: i16,
    /// `scheduled`, `catch_up` or `manual`.
    trigger: String,
    /// When it began.
    started_at: DateTime<Utc>,
    /// When it ended; null while it runs.
    #[oai(nullable)]
    finished_at: Option<DateTime<Utc>>,
    /// `succeeded`, `failed`, `refused`, `interrupted`, `timed_out` or `not_configured`; null while it runs.
    #[oai(nullable)]
    outcome: Option<String>,
    /// What it did.
    #[oai(nullable)]
    report: Option<serde_json::Value>,
    /// Why it did not succeed.
    #[oai(nullable)]
    error: Option<String>,
    /// The process that ran it.
    runner: String,
}

impl From<history::JobRun> for JobRun {
    fn from(run: history::JobRun) -> Self {
        let history::JobRun {
            id,
            job,
            slot,
            attempt,
            trigger,
            started_at,
            finished_at,
            outcome,
            report,
            error,
            runner,
        } = run;
        let (trigger, outcome) = (trigger.to_string(), outcome.map(|outcome| outcome.to_string()));
        Self { id, job, slot, attempt, trigger, started_at, finished_at, outcome, report, error, runner }
    }
}

/// A job as it stands.
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Job")]
struct ShownJob {
    /// Part of the contract.
    name: String,
    /// What it does, for people.
    about: String,
    /// Cron expression of six fields, seconds first, in UTC.
    schedule: String,
    /// False where the configuration of the server that answers switches it off.
    enabled: bool,
    /// True while no slot is run.
    paused: bool,
    /// Since when.
    #[oai(nullable)]
    paused_at: Option<DateTime<Utc>>,
    /// True while some process runs it.
    running: bool,
    /// When its next slot comes; null while it is paused or switched off.
    #[oai(nullable)]
    next_run: Option<DateTime<Utc>>,
    /// The run with the newest slot.
    #[oai(nullable)]
    last_run: Option<JobRun>,
    /// What becomes of missed slots: `once`, `all` or `skip`.
    missed: String,
    /// How long one run may take.
    timeout_seconds: f64,
}

impl From<JobState> for ShownJob {
    fn from(state: JobState) -> Self {
        let JobState { spec, settings, paused_at, running, next_run, last_run } = state;
        Self {
            name: spec.name.to_owned(),
            about: spec.about.to_owned(),
            schedule: settings.schedule.to_string(),
            enabled: settings.enabled,
            paused: paused_at.is_some(),
            paused_at,
            running,
            next_run,
            last_run: last_run.map(Into::into),
            missed: settings.missed.as_str().to_owned(),
            timeout_seconds: settings.timeout.as_secs_f64(),
        }
    }
}

/// Every job.
#[derive(Debug, Serialize, Object)]
struct Jobs {
    /// The jobs.
    items: Vec<ShownJob>,
    /// Always null: all jobs fit one page.
    #[oai(nullable)]
    next_cursor: Option<String>,
}

/// A page of a job's runs, newest slot first.
#[derive(Debug, Serialize, Object)]
struct JobRuns {
    /// The runs.
    items: Vec<JobRun>,
    /// Pass it as `cursor` for the next page.
    #[oai(nullable)]
    next_cursor: Option<String>,
}

#[derive(ApiResponse)]
enum Begun {
    /// The run has begun; its history tells what comes of it.
    #[oai(status = 202)]
    Begun(Answer<JobRun>),
}

impl From<UnknownJob> for Problem {
    fn from(error: UnknownJob) -> Self {
        // What was asked for may be anything; what there is tells enough.
        Self::new(JOB_UNKNOWN, format!("there is no such job; there are {}", error.known.join(", ")))
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Unknown(error) => error.into(),
            ControlError::Database(error) => error.into(),
        }
    }
}

impl From<RunNowError> for Problem {
    fn from(error: RunNowError) -> Self {
        match error {
            RunNowError::Unknown(error) => error.into(),
            RunNowError::Database(error) => error.into(),
            RunNowError::Running(_) => Self::new(JOB_RUNNING, error.to_string()),
            RunNowError::Stopping => Self::later(STOPPING, error.to_string(), RETRY_AFTER),
        }
    }
}

#[OpenApi]
impl JobsApi {
    /// Every job: when it runs, and how its last run went
    #[oai(path = "/api/v1/admin/jobs", method = "get", operation_id = "listJobs", tag = "Tag::Admin")]
    async fn list(&self, _token: AdminToken) -> Result<Answer<Jobs>, Problem> {
        let Self(app) = self;
        let states = within(control::list(&app.db, &app.jobs)).await??;
        Ok(Answer(Jobs { items: states.into_iter().map(Into::into).collect(), next_cursor: None }))
    }

    /// Runs a job now, also while it is paused
    ///
    /// Answers as soon as the run has begun. 404 `job-unknown`, 409 `job-running`, 409 `scheduler-off` where this server runs no jobs.
    #[oai(path = "/api/v1/admin/jobs/:name/run", method = "post", operation_id = "runJob", tag = "Tag::Admin")]
    async fn run(&self, _token: AdminToken, name: Path<String>) -> Result<Begun, Problem> {
        let Self(app) = self;
        app.jobs.find(&name.0)?;
        let Some(scheduler) = &app.scheduler else {
            let detail = "this server runs no jobs (--no-scheduler); ask one that does, or use `trueup jobs run`";
            return Err(Problem::new(SCHEDULER_OFF, detail));
        };
        let run = within(scheduler.run_now(&name.0)).await??;
        tracing::info!(job = %run.job, run = %run.id, "an operator runs a job");
        Ok(Begun::Begun(Answer(run.into())))
    }

    /// What ran, when, and what came of it; newest slot first
    #[oai(path = "/api/v1/admin/jobs/:name/runs", method = "get", operation_id = "listJobRuns", tag = "Tag::Admin")]
    async fn runs(
        &self,
        _token: AdminToken,
        name: Path<String>,
        /// Runs on a page.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "100")))]
        limit: Query<u32>,
        /// Where the page begins: `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Answer<JobRuns>, Problem> {
        let Self(app) = self;
        let job = app.jobs.find(&name.0)?.spec.name;
        let cursor: Option<Cursor> = match cursor.0.as_deref() {
            Some(text) => Some(text.parse().map_err(|error| Problem::new(BAD_REQUEST, format!("{error}")))?),
            None => None,
        };
        let (items, next) = within(history::runs(&app.db, job, u64::from(limit.0), cursor)).await??;
        let items = items.into_iter().map(Into::into).collect();
        Ok(Answer(JobRuns { items, next_cursor: next.map(|next| next.to_string()) }))
    }

    /// Lets a job's slots pass, on every server, until it is resumed
    ///
    /// A run that is under way ends by itself. Pausing a paused job changes nothing.
    #[oai(path = "/api/v1/admin/jobs/:name/pause", method = "post", operation_id = "pauseJob", tag = "Tag::Admin")]
    async fn pause(&self, _token: AdminToken, name: Path<String>) -> Result<Answer<ShownJob>, Problem> {
        let Self(app) = self;
        within(control::pause(&app.db, &app.jobs, &name.0)).await??;
        tracing::info!(job = app.jobs.find(&name.0)?.spec.name, "an operator paused a job");
        self.show(&name.0).await
    }

    /// Takes a job's slots up again, from the next one on
    ///
    /// What passed while it was paused is not made up for.
    #[oai(path = "/api/v1/admin/jobs/:name/resume", method = "post", operation_id = "resumeJob", tag = "Tag::Admin")]
    async fn resume(&self, _token: AdminToken, name: Path<String>) -> Result<Answer<ShownJob>, Problem> {
        let Self(app) = self;
        within(control::resume(&app.db, &app.jobs, &name.0)).await??;
        tracing::info!(job = app.jobs.find(&name.0)?.spec.name, "an operator resumed a job");
        self.show(&name.0).await
    }
}

impl JobsApi {
    /// The job after a change, which this server's own driver takes note of at once.
    async fn show(&self, name: &str) -> Result<Answer<ShownJob>, Problem> {
        let Self(app) = self;
        if let Some(scheduler) = &app.scheduler {
            scheduler.ring(name);
        }
        Ok(Answer(within(control::show(&app.db, &app.jobs, name)).await??.into()))
    }
}

fn default_limit() -> u32 {
    50
}
