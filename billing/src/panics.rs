//! A panic is a mistake of ours. It costs what it happened upon one attempt, and never a task.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use futures::FutureExt;

/// Something panicked. What the panic said may hold anything, and is told nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Trueup panicked, which is a bug in it; please report it with what the server's log says of the panic")]
pub struct Panicked;

/// Does something, and survives its panic. What it touched must not be used afterwards.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
}

/// The same for what takes its time.
pub async fn survived<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|_| Panicked)
}

/// Before a task that panicked begins anew.
const PAUSE: Duration = Duration::from_secs(1);

/// Sees to it that a task's work goes on until it ends by itself: after a panic it begins anew.
pub async fn supervised<F: Future<Output = ()>>(what: &'static str, mut work: impl FnMut() -> F) {
    while survived(work()).await.is_err() {
        tracing::error!(task = what, after_panic = true, "a task panicked, which is a bug in Trueup; it begins anew");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Panics that tests order: at a named place, by the id of an event.
#[cfg(test)]
pub(crate) fn ordered(place: &str, event_id: &str) {
    assert!(!event_id.starts_with(&format!("evt_panics_{place}")), "somebody's secret");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_begins_anew_until_it_ends_by_itself() {
        let begun = AtomicU32::new(0);
        supervised("test", async || {
            assert!(begun.fetch_add(1, Ordering::Relaxed) == 2, "not yet");
        })
        .await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }
}
