//! The few statements about the tables of jobs. Every moment in them is the database's.
//!
//! On PostgreSQL whoever takes a lease over locks its row `FOR UPDATE` first, and so waits for the fenced transaction that may be under way
//! (`billing::db::Db::fenced` holds the row `FOR KEY SHARE`); a renewal changes no key and waits for nobody. `SQLite` has one writer anyway.

use std::time::Duration;

use billing::db;
use entity::{
    Time,
    enums::{RunOutcome, RunTrigger},
    job_runs,
};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, FromQueryResult, QueryFilter,
    Statement, TryInsertResult, Value, sea_query::Expr,
};
use uuid::Uuid;

/// No lease is ever taken for so long: what claims to hold longer was written by a clock that has since been set back.
const LONGEST_LEASE: Duration = Duration::from_mins(10);

/// What a run says that nobody ended.
const DIED: &str = "its process died, or lost its lease, before the run was over";

fn later(backend: DbBackend, seconds: &str) -> String {
    match backend {
        DbBackend::Postgres => format!("clock_timestamp() + make_interval(secs => {seconds})"),
        _ => format!("strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '+' || {seconds} || ' seconds')"),
    }
}

/// True of a lease that nobody holds.
fn free(backend: DbBackend, prefix: &str) -> String {
    let (now, longest) = (db::now(backend), later(backend, &LONGEST_LEASE.as_secs().to_string()));
    format!("({prefix}holder IS NULL OR {prefix}expires_at <= {now} OR {prefix}expires_at > {longest})")
}

/// Asks for the jobs whose lease is held.
pub(crate) fn held(backend: DbBackend) -> String {
    format!("SELECT job FROM job_leases WHERE NOT {}", free(backend, ""))
}

async fn execute(db: &impl ConnectionTrait, sql: String, values: Vec<Value>) -> Result<u64, DbErr> {
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
    Ok(db.execute_raw(statement).await?.rows_affected())
}

/// Makes the rows of a job where there are none.
pub(crate) async fn ensure(db: &impl ConnectionTrait, job: &str) -> Result<(), DbErr> {
    for table in ["job_leases", "job_settings"] {
        execute(db, format!("INSERT INTO {table} (job) VALUES ($1) ON CONFLICT DO NOTHING"), vec![job.into()]).await?;
    }
    Ok(())
}

/// Counts slots by this schedule from now on, unless that is what is done already. Empty: not at all.
pub(crate) async fn count_by(db: &impl ConnectionTrait, job: &str, schedule: &str) -> Result<(), DbErr> {
    let now = db::now(db.get_database_backend());
    let sql = format!("UPDATE job_settings SET schedule = $2, slots_after = {now} WHERE job = $1 AND schedule <> $2");
    execute(db, sql, vec![job.into(), schedule.into()]).await.map(drop)
}

/// The baseline was written by a clock that has since been set back.
pub(crate) async fn mend_baseline(db: &impl ConnectionTrait, job: &str) -> Result<(), DbErr> {
    let now = db::now(db.get_database_backend());
    let sql = format!("UPDATE job_settings SET slots_after = {now} WHERE job = $1 AND slots_after > {now}");
    execute(db, sql, vec![job.into()]).await.map(drop)
}

/// Pauses a job; nothing where it is paused.
pub(crate) async fn pause(db: &impl ConnectionTrait, job: &str) -> Result<(), DbErr> {
    let now = db::now(db.get_database_backend());
    let sql = format!("UPDATE job_settings SET paused = true, paused_at = {now} WHERE job = $1 AND NOT paused");
    execute(db, sql, vec![job.into()]).await.map(drop)
}

/// Resumes a job, whose slots until now are nobody's; nothing where it is not paused.
pub(crate) async fn resume(db: &impl ConnectionTrait, job: &str) -> Result<(), DbErr> {
    let now = db::now(db.get_database_backend());
    let sql = format!(
        "UPDATE job_settings SET paused = false, resumed_at = {now}, slots_after = {now} WHERE job = $1 AND paused"
    );
    execute(db, sql, vec![job.into()]).await.map(drop)
}

/// A job as the database knows it.
#[derive(Debug, Clone, FromQueryResult)]
pub(crate) struct View {
    pub(crate) now: Time,
    pub(crate) paused: bool,
    pub(crate) slots_after: Time,
    pub(crate) free: bool,
    pub(crate) expires_at: Time,
    /// A run that nobody has ended yet.
    pub(crate) unfinished: bool,
    /// The newest slot that was taken up, those not counted that a person asked for or that lie ahead of the clock.
    pub(crate) last_slot: Option<Time>,
    pub(crate) last_attempt: Option<i16>,
    pub(crate) last_outcome: Option<RunOutcome>,
    pub(crate) last_success: Option<Time>,
}

/// Looks at a job; nothing where its rows are not made yet.
pub(crate) async fn look(db: &impl ConnectionTrait, job: &str) -> Result<Option<View>, DbErr> {
    let backend = db.get_database_backend();
    let (now, free) = (db::now(backend), free(backend, "l."));
    let sql = format!(
        "SELECT {now} AS now, s.paused, s.slots_after, {free} AS free, l.expires_at,
            EXISTS (SELECT 1 FROM job_runs AS u WHERE u.job = s.job AND u.outcome = 'running') AS unfinished,
            r.slot AS last_slot, r.attempt AS last_attempt, r.outcome AS last_outcome,
            (SELECT max(w.finished_at) FROM job_runs AS w WHERE w.job = s.job AND w.outcome = 'succeeded') AS last_success
         FROM job_settings AS s JOIN job_leases AS l ON l.job = s.job
         LEFT JOIN job_runs AS r ON r.id = (SELECT t.id FROM job_runs AS t
            WHERE t.job = s.job AND t.trigger <> 'manual' AND t.slot <= {now} ORDER BY t.slot DESC, t.attempt DESC LIMIT 1)
         WHERE s.job = $1"
    );
    View::find_by_statement(Statement::from_sql_and_values(backend, sql, [job.into()])).one(db).await
}

/// Takes the lease where nobody holds it, and returns its token. Whoever held it before can write nothing any more.
pub(crate) async fn take_over(
    db: &impl ConnectionTrait,
    job: &str,
    holder: &str,
    lease: Duration,
) -> Result<Option<i64>, DbErr> {
    let backend = db.get_database_backend();
    let free = free(backend, "");
    if backend == DbBackend::Postgres {
        let sql = format!("SELECT 1 FROM job_leases WHERE job = $1 AND {free} FOR UPDATE");
        if db.query_one_raw(Statement::from_sql_and_values(backend, sql, [job.into()])).await?.is_none() {
            return Ok(None);
        }
    }
    let until = later(backend, "$3");
    let sql = format!(
        "UPDATE job_leases SET holder = $2, expires_at = {until}, token = token + 1 WHERE job = $1 AND {free} RETURNING token"
    );
    let values: [Value; 3] = [job.into(), holder.into(), lease.as_secs_f64().into()];
    let row = db.query_one_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
    row.map(|row| row.try_get_by_index(0)).transpose()
}

/// Prolongs a lease; false where somebody else has it by now.
pub(crate) async fn renew(db: &impl ConnectionTrait, job: &str, token: i64, lease: Duration) -> Result<bool, DbErr> {
    let until = later(db.get_database_backend(), "$3");
    let sql =
        format!("UPDATE job_leases SET expires_at = {until} WHERE job = $1 AND token = $2 AND holder IS NOT NULL");
    Ok(execute(db, sql, vec![job.into(), token.into(), lease.as_secs_f64().into()]).await? == 1)
}

/// Gives the lease back; false where somebody else has it by now. The token rises here too: of a run that is over nothing is written any
/// more, should something of it still be under way.
pub(crate) async fn release(db: &impl ConnectionTrait, job: &str, token: i64) -> Result<bool, DbErr> {
    let backend = db.get_database_backend();
    if backend == DbBackend::Postgres {
        let sql = "SELECT 1 FROM job_leases WHERE job = $1 AND token = $2 FOR UPDATE";
        let statement = Statement::from_sql_and_values(backend, sql, [job.into(), token.into()]);
        if db.query_one_raw(statement).await?.is_none() {
            return Ok(false);
        }
    }
    let now = db::now(backend);
    let sql = format!(
        "UPDATE job_leases SET holder = NULL, expires_at = {now}, token = token + 1
         WHERE job = $1 AND token = $2 AND holder IS NOT NULL"
    );
    Ok(execute(db, sql, vec![job.into(), token.into()]).await? == 1)
}

/// Ends the runs that whoever had the lease before left behind.
pub(crate) async fn interrupt_earlier(db: &impl ConnectionTrait, job: &str, token: i64) -> Result<u64, DbErr> {
    let now = db::now(db.get_database_backend());
    let sql = format!(
        "UPDATE job_runs SET outcome = 'interrupted', finished_at = {now}, error = '{DIED}'
         WHERE job = $1 AND token < $2 AND outcome = 'running'"
    );
    execute(db, sql, vec![job.into(), token.into()]).await
}

/// A run that begins.
#[derive(Debug, Clone)]
pub(crate) struct NewRun<'a> {
    pub(crate) job: &'a str,
    pub(crate) slot: Time,
    pub(crate) attempt: i16,
    pub(crate) trigger: RunTrigger,
    pub(crate) token: i64,
    pub(crate) now: Time,
    pub(crate) runner: &'a str,
}

/// Writes it down; nothing where this attempt at this slot is taken.
pub(crate) async fn begin(db: &impl ConnectionTrait, run: &NewRun<'_>) -> Result<Option<job_runs::Model>, DbErr> {
    use job_runs::Column;
    let model = job_runs::Model {
        id: Uuid::now_v7(),
        job: run.job.to_owned(),
        slot: run.slot,
        attempt: run.attempt,
        trigger: run.trigger,
        token: run.token,
        started_at: run.now,
        finished_at: None,
        outcome: RunOutcome::Running,
        report: None,
        error: None,
        runner: run.runner.to_owned(),
    };
    let row = job_runs::ActiveModel {
        id: Set(model.id),
        job: Set(model.job.clone()),
        slot: Set(model.slot),
        attempt: Set(model.attempt),
        trigger: Set(model.trigger),
        token: Set(model.token),
        started_at: Set(model.started_at),
        outcome: Set(model.outcome),
        runner: Set(model.runner.clone()),
        ..Default::default()
    };
    let insert = job_runs::Entity::insert(row).on_conflict_do_nothing_on([Column::Job, Column::Slot, Column::Attempt]);
    Ok(match insert.exec_without_returning(db).await? {
        TryInsertResult::Inserted(1) => Some(model),
        _ => None,
    })
}

/// Writes down how a run ended.
pub(crate) async fn end(
    db: &impl ConnectionTrait,
    id: Uuid,
    outcome: RunOutcome,
    report: Option<&serde_json::Value>,
    error: Option<&str>,
) -> Result<(), DbErr> {
    use job_runs::Column;
    let now = Expr::cust(db::now(db.get_database_backend()));
    job_runs::Entity::update_many()
        .col_expr(Column::Outcome, Expr::value(outcome.as_str()))
        .col_expr(Column::FinishedAt, now)
        .col_expr(Column::Report, Expr::value(report.cloned()))
        .col_expr(Column::Error, Expr::value(error))
        .filter(Column::Id.eq(id))
        .filter(Column::Outcome.eq(RunOutcome::Running))
        .exec(db)
        .await
        .map(drop)
}
