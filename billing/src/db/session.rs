//! Statements, with or without a session to rely on.
//!
//! A direct connection is a session: statements are prepared once and kept, limits are set once. Behind a pooler in transaction mode only a
//! transaction stays on one connection of the server. There sqlx 0.9, as SeaORM calls it, breaks: it prepares each statement under a name of its
//! own count (with a cache of 0 too), sends `Parse` and `Bind` in two steps, and between the two the pooler may hand the server on. At best the name is
//! unknown or taken there; at worst it is another client's statement, which is run. So behind a pooler every statement is part of a transaction
//! that begins with its limits (`BEGIN; SET LOCAL …`, one message), and is prepared without a name, for this once.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    QueryResult, RuntimeErr, Statement, TransactionOptions, TransactionTrait, Values,
    sqlx::{self, AssertSqlSafe, Executor, PgConnection, Postgres, query::Query},
};
use sea_query_sqlx::SqlxValues;
use tokio::{sync::Mutex, time::Instant};

use super::watch::{DbNews, Watch};

/// Where single statements are run, each by itself.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(super) connection: DatabaseConnection,
    /// None where a connection is a session.
    pub(super) pooled: Option<Pooled>,
}

/// What is known behind a pooler.
#[derive(Debug, Clone)]
pub(super) struct Pooled {
    /// How a transaction begins.
    pub(super) begin: Arc<str>,
    /// Who is told of each statement, as SeaORM tells of its own.
    pub(super) watch: Arc<Watch>,
}

/// A transaction, of whichever kind.
#[derive(Debug)]
pub struct Tx(Kind);

#[derive(Debug)]
enum Kind {
    Session(DatabaseTransaction),
    Pooled(Unnamed),
}

/// A transaction whose statements are prepared without a name.
#[derive(Debug)]
struct Unnamed {
    tx: Mutex<sqlx::Transaction<'static, Postgres>>,
    watch: Arc<Watch>,
}

impl Reader {
    /// Begins a transaction with these options, which a pooler has no use for: they are SQLite's.
    ///
    /// On PostgreSQL this is a task of its own: whoever gives up while `BEGIN` is on its way would otherwise leave the connection within a transaction
    /// that nobody knows of (sqlx-postgres 0.9 counts a transaction only once it is answered, and takes back only what it counts). The next
    /// statement on that connection would be answered, and never be committed.
    pub(super) async fn begin(&self, options: TransactionOptions) -> Result<Tx, DbErr> {
        if self.connection.get_database_backend() == DbBackend::Sqlite {
            return Ok(Tx(Kind::Session(self.connection.begin_with_options(options).await?)));
        }
        let Self { connection, pooled } = self.clone();
        let beginning = tokio::spawn(async move {
            match pooled {
                None => connection.begin_with_options(options).await.map(Kind::Session),
                Some(Pooled { begin, watch }) => {
                    let pool = connection.get_postgres_connection_pool();
                    let tx = pool.begin_with(AssertSqlSafe(begin.to_string())).await.map_err(not_begun)?;
                    Ok(Kind::Pooled(Unnamed { tx: Mutex::new(tx), watch }))
                }
            }
        });
        let begun = beginning
            .await
            .map_err(|error| DbErr::Conn(RuntimeErr::Internal(format!("a transaction could not be begun: {error}"))))?;
        begun.map(Tx)
    }

    /// A transaction for one statement behind a pooler; none where the connection itself will do.
    async fn around(&self) -> Result<Option<Tx>, DbErr> {
        if self.pooled.is_none() {
            return Ok(None);
        }
        self.begin(TransactionOptions::default()).await.map(Some)
    }
}

#[async_trait]
impl ConnectionTrait for Reader {
    fn get_database_backend(&self) -> DbBackend {
        self.connection.get_database_backend()
    }

    async fn execute_raw(&self, stmt: Statement) -> Result<ExecResult, DbErr> {
        let Some(tx) = self.around().await? else { return self.connection.execute_raw(stmt).await };
        let done = tx.execute_raw(stmt).await?;
        tx.commit().await?;
        Ok(done)
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let Some(tx) = self.around().await? else { return self.connection.execute_unprepared(sql).await };
        let done = tx.execute_unprepared(sql).await?;
        tx.commit().await?;
        Ok(done)
    }

    async fn query_one_raw(&self, stmt: Statement) -> Result<Option<QueryResult>, DbErr> {
        let Some(tx) = self.around().await? else { return self.connection.query_one_raw(stmt).await };
        let row = tx.query_one_raw(stmt).await?;
        tx.commit().await?;
        Ok(row)
    }

    async fn query_all_raw(&self, stmt: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let Some(tx) = self.around().await? else { return self.connection.query_all_raw(stmt).await };
        let rows = tx.query_all_raw(stmt).await?;
        tx.commit().await?;
        Ok(rows)
    }
}

impl Tx {
    pub(super) async fn commit(self) -> Result<(), DbErr> {
        match self.0 {
            Kind::Session(tx) => tx.commit().await,
            Kind::Pooled(tx) => tx.tx.into_inner().commit().await.map_err(not_executed),
        }
    }
}

#[async_trait]
impl ConnectionTrait for Tx {
    fn get_database_backend(&self) -> DbBackend {
        match &self.0 {
            Kind::Session(tx) => tx.get_database_backend(),
            Kind::Pooled(_) => DbBackend::Postgres,
        }
    }

    async fn execute_raw(&self, stmt: Statement) -> Result<ExecResult, DbErr> {
        match &self.0 {
            Kind::Session(tx) => tx.execute_raw(stmt).await,
            Kind::Pooled(tx) => {
                tx.run(async |tx| unnamed(stmt).execute(tx).await).await.map(Into::into).map_err(not_executed)
            }
        }
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        match &self.0 {
            Kind::Session(tx) => tx.execute_unprepared(sql).await,
            Kind::Pooled(tx) => {
                let sql = AssertSqlSafe(sql.to_owned());
                tx.run(async |tx| tx.execute(sql).await).await.map(Into::into).map_err(not_executed)
            }
        }
    }

    async fn query_one_raw(&self, stmt: Statement) -> Result<Option<QueryResult>, DbErr> {
        match &self.0 {
            Kind::Session(tx) => tx.query_one_raw(stmt).await,
            Kind::Pooled(tx) => {
                let row = tx.run(async |tx| unnamed(stmt).fetch_optional(tx).await).await.map_err(not_queried)?;
                Ok(row.map(Into::into))
            }
        }
    }

    async fn query_all_raw(&self, stmt: Statement) -> Result<Vec<QueryResult>, DbErr> {
        match &self.0 {
            Kind::Session(tx) => tx.query_all_raw(stmt).await,
            Kind::Pooled(tx) => {
                let rows = tx.run(async |tx| unnamed(stmt).fetch_all(tx).await).await.map_err(not_queried)?;
                Ok(rows.into_iter().map(Into::into).collect())
            }
        }
    }
}

impl Unnamed {
    async fn run<T>(
        &self,
        statement: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut tx = self.tx.lock().await;
        let begun = Instant::now();
        let result = statement(&mut tx).await;
        self.watch.tell(DbNews::Answered { seconds: begun.elapsed().as_secs_f64() });
        result
    }
}

/// A statement that is prepared without a name, and so forgotten with the next one.
fn unnamed(stmt: Statement) -> Query<'static, Postgres, SqlxValues> {
    let values = stmt.values.unwrap_or(Values(Vec::new()));
    sqlx::query_with(AssertSqlSafe(stmt.sql), SqlxValues(values)).persistent(false)
}

fn not_begun(error: sqlx::Error) -> DbErr {
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
