//! Statements, with or without a session to rely on.
//!
//! A direct connection is a session: statements are prepared once and kept, limits are set once. Behind a pooler in transaction mode only a
//! transaction stays on one connection of the server. There sqlx 0.9, as SeaORM calls it, breaks: it prepares each statement under a name of its
//! own count (with a cache of 0 too), sends `Parse` and `Bind` in two steps, and between the two the pooler may hand the server on. At best the name is
//! unknown or taken there; at worst it is another client's statement, which is run. So behind a pooler every statement is part of a transaction
//! that begins with its limits (`BEGIN; SET LOCAL …`, one message), and is prepared without a name, for this once.
//!
//! A server, or the network to it, may be gone without a word: what waits for its answer would wait for ever. So nothing is waited for much longer
//! than the server itself would let it run, and a connection that gave no answer in time is thrown away.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    QueryResult, RuntimeErr, Statement, TransactionOptions, TransactionTrait, Values,
    sqlx::{self, AssertSqlSafe, Executor, PgConnection, Postgres, pool::PoolConnection, query::Query},
};
use sea_query_sqlx::SqlxValues;
use tokio::{
    runtime::Handle,
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    connect::ALIVE,
    watch::{DbNews, Watch},
};

/// Where single statements are run, each by itself.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(super) connection: DatabaseConnection,
    /// How PostgreSQL is spoken to; none on `SQLite`.
    pub(super) postgres: Option<Manner>,
}

/// How PostgreSQL is spoken to.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    /// How a transaction begins behind a pooler; none where a connection is a session.
    pub(super) begin: Option<Arc<str>>,
    /// How long an answer is waited for.
    pub(super) patience: Duration,
    /// Who is told of each statement, as SeaORM tells of its own.
    pub(super) watch: Arc<Watch>,
}

/// A transaction, of whichever kind.
#[derive(Debug)]
pub struct Tx(Kind);

#[derive(Debug)]
enum Kind {
    Sqlite(DatabaseTransaction),
    Postgres(Held),
}

/// A connection of the pool, in the hands of one.
#[derive(Debug)]
struct Held {
    lent: Mutex<Lent>,
    manner: Manner,
}

/// None once it is thrown away.
#[derive(Debug)]
struct Lent {
    connection: Option<PoolConnection<Postgres>>,
    /// Within a transaction that is not committed, or on the way into one.
    open: bool,
}

impl Drop for Lent {
    /// Whatever was begun is taken back, however far it came: whoever gives up while `BEGIN` is on its way must not leave the connection within a
    /// transaction that nobody knows of. The next statement on it would be answered, and never be committed.
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take().filter(|_| self.open) else { return };
        let Ok(runtime) = Handle::try_current() else {
            drop(connection.detach());
            return;
        };
        runtime.spawn(async move {
            let ended = timeout(ALIVE, connection.execute("ROLLBACK")).await;
            if !matches!(ended, Ok(Ok(_))) {
                drop(connection.detach());
            }
        });
    }
}

impl Reader {
    /// Begins a transaction with these options, which PostgreSQL has no use for: they are SQLite's.
    pub(super) async fn begin(&self, options: TransactionOptions) -> Result<Tx, DbErr> {
        let Some(manner) = &self.postgres else {
            return Ok(Tx(Kind::Sqlite(self.connection.begin_with_options(options).await?)));
        };
        let held = Held::take(&self.connection, manner.clone()).await?;
        held.lent.lock().await.open = true;
        let begin = manner.begin.as_deref().unwrap_or("BEGIN").to_owned();
        held.run(async |connection| connection.execute(AssertSqlSafe(begin)).await).await.map_err(not_executed)?;
        Ok(Tx(Kind::Postgres(held)))
    }

    /// For one statement on PostgreSQL: a connection, behind a pooler within a transaction. None on `SQLite`.
    async fn alone(&self) -> Result<Option<Tx>, DbErr> {
        let Some(manner) = &self.postgres else { return Ok(None) };
        if manner.begin.is_some() {
            return self.begin(TransactionOptions::default()).await.map(Some);
        }
        Ok(Some(Tx(Kind::Postgres(Held::take(&self.connection, manner.clone()).await?))))
    }
}

#[async_trait]
impl ConnectionTrait for Reader {
    fn get_database_backend(&self) -> DbBackend {
        self.connection.get_database_backend()
    }

    async fn execute_raw(&self, stmt: Statement) -> Result<ExecResult, DbErr> {
        let Some(tx) = self.alone().await? else { return self.connection.execute_raw(stmt).await };
        let done = tx.execute_raw(stmt).await?;
        tx.commit().await?;
        Ok(done)
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let Some(tx) = self.alone().await? else { return self.connection.execute_unprepared(sql).await };
        let done = tx.execute_unprepared(sql).await?;
        tx.commit().await?;
        Ok(done)
    }

    async fn query_one_raw(&self, stmt: Statement) -> Result<Option<QueryResult>, DbErr> {
        let Some(tx) = self.alone().await? else { return self.connection.query_one_raw(stmt).await };
        let row = tx.query_one_raw(stmt).await?;
        tx.commit().await?;
        Ok(row)
    }

    async fn query_all_raw(&self, stmt: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let Some(tx) = self.alone().await? else { return self.connection.query_all_raw(stmt).await };
        let rows = tx.query_all_raw(stmt).await?;
        tx.commit().await?;
        Ok(rows)
    }
}

impl Tx {
    /// Makes it durable. What is no transaction is so already.
    pub(super) async fn commit(self) -> Result<(), DbErr> {
        match self.0 {
            Kind::Sqlite(tx) => tx.commit().await,
            Kind::Postgres(held) => {
                if held.lent.lock().await.open {
                    held.run(async |connection| connection.execute("COMMIT").await).await.map_err(not_executed)?;
                    held.lent.lock().await.open = false;
                }
                Ok(())
            }
        }
    }
}

#[async_trait]
impl ConnectionTrait for Tx {
    fn get_database_backend(&self) -> DbBackend {
        match &self.0 {
            Kind::Sqlite(tx) => tx.get_database_backend(),
            Kind::Postgres(_) => DbBackend::Postgres,
        }
    }

    async fn execute_raw(&self, stmt: Statement) -> Result<ExecResult, DbErr> {
        match &self.0 {
            Kind::Sqlite(tx) => tx.execute_raw(stmt).await,
            Kind::Postgres(held) => {
                let query = held.query(stmt);
                held.ask(async |connection| query.execute(connection).await).await.map(Into::into).map_err(not_executed)
            }
        }
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        match &self.0 {
            Kind::Sqlite(tx) => tx.execute_unprepared(sql).await,
            Kind::Postgres(held) => {
                let sql = AssertSqlSafe(sql.to_owned());
                held.ask(async |connection| connection.execute(sql).await).await.map(Into::into).map_err(not_executed)
            }
        }
    }

    async fn query_one_raw(&self, stmt: Statement) -> Result<Option<QueryResult>, DbErr> {
        match &self.0 {
            Kind::Sqlite(tx) => tx.query_one_raw(stmt).await,
            Kind::Postgres(held) => {
                let query = held.query(stmt);
                let row = held.ask(async |connection| query.fetch_optional(connection).await).await;
                Ok(row.map_err(not_queried)?.map(Into::into))
            }
        }
    }

    async fn query_all_raw(&self, stmt: Statement) -> Result<Vec<QueryResult>, DbErr> {
        match &self.0 {
            Kind::Sqlite(tx) => tx.query_all_raw(stmt).await,
            Kind::Postgres(held) => {
                let query = held.query(stmt);
                let rows = held.ask(async |connection| query.fetch_all(connection).await).await;
                Ok(rows.map_err(not_queried)?.into_iter().map(Into::into).collect())
            }
        }
    }
}

impl Held {
    async fn take(pool: &DatabaseConnection, manner: Manner) -> Result<Self, DbErr> {
        let connection = pool.get_postgres_connection_pool().acquire().await.map_err(not_acquired)?;
        Ok(Self { lent: Mutex::new(Lent { connection: Some(connection), open: false }), manner })
    }

    /// A statement: on a session prepared once and kept, else without a name and so forgotten with the next one.
    fn query(&self, stmt: Statement) -> Query<'static, Postgres, SqlxValues> {
        let values = stmt.values.unwrap_or(Values(Vec::new()));
        sqlx::query_with(AssertSqlSafe(stmt.sql), SqlxValues(values)).persistent(self.manner.begin.is_none())
    }

    /// Asks something, and tells how long it took.
    async fn ask<T>(
        &self,
        statement: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let begun = Instant::now();
        let result = self.run(statement).await;
        self.manner.watch.tell(DbNews::Answered { seconds: begun.elapsed().as_secs_f64() });
        result
    }

    /// Runs something on the connection, which is thrown away where no answer comes in time.
    async fn run<T>(
        &self,
        statement: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut lent = self.lent.lock().await;
        let silent = |told| sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, told));
        let Some(connection) = &mut lent.connection else {
            return Err(silent("the connection to the database gave no answer before and was given up"));
        };
        if let Ok(result) = timeout(self.manner.patience, statement(connection)).await {
            return result;
        }
        // Not back to the pool, which would wait for an answer as well.
        drop(lent.connection.take().map(PoolConnection::detach));
        Err(silent(
            "the database gave no answer in time, nor the error that it gives after its own limit; the connection is given up",
        ))
    }
}

fn not_acquired(error: sqlx::Error) -> DbErr {
    match error {
        sqlx::Error::PoolTimedOut => DbErr::ConnectionAcquire(ConnAcquireErr::Timeout),
        sqlx::Error::PoolClosed => DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed),
        error => DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error))),
    }
}

fn not_executed(error: sqlx::Error) -> DbErr {
    DbErr::Exec(RuntimeErr::SqlxError(Arc::new(error)))
}

fn not_queried(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(Arc::new(error)))
}
