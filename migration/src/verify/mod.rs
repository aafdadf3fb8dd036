//! Whether a database has the schema that these migrations make, and what to do where it has not.
//!
//! What is expected is not written down anywhere: the migrations that are applied are run once more, on PostgreSQL into a scratch schema of
//! the same database inside a transaction that is rolled back, on `SQLite` into a database in memory. So the expectation cannot grow old, is
//! in the words of this very server's version, and knows of the roles that exist there. It costs a moment of the server's time, leaves nothing
//! behind, and needs the right to create a schema, which whoever migrates usually has.

mod compare;
mod postgres;
mod sqlite;

use std::collections::BTreeMap;

use sea_orm::{DatabaseConnection, DbBackend};
use sea_orm_migration::prelude::*;
use serde::Serialize;

use crate::{
    Migrator,
    ground::{Ground, Target, begin},
    runner::{MigrateError, status},
};

/// Why a database could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A scratch schema could not be made.
    #[error(
        "the expected schema could not be made beside the real one: {0}. Verify as the role that migrates, or let this one make schemas: GRANT CREATE ON DATABASE … TO …"
    )]
    Scratch(DbErr),
    /// The state of the migrations could not be read.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// Anything else.
    #[error("the schema could not be read: {0}")]
    Database(#[from] DbErr),
}

/// What a finding is about. In this order they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A migration.
    Migration,
    /// A table, and who may reach it.
    Table,
    /// A column.
    Column,
    /// A constraint.
    Constraint,
    /// An index.
    Index,
    /// A trigger.
    Trigger,
    /// A function, and who may call it.
    Function,
    /// A policy of row-level security.
    Policy,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Migration,
        Self::Table,
        Self::Column,
        Self::Constraint,
        Self::Index,
        Self::Trigger,
        Self::Function,
        Self::Policy,
    ];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Migration => "migration",
            Self::Table => "table",
            Self::Column => "column",
            Self::Constraint => "constraint",
            Self::Index => "index",
            Self::Trigger => "trigger",
            Self::Function => "function",
            Self::Policy => "policy",
        }
    }

    fn parse(text: &str) -> Result<Self, DbErr> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| DbErr::Custom(format!("the catalogue was asked for a kind that is none: {text}")))
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// It is not there.
    Missing,
    /// It is there and should not be, or need not.
    Unexpected,
    /// It is not as it should be.
    Different {
        /// In what.
        attribute: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// No query has ever used it.
    Unused,
}

/// One thing that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub kind: Kind,
    /// Of which table; empty where of none.
    pub table: String,
    /// Its name.
    pub name: String,
    /// What is wrong.
    #[serde(flatten)]
    pub problem: Problem,
    /// True for what is worth knowing and no fault.
    pub note: bool,
    /// What to do.
    pub remedy: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// True where nothing but notes was found.
    pub as_expected: bool,
    /// How many of each kind were looked at.
    pub checked: BTreeMap<&'static str, usize>,
    /// What is not as expected, faults before notes.
    pub findings: Vec<Finding>,
}

/// A thing of the schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: Kind,
    table: String,
    name: String,
}

/// Things, and the attributes of each.
type Catalogue = BTreeMap<Key, BTreeMap<String, String>>;

fn enter(catalogue: &mut Catalogue, row: [String; 5]) -> Result<(), DbErr> {
    let [kind, table, name, attribute, value] = row;
    let key = Key { kind: Kind::parse(&kind)?, table, name };
    catalogue.entry(key).or_default().insert(attribute, value);
    Ok(())
}

/// Compares the schema of a database with the one that its applied migrations make. Nothing of the database is changed.
pub async fn verify<'a>(db: impl Into<Target<'a>>) -> Result<Verdict, VerifyError> {
    let ground = Ground::of(db.into());
    let verdict = compared(&ground.db).await;
    ground.close().await?;
    verdict
}

async fn compared(db: &DatabaseConnection) -> Result<Verdict, VerifyError> {
    let looking = begin(db).await?;
    let states = status(&looking).await?;
    looking.commit().await?;
    let mut findings: Vec<Finding> = states
        .iter()
        .filter(|state| !state.applied)
        .map(|state| Finding {
            kind: Kind::Migration,
            table: String::new(),
            name: state.name.clone(),
            problem: Problem::Missing,
            note: false,
            remedy: "trueup migrate up".to_owned(),
        })
        .collect();
    let applied: Vec<&str> = states.iter().filter(|state| state.applied).map(|state| state.name.as_str()).collect();
    let mut checked = BTreeMap::from([(Kind::Migration.as_str(), states.len())]);
    if !applied.is_empty() {
        let postgres = db.get_database_backend() == DbBackend::Postgres;
        let (expected, actual) =
            if postgres { postgres::catalogues(db, &applied).await? } else { sqlite::catalogues(db, &applied).await? };
        for key in expected.keys() {
            *checked.entry(key.kind.as_str()).or_default() += 1;
        }
        findings.extend(compare::compare(&expected, &actual, postgres));
        if postgres {
            findings.extend(postgres::out_of_step(db).await?);
            findings.extend(postgres::unused(db).await?);
        }
    }
    findings.sort_by(|a, b| (a.note, a.kind, &a.table, &a.name).cmp(&(b.note, b.kind, &b.table, &b.name)));
    Ok(Verdict { as_expected: findings.iter().all(|finding| finding.note), checked, findings })
}

/// Runs the migrations of these names.
async fn run_migrations(manager: &SchemaManager<'_>, names: &[&str]) -> Result<(), DbErr> {
    Migrator::install(manager.get_connection()).await?;
    for migration in Migrator::migrations() {
        if names.contains(&migration.name()) {
            migration.up(manager).await?;
        }
    }
    Ok(())
}
