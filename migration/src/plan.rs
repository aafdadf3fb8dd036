//! What `up` would run, without running it.

use std::fmt;

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, EntityTrait, QueryTrait, Schema, Set};
use sea_orm_migration::{MigrationStatus, prelude::*, seaql_migrations};

use crate::{
    Migrator,
    adoption::preflight,
    dialect::planned,
    ground::{Ground, Target, begin},
    runner::MigrateError,
};

/// What would be run, migration by migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Oldest first.
    pub migrations: Vec<Planned>,
}

/// One migration that is pending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Its name; empty for the table in which applied migrations are kept.
    pub name: String,
    /// Whether its statements are one transaction.
    pub transaction: bool,
    /// In the order in which they would be run.
    pub statements: Vec<String>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, Planned { name, transaction, statements }) in self.migrations.iter().enumerate() {
            if place > 0 {
                writeln!(f)?;
            }
            match (name.as_str(), transaction) {
                ("", _) => writeln!(f, "-- where applied migrations are kept")?,
                (name, true) => writeln!(f, "-- {name}\nBEGIN;")?,
                (name, false) => writeln!(f, "-- {name}, each statement by itself")?,
            }
            for statement in statements {
                writeln!(f, "{};", statement.trim())?;
            }
            if *transaction {
                writeln!(f, "COMMIT;")?;
            }
        }
        Ok(())
    }
}

/// What `up` would run: all that is pending, or the first `steps`. Reads, and changes nothing.
///
/// The migrations themselves are run, with their statements written down; and in a transaction that may only read, so that one which
/// would change the database in some other way fails here. What a migration decides by what it reads, it decides by the database as it is.
pub async fn plan<'a>(db: impl Into<Target<'a>>, steps: Option<u32>) -> Result<Plan, MigrateError> {
    let ground = Ground::of(db.into());
    let planned = reading_only(&ground, steps).await;
    ground.close().await?;
    Ok(Plan { migrations: planned? })
}

async fn reading_only(ground: &Ground, steps: Option<u32>) -> Result<Vec<Planned>, MigrateError> {
    let tx = begin(&ground.db).await?;
    if tx.get_database_backend() == DbBackend::Sqlite {
        tx.execute_unprepared("PRAGMA query_only = ON").await?;
    } else {
        tx.execute_unprepared("SET TRANSACTION READ ONLY").await?;
    }
    let planned = match preflight(&tx).await {
        Ok(wrong) if !wrong.is_empty() => Err(MigrateError::CannotAdopt { wrong }),
        Ok(_) => in_transaction(&tx, steps).await.map_err(Into::into),
        Err(error) => Err(error.into()),
    };
    if tx.get_database_backend() == DbBackend::Sqlite {
        tx.execute_unprepared("PRAGMA query_only = OFF").await?;
    }
    tx.rollback().await?;
    planned
}

async fn in_transaction(tx: &DatabaseTransaction, steps: Option<u32>) -> Result<Vec<Planned>, DbErr> {
    let backend = tx.get_database_backend();
    let applied: Vec<String> = Migrator::get_migration_with_status_read_only(tx)
        .await?
        .iter()
        .filter(|m| m.status() == MigrationStatus::Applied)
        .map(|m| m.name().to_owned())
        .collect();
    let mut migrations = Vec::new();
    let manager = SchemaManager::new(tx);
    let most = steps.map_or(usize::MAX, |steps| usize::try_from(steps).unwrap_or(usize::MAX));
    let pending = Migrator::migrations().into_iter().filter(|m| !applied.iter().any(|name| name == m.name()));
    for migration in pending.take(most) {
        if applied.is_empty() && migrations.is_empty() {
            migrations.push(Planned { name: String::new(), transaction: false, statements: vec![records(backend)] });
        }
        let mut statements = planned(migration.up(&manager)).await?;
        statements.push(record_of(backend, migration.name()));
        let transaction = migration.use_transaction().unwrap_or(backend == DbBackend::Postgres);
        migrations.push(Planned { name: migration.name().to_owned(), transaction, statements });
    }
    Ok(migrations)
}

/// How the table is made in which applied migrations are noted.
fn records(backend: DbBackend) -> String {
    let mut create = Schema::new(backend).create_table_from_entity(seaql_migrations::Entity);
    backend.build(create.if_not_exists()).to_string()
}

/// How it is noted that a migration is applied.
fn record_of(backend: DbBackend, name: &str) -> String {
    let row = seaql_migrations::ActiveModel { version: Set(name.to_owned()), applied_at: Set(0) };
    let now = if backend == DbBackend::Postgres { "extract(epoch FROM now())::bigint" } else { "unixepoch()" };
    // The only other value is a name.
    seaql_migrations::Entity::insert(row).build(backend).to_string().replacen(", 0)", &format!(", {now})"), 1)
}
