//! Every family, and what tells it of what was done.

use std::collections::BTreeSet;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

use crate::{
    edge::EdgeFamilies,
    jobs::JobFamilies,
    labels::{
        EmailKind, EmailOutcome, EventOutcome, HttpMethod, InboxStatus, RejectReason, StatusClass, WebhookOutcome,
    },
    reconcile::ReconcileFamilies,
    stripe::StripeFamilies,
};

/// Stands for every event type that is not one of the known.
const OTHER: &str = "other";

/// Seconds of what a person or Stripe waits for.
const WAITS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Seconds of a batch; a statement may take up to half a minute.
const BATCH_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Events of a batch.
const BATCH_EVENTS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
/// Seconds behind Stripe, whose clock tells whole seconds only and who sends again for three days.
const LAGS: &[f64] = &[0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0, 259_200.0];

/// The depth of the inbox, as it was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct InboxDepth {
    /// Due, or waiting for their next attempt; the parked ones not counted.
    pub pending: i64,
    /// Under a lease.
    pub processing: i64,
    /// Given up.
    pub failed: i64,
    /// Waiting for a user.
    pub parked: i64,
    /// Age of the oldest pending event, in seconds; 0 where there is none.
    pub oldest_pending_seconds: f64,
    /// Age of the oldest event under a lease, in seconds; 0 where there is none.
    pub oldest_processing_seconds: f64,
}

/// Every family of this process, in a registry of its own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    event_types: BTreeSet<&'static str>,
    webhooks_received: IntCounterVec,
    webhooks_rejected: IntCounterVec,
    webhook_ack_seconds: Histogram,
    events: IntCounterVec,
    batch_seconds: Histogram,
    batch_events: Histogram,
    event_lag_seconds: Histogram,
    entitlement_changes: IntCounter,
    claims_rescued: IntCounter,
    usage_consumed: IntCounter,
    usage_refused: IntCounter,
    usage_windows_rolled: IntCounter,
    entitlements_expired: IntCounter,
    inbox_events: IntGaugeVec,
    inbox_oldest_seconds: GaugeVec,
    inbox_waiting: IntGauge,
    emails: IntCounterVec,
    emails_pending: IntGauge,
    http_requests: IntCounterVec,
    http_seconds: HistogramVec,
    database_up: Gauge,
    pub(crate) edge: EdgeFamilies,
    pub(crate) jobs: JobFamilies,
    pub(crate) reconcile: ReconcileFamilies,
    pub(crate) stripe: StripeFamilies,
}

impl Metrics {
    /// All families, with every series whose labels are known beforehand at 0: a series that appears only with its first event hides
    /// that event from `rate` and `increase`.
    ///
    /// `event_types` are the types that get a label value of their own; all others share `other`.
    pub fn new(version: &str, event_types: impl IntoIterator<Item = &'static str>) -> Self {
        let registry = Registry::new();
        let r = &registry;
        let metrics = Self {
            webhooks_received: counters(
                r,
                "trueup_webhooks_received_total",
                "Deliveries signed by Stripe, by event type and by how they were answered.",
                &["type", "outcome"],
            ),
            webhooks_rejected: counters(
                r,
                "trueup_webhooks_rejected_total",
                "Requests to the webhook address that were not taken as an event of Stripe, by reason.",
                &["reason"],
            ),
            webhook_ack_seconds: histogram(
                r,
                "trueup_webhook_ack_duration_seconds",
                "Time from a webhook's last byte to its answer, the commit included.",
                WAITS,
            ),
            events: counters(
                r,
                "trueup_events_total",
                "Events that came out of an attempt to apply them, by outcome.",
                &["outcome"],
            ),
            batch_seconds: histogram(
                r,
                "trueup_apply_batch_duration_seconds",
                "Time to apply one batch of events, from its claim to its commit.",
                BATCH_SECONDS,
            ),
            batch_events: histogram(
                r,
                "trueup_apply_batch_events",
                "Events in a batch that was applied.",
                BATCH_EVENTS,
            ),
            event_lag_seconds: histogram(
                r,
                "trueup_event_lag_seconds",
                "Time from the second in which Stripe made an event to the commit of its effects.",
                LAGS,
            ),
            entitlement_changes: registered(
                r,
                IntCounter::new(
                    "trueup_entitlement_changes_total",
                    "Changes of what a user may do: entries of the timeline.",
                ),
            ),
            claims_rescued: registered(
                r,
                IntCounter::new(
                    "trueup_claims_rescued_total",
                    "Claims taken back because whoever held them died: their lease ran out.",
                ),
            ),
            usage_consumed: registered(
                r,
                IntCounter::new("trueup_usage_consumed_total", "Uses that were counted against an allowance."),
            ),
            usage_refused: registered(
                r,
                IntCounter::new(
                    "trueup_usage_refused_total",
                    "Calls that were refused because the allowance did not hold as much.",
                ),
            ),
            usage_windows_rolled: registered(
                r,
                IntCounter::new(
                    "trueup_usage_windows_rolled_total",
                    "Usage windows that began, or were entered again, whoever came by: a job, a read or a use.",
                ),
            ),
            entitlements_expired: registered(
                r,
                IntCounter::new(
                    "trueup_entitlements_expired_total",
                    "Users whose entitlement ended, or changed, by date: a scheduled end, grace or an override.",
                ),
            ),
            inbox_events: registered(
                r,
                IntGaugeVec::new(
                    Opts::new("trueup_inbox_events", "Events in the inbox that are not done, by where they stand."),
                    &["status"],
                ),
            ),
            inbox_oldest_seconds: registered(
                r,
                GaugeVec::new(
                    Opts::new(
                        "trueup_inbox_oldest_age_seconds",
                        "Age of the oldest event of the inbox in this state; 0 where there is none.",
                    ),
                    &["status"],
                ),
            ),
            inbox_waiting: registered(
                r,
                IntGauge::new(
                    "trueup_inbox_waiting_deliveries",
                    "Deliveries that wait in memory for their commit; bounded, and 503 beyond.",
                ),
            ),
            emails: counters(
                r,
                "trueup_emails_total",
                "E-mails that came out of a try to send them, by what they are about and by outcome.",
                &["kind", "outcome"],
            ),
            emails_pending: registered(
                r,
                IntGauge::new("trueup_emails_pending", "E-mails that wait to be sent, or for their next try."),
            ),
            http_requests: counters(
                r,
                "trueup_http_requests_total",
                "Requests answered, by route pattern, method and class of status.",
                &["route", "method", "status"],
            ),
            http_seconds: registered(
                r,
                HistogramVec::new(
                    HistogramOpts::new(
                        "trueup_http_request_duration_seconds",
                        "Time from a request's head to its answer, by route pattern and method.",
                    )
                    .buckets(WAITS.to_vec()),
                    &["route", "method"],
                ),
            ),
            database_up: registered(
                r,
                Gauge::new("trueup_database_up", "1 where the database answered when this was last measured, else 0."),
            ),
            edge: EdgeFamilies::new(r),
            jobs: JobFamilies::register(r),
            reconcile: ReconcileFamilies::new(r),
            stripe: StripeFamilies::new(r),
            event_types: event_types.into_iter().collect(),
            registry,
        };
        metrics.start(version);
        metrics
    }

    fn start(&self, version: &str) {
        let build = IntGaugeVec::new(
            Opts::new("trueup_build_info", "Always 1; the label tells which version runs."),
            &["version"],
        );
        registered(&self.registry, build).with_label_values(&[version]).set(1);
        #[cfg(target_os = "linux")]
        {
            let process = prometheus::process_collector::ProcessCollector::for_self();
            self.registry.register(Box::new(process)).expect("no family of ours begins with `process_`");
        }
        for event_type in self.event_types.iter().copied().chain([OTHER]) {
            for outcome in WebhookOutcome::ALL {
                let _ = self.webhooks_received.with_label_values(&[event_type, outcome.as_str()]);
            }
        }
        for reason in RejectReason::ALL {
            let _ = self.webhooks_rejected.with_label_values(&[reason.as_str()]);
        }
        for outcome in EventOutcome::ALL {
            let _ = self.events.with_label_values(&[outcome.as_str()]);
        }
        for kind in EmailKind::ALL {
            for outcome in EmailOutcome::ALL {
                let _ = self.emails.with_label_values(&[kind.as_str(), outcome.as_str()]);
            }
        }
        self.inbox_measured(&InboxDepth::default());
    }

    /// A delivery of Stripe was answered.
    pub fn webhook_received(&self, event_type: &str, outcome: WebhookOutcome) {
        let event_type = self.event_types.get(event_type).copied().unwrap_or(OTHER);
        self.webhooks_received.with_label_values(&[event_type, outcome.as_str()]).inc();
    }

    /// A request to the webhook address was not taken as an event.
    pub fn webhook_rejected(&self, reason: RejectReason) {
        self.webhooks_rejected.with_label_values(&[reason.as_str()]).inc();
    }

    /// A delivery was answered after this many seconds.
    pub fn webhook_answered_after(&self, seconds: f64) {
        self.webhook_ack_seconds.observe(seconds);
    }

    /// So many events came out of an attempt.
    pub fn events_done(&self, outcome: EventOutcome, events: usize) {
        self.events.with_label_values(&[outcome.as_str()]).inc_by(events as u64);
    }

    /// A batch was applied.
    pub fn batch_applied(&self, events: usize, seconds: f64) {
        self.batch_events.observe(u32::try_from(events).map_or(f64::INFINITY, f64::from));
        self.batch_seconds.observe(seconds);
    }

    /// An event's effects were committed this many seconds after Stripe made it.
    pub fn event_applied_after(&self, seconds: f64) {
        self.event_lag_seconds.observe(seconds);
    }

    /// So many entries were added to the timeline.
    pub fn entitlements_changed(&self, changes: usize) {
        self.entitlement_changes.inc_by(changes as u64);
    }

    /// So many claims were taken back.
    pub fn claims_rescued(&self, claims: u64) {
        self.claims_rescued.inc_by(claims);
    }

    /// So many uses were counted.
    pub fn usage_consumed(&self, uses: u64) {
        self.usage_consumed.inc_by(uses);
    }

    /// A call was refused for want of allowance.
    pub fn usage_refused(&self) {
        self.usage_refused.inc();
    }

    /// So many windows began, and so many users' entitlements ended by date.
    pub fn usage_rolled(&self, windows: u64, expired: u64) {
        self.usage_windows_rolled.inc_by(windows);
        self.entitlements_expired.inc_by(expired);
    }

    /// The inbox was measured.
    pub fn inbox_measured(&self, depth: &InboxDepth) {
        for (status, events) in [
            (InboxStatus::Pending, depth.pending),
            (InboxStatus::Processing, depth.processing),
            (InboxStatus::Failed, depth.failed),
            (InboxStatus::Parked, depth.parked),
        ] {
            self.inbox_events.with_label_values(&[status.as_str()]).set(events);
        }
        for (status, seconds) in [
            (InboxStatus::Pending, depth.oldest_pending_seconds),
            (InboxStatus::Processing, depth.oldest_processing_seconds),
        ] {
            self.inbox_oldest_seconds.with_label_values(&[status.as_str()]).set(seconds);
        }
    }

    /// So many deliveries wait for their commit.
    pub fn deliveries_waiting(&self, deliveries: usize) {
        self.inbox_waiting.set(i64::try_from(deliveries).unwrap_or(i64::MAX));
    }

    /// A try to send an e-mail came to its end.
    pub fn email_done(&self, kind: EmailKind, outcome: EmailOutcome) {
        self.emails.with_label_values(&[kind.as_str(), outcome.as_str()]).inc();
    }

    /// So many e-mails wait.
    pub fn emails_pending(&self, emails: i64) {
        self.emails_pending.set(emails);
    }

    /// Whether the database answered.
    pub fn database_up(&self, up: bool) {
        self.database_up.set(if up { 1.0 } else { 0.0 });
    }

    /// There is such a route: its series begin at 0. `route` must come from the router, whose patterns are a closed set.
    pub fn http_route(&self, route: &str, method: HttpMethod) {
        for class in StatusClass::ALL {
            let _ = self.http_requests.with_label_values(&[route, method.as_str(), class.as_str()]);
        }
        let _ = self.http_seconds.with_label_values(&[route, method.as_str()]);
    }

    /// A request was answered. `route` must come from the router, whose patterns are a closed set.
    pub fn http_answered(&self, route: &str, method: HttpMethod, status: u16, seconds: f64) {
        let class = StatusClass::of(status);
        self.http_requests.with_label_values(&[route, method.as_str(), class.as_str()]).inc();
        self.http_seconds.with_label_values(&[route, method.as_str()]).observe(seconds);
    }

    /// Everything, in Prometheus's text format.
    pub fn render(&self) -> String {
        // The encoder fails only for a family without a name or without series, and there is none; what it wrote until then stays.
        let mut text = String::new();
        let _ = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text);
        text
    }
}

/// Registers a family that was just made; clones share its series.
pub(crate) fn registered<C: Collector + Clone + 'static>(registry: &Registry, family: prometheus::Result<C>) -> C {
    let family = family.expect("every family is well-formed");
    registry.register(Box::new(family.clone())).expect("every family has a name of its own");
    family
}

pub(crate) fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    registered(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new("1.2.3", ["invoice.paid", "customer.created"])
    }

    fn line<'t>(text: &'t str, series: &str) -> &'t str {
        let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no series {series} in:\n{text}"))
    }

    #[test]
    fn every_series_with_closed_labels_is_there_from_the_start() {
        let text = metrics().render();
        for event_type in ["invoice.paid", "customer.created", "other"] {
            for outcome in WebhookOutcome::ALL {
                let series =
                    format!("trueup_webhooks_received_total{{outcome=\"{}\",type=\"{event_type}\"}}", outcome.as_str());
                assert_eq!(line(&text, &series), "0");
            }
        }
        for reason in RejectReason::ALL {
            let series = format!("trueup_webhooks_rejected_total{{reason=\"{}\"}}", reason.as_str());
            assert_eq!(line(&text, &series), "0");
        }
        for outcome in EventOutcome::ALL {
            assert_eq!(line(&text, &format!("trueup_events_total{{outcome=\"{}\"}}", outcome.as_str())), "0");
        }
        for status in InboxStatus::ALL {
            assert_eq!(line(&text, &format!("trueup_inbox_events{{status=\"{}\"}}", status.as_str())), "0");
        }
        for series in [
            "trueup_webhook_ack_duration_seconds_count",
            "trueup_apply_batch_duration_seconds_count",
            "trueup_apply_batch_events_count",
            "trueup_event_lag_seconds_count",
            "trueup_entitlement_changes_total",
            "trueup_claims_rescued_total",
            "trueup_usage_consumed_total",
            "trueup_usage_refused_total",
            "trueup_usage_windows_rolled_total",
            "trueup_entitlements_expired_total",
            "trueup_inbox_oldest_age_seconds{status=\"pending\"}",
            "trueup_inbox_oldest_age_seconds{status=\"processing\"}",
            "trueup_inbox_waiting_deliveries",
            "trueup_emails_total{kind=\"trial_ending\",outcome=\"sent\"}",
            "trueup_emails_pending",
            "trueup_database_up",
        ] {
            assert_eq!(line(&text, series), "0");
        }
        assert_eq!(line(&text, "trueup_build_info{version=\"1.2.3\"}"), "1");
    }

    #[test]
    fn an_event_type_nobody_knows_makes_no_series_of_its_own() {
        let metrics = metrics();
        metrics.webhook_received("invoice.paid", WebhookOutcome::Recorded);
        metrics.webhook_received("evil.type_1", WebhookOutcome::Skipped);
        metrics.webhook_received("evil.type_2", WebhookOutcome::Skipped);
        let text = metrics.render();
        assert_eq!(line(&text, "trueup_webhooks_received_total{outcome=\"recorded\",type=\"invoice.paid\"}"), "1");
        assert_eq!(line(&text, "trueup_webhooks_received_total{outcome=\"skipped\",type=\"other\"}"), "2");
        assert!(!text.contains("evil"));
    }

    #[test]
    fn what_was_told_is_rendered() {
        let metrics = metrics();
        metrics.webhook_rejected(RejectReason::SignatureExpired);
        metrics.webhook_answered_after(0.004);
        metrics.events_done(EventOutcome::Applied, 3);
        metrics.batch_applied(3, 0.02);
        metrics.event_applied_after(1.5);
        metrics.entitlements_changed(2);
        metrics.claims_rescued(1);
        metrics.usage_consumed(12);
        metrics.usage_refused();
        metrics.usage_rolled(5, 4);
        metrics.inbox_measured(&InboxDepth {
            pending: 4,
            failed: 1,
            parked: 2,
            oldest_pending_seconds: 2.5,
            ..InboxDepth::default()
        });
        metrics.deliveries_waiting(7);
        metrics.email_done(EmailKind::PaymentFailed, EmailOutcome::Retried);
        metrics.emails_pending(3);
        metrics.database_up(true);
        let text = metrics.render();
        for (series, value) in [
            ("trueup_webhooks_rejected_total{reason=\"signature-expired\"}", "1"),
            ("trueup_webhook_ack_duration_seconds_bucket{le=\"0.005\"}", "1"),
            ("trueup_events_total{outcome=\"applied\"}", "3"),
            ("trueup_apply_batch_events_sum", "3"),
            ("trueup_apply_batch_duration_seconds_count", "1"),
            ("trueup_event_lag_seconds_sum", "1.5"),
            ("trueup_entitlement_changes_total", "2"),
            ("trueup_claims_rescued_total", "1"),
            ("trueup_usage_consumed_total", "12"),
            ("trueup_usage_refused_total", "1"),
            ("trueup_usage_windows_rolled_total", "5"),
            ("trueup_entitlements_expired_total", "4"),
            ("trueup_inbox_events{status=\"pending\"}", "4"),
            ("trueup_inbox_events{status=\"parked\"}", "2"),
            ("trueup_inbox_oldest_age_seconds{status=\"pending\"}", "2.5"),
            ("trueup_inbox_waiting_deliveries", "7"),
            ("trueup_emails_total{kind=\"payment_failed\",outcome=\"retried\"}", "1"),
            ("trueup_emails_pending", "3"),
            ("trueup_database_up", "1"),
        ] {
            assert_eq!(line(&text, series), value, "{series}");
        }
    }

    #[test]
    fn a_known_route_begins_at_zero_and_counts_by_class() {
        let metrics = metrics();
        metrics.http_route("/healthz", HttpMethod::Get);
        metrics.http_answered("/healthz", HttpMethod::Get, 200, 0.001);
        let text = metrics.render();
        let series =
            |class| format!("trueup_http_requests_total{{method=\"GET\",route=\"/healthz\",status=\"{class}\"}}");
        assert_eq!(line(&text, &series("2xx")), "1");
        assert_eq!(line(&text, &series("5xx")), "0");
        assert_eq!(line(&text, "trueup_http_request_duration_seconds_count{method=\"GET\",route=\"/healthz\"}"), "1");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_tells_of_itself() {
        let text = metrics().render();
        for family in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
            assert!(text.contains(family), "{family}");
        }
    }

    #[test]
    fn every_family_has_a_help_text_and_our_prefix() {
        for family in metrics().registry.gather() {
            let name = family.name();
            assert!(name.starts_with("trueup_") || name.starts_with("process_"), "{name}");
            assert!(family.help().ends_with('.'), "{name}");
        }
    }
}
