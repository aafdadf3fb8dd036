//! What an operator sees and says of jobs, through the database: it works whichever process asks, and while none runs.

use std::collections::HashMap;

use billing::db::{self, Db};
use entity::{Time, job_runs, job_settings};
use sea_orm::{DbErr, EntityTrait, FromQueryResult, Statement};

use crate::{
    JobSpec, Registry, UnknownJob,
    history::JobRun,
    settings::{JobSettings, Planned},
    store,
};

/// Every job of the registry, and whether it is paused; one statement.
pub async fn paused(db: &Db, registry: &Registry) -> Result<Vec<(&'static str, bool)>, DbErr> {
    let rows = job_settings::Entity::find().all(db.reader()).await?;
    let is_paused = |job: &str| rows.iter().any(|row| row.paused && row.job == job);
    Ok(registry.names().into_iter().map(|job| (job, is_paused(job))).collect())
}

/// A job as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct JobState {
    /// What is fixed about it.
    pub spec: JobSpec,
    /// What is set about it.
    pub settings: JobSettings,
    /// Since when it is paused.
    pub paused_at: Option<Time>,
    /// True while some process runs it.
    pub running: bool,
    /// When its next slot comes; none while it is paused or switched off.
    pub next_run: Option<Time>,
    /// The run with the newest slot.
    pub last_run: Option<JobRun>,
}

/// An operator asked what cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No such job.
    #[error(transparent)]
    Unknown(#[from] UnknownJob),
    /// The database.
    #[error("the tables of the jobs could not be reached: {0}")]
    Database(#[from] DbErr),
}

/// Every job of the registry as it stands; four statements, whatever their number.
pub async fn list(db: &Db, registry: &Registry) -> Result<Vec<JobState>, DbErr> {
    let mut runs: HashMap<String, JobRun> =
        last_runs(db).await?.into_iter().map(|run| (run.job.clone(), run)).collect();
    let now = db::clock(db.reader()).await?;
    let mut settings: HashMap<String, job_settings::Model> = HashMap::new();
    for row in job_settings::Entity::find().all(db.reader()).await? {
        settings.insert(row.job.clone(), row);
    }
    let running = running(db).await?;
    let states = registry.iter().map(|planned| {
        let name = planned.spec.name;
        let paused = settings.remove(name).filter(|row| row.paused);
        let scheduled = planned.settings.enabled && paused.is_none();
        JobState {
            spec: planned.spec,
            settings: planned.settings.clone(),
            paused_at: paused.map(|row| row.paused_at.unwrap_or(row.slots_after)),
            running: running.iter().any(|job| job == name),
            next_run: scheduled.then(|| planned.settings.schedule.after(now)).flatten(),
            last_run: runs.remove(name),
        }
    });
    Ok(states.collect())
}

/// One job as it stands.
pub async fn show(db: &Db, registry: &Registry, name: &str) -> Result<JobState, ControlError> {
    registry.find(name)?;
    let states = list(db, registry).await?;
    let unknown = || UnknownJob { name: name.to_owned(), known: registry.names() };
    Ok(states.into_iter().find(|state| state.spec.name == name).ok_or_else(unknown)?)
}

/// No slot of the job is taken up any more, on any process, until it is resumed. A run that is under way ends by itself.
pub async fn pause(db: &Db, registry: &Registry, name: &str) -> Result<(), ControlError> {
    let Planned { spec, .. } = registry.find(name)?;
    let tx = db.write().await?;
    store::ensure(&*tx, spec.name).await?;
    store::pause(&*tx, spec.name).await?;
    Ok(tx.commit().await?)
}

/// Slots are taken up again, from the next one on: those that passed meanwhile are not missed ones.
pub async fn resume(db: &Db, registry: &Registry, name: &str) -> Result<(), ControlError> {
    let Planned { spec, .. } = registry.find(name)?;
    let tx = db.write().await?;
    store::ensure(&*tx, spec.name).await?;
    store::resume(&*tx, spec.name).await?;
    Ok(tx.commit().await?)
}

/// Of each job the run with the newest slot; a slot that lies ahead of the clock was written by one that has since been set back.
async fn last_runs(db: &Db) -> Result<Vec<JobRun>, DbErr> {
    let now = db::now(db.backend());
    let sql = format!(
        "SELECT r.* FROM job_settings AS s JOIN job_runs AS r ON r.id = (SELECT t.id FROM job_runs AS t
            WHERE t.job = s.job AND t.slot <= {now} ORDER BY t.slot DESC, t.attempt DESC LIMIT 1)"
    );
    let rows = job_runs::Model::find_by_statement(Statement::from_string(db.backend(), sql)).all(db.reader()).await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// Jobs whose lease is held.
async fn running(db: &Db) -> Result<Vec<String>, DbErr> {
    #[derive(FromQueryResult)]
    struct Row {
        job: String,
    }
    let sql = store::held(db.backend());
    let rows = Row::find_by_statement(Statement::from_string(db.backend(), sql)).all(db.reader()).await?;
    Ok(rows.into_iter().map(|row| row.job).collect())
}
