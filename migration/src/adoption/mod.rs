//! Taking over a database in which a host application lives already (PostgreSQL).
//!
//! A `users` table, and perhaps a `stripe_webhooks`, that were there before us stay the host's: their columns keep their names and, wherever we
//! can do with them, their types; missing columns are added, values are carried over, and what we change is noted in `settings`, so that `down`
//! takes back that alone. What needs a table for itself needs it for a moment, in one go, and gives up after a second so that nobody queues
//! behind it (the runner tries again); indexes are built and dropped `CONCURRENTLY`; rows are carried over in batches, each its own
//! transaction. `docs/adopting.md` tells the whole story.
//!
//! - `preflight`: whether it can be done at all; asked before anything is changed
//! - `columns`: which columns we need, which of them are there, and the statements that follow
//! - `ground`: notes, and indexes that would be built anew under lock
//! - `inbox`: an older `stripe_webhooks`
//! - `step`: the host's usage columns and ours, kept in step by triggers
//! - `carry`: what users have is carried over, and again until Trueup takes over

pub(crate) mod carry;
pub(crate) mod columns;
pub(crate) mod ground;
pub(crate) mod inbox;
mod preflight;
pub(crate) mod step;

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, QueryResult, Statement};
use sea_orm_migration::{SchemaManagerConnection, prelude::*};

pub use carry::carry_over_again;
pub(crate) use preflight::{is_before_us, preflight};

use crate::ground::begin;

/// Whoever waits for a table makes everybody queue behind: so nobody waits long, and whatever gives up is tried again.
pub(crate) const PATIENCE: &str = "SET LOCAL lock_timeout = '1s'";

/// When this database was adopted: the note that tells that it was.
pub(crate) const ADOPTED_AT: &str = "adopted.at";

/// Whether a table was there before us, and is adopted. While a plan is made no note is written yet: then a table that is there, where nothing of
/// ours is, will be.
pub(crate) async fn is_adopted(manager: &SchemaManager<'_>, table: &str) -> Result<bool, DbErr> {
    if manager.get_database_backend() != DbBackend::Postgres {
        return Ok(false);
    }
    let db = manager.get_connection();
    if text(db, &format!("SELECT to_regclass('{table}')::text AS one")).await?.is_none() {
        return Ok(false);
    }
    if text(db, "SELECT to_regclass('settings')::text AS one").await?.is_none() {
        return Ok(true);
    }
    Ok(text(db, &format!("SELECT value AS one FROM settings WHERE name = 'adopted.table.{table}'")).await?.is_some())
}

/// Whoever can be asked about the database as it is: always within a transaction, which a pooler wants.
pub(crate) trait Asks {
    /// Every row of the answer.
    fn rows(&self, sql: &str) -> impl Future<Output = Result<Vec<QueryResult>, DbErr>> + Send;
    /// Which database it is.
    fn backend(&self) -> DbBackend;
}

impl Asks for DatabaseTransaction {
    async fn rows(&self, sql: &str) -> Result<Vec<QueryResult>, DbErr> {
        self.query_all_raw(Statement::from_string(DbBackend::Postgres, sql)).await
    }

    fn backend(&self) -> DbBackend {
        self.get_database_backend()
    }
}

impl Asks for SchemaManagerConnection<'_> {
    async fn rows(&self, sql: &str) -> Result<Vec<QueryResult>, DbErr> {
        match self {
            Self::Connection(db) => {
                let tx = begin(db).await?;
                let rows = tx.rows(sql).await?;
                tx.commit().await?;
                Ok(rows)
            }
            other => other.query_all_raw(Statement::from_string(DbBackend::Postgres, sql)).await,
        }
    }

    fn backend(&self) -> DbBackend {
        self.get_database_backend()
    }
}

/// A query's only value, called `one`.
pub(crate) async fn text(db: &impl Asks, sql: &str) -> Result<Option<String>, DbErr> {
    db.rows(sql).await?.first().map_or(Ok(None), |row| row.try_get("", "one"))
}

/// All values of a query's column `one`.
pub(crate) async fn texts(db: &impl Asks, sql: &str) -> Result<Vec<String>, DbErr> {
    db.rows(sql).await?.iter().map(|row| row.try_get("", "one")).collect()
}

/// A text as SQL writes it.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name as SQL writes it.
pub(crate) fn named(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A statement that notes something, unless that is noted already.
pub(crate) fn note(name: &str, value: &str) -> String {
    format!(
        "INSERT INTO settings (name, value) VALUES ({}, {}) ON CONFLICT (name) DO NOTHING",
        quoted(name),
        quoted(value)
    )
}

/// What is noted under names that begin so: the rest of each name, and the value.
pub(crate) async fn noted(db: &impl Asks, prefix: &str) -> Result<Vec<(String, String)>, DbErr> {
    let sql = format!(
        "SELECT substr(name, {}) AS name, value FROM settings WHERE starts_with(name, {}) ORDER BY name",
        prefix.len() + 1,
        quoted(prefix)
    );
    db.rows(&sql).await?.iter().map(|row| Ok((row.try_get("", "name")?, row.try_get("", "value")?))).collect()
}

/// Forgets what is noted under names that begin so.
pub(crate) fn forget(prefix: &str) -> String {
    format!("DELETE FROM settings WHERE starts_with(name, {})", quoted(prefix))
}
