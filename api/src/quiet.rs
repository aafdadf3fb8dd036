//! Log lines that somebody outside can cause as many of as they like: a few a second, and how many were left out.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// At once.
const BURST: NonZeroU32 = NonZeroU32::new(50).expect("not zero");
/// And from then on, a second.
const RATE: NonZeroU32 = NonZeroU32::new(5).expect("not zero");

/// Bounds one kind of log line.
#[derive(Debug)]
pub(crate) struct Quiet {
    limiter: DefaultDirectRateLimiter,
    unsaid: AtomicU64,
}

impl Default for Quiet {
    fn default() -> Self {
        Self { limiter: RateLimiter::direct(Quota::per_second(RATE).allow_burst(BURST)), unsaid: AtomicU64::new(0) }
    }
}

impl Quiet {
    /// Whether this may be said; with how many of its kind were not since the last that was.
    pub(crate) fn may_say(&self) -> Option<u64> {
        if self.limiter.check().is_ok() {
            return Some(self.unsaid.swap(0, Ordering::Relaxed));
        }
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_bounded_number_of_lines_and_the_next_tells_how_many_are_missing() {
        let quiet = Quiet::default();
        let said = (0..100_000).filter_map(|_| quiet.may_say()).count() as u64;
        let unsaid = quiet.unsaid.load(Ordering::Relaxed);
        assert!((50..1000).contains(&said), "{said}");
        let made_up_for: u64 = 100_000 - said - unsaid;
        assert!(made_up_for <= 100_000 - said);
        assert!(unsaid > 0);
    }
}
