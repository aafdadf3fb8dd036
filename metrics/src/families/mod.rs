//! Every family, and what tells it of what was done.

use std::collections::BTreeSet;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector,
};

use crate::{
    database::DatabaseFamilies,
    edge::EdgeFamilies,
    inbox::InboxFamilies,
    jobs::JobFamilies,
    labels::{EmailKind, EmailOutcome, EventOutcome, HttpMethod, RejectReason, StatusClass, WebhookOutcome},
    measured::Parts,
    process::ProcessFamilies,
    reconcile::ReconcileFamilies,
    stripe::StripeFamilies,
    users::UserFamilies,
};

/// Stands for every event type that is not one of the known.
const OTHER: &str = "other";

/// Seconds of what a person or Stripe waits for.
pub(crate) const WAITS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Seconds of a batch; a statement may take up to half a minute.
pub(crate) const BATCH_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Events of a batch.
pub(crate) const BATCH_EVENTS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
/// Seconds behind Stripe, whose clock tells whole seconds only and who sends again for three days.
const LAGS: &[f64] = &[0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0, 259_200.0];

/// Every family of this process, in a registry of its own.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) registry: Registry,
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
    emails: IntCounterVec,
    http_requests: IntCounterVec,
    http_seconds: HistogramVec,
    pub(crate) parts: Parts,
    pub(crate) inbox: InboxFamilies,
    pub(crate) users: UserFamilies,
    pub(crate) database: DatabaseFamilies,
    pub(crate) process: ProcessFamilies,
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
        let parts = Parts::register(r);
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
                "Time from a webhook's last byte to its acknowledgement, the commit included; deliveries that could not be stored are not in it.",
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
            emails: counters(
                r,
                "trueup_emails_total",
                "E-mails that came out of a try to send them, by what they are about and by outcome.",
                &["kind", "outcome"],
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
            inbox: InboxFamilies::register(r, &parts),
            users: UserFamilies::register(r, &parts),
            database: DatabaseFamilies::register(r, &parts),
            process: ProcessFamilies::register(r),
            jobs: JobFamilies::register(r, &parts),
            reconcile: ReconcileFamilies::new(r, &parts),
            edge: EdgeFamilies::new(r),
            stripe: StripeFamilies::new(r),
            parts,
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

    /// A delivery was stored and acknowledged after this many seconds.
    pub fn webhook_acknowledged_after(&self, seconds: f64) {
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

    /// A try to send an e-mail came to its end.
    pub fn email_done(&self, kind: EmailKind, outcome: EmailOutcome) {
        self.emails.with_label_values(&[kind.as_str(), outcome.as_str()]).inc();
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

pub(crate) fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    registered(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
}

#[cfg(test)]
mod tests;
