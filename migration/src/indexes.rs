//! Indexes on tables that are read and written while they are built.
//!
//! On PostgreSQL each is built `CONCURRENTLY`, which blocks no writer and cannot be part of a transaction. A build that was cut off leaves an
//! index behind that costs writes and serves nothing; it is found by its mark in the catalogue and built anew. Inside a transaction (a scratch
//! schema, see [`mod@crate::verify`]) nobody else sees the table, and the index is built plainly. `SQLite` has one writer anyway.

use std::time::Duration;

use sea_orm::DbBackend;
use sea_orm_migration::{SchemaManagerConnection, prelude::*};

use crate::{
    adoption::is_adopted,
    dialect::{ask, is_planning, run},
    made::{self, Made},
};

/// How often a build by somebody else is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// An index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Index {
    pub(crate) name: &'static str,
    pub(crate) table: &'static str,
    /// `INDEX` or `UNIQUE INDEX`.
    pub(crate) kind: &'static str,
    /// What follows the table's name, with the placeholders of [`crate::dialect`].
    pub(crate) on: &'static str,
    /// The columns that it needs and their types on PostgreSQL; empty for tables that are ours. A host's table that lacks one of them
    /// goes without the index.
    pub(crate) needs: &'static [(&'static str, &'static str)],
    /// For the kinds that only PostgreSQL has.
    pub(crate) postgres_only: bool,
}

impl Index {
    /// On a table of ours, in the words of both databases.
    pub(crate) const fn new(name: &'static str, table: &'static str, on: &'static str) -> Self {
        Self { name, table, kind: "INDEX", on, needs: &[], postgres_only: false }
    }

    /// The same, and it keeps something unique.
    pub(crate) const fn unique(name: &'static str, table: &'static str, on: &'static str) -> Self {
        Self { kind: "UNIQUE INDEX", ..Self::new(name, table, on) }
    }
}

/// Makes indexes on tables that are as new as they. On those that are adopted they are built later, beside whoever writes: see
/// [`crate::adoption`].
pub(crate) async fn make(manager: &SchemaManager<'_>, indexes: &[Index]) -> Result<(), DbErr> {
    for Index { name, table, kind, on, .. } in indexes {
        if !is_adopted(manager, table).await? {
            run(manager, &[&format!("CREATE {kind} {name} ON {table} {on}")]).await?;
        }
    }
    Ok(())
}

/// How an index stands in PostgreSQL's catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Missing,
    Valid,
    /// Left behind by a build that was cut off.
    Invalid,
    /// Being built at this moment.
    Building,
    /// The name belongs to something else.
    Taken,
}

/// Makes an index where it is missing or left half-built.
pub(crate) async fn build(manager: &SchemaManager<'_>, index: &Index) -> Result<(), DbErr> {
    let Index { name, table, kind, on, .. } = *index;
    if manager.get_database_backend() != DbBackend::Postgres {
        if !index.postgres_only {
            made::note(manager, Made::Index, name).await?;
            run(manager, &[&format!("CREATE {kind} IF NOT EXISTS {name} ON {table} {on}")]).await?;
        }
        return Ok(());
    }
    if let Some(lacking) = lacking(manager, index).await? {
        tracing::warn!(index = name, table, %lacking, "the table is not as this index needs it; it is left out");
        return Ok(());
    }
    match settled(manager, name).await? {
        Standing::Valid | Standing::Building => return Ok(()),
        Standing::Taken => return Err(taken(name)),
        Standing::Missing => made::note(manager, Made::Index, name).await?,
        Standing::Invalid => {
            tracing::warn!(index = name, "an interrupted build left this index unusable; building it anew");
            drop_now(manager, name).await?;
        }
    }
    let create = format!("CREATE {kind}{} IF NOT EXISTS {name} ON {table} {on}", concurrently(manager));
    run(manager, &[&create]).await
}

/// Takes an index away if [`build`] made it.
pub(crate) async fn unbuild(manager: &SchemaManager<'_>, index: &Index) -> Result<(), DbErr> {
    if made::is_ours(manager, Made::Index, index.name).await? {
        drop_now(manager, index.name).await?;
        made::forget(manager, Made::Index, index.name).await?;
    }
    Ok(())
}

async fn drop_now(manager: &SchemaManager<'_>, name: &str) -> Result<(), DbErr> {
    let drop = format!("DROP INDEX{} IF EXISTS {name}", concurrently(manager));
    run(manager, &[&drop]).await
}

/// ` CONCURRENTLY` where that is possible: on PostgreSQL, outside a transaction.
fn concurrently(manager: &SchemaManager<'_>) -> &'static str {
    let alone = matches!(manager.get_connection(), SchemaManagerConnection::Connection(_)) || is_planning();
    if manager.get_database_backend() == DbBackend::Postgres && alone { " CONCURRENTLY" } else { "" }
}

/// How an index stands once nobody builds it any more. A process that was killed may have left a build running in the server.
async fn settled(manager: &SchemaManager<'_>, name: &str) -> Result<Standing, DbErr> {
    let mut told = false;
    loop {
        let standing = standing(manager, name).await?;
        if standing != Standing::Building {
            return Ok(standing);
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!(index = name, "this index is being built by another session; waiting for it");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn standing(manager: &SchemaManager<'_>, name: &str) -> Result<Standing, DbErr> {
    let sql = format!(
        "SELECT CASE WHEN i.indexrelid IS NULL THEN 'taken'
                WHEN i.indisvalid AND i.indisready THEN 'valid'
                WHEN EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.index_relid = i.indexrelid) THEN 'building'
                ELSE 'invalid' END AS standing
            FROM pg_class AS c LEFT JOIN pg_index AS i ON i.indexrelid = c.oid WHERE c.oid = to_regclass('{name}')"
    );
    let Some(row) = ask(manager, &sql).await? else { return Ok(Standing::Missing) };
    let standing: String = row.try_get("", "standing")?;
    Ok(match standing.as_str() {
        "valid" => Standing::Valid,
        "building" => Standing::Building,
        "taken" => Standing::Taken,
        _ => Standing::Invalid,
    })
}

/// What a table that is there lacks for this index. Of a table that is not there nothing is known yet.
async fn lacking(manager: &SchemaManager<'_>, index: &Index) -> Result<Option<String>, DbErr> {
    if index.needs.is_empty() {
        return Ok(None);
    }
    let needs: Vec<String> = index.needs.iter().map(|(column, kind)| format!("('{column}', '{kind}')")).collect();
    let sql = format!(
        "SELECT string_agg(n.name || ' ' || n.kind, ', ' ORDER BY n.name) AS lacking
            FROM (VALUES {}) AS n (name, kind)
            WHERE to_regclass('{table}') IS NOT NULL AND NOT EXISTS (
                SELECT FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
                WHERE a.attrelid = to_regclass('{table}') AND a.attname = n.name AND NOT a.attisdropped
                    AND (n.kind = 'any' OR t.typname = n.kind))",
        needs.join(", "),
        table = index.table
    );
    ask(manager, &sql).await?.map_or(Ok(None), |row| row.try_get("", "lacking"))
}

fn taken(name: &str) -> DbErr {
    DbErr::Custom(format!(
        "the name {name} is wanted for an index and belongs to something else in this schema; rename that, and run `trueup migrate up` again"
    ))
}
