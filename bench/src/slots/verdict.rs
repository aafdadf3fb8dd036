//! What the history says, what the traces of the runs say, and whether the two agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use anyhow::Result;
use billing::db::Db;
use chrono::{DateTime, Utc};
use entity::enums::{RunOutcome, RunTrigger};
use scheduler::{JobRun, history};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, Statement};

use crate::worker::JOB;

/// A trace that a run left.
#[derive(Debug, FromQueryResult)]
pub(crate) struct Trace {
    run_id: String,
    stage: String,
}

impl Trace {
    pub(crate) fn of(&self, run: &JobRun) -> bool {
        self.run_id.replace('-', "") == run.id.simple().to_string()
    }
}

pub(crate) async fn execute(db: &Db, sql: &str) -> Result<(), DbErr> {
    let tx = db.write().await?;
    tx.execute_unprepared(sql).await?;
    tx.commit().await
}

pub(crate) async fn traces(db: &Db) -> Result<Vec<Trace>, DbErr> {
    let sql = "SELECT run_id, stage FROM proof_effects";
    Trace::find_by_statement(Statement::from_string(db.backend(), sql)).all(db.reader()).await
}

/// Figures, and what is wrong.
#[derive(Debug)]
pub(crate) struct Verdict {
    slots: usize,
    runs: usize,
    first_attempts: usize,
    interrupted: usize,
    caught_up: usize,
    late: usize,
    effects: usize,
    by_process: BTreeMap<String, usize>,
    kills: usize,
    /// From the moment of a killed slot to the end of the run that made up for it, at most.
    longest_gap: f64,
    /// From the moment of a slot to its start, where it was on time.
    median_start: f64,
    took: Duration,
    wrong: Vec<String>,
}

impl Verdict {
    pub(crate) async fn of(db: &Db, least: u32, killed: &[JobRun], took: Duration) -> Result<Self> {
        let mut runs = history::runs(db, JOB, u64::MAX >> 2, None).await?.0;
        runs.reverse();
        let traces = traces(db).await?;
        let mut wrong = Vec::new();
        let mut slots: BTreeMap<DateTime<Utc>, Vec<&JobRun>> = BTreeMap::new();
        for run in &runs {
            slots.entry(run.slot).or_default().push(run);
        }
        none_left_out(&slots, least, &mut wrong);
        for (slot, attempts) in &slots {
            let succeeded = attempts.iter().filter(|run| run.outcome == Some(RunOutcome::Succeeded)).count();
            if succeeded != 1 {
                wrong.push(format!("slot {slot} succeeded {succeeded} times"));
            }
            for run in attempts.iter().filter(|run| run.outcome != Some(RunOutcome::Succeeded)) {
                if !killed.iter().any(|victim| victim.id == run.id) || run.outcome != Some(RunOutcome::Interrupted) {
                    wrong.push(format!("nobody killed {} in slot {slot}, and it ended {:?}", run.runner, run.outcome));
                }
            }
        }
        for run in &runs {
            let left = |stage| traces.iter().filter(|trace| trace.stage == stage && trace.of(run)).count();
            let expected = if run.outcome == Some(RunOutcome::Succeeded) { (1, 1) } else { (1, 0) };
            if (left("begun"), left("done")) != expected {
                wrong.push(format!(
                    "slot {} began {} times and was done {} times in run {}",
                    run.slot,
                    left("begun"),
                    left("done"),
                    run.id
                ));
            }
        }
        let known = |trace: &Trace| runs.iter().any(|run| trace.of(run));
        wrong.extend(traces.iter().filter(|trace| !known(trace)).map(|trace| format!("a trace of no run: {trace:?}")));
        never_at_once(&runs, &mut wrong);
        let is = |outcome| move |run: &&JobRun| run.outcome == Some(outcome);
        let interrupted = runs.iter().filter(is(RunOutcome::Interrupted)).count();
        if interrupted != killed.len() {
            wrong.push(format!("{} runs were killed, {interrupted} show as interrupted", killed.len()));
        }
        let mut by_process: BTreeMap<String, usize> = BTreeMap::new();
        for run in runs.iter().filter(is(RunOutcome::Succeeded)) {
            *by_process.entry(run.runner.clone()).or_default() += 1;
        }
        let made_up = |victim: &JobRun| {
            let ended = slots.get(&victim.slot)?.iter().find(|run| run.outcome == Some(RunOutcome::Succeeded))?;
            Some((ended.finished_at? - victim.slot).as_seconds_f64())
        };
        let mut starts: Vec<f64> = runs
            .iter()
            .filter(|run| run.trigger == RunTrigger::Scheduled)
            .map(|run| (run.started_at - run.slot).as_seconds_f64())
            .collect();
        starts.sort_by(f64::total_cmp);
        Ok(Self {
            slots: slots.len(),
            runs: runs.len(),
            first_attempts: runs.iter().filter(is(RunOutcome::Succeeded)).filter(|run| run.attempt == 1).count(),
            interrupted,
            caught_up: runs.iter().filter(is(RunOutcome::Succeeded)).filter(|run| run.attempt > 1).count(),
            late: runs.iter().filter(|run| run.trigger == RunTrigger::CatchUp && run.attempt == 1).count(),
            effects: traces.iter().filter(|trace| trace.stage == "done").count(),
            by_process,
            kills: killed.len(),
            longest_gap: killed.iter().filter_map(made_up).fold(0.0, f64::max),
            median_start: starts.get(starts.len() / 2).copied().unwrap_or_default(),
            took,
            wrong,
        })
    }

    /// True where every slot ran exactly once, or was cut off and caught up.
    pub(crate) fn holds(&self) -> bool {
        self.wrong.is_empty()
    }
}

/// One slot for each second, without a gap, and enough of them.
fn none_left_out(slots: &BTreeMap<DateTime<Utc>, Vec<&JobRun>>, least: u32, wrong: &mut Vec<String>) {
    let seconds: BTreeSet<i64> = slots.keys().map(DateTime::timestamp).collect();
    if let (Some(first), Some(last)) = (seconds.first(), seconds.last()) {
        wrong.extend((*first..=*last).filter(|at| !seconds.contains(at)).map(|at| format!("slot {at} is left out")));
    }
    if seconds.len() < least as usize {
        wrong.push(format!("{} slots ran, {least} should have", seconds.len()));
    }
}

/// The job never ran beside itself.
fn never_at_once(runs: &[JobRun], wrong: &mut Vec<String>) {
    let mut runs: Vec<&JobRun> = runs.iter().collect();
    runs.sort_by_key(|run| (run.started_at, run.finished_at));
    for pair in runs.windows(2) {
        if pair[0].finished_at.is_none_or(|end| end > pair[1].started_at) {
            wrong.push(format!("slots {} and {} ran at once", pair[0].slot, pair[1].slot));
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by: Vec<String> = self.by_process.iter().map(|(process, runs)| format!("{process} {runs}")).collect();
        writeln!(
            f,
            "{} slots in {:.0} s, {} processes killed with SIGKILL in the middle of a run",
            self.slots,
            self.took.as_secs_f64(),
            self.kills
        )?;
        writeln!(f, "  runs                      {}", self.runs)?;
        writeln!(
            f,
            "  succeeded, first attempt  {}, of these {} caught up after their moment",
            self.first_attempts, self.late
        )?;
        writeln!(f, "  interrupted               {}", self.interrupted)?;
        writeln!(f, "  run again and succeeded   {}", self.caught_up)?;
        writeln!(f, "  effects committed         {}", self.effects)?;
        writeln!(f, "  succeeded by process      {}", by.join(", "))?;
        writeln!(f, "  start after the slot      {:.0} ms (median of those on time)", self.median_start * 1000.0)?;
        writeln!(f, "  slot made up for          {:.1} s after its moment, at most", self.longest_gap)?;
        for wrong in &self.wrong {
            writeln!(f, "  WRONG: {wrong}")?;
        }
        let verdict =
            if self.holds() { "every slot ran exactly once, or was interrupted and caught up" } else { "FAILED" };
        write!(f, "Verdict: {verdict}")
    }
}
