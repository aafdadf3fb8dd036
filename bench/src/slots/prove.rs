//! Starts the workers and kills them.

use std::{
    io::Write,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use billing::db::{Db, DbOptions};
use chrono::{DateTime, TimeDelta, Utc};
use entity::enums::RunOutcome;
use scheduler::{JobRun, history};

use crate::{
    On,
    verdict::{Verdict, execute, traces},
    worker::{EFFECTS, JOB, WORK},
};

/// Beyond what is planned, for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// How old a run may be and still count as in its middle.
const YOUNG: Duration = WORK.checked_div(3).expect("three is not nothing");

/// A process; killed when dropped.
struct Worker {
    name: String,
    child: Child,
}

impl Worker {
    fn start(on: &On, name: String) -> Result<Self> {
        let program = std::env::current_exe().context("this program")?;
        let mut command = Command::new(program);
        command.args(["worker", "--runner", &name, "--lease", &on.lease.to_string()]);
        // Not among the arguments, where everybody could read it.
        command.env("DATABASE_URL", &on.database_url).stdin(Stdio::piped());
        Ok(Self { child: command.spawn().context("a worker")?, name })
    }

    /// SIGKILL.
    fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends its input and waits.
    fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn run(on: &On, slots: u32, kills: u32) -> Result<Verdict> {
    let db = Db::connect(&on.database_url, &DbOptions::default()).await.context("the database")?;
    migration::up(db.connection(), None).await?;
    execute(&db, EFFECTS).await?;
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(u64::from(slots) * 2) + PATIENCE;
    let mut workers = [Worker::start(on, "a.1".to_owned())?, Worker::start(on, "b.1".to_owned())?];
    let mut killed = Vec::new();
    let first = first_slot(&db, deadline).await?;
    let nth = |slot: u32| first + TimeDelta::seconds(i64::from(slot) - 1);
    for kill in 1..=kills {
        reach(&db, nth(slots * kill / (kills + 1)), deadline).await?;
        let victim = in_the_middle(&db, deadline).await?;
        let worker = workers.iter_mut().find(|worker| worker.name == victim.runner);
        let worker = worker.with_context(|| format!("{} runs a slot and is no worker", victim.runner))?;
        worker.kill()?;
        say(format_args!("killed {} in the middle of slot {}", victim.runner, victim.slot))?;
        caught_up(&db, &victim, deadline).await?;
        let (letter, number) = victim.runner.split_once('.').context("a name")?;
        *worker = Worker::start(on, format!("{letter}.{}", number.parse::<u32>()? + 1))?;
        killed.push(victim);
    }
    reach(&db, nth(slots), deadline).await?;
    for worker in workers {
        worker.stop()?;
    }
    Verdict::of(&db, slots, &killed, begun.elapsed()).await
}

fn say(text: impl std::fmt::Display) -> Result<()> {
    Ok(writeln!(std::io::stderr().lock(), "{text}")?)
}

async fn runs(db: &Db, limit: u64) -> Result<Vec<JobRun>> {
    Ok(history::runs(db, JOB, limit, None).await?.0)
}

/// Between two looks.
async fn pause(deadline: Instant) -> Result<()> {
    if Instant::now() > deadline {
        bail!("it takes too long");
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    Ok(())
}

/// Waits for the first slot.
async fn first_slot(db: &Db, deadline: Instant) -> Result<DateTime<Utc>> {
    loop {
        match runs(db, 1).await?.pop() {
            Some(run) => return Ok(run.slot),
            None => pause(deadline).await?,
        }
    }
}

/// Waits until the run of this slot, or of a later one, is over.
async fn reach(db: &Db, slot: DateTime<Utc>, deadline: Instant) -> Result<()> {
    while !runs(db, 2).await?.iter().any(|run| run.slot >= slot && run.outcome == Some(RunOutcome::Succeeded)) {
        pause(deadline).await?;
    }
    Ok(())
}

/// Waits until a run has only just left its first trace, and is not done.
async fn in_the_middle(db: &Db, deadline: Instant) -> Result<JobRun> {
    loop {
        let now = billing::db::clock(db.reader()).await?;
        let newest = runs(db, 1).await?.pop().filter(|run| run.outcome.is_none());
        if let Some(run) = newest
            && (now - run.started_at).to_std().unwrap_or_default() < YOUNG
            && traces(db).await?.iter().any(|trace| trace.of(&run))
        {
            return Ok(run);
        }
        pause(deadline).await?;
    }
}

/// Waits until the slot whose run was killed has been run again.
async fn caught_up(db: &Db, victim: &JobRun, deadline: Instant) -> Result<()> {
    loop {
        let again = |run: &JobRun| run.slot == victim.slot && run.attempt > victim.attempt && run.outcome.is_some();
        if runs(db, 50).await?.iter().any(again) {
            return Ok(());
        }
        pause(deadline).await?;
    }
}
