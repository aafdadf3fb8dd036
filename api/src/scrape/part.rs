//! One part of a scrape, measured by one task at a time.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use tokio::time::{Instant, timeout};

#[derive(Default)]
pub(super) struct Part(Mutex<Option<Flight>>);

/// A measurement under way, or done.
#[derive(Clone)]
struct Flight {
    begun: Instant,
    done: Shared<BoxFuture<'static, ()>>,
}

impl Part {
    /// Waits until the part is measured: by a measurement that began less than `fresh` ago, by one that is under way, or by a new one. False
    /// where that took longer than `patience`; the measurement goes on by itself.
    pub(super) async fn measured<F>(&self, fresh: Duration, patience: Duration, work: impl FnOnce() -> F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let flight = {
            let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match &*latest {
                Some(flight) if flight.done.peek().is_none() || flight.begun.elapsed() < fresh => flight.clone(),
                _ => {
                    let task = tokio::spawn(work());
                    // However it ended, it is over; a panic has been told of.
                    let done = task.map(|_| ()).boxed().shared();
                    latest.insert(Flight { begun: Instant::now(), done }).clone()
                }
            }
        };
        timeout(patience, flight.done).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use tokio::sync::Notify;

    use super::*;

    const FRESH: Duration = Duration::from_secs(2);
    const PATIENCE: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_it_is_measured_once_and_again_when_that_is_old() {
        let (part, times) = (Part::default(), Arc::new(AtomicU32::new(0)));
        let work = || {
            let times = Arc::clone(&times);
            async move {
                times.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let ask = || part.measured(FRESH, PATIENCE, work);
        assert_eq!(tokio::join!(ask(), ask(), ask()), (true, true, true));
        assert!(ask().await);
        assert_eq!(times.load(Ordering::SeqCst), 1);
        tokio::time::advance(FRESH).await;
        assert!(ask().await);
        assert_eq!(times.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_too_long_is_waited_for_by_the_next_and_not_begun_again() {
        let (part, times, go) = (Part::default(), Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let work = || {
            let (times, go) = (Arc::clone(&times), Arc::clone(&go));
            async move {
                times.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
            }
        };
        for _ in 0..5 {
            assert!(!part.measured(FRESH, PATIENCE, work).await);
        }
        assert_eq!(times.load(Ordering::SeqCst), 1);
        // What it found in the end is too old to be shown.
        go.notify_one();
        tokio::task::yield_now().await;
        go.notify_one();
        assert!(part.measured(FRESH, PATIENCE, work).await);
    }
}
