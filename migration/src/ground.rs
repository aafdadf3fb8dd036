//! Connections of their own, to change a schema or to make one beside it.

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, SqlxPostgresConnector, TransactionTrait,
    sqlx::{AssertSqlSafe, Executor as _, postgres::PgPoolOptions},
};
use sea_orm_migration::prelude::*;

/// The database whose schema is meant.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    db: &'a DatabaseConnection,
    pooled: bool,
}

impl<'a> Target<'a> {
    /// `pooled` where a pooler in transaction mode stands before PostgreSQL.
    pub fn new(db: &'a DatabaseConnection, pooled: bool) -> Self {
        Self { db, pooled }
    }
}

impl<'a> From<&'a DatabaseConnection> for Target<'a> {
    fn from(db: &'a DatabaseConnection) -> Self {
        Self::new(db, false)
    }
}

/// On PostgreSQL two connections of their own; on `SQLite` the given one. To be closed by [`Ground::close`].
pub(crate) struct Ground {
    pub(crate) db: DatabaseConnection,
    own: bool,
}

/// The limits that are right for the statements of a server and wrong here: the build of an index on a large table outlasts each of them.
const LIMITS: [&str; 3] = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"];

/// sqlx prepares statements under names that it counts from 1 in each of its connections. Behind a pooler another connection's may be there; no
/// pooler that keeps count of prepared statements names its own so.
const FORGET: &str = "DO $$ DECLARE known text; BEGIN
    FOR known IN SELECT name FROM pg_prepared_statements WHERE name LIKE 'sqlx\\_s\\_%' LOOP EXECUTE format('DEALLOCATE %I', known); END LOOP;
END $$";

impl Ground {
    pub(crate) fn of(target: Target<'_>) -> Self {
        let Target { db, pooled } = target;
        if db.get_database_backend() != DbBackend::Postgres {
            return Self { db: db.clone(), own: false };
        }
        let given = db.get_postgres_connection_pool();
        // What is prepared is used once: a cache would go on with a statement of a connection that the pooler has handed on since.
        let options = given.connect_options().as_ref().clone().statement_cache_capacity(0);
        let mut pool = PgPoolOptions::new().max_connections(2).acquire_timeout(given.options().get_acquire_timeout());
        if !pooled {
            let set = LIMITS.map(|limit| format!("SET {limit} = 0")).join("; ");
            pool = pool.after_connect(move |connection, _| {
                let set = set.clone();
                Box::pin(async move { connection.execute(AssertSqlSafe(set)).await.map(|_| ()) })
            });
        }
        Self { db: SqlxPostgresConnector::from_sqlx_postgres_pool(pool.connect_lazy_with(options)), own: true }
    }

    pub(crate) async fn close(self) -> Result<(), DbErr> {
        if self.own { self.db.close().await } else { Ok(()) }
    }
}

/// Begins a transaction on the connections of a [`Ground`]. On PostgreSQL it knows no limits, and nothing prepared by others is in its way: from
/// here to its end it stays on one connection of the server, whatever pooler stands between.
pub(crate) async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    #[expect(clippy::disallowed_methods, reason = "the trap is SQLite's, where this only reads")]
    let tx = db.begin().await?;
    if db.get_database_backend() == DbBackend::Postgres {
        let limits = LIMITS.map(|limit| format!("SET LOCAL {limit} = 0; "));
        tx.execute_unprepared(&format!("{}{FORGET}", limits.concat())).await?;
    }
    Ok(tx)
}
