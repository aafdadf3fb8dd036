//! Which answers are worth another try, and how long to wait for it: as Stripe's own libraries do it.

use std::time::Duration;

/// What came of one try, as far as another one depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// No answer, or half of one: connection, time limit.
    NoAnswer,
    /// An answer with this status.
    Status {
        /// The status code.
        code: u16,
        /// `Stripe-Should-Retry`, where Stripe says it.
        should_retry: Option<bool>,
    },
}

impl Ending {
    /// True where the same call may fare better in a moment. Stripe's word wins. Without one: whatever did not get through, 409 (somebody
    /// holds the object), 429 and everything from 500 on. Stripe's libraries leave a 429 without that word alone; a 429 without
    /// `Stripe-Rate-Limited-Reason` tells of a lock on the object, and one with it of a limit that the pause and the budget heed.
    pub(super) fn deserves_another_try(self) -> bool {
        match self {
            Self::NoAnswer => true,
            Self::Status { should_retry: Some(word), .. } => word,
            Self::Status { code, should_retry: None } => matches!(code, 408 | 409 | 429) || code >= 500,
        }
    }
}

/// The shortest pause.
const SHORTEST: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST: Duration = Duration::from_secs(5);

/// The pause before the `n`th further try: half a second, doubled each time to at most five, of which chance (0..1) takes away up to half,
/// but never below half a second.
pub(super) fn pause(n: u32, chance: f64) -> Duration {
    let doubled = SHORTEST.saturating_mul(1 << n.saturating_sub(1).min(10));
    doubled.min(LONGEST).mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0).max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, should_retry: Option<bool>) -> bool {
        Ending::Status { code, should_retry }.deserves_another_try()
    }

    #[test]
    fn stripes_own_word_wins_over_the_status() {
        for code in [200, 400, 404, 409, 429, 500, 503] {
            assert!(status(code, Some(true)), "{code}");
            assert!(!status(code, Some(false)), "{code}");
        }
    }

    #[test]
    fn without_it_conflicts_limits_faults_and_silence_are_tried_again() {
        assert!(Ending::NoAnswer.deserves_another_try());
        for code in [408, 409, 429, 500, 502, 503, 504, 599] {
            assert!(status(code, None), "{code}");
        }
        for code in [200, 301, 400, 401, 402, 403, 404, 424] {
            assert!(!status(code, None), "{code}");
        }
    }

    #[test]
    fn pauses_double_from_half_a_second_to_five_and_never_fall_below_half() {
        let millis = |n, chance| pause(n, chance).as_millis();
        assert_eq!([1, 2, 3, 4, 5, 6, 40].map(|n| millis(n, 1.0)), [500, 1000, 2000, 4000, 5000, 5000, 5000]);
        assert_eq!([1, 2, 3, 4, 5].map(|n| millis(n, 0.0)), [500, 500, 1000, 2000, 2500]);
    }
}
