//! Runs migrations so that any number of processes may start on one empty database at the same moment.

use std::time::Duration;

use sea_orm_migration::{
    MigrationStatus,
    prelude::*,
    sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, TransactionTrait},
};

use crate::Migrator;

/// Key of the lock under which PostgreSQL schemas are migrated: the bytes of `trueup`.
const LOCK_KEY: i64 = 0x7472_7565_7570;

/// Tries on SQLite, where the loser of a race sees a half-told story and looks again.
const SQLITE_TRIES: u32 = 20;

/// Why the schema could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database refused a statement.
    #[error(
        "the database schema could not be migrated: {0}. Nothing of the failed migration was kept; mend the cause and run `trueup migrate up` again"
    )]
    Database(#[from] DbErr),
}

/// A migration and whether it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Name of the migration.
    pub name: String,
    /// True once applied.
    pub applied: bool,
}

/// Applies what is pending: all of it, or the first `steps`. Safe to call from several processes at once.
pub async fn up(db: &DatabaseConnection, steps: Option<u32>) -> Result<(), MigrateError> {
    exclusively(db, || Migrator::up(db, steps)).await
}

/// Takes back the last `steps` migrations, or all of them.
pub async fn down(db: &DatabaseConnection, steps: Option<u32>) -> Result<(), MigrateError> {
    exclusively(db, || Migrator::down(db, steps)).await
}

/// Every migration, oldest first. Writes nothing.
pub async fn status(db: &DatabaseConnection) -> Result<Vec<State>, MigrateError> {
    let migrations = Migrator::get_migration_with_status_read_only(db).await?;
    Ok(migrations
        .iter()
        .map(|m| State { name: m.name().to_owned(), applied: m.status() == MigrationStatus::Applied })
        .collect())
}

/// How many migrations wait to be applied. Writes nothing.
pub async fn pending(db: &DatabaseConnection) -> Result<usize, MigrateError> {
    Ok(status(db).await?.iter().filter(|state| !state.applied).count())
}

/// Runs `work` while no other process migrates.
///
/// PostgreSQL: under an advisory lock of a transaction of its own, which needs no session (a pooler in transaction mode
/// keeps it) and falls with its process. SQLite: every migration is one transaction, so of two processes one loses cleanly
/// and looks again.
async fn exclusively<F, Fut>(db: &DatabaseConnection, work: F) -> Result<(), MigrateError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<(), DbErr>>,
{
    if db.get_database_backend() == DbBackend::Postgres {
        #[expect(clippy::disallowed_methods, reason = "PostgreSQL only; the trap is SQLite's")]
        let lock = db.begin().await?;
        // However long the other one takes.
        lock.execute_unprepared("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0").await?;
        lock.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({LOCK_KEY})")).await?;
        work().await?;
        lock.commit().await?;
        return Ok(());
    }
    let mut tries = 0;
    loop {
        tries += 1;
        match work().await {
            Ok(()) => return Ok(()),
            Err(error) if tries == SQLITE_TRIES => return Err(error.into()),
            Err(error) => {
                tracing::debug!(%error, "migrating was disturbed; looking again");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
