//! One cause is reported once in a while, however often it strikes.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// For so long the same is not told again.
const PAUSE: Duration = Duration::from_hours(1);

/// Causes that are remembered; beyond, nothing new is told until some are forgotten.
const MOST: usize = 500;

#[derive(Debug, Default)]
pub(super) struct Limit(Mutex<HashMap<u64, Instant>>);

impl Limit {
    /// True where this was not told a short while ago.
    pub(super) fn admits(&self, cause: &[Cow<'_, str>]) -> bool {
        self.admits_at(cause, Instant::now())
    }

    fn admits_at(&self, cause: &[Cow<'_, str>], now: Instant) -> bool {
        let mut hasher = DefaultHasher::new();
        cause.hash(&mut hasher);
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.saturating_duration_since(*at) < PAUSE);
        let cause = hasher.finish();
        if told.contains_key(&cause) || told.len() >= MOST {
            return false;
        }
        told.insert(cause, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cause_is_told_once_an_hour_and_others_are_told_beside_it() {
        let limit = Limit::default();
        let start = Instant::now();
        let told =
            |cause: &str, minutes: u64| limit.admits_at(&[Cow::Borrowed(cause)], start + Duration::from_mins(minutes));
        assert!(told("a", 0));
        assert!(!told("a", 1));
        assert!(told("b", 1));
        assert!(!told("a", 59));
        assert!(told("a", 60));
    }
}
