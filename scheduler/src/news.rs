//! What the engine tells of itself, for metrics: it knows no Prometheus.

use std::sync::{Arc, Mutex, PoisonError};

use entity::{Time, enums::RunOutcome};
use tokio::time::{Duration, Instant};

/// Something happened to a job in this process.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// It was looked at.
    Looked {
        /// Which.
        job: &'static str,
        /// When its next slot comes; none while it is paused or switched off.
        next_run: Option<Time>,
        /// When it succeeded last, on any process.
        last_success: Option<Time>,
    },
    /// Slots were passed over for the one that was taken up.
    Missed {
        /// Which job's.
        job: &'static str,
        /// How many; counted up to a thousand at a time.
        slots: u64,
    },
    /// This process took the job's lease: a run begins.
    Started {
        /// Which.
        job: &'static str,
    },
    /// The lease is lost in the middle of the run, which is told to stop.
    LeaseLost {
        /// Whose.
        job: &'static str,
    },
    /// The run is over, and the lease given back or lost.
    Ended {
        /// Which.
        job: &'static str,
        /// How.
        outcome: RunOutcome,
        /// How long it took.
        seconds: f64,
    },
}

/// Is told whatever happens; must not take long.
pub type Observer = Arc<dyn Fn(&News) + Send + Sync>;

/// When a driver was last seen alive.
#[derive(Debug)]
pub(crate) struct Beat(Mutex<Instant>);

impl Default for Beat {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Beat {
    pub(crate) fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long ago.
    pub(crate) fn age(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}
