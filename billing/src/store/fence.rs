//! Whether the run of a job still holds its lease.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};

/// True while nobody has taken the lease over. On PostgreSQL the row stays shared until the transaction ends: whoever would take the lease
/// over waits for it, while the holder's own renewals do not.
pub(crate) async fn holds(db: &impl ConnectionTrait, job: &str, token: i64) -> Result<bool, DbErr> {
    let backend = db.get_database_backend();
    let lock = if backend == DbBackend::Postgres { " FOR KEY SHARE" } else { "" };
    let sql = format!("SELECT 1 FROM job_leases WHERE job = $1 AND token = $2{lock}");
    Ok(db.query_one_raw(Statement::from_sql_and_values(backend, sql, [job.into(), token.into()])).await?.is_some())
}
