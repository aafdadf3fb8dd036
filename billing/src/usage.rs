//! Usage windows: half-open intervals in which a user's allowance is counted.

use chrono::{Datelike, Months, NaiveDate, NaiveTime, TimeDelta};
use entity::Time;

use crate::facts::Snapshot;

/// A window, from `start` up to but not including `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First moment inside.
    pub start: Time,
    /// First moment after.
    pub end: Time,
}

impl Window {
    /// The calendar month of `now`, in UTC: the window of users who pay nothing.
    pub fn calendar_month(now: Time) -> Self {
        let start = now.date_naive().with_day(1).unwrap_or(NaiveDate::MIN).and_time(NaiveTime::MIN).and_utc();
        Self { start, end: plus_months(start, 1) }
    }

    /// The window of a subscription at `now`: its trial; Stripe's own period where it is billed every month; else months counted from
    /// its anchor, days 29 to 31 clamped to a month's end without drifting.
    ///
    /// A subscription that tells neither period nor anchor (a provisional one) falls back to the calendar month.
    pub fn of_subscription(snapshot: &Snapshot, interval: Option<(&str, i64)>, now: Time) -> Self {
        if let (Some(start), Some(end)) = (snapshot.trial_start, snapshot.trial_end)
            && start <= now
            && now < end
        {
            return Self { start, end };
        }
        let period = snapshot.period_start.zip(snapshot.period_end).filter(|(start, end)| start < end);
        if let (Some(("month", 1)), Some((start, end))) = (interval, period) {
            // A renewal whose event is late: the next period has begun all the same.
            return if now < end { Self { start, end } } else { Self::counted_from(start, now) };
        }
        match snapshot.billing_cycle_anchor.or(snapshot.period_start).or(snapshot.made_at) {
            Some(anchor) => Self::counted_from(anchor, now),
            None => Self::calendar_month(now),
        }
    }

    /// The month counted from `anchor` that holds `now`. Every bound is the anchor plus a number of months, so a month that was
    /// too short for the anchor's day does not move those after it.
    pub fn counted_from(anchor: Time, now: Time) -> Self {
        let months = (i64::from(now.year()) - i64::from(anchor.year())) * 12 + i64::from(now.month())
            - i64::from(anchor.month());
        let mut number = i32::try_from(months).unwrap_or(0);
        while plus_months(anchor, number) > now {
            number -= 1;
        }
        while plus_months(anchor, number + 1) <= now {
            number += 1;
        }
        Self { start: plus_months(anchor, number), end: plus_months(anchor, number + 1) }
    }

    /// True where `moment` lies inside.
    pub fn contains(&self, moment: Time) -> bool {
        self.start <= moment && moment < self.end
    }
}

fn plus_months(moment: Time, months: i32) -> Time {
    let by = Months::new(months.unsigned_abs());
    let moved = if months < 0 { moment.checked_sub_months(by) } else { moment.checked_add_months(by) };
    // Moments come from Stripe within the years 1970 to 9999, and chrono reaches 262,000 years beyond.
    moved.unwrap_or(moment + TimeDelta::days(30 * i64::from(months)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Time {
        text.parse().expect("a moment")
    }

    #[test]
    fn an_anchor_on_the_31st_clamps_to_short_months_and_comes_back() {
        let anchor = at("2024-01-31T10:00:00Z");
        let window = |now| Window::counted_from(anchor, at(now));
        let expected = |start, end| Window { start: at(start), end: at(end) };
        assert_eq!(window("2024-02-10T00:00:00Z"), expected("2024-01-31T10:00:00Z", "2024-02-29T10:00:00Z"));
        assert_eq!(window("2024-02-29T10:00:00Z"), expected("2024-02-29T10:00:00Z", "2024-03-31T10:00:00Z"));
        assert_eq!(window("2025-02-28T09:59:59Z"), expected("2025-01-31T10:00:00Z", "2025-02-28T10:00:00Z"));
    }

    #[test]
    fn a_late_renewal_event_does_not_stretch_the_old_period() {
        let mut snapshot = Snapshot::of_status(entity::enums::SubscriptionStatus::Active);
        snapshot.period_start = Some(at("2026-01-15T00:00:00Z"));
        snapshot.period_end = Some(at("2026-02-15T00:00:00Z"));
        let window = Window::of_subscription(&snapshot, Some(("month", 1)), at("2026-02-15T00:00:00Z"));
        assert_eq!(window, Window { start: at("2026-02-15T00:00:00Z"), end: at("2026-03-15T00:00:00Z") });
    }

    proptest! {
        #[test]
        fn windows_counted_from_an_anchor_hold_now_and_join_without_gap_or_overlap(
            anchor in 0_i64..4_000_000_000, now in 0_i64..4_000_000_000,
        ) {
            let (anchor, now) = (Time::from_timestamp(anchor, 0).expect("in range"), Time::from_timestamp(now, 0).expect("in range"));
            let window = Window::counted_from(anchor, now);
            prop_assert!(window.contains(now));
            let next = Window::counted_from(anchor, window.end);
            prop_assert_eq!(next.start, window.end);
            let days = (window.end - window.start).num_days();
            prop_assert!((28..=31).contains(&days));
        }
    }
}
