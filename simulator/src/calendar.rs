//! Billing periods by the calendar, in seconds since 1970, UTC.

use chrono::{DateTime, Days, Months, Utc};

/// Seconds of a minute.
pub(crate) const MINUTE: i64 = 60;
/// Seconds of an hour.
pub(crate) const HOUR: i64 = 3600;
/// Seconds of a day.
pub(crate) const DAY: i64 = 86_400;

/// How often a price bills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    Day,
    Week,
    Month,
    Year,
}

impl Unit {
    /// As Stripe writes it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Day, Self::Week, Self::Month, Self::Year].into_iter().find(|unit| unit.as_str() == text)
    }
}

/// So many units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Interval {
    pub(crate) unit: Unit,
    pub(crate) count: u32,
}

impl Interval {
    /// The moment `number` intervals after `anchor`. Each is counted from the anchor, so a month that was too short for the anchor's
    /// day (the 29th to 31st) does not move those after it (docs.stripe.com/billing/subscriptions/billing-cycle).
    fn after(self, anchor: DateTime<Utc>, number: u32) -> Option<DateTime<Utc>> {
        let units = number.checked_mul(self.count)?;
        match self.unit {
            Unit::Day => anchor.checked_add_days(Days::new(units.into())),
            Unit::Week => anchor.checked_add_days(Days::new(u64::from(units).checked_mul(7)?)),
            Unit::Month => anchor.checked_add_months(Months::new(units)),
            Unit::Year => anchor.checked_add_months(Months::new(units.checked_mul(12)?)),
        }
    }

    /// The first end of a period counted from `anchor` that is after `moment`.
    pub(crate) fn next_end(self, anchor: i64, moment: i64) -> i64 {
        let start = DateTime::from_timestamp(anchor, 0).unwrap_or_default();
        (1_u32..)
            .map_while(|number| self.after(start, number))
            .map(|end| end.timestamp())
            .find(|&end| end > moment)
            .unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<DateTime<Utc>>().expect("a moment").timestamp()
    }

    #[test]
    fn periods_counted_from_the_31st_come_back_to_it() {
        let monthly = Interval { unit: Unit::Month, count: 1 };
        let anchor = at("2025-12-31T10:00:00Z");
        let mut ends = vec![anchor];
        for _ in 0..4 {
            ends.push(monthly.next_end(anchor, ends[ends.len() - 1]));
        }
        let expected = ["2025-12-31", "2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"];
        assert_eq!(ends, expected.map(|day| at(&format!("{day}T10:00:00Z"))));
    }

    #[test]
    fn weeks_and_years_are_counted_too() {
        let anchor = at("2024-02-29T00:00:00Z");
        let next = |unit, count, moment: &str| Interval { unit, count }.next_end(anchor, at(moment));
        assert_eq!(next(Unit::Week, 2, "2024-02-29T00:00:00Z"), at("2024-03-14T00:00:00Z"));
        assert_eq!(next(Unit::Year, 1, "2024-02-29T00:00:00Z"), at("2025-02-28T00:00:00Z"));
        assert_eq!(next(Unit::Day, 1, "2024-03-01T12:00:00Z"), at("2024-03-02T00:00:00Z"));
    }
}
