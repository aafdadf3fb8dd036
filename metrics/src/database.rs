//! The database, as this process meets it.

use prometheus::{Gauge, Histogram, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::{
    Metrics,
    families::{BATCH_SECONDS, counters, histogram, registered},
    labels::{PoolState, QueryError, ScrapePart},
    measured::Parts,
};

/// Seconds until a connection is there: at once where one is idle, and some milliseconds where one has to be made.
const ACQUIRE_SECONDS: &[f64] = &[0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// The pool of connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pool {
    /// Connections that nobody uses.
    pub idle: u32,
    /// Connections that somebody uses, or that are being made.
    pub in_use: u32,
    /// Callers that wait for one.
    pub waiting: u32,
    /// How many there may be.
    pub most: u32,
}

#[derive(Debug)]
pub(crate) struct DatabaseFamilies {
    up: Gauge,
    connections: IntGaugeVec,
    most: IntGauge,
    waiting: IntGauge,
    acquire_seconds: Histogram,
    query_seconds: Histogram,
    query_errors: IntCounterVec,
}

impl DatabaseFamilies {
    pub(crate) fn register(r: &Registry, parts: &Parts) -> Self {
        let families = Self {
            up: registered(
                r,
                Gauge::new("trueup_database_up", "1 where the database answered when this was last measured, else 0."),
            ),
            connections: parts.pool.gauge(
                r,
                IntGaugeVec::new(
                    Opts::new(
                        "trueup_database_pool_connections",
                        "Connections of this process's pool, by whether somebody uses them.",
                    ),
                    &["state"],
                ),
            ),
            most: parts.pool.gauge(
                r,
                IntGauge::new("trueup_database_pool_max_connections", "Connections that this process's pool may have."),
            ),
            waiting: parts.pool.gauge(
                r,
                IntGauge::new(
                    "trueup_database_pool_waiting",
                    "Callers that wait for a connection of this process's pool, because every one is in use.",
                ),
            ),
            acquire_seconds: histogram(
                r,
                "trueup_database_acquire_duration_seconds",
                "Time until a caller had a connection of the pool, or gave up waiting.",
                ACQUIRE_SECONDS,
            ),
            query_seconds: histogram(
                r,
                "trueup_database_query_duration_seconds",
                "Time of one statement, from when it has its connection to its answer.",
                BATCH_SECONDS,
            ),
            query_errors: counters(
                r,
                "trueup_database_query_errors_total",
                "Statements, and tries to get a connection or to begin or end a transaction, that the database did not do, by what was in the way.",
                &["kind"],
            ),
        };
        for kind in QueryError::ALL {
            let _ = families.query_errors.with_label_values(&[kind.as_str()]);
        }
        families.set(Pool::default());
        families
    }

    fn set(&self, pool: Pool) {
        for (state, connections) in [(PoolState::Idle, pool.idle), (PoolState::InUse, pool.in_use)] {
            self.connections.with_label_values(&[state.as_str()]).set(connections.into());
        }
        self.waiting.set(pool.waiting.into());
        self.most.set(pool.most.into());
    }
}

impl Metrics {
    /// Whether the database answered.
    pub fn database_up(&self, up: bool) {
        self.database.up.set(if up { 1.0 } else { 0.0 });
    }

    /// The pool was looked at.
    pub fn pool_measured(&self, pool: Pool) {
        self.database.set(pool);
        self.parts.set(ScrapePart::Pool, true);
    }

    /// A caller had its connection, or gave up waiting, after this many seconds.
    pub fn connection_acquired_after(&self, seconds: f64) {
        self.database.acquire_seconds.observe(seconds);
    }

    /// A statement took this many seconds.
    pub fn query_answered_after(&self, seconds: f64) {
        self.database.query_seconds.observe(seconds);
    }

    /// Something was not done.
    pub fn query_failed(&self, kind: QueryError) {
        self.database.query_errors.with_label_values(&[kind.as_str()]).inc();
    }
}
