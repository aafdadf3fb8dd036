//! What a migration made where the host might have had it before: only that is taken back by its `down`.
//!
//! Tables, indexes and functions whose names the host may use too are made only where they are missing, and a note of each goes into
//! `settings` first. What has no note was there before us and stays.

use sea_orm::DbBackend;
use sea_orm_migration::prelude::*;

use crate::dialect::{ask, run};

/// Where notes are kept. Where a database is adopted, it comes before everything else.
pub(crate) const SETTINGS: &str = "
CREATE TABLE IF NOT EXISTS settings (
    name {text} PRIMARY KEY,
    value {text} NOT NULL,
    updated_at {time} NOT NULL DEFAULT {now}
)";

/// What a note is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    Table,
    Index,
}

impl Made {
    /// How the note of an object is named in `settings`.
    pub(crate) fn note(self, object: &str) -> String {
        let what = match self {
            Self::Table => "table",
            Self::Index => "index",
        };
        format!("made.{what}.{object}")
    }
}

/// Notes that a table or an index is about to be made, unless it is there already.
pub(crate) async fn note(manager: &SchemaManager<'_>, what: Made, object: &str) -> Result<(), DbErr> {
    let missing = if manager.get_database_backend() == DbBackend::Postgres {
        format!("to_regclass('{object}') IS NULL")
    } else {
        format!("NOT EXISTS (SELECT 1 FROM sqlite_master WHERE name = '{object}')")
    };
    let note = what.note(object);
    let insert = format!(
        "INSERT INTO settings (name, value) SELECT '{note}', 'yes' WHERE {missing} ON CONFLICT (name) DO NOTHING"
    );
    run(manager, &[&insert]).await
}

/// Whether there is a note of it.
pub(crate) async fn is_ours(manager: &SchemaManager<'_>, what: Made, object: &str) -> Result<bool, DbErr> {
    let sql = format!("SELECT name FROM settings WHERE name = '{}'", what.note(object));
    Ok(ask(manager, &sql).await?.is_some())
}

/// Takes the note away.
pub(crate) async fn forget(manager: &SchemaManager<'_>, what: Made, object: &str) -> Result<(), DbErr> {
    run(manager, &[&format!("DELETE FROM settings WHERE name = '{}'", what.note(object))]).await
}
