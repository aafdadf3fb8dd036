//! Runs migrations so that any number of processes may start on one empty database at the same moment.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, EntityTrait, QueryFilter,
    RuntimeErr, Set, Statement, sqlx,
};
use sea_orm_migration::{prelude::*, seaql_migrations};

use crate::{
    Migrator,
    adoption::preflight,
    ground::{Ground, Target, begin},
};

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
///
/// A database in which a host lives already is adopted; where that cannot be, it is refused before anything is changed.
pub async fn up<'a>(db: impl Into<Target<'a>>, steps: Option<u32>) -> Result<(), MigrateError> {
    exclusively(db.into(), Direction::Up, steps).await
}

/// Takes back the last `steps` migrations, or all of them.
pub async fn down<'a>(db: impl Into<Target<'a>>, steps: Option<u32>) -> Result<(), MigrateError> {
    exclusively(db.into(), Direction::Down, steps).await
}

/// Every migration of this version, oldest first. Those of a newer one are left out: a server of the version before goes on beside them while it is
/// being replaced ([`newer`] tells of them). Writes nothing.
pub async fn status(db: &impl ConnectionTrait) -> Result<Vec<State>, MigrateError> {
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
pub async fn newer(db: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
    let known: BTreeSet<String> = Migrator::migrations().iter().map(|m| m.name().to_owned()).collect();
    Ok(applied(db).await?.into_iter().filter(|name| !known.contains(name)).collect())
}

/// Refuses to work on a schema that this version does not know.
async fn refuse_newer(db: &impl ConnectionTrait) -> Result<(), MigrateError> {
    let newer = newer(db).await?;
    if newer.is_empty() { Ok(()) } else { Err(MigrateError::Newer(newer)) }
}

/// The names of what is applied.
async fn applied(db: &impl ConnectionTrait) -> Result<BTreeSet<String>, DbErr> {
    // As sea-orm-migration keeps them; before the first one there is no such table.
    let is_there = match db.get_database_backend() {
        DbBackend::Postgres => "SELECT 1 AS one WHERE to_regclass('seaql_migrations') IS NOT NULL",
        _ => "SELECT 1 AS one FROM sqlite_master WHERE type = 'table' AND name = 'seaql_migrations'",
    };
    if db.query_one_raw(Statement::from_string(db.get_database_backend(), is_there)).await?.is_none() {
        return Ok(BTreeSet::new());
    }
    Ok(seaql_migrations::Entity::find().all(db).await?.into_iter().map(|row| row.version).collect())
}

/// To a role that row-level security keeps out, a full database looks like an empty one.
async fn look_whether_blind(db: &impl ConnectionTrait) -> Result<(), MigrateError> {
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
pub async fn pending(db: &impl ConnectionTrait) -> Result<usize, MigrateError> {
    Ok(status(db).await?.iter().filter(|state| !state.applied).count())
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

impl Direction {
    async fn go(self, db: &DatabaseConnection, steps: Option<u32>) -> Result<(), DbErr> {
        match (self, db.get_database_backend()) {
            (_, DbBackend::Postgres) => self.step_by_step(db, steps).await,
            (Self::Up, _) => Migrator::up(db, steps).await,
            (Self::Down, _) => Migrator::down(db, steps).await,
        }
    }

    /// The same, again and again where a table could not be had in time. Every migration that is done stays done, so the steps that are left
    /// are counted anew.
    async fn persistently(self, db: &DatabaseConnection, steps: Option<u32>) -> Result<(), DbErr> {
        let before = count(db).await?;
        let mut tries = 0;
        loop {
            let done = count(db).await?.abs_diff(before);
            let left =
                steps.map(|steps| steps.saturating_sub(<u32 as TryFrom<usize>>::try_from(done).unwrap_or(u32::MAX)));
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

    /// On PostgreSQL, as [`MigratorTrait`] does it, but that whatever is prepared is prepared within a transaction: behind a pooler nothing else
    /// stays on one connection of the server.
    async fn step_by_step(self, db: &DatabaseConnection, steps: Option<u32>) -> Result<(), DbErr> {
        let tx = begin(db).await?;
        Migrator::install(&tx).await?;
        let applied = applied(&tx).await?;
        tx.commit().await?;
        let most = steps.map_or(usize::MAX, |steps| usize::try_from(steps).unwrap_or(usize::MAX));
        let mut migrations = Migrator::migrations();
        migrations.retain(|migration| applied.contains(migration.name()) == matches!(self, Self::Down));
        if matches!(self, Self::Down) {
            migrations.reverse();
        }
        for migration in migrations.into_iter().take(most) {
            tracing::info!(migration = migration.name(), "{}", self.told());
            if migration.use_transaction().unwrap_or(true) {
                let tx = begin(db).await?;
                self.run(&*migration, &SchemaManager::new(&tx)).await?;
                self.record(&tx, migration.name()).await?;
                tx.commit().await?;
            } else {
                self.run(&*migration, &SchemaManager::new(db)).await?;
                let tx = begin(db).await?;
                self.record(&tx, migration.name()).await?;
                tx.commit().await?;
            }
        }
        Ok(())
    }

    const fn told(self) -> &'static str {
        match self {
            Self::Up => "applying a migration",
            Self::Down => "taking a migration back",
        }
    }

    async fn run(self, migration: &dyn MigrationTrait, manager: &SchemaManager<'_>) -> Result<(), DbErr> {
        match self {
            Self::Up => migration.up(manager).await,
            Self::Down => migration.down(manager).await,
        }
    }

    async fn record(self, tx: &DatabaseTransaction, name: &str) -> Result<(), DbErr> {
        match self {
            Self::Up => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let applied_at = Set(now.try_into().unwrap_or_default());
                let row = seaql_migrations::ActiveModel { version: Set(name.to_owned()), applied_at };
                seaql_migrations::Entity::insert(row).exec(tx).await.map(|_| ())
            }
            Self::Down => {
                let row = seaql_migrations::Column::Version.eq(name);
                seaql_migrations::Entity::delete_many().filter(row).exec(tx).await.map(|_| ())
            }
        }
    }
}

/// How many migrations are applied.
async fn count(db: &DatabaseConnection) -> Result<usize, DbErr> {
    let tx = begin(db).await?;
    let applied = applied(&tx).await?;
    tx.commit().await?;
    Ok(applied.len())
}

/// Once nothing is applied any more, the list of what is goes as well: nothing of ours is left.
async fn forget_all(db: &DatabaseConnection) -> Result<(), DbErr> {
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
async fn exclusively(target: Target<'_>, direction: Direction, steps: Option<u32>) -> Result<(), MigrateError> {
    let ground = Ground::of(target);
    let db = &ground.db;
    if db.get_database_backend() == DbBackend::Postgres {
        let done = locked(db, direction, steps).await;
        let closed = ground.close().await;
        done?;
        return Ok(closed?);
    }
    refuse_newer(db).await?;
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

/// Of the two connections one holds the lock, the other works.
async fn locked(db: &DatabaseConnection, direction: Direction, steps: Option<u32>) -> Result<(), MigrateError> {
    let looking = begin(db).await?;
    status(&looking).await?;
    refuse_newer(&looking).await?;
    if matches!(direction, Direction::Up) {
        let wrong = preflight(&looking).await?;
        if !wrong.is_empty() {
            return Err(MigrateError::CannotAdopt { wrong });
        }
    }
    looking.commit().await?;
    let lock = lock(db).await?;
    let done = direction.persistently(db, steps).await;
    let released = lock.commit().await;
    Ok(done.and(released)?)
}

/// Holds the lock until the transaction ends, however long another process takes before.
///
/// It is tried for, each time in a transaction of its own, and never waited for: whoever waits inside a statement holds a snapshot, and the
/// other process's `CREATE INDEX CONCURRENTLY` waits for every snapshot older than its own, so the two would wait for each other for ever,
/// unseen by the server. The transaction that holds the lock runs nothing, so it has no snapshot (PostgreSQL, `READ COMMITTED`).
async fn lock(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let mut told = false;
    loop {
        let lock = begin(db).await?;
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
