//! Schedules, and the bell that rings when one of their moments comes.
//!
//! [`Schedule`] is arithmetic alone, in UTC: which moments there are. `tokio-cron-scheduler` is a doorbell and nothing else: it wakes a
//! driver, which asks the database whose clock says what is due. It may ring twice, late, early or never, and no run is lost for it.

use std::{fmt, str::FromStr, sync::Arc};

use chrono::{TimeZone, Timelike, Utc};
use croner::{
    Cron,
    parser::{CronParser, Seconds},
};
use entity::Time;
use tokio::sync::Notify;
use tokio_cron_scheduler::{Job as Rope, JobScheduler, JobSchedulerError};

/// A cron expression of six fields, seconds first, in UTC. Where both day and weekday are given, both must fit.
#[derive(Clone)]
pub struct Schedule {
    text: String,
    cron: Cron,
}

/// A text that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no schedule ({why})")]
pub struct BadSchedule {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl BadSchedule {
    /// What would be right.
    pub const RIGHT: &str =
        "write six fields, in UTC: second, minute, hour, day, month, weekday, like \"0 */5 * * * *\"";
}

impl Schedule {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first moment after `at`; none where none comes any more.
    pub fn after(&self, at: Time) -> Option<Time> {
        self.cron.find_next_occurrence(&whole(at), false).ok()
    }

    /// The last moment at or before `at`.
    pub fn up_to(&self, at: Time) -> Option<Time> {
        self.cron.find_previous_occurrence(&whole(at), true).ok()
    }

    /// The moments in `(after, up_to]`, the newest first.
    pub fn between(&self, after: Time, up_to: Time) -> impl Iterator<Item = Time> {
        let newest = self.up_to(up_to);
        let before = |slot: &Time| self.cron.find_previous_occurrence(slot, false).ok();
        std::iter::successors(newest, before).take_while(move |slot| *slot > after)
    }
}

/// Schedules know whole seconds only.
fn whole(at: Time) -> Time {
    at.with_nanosecond(0).unwrap_or(at)
}

impl FromStr for Schedule {
    type Err = BadSchedule;

    fn from_str(text: &str) -> Result<Self, BadSchedule> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let bad = |why: String| BadSchedule { text: text.clone(), why };
        let fields = text.split_whitespace().count();
        if fields != 6 {
            return Err(bad(format!("it has {fields} {}", if fields == 1 { "field" } else { "fields" })));
        }
        // Read exactly as the bell reads it.
        let parser = CronParser::builder().seconds(Seconds::Required).dom_and_dow(true).build();
        let cron = parser.parse(&text).map_err(|error| bad(error.to_string().trim_end_matches('.').to_owned()))?;
        let schedule = Self { text: text.clone(), cron };
        let any = Utc.timestamp_opt(1_700_000_000, 0).single().and_then(|at| schedule.after(at));
        if any.is_none() { Err(bad("no day ever fits it".to_owned())) } else { Ok(schedule) }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schedule").field(&self.text).finish()
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Schedule {}

/// The bells could not be hung.
#[derive(Debug, thiserror::Error)]
#[error("the clock that wakes the jobs could not be started")]
pub struct BellError(#[from] JobSchedulerError);

/// One bell for each job.
pub(crate) struct Bells(JobScheduler);

impl Bells {
    /// Rings each of these by its schedule.
    pub(crate) async fn hang(bells: impl IntoIterator<Item = (Schedule, Arc<Notify>)>) -> Result<Self, BellError> {
        let clock = JobScheduler::new().await?;
        for (schedule, bell) in bells {
            let rope = Rope::new_async(schedule.as_str(), move |_, _| {
                bell.notify_one();
                Box::pin(std::future::ready(()))
            })?;
            clock.add(rope).await?;
        }
        clock.start().await?;
        Ok(Self(clock))
    }

    /// Takes them down.
    pub(crate) async fn silence(mut self) {
        if let Err(error) = self.0.shutdown().await {
            tracing::debug!(%error, "the bells were not taken down in order");
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Time {
        text.parse().expect("a moment")
    }

    fn schedule(text: &str) -> Schedule {
        text.parse().expect("a schedule")
    }

    #[test]
    fn a_schedule_has_six_fields_and_seconds_come_first() {
        let every_five = schedule(" 0  */5 * * * * ");
        assert_eq!(every_five.as_str(), "0 */5 * * * *");
        assert_eq!(every_five.after(at("2026-11-24T10:00:00Z")), Some(at("2026-11-24T10:05:00Z")));
        assert_eq!(every_five.after(at("2026-11-24T10:04:59.999Z")), Some(at("2026-11-24T10:05:00Z")));
        assert_eq!(every_five.up_to(at("2026-11-24T10:05:00.001Z")), Some(at("2026-11-24T10:05:00Z")));
        assert_eq!(every_five.up_to(at("2026-11-24T10:05:00Z")), Some(at("2026-11-24T10:05:00Z")));
        assert_eq!(every_five.up_to(at("2026-11-24T10:04:59.999Z")), Some(at("2026-11-24T10:00:00Z")));
    }

    #[test]
    fn a_bad_expression_is_refused_with_what_is_wrong() {
        for (text, why) in [
            ("*/5 * * * *", "it has 5 fields"),
            ("@daily", "it has 1 field"),
            ("", "it has 0 fields"),
            ("0 0 0 * * * 2026", "it has 7 fields"),
            ("0 61 * * * *", ""),
            ("0 0 0 * * FUNDAY", ""),
            ("0 0 0 30 2 *", "no day ever fits it"),
            ("0 0 0 32 * *", ""),
            ("x * * * * *", ""),
            ("0 */0 * * * *", ""),
        ] {
            let error = text.parse::<Schedule>().expect_err(text);
            assert!(error.why.contains(why) && !error.why.is_empty(), "{text}: {error}");
            assert!(error.to_string().starts_with(&format!("`{text}` is no schedule (")), "{error}");
        }
        assert!("0 0 0 29 2 *".parse::<Schedule>().is_ok(), "a leap day comes");
        assert!("0 0 9 * * MON-FRI".parse::<Schedule>().is_ok());
    }

    #[test]
    fn the_hour_that_clocks_skip_elsewhere_is_an_hour_like_any_other_in_utc() {
        let daily = schedule("0 30 2 * * *");
        let slots: Vec<Time> = daily.between(at("2026-03-27T02:30:00Z"), at("2026-03-31T00:00:00Z")).collect();
        let expected = ["2026-03-30T02:30:00Z", "2026-03-29T02:30:00Z", "2026-03-28T02:30:00Z"].map(at);
        assert_eq!(slots, expected);
    }

    fn field(most: u32) -> impl Strategy<Value = String> {
        prop_oneof![
            Just("*".to_owned()),
            (0..=most).prop_map(|n| n.to_string()),
            (1..=most.max(2)).prop_map(|n| format!("*/{n}")),
            (0..=most, 0..=most).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Forwards and backwards are the same moments: those that fit, none left out.
        #[test]
        fn moments_are_found_alike_from_both_ends(
            second in field(59), minute in field(59), hour in field(23), start in 1_600_000_000_i64..2_000_000_000, span in 1_i64..4000
        ) {
            let schedule = schedule(&format!("{second} {minute} {hour} * * *"));
            let start = Utc.timestamp_opt(start, 0).single().expect("a moment");
            let end = start + TimeDelta::seconds(span);
            let mut back: Vec<Time> = schedule.between(start, end).collect();
            back.reverse();
            let forth: Vec<Time> = std::iter::successors(schedule.after(start), |at| schedule.after(*at))
                .take_while(|at| *at <= end)
                .collect();
            let fits = |at: &Time| schedule.cron.is_time_matching(at).expect("a moment can be matched");
            let all: Vec<Time> = (1..=span).map(|n| start + TimeDelta::seconds(n)).filter(fits).collect();
            prop_assert_eq!(&back, &all);
            prop_assert_eq!(&forth, &all);
        }
    }
}
