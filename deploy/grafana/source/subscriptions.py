"""Who may do what, whether that is what Stripe says, and how much of it is used."""

from common import alerts, api, grown, make, rate, runbook, shared
from panels import GREEN, RED, YELLOW, query, row, series, stat, steps, timeline

RECONCILE = api("Reconciliations and their differences", "Admin", "listReconciliations")
PAYING_TIERS = 'tier!="free"'
PAYING = 'tier!="free", status=~"active|trialing|past_due"'
SUBSCRIPTIONS = api("Subscriptions", "Admin", "listSubscriptions")

CONTENT = [
    row("At a glance"),
    stat("Users", f"sum({shared('trueup_users', by='tier, status')})", decimals=0, about="Everybody whom the host has told of.", width=3),
    stat("Paying users", f"sum({shared('trueup_users', PAYING, by='tier, status')})", decimals=0,
         about="On another tier than free, and active, trialing or past due.", width=3),
    stat("Unmapped prices", shared("trueup_subscriptions_unmapped_price"), thresholds=steps((1, RED)), width=3,
         about="Living subscriptions whose price leads to no plan: whoever pays has nothing.", links=[runbook("TrueupUnmappedPrice"), SUBSCRIPTIONS]),
    stat("Uncertain", shared("trueup_subscriptions_needs_refresh"), thresholds=steps((1, YELLOW)), width=3,
         about="Two snapshots of one second disagree, and Stripe has to be asked.", links=[runbook("TrueupSubscriptionsUncertain"), SUBSCRIPTIONS]),
    stat("Drift in a day", grown("trueup_reconcile_drift_total", 'kind!~"unknown_user|unmapped_price"', over="1d"), thresholds=steps((1, YELLOW)), decimals=0, width=3,
         about="Differences between Stripe and what is stored that reconciliations of the last day found. Webhooks should have left none.",
         links=[runbook("TrueupDriftFound"), RECONCILE]),
    stat("Last reconciliation", f"time() - ({shared('trueup_reconcile_last_complete_timestamp_seconds')} > 0)", unit="s", width=3,
         thresholds=steps((25_200, YELLOW), (46_800, RED)), none="never", about="How long ago everybody was last compared with Stripe; every six hours.",
         links=[runbook("TrueupReconcileOverdue"), RECONCILE]),
    stat("Oldest window overdue", shared("trueup_usage_oldest_overdue_seconds"), unit="s", thresholds=steps((600, YELLOW), (1800, RED)), width=3,
         about="For how long the oldest usage window has been over without being reset; the job runs every five minutes.", links=[runbook("TrueupResetOverdue")]),
    stat("E-mails waiting", shared("trueup_emails_pending"), thresholds=steps((20, YELLOW), (200, RED)), width=3,
         about="E-mails that wait to be sent, or for their next try.", links=[runbook("TrueupEmailsStuck")]),
    alerts("TrueupDrift.+|TrueupReconcile.+|TrueupReset.+|TrueupUnmapped.+|TrueupSubscriptions.+|TrueupEmails.+"),

    row("Users and subscriptions"),
    series("Users by tier", [query(f"sum by (tier) ({shared('trueup_users', by='tier, status')})", "{{tier}}")], stack=True,
           about="Counted once a minute.", links=[api("Look a user up", "Users", "findUser")]),
    series("Users by status", [query(f"sum by (status) ({shared('trueup_users', PAYING_TIERS, by='tier, status')})", "{{status}}")], stack=True,
           about="The subscription status of those on another tier than free."),
    series("Subscriptions by status", [query(shared("trueup_subscriptions", by="status"), "{{status}}")], stack=True,
           about="As Stripe last told; users may have several, or none.", links=[SUBSCRIPTIONS]),
    series("Changes of what users may do", [query(rate("trueup_entitlement_changes_total"), "by events, people and reconciling"),
                                             query(rate("trueup_entitlements_expired_total"), "by date")], unit="cps",
           about="Entries of the timeline, and users whose entitlement ended by date.", links=[api("Why is a user on this tier?", "Users", "getTimeline")]),
    series("Unmapped prices and uncertain subscriptions", [query(shared("trueup_subscriptions_unmapped_price"), "unmapped price"),
                                                            query(shared("trueup_subscriptions_needs_refresh"), "uncertain")],
           about="Both should be nought.", links=[runbook("TrueupUnmappedPrice"), runbook("TrueupSubscriptionsUncertain")]),
    series("E-mails by outcome", [query(grown("trueup_emails_total", by="kind, outcome", over="$__rate_interval"), "{{kind}}: {{outcome}}")], bars=True,
           about="sent: the mail server took it; dropped: its reason was gone; retried: later; failed: given up.", links=[runbook("TrueupEmailsFailed")]),

    row("True to Stripe"),
    series("Drift by kind", [query(grown("trueup_reconcile_drift_total", by="kind", over="6h"), "{{kind}}")], width=8,
           about="Differences found within six hours, which is one round. unknown_user and unmapped_price are found every time.",
           links=[runbook("TrueupDriftFound"), RECONCILE]),
    series("Compared and repaired", [query(grown("trueup_reconcile_scanned_total", over="6h"), "compared"),
                                     query(grown("trueup_reconcile_repaired_total", over="6h"), "repaired")], log=True,
           about="Subscriptions that reconciliations looked at within six hours, and differences that are gone.", links=[RECONCILE]),
    series("Refused", [query(grown("trueup_reconcile_refused_total", over="6h"), "refused")], bars=True, thresholds=steps((1, RED)),
           about="Reconciliations that changed nothing, because too many would have lost access or the API key is of another account.",
           links=[runbook("TrueupReconcileRefused"), api("Begin one", "Admin", "beginReconciliation")]),

    timeline("Adoption", [query(shared("trueup_reconcile_awaiting_release"), "first reconciliation")], width=24, height=4,
             words=[(1, "waits for a go-ahead", YELLOW), (0, "released", GREEN)],
             about="Whether an adopted database waits for a person to release its first reconciliation.", links=[runbook("TrueupReconcileAwaitingRelease"), RECONCILE]),

    row("Usage"),
    series("Uses", [query(rate("trueup_usage_consumed_total"), "counted"), query(rate("trueup_usage_refused_total"), "refused")], unit="cps",
           about="Uses counted against an allowance, and calls that were refused because it did not hold as much.", links=[api("Count a use", "Users", "consumeUsage")]),
    series("Windows rolled", [query(grown("trueup_usage_windows_rolled_total", by="instance", over="$__rate_interval"), "{{instance}}")], bars=True,
           about="Usage windows that began, whoever came by: the job, a read or a use.", links=[api("Run the reset now", "Admin", "runJob")]),
    series("Windows overdue", [query(shared("trueup_usage_windows_overdue"), "windows"), query(shared("trueup_usage_oldest_overdue_seconds"), "seconds since the oldest")],
           thresholds=steps((1800, RED)), about="Users whose window is over and was not reset yet, and for how long the oldest has been.",
           links=[runbook("TrueupResetOverdue")]),
]

DASHBOARD = make("trueup-subscriptions", "Trueup / Subscriptions and usage", "Tiers, statuses, drift, reconciling, resets and quota.", CONTENT)
