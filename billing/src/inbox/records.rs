//! What a person asks of the inbox: lists, one event, figures. Another try is in [`super::retry`].

use std::collections::BTreeMap;

use chrono::TimeDelta;
use entity::{
    Time,
    enums::{EventSource, ProcessingStatus},
    ids::{EventId, UserId},
    stripe_webhooks::{Column, Entity, Model},
};
use sea_orm::{
    ColumnTrait, Condition, DbBackend, DbErr, EntityTrait, ExprTrait, FromQueryResult, QueryFilter, QueryOrder,
    QuerySelect, Statement, Value,
    sea_query::{Expr, SimpleExpr},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use super::retry::{Requeued, RetryError, retry, retry_all};
use crate::{db::Db, store::inbox::now};

/// Which events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Where they stand.
    pub status: Option<ProcessingStatus>,
    /// Their type, in full.
    pub event_type: Option<String>,
    /// Whose they are.
    pub user_id: Option<UserId>,
    /// The customer they name.
    pub customer: Option<String>,
    /// Failures of one cause.
    pub fingerprint: Option<String>,
    /// Stored at or after.
    pub since: Option<Time>,
    /// Stored before.
    pub until: Option<Time>,
}

impl Filter {
    pub(super) fn condition(&self, backend: DbBackend) -> Condition {
        Condition::all()
            .add_option(self.status.map(standing))
            .add_option(self.event_type.as_ref().map(|event_type| Column::EventType.eq(event_type)))
            .add_option(self.user_id.map(|user| Column::UserId.eq(user)))
            .add_option(self.customer.as_ref().map(|customer| Column::StripeCustomerId.eq(customer)))
            .add_option(self.fingerprint.as_ref().map(|fingerprint| Column::ErrorFingerprint.eq(fingerprint)))
            .add_option(self.since.map(|since| Expr::col(Column::CreatedAt).gte(moment(backend, since))))
            .add_option(self.until.map(|until| Expr::col(Column::CreatedAt).lt(moment(backend, until))))
    }
}

/// Where events stand. Of millions few are pending, and no index is of them all, for it would cost every event two entries more: in these
/// words the indexes of what is due, of what ended a process and of what SQL put there serve together.
fn standing(status: ProcessingStatus) -> Condition {
    if status != ProcessingStatus::Pending {
        return Condition::all().add(Column::ProcessingStatus.eq(status));
    }
    ["signature_verified AND crashes < 2", "signature_verified AND crashes >= 2", "NOT signature_verified"]
        .into_iter()
        .fold(Condition::any(), |any, which| any.add(Expr::cust(format!("processing_status = 'pending' AND {which}"))))
}

/// A moment as the inbox's own clock would write it: on `SQLite` always with milliseconds, so that texts compare as moments do.
fn moment(backend: DbBackend, at: Time) -> SimpleExpr {
    let value: Value = if backend == DbBackend::Postgres {
        at.into()
    } else {
        at.format("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string().into()
    };
    Expr::val(value)
}

/// A place in a list, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    at: Time,
    id: Uuid,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.at.timestamp_micros(), self.id.simple())
    }
}

/// A text that is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one this server gave; pass `next_cursor` of the last page as it was")]
pub struct BadCursor;

impl std::str::FromStr for Cursor {
    type Err = BadCursor;
    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let (micros, id) = text.split_once('.').ok_or(BadCursor)?;
        // Beyond these years no row of ours was ever made, and not every database could compare.
        let within = |micros: &i64| (0..253_402_300_800_000_000).contains(micros);
        let at = micros.parse().ok().filter(within).and_then(Time::from_timestamp_micros).ok_or(BadCursor)?;
        Ok(Self { at, id: id.parse().map_err(|_| BadCursor)? })
    }
}

/// One event of a list: everything but the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, FromQueryResult)]
pub struct Record {
    /// Ours.
    #[serde(skip)]
    pub id: Uuid,
    /// Stripe's id.
    pub event_id: EventId,
    /// For example `invoice.paid`.
    pub event_type: String,
    /// Where it stands.
    #[sea_orm(from_alias = "processing_status")]
    pub status: ProcessingStatus,
    /// Attempts that ended.
    #[sea_orm(from_alias = "processing_attempts")]
    pub attempts: i32,
    /// Last error, or why it was skipped or parked.
    #[sea_orm(from_alias = "processing_error")]
    pub error: Option<String>,
    /// Whose it is.
    pub user_id: Option<UserId>,
    /// The customer it names.
    pub stripe_customer_id: Option<String>,
    /// How it came here.
    pub source: EventSource,
    /// The version of its payload.
    pub api_version: Option<String>,
    /// Stripe's `livemode`.
    pub livemode: bool,
    /// Stripe's `created`.
    pub stripe_created_at: Option<Time>,
    /// When it was stored.
    pub created_at: Time,
    /// When it was applied, skipped or given up.
    pub processed_at: Option<Time>,
    /// When it is due, while pending.
    pub next_attempt_at: Option<Time>,
}

/// One event with everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Detail {
    /// As in a list.
    pub record: Record,
    /// The payload, as JSON text; it may be nested deeper than some readers like.
    pub payload: String,
    /// When the payload was emptied, where it was; an empty object is in its place.
    pub payload_emptied_at: Option<Time>,
    /// Kind, chain and history of failures; notes.
    pub error_details: Option<serde_json::Value>,
}

fn columns() -> [Column; 15] {
    [
        Column::Id,
        Column::EventId,
        Column::EventType,
        Column::ProcessingStatus,
        Column::ProcessingAttempts,
        Column::ProcessingError,
        Column::UserId,
        Column::StripeCustomerId,
        Column::Source,
        Column::ApiVersion,
        Column::Livemode,
        Column::StripeCreatedAt,
        Column::CreatedAt,
        Column::ProcessedAt,
        Column::NextAttemptAt,
    ]
}

/// A page, newest first, and where the next one begins.
pub async fn list(
    db: &Db,
    filter: &Filter,
    limit: u64,
    after: Option<Cursor>,
) -> Result<(Vec<Record>, Option<Cursor>), DbErr> {
    let backend = db.backend();
    let mut condition = filter.condition(backend);
    if let Some(Cursor { at, id }) = after {
        let same = Expr::col(Column::CreatedAt).eq(moment(backend, at)).and(Column::Id.lt(id));
        condition = condition.add(Expr::col(Column::CreatedAt).lt(moment(backend, at)).or(same));
    }
    let mut items: Vec<Record> = Entity::find()
        .select_only()
        .columns(columns())
        .filter(condition)
        .order_by_desc(Column::CreatedAt)
        .order_by_desc(Column::Id)
        .limit(limit + 1)
        .into_model()
        .all(db.reader())
        .await?;
    let more = items.len() as u64 > limit;
    items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    for item in &mut items {
        hide_due(item);
    }
    let next = items.last().filter(|_| more).map(|last| Cursor { at: last.created_at, id: last.id });
    Ok((items, next))
}

/// When it is due means something only while it is pending.
fn hide_due(record: &mut Record) {
    if record.status != ProcessingStatus::Pending {
        record.next_attempt_at = None;
    }
}

/// One event, or nothing.
pub async fn show(db: &Db, id: &EventId) -> Result<Option<Detail>, DbErr> {
    #[derive(FromQueryResult)]
    struct Rest {
        payload: String,
        payload_emptied_at: Option<Time>,
        processing_error_details: Option<serde_json::Value>,
    }
    let find = || Entity::find().select_only().filter(Column::EventId.eq(id.clone()));
    let Some(mut record) = find().columns(columns()).into_model::<Record>().one(db.reader()).await? else {
        return Ok(None);
    };
    hide_due(&mut record);
    // As text: the driver would read JSON to 128 levels only.
    let text = if db.backend() == DbBackend::Postgres { "payload::text" } else { "payload" };
    let rest: Option<Rest> = find()
        .column_as(Expr::cust(text), "payload")
        .column(Column::PayloadEmptiedAt)
        .column(Column::ProcessingErrorDetails)
        .into_model()
        .one(db.reader())
        .await?;
    Ok(rest.map(|rest| Detail {
        record,
        payload: rest.payload,
        payload_emptied_at: rest.payload_emptied_at,
        error_details: rest.processing_error_details,
    }))
}

/// Failures of one cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromQueryResult)]
pub struct FailureGroup {
    /// What they have in common; `retry` takes it as a filter.
    pub fingerprint: Option<String>,
    /// Their type.
    pub event_type: String,
    /// How many.
    pub events: i64,
    /// The error of one of them.
    pub error: Option<String>,
    /// When the first of them was stored.
    pub first_at: Time,
    /// When the last of them was stored.
    pub last_at: Time,
}

/// What failed for good, grouped by cause, the largest group first.
pub async fn failures(db: &Db, limit: u64) -> Result<Vec<FailureGroup>, DbErr> {
    Entity::find()
        .select_only()
        .column_as(Column::ErrorFingerprint, "fingerprint")
        .column(Column::EventType)
        .column_as(Column::Id.count(), "events")
        .column_as(Column::ProcessingError.max(), "error")
        .column_as(Column::CreatedAt.min(), "first_at")
        .column_as(Column::CreatedAt.max(), "last_at")
        .filter(Column::ProcessingStatus.eq(ProcessingStatus::Failed))
        .group_by(Column::ErrorFingerprint)
        .group_by(Column::EventType)
        .order_by_desc(Column::Id.count())
        .order_by_asc(Column::EventType)
        .limit(limit)
        .into_model()
        .all(db.reader())
        .await
}

/// Figures of one event type.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult)]
pub struct TypeStats {
    /// Which.
    pub event_type: String,
    /// Stored in the time asked for.
    pub total: i64,
    /// Of these, applied.
    pub completed: i64,
    /// Given up.
    pub failed: i64,
    /// Waiting, or being applied.
    pub pending: i64,
    /// Not ours.
    pub skipped: i64,
    /// Seconds from being stored to being applied, on average.
    pub avg_processing_seconds: Option<f64>,
}

/// Figures of the inbox over some hours.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// The hours asked for.
    pub hours: u32,
    /// Events by where they stand; every status is there.
    pub by_status: BTreeMap<&'static str, i64>,
    /// Figures by type, most frequent first.
    pub by_type: Vec<TypeStats>,
}

/// Figures over the last `hours`.
pub async fn stats(db: &Db, hours: u32, now: Time) -> Result<Stats, DbErr> {
    #[derive(FromQueryResult)]
    struct Row {
        status: ProcessingStatus,
        events: i64,
    }
    let backend = db.backend();
    let since = now - TimeDelta::hours(i64::from(hours));
    let recent = || Expr::col(Column::CreatedAt).gte(moment(backend, since));
    let rows: Vec<Row> = Entity::find()
        .select_only()
        .column_as(Column::ProcessingStatus, "status")
        .column_as(Column::Id.count(), "events")
        .filter(recent())
        .group_by(Column::ProcessingStatus)
        .into_model()
        .all(db.reader())
        .await?;
    let mut by_status: BTreeMap<_, _> = ProcessingStatus::ALL.iter().map(|status| (status.as_str(), 0)).collect();
    by_status.extend(rows.into_iter().map(|row| (row.status.as_str(), row.events)));
    let count = |status: &str| Expr::cust(format!("count(CASE WHEN processing_status IN ({status}) THEN 1 END)"));
    let seconds = if backend == DbBackend::Postgres {
        "(avg(extract(epoch FROM processed_at - created_at)) FILTER (WHERE processing_status = 'completed'))::double precision"
    } else {
        "avg(CASE WHEN processing_status = 'completed'
            THEN unixepoch(processed_at, 'subsec') - unixepoch(created_at, 'subsec') END)"
    };
    let by_type = Entity::find()
        .select_only()
        .column(Column::EventType)
        .column_as(Column::Id.count(), "total")
        .column_as(count("'completed'"), "completed")
        .column_as(count("'failed'"), "failed")
        .column_as(count("'pending', 'processing'"), "pending")
        .column_as(count("'skipped'"), "skipped")
        .column_as(Expr::cust(seconds), "avg_processing_seconds")
        .filter(recent())
        .group_by(Column::EventType)
        .order_by_desc(Column::Id.count())
        .order_by_asc(Column::EventType)
        .into_model()
        .all(db.reader())
        .await?;
    Ok(Stats { hours, by_status, by_type })
}

/// The depth of the queue, for gauges: exact, and cheap by partial indexes whatever the size of the table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Depth {
    /// Due, or waiting for their next attempt; the parked ones not counted.
    pub pending: i64,
    /// Under a lease.
    pub processing: i64,
    /// Given up.
    pub failed: i64,
    /// Waiting for a user.
    pub parked: i64,
    /// Age of the oldest pending event, in seconds; 0 where there is none.
    pub oldest_pending_seconds: f64,
    /// Age of the oldest event under a lease, in seconds; 0 where there is none.
    pub oldest_processing_seconds: f64,
}

/// Measures the queue.
pub async fn depth(db: &Db) -> Result<Depth, DbErr> {
    #[derive(FromQueryResult)]
    struct Row {
        pending: i64,
        processing: i64,
        failed: i64,
        parked: i64,
        oldest_pending: Option<Time>,
        oldest_suspect: Option<Time>,
        oldest_processing: Option<Time>,
        now: Time,
    }
    // In the very words of the queue's partial indexes; anything else would read the whole table. Each of them is read once.
    let queue = |crashes: &str| {
        format!(
            "(SELECT count(*) FILTER (WHERE waits_for IS NULL) AS pending, count(*) FILTER (WHERE waits_for IS NOT NULL) AS parked,
                min(created_at) FILTER (WHERE waits_for IS NULL) AS oldest
              FROM stripe_webhooks WHERE processing_status = 'pending' AND signature_verified AND crashes {crashes})"
        )
    };
    let sql = format!(
        "SELECT due.pending + suspect.pending AS pending, due.parked + suspect.parked AS parked, claimed.events AS processing,
            (SELECT count(*) FROM stripe_webhooks WHERE processing_status = 'failed') AS failed,
            due.oldest AS oldest_pending, suspect.oldest AS oldest_suspect, claimed.oldest AS oldest_processing, {} AS now
         FROM {} AS due, {} AS suspect,
            (SELECT count(*) AS events, min(created_at) AS oldest FROM stripe_webhooks WHERE processing_status = 'processing') AS claimed",
        now(db.backend()),
        queue("< 2"),
        queue(">= 2"),
    );
    let statement = Statement::from_string(db.backend(), sql);
    let Some(row) = Row::find_by_statement(statement).one(db.reader()).await? else { return Ok(Depth::default()) };
    let age = |at: Option<Time>| at.map_or(0.0, |at| (row.now - at).as_seconds_f64().max(0.0));
    Ok(Depth {
        pending: row.pending,
        processing: row.processing,
        failed: row.failed,
        parked: row.parked,
        oldest_pending_seconds: age(row.oldest_pending).max(age(row.oldest_suspect)),
        oldest_processing_seconds: age(row.oldest_processing),
    })
}

/// The whole row of an event, for tests and tools of this workspace.
pub async fn row(db: &Db, id: &EventId) -> Result<Option<Model>, DbErr> {
    Entity::find().filter(Column::EventId.eq(id.clone())).one(db.reader()).await
}
