//! How far long work has come, for whoever watches it: a terminal, or a list of running jobs.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Counts what is done, and of how many where that is known. Cheap to clone; all clones count together.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    /// 0 while it is not known.
    total: AtomicU64,
}

impl Progress {
    /// So many more are done.
    pub fn add(&self, done: u64) {
        self.0.done.fetch_add(done, Ordering::Relaxed);
    }

    /// So many there will be.
    pub fn expect(&self, total: u64) {
        self.0.total.store(total, Ordering::Relaxed);
    }

    /// How many are done.
    pub fn done(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed)
    }

    /// How many there will be, where that is known.
    pub fn total(&self) -> Option<u64> {
        Some(self.0.total.load(Ordering::Relaxed)).filter(|total| *total > 0)
    }
}
