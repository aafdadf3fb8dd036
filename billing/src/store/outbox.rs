//! The outbox's statements. While an e-mail is claimed, its `next_attempt_at` is the end of the lease; a token that is still there when it is
//! claimed again tells that nobody knows what became of the try before.

use entity::{
    Time,
    enums::{EmailKind, EmailStatus},
    ids::UserId,
};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement, Value};
use serde::Serialize;
use uuid::Uuid;

use super::inbox::{choose, document, execute, now};

/// An e-mail under a lease.
#[derive(Debug, Clone, FromQueryResult)]
pub(crate) struct ClaimedEmail {
    pub(crate) id: Uuid,
    pub(crate) user_id: UserId,
    pub(crate) kind: EmailKind,
    pub(crate) dedupe_key: String,
    pub(crate) data: serde_json::Value,
    pub(crate) attempts: i32,
    pub(crate) unknown_outcomes: i32,
    pub(crate) created_at: Time,
    pub(crate) db_now: Time,
}

/// What becomes of a claimed e-mail.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Settled {
    pub(crate) id: Uuid,
    pub(crate) status: EmailStatus,
    pub(crate) attempts: i32,
    pub(crate) unknown: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Seconds until it is due again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delay: Option<f64>,
}

const CLAIM_POSTGRES: &str = "
WITH due AS (
    SELECT id FROM email_outbox WHERE status = 'pending' AND next_attempt_at <= now()
    ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE email_outbox AS e
SET unknown_outcomes = e.unknown_outcomes + CASE WHEN e.claim_token IS NULL THEN 0 ELSE 1 END,
    claimed_by = $2, claim_token = $3, next_attempt_at = clock_timestamp() + make_interval(secs => $4)
FROM due WHERE e.id = due.id
RETURNING e.id, e.user_id, e.kind, e.dedupe_key, e.data, e.attempts, e.unknown_outcomes, e.created_at, clock_timestamp() AS db_now";

const CLAIM_SQLITE: &str = "
UPDATE email_outbox
SET unknown_outcomes = unknown_outcomes + (claim_token IS NOT NULL), claimed_by = $2, claim_token = $3,
    next_attempt_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '+' || $4 || ' seconds')
WHERE id IN (
    SELECT id FROM email_outbox
    WHERE status = 'pending' AND next_attempt_at <= strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')
    ORDER BY next_attempt_at LIMIT $1)
RETURNING id, user_id, kind, dedupe_key, data, attempts, unknown_outcomes, created_at,
    strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now') AS db_now";

const SETTLE_POSTGRES: &str = "
UPDATE email_outbox AS e
SET status = r.status, attempts = r.attempts, unknown_outcomes = r.unknown, error = r.error,
    sent_at = CASE WHEN r.status = 'sent' THEN clock_timestamp() END,
    next_attempt_at = clock_timestamp() + make_interval(secs => COALESCE(r.delay, 0)), claimed_by = NULL, claim_token = NULL
FROM json_to_recordset($1::json) AS r (id uuid, status text, attempts integer, unknown integer, error text, delay double precision)
WHERE e.id = r.id AND e.claim_token = $2";

const SETTLE_SQLITE: &str = "
UPDATE email_outbox
SET status = r.value ->> '$.status', attempts = r.value ->> '$.attempts', unknown_outcomes = r.value ->> '$.unknown',
    error = r.value ->> '$.error',
    sent_at = CASE WHEN r.value ->> '$.status' = 'sent' THEN strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now') END,
    next_attempt_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '+' || COALESCE(r.value ->> '$.delay', 0) || ' seconds'),
    claimed_by = NULL, claim_token = NULL
FROM json_each($1) AS r
WHERE email_outbox.id = unhex(r.value ->> '$.id', '-') AND claim_token = $2";

/// Claims what is due, oldest first.
pub(crate) async fn claim(
    db: &impl ConnectionTrait,
    limit: usize,
    holder: &str,
    token: Uuid,
    lease_seconds: f64,
) -> Result<Vec<ClaimedEmail>, DbErr> {
    let backend = db.get_database_backend();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let values: [Value; 4] = [limit.into(), holder.into(), token.into(), lease_seconds.into()];
    let sql = choose(backend, CLAIM_POSTGRES, CLAIM_SQLITE);
    let mut rows =
        ClaimedEmail::find_by_statement(Statement::from_sql_and_values(backend, sql, values)).all(db).await?;
    // RETURNING promises no order.
    rows.sort_by_key(|row| (row.created_at, row.id));
    Ok(rows)
}

/// Writes what became of claimed e-mails; returns how many of them were still under this claim.
pub(crate) async fn settle(db: &impl ConnectionTrait, token: Uuid, settled: &[Settled]) -> Result<u64, DbErr> {
    let sql = choose(db.get_database_backend(), SETTLE_POSTGRES, SETTLE_SQLITE);
    execute(db, sql, vec![document(&settled)?, token.into()]).await
}

/// Ends the leases of this holder, who has only just started. Nobody knows what became of these e-mails; their tokens stay, and tell so.
pub(crate) async fn end_leases(db: &impl ConnectionTrait, holder: &str) -> Result<u64, DbErr> {
    let sql = format!(
        "UPDATE email_outbox SET next_attempt_at = {} WHERE claimed_by = $1 AND claim_token IS NOT NULL AND status = 'pending'",
        now(db.get_database_backend())
    );
    execute(db, &sql, vec![holder.into()]).await
}

/// How many wait to be sent. In the very words of the partial index.
pub(crate) async fn pending(db: &impl ConnectionTrait) -> Result<i64, DbErr> {
    let sql = "SELECT count(*) FROM email_outbox WHERE status = 'pending'";
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await?;
    row.map_or(Ok(0), |row| row.try_get_by_index(0))
}

/// Makes e-mails that were given up due again, as if they had never been tried; returns how many.
pub(crate) async fn retry(db: &impl ConnectionTrait, id: Option<Uuid>) -> Result<u64, DbErr> {
    let backend: DbBackend = db.get_database_backend();
    let sql = format!(
        "UPDATE email_outbox SET status = 'pending', attempts = 0, unknown_outcomes = 0, next_attempt_at = {}, claimed_by = NULL,
            claim_token = NULL WHERE status = 'failed'{}",
        now(backend),
        if id.is_some() { " AND id = $1" } else { "" }
    );
    execute(db, &sql, id.map(Value::from).into_iter().collect()).await
}
