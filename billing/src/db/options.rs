//! How to connect.

use std::time::Duration;

/// Whether a pooler stands before PostgreSQL that hands a server connection on after each transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooler {
    /// Look: whether two connections ever share a process of the server.
    #[default]
    Auto,
    /// None, or one that keeps sessions: statements are prepared once and kept, settings are those of the session.
    None,
    /// PgBouncer's `pool_mode = transaction`, Supavisor's port 6543 and the like: nothing is taken to outlast a transaction.
    Transaction,
}

/// How to connect. What is about time limits, names and poolers is PostgreSQL's alone.
#[derive(Debug, Clone)]
pub struct DbOptions {
    /// Connections of this process in all.
    pub max_connections: u32,
    /// How many of them are kept for what must not wait behind requests and jobs: storing webhooks, and renewing leases.
    pub reserved_connections: u32,
    /// How long a caller waits for a connection.
    pub acquire_timeout: Duration,
    /// How long a statement may run.
    pub statement_timeout: Duration,
    /// How long a statement may wait for a lock; a third of `statement_timeout` where it is not given.
    pub lock_timeout: Option<Duration>,
    /// How long a transaction may lie idle before the server ends its session: a process that was stopped or cut off must not keep others from its
    /// rows. Nothing here ever waits for the network within a transaction.
    pub idle_in_transaction_timeout: Duration,
    /// What the server shows of our sessions (`pg_stat_activity`); else what the URL says, or `trueup`.
    pub application_name: Option<String>,
    /// A statement that takes so long is told in the log: its text and its time, never what is bound to it. None: none is.
    pub slow_statement: Option<Duration>,
    /// What stands before the server.
    pub pooler: Pooler,
}

impl Default for DbOptions {
    fn default() -> Self {
        Self {
            max_connections: 10,
            reserved_connections: 3,
            acquire_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: None,
            idle_in_transaction_timeout: Duration::from_secs(30),
            application_name: None,
            slow_statement: Some(Duration::from_secs(1)),
            pooler: Pooler::Auto,
        }
    }
}

impl DbOptions {
    /// How long an answer of PostgreSQL is waited for: a server that is there gives one within its own limit.
    pub(super) fn patience(&self) -> Duration {
        self.statement_timeout + Duration::from_secs(5)
    }

    /// The limits, as settings of PostgreSQL in milliseconds.
    pub(super) fn limits(&self) -> [(&'static str, u128); 3] {
        let lock = self.lock_timeout.unwrap_or(self.statement_timeout / 3);
        [
            ("statement_timeout", self.statement_timeout.as_millis()),
            ("lock_timeout", lock.as_millis()),
            ("idle_in_transaction_session_timeout", self.idle_in_transaction_timeout.as_millis()),
        ]
    }
}
