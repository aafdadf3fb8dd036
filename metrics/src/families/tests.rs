use super::*;
use crate::{
    InboxDepth, Pool,
    labels::{InboxStatus, LogLevel, QueryError, ScrapePart, SkipReason},
};

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
    for reason in SkipReason::ALL {
        let series = format!("trueup_events_skipped_total{{reason=\"{}\"}}", reason.as_str());
        assert_eq!(line(&text, &series), "0");
    }
    for kind in QueryError::ALL {
        let series = format!("trueup_database_query_errors_total{{kind=\"{}\"}}", kind.as_str());
        assert_eq!(line(&text, &series), "0");
    }
    for level in LogLevel::ALL {
        assert_eq!(line(&text, &format!("trueup_log_lines_total{{level=\"{}\"}}", level.as_str())), "0");
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
        "trueup_inbox_waiting_deliveries",
        "trueup_inbox_commit_duration_seconds_count",
        "trueup_inbox_commit_events_count",
        "trueup_emails_total{kind=\"trial_ending\",outcome=\"sent\"}",
        "trueup_database_up",
        "trueup_database_acquire_duration_seconds_count",
        "trueup_database_query_duration_seconds_count",
        "trueup_panics_total",
    ] {
        assert_eq!(line(&text, series), "0");
    }
    assert_eq!(line(&text, "trueup_build_info{version=\"1.2.3\"}"), "1");
}

#[test]
fn what_could_not_be_measured_is_left_out_and_its_part_says_so() {
    let metrics = metrics();
    let pending = || metrics.render().contains("trueup_inbox_events{status=\"pending\"} 4");
    let part = || line(&metrics.render(), "trueup_scrape_part_up{part=\"inbox\"}").to_owned();
    let any = || InboxStatus::ALL.iter().any(|s| metrics.render().contains(&format!("status=\"{}\"", s.as_str())));
    assert_eq!((any(), part().as_str()), (false, "0"), "nobody has measured yet");
    metrics.inbox_measured(&InboxDepth { pending: 4, ..InboxDepth::default() });
    assert_eq!((pending(), part().as_str()), (true, "1"));
    metrics.part_unknown(ScrapePart::Inbox);
    assert_eq!((any(), part().as_str()), (false, "0"), "what was true once is not told as if it were now");
    assert!(!metrics.render().contains("trueup_emails_pending"));
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
    metrics.webhook_acknowledged_after(0.004);
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
        emails: 3,
        ..InboxDepth::default()
    });
    metrics.inbox_committed(12, 0.003, true);
    metrics.inbox_committed(5, 4.0, false);
    metrics.events_skipped(SkipReason::NoKey, 2);
    metrics.usage_measured(8, 61.0);
    metrics.pool_measured(Pool { idle: 1, in_use: 9, waiting: 4, most: 10 });
    metrics.connection_acquired_after(0.2);
    metrics.query_answered_after(0.02);
    metrics.query_failed(QueryError::PoolTimeout);
    metrics.line_logged(LogLevel::Warn);
    metrics.panicked();
    metrics.deliveries_waiting(7);
    metrics.email_done(EmailKind::PaymentFailed, EmailOutcome::Retried);
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
        ("trueup_inbox_commit_duration_seconds_count", "2"),
        ("trueup_inbox_commit_events_sum", "12"),
        ("trueup_events_skipped_total{reason=\"no_key\"}", "2"),
        ("trueup_usage_windows_overdue", "8"),
        ("trueup_usage_oldest_overdue_seconds", "61"),
        ("trueup_database_pool_connections{state=\"idle\"}", "1"),
        ("trueup_database_pool_connections{state=\"in_use\"}", "9"),
        ("trueup_database_pool_waiting", "4"),
        ("trueup_database_pool_max_connections", "10"),
        ("trueup_database_acquire_duration_seconds_bucket{le=\"0.1\"}", "0"),
        ("trueup_database_acquire_duration_seconds_bucket{le=\"0.25\"}", "1"),
        ("trueup_database_query_duration_seconds_sum", "0.02"),
        ("trueup_database_query_errors_total{kind=\"pool_timeout\"}", "1"),
        ("trueup_log_lines_total{level=\"warn\"}", "1"),
        ("trueup_panics_total", "1"),
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
    let series = |class| format!("trueup_http_requests_total{{method=\"GET\",route=\"/healthz\",status=\"{class}\"}}");
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
