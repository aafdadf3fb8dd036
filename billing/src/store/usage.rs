//! The statements of usage, each for both databases.
//!
//! Whatever writes counts or windows holds the user's row first; so what happens to one user happens one after the other.

use entity::{
    Time,
    ids::{SubscriptionId, UserId},
};
use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement, Value,
    sea_query::{ArrayType, Expr, SimpleExpr},
};
use serde::Serialize;
use uuid::Uuid;

use super::{
    inbox,
    rowset::{text_array, uuid_array},
};
use crate::usage::{OpenWindow, Source, Window};

/// A user who is due, with what the next window follows from.
#[derive(Debug, Clone, FromQueryResult)]
pub(crate) struct DueRow {
    pub(crate) id: UserId,
    pub(crate) rolls_at: Time,
    pub(crate) entitlement_changes_at: Option<Time>,
    pub(crate) usage_source: String,
    pub(crate) usage_period_start: Time,
    pub(crate) usage_period_end: Time,
    pub(crate) usage_provisional: bool,
    pub(crate) subscription_access: bool,
    pub(crate) subscription_stripe_subscription_id: Option<String>,
}

impl DueRow {
    /// The window that is open until now.
    pub(crate) fn open(&self) -> OpenWindow {
        let Ok(source) = self.usage_source.parse();
        let window = Window { start: self.usage_period_start, end: self.usage_period_end };
        OpenWindow { source, window, provisional: self.usage_provisional }
    }

    /// What the next window belongs to. Nothing has changed since the last derivation but facts, and these were projected when they
    /// came in; so a user who is due for that reason goes by the projection, and one whose window is over by what it belonged to.
    pub(crate) fn next_source(&self) -> Source {
        if self.rolls_at > Time::UNIX_EPOCH {
            return self.open().source;
        }
        let governing = self.subscription_stripe_subscription_id.clone().filter(|_| self.subscription_access);
        governing.and_then(|id| SubscriptionId::parse(id).ok()).map_or(Source::Free, Source::Subscription)
    }
}

/// Where in the order of what is due somebody stands: everything up to here is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: Time,
    pub(crate) id: UserId,
}

impl Place {
    /// Before everybody.
    pub(crate) fn first() -> Self {
        Self { at: Time::UNIX_EPOCH - chrono::TimeDelta::seconds(1), id: UserId(Uuid::nil()) }
    }
}

/// Whose entitlement the stored columns tell fully, so that only the window has to be found: everything was derived when the window
/// began or when a fact last changed, and no date has passed since by which more than the window changes. An override always has such a
/// date ahead. `$1` is now.
const PLAIN: &str = "usage_source IS NOT NULL AND usage_period_start IS NOT NULL AND usage_period_end IS NOT NULL
    AND (entitlement_changes_at IS NULL OR (rolls_at = usage_period_end AND entitlement_changes_at > $1))";

const DUE_COLUMNS: &str = "id, rolls_at, entitlement_changes_at, usage_source, usage_period_start, usage_period_end,
    usage_provisional, subscription_access, subscription_stripe_subscription_id";

fn locking(backend: DbBackend, lock: &'static str) -> &'static str {
    if backend == DbBackend::Postgres { lock } else { "" }
}

/// The first users due at `now` behind `after` for whom it is enough to find their window, at most `limit`. They are locked; whoever is
/// locked by another is passed over.
pub(crate) async fn plain_due(
    db: &impl ConnectionTrait,
    now: Time,
    after: Place,
    limit: u64,
) -> Result<Vec<DueRow>, DbErr> {
    let backend = db.get_database_backend();
    let lock = locking(backend, "FOR NO KEY UPDATE SKIP LOCKED");
    let sql = format!(
        "SELECT {DUE_COLUMNS} FROM users WHERE rolls_at <= $1 AND (rolls_at, id) > ($2, $3) AND {PLAIN}
         ORDER BY rolls_at, id LIMIT $4 {lock}"
    );
    let values: [Value; 4] = [now.into(), after.at.into(), after.id.0.into(), limit.into()];
    DueRow::find_by_statement(Statement::from_sql_and_values(backend, sql, values)).all(db).await
}

/// This user, locked, if due and if it is enough to find their window.
pub(crate) async fn plain_due_one(db: &impl ConnectionTrait, now: Time, id: UserId) -> Result<Option<DueRow>, DbErr> {
    let backend = db.get_database_backend();
    let lock = locking(backend, "FOR NO KEY UPDATE");
    let sql = format!("SELECT {DUE_COLUMNS} FROM users WHERE id = $2 AND rolls_at <= $1 AND {PLAIN} {lock}");
    let values: [Value; 2] = [now.into(), id.0.into()];
    DueRow::find_by_statement(Statement::from_sql_and_values(backend, sql, values)).one(db).await
}

/// By which moment somebody is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Anything has to be derived anew.
    Roll,
    /// Time alone may change what the user may do.
    Entitlement,
}

/// The first users due at `now` behind `after`, at most `limit`. Nobody is locked.
pub(crate) async fn due(
    db: &impl ConnectionTrait,
    by: By,
    now: Time,
    after: Place,
    limit: u64,
) -> Result<Vec<Place>, DbErr> {
    let backend = db.get_database_backend();
    let column = match by {
        By::Roll => "rolls_at",
        By::Entitlement => "entitlement_changes_at",
    };
    let sql = format!(
        "SELECT {column}, id FROM users WHERE {column} <= $1 AND ({column}, id) > ($2, $3) ORDER BY {column}, id LIMIT $4"
    );
    let values: [Value; 4] = [now.into(), after.at.into(), after.id.0.into(), limit.into()];
    let rows = db.query_all_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
    rows.iter().map(|row| Ok(Place { at: row.try_get_by_index(0)?, id: row.try_get_by_index(1)? })).collect()
}

/// How many users are due at `now`.
pub(crate) async fn count_due(db: &impl ConnectionTrait, now: Time) -> Result<u64, DbErr> {
    let sql = "SELECT count(*) FROM users WHERE rolls_at <= $1";
    let row = db.query_one_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, [now.into()])).await?;
    let count: i64 = row.ok_or_else(|| DbErr::RecordNotFound("a count".into()))?.try_get_by_index(0)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Users for whom a moment has passed at which something changes by date, and who were not rolled since.
#[derive(Debug, FromQueryResult)]
pub(crate) struct OverdueRow {
    pub(crate) users: i64,
    /// The oldest of these moments.
    pub(crate) since: Option<Time>,
    pub(crate) now: Time,
}

/// Who is overdue. Whoever was only put down to be derived anew (at the epoch) is overdue from the end of the window that is still open.
pub(crate) async fn overdue(db: &impl ConnectionTrait) -> Result<Option<OverdueRow>, DbErr> {
    let backend = db.get_database_backend();
    // Stable, unlike the clock that moves within a statement: only so does the planner use the index.
    let clock = inbox::choose(backend, "statement_timestamp()", inbox::now(backend));
    let epoch = inbox::choose(backend, "'epoch'::timestamptz", "'1970-01-01T00:00:00+00:00'");
    let sql = format!(
        "SELECT count(*) AS users, min(CASE WHEN rolls_at > {epoch} THEN rolls_at ELSE usage_period_end END) AS since, {clock} AS now
         FROM users WHERE rolls_at <= {clock} AND (rolls_at > {epoch} OR usage_period_end <= {clock})"
    );
    OverdueRow::find_by_statement(Statement::from_string(backend, sql)).one(db).await
}

/// A window to be opened, or to be gone on with. The user's row is locked.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Opening {
    pub(crate) user_id: UserId,
    pub(crate) source: String,
    pub(crate) period_start: Time,
    pub(crate) period_end: Time,
    pub(crate) provisional: bool,
    /// The count of the window until now goes over to this one.
    pub(crate) carries: bool,
    pub(crate) rolls_at: Time,
}

/// Rows as PostgreSQL's arrays. Behind a subselect, so that the planner does not count them: for thousands of rows it would rather read
/// the whole table than find each by its key.
const OPENINGS: &str =
    "unnest((SELECT $1::uuid[]), (SELECT $2::text[]), (SELECT $3::timestamptz[]), (SELECT $4::timestamptz[]),
    (SELECT $5::boolean[]), (SELECT $6::boolean[]), (SELECT $7::timestamptz[]))
    AS r (user_id, source, period_start, period_end, provisional, carries, rolls_at)";

/// The old window is left, the new one entered: made, or gone on with where the user was in it before.
const POSTGRES_LEDGER: &str = "
WITH r AS MATERIALIZED (
    SELECT r.*, u.usage_source AS old_source, u.usage_period_start AS old_start, u.usage_limit, u.usage_count,
        u.subscription_tier
    FROM {openings} JOIN users AS u ON u.id = r.user_id
), closed AS (
    UPDATE usage_periods AS p SET closed_at = clock_timestamp(), used = CASE WHEN r.carries THEN 0 ELSE p.used END
    FROM r WHERE p.user_id = r.user_id AND p.source = r.old_source AND p.period_start = r.old_start
        AND (r.source <> r.old_source OR r.period_start <> r.old_start)
)
INSERT INTO usage_periods AS p (user_id, source, period_start, period_end, used, usage_limit, tier)
SELECT r.user_id, r.source, r.period_start, r.period_end,
    CASE WHEN r.carries THEN COALESCE((SELECT o.used FROM usage_periods AS o
        WHERE o.user_id = r.user_id AND o.source = r.old_source AND o.period_start = r.old_start), 0)
        -- A host may have counted before any window was open.
        WHEN r.old_source IS NULL THEN r.usage_count ELSE 0 END,
    r.usage_limit, r.subscription_tier
FROM r
ON CONFLICT (user_id, source, period_start) DO UPDATE SET period_end = excluded.period_end, used = p.used + excluded.used,
    usage_limit = excluded.usage_limit, tier = excluded.tier, closed_at = NULL";

const POSTGRES_RECORDS: &str = "
UPDATE usage_records AS k SET period_start = r.period_start
FROM {openings} JOIN users AS u ON u.id = r.user_id
WHERE r.carries AND k.user_id = u.id AND k.source = u.usage_source AND k.period_start = u.usage_period_start";

const POSTGRES_MIRROR: &str = "
UPDATE users AS u
SET usage_source = r.source, usage_period_start = r.period_start, usage_period_end = r.period_end, usage_count = p.used,
    usage_provisional = r.provisional, rolls_at = r.rolls_at, updated_at = clock_timestamp()
FROM {openings}
    JOIN usage_periods AS p ON p.user_id = r.user_id AND p.source = r.source AND p.period_start = r.period_start
WHERE u.id = r.user_id";

const SQLITE_OPENINGS: &str = "(SELECT unhex(value ->> '$.user_id', '-') AS user_id, value ->> '$.source' AS source,
    replace(value ->> '$.period_start', 'Z', '+00:00') AS period_start,
    replace(value ->> '$.period_end', 'Z', '+00:00') AS period_end, value ->> '$.provisional' AS provisional,
    value ->> '$.carries' AS carries, replace(value ->> '$.rolls_at', 'Z', '+00:00') AS rolls_at FROM json_each($1)) AS r";

const SQLITE_OPEN: &str = "
INSERT INTO usage_periods (user_id, source, period_start, period_end, used, usage_limit, tier)
SELECT r.user_id, r.source, r.period_start, r.period_end,
    CASE WHEN r.carries THEN COALESCE((SELECT o.used FROM usage_periods AS o
        WHERE o.user_id = u.id AND o.source = u.usage_source AND o.period_start = u.usage_period_start), 0) ELSE 0 END,
    u.usage_limit, u.subscription_tier
FROM {openings} CROSS JOIN users AS u ON u.id = r.user_id WHERE true
ON CONFLICT (user_id, source, period_start) DO UPDATE SET period_end = excluded.period_end,
    used = usage_periods.used + excluded.used, usage_limit = excluded.usage_limit, tier = excluded.tier, closed_at = NULL";

const SQLITE_CLOSE: &str = "
UPDATE usage_periods SET closed_at = {now}, used = CASE WHEN r.carries THEN 0 ELSE used END
FROM {openings} CROSS JOIN users AS u ON u.id = r.user_id
WHERE usage_periods.user_id = u.id AND usage_periods.source = u.usage_source
    AND usage_periods.period_start = u.usage_period_start
    AND (r.source <> u.usage_source OR r.period_start <> u.usage_period_start)";

const SQLITE_RECORDS: &str = "
UPDATE usage_records SET period_start = r.period_start
FROM {openings} CROSS JOIN users AS u ON u.id = r.user_id
WHERE r.carries AND usage_records.user_id = u.id AND usage_records.source = u.usage_source
    AND usage_records.period_start = u.usage_period_start";

const SQLITE_MIRROR: &str = "
UPDATE users
SET usage_source = r.source, usage_period_start = r.period_start, usage_period_end = r.period_end, usage_count = p.used,
    usage_provisional = r.provisional, rolls_at = r.rolls_at, updated_at = {now}
FROM {openings}
    CROSS JOIN usage_periods AS p ON p.user_id = r.user_id AND p.source = r.source AND p.period_start = r.period_start
WHERE users.id = r.user_id";

/// Opens these windows: in the ledger, and mirrored in `users`. Tier and limit are those of the users' rows.
pub(crate) async fn open(db: &impl ConnectionTrait, rows: &[Opening]) -> Result<(), DbErr> {
    if rows.is_empty() {
        return Ok(());
    }
    let backend = db.get_database_backend();
    let postgres = backend == DbBackend::Postgres;
    let values = if postgres { columns(rows) } else { vec![inbox::document(&rows)?] };
    let openings = if postgres { OPENINGS } else { SQLITE_OPENINGS };
    let run = async |sql: &str| {
        let sql = sql.replace("{openings}", openings).replace("{now}", inbox::now(backend));
        db.execute_raw(Statement::from_sql_and_values(backend, sql, values.clone())).await
    };
    for sql in if postgres { &[POSTGRES_LEDGER][..] } else { &[SQLITE_OPEN, SQLITE_CLOSE] } {
        run(sql).await?;
    }
    if rows.iter().any(|row| row.carries) {
        run(if postgres { POSTGRES_RECORDS } else { SQLITE_RECORDS }).await?;
    }
    run(if postgres { POSTGRES_MIRROR } else { SQLITE_MIRROR }).await?;
    Ok(())
}

fn columns(rows: &[Opening]) -> Vec<Value> {
    let times = |of: fn(&Opening) -> Time| {
        let times = rows.iter().map(|row| Value::from(of(row))).collect();
        Value::Array(ArrayType::ChronoDateTimeUtc, Some(Box::new(times)))
    };
    let flags = |of: fn(&Opening) -> bool| {
        Value::Array(ArrayType::Bool, Some(Box::new(rows.iter().map(|row| of(row).into()).collect())))
    };
    vec![
        uuid_array(rows.iter().map(|row| row.user_id.0)),
        text_array(rows.iter().map(|row| row.source.clone())),
        times(|row| row.period_start),
        times(|row| row.period_end),
        flags(|row| row.provisional),
        flags(|row| row.carries),
        times(|row| row.rolls_at),
    ]
}

/// What a call takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taking<'a> {
    pub(crate) user: UserId,
    pub(crate) amount: i64,
    pub(crate) key: Option<&'a str>,
    /// Instead of the database's clock.
    pub(crate) now: Option<Time>,
}

/// The open window of a user, after a call.
#[derive(Debug, Clone, FromQueryResult)]
pub(crate) struct Open {
    pub(crate) used: i64,
    pub(crate) most: Option<i64>,
    pub(crate) period_start: Time,
    pub(crate) period_end: Time,
}

/// The user's row orders all calls for one user: who waited for it looks at it anew, by the clock of that moment. Two calls with one new
/// key at the same moment both get as far as the record, and there the second finds the first one's: an amount of 0 is refused by the
/// table, nothing of the statement is kept, and the caller looks again. A key that was released counts anew.
///
/// The ledger's row is written as if it might be missing: where the user's row was waited for while another opened the window, that row of
/// the ledger is younger than this statement, whose UPDATE would pass it over; only ON CONFLICT finds it.
const POSTGRES_TAKE: &str = "
WITH u AS (
    UPDATE users AS u SET usage_count = u.usage_count + $2, updated_at = clock_timestamp()
    WHERE u.id = $1 AND u.rolls_at > COALESCE($4::timestamptz, clock_timestamp()) AND u.usage_source IS NOT NULL
        AND (u.usage_limit IS NULL OR u.usage_count <= u.usage_limit - $2)
        AND NOT EXISTS (SELECT FROM usage_records AS k
            WHERE k.user_id = $1 AND k.idempotency_key = $3::text AND k.released_at IS NULL)
    RETURNING u.id, u.usage_source, u.usage_period_start, u.usage_period_end, u.usage_count, u.usage_limit, u.subscription_tier
), p AS (
    INSERT INTO usage_periods (user_id, source, period_start, period_end, used, usage_limit, tier)
    SELECT id, usage_source, usage_period_start, usage_period_end, usage_count, usage_limit, subscription_tier FROM u
    ON CONFLICT (user_id, source, period_start) DO UPDATE SET used = excluded.used
), k AS (
    INSERT INTO usage_records AS k (user_id, idempotency_key, source, period_start, amount, created_at)
    SELECT u.id, $3::text, u.usage_source, u.usage_period_start, $2, clock_timestamp() FROM u WHERE $3::text IS NOT NULL
    ON CONFLICT (user_id, idempotency_key) DO UPDATE
    SET amount = CASE WHEN k.released_at IS NULL THEN 0 ELSE excluded.amount END, source = excluded.source,
        period_start = excluded.period_start, released_at = NULL, created_at = excluded.created_at
)
SELECT usage_count AS used, usage_limit AS most, usage_period_start AS period_start, usage_period_end AS period_end FROM u";

/// Takes an amount from the open window, if it is open and holds as much; `None` where nothing was taken. On `SQLite` to be called within
/// a transaction that may write, after [`state`] told that it may be taken.
pub(crate) async fn take(db: &impl ConnectionTrait, taking: Taking<'_>) -> Result<Option<Open>, DbErr> {
    let backend = db.get_database_backend();
    let Taking { user, amount, key, now } = taking;
    let values: Vec<Value> = vec![user.0.into(), amount.into(), key.map(str::to_owned).into(), now.into()];
    if backend == DbBackend::Postgres {
        let statement = Statement::from_sql_and_values(backend, POSTGRES_TAKE, values);
        // All rows, although there is one at most: that waits for the commit. The row alone is sent before it, and before the record is
        // written, which may yet fail.
        return Ok(Open::find_by_statement(statement).all(db).await?.pop());
    }
    let clock = inbox::now(backend);
    let sql = format!(
        "UPDATE users SET usage_count = usage_count + $2, updated_at = {clock}
         WHERE id = $1 AND rolls_at > COALESCE($4, {clock}) AND usage_source IS NOT NULL
            AND (usage_limit IS NULL OR usage_count <= usage_limit - $2)
            AND NOT EXISTS (SELECT 1 FROM usage_records AS k
                WHERE k.user_id = $1 AND k.idempotency_key = $3 AND k.released_at IS NULL)
         RETURNING usage_count AS used, usage_limit AS most, usage_period_start AS period_start, usage_period_end AS period_end"
    );
    let taken = Open::find_by_statement(Statement::from_sql_and_values(backend, sql, values)).one(db).await?;
    if taken.is_some() {
        mirror_count(db, user).await?;
        if key.is_some() {
            let sql = format!(
                "INSERT INTO usage_records (user_id, idempotency_key, source, period_start, amount, created_at)
                 SELECT id, $2, usage_source, usage_period_start, $3, {clock} FROM users WHERE id = $1
                 ON CONFLICT (user_id, idempotency_key) DO UPDATE SET amount = excluded.amount, source = excluded.source,
                    period_start = excluded.period_start, released_at = NULL, created_at = excluded.created_at"
            );
            let values: [Value; 3] = [user.0.into(), key.map(str::to_owned).into(), amount.into()];
            db.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
        }
    }
    Ok(taken)
}

/// The ledger's row of the open window counts as `users` does.
async fn mirror_count(db: &impl ConnectionTrait, user: UserId) -> Result<(), DbErr> {
    let sql = "UPDATE usage_periods SET used = (SELECT u.usage_count FROM users AS u WHERE u.id = $1)
        WHERE user_id = $1 AND (source, period_start) =
            (SELECT u.usage_source, u.usage_period_start FROM users AS u WHERE u.id = $1)";
    db.execute_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, [user.0.into()])).await?;
    Ok(())
}

/// How a user stands with the ledger, and what is known of a key.
#[derive(Debug, Clone, FromQueryResult)]
pub(crate) struct State {
    pub(crate) due: bool,
    pub(crate) usage_count: i64,
    pub(crate) usage_limit: Option<i64>,
    pub(crate) usage_period_start: Option<Time>,
    pub(crate) usage_period_end: Option<Time>,
    /// What the key took; none where the key is unknown.
    pub(crate) amount: Option<i64>,
    pub(crate) released_at: Option<Time>,
    /// True where the window in which the key counted goes on.
    pub(crate) within: bool,
}

/// Whether the caller goes on to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Only to look.
    No,
    /// The user's row is held until the transaction ends.
    User,
}

/// Looks at a user and a key; `None` for an unknown user.
pub(crate) async fn state(
    db: &impl ConnectionTrait,
    user: UserId,
    key: Option<&str>,
    now: Option<Time>,
    hold: Hold,
) -> Result<Option<State>, DbErr> {
    let backend = db.get_database_backend();
    let given = if backend == DbBackend::Postgres { "$3::timestamptz" } else { "$3" };
    let clock = format!("COALESCE({given}, {})", inbox::now(backend));
    if hold == Hold::User && backend == DbBackend::Postgres {
        // First, and alone: whoever waits for a row sees the others as they were before the wait.
        let lock = "SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE";
        db.query_one_raw(Statement::from_sql_and_values(backend, lock, [user.0.into()])).await?;
    }
    let sql = format!(
        "SELECT u.rolls_at <= {clock} OR u.usage_source IS NULL AS due, u.usage_count, u.usage_limit, u.usage_period_start,
            u.usage_period_end, k.amount, k.released_at, COALESCE(p.period_end > {clock}, false) AS within
         FROM users AS u
            LEFT JOIN usage_records AS k ON k.user_id = u.id AND k.idempotency_key = $2
            LEFT JOIN usage_periods AS p ON p.user_id = k.user_id AND p.source = k.source AND p.period_start = k.period_start
         WHERE u.id = $1"
    );
    let values: Vec<Value> = vec![user.0.into(), key.map(str::to_owned).into(), now.into()];
    State::find_by_statement(Statement::from_sql_and_values(backend, sql, values)).one(db).await
}

/// Gives back what a key took, to the window it was taken from. The user's row is held.
pub(crate) async fn give_back(db: &impl ConnectionTrait, user: UserId, key: &str) -> Result<(), DbErr> {
    let backend = db.get_database_backend();
    let now = inbox::now(backend);
    let values = || -> [Value; 2] { [user.0.into(), key.into()] };
    let record = "FROM usage_records AS k WHERE k.user_id = $1 AND k.idempotency_key = $2";
    for sql in [
        format!(
            "UPDATE usage_periods SET used = used - (SELECT LEAST(k.amount, used) {record})
             WHERE user_id = $1 AND (source, period_start) = (SELECT k.source, k.period_start {record})"
        ),
        format!(
            "UPDATE users SET updated_at = {now}, usage_count = COALESCE((SELECT p.used FROM usage_periods AS p
                WHERE p.user_id = users.id AND p.source = users.usage_source AND p.period_start = users.usage_period_start), 0)
             WHERE id = $1 AND (usage_source, usage_period_start) = (SELECT k.source, k.period_start {record})"
        ),
        format!("UPDATE usage_records SET released_at = {now} WHERE user_id = $1 AND idempotency_key = $2"),
    ] {
        let sql = if backend == DbBackend::Postgres { sql } else { sql.replace("LEAST(", "min(") };
        let values = if sql.contains("$2") { values().to_vec() } else { vec![user.0.into()] };
        db.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
    }
    Ok(())
}

/// A condition on overrides: those of these users that are over at `now`.
pub(crate) fn over(backend: DbBackend, users: impl IntoIterator<Item = UserId>, now: Time) -> SimpleExpr {
    use sea_orm::sea_query::ExprTrait as _;
    super::rowset::uuid_in(backend, "user_id", users.into_iter().map(|id| id.0)).and(Expr::col("until").lte(now))
}
