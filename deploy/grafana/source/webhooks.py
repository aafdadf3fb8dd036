"""The road of an event: it arrives, waits, is applied, or fails."""

from common import ALL, WEBHOOK, alerts, api, grown, make, one, rate, runbook, shared
from panels import RED, YELLOW, quantiles, query, row, series, stat, steps

RETRY = api("Apply failed events again", "Admin", "retryWebhooks")
FAILURES = api("What failed, by cause", "Admin", "listFailures")
LIST = api("Events in the inbox", "Admin", "listWebhooks")

CONTENT = [
    row("At a glance"),
    stat("Deliveries", rate("trueup_webhooks_received_total"), unit="reqps", decimals=2,
         about="Deliveries signed by Stripe, a second.", links=[runbook("TrueupWebhooksSilent")]),
    stat("Acknowledged within 1 s", f"1 - max(trueup:webhook_slo_errors:ratio_rate1h{{{ALL}}})", unit="percentunit", decimals=3,
         thresholds=steps((0.99, YELLOW), (0.999, "green"), first=RED), none="no deliveries",
         about="Of the last hour's deliveries, those that were stored and answered within 1 s. The objective is 99.9 %.",
         links=[runbook("TrueupWebhookBudgetBurn")]),
    stat("Oldest pending event", shared("trueup_inbox_oldest_age_seconds", 'status="pending"'), unit="s",
         thresholds=steps((60, YELLOW), (600, RED)), about="How long the oldest event has waited to be applied. Above 600 s somebody is told.",
         links=[runbook("TrueupInboxStuck"), LIST]),
    stat("Failed for good", shared("trueup_inbox_events", 'status="failed"'), thresholds=steps((1, RED)),
         about="Events that were given up. They wait for a person: `trueup webhooks failures`.", links=[runbook("TrueupEventsFailed"), FAILURES, RETRY]),
    stat("Parked", shared("trueup_inbox_events", 'status="parked"'), thresholds=steps((1, YELLOW)),
         about="Events with a subscription of which nobody knows whose it is. They go on as soon as its user is there.",
         links=[runbook("TrueupEventsParked"), LIST]),
    stat("Rejected in an hour", grown("trueup_webhooks_rejected_total", over="1h"), thresholds=steps((5, YELLOW), (50, RED)), decimals=0,
         about="Requests to the webhook's address that were not taken as an event of Stripe.", links=[runbook("TrueupWebhooksRejected")]),
    alerts("TrueupWebhook.+|TrueupInbox.+|TrueupEvent.+|TrueupSignatures.+|TrueupClock.+|TrueupDown"),

    row("Arriving: rate, errors, duration"),
    series("Deliveries by outcome", [query(rate("trueup_webhooks_received_total", by="outcome"), "{{outcome}}")], unit="reqps", stack=True,
           about="recorded and skipped are new, duplicate was there; refused cannot be stored ever, unavailable not now: Stripe sends it again.",
           links=[api("What came, and what became of it", "Admin", "webhookStats")]),
    series("Deliveries by type", [query(f"topk(10, {rate('trueup_webhooks_received_total', by='type')})", "{{type}}")], unit="reqps", stack=True,
           about="The ten most frequent event types; types that are not handled share `other`.", links=[LIST]),
    series("Rejected by reason", [query(rate("trueup_webhooks_rejected_total", by="reason"), "{{reason}}")], unit="reqps", stack=True,
           about="signature-mismatch: a wrong secret, or not Stripe. signature-expired: clocks disagree, or a replay.",
           links=[runbook("TrueupWebhooksRejected"), runbook("TrueupWebhooksPartlyRejected"), runbook("TrueupSignaturesExpired")]),
    series("Time to acknowledge", quantiles(one("trueup_webhook_ack_duration_seconds_bucket")), unit="s", thresholds=steps((1, RED)),
           about="From a webhook's last byte to its acknowledgement, the commit included. Stripe waits for 10 s at least; the objective is 1 s.",
           links=[runbook("TrueupWebhookBudgetBurn")]),
    series("Answers by class", [query(rate("trueup_http_requests_total", f'route="{WEBHOOK}"', "status"), "{{status}}")], unit="reqps", stack=True,
           about="How requests to the webhook's address were answered: 4xx is not Stripe's, or not an event; 5xx was not stored.",
           links=[runbook("TrueupWebhookBudgetBurn")]),
    series("Waiting for their commit", [query(f"sum by (instance) ({one('trueup_inbox_waiting_deliveries')})", "{{instance}}")],
           about="Deliveries that wait in memory for the next commit, by replica. Beyond a bound they are answered 503.",
           links=[runbook("TrueupDatabasePoolExhausted")]),
    series("Time of a commit", quantiles(one("trueup_inbox_commit_duration_seconds_bucket")), unit="s",
           about="One commit stores all deliveries that wait together. If it is slow, the database is.", links=[runbook("TrueupWebhookBudgetBurn")]),
    series("Events in a commit", quantiles(one("trueup_inbox_commit_events_bucket")),
           about="How many deliveries one commit stores: the busier, the more."),
    series("Skipped by reason", [query(rate("trueup_events_skipped_total", by="reason"), "{{reason}}")], unit="reqps", stack=True,
           about="Stored and not applied. other_mode: live events at a test server, or the reverse.", links=[runbook("TrueupEventsOfOtherMode")]),

    row("Objective: 99.9 % acknowledged within 1 s"),
    series("Burn rate", [query(f"max(trueup:webhook_slo_errors:ratio_rate{window}{{{ALL}}}) / 0.001", window)
                         for window in ("5m", "30m", "1h", "2h", "6h", "1d", "3d")], width=16, thresholds=steps((1, YELLOW), (6, "orange"), (14.4, RED)),
           about="How many times faster than permitted the error budget goes. At 1 it lasts for exactly 30 days. 14.4 over an hour and 6 over six hours "
                 "wake a person; 3 over a day and 1 over three days can wait for the morning.", links=[runbook("TrueupWebhookBudgetBurn")]),
    stat("Budget used in 3 days", f"max(trueup:webhook_slo_errors:ratio_rate3d{{{ALL}}}) / 0.001 / 10", unit="percentunit", width=4, height=8,
         thresholds=steps((0.05, YELLOW), (0.1, RED)), none="no deliveries", decimals=2,
         about="The share of 30 days' budget that the last 3 days used up. A tenth is what they may.", links=[runbook("TrueupWebhookBudgetBurn")]),
    stat("Deliveries in an hour", f"sum(trueup:webhook_deliveries:rate1h{{{ALL}}}) * 3600", decimals=0, width=4, height=8,
         about="Of few deliveries a single slow one is a large share: fewer than ten bad ones set off no alert."),

    row("Waiting"),
    series("Events not done", [query(shared("trueup_inbox_events", by="status"), "{{status}}")],
           about="pending: due, or waiting for the next try; processing: under a lease; parked: waiting for a user; failed: for a person.",
           links=[runbook("TrueupInboxStuck"), runbook("TrueupEventsParked"), LIST]),
    series("Oldest event", [query(shared("trueup_inbox_oldest_age_seconds", by="status"), "{{status}}")], unit="s", thresholds=steps((600, RED)),
           about="Depth alone says little: ten thousand events are nothing if the oldest came a second ago.", links=[runbook("TrueupInboxStuck"), LIST]),
    series("Claims taken back", [query(grown("trueup_claims_rescued_total", by="instance", over="$__rate_interval"), "{{instance}}")], bars=True,
           about="Events whose processor died in the middle of it; they are done again.", links=[runbook("TrueupRunsCutOff")]),

    row("Applying"),
    series("Lag behind Stripe", quantiles(one("trueup_event_lag_seconds_bucket")), unit="s", thresholds=steps((60, YELLOW)),
           about="From the second in which Stripe made an event to the commit of its effects, Stripe's own delivery included. What Stripe sends "
                 "again after an outage is old when it comes.", links=[runbook("TrueupEventLagHigh")]),
    series("Tries by outcome", [query(rate("trueup_events_total", by="outcome"), "{{outcome}}")], unit="reqps", stack=True,
           about="applied, and stale where a newer snapshot was there already. retried and failed are mistakes in an event's own data; postponed "
                 "waits for Stripe's API.", links=[runbook("TrueupEventsFailing"), FAILURES]),
    series("Recovered and missed", [query(grown("trueup_recovered_events_total", by="instance", over="$__rate_interval"), "{{instance}}")], bars=True,
           about="Events that never came as webhooks and were fetched from Stripe's list of events.", links=[runbook("TrueupWebhooksMissed")]),
    series("Time of a batch", quantiles(one("trueup_apply_batch_duration_seconds_bucket")), unit="s",
           about="From a batch's claim to its commit.", links=[runbook("TrueupEventLagHigh")]),
    series("Events in a batch", quantiles(one("trueup_apply_batch_events_bucket")), about="A backlog makes large batches; an idle server batches of one."),
    series("Changes of what users may do", [query(rate("trueup_entitlement_changes_total"), "changes")], unit="cps",
           about="Entries of the timeline: what came of all this.", links=[api("The feed of changes", "Users", "listChanges")]),
]

DASHBOARD = make("trueup-webhooks", "Trueup / Webhooks", "The road of an event, from Stripe's delivery to its effect.", CONTENT)
