//! Users, their subscriptions, and the windows of their usage.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use prometheus::{Gauge, IntGauge, IntGaugeVec, Opts, Registry};

use crate::{
    Metrics,
    labels::{ScrapePart, SubscriptionStatus, UserStatus},
    measured::{Parts, shared},
};

/// Stands for tiers that no plan names any more.
const OTHER: &str = "other";

/// Users and subscriptions, as they were counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Users by tier and status.
    pub users: Vec<(String, UserStatus, i64)>,
    /// Subscriptions by status.
    pub subscriptions: Vec<(SubscriptionStatus, i64)>,
    /// Living subscriptions whose price leads to no plan.
    pub unmapped_price: i64,
    /// Subscriptions of which two snapshots of one second disagree.
    pub needs_refresh: i64,
}

#[derive(Debug)]
pub(crate) struct UserFamilies {
    tiers: Mutex<BTreeSet<String>>,
    users: IntGaugeVec,
    subscriptions: IntGaugeVec,
    unmapped_price: IntGauge,
    needs_refresh: IntGauge,
    overdue: IntGauge,
    oldest_overdue: Gauge,
}

impl UserFamilies {
    pub(crate) fn register(r: &Registry, parts: &Parts) -> Self {
        let (users, usage) = (&parts.users, &parts.usage);
        Self {
            tiers: Mutex::default(),
            users: users.gauge(
                r,
                IntGaugeVec::new(
                    Opts::new("trueup_users", shared!("Users by tier and status, counted once a minute.")),
                    &["tier", "status"],
                ),
            ),
            subscriptions: users.gauge(
                r,
                IntGaugeVec::new(
                    Opts::new(
                        "trueup_subscriptions",
                        shared!("Subscriptions by the status Stripe last told, counted once a minute."),
                    ),
                    &["status"],
                ),
            ),
            unmapped_price: users.gauge(
                r,
                IntGauge::new(
                    "trueup_subscriptions_unmapped_price",
                    shared!("Living subscriptions whose price leads to no plan, so that whoever pays has nothing; counted once a minute."),
                ),
            ),
            needs_refresh: users.gauge(
                r,
                IntGauge::new(
                    "trueup_subscriptions_needs_refresh",
                    shared!("Subscriptions of which two snapshots of one second disagree, so that Stripe has to be asked; counted once a minute."),
                ),
            ),
            overdue: usage.gauge(
                r,
                IntGauge::new(
                    "trueup_usage_windows_overdue",
                    shared!("Users for whom the moment has passed at which their window rolls or their entitlement changes by date, and nobody has rolled them yet."),
                ),
            ),
            oldest_overdue: usage.gauge(
                r,
                Gauge::new(
                    "trueup_usage_oldest_overdue_seconds",
                    shared!("How long ago the oldest of these moments was; 0 where there is none."),
                ),
            ),
        }
    }
}

impl Metrics {
    /// The tiers of the plans; a user on any other counts as `other`.
    pub fn tiers<'t>(&self, tiers: impl IntoIterator<Item = &'t str>) {
        let mut known = self.users.tiers.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(tiers.into_iter().map(str::to_owned));
    }

    /// Users and subscriptions were counted. What is not among them is 0.
    pub fn users_counted(&self, counted: &Counted) {
        let families = &self.users;
        let known = families.tiers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut users: BTreeMap<(&str, UserStatus), i64> = BTreeMap::new();
        for tier in known.iter().map(String::as_str).chain([OTHER]) {
            users.extend(UserStatus::ALL.iter().map(|status| ((tier, *status), 0)));
        }
        for (tier, status, count) in &counted.users {
            let tier = known.get(tier).map_or(OTHER, String::as_str);
            *users.entry((tier, *status)).or_default() += count;
        }
        for ((tier, status), count) in users {
            families.users.with_label_values(&[tier, status.as_str()]).set(count);
        }
        let mut subscriptions: BTreeMap<_, i64> = SubscriptionStatus::ALL.iter().map(|status| (*status, 0)).collect();
        for (status, count) in &counted.subscriptions {
            *subscriptions.entry(*status).or_default() += count;
        }
        for (status, count) in subscriptions {
            families.subscriptions.with_label_values(&[status.as_str()]).set(count);
        }
        families.unmapped_price.set(counted.unmapped_price);
        families.needs_refresh.set(counted.needs_refresh);
        self.parts.set(ScrapePart::Users, true);
    }

    /// So many users should have been rolled and were not, the oldest since so many seconds.
    pub fn usage_measured(&self, overdue: i64, oldest_seconds: f64) {
        self.users.overdue.set(overdue);
        self.users.oldest_overdue.set(oldest_seconds);
        self.parts.set(ScrapePart::Usage, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_that_no_plan_names_any_more_counts_as_other_and_what_is_gone_is_nought() {
        let metrics = Metrics::new("1", []);
        metrics.tiers(["free", "pro"]);
        let line = |series: &str| {
            let text = metrics.render();
            text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))
        };
        assert_eq!(line("trueup_subscriptions_unmapped_price"), None, "nobody has counted yet");
        let users = vec![
            ("pro".to_owned(), UserStatus::Active, 3),
            ("gold".to_owned(), UserStatus::PastDue, 1),
            ("lead".to_owned(), UserStatus::PastDue, 1),
        ];
        let subscriptions = vec![(SubscriptionStatus::Active, 3), (SubscriptionStatus::Other, 2)];
        metrics.users_counted(&Counted { users, subscriptions, unmapped_price: 2, needs_refresh: 1 });
        let user = |tier, status| line(&format!("trueup_users{{status=\"{status}\",tier=\"{tier}\"}}"));
        assert_eq!(user("pro", "active").as_deref(), Some("3"));
        assert_eq!(user("free", "active").as_deref(), Some("0"));
        assert_eq!(user("other", "past_due").as_deref(), Some("2"));
        assert_eq!(user("gold", "past_due"), None);
        assert_eq!(line("trueup_subscriptions{status=\"other\"}").as_deref(), Some("2"));
        assert_eq!(line("trueup_subscriptions_unmapped_price").as_deref(), Some("2"));
        metrics.users_counted(&Counted::default());
        assert_eq!(user("pro", "active").as_deref(), Some("0"));
        metrics.part_unknown(ScrapePart::Users);
        assert_eq!(user("pro", "active"), None, "what was true once is not told as if it were now");
        assert_eq!(line("trueup_scrape_part_up{part=\"users\"}").as_deref(), Some("0"));
    }
}
