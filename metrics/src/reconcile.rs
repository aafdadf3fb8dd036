//! Reconciliations, events that were recovered, and our endpoint at Stripe.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::{
    Metrics,
    families::{counters, registered},
    labels::{DriftKind, EndpointFinding},
    measured::{Parts, shared},
};

/// What a reconciliation came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Subscriptions of Stripe that were looked at.
    pub scanned: u64,
    /// Differences that were found, by kind.
    pub drift: Vec<(DriftKind, u64)>,
    /// Differences that are gone.
    pub repaired: u64,
    /// True where it was refused.
    pub refused: bool,
}

/// The families about reconciling.
#[derive(Debug)]
pub(crate) struct ReconcileFamilies {
    scanned: IntCounter,
    drift: IntCounterVec,
    repaired: IntCounter,
    refused: IntCounter,
    last_complete: Gauge,
    awaiting_release: Gauge,
    recovered_events: IntCounter,
    endpoint_healthy: Gauge,
    endpoint_checked: Gauge,
    endpoint_findings: IntGaugeVec,
}

impl ReconcileFamilies {
    pub(crate) fn new(r: &Registry, parts: &Parts) -> Self {
        let families = Self {
            scanned: registered(
                r,
                IntCounter::new(
                    "trueup_reconcile_scanned_total",
                    "Subscriptions of Stripe that reconciliations looked at.",
                ),
            ),
            drift: counters(
                r,
                "trueup_reconcile_drift_total",
                "Differences between Stripe and what is stored here that reconciliations found, by kind; those found again are counted again.",
                &["kind"],
            ),
            repaired: registered(
                r,
                IntCounter::new("trueup_reconcile_repaired_total", "Differences that reconciliations repaired."),
            ),
            refused: registered(
                r,
                IntCounter::new(
                    "trueup_reconcile_refused_total",
                    "Reconciliations that were refused, so that nobody is hurt: too many would have lost access, or the key is of another account.",
                ),
            ),
            last_complete: parts.jobs.gauge(
                r,
                Gauge::new(
                    "trueup_reconcile_last_complete_timestamp_seconds",
                    shared!("When a reconciliation of everybody last came to its end, in seconds since 1970; 0 where none ever did."),
                ),
            ),
            awaiting_release: parts.jobs.gauge(
                r,
                Gauge::new(
                    "trueup_reconcile_awaiting_release",
                    shared!(
                        "1 while an adopted database waits for the go-ahead of its first reconciliation (trueup reconcile release), so that nothing is repaired; else 0."
                    ),
                ),
            ),
            recovered_events: registered(
                r,
                IntCounter::new(
                    "trueup_recovered_events_total",
                    "Events that never arrived and were fetched from Stripe's Events API.",
                ),
            ),
            endpoint_healthy: registered(
                r,
                Gauge::new(
                    "trueup_stripe_endpoint_healthy",
                    "1 where Stripe delivers to our webhook endpoint what it should, 0 where not; NaN before this process has looked.",
                ),
            ),
            endpoint_checked: registered(
                r,
                Gauge::new(
                    "trueup_stripe_endpoint_checked_timestamp_seconds",
                    "When this process last looked at our webhook endpoint at Stripe, in seconds since 1970; 0 where it has not. Of several replicas, whoever looked last is right.",
                ),
            ),
            endpoint_findings: registered(
                r,
                IntGaugeVec::new(
                    Opts::new(
                        "trueup_stripe_endpoint_findings",
                        "What is wrong with our webhook endpoint at Stripe: findings by kind, at the last look.",
                    ),
                    &["finding"],
                ),
            ),
        };
        for kind in DriftKind::ALL {
            let _ = families.drift.with_label_values(&[kind.as_str()]);
        }
        for finding in EndpointFinding::ALL {
            let _ = families.endpoint_findings.with_label_values(&[finding.as_str()]);
        }
        // Neither well nor ill, so that no alert goes off before anybody has looked.
        families.endpoint_healthy.set(f64::NAN);
        families
    }

    pub(crate) fn last_complete(&self, at: Option<i64>) {
        #[expect(clippy::cast_precision_loss, reason = "exact for some hundred million years")]
        self.last_complete.set(at.unwrap_or(0) as f64);
    }
}

impl Metrics {
    /// A reconciliation has ended.
    pub fn reconciled(&self, done: &Reconciled) {
        let families = &self.reconcile;
        families.scanned.inc_by(done.scanned);
        for (kind, count) in &done.drift {
            families.drift.with_label_values(&[kind.as_str()]).inc_by(*count);
        }
        families.repaired.inc_by(done.repaired);
        families.refused.inc_by(u64::from(done.refused));
    }

    /// Whether an adopted database waits for the go-ahead of its first reconciliation.
    pub fn reconcile_awaiting_release(&self, waits: bool) {
        self.reconcile.awaiting_release.set(if waits { 1.0 } else { 0.0 });
    }

    /// So many events were recovered.
    pub fn events_recovered(&self, events: u64) {
        self.reconcile.recovered_events.inc_by(events);
    }

    /// Our endpoint at Stripe was looked at, so many seconds after 1970.
    pub fn endpoint_looked_at(&self, at: i64, healthy: bool, findings: impl IntoIterator<Item = EndpointFinding>) {
        let families = &self.reconcile;
        #[expect(clippy::cast_precision_loss, reason = "exact for some hundred million years")]
        families.endpoint_checked.set(at as f64);
        families.endpoint_healthy.set(if healthy { 1.0 } else { 0.0 });
        for kind in EndpointFinding::ALL {
            families.endpoint_findings.with_label_values(&[kind.as_str()]).set(0);
        }
        for kind in findings {
            families.endpoint_findings.with_label_values(&[kind.as_str()]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(metrics: &Metrics, series: &str) -> String {
        let text = metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
        line.unwrap_or_else(|| panic!("no series {series}"))
    }

    #[test]
    fn every_series_is_there_from_the_start() {
        let metrics = Metrics::new("1", []);
        for kind in DriftKind::ALL {
            let series = format!("trueup_reconcile_drift_total{{kind=\"{}\"}}", kind.as_str());
            assert_eq!(value(&metrics, &series), "0");
        }
        for finding in EndpointFinding::ALL {
            let series = format!("trueup_stripe_endpoint_findings{{finding=\"{}\"}}", finding.as_str());
            assert_eq!(value(&metrics, &series), "0");
        }
        assert!(!metrics.render().contains("trueup_reconcile_last_complete"), "the database was not asked yet");
        metrics.jobs_measured([], None);
        assert_eq!(value(&metrics, "trueup_reconcile_last_complete_timestamp_seconds"), "0");
        assert_eq!(value(&metrics, "trueup_stripe_endpoint_healthy"), "NaN", "nobody has looked yet");
    }

    #[test]
    fn what_reconciling_and_looking_at_the_endpoint_came_to_is_told() {
        let metrics = Metrics::new("1", []);
        let drift = vec![(DriftKind::Missing, 2), (DriftKind::Absent, 0)];
        metrics.reconciled(&Reconciled { scanned: 100, drift, repaired: 2, refused: false });
        metrics.reconciled(&Reconciled {
            scanned: 50,
            drift: vec![(DriftKind::Missing, 1)],
            repaired: 0,
            refused: true,
        });
        metrics.jobs_measured([], Some(1_790_000_000));
        metrics.events_recovered(3);
        metrics.endpoint_looked_at(1_790_000_001, false, [EndpointFinding::Disabled, EndpointFinding::SomeEvents]);
        metrics.endpoint_looked_at(1_790_000_002, false, [EndpointFinding::Disabled]);
        metrics.reconcile_awaiting_release(true);
        for (series, told) in [
            ("trueup_reconcile_scanned_total", "150"),
            ("trueup_reconcile_drift_total{kind=\"missing\"}", "3"),
            ("trueup_reconcile_repaired_total", "2"),
            ("trueup_reconcile_refused_total", "1"),
            ("trueup_reconcile_last_complete_timestamp_seconds", "1790000000"),
            ("trueup_reconcile_awaiting_release", "1"),
            ("trueup_recovered_events_total", "3"),
            ("trueup_stripe_endpoint_healthy", "0"),
            ("trueup_stripe_endpoint_checked_timestamp_seconds", "1790000002"),
            ("trueup_stripe_endpoint_findings{finding=\"disabled\"}", "1"),
            ("trueup_stripe_endpoint_findings{finding=\"some_events\"}", "0"),
        ] {
            assert_eq!(value(&metrics, series), told, "{series}");
        }
    }
}
