//! What a failed attempt leaves behind: when to try again, and what a person needs to know.

use std::{fmt::Write as _, time::Duration};

use chrono::TimeDelta;
use entity::{Time, ids::EventId};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// When a failed event is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    /// Pause after the first failed attempt, the second, and so on; the last pause serves every further one.
    pub pauses: Vec<Duration>,
    /// Attempts after which an event is given up.
    pub attempts: u32,
}

impl Default for Backoff {
    /// 10 s, 1 min, 10 min, 1 h; five attempts.
    fn default() -> Self {
        Self { pauses: [10, 60, 600, 3600].map(Duration::from_secs).to_vec(), attempts: 5 }
    }
}

/// How far a pause is stretched or shortened, so that events that failed together do not come back together: a fifth.
const JITTER: f64 = 0.2;

impl Backoff {
    /// Seconds until the next attempt after `attempts` have failed; `None` where the event is given up.
    /// `chance` lies in 0..1.
    pub fn pause(&self, attempts: u32, chance: f64) -> Option<f64> {
        if attempts >= self.attempts {
            return None;
        }
        let index = (attempts.max(1) - 1) as usize;
        let pause = self.pauses.get(index).or(self.pauses.last())?;
        Some(pause.as_secs_f64() * (1.0 - JITTER + 2.0 * JITTER * chance))
    }
}

/// How long a parked event rests, by its age: a quarter of it, so that the pauses grow, from 30 seconds to 6 hours.
pub fn parked_pause(age: TimeDelta) -> f64 {
    (age.as_seconds_f64() / 4.0).clamp(30.0, 6.0 * 3600.0)
}

/// How long a parked event waits for its user before it is given up.
pub const PARKED_AT_MOST: TimeDelta = TimeDelta::days(30);

/// The message of an error and of everything beneath it.
pub fn chain(error: &dyn std::error::Error) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        source = error.source();
    }
    texts
}

/// The first line of an error without whatever may be of one event alone: words that hold a digit, or stand in quotation marks.
pub fn plain(error: &str) -> String {
    let mut plain = String::with_capacity(error.len());
    for word in error.lines().next().unwrap_or_default().split_whitespace() {
        let varies = word.contains(|c: char| c.is_ascii_digit() || matches!(c, '"' | '`' | '\''));
        plain.push_str(if varies { "#" } else { word });
        plain.push(' ');
    }
    plain
}

/// An event failed as none did for a while, on any process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewFailure {
    pub(crate) event_id: EventId,
    pub(crate) event_type: String,
    pub(crate) attempts: i32,
    pub(crate) kind: &'static str,
    pub(crate) fingerprint: String,
    pub(crate) error: String,
}

impl NewFailure {
    /// Tells of it, once it is committed. Whoever gathers errors takes this line; those of the attempts that follow are not worth another report.
    pub(crate) fn tell(self) {
        let Self { event_id, event_type, attempts, kind, fingerprint, error } = self;
        let error = plain(&error);
        tracing::error!(
            first_failure = true, %event_id, event_type, attempts, kind, fingerprint, error = error.trim_end(),
            "an event cannot be applied, for a reason that is new"
        );
    }
}

/// Equal for failures of one cause: the event's type and the first line of the error, without whatever differs from one event to the next
/// (words that hold a digit, or stand in quotation marks).
pub fn fingerprint(event_type: &str, kind: &str, error: &str) -> String {
    let plain = plain(error);
    let mut hash = Sha256::new();
    for part in [event_type, kind, &plain] {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize().iter().take(8).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Longest text kept of one error, in characters; a database may quote a whole payload.
const LONGEST_ERROR: usize = 2000;

/// Shortens an error's text.
pub fn short(text: &str) -> String {
    text.chars().take(LONGEST_ERROR).collect()
}

/// Kind, chain and history, with this attempt added to what earlier ones left.
pub fn details(earlier: Option<&Value>, kind: &str, chain: &[String], attempt: u32, at: Time) -> Value {
    let mut history = earlier.and_then(|d| d.get("history")).and_then(Value::as_array).cloned().unwrap_or_default();
    let error = chain.last().map(|text| short(text));
    history.push(json!({ "attempt": attempt, "at": at, "error": error }));
    let chain: Vec<String> = chain.iter().map(|text| short(text)).collect();
    json!({ "kind": kind, "chain": chain, "history": history })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_within_a_fifth_until_the_event_is_given_up() {
        let backoff = Backoff::default();
        for (failed, seconds) in [(1, 10.0), (2, 60.0), (3, 600.0), (4, 3600.0)] {
            assert_eq!(backoff.pause(failed, 0.0), Some(seconds * 0.8));
            assert!((backoff.pause(failed, 0.5).expect("tried again") - seconds).abs() < 1e-9);
            assert!(backoff.pause(failed, 0.999).expect("tried again") <= seconds * 1.2);
        }
        assert_eq!(backoff.pause(5, 0.5), None);
    }

    #[test]
    fn a_parked_event_rests_longer_the_older_it_is_and_at_most_six_hours() {
        for (age, seconds) in
            [(TimeDelta::zero(), 30.0), (TimeDelta::hours(4), 3600.0), (TimeDelta::days(20), 21_600.0)]
        {
            assert!((parked_pause(age) - seconds).abs() < 1e-9, "{age}");
        }
    }

    #[test]
    fn failures_that_differ_in_ids_and_numbers_only_have_one_fingerprint() {
        let of = |error| fingerprint("invoice.paid", "database", error);
        assert_eq!(of("no row for sub_1 in \"x\""), of("no row for sub_2 in \"y\""));
        assert_ne!(of("no row for sub_1"), of("no column for sub_1"));
        assert_ne!(of("x"), fingerprint("invoice.voided", "database", "x"));
    }

    #[test]
    fn the_history_of_attempts_grows_by_one_for_each() {
        let at = Time::UNIX_EPOCH;
        let first = details(None, "database", &["outer".into(), "inner".into()], 1, at);
        let second = details(Some(&first), "database", &["other".into()], 2, at);
        assert_eq!(second["history"].as_array().map(Vec::len), Some(2));
        assert_eq!(second["history"][0]["error"], "inner");
        assert_eq!(second["chain"], json!(["other"]));
    }
}
