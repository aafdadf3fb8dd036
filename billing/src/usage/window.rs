//! Usage windows: half-open intervals in which a user's allowance is counted.

use std::{convert::Infallible, fmt, str::FromStr};

use chrono::{Datelike, Months, NaiveDate, NaiveTime, TimeDelta};
use entity::{Time, ids::SubscriptionId};

use crate::facts::{Rank, Snapshot, Subscription};

/// What a window belongs to. Windows of different sources are different windows, whatever their bounds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// No subscription entitles: the calendar month.
    Free,
    /// The subscription that governs.
    Subscription(SubscriptionId),
}

const FREE: &str = "free";

impl Source {
    /// The text that is stored.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Free => FREE,
            Self::Subscription(id) => id.as_str(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Source {
    type Err = Infallible;
    /// A text that is no id of a subscription (only SQL could have put it there) reads as `free`.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            FREE => Self::Free,
            text => SubscriptionId::parse(text).map_or(Self::Free, Self::Subscription),
        })
    }
}

/// The window a user is in, with what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenWindow {
    /// What it belongs to.
    pub source: Source,
    /// Its bounds.
    pub window: Window,
    /// True while its subscription was only told of by a checkout, which knows no period.
    pub provisional: bool,
}

impl OpenWindow {
    /// The window of a user whom no subscription entitles.
    pub fn free(now: Time) -> Self {
        Self { source: Source::Free, window: Window::calendar_month(now), provisional: false }
    }

    /// The window of a user whom this subscription entitles; `interval` is that of the item that decides.
    pub fn of(subscription: &Subscription, interval: Option<(&str, i64)>, now: Time) -> Self {
        Self {
            source: Source::Subscription(subscription.id.clone()),
            window: Window::of_subscription(&subscription.snapshot, interval, now),
            provisional: subscription.version.rank == Rank::Provisional,
        }
    }

    /// True for the same row of the ledger. The end is no part of the key: it may move while the count stays.
    pub fn is_same_row(&self, other: &Self) -> bool {
        self.source == other.source && self.window.start == other.window.start
    }

    /// True where the count of this window goes over to `next`: it was guessed for a subscription of which only its checkout was known, or
    /// only that the host says there is one, and `next` is what that subscription itself says of the same time.
    pub fn goes_over_to(&self, next: &Self) -> bool {
        self.provisional
            && !next.provisional
            && (self.source == next.source || self.source == Source::Free)
            && !self.is_same_row(next)
            && self.window.start < next.window.end
            && next.window.start < self.window.end
    }
}

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
    /// its anchor, days 29 to 31 clamped to a month's end without drifting. It always holds `now`.
    ///
    /// A subscription that tells neither period nor anchor (a provisional one) falls back to the calendar month.
    pub fn of_subscription(snapshot: &Snapshot, interval: Option<(&str, i64)>, now: Time) -> Self {
        if let (Some(start), Some(end)) = (snapshot.trial_start, snapshot.trial_end)
            && start <= now
            && now < end
        {
            return Self { start, end };
        }
        let anchor = snapshot.billing_cycle_anchor;
        let period = snapshot.period_start.zip(snapshot.period_end).filter(|(start, end)| start < end);
        if let (Some(("month", 1)), Some((start, end))) = (interval, period) {
            // The event of a renewal is late, or Stripe's clock is a little ahead of ours: the neighbouring period. Its bounds are counted from
            // the anchor: from a month that was too short for the anchor's day, all later ones would move.
            let beside = |bound: Time| {
                let anchor = anchor.filter(|anchor| Self::counted_from(*anchor, bound).start == bound);
                Self::counted_from(anchor.unwrap_or(bound), now)
            };
            return if now < start {
                beside(start)
            } else if now < end {
                Self { start, end }
            } else {
                beside(end)
            };
        }
        match anchor.or(snapshot.period_start).or(snapshot.made_at) {
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
    use chrono::Timelike as _;
    use entity::enums::SubscriptionStatus;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Time {
        text.parse().expect("a moment")
    }

    fn window(start: &str, end: &str) -> Window {
        Window { start: at(start), end: at(end) }
    }

    fn period(start: &str, end: &str, anchor: Option<&str>) -> Snapshot {
        Snapshot {
            period_start: Some(at(start)),
            period_end: Some(at(end)),
            billing_cycle_anchor: anchor.map(at),
            ..Snapshot::of_status(SubscriptionStatus::Active)
        }
    }

    const MONTHLY: Option<(&str, i64)> = Some(("month", 1));

    #[test]
    fn an_anchor_on_the_31st_clamps_to_short_months_and_comes_back() {
        let anchor = at("2024-01-31T10:00:00Z");
        let of = |now| Window::counted_from(anchor, at(now));
        assert_eq!(of("2024-02-10T00:00:00Z"), window("2024-01-31T10:00:00Z", "2024-02-29T10:00:00Z"));
        assert_eq!(of("2024-02-29T10:00:00Z"), window("2024-02-29T10:00:00Z", "2024-03-31T10:00:00Z"));
        assert_eq!(of("2025-02-28T09:59:59Z"), window("2025-01-31T10:00:00Z", "2025-02-28T10:00:00Z"));
    }

    #[test]
    fn a_late_renewal_event_does_not_stretch_the_old_period() {
        let snapshot = period("2026-01-15T00:00:00Z", "2026-02-15T00:00:00Z", None);
        let next = Window::of_subscription(&snapshot, MONTHLY, at("2026-02-15T00:00:00Z"));
        assert_eq!(next, window("2026-02-15T00:00:00Z", "2026-03-15T00:00:00Z"));
    }

    // Known from autumn#2115: a reset that overflowed on day 31.
    #[test]
    fn a_late_renewal_after_a_short_month_goes_back_to_the_anchors_day() {
        let snapshot = period("2026-02-28T08:00:00Z", "2026-03-31T08:00:00Z", Some("2026-01-31T08:00:00Z"));
        let of = |now| Window::of_subscription(&snapshot, MONTHLY, at(now));
        assert_eq!(of("2026-03-31T08:00:00Z"), window("2026-03-31T08:00:00Z", "2026-04-30T08:00:00Z"));
        assert_eq!(of("2026-05-02T00:00:00Z"), window("2026-04-30T08:00:00Z", "2026-05-31T08:00:00Z"));
    }

    #[test]
    fn a_period_that_begins_in_a_moment_does_not_move_the_one_before() {
        // Stripe's clock is a second ahead: its event of the renewal comes before the old period is over here.
        let snapshot = period("2026-02-28T08:00:00Z", "2026-03-31T08:00:00Z", Some("2026-01-31T08:00:00Z"));
        let now = Window::of_subscription(&snapshot, MONTHLY, at("2026-02-28T07:59:59Z"));
        assert_eq!(now, window("2026-01-31T08:00:00Z", "2026-02-28T08:00:00Z"));
    }

    #[test]
    fn a_year_is_counted_in_months_from_its_anchor_and_a_trial_is_a_window_of_its_own() {
        let mut snapshot = period("2026-01-31T00:00:00Z", "2027-01-31T00:00:00Z", Some("2026-01-31T00:00:00Z"));
        snapshot.trial_start = Some(at("2026-01-10T00:00:00Z"));
        snapshot.trial_end = Some(at("2026-01-31T00:00:00Z"));
        let of = |now| Window::of_subscription(&snapshot, Some(("year", 1)), at(now));
        assert_eq!(of("2026-01-20T00:00:00Z"), window("2026-01-10T00:00:00Z", "2026-01-31T00:00:00Z"));
        assert_eq!(of("2026-01-31T00:00:00Z"), window("2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"));
        assert_eq!(of("2026-12-31T00:00:00Z"), window("2026-12-31T00:00:00Z", "2027-01-31T00:00:00Z"));
    }

    #[test]
    fn only_what_was_guessed_for_the_same_subscription_and_time_goes_over() {
        let open = |source: &str, start, end, provisional| OpenWindow {
            source: source.parse().expect("any text is a source"),
            window: window(start, end),
            provisional,
        };
        let (first, tenth, next) = ("2026-01-01T00:00:00Z", "2026-01-10T00:00:00Z", "2026-02-01T00:00:00Z");
        let guessed = open("sub_1", first, next, true);
        assert!(guessed.goes_over_to(&open("sub_1", tenth, "2026-02-10T00:00:00Z", false)));
        assert!(!guessed.goes_over_to(&open("sub_1", first, "2026-02-10T00:00:00Z", false)), "the same row");
        assert!(!guessed.goes_over_to(&open("sub_1", next, "2026-03-01T00:00:00Z", false)), "another time");
        assert!(!guessed.goes_over_to(&open("sub_1", tenth, "2026-02-10T00:00:00Z", true)), "guessed as well");
        let unnamed = open("free", first, next, true);
        assert!(unnamed.goes_over_to(&open("sub_2", first, next, false)), "the host did not say how Stripe calls it");
        assert!(!unnamed.goes_over_to(&open("free", first, next, false)), "and it came to nothing");
        assert!(!guessed.goes_over_to(&open("sub_2", tenth, "2026-02-10T00:00:00Z", false)), "another subscription");
        assert!(!open("sub_1", first, next, false).goes_over_to(&open("sub_1", tenth, next, false)), "a moved anchor");
    }

    #[test]
    fn every_day_of_four_years_as_an_anchor_gives_twelve_windows_a_year_on_its_day_or_the_months_last() {
        let mut anchor = at("2024-01-01T13:14:15Z");
        while anchor < at("2028-01-01T00:00:00Z") {
            let mut bound = Window::counted_from(anchor, anchor).start;
            assert_eq!(bound, anchor);
            for _ in 0..60 {
                let window = Window::counted_from(anchor, bound);
                assert_eq!(window.start, bound, "no gap, no overlap");
                let next_day = window.end.date_naive() + TimeDelta::days(1);
                let clamped = next_day.day() == 1 && window.end.day() < anchor.day();
                assert!(clamped || window.end.day() == anchor.day(), "{window:?}");
                assert_eq!((window.end.hour(), window.end.second()), (13, 15), "UTC knows no summer time");
                bound = window.end;
            }
            anchor += TimeDelta::days(1);
        }
    }

    fn moment() -> impl Strategy<Value = Time> {
        (0_i64..4_000_000_000).prop_map(|second| Time::from_timestamp(second, 0).expect("in range"))
    }

    /// Any snapshot at all, also such as Stripe would not make.
    fn snapshot() -> impl Strategy<Value = Snapshot> {
        let maybe = || prop::option::of(moment());
        (maybe(), maybe(), maybe(), maybe(), maybe(), maybe()).prop_map(
            |(billing_cycle_anchor, period_start, period_end, trial_start, trial_end, made_at)| Snapshot {
                billing_cycle_anchor,
                period_start,
                period_end,
                trial_start,
                trial_end,
                made_at,
                ..Snapshot::of_status(SubscriptionStatus::Active)
            },
        )
    }

    proptest! {
        #[test]
        fn windows_counted_from_an_anchor_hold_now_and_join_without_gap_or_overlap(anchor in moment(), now in moment()) {
            let window = Window::counted_from(anchor, now);
            prop_assert!(window.contains(now));
            prop_assert_eq!(Window::counted_from(anchor, window.end).start, window.end);
            prop_assert!((28..=31).contains(&(window.end - window.start).num_days()));
        }

        #[test]
        fn whatever_a_subscription_tells_its_window_holds_now(
            snapshot in snapshot(), now in moment(),
            interval in prop::option::of((prop_oneof!["day", "week", "month", "year", "aeon"], 0_i64..14)),
        ) {
            let interval = interval.as_ref().map(|(unit, count)| (unit.as_str(), *count));
            prop_assert!(Window::of_subscription(&snapshot, interval, now).contains(now));
        }
    }
}
