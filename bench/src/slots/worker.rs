//! A process that runs the job whenever its slot is not another's.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use billing::{
    catalog::Catalog,
    db::{Db, DbOptions},
    policy::Policy,
    processor::{Processor, ProcessorOptions},
};
use scheduler::{Engine, EngineOptions, Job, JobContext, JobError, JobSettings, JobSpec, Missed, Registry, Tools};
use sea_orm::{ConnectionTrait, DbErr};
use serde::Serialize;
use tokio::io::AsyncReadExt;

use crate::On;

/// Name of the job.
pub(crate) const JOB: &str = "proof_of_slots";

/// How long one run takes.
pub(crate) const WORK: Duration = Duration::from_millis(500);

/// What every run leaves behind, beside the history: a line when it begins, and a line when it is done.
pub(crate) const EFFECTS: &str = "CREATE TABLE proof_effects (run_id varchar(36) NOT NULL, stage varchar(8) NOT NULL, at timestamp DEFAULT CURRENT_TIMESTAMP)";

struct Proof;

#[derive(Debug, Serialize)]
struct Done {
    effects: u64,
}

impl Job for Proof {
    type Report = Done;

    fn spec(&self) -> JobSpec {
        JobSpec {
            name: JOB,
            about: "Works for half a second, every second, and leaves a trace",
            schedule: "* * * * * *",
            timeout: Duration::from_secs(30),
            missed: Missed::All,
        }
    }

    /// Does not listen for its stop: it is over within the grace that it has.
    async fn run(&self, context: &JobContext) -> Result<Done, JobError> {
        let begun = leave(&context.db, "begun").await?;
        tokio::time::sleep(WORK).await;
        Ok(Done { effects: begun + leave(&context.db, "done").await? })
    }
}

/// Leaves a trace by the fenced database. Under its lease there is one run that has not ended: this one.
async fn leave(db: &Db, stage: &str) -> Result<u64, DbErr> {
    let text = match db.backend() {
        sea_orm::DbBackend::Postgres => "CAST(id AS text)",
        _ => "lower(hex(id))",
    };
    let sql = format!(
        "INSERT INTO proof_effects (run_id, stage) SELECT {text}, '{stage}' FROM job_runs
         WHERE job = '{JOB}' AND outcome = 'running'"
    );
    let tx = db.write().await?;
    let left = tx.execute_unprepared(&sql).await?.rows_affected();
    tx.commit().await?;
    Ok(left)
}

pub(crate) async fn run(on: &On, runner: &str) -> Result<()> {
    let db = Db::connect(&on.database_url, &DbOptions::default()).await.context("the database")?;
    let (catalog, policy) = (Arc::new(Catalog::default()), Arc::new(Policy::default()));
    let options = ProcessorOptions::default();
    let processor = Processor::new(db.clone(), Arc::clone(&catalog), Arc::clone(&policy), options, None);
    let tools = Tools::new(catalog, policy, processor);
    let registry = Registry::new(vec![Box::new(Proof)], JobSettings::of);
    let options = EngineOptions { runner: runner.to_owned(), lease: on.lease()?, ..EngineOptions::default() };
    let engine = Engine::start(db, registry, tools, options, Arc::new(|_| {})).await?;
    // Whoever started this process may die too.
    tokio::io::stdin().read_to_end(&mut Vec::new()).await.context("stdin")?;
    engine.stop().await;
    Ok(())
}
