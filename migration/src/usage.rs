//! How large the indexes are, and how often each was used (PostgreSQL).

use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, Statement};
use sea_orm_migration::prelude::*;
use serde::Serialize;

/// Why nothing can be said of the use of indexes.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Only PostgreSQL counts.
    #[error("SQLite does not count how often an index is used; `trueup db verify` looks whether all are there")]
    NotCounted,
    /// The database.
    #[error("the figures could not be read: {0}")]
    Database(#[from] DbErr),
}

/// One index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromQueryResult)]
pub struct IndexUse {
    /// Of which table.
    pub table_name: String,
    /// Its name.
    pub name: String,
    /// On disk, in bytes.
    pub bytes: i64,
    /// How often a query has used it since the statistics began.
    pub scans: i64,
    /// Entries that those queries read.
    pub entries_read: i64,
    /// False where a build was cut off.
    pub valid: bool,
    /// Whether it also keeps something unique.
    pub is_unique: bool,
    /// Live rows of its table, as estimated.
    pub table_rows: i64,
    /// Since when it is counted, in RFC 3339; none where since ever.
    pub counted_since: Option<String>,
}

impl IndexUse {
    /// True where it only costs: never used, and keeping nothing unique.
    pub fn is_unused(&self) -> bool {
        self.scans == 0 && !self.is_unique
    }
}

const READ: &str = "
SELECT s.relname::text AS table_name, s.indexrelname::text AS name, pg_relation_size(s.indexrelid) AS bytes, s.idx_scan AS scans,
    s.idx_tup_read AS entries_read, i.indisvalid AND i.indisready AS valid, i.indisunique AS is_unique, t.n_live_tup AS table_rows,
    to_char(d.stats_reset AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS counted_since
FROM pg_stat_user_indexes AS s JOIN pg_index AS i ON i.indexrelid = s.indexrelid
JOIN pg_stat_user_tables AS t ON t.relid = s.relid
LEFT JOIN pg_stat_database AS d ON d.datname = current_database()
WHERE s.schemaname = current_schema()
ORDER BY pg_relation_size(s.indexrelid) DESC, s.indexrelname";

/// Every index of the schema, the largest first.
pub async fn usage(db: &impl ConnectionTrait) -> Result<Vec<IndexUse>, UsageError> {
    if db.get_database_backend() != DbBackend::Postgres {
        return Err(UsageError::NotCounted);
    }
    Ok(IndexUse::find_by_statement(Statement::from_string(DbBackend::Postgres, READ)).all(db).await?)
}
