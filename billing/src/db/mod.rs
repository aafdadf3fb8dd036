//! The database: one pool, and one way to write.
//!
//! - [`Db`]: connections and transactions, made as [`DbOptions`] say; [`PoolState`]: how the pool stands
//! - [`Reader`], [`Tx`]: single statements and transactions, with or without a session
//! - [`Refusal`]: why no connection came about, where trying again is of no use
//! - [`Watched`]: what goes between, so that metrics see every statement
//! - [`Db::probe`], [`obstacle`]: whether it takes writes, and why not
//!
//! `SQLite` has one writer at a time. A transaction that reads first and writes later may find, when it comes to write, that
//! another wrote in between; no waiting cures that. So every write goes through [`Db::write`], which begins `IMMEDIATE` and lets
//! the writers of this process queue in memory, in order, instead of polling the file's lock.
//!
//! PostgreSQL may stand behind a pooler that hands its connections on after each transaction: see [`session`].

mod connect;
mod options;
mod pool;
mod probe;
mod refusal;
mod session;
mod watch;

use std::{ops::Deref, sync::Arc, time::Duration};

use entity::Time;
use log::LevelFilter;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, RuntimeErr, SqliteTransactionMode,
    TransactionOptions, metric,
    sqlx::{
        self, Connection as _,
        postgres::PgSeverity,
        sqlite::{SqliteJournalMode, SqliteSynchronous},
    },
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};

pub use self::{
    options::{DbOptions, Pooler},
    pool::PoolState,
    probe::obstacle,
    refusal::Refusal,
    session::{Reader, Tx},
    watch::{DbNews, DbObserver, Fault, Watched},
};
use self::{
    session::Manner,
    watch::{Wanting, Watch},
};
use crate::store::{fence, inbox};

/// The lease under which a job writes. Its token rises whenever somebody else takes the lease over, so a run that was thought dead and
/// comes back can write nothing any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Name of the job.
    pub job: &'static str,
    /// The token of this holder.
    pub token: i64,
}

/// A pool of connections to one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Db {
    connection: Watched<Reader>,
    /// The connections that are kept for what must not wait; none on `SQLite`.
    reserved: Option<DatabaseConnection>,
    backend: DbBackend,
    sqlite_writer: Arc<Mutex<()>>,
    fence: Option<Arc<Fence>>,
}

/// At this level the pool tells whoever subscribes to `sqlx::pool::acquire` how long each caller waited for a connection.
const ACQUIRE_LEVEL: LevelFilter = LevelFilter::Info;

impl Db {
    /// Connects. A `SQLite` file, and the folder it is to lie in, are made where missing.
    ///
    /// # Errors
    /// Those of the database; [`Refusal::of`] tells which of them no second try mends.
    pub async fn connect(url: &str, options: &DbOptions) -> Result<Self, DbErr> {
        if !url.starts_with("sqlite:") {
            let connect::Connected { shared, reserved, begin } = connect::connect(url, options).await?;
            let manner = |watch| Manner { begin, patience: options.patience(), watch };
            return Ok(Self { reserved, ..Self::over(shared, manner) });
        }
        make_folder(url)?;
        let mut connect = ConnectOptions::new(url);
        connect
            .max_connections(options.max_connections)
            .acquire_timeout(options.acquire_timeout)
            .connect_timeout(options.acquire_timeout)
            .sqlx_logging(false)
            .map_sqlx_sqlite_pool_opts(|pool| {
                pool.acquire_time_level(ACQUIRE_LEVEL).after_release(|connection, _| {
                    Box::pin(async move {
                        // Once what was asked before is done, a rollback above all.
                        connection.ping().await?;
                        // Where the disk is full `SQLite` takes a transaction back by itself, and the rollback that follows fails: sqlx-sqlite 0.9
                        // goes on counting a transaction. The next would begin as a savepoint within none, and of two such what the second
                        // commits would stay within the first, which nobody ever commits.
                        Ok(!connection.is_in_transaction())
                    })
                })
            });
        if let Some(threshold) = options.slow_statement {
            connect
                .sqlx_logging(true)
                .sqlx_logging_level(LevelFilter::Off)
                .sqlx_slow_statements_logging_settings(LevelFilter::Warn, threshold);
        }
        connect.map_sqlx_sqlite_opts(|sqlite| {
            sqlite
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                // What is acknowledged must survive a power cut, not only a crash of this process.
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(Duration::from_secs(5))
                .foreign_keys(true)
                .pragma("temp_store", "memory")
        });
        Ok(Self::from(Database::connect(connect).await?))
    }

    fn over(connection: DatabaseConnection, manner: impl FnOnce(Arc<Watch>) -> Manner) -> Self {
        let (backend, watch) = (connection.get_database_backend(), Arc::<Watch>::default());
        let postgres = (backend == DbBackend::Postgres).then(|| manner(Arc::clone(&watch)));
        let connection = Watched { inner: Reader { connection, postgres }, watch, from_pool: true };
        Self { connection, reserved: None, backend, sqlite_writer: Arc::new(Mutex::new(())), fence: None }
    }

    /// The same database, where `observer` is told of everything that is asked of it by handles that are made of this one.
    #[must_use]
    pub fn observed(mut self, observer: DbObserver) -> Self {
        self.connection.watch.listen(Arc::clone(&observer));
        let told = move |info: &metric::Info<'_>| observer(DbNews::Answered { seconds: info.elapsed.as_secs_f64() });
        if let Some(reserved) = &mut self.reserved {
            reserved.set_metric_callback(told.clone());
        }
        self.connection.inner.connection.set_metric_callback(told);
        self
    }

    /// Where single statements are run: reads, and on PostgreSQL writes that are one statement.
    pub fn reader(&self) -> &Watched<Reader> {
        &self.connection
    }

    /// The pool itself, for those who change the schema. Behind a pooler ([`Db::is_pooled`]) nothing may be asked of it directly.
    pub fn connection(&self) -> &DatabaseConnection {
        &self.connection.inner.connection
    }

    /// True behind a pooler in transaction mode, which keeps no sessions: no `LISTEN`, no session's settings, nothing prepared.
    pub fn is_pooled(&self) -> bool {
        self.connection.inner.postgres.as_ref().is_some_and(|manner| manner.begin.is_some())
    }

    /// The same database by connections that requests and jobs do not use: what stores webhooks or renews a lease must not wait behind them.
    #[must_use]
    pub fn reserved(&self) -> Self {
        let mut reserved = self.clone();
        if let Some(connection) = &self.reserved {
            reserved.connection.inner.connection = connection.clone();
        }
        reserved
    }

    fn watch(&self) -> &Arc<Watch> {
        &self.connection.watch
    }

    /// Which database this is.
    pub fn backend(&self) -> DbBackend {
        self.backend
    }

    /// The same database, where nothing can be written once the lease is lost: every [`Db::write`] checks it first.
    #[must_use]
    pub fn fenced(&self, fence: Fence) -> Self {
        Self { fence: Some(Arc::new(fence)), ..self.clone() }
    }

    /// The same database for writes that a claim of their own guards: what has left this machine must be told even where the job's lease is
    /// lost.
    pub(crate) fn unfenced(&self) -> Self {
        Self { fence: None, ..self.clone() }
    }

    /// Begins a transaction that may write.
    ///
    /// # Errors
    /// Those of the database; and [`is_lease_lost`] where this is the database of a job whose lease another run has by now.
    pub async fn write(&self) -> Result<WriteTx, DbErr> {
        let tx = self.begin().await?;
        if let Some(fence) = &self.fence
            && !fence::holds(&*tx, fence.job, fence.token).await?
        {
            return Err(DbErr::Custom(LEASE_LOST.to_owned()));
        }
        Ok(tx)
    }

    async fn begin(&self) -> Result<WriteTx, DbErr> {
        let (turn, mode) = match self.backend {
            DbBackend::Sqlite => {
                let turn = Arc::clone(&self.sqlite_writer).lock_owned().await;
                (Some(turn), Some(SqliteTransactionMode::Immediate))
            }
            _ => (None, None),
        };
        let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
        let (begun, wanting) = (Instant::now(), Wanting::of(self.watch()));
        let tx = self.watch().noted(begun, Box::pin(self.connection.inner.begin(options)).await)?;
        let tx = Watched { inner: tx, watch: Arc::clone(self.watch()), from_pool: false };
        Ok(WriteTx { tx, _wanting: wanting, _turn: turn })
    }

    /// Answers when the database does.
    pub async fn ping(&self) -> Result<(), DbErr> {
        if self.is_pooled() {
            // The pooler answers less than a statement by itself.
            return self.reader().execute_unprepared("SELECT 1").await.map(|_| ());
        }
        self.connection().ping().await
    }

    /// Closes the pool.
    pub async fn close(self) -> Result<(), DbErr> {
        if let Some(reserved) = self.reserved {
            reserved.close().await?;
        }
        self.connection.inner.connection.close().await
    }
}

impl From<DatabaseConnection> for Db {
    fn from(connection: DatabaseConnection) -> Self {
        let patience = DbOptions::default().patience();
        Self::over(connection, |watch| Manner { begin: None, patience, watch })
    }
}

/// A transaction that may write. Dropped without [`WriteTx::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct WriteTx {
    // Declared before the turn: the transaction ends before the next writer begins.
    tx: Watched<Tx>,
    _wanting: Wanting,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl WriteTx {
    /// Makes everything written durable.
    pub async fn commit(self) -> Result<(), DbErr> {
        let Watched { inner, watch, .. } = self.tx;
        watch.noted(Instant::now(), Box::pin(inner.commit()).await)
    }
}

impl Deref for WriteTx {
    type Target = Watched<Tx>;
    fn deref(&self) -> &Watched<Tx> {
        &self.tx
    }
}

fn make_folder(url: &str) -> Result<(), DbErr> {
    let path = url.trim_start_matches("sqlite:").trim_start_matches("//").split('?').next().unwrap_or_default();
    if path.is_empty() || path.starts_with(':') {
        return Ok(());
    }
    match std::path::Path::new(path).parent() {
        Some(folder) if !folder.as_os_str().is_empty() => std::fs::create_dir_all(folder).map_err(|error| {
            DbErr::Conn(RuntimeErr::Internal(format!(
                "the folder {} for the database cannot be made: {error}",
                folder.display()
            )))
        }),
        _ => Ok(()),
    }
}

/// Whether an error lies in the data of the statement or in its surroundings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The same statement would fail again.
    Data,
    /// Connection, lock, disk, memory, shutdown: the same statement may succeed later.
    Surroundings,
}

/// The database's clock, as an expression of SQL: what leases and due times go by. It moves within a transaction.
pub fn now(backend: DbBackend) -> &'static str {
    inbox::now(backend)
}

/// The database's clock.
pub async fn clock(db: &impl ConnectionTrait) -> Result<Time, DbErr> {
    inbox::clock(db).await
}

const LEASE_LOST: &str = "another run of this job has taken its lease over; nothing of this run is written any more";

/// True where a job could not write because its lease is lost.
pub fn is_lease_lost(error: &DbErr) -> bool {
    matches!(error, DbErr::Custom(text) if text == LEASE_LOST)
}

/// True where PostgreSQL's table of locks is full: fewer keys at once may still find room.
pub fn is_out_of_locks(error: &DbErr) -> bool {
    error.to_string().contains("max_locks_per_transaction")
        || matches!(error, DbErr::Exec(RuntimeErr::SqlxError(inner)) | DbErr::Query(RuntimeErr::SqlxError(inner))
            if matches!(&**inner, sqlx::Error::Database(database) if database.code().as_deref() == Some("53200")))
}

/// Tells the two kinds of failure apart.
///
/// PostgreSQL by the class of its SQLSTATE (postgresql.org/docs/current/errcodes-appendix.html): 21, 22, 23, 44 what the data is, 2F, 38, 39, P0
/// what a function or trigger says of it, 54 its size, XX what it makes the server stumble over. Everything else (connection, locks, resources,
/// rights, a schema that is not ours) says nothing of the data. `SQLite` by its primary result code (sqlite.org/rescode.html), where "no such
/// table" shares its code with errors of the data.
pub fn blame(error: &DbErr) -> Blame {
    let (DbErr::Exec(RuntimeErr::SqlxError(inner))
    | DbErr::Query(RuntimeErr::SqlxError(inner))
    | DbErr::Conn(RuntimeErr::SqlxError(inner))) = error
    else {
        return match error {
            DbErr::Conn(_) | DbErr::ConnectionAcquire(_) => Blame::Surroundings,
            error if is_lease_lost(error) => Blame::Surroundings,
            _ => Blame::Data,
        };
    };
    let sqlx::Error::Database(database) = &**inner else {
        return match &**inner {
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::Encode(_)
            | sqlx::Error::RowNotFound
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. } => Blame::Data,
            _ => Blame::Surroundings,
        };
    };
    let code = database.code().unwrap_or_default();
    let surroundings = if let Some(postgres) = database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        // FATAL and PANIC end the connection: they tell of the server, or of a pooler before it.
        !matches!(postgres.severity(), PgSeverity::Error)
            || !["21", "22", "23", "2F", "38", "39", "44", "54", "P0", "XX"].iter().any(|class| code.starts_with(class))
    } else {
        // The low byte is the primary code: BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL, NOTADB.
        matches!(code.parse::<u32>().unwrap_or(0) & 0xff, 5 | 6 | 7 | 8 | 9 | 10 | 11 | 13 | 14 | 15 | 26)
            || database.message().starts_with("no such")
    };
    if surroundings { Blame::Surroundings } else { Blame::Data }
}
