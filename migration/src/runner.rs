//! Runs migrations so that any number of processes may start on one empty database at the same moment.

use std::time::Duration;

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, RuntimeErr, SqlxPostgresConnector, Statement,
    TransactionTrait,
    sqlx::{self, postgres::PgPoolOptions},
};
use sea_orm_migration::{MigrationStatus, prelude::*};

use crate::{Migrator, adoption::preflight};

/// Key of the lock under which PostgreSQL schemas are migrated: the bytes of `trueup`.
const LOCK_KEY: i64 = 0x7472_7565_7570;

/// How often the lock is tried for while another process migrates.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// How often a table is tried for that others use: some minutes in all.
const LOCK_TRIES: u32 = 40;

/// Tries on SQLite, where the loser of a race sees a half-told story and looks again.
const SQLITE_TRIES: u32 = 20;

/// Why the schema could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database refused a statement.
    #[error(
        "the database schema could not be migrated: {0}. Whatever is complete was kept, nothing half-done; mend the cause and run `trueup migrate up` again"
    )]
    Database(#[from] DbErr),
    /// What is there cannot be taken over. Nothing was changed.
    #[error("this database cannot be adopted, and nothing in it was changed:{}", .wrong.iter().map(|one| format!("\n- {one}")).collect::<String>())]
    CannotAdopt {
        /// What stands in the way, each with what to do.
        wrong: Vec<String>,
    },
    /// The role may not see what there is.
    #[error(
        "the database is there, and the role {role} sees nothing of it: row-level security is on and lets only the tables' owner pass. Connect as {owner}, or let {role} act as it: GRANT {owner} TO {role}"
    )]
    Blind {
        /// Who is connected.
        role: String,
        /// Who owns the tables.
        owner: String,
    },
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
///
/// A database in which a host lives already is adopted; where that cannot be, it is refused before anything is changed.
pub async fn up(db: &DatabaseConnection, steps: Option<u32>) -> Result<(), MigrateError> {
    look_whether_adoptable(db).await?;
    exclusively(db, Direction::Up, steps).await
}

/// Refuses a database that cannot be adopted.
pub(crate) async fn look_whether_adoptable(db: &impl ConnectionTrait) -> Result<(), MigrateError> {
    let wrong = preflight(db).await?;
    if wrong.is_empty() { Ok(()) } else { Err(MigrateError::CannotAdopt { wrong }) }
}

/// Takes back the last `steps` migrations, or all of them.
pub async fn down(db: &DatabaseConnection, steps: Option<u32>) -> Result<(), MigrateError> {
    exclusively(db, Direction::Down, steps).await
}

/// Every migration, oldest first. Writes nothing.
pub async fn status(db: &DatabaseConnection) -> Result<Vec<State>, MigrateError> {
    let migrations = Migrator::get_migration_with_status_read_only(db).await?;
    let states: Vec<State> = migrations
        .iter()
        .map(|m| State { name: m.name().to_owned(), applied: m.status() == MigrationStatus::Applied })
        .collect();
    if states.iter().all(|state| !state.applied) {
        look_whether_blind(db).await?;
    }
    Ok(states)
}

/// To a role that row-level security keeps out, a full database looks like an empty one.
async fn look_whether_blind(db: &DatabaseConnection) -> Result<(), MigrateError> {
    if db.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    let sql = "SELECT quote_ident(current_user) AS role, quote_ident(pg_get_userbyid(relowner)) AS owner FROM pg_class
        WHERE oid = to_regclass('seaql_migrations') AND row_security_active(oid)";
    match db.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await? {
        None => Ok(()),
        Some(row) => Err(MigrateError::Blind { role: row.try_get("", "role")?, owner: row.try_get("", "owner")? }),
    }
}

/// How many migrations wait to be applied. Writes nothing.
pub async fn pending(db: &DatabaseConnection) -> Result<usize, MigrateError> {
    Ok(status(db).await?.iter().filter(|state| !state.applied).count())
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

impl Direction {
    async fn go(self, db: &DatabaseConnection, steps: Option<u32>) -> Result<(), DbErr> {
        match self {
            Self::Up => Migrator::up(db, steps).await,
            Self::Down => Migrator::down(db, steps).await,
        }
    }

    /// The same, again and again where a table could not be had in time. Every migration that is done stays done, so the steps that are left
    /// are counted anew.
    async fn persistently(self, db: &DatabaseConnection, steps: Option<u32>) -> Result<(), DbErr> {
        let before = applied(db).await?;
        let mut tries = 0;
        loop {
            let done = applied(db).await?.abs_diff(before);
            let left = steps.map(|steps| steps.saturating_sub(<u32 as TryFrom<usize>>::try_from(done).unwrap_or(u32::MAX)));
            if left == Some(0) {
                return Ok(());
            }
            match self.go(db, left).await {
                Ok(()) if matches!(self, Self::Down) => return forget_all(db).await,
                Ok(()) => return Ok(()),
                Err(error) if tries < LOCK_TRIES && is_in_the_way(&error) => {
                    tries += 1;
                    tracing::info!(%error, tries, "a table is in use; letting the others go first");
                    tokio::time::sleep(TRY_AGAIN * tries).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// How many migrations are applied.
async fn applied(db: &DatabaseConnection) -> Result<usize, DbErr> {
    let migrations = Migrator::get_migration_with_status_read_only(db).await?;
    Ok(migrations.iter().filter(|migration| migration.status() == MigrationStatus::Applied).count())
}

/// Once nothing is applied any more, the list of what is goes as well: nothing of ours is left.
async fn forget_all(db: &DatabaseConnection) -> Result<(), DbErr> {
    if applied(db).await? > 0 {
        return Ok(());
    }
    let sql = "DO $$ BEGIN
        IF to_regclass('seaql_migrations') IS NOT NULL AND NOT EXISTS (SELECT FROM seaql_migrations) THEN
            DROP TABLE seaql_migrations;
        END IF;
    END $$";
    db.execute_unprepared(sql).await.map(|_| ())
}

/// True where a lock was not to be had in time (55P03), or would have been waited for in a circle (40P01).
fn is_in_the_way(error: &DbErr) -> bool {
    matches!(error, DbErr::Exec(RuntimeErr::SqlxError(inner)) | DbErr::Query(RuntimeErr::SqlxError(inner))
        if matches!(&**inner, sqlx::Error::Database(database)
            if matches!(database.code().as_deref(), Some("55P03" | "40P01"))))
}

/// Migrates while no other process does.
///
/// PostgreSQL: under an advisory lock of a transaction of its own, which needs no session (a pooler in transaction mode
/// keeps it) and falls with its process. SQLite: what is pending is applied in transactions, so of two processes one loses cleanly
/// and looks again.
async fn exclusively(db: &DatabaseConnection, direction: Direction, steps: Option<u32>) -> Result<(), MigrateError> {
    if db.get_database_backend() == DbBackend::Postgres {
        status(db).await?;
        let patient = patient(db);
        let lock = lock(&patient).await?;
        let done = direction.persistently(&patient, steps).await;
        let released = lock.commit().await.and(patient.close().await);
        return Ok(done.and(released)?);
    }
    let mut tries = 0;
    loop {
        tries += 1;
        match direction.go(db, steps).await {
            Ok(()) => return Ok(()),
            Err(error) if tries == SQLITE_TRIES => return Err(error.into()),
            Err(error) => {
                tracing::debug!(%error, "migrating was disturbed; looking again");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Two connections to the same database that wait as long as it takes: the build of an index on a large table outlasts every limit that is
/// right for the statements of a server. One holds the lock, the other works.
pub(crate) fn patient(db: &DatabaseConnection) -> DatabaseConnection {
    let given = db.get_postgres_connection_pool();
    let limits = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"];
    let options = given.connect_options().as_ref().clone().options(limits.map(|limit| (limit, "0")));
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(given.options().get_acquire_timeout())
        .connect_lazy_with(options);
    SqlxPostgresConnector::from_sqlx_postgres_pool(pool)
}

/// Holds the lock until the transaction ends, however long another process takes before.
///
/// It is tried for, each time in a transaction of its own, and never waited for: whoever waits inside a statement holds a snapshot, and the
/// other process's `CREATE INDEX CONCURRENTLY` waits for every snapshot older than its own, so the two would wait for each other for ever,
/// unseen by the server. The transaction that holds the lock runs nothing, so it has no snapshot (PostgreSQL, `READ COMMITTED`).
async fn lock(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let mut told = false;
    loop {
        #[expect(clippy::disallowed_methods, reason = "PostgreSQL only; the trap is SQLite's")]
        let lock = db.begin().await?;
        let sql = format!("SELECT pg_try_advisory_xact_lock({LOCK_KEY}) AS held");
        let row = lock.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
        if row.map(|row| row.try_get::<bool>("", "held")).transpose()? == Some(true) {
            return Ok(lock);
        }
        lock.rollback().await?;
        if !std::mem::replace(&mut told, true) {
            tracing::info!("another process migrates this database; waiting until it is done");
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}
