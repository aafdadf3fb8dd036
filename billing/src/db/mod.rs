//! The database: one pool, and one way to write.
//!
//! - [`Db`]: connections and transactions; [`PoolState`]: how the pool stands
//! - [`Watched`]: what goes between, so that metrics see every statement
//!
//! `SQLite` has one writer at a time. A transaction that reads first and writes later may find, when it comes to write, that
//! another wrote in between; no waiting cures that. So every write goes through [`Db::write`], which begins `IMMEDIATE` and lets
//! the writers of this process queue in memory, in order, instead of polling the file's lock.

mod pool;
mod watch;

use std::{ops::Deref, sync::Arc, time::Duration};

use entity::Time;
use log::LevelFilter;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, RuntimeErr,
    SqliteTransactionMode, TransactionOptions, TransactionTrait, metric,
    sqlx::{
        self, Connection as _, PgConnection,
        postgres::PgSeverity,
        sqlite::{SqliteJournalMode, SqliteSynchronous},
    },
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};

use self::watch::{Wanting, Watch};
pub use self::{
    pool::PoolState,
    watch::{DbNews, DbObserver, Fault, Watched},
};
use crate::store::{fence, inbox};

/// How to connect.
#[derive(Debug, Clone)]
pub struct DbOptions {
    /// Connections in the pool.
    pub max_connections: u32,
    /// How long a caller waits for a connection.
    pub acquire_timeout: Duration,
    /// How long a statement may run (PostgreSQL); a lock may be waited for a third of it.
    pub statement_timeout: Duration,
}

impl Default for DbOptions {
    fn default() -> Self {
        Self {
            max_connections: 10,
            acquire_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(30),
        }
    }
}

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
    connection: Watched<DatabaseConnection>,
    backend: DbBackend,
    sqlite_writer: Arc<Mutex<()>>,
    fence: Option<Arc<Fence>>,
}

/// At this level the pool tells how long each caller waited for a connection.
const ACQUIRE_LEVEL: LevelFilter = LevelFilter::Info;

impl Db {
    /// Connects. A `SQLite` file, and the folder it is to lie in, are made where missing.
    pub async fn connect(url: &str, options: &DbOptions) -> Result<Self, DbErr> {
        let mut connect = ConnectOptions::new(url);
        connect
            .max_connections(options.max_connections)
            .acquire_timeout(options.acquire_timeout)
            .connect_timeout(options.acquire_timeout)
            .sqlx_logging(false)
            // How long each caller waited is told to whoever subscribes to `sqlx::pool::acquire`.
            .map_sqlx_postgres_pool_opts(|pool| pool.acquire_time_level(ACQUIRE_LEVEL))
            .map_sqlx_sqlite_pool_opts(|pool| pool.acquire_time_level(ACQUIRE_LEVEL));
        if url.starts_with("sqlite:") {
            make_folder(url)?;
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
        } else {
            let millis = options.statement_timeout.as_millis();
            // Once without the pool: it would try until its time is up, and then know only that.
            let probe = PgConnection::connect(url);
            let refused = |error| DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error)));
            match tokio::time::timeout(options.acquire_timeout, probe).await {
                Ok(probe) => probe.map_err(refused)?.close().await.map_err(refused)?,
                Err(_) => return Err(refused(sqlx::Error::PoolTimedOut)),
            }
            connect.map_sqlx_postgres_opts(move |postgres| {
                postgres
                    .application_name("trueup")
                    .options([("statement_timeout", millis.to_string()), ("lock_timeout", (millis / 3).to_string())])
            });
        }
        Ok(Self::from(Database::connect(connect).await?))
    }

    /// The same database, where `observer` is told of everything that is asked of it by handles that are made of this one.
    #[must_use]
    pub fn observed(mut self, observer: DbObserver) -> Self {
        self.connection.watch.listen(Arc::clone(&observer));
        let told = move |info: &metric::Info<'_>| observer(DbNews::Answered { seconds: info.elapsed.as_secs_f64() });
        self.connection.inner.set_metric_callback(told);
        self
    }

    /// The pool, for reading.
    pub fn reader(&self) -> &Watched<DatabaseConnection> {
        &self.connection
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
        let turn = match self.backend {
            DbBackend::Sqlite => Some(Arc::clone(&self.sqlite_writer).lock_owned().await),
            _ => None,
        };
        let (begun, wanting) = (Instant::now(), Wanting::of(self.watch()));
        let tx = self.watch().noted(begun, self.begin_in_pool().await)?;
        let tx = Watched { inner: tx, watch: Arc::clone(self.watch()), from_pool: false };
        Ok(WriteTx { tx, _wanting: wanting, _turn: turn })
    }

    async fn begin_in_pool(&self) -> Result<DatabaseTransaction, DbErr> {
        if self.backend == DbBackend::Sqlite {
            let immediate = TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            };
            return self.connection.inner.begin_with_options(immediate).await;
        }
        // As a task: whoever gives up while `BEGIN` is on its way would otherwise leave the connection within a transaction that nobody
        // knows of (sqlx-postgres 0.9 counts a transaction only once it is answered, and takes back only what it counts). The next
        // statement on that connection would be answered, and never be committed.
        let connection = self.connection.inner.clone();
        let beginning = tokio::spawn(async move { connection.begin_with_options(TransactionOptions::default()).await });
        beginning
            .await
            .map_err(|error| DbErr::Conn(RuntimeErr::Internal(format!("a transaction could not be begun: {error}"))))?
    }

    /// Answers when the database does.
    pub async fn ping(&self) -> Result<(), DbErr> {
        self.connection.inner.ping().await
    }

    /// Closes the pool.
    pub async fn close(self) -> Result<(), DbErr> {
        self.connection.inner.close().await
    }
}

impl From<DatabaseConnection> for Db {
    fn from(connection: DatabaseConnection) -> Self {
        let backend = connection.get_database_backend();
        let connection = Watched { inner: connection, watch: Arc::default(), from_pool: true };
        Self { connection, backend, sqlite_writer: Arc::new(Mutex::new(())), fence: None }
    }
}

/// A transaction that may write. Dropped without [`WriteTx::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct WriteTx {
    // Declared before the turn: the transaction ends before the next writer begins.
    tx: Watched<DatabaseTransaction>,
    _wanting: Wanting,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl WriteTx {
    /// Makes everything written durable.
    pub async fn commit(self) -> Result<(), DbErr> {
        let Watched { inner, watch, .. } = self.tx;
        watch.noted(Instant::now(), inner.commit().await)
    }
}

impl Deref for WriteTx {
    type Target = Watched<DatabaseTransaction>;
    fn deref(&self) -> &Watched<DatabaseTransaction> {
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
