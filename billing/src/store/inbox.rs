//! The inbox's statements, bound and read, whichever database is beneath.

use std::collections::HashSet;

use entity::{
    Time,
    enums::{EventSource, ProcessingStatus},
    ids::{EventId, UserId},
};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement, Value, sea_query::ArrayType};
use serde::Serialize;
use uuid::Uuid;

use super::{
    postgres,
    rowset::{bigint_array, text_array, uuid_array},
    sqlite,
};
use crate::skip::SkipReason;

/// A row to be inserted. An empty text stands for an absent value: arrays of PostgreSQL's driver know no null.
#[derive(Debug, Serialize)]
pub(crate) struct NewEvent {
    pub(crate) id: Uuid,
    pub(crate) event_id: EventId,
    pub(crate) event_type: String,
    pub(crate) payload: String,
    /// As received.
    pub(crate) bytes: i64,
    /// Why it is not to be applied; empty where it is.
    pub(crate) skipped: String,
    /// The same, for figures.
    #[serde(skip)]
    pub(crate) skip_reason: Option<SkipReason>,
    pub(crate) customer: String,
    /// Stripe's `created`, or -1.
    pub(crate) created: i64,
    pub(crate) api_version: String,
    pub(crate) livemode: bool,
    pub(crate) account: String,
    pub(crate) source: EventSource,
}

/// An event under a lease.
#[derive(Debug, Clone, FromQueryResult)]
pub(crate) struct ClaimedRow {
    pub(crate) id: Uuid,
    pub(crate) event_id: EventId,
    pub(crate) event_type: String,
    pub(crate) payload: String,
    pub(crate) processing_attempts: i32,
    pub(crate) processing_error_details: Option<serde_json::Value>,
    pub(crate) source: EventSource,
    pub(crate) created_at: Time,
    pub(crate) stripe_created_at: Option<Time>,
    pub(crate) next_attempt_at: Time,
    pub(crate) db_now: Time,
}

/// What becomes of a claimed event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Mark {
    pub(crate) id: Uuid,
    pub(crate) status: ProcessingStatus,
    pub(crate) attempts: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) details: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waits_for: Option<String>,
    /// Seconds until it is due again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delay: Option<f64>,
}

/// `postgres` or `sqlite`, whichever the database speaks.
pub(crate) fn choose<'a>(backend: DbBackend, postgres: &'a str, sqlite: &'a str) -> &'a str {
    if backend == DbBackend::Postgres { postgres } else { sqlite }
}

/// An expression for the database's clock.
pub(crate) fn now(backend: DbBackend) -> &'static str {
    choose(backend, postgres::NOW, sqlite::NOW)
}

pub(crate) fn document(rows: &impl Serialize) -> Result<Value, DbErr> {
    Ok(serde_json::to_string(rows).map_err(|error| DbErr::Json(error.to_string()))?.into())
}

pub(super) async fn execute(db: &impl ConnectionTrait, sql: &str, values: Vec<Value>) -> Result<u64, DbErr> {
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
    Ok(db.execute_raw(statement).await?.rows_affected())
}

/// Stores events whose ids are distinct and sorted; returns the ids that were not there yet, or only in rows that nobody vouched for.
pub(crate) async fn insert(db: &impl ConnectionTrait, events: &[NewEvent]) -> Result<Vec<String>, DbErr> {
    let every: Vec<&NewEvent> = events.iter().collect();
    let mut recorded = write_events(db, (postgres::INSERT, sqlite::INSERT), &every).await?;
    if recorded.len() < events.len() {
        let is_new: HashSet<&str> = recorded.iter().map(String::as_str).collect();
        let known: Vec<&NewEvent> = events.iter().filter(|event| !is_new.contains(event.event_id.as_str())).collect();
        let taken_over = write_events(db, (postgres::TAKE_OVER, sqlite::TAKE_OVER), &known).await?;
        recorded.extend(taken_over);
    }
    Ok(recorded)
}

/// Runs one of the statements that write events; returns the ids of those it wrote.
async fn write_events(
    db: &impl ConnectionTrait,
    (postgres, sqlite): (&str, &str),
    events: &[&NewEvent],
) -> Result<Vec<String>, DbErr> {
    let backend = db.get_database_backend();
    let statement = if backend == DbBackend::Postgres {
        Statement::from_sql_and_values(backend, postgres, columns(events))
    } else {
        Statement::from_sql_and_values(backend, sqlite, [document(&events)?])
    };
    db.query_all_raw(statement).await?.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// Turns rows into one array for each column. This copies each payload, once: the driver's arrays own their texts, and the rows are
/// still needed should the statement fail.
fn columns(events: &[&NewEvent]) -> Vec<Value> {
    let texts = |of: fn(&NewEvent) -> &str| text_array(events.iter().map(|event| of(event).to_owned()));
    vec![
        uuid_array(events.iter().map(|event| event.id)),
        texts(|event| event.event_id.as_str()),
        texts(|event| &event.event_type),
        texts(|event| &event.payload),
        bigint_array(events.iter().map(|event| event.bytes)),
        texts(|event| &event.skipped),
        texts(|event| &event.customer),
        bigint_array(events.iter().map(|event| event.created)),
        texts(|event| &event.api_version),
        Value::Array(ArrayType::Bool, Some(Box::new(events.iter().map(|event| event.livemode.into()).collect()))),
        texts(|event| &event.account),
        texts(|event| event.source.as_str()),
    ]
}

/// Which events to claim.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClaimLimits {
    pub(crate) events: u32,
    pub(crate) bytes: u64,
    pub(crate) lease_seconds: f64,
    /// Only events under which a process died twice or more; otherwise only the others.
    pub(crate) suspects: bool,
}

/// Claims what is due, oldest first.
pub(crate) async fn claim(
    db: &impl ConnectionTrait,
    limits: ClaimLimits,
    holder: &str,
    token: Uuid,
) -> Result<Vec<ClaimedRow>, DbErr> {
    let backend = db.get_database_backend();
    // In the text and not bound: only so does the planner see that the partial index fits.
    let which = if limits.suspects { "crashes >= 2" } else { "crashes < 2" };
    let sql = choose(backend, postgres::CLAIM, sqlite::CLAIM).replace("{which}", which);
    let values: [Value; 5] = [
        i64::from(limits.events).into(),
        i64::try_from(limits.bytes).unwrap_or(i64::MAX).into(),
        holder.into(),
        token.into(),
        limits.lease_seconds.into(),
    ];
    let mut rows = ClaimedRow::find_by_statement(Statement::from_sql_and_values(backend, sql, values)).all(db).await?;
    // RETURNING promises no order.
    rows.sort_by_key(|row| (row.next_attempt_at, row.id));
    Ok(rows)
}

/// Writes what became of claimed events; returns how many of them were still under this claim.
pub(crate) async fn mark(db: &impl ConnectionTrait, token: Uuid, marks: &[Mark]) -> Result<u64, DbErr> {
    let sql = choose(db.get_database_backend(), postgres::MARK, sqlite::MARK);
    execute(db, sql, vec![document(&marks)?, token.into()]).await
}

/// Prolongs a claim; returns how many events are still under it.
pub(crate) async fn renew(db: &impl ConnectionTrait, token: Uuid, lease_seconds: f64) -> Result<u64, DbErr> {
    let sql = choose(db.get_database_backend(), postgres::RENEW, sqlite::RENEW);
    execute(db, sql, vec![token.into(), lease_seconds.into()]).await
}

/// Gives a claim back, uncounted.
pub(crate) async fn release(db: &impl ConnectionTrait, token: Uuid) -> Result<u64, DbErr> {
    let sql = "UPDATE stripe_webhooks SET processing_status = 'pending', claimed_by = NULL, claim_token = NULL,
            claimed_until = NULL WHERE claim_token = $1 AND processing_status = 'processing'";
    execute(db, sql, vec![token.into()]).await
}

/// Puts the payload of an event back that was emptied.
pub(crate) async fn restore_payload(
    db: &impl ConnectionTrait,
    id: &EventId,
    payload: &str,
    bytes: i64,
) -> Result<u64, DbErr> {
    let cast = choose(db.get_database_backend(), "::jsonb", "");
    let sql = format!(
        "UPDATE stripe_webhooks SET payload = $2{cast}, payload_bytes = $3, payload_emptied_at = NULL
         WHERE event_id = $1 AND payload_emptied_at IS NOT NULL"
    );
    execute(db, &sql, vec![id.as_str().into(), payload.into(), bytes.into()]).await
}

/// Which claims are abandoned.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Abandoned<'a> {
    /// Those whose lease ran out.
    Expired,
    /// Those of this holder, who has only just started.
    Of(&'a str),
}

/// What became of an abandoned claim.
#[derive(Debug, Clone, FromQueryResult)]
pub(crate) struct RescuedRow {
    pub(crate) event_id: EventId,
    pub(crate) event_type: String,
    pub(crate) processing_status: ProcessingStatus,
}

/// What is said to be the matter with events that are given up for crashes.
pub(crate) const CRASH: &str = "crash";

/// Takes abandoned claims back. Whoever held them died, and an event under which that happens too often is given up.
pub(crate) async fn rescue(
    db: &impl ConnectionTrait,
    abandoned: Abandoned<'_>,
    most: i32,
) -> Result<Vec<RescuedRow>, DbErr> {
    let now = now(db.get_database_backend());
    let (which, value): (String, Option<Value>) = match abandoned {
        Abandoned::Expired => (format!("claimed_until < {now}"), None),
        Abandoned::Of(holder) => ("claimed_by = $1".to_owned(), Some(holder.into())),
    };
    let sql = format!(
        "UPDATE stripe_webhooks SET
            processing_status = CASE WHEN crashes + 1 >= {most} THEN 'failed' ELSE 'pending' END,
            processing_error = CASE WHEN crashes + 1 >= {most} THEN 'the process died {most} times while it applied this event'
                ELSE processing_error END,
            error_fingerprint = CASE WHEN crashes + 1 >= {most} THEN '{CRASH}' ELSE error_fingerprint END,
            processed_at = CASE WHEN crashes + 1 >= {most} THEN {now} END,
            crashes = crashes + 1, claimed_by = NULL, claim_token = NULL, claimed_until = NULL, updated_at = {now}
         WHERE processing_status = 'processing' AND {which}
         RETURNING event_id, event_type, processing_status"
    );
    RescuedRow::find_by_statement(Statement::from_sql_and_values(db.get_database_backend(), sql, value)).all(db).await
}

/// The database's clock.
pub(crate) async fn clock(db: &impl ConnectionTrait) -> Result<Time, DbErr> {
    let backend = db.get_database_backend();
    let row = db.query_one_raw(Statement::from_string(backend, format!("SELECT {} AS now", now(backend)))).await?;
    row.ok_or_else(|| DbErr::RecordNotFound("the database's clock".into()))?.try_get_by_index(0)
}

/// Writes projections into `users`.
pub(crate) async fn save_users(db: &impl ConnectionTrait, rows: &impl Serialize) -> Result<u64, DbErr> {
    execute(db, choose(db.get_database_backend(), postgres::SAVE_USERS, sqlite::SAVE_USERS), vec![document(rows)?])
        .await
}

/// Keeps every other transaction off these keys until this one ends. On `SQLite` there is no other one.
pub(crate) async fn lock_keys(db: &impl ConnectionTrait, keys: impl IntoIterator<Item = i64>) -> Result<(), DbErr> {
    if db.get_database_backend() == DbBackend::Postgres {
        execute(db, postgres::LOCK_KEYS, vec![bigint_array(keys)]).await?;
    }
    Ok(())
}

/// A condition on invoices: the newest that speaks for each of these subscriptions.
pub(crate) fn newest_invoices(backend: DbBackend, subscriptions: Vec<String>) -> sea_orm::sea_query::SimpleExpr {
    use sea_orm::sea_query::Expr;
    if backend == DbBackend::Postgres {
        Expr::cust_with_values(postgres::NEWEST_INVOICES, [text_array(subscriptions)])
    } else {
        Expr::cust_with_values(sqlite::NEWEST_INVOICES, [serde_json::Value::from_iter(subscriptions).to_string()])
    }
}
