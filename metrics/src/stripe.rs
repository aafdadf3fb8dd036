//! Calls of Stripe's API.

use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry};

use crate::{
    Metrics,
    families::{counters, registered},
    labels::{StripeAnswer, StripeEndpoint, StripeLane},
    measured::Known,
};

/// Seconds of one call; a list of many objects may take several.
const CALL_SECONDS: &[f64] = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0];
/// Seconds until there is room in the budget: a slot is a twentieth of one.
const WAIT_SECONDS: &[f64] = &[0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The families about Stripe's API.
#[derive(Debug)]
pub(crate) struct StripeFamilies {
    requests: IntCounterVec,
    seconds: HistogramVec,
    retries: IntCounter,
    budget_wait: HistogramVec,
    key_ok: IntGauge,
    clock_skew: Gauge,
    pub(crate) clock_known: Known,
}

impl StripeFamilies {
    pub(crate) fn new(r: &Registry) -> Self {
        let clock_known = Known::default();
        let families = Self {
            requests: counters(
                r,
                "trueup_stripe_requests_total",
                "Tries of calls of Stripe's API, by kind of call and by what came of them.",
                &["endpoint", "status"],
            ),
            seconds: registered(
                r,
                HistogramVec::new(
                    HistogramOpts::new(
                        "trueup_stripe_request_duration_seconds",
                        "Time of one try of a call of Stripe's API, to the last byte of its answer.",
                    )
                    .buckets(CALL_SECONDS.to_vec()),
                    &["endpoint"],
                ),
            ),
            retries: registered(
                r,
                IntCounter::new("trueup_stripe_retries_total", "Calls of Stripe's API that were tried again."),
            ),
            budget_wait: registered(
                r,
                HistogramVec::new(
                    HistogramOpts::new(
                        "trueup_stripe_budget_wait_seconds",
                        "Time that calls of Stripe's API waited for room in our own budget of calls, by who waited.",
                    )
                    .buckets(WAIT_SECONDS.to_vec()),
                    &["lane"],
                ),
            ),
            key_ok: registered(
                r,
                IntGauge::new(
                    "trueup_stripe_key_ok",
                    "0 once Stripe refused the API key, until it takes it again; else 1.",
                ),
            ),
            clock_skew: clock_known.gauge(
                r,
                Gauge::new(
                    "trueup_stripe_clock_skew_seconds",
                    "How far this process's clock is ahead of Stripe's, by the Date of its last answer, to a second; negative where it is behind. Left out before the first answer. Signatures are refused beyond 300.",
                ),
            ),
            clock_known,
        };
        for endpoint in StripeEndpoint::ALL {
            for answer in StripeAnswer::ALL {
                let _ = families.requests.with_label_values(&[endpoint.as_str(), answer.as_str()]);
            }
            let _ = families.seconds.with_label_values(&[endpoint.as_str()]);
        }
        for lane in StripeLane::ALL {
            let _ = families.budget_wait.with_label_values(&[lane.as_str()]);
        }
        families.key_ok.set(1);
        families
    }
}

impl Metrics {
    /// One try of a call ended after this many seconds.
    pub fn stripe_called(&self, endpoint: StripeEndpoint, answer: StripeAnswer, seconds: f64) {
        let families = &self.stripe;
        families.requests.with_label_values(&[endpoint.as_str(), answer.as_str()]).inc();
        families.seconds.with_label_values(&[endpoint.as_str()]).observe(seconds);
        match answer {
            StripeAnswer::KeyRefused => families.key_ok.set(0),
            StripeAnswer::Success => families.key_ok.set(1),
            _ => {}
        }
    }

    /// Stripe's clock was seen: ours is this many seconds ahead.
    pub fn stripe_clock_seen(&self, ahead: f64) {
        self.stripe.clock_skew.set(ahead);
        self.stripe.clock_known.set(true);
    }

    /// A call is tried again.
    pub fn stripe_retried(&self) {
        self.stripe.retries.inc();
    }

    /// A call waited this many seconds for room in the budget.
    pub fn stripe_waited(&self, lane: StripeLane, seconds: f64) {
        self.stripe.budget_wait.with_label_values(&[lane.as_str()]).observe(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_waits_and_the_key_are_told() {
        let metrics = Metrics::new("1", []);
        let value = |series: &str| {
            let text = metrics.render();
            let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
            line.unwrap_or_else(|| panic!("no series {series}"))
        };
        let refused = "trueup_stripe_requests_total{endpoint=\"subscriptions\",status=\"401\"}";
        assert_eq!((value(refused).as_str(), value("trueup_stripe_key_ok").as_str()), ("0", "1"));
        metrics.stripe_called(StripeEndpoint::Subscriptions, StripeAnswer::KeyRefused, 0.1);
        assert_eq!((value(refused).as_str(), value("trueup_stripe_key_ok").as_str()), ("1", "0"));
        metrics.stripe_called(StripeEndpoint::Event, StripeAnswer::ServerError, 0.1);
        assert_eq!(value("trueup_stripe_key_ok"), "0", "a fault says nothing of the key");
        metrics.stripe_called(StripeEndpoint::Event, StripeAnswer::Success, 0.1);
        assert_eq!(value("trueup_stripe_key_ok"), "1");
        assert!(!metrics.render().contains("clock_skew"), "no clock was seen yet");
        metrics.stripe_clock_seen(-3.0);
        assert_eq!(value("trueup_stripe_clock_skew_seconds"), "-3");
        metrics.stripe_retried();
        metrics.stripe_waited(StripeLane::Background, 0.04);
        assert_eq!(value("trueup_stripe_retries_total"), "1");
        assert_eq!(value("trueup_stripe_budget_wait_seconds_bucket{lane=\"background\",le=\"0.05\"}"), "1");
        assert_eq!(value("trueup_stripe_request_duration_seconds_count{endpoint=\"event\"}"), "2");
    }
}
