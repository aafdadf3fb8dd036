//! What ran, when, and what came of it.

use std::{fmt, str::FromStr};

use billing::db::Db;
use entity::{
    Time,
    enums::{RunOutcome, RunTrigger},
    job_runs::{Column, Entity, Model},
};
use sea_orm::{ColumnTrait, Condition, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

/// One run, as people and programs read it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobRun {
    /// Time-ordered.
    pub id: Uuid,
    /// Name of the job.
    pub job: String,
    /// The scheduled moment it belongs to; of a run that a person asked for, the moment of asking.
    pub slot: Time,
    /// 1, and one more each time the slot is run again because its run was cut off.
    pub attempt: i16,
    /// What started it.
    pub trigger: RunTrigger,
    /// When it began.
    pub started_at: Time,
    /// When it ended.
    pub finished_at: Option<Time>,
    /// How; none while it runs.
    pub outcome: Option<RunOutcome>,
    /// What it did.
    pub report: Option<Value>,
    /// Why it did not succeed.
    pub error: Option<String>,
    /// The process that ran it.
    pub runner: String,
}

impl From<Model> for JobRun {
    fn from(row: Model) -> Self {
        let Model { id, job, slot, attempt, trigger, started_at, finished_at, outcome, report, error, runner, .. } =
            row;
        let outcome = Some(outcome).filter(|outcome| *outcome != RunOutcome::Running);
        Self { id, job, slot, attempt, trigger, started_at, finished_at, outcome, report, error, runner }
    }
}

/// A place in a job's history, newest slot first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    slot: Time,
    attempt: i16,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot.timestamp_micros(), self.attempt)
    }
}

/// A text that is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one this server gave; pass `next_cursor` of the last page as it was")]
pub struct BadCursor;

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let (micros, attempt) = text.split_once('.').ok_or(BadCursor)?;
        // Beyond these years there is no slot, and not every database could compare.
        let within = |micros: &i64| (0..253_402_300_800_000_000).contains(micros);
        let slot = micros.parse().ok().filter(within).and_then(Time::from_timestamp_micros).ok_or(BadCursor)?;
        Ok(Self { slot, attempt: attempt.parse().map_err(|_| BadCursor)? })
    }
}

/// A page of a job's runs, newest slot first and its last attempt before the earlier ones, and where the next page begins.
pub async fn runs(
    db: &Db,
    job: &str,
    limit: u64,
    after: Option<Cursor>,
) -> Result<(Vec<JobRun>, Option<Cursor>), DbErr> {
    let mut select = Entity::find().filter(Column::Job.eq(job));
    if let Some(Cursor { slot, attempt }) = after {
        // The first part alone is what an index can follow.
        let before = Condition::any().add(Column::Slot.lt(slot)).add(Column::Attempt.lt(attempt));
        select = select.filter(Condition::all().add(Column::Slot.lte(slot)).add(before));
    }
    let rows = select.order_by_desc(Column::Slot).order_by_desc(Column::Attempt).limit(limit + 1).all(db.reader());
    let mut items: Vec<JobRun> = rows.await?.into_iter().map(Into::into).collect();
    let more = items.len() as u64 > limit;
    items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next = items.last().filter(|_| more).map(|last| Cursor { slot: last.slot, attempt: last.attempt });
    Ok((items, next))
}

/// One run, or nothing.
pub async fn run(db: &Db, id: Uuid) -> Result<Option<JobRun>, DbErr> {
    Ok(Entity::find_by_id(id).one(db.reader()).await?.map(Into::into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written_and_nothing_else_is_one() {
        let cursor = Cursor { slot: "2026-11-24T10:00:00.123Z".parse().expect("a moment"), attempt: 2 };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for text in ["", "1", ".", "x.1", "1.x", "-1.1", "99999999999999999999.1", "999999999999999999.1", "1.99999"] {
            assert_eq!(text.parse::<Cursor>(), Err(BadCursor), "{text}");
        }
    }
}
