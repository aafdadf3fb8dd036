//! One text for both databases: type and default placeholders that each spells in its own way.

use sea_orm_migration::{
    prelude::*,
    sea_orm::{ConnectionTrait, DbBackend},
};

/// `{placeholder}`, PostgreSQL, SQLite.
///
/// SQLite keeps a moment as RFC 3339 text with an offset of `+00:00`: in that form the order of texts is the order of moments.
const WORDS: &[(&str, &str, &str)] = &[
    ("{uuid}", "uuid", "blob"),
    ("{time}", "timestamptz", "text"),
    ("{json}", "jsonb", "text"),
    ("{text}", "text", "text"),
    ("{bool}", "boolean", "boolean"),
    ("{int}", "integer", "integer"),
    ("{smallint}", "smallint", "smallint"),
    ("{bigint}", "bigint", "bigint"),
    ("{new_uuid}", "gen_random_uuid()", "(randomblob(16))"),
    ("{now}", "now()", "(strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now'))"),
    // SQLite takes NULL for the smallest value anyway.
    ("{nulls_last}", "NULLS LAST", ""),
    // As this program compares: by bytes, and folding ASCII only, whatever the locale of the database.
    ("{bytewise}", "COLLATE \"C\"", ""),
    ("{true}", "true", "1"),
    ("{false}", "false", "0"),
    ("{empty_object}", "'{}'::jsonb", "'{}'"),
    ("{empty_array}", "'[]'::jsonb", "'[]'"),
];

/// `sql` in the words of `backend`.
pub(crate) fn spell(backend: DbBackend, sql: &str) -> String {
    WORDS.iter().fold(sql.to_owned(), |sql, (placeholder, postgres, sqlite)| {
        sql.replace(placeholder, if backend == DbBackend::Postgres { postgres } else { sqlite })
    })
}

/// Runs statements one by one.
pub(crate) async fn run(manager: &SchemaManager<'_>, statements: &[&str]) -> Result<(), DbErr> {
    let db = manager.get_connection();
    for sql in statements {
        db.execute_unprepared(&spell(manager.get_database_backend(), sql)).await?;
    }
    Ok(())
}
