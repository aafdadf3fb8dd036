//! Runs migrations so that any number of processes may start on one empty database at the same moment.

use std::{collections::BTreeSet, time::Duration};

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, EntityTrait, SqlxPostgresConnector, Statement,
    TransactionTrait, sqlx::postgres::PgPoolOptions,
};
use sea_orm_migration::{prelude::*, seaql_migrations};

use crate::Migrator;

/// Key of the lock under which PostgreSQL schemas are migrated: the bytes of `trueup`.
const LOCK_KEY: i64 = 0x7472_7565_7570;

/// How often the lock is tried for while another process migrates.
const TRY_AGAIN: Duration = Duration::from_millis(200);

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
    /// A newer version has migrated.
    #[error(
        "the database was migrated by a newer version than this one ({}): {}. Start that version; or, with its program, take them back: `trueup migrate down --steps {} --yes`",
        env!("CARGO_PKG_VERSION"), .0.join(", "), .0.len()
    )]
    Newer(Vec<String>),
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
pub async fn up(db: &DatabaseConnection, steps: Option<u32>) -> Result<(), MigrateError> {
    exclusively(db, Direction::Up, steps).await
}

/// Takes back the last `steps` migrations, or all of them.
pub async fn down(db: &DatabaseConnection, steps: Option<u32>) -> Result<(), MigrateError> {
    exclusively(db, Direction::Down, steps).await
}

/// Every migration of this version, oldest first. Those of a newer one are left out: a server of the version before goes on beside them while it is
/// being replaced ([`newer`] tells of them). Writes nothing.
pub async fn status(db: &DatabaseConnection) -> Result<Vec<State>, MigrateError> {
    let applied = applied(db).await?;
    let states: Vec<State> = Migrator::migrations()
        .iter()
        .map(|migration| State { name: migration.name().to_owned(), applied: applied.contains(migration.name()) })
        .collect();
    if applied.is_empty() {
        look_whether_blind(db).await?;
    }
    Ok(states)
}

/// Migrations that are applied and that this version does not know. Writes nothing.
pub async fn newer(db: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
    let known: BTreeSet<String> = Migrator::migrations().iter().map(|m| m.name().to_owned()).collect();
    Ok(applied(db).await?.into_iter().filter(|name| !known.contains(name)).collect())
}

/// The names of what is applied.
async fn applied(db: &DatabaseConnection) -> Result<BTreeSet<String>, DbErr> {
    // As sea-orm-migration keeps them.
    if !SchemaManager::new(db).has_table("seaql_migrations").await? {
        return Ok(BTreeSet::new());
    }
    Ok(seaql_migrations::Entity::find().all(db).await?.into_iter().map(|row| row.version).collect())
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
}

/// Migrates while no other process does.
///
/// PostgreSQL: under an advisory lock of a transaction of its own, which needs no session (a pooler in transaction mode
/// keeps it) and falls with its process. SQLite: what is pending is applied in transactions, so of two processes one loses cleanly
/// and looks again.
async fn exclusively(db: &DatabaseConnection, direction: Direction, steps: Option<u32>) -> Result<(), MigrateError> {
    let newer = newer(db).await?;
    if !newer.is_empty() {
        return Err(MigrateError::Newer(newer));
    }
    if db.get_database_backend() == DbBackend::Postgres {
        status(db).await?;
        let patient = patient(db);
        let lock = lock(&patient).await?;
        let done = direction.go(&patient, steps).await;
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
fn patient(db: &DatabaseConnection) -> DatabaseConnection {
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
