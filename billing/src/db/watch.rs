//! Whatever this process asks of the database, watched: how long it took, what went wrong, who waits for a connection.
//!
//! [`Watched`] goes between SeaORM and whoever asks. It costs a boxed future and two additions for each statement, and tells nobody unless
//! somebody listens.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr, Statement,
    sqlx::{self, error::ErrorKind, postgres::PgDatabaseError},
};
use tokio::time::Instant;

/// What was in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// No connection of the pool became free in time.
    PoolTimeout,
    /// No connection, or one that broke.
    Connection,
    /// It took longer than it may, or waited too long for a lock.
    Timeout,
    /// Another transaction: a deadlock, a lost race, a locked file.
    Conflict,
    /// No disk, memory, connections or locks left.
    Resources,
    /// A constraint.
    Constraint,
    /// Something else in the data.
    Data,
    /// None of these.
    Other,
}

impl Fault {
    /// Which it is: PostgreSQL by SQLSTATE (postgresql.org/docs/current/errcodes-appendix.html), `SQLite` by its primary result code
    /// (sqlite.org/rescode.html).
    pub fn of(error: &DbErr) -> Self {
        let inner = match error {
            DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) => return Self::PoolTimeout,
            DbErr::ConnectionAcquire(_) | DbErr::Conn(RuntimeErr::Internal(_)) => return Self::Connection,
            DbErr::Exec(RuntimeErr::SqlxError(inner))
            | DbErr::Query(RuntimeErr::SqlxError(inner))
            | DbErr::Conn(RuntimeErr::SqlxError(inner)) => inner,
            DbErr::Type(_) | DbErr::Json(_) | DbErr::TryIntoErr { .. } => return Self::Data,
            _ => return Self::Other,
        };
        let database = match &**inner {
            sqlx::Error::Database(database) => database,
            sqlx::Error::PoolTimedOut => return Self::PoolTimeout,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => return Self::Connection,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::Encode(_) => return Self::Data,
            _ => return Self::Other,
        };
        if !matches!(database.kind(), ErrorKind::Other) {
            return Self::Constraint;
        }
        let code = database.code().unwrap_or_default();
        if database.try_downcast_ref::<PgDatabaseError>().is_some() {
            return match (&*code, code.get(..2).unwrap_or_default()) {
                ("57014" | "55P03" | "25P03" | "57P05", _) => Self::Timeout,
                (_, "40") => Self::Conflict,
                (_, "23") => Self::Constraint,
                (_, "53" | "54") => Self::Resources,
                (_, "08" | "57") => Self::Connection,
                (_, "21" | "22" | "44") => Self::Data,
                _ => Self::Other,
            };
        }
        // The low byte is the primary code: BUSY, LOCKED; NOMEM, FULL; IOERR, CORRUPT, CANTOPEN, NOTADB; INTERRUPT; CONSTRAINT; TOOBIG, MISMATCH.
        match code.parse::<u32>().unwrap_or(0) & 0xff {
            5 | 6 => Self::Conflict,
            7 | 13 => Self::Resources,
            10 | 11 | 14 | 26 => Self::Connection,
            9 => Self::Timeout,
            19 => Self::Constraint,
            18 | 20 => Self::Data,
            _ => Self::Other,
        }
    }
}

/// Something was asked of the database.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DbNews {
    /// A statement had its answer, or its error, this many seconds after it had its connection.
    Answered {
        /// How long it took.
        seconds: f64,
    },
    /// A statement, or a try to get a connection or to begin or end a transaction, was not done.
    Failed {
        /// What was in the way.
        fault: Fault,
    },
    /// Nobody had a connection for it in time.
    GaveUp {
        /// How long it waited.
        seconds: f64,
    },
}

/// Told of everything that is asked of the database; must take no time.
pub type DbObserver = Arc<dyn Fn(DbNews) + Send + Sync>;

/// What all handles of one pool share.
#[derive(Default)]
pub(super) struct Watch {
    /// Who holds a connection or wants one.
    wanted: AtomicU32,
    observer: OnceLock<DbObserver>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl Watch {
    /// Listens from now on; whoever listened first stays.
    pub(super) fn listen(&self, observer: DbObserver) {
        let _ = self.observer.set(observer);
    }

    pub(super) fn wanted(&self) -> u32 {
        self.wanted.load(Ordering::Relaxed)
    }

    pub(super) fn tell(&self, news: DbNews) {
        if let Some(observer) = self.observer.get() {
            observer(news);
        }
    }

    /// Sees a try through that began at `begun`.
    pub(super) fn noted<T>(&self, begun: Instant, result: Result<T, DbErr>) -> Result<T, DbErr> {
        if let Err(error) = &result {
            let fault = Fault::of(error);
            self.tell(DbNews::Failed { fault });
            if fault == Fault::PoolTimeout {
                self.tell(DbNews::GaveUp { seconds: begun.elapsed().as_secs_f64() });
            }
        }
        result
    }
}

/// Counts as one who holds or wants a connection, until dropped.
#[derive(Debug)]
pub(super) struct Wanting(Arc<Watch>);

impl Wanting {
    pub(super) fn of(watch: &Arc<Watch>) -> Self {
        watch.wanted.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(watch))
    }
}

impl Drop for Wanting {
    fn drop(&mut self) {
        self.0.wanted.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection or transaction whose statements are watched. What it is made of is at hand by dereferencing, for what takes no trait.
#[derive(Debug, Clone)]
pub struct Watched<C> {
    pub(super) inner: C,
    pub(super) watch: Arc<Watch>,
    /// Each statement takes a connection of its own.
    pub(super) from_pool: bool,
}

impl<C> Watched<C> {
    async fn see<T>(&self, asked: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        let _wanting = self.from_pool.then(|| Wanting::of(&self.watch));
        let begun = Instant::now();
        let result = asked.await;
        self.watch.noted(begun, result)
    }
}

impl<C> Deref for Watched<C> {
    type Target = C;
    fn deref(&self) -> &C {
        &self.inner
    }
}

#[async_trait::async_trait]
impl<C: ConnectionTrait> ConnectionTrait for Watched<C> {
    fn get_database_backend(&self) -> DbBackend {
        self.inner.get_database_backend()
    }

    async fn execute_raw(&self, stmt: Statement) -> Result<ExecResult, DbErr> {
        self.see(self.inner.execute_raw(stmt)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.see(self.inner.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, stmt: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.see(self.inner.query_one_raw(stmt)).await
    }

    async fn query_all_raw(&self, stmt: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.see(self.inner.query_all_raw(stmt)).await
    }

    fn support_returning(&self) -> bool {
        self.inner.support_returning()
    }

    fn is_mock_connection(&self) -> bool {
        self.inner.is_mock_connection()
    }
}
