//! One text for both databases: type and default placeholders that each spells in its own way.

use std::sync::{Mutex, PoisonError};

use sea_orm_migration::{
    SchemaManagerConnection,
    prelude::*,
    sea_orm::{ConnectionTrait, DbBackend, QueryResult, Statement},
};

use crate::ground::begin;

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

tokio::task_local! {
    /// Where statements are written down instead of being run, while a plan is made.
    static WRITTEN_DOWN: Mutex<Vec<String>>;
}

/// Runs statements one by one. This is how a migration changes a database, and the only way.
pub(crate) async fn run(manager: &SchemaManager<'_>, statements: &[&str]) -> Result<(), DbErr> {
    let db = manager.get_connection();
    for sql in statements {
        let sql = spell(manager.get_database_backend(), sql);
        if !write_down(&sql) {
            db.execute_unprepared(&sql).await?;
        }
    }
    Ok(())
}

/// A question about the database as it is: its first row. A migration that is no transaction asks by this alone, for behind a pooler a statement
/// with an answer needs one; and it asks nothing of tables that a transaction of its own has yet to commit.
pub(crate) async fn ask(manager: &SchemaManager<'_>, sql: &str) -> Result<Option<QueryResult>, DbErr> {
    let connection = manager.get_connection();
    let statement = Statement::from_string(manager.get_database_backend(), sql);
    match connection {
        SchemaManagerConnection::Connection(db) if db.get_database_backend() == DbBackend::Postgres => {
            let tx = begin(db).await?;
            let row = tx.query_one_raw(statement).await?;
            tx.commit().await?;
            Ok(row)
        }
        connection => connection.query_one_raw(statement).await,
    }
}

fn write_down(sql: &str) -> bool {
    let keep = |list: &Mutex<Vec<String>>| list.lock().unwrap_or_else(PoisonError::into_inner).push(sql.to_owned());
    WRITTEN_DOWN.try_with(keep).is_ok()
}

/// Whether statements are only written down.
pub(crate) fn is_planning() -> bool {
    WRITTEN_DOWN.try_with(|_| ()).is_ok()
}

/// What `work` would run; it reads, and changes nothing.
pub(crate) async fn planned(work: impl Future<Output = Result<(), DbErr>>) -> Result<Vec<String>, DbErr> {
    WRITTEN_DOWN
        .scope(Mutex::default(), async {
            work.await?;
            Ok(WRITTEN_DOWN.with(|list| std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner))))
        })
        .await
}
