//! What is right and what is wrong in a configuration. Pure: no file and no variable is read.

use std::{path::Path, time::Duration};

use api::config::{Config, ConfigErrors, LogFormat};
use billing::db::Pooler;
use chrono::TimeDelta;
use scheduler::{JobSettings, Missed};

const TOKEN: &str = "0123456789abcdef";

fn config(env: &[(&str, &str)], file: &str) -> Result<Config, ConfigErrors> {
    let find = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Config::from(&find, Some((Path::new("trueup.toml"), file)))
}

fn right(env: &[(&str, &str)], file: &str) -> Config {
    config(env, file).unwrap_or_else(|errors| panic!("{errors}"))
}

fn mistakes(env: &[(&str, &str)], file: &str) -> Vec<String> {
    config(env, file).expect_err("there are mistakes").mistakes
}

/// The one mistake there is.
fn mistake(env: &[(&str, &str)], file: &str) -> String {
    let mistakes = mistakes(env, file);
    let [mistake] = &mistakes[..] else { panic!("one was expected: {mistakes:#?}") };
    mistake.clone()
}

#[test]
fn nothing_at_all_is_a_whole_configuration() {
    let config = right(&[], "");
    assert_eq!(config.database_url.expose(), "sqlite://data/trueup.db");
    assert_eq!(config.listen, "127.0.0.1:8000");
    assert_eq!(config.stripe_api_base, "https://api.stripe.com");
    assert_eq!(config.data, Path::new("data"));
    assert_eq!(config.catalog.plans().len(), 4);
    assert_eq!(config.intake_rules.livemode, None);
    assert!(config.development);
    assert!(config.warnings.is_empty());
    assert_eq!((config.inbox.writers, config.database.max_connections), (1, 8));
    assert!(config.inbox.deadline < Duration::from_secs(5) && config.database.acquire_timeout < config.inbox.deadline);
}

#[test]
fn everything_can_be_set_in_the_file_and_the_environment_wins() {
    let file = r#"
        database_url = "postgres://trueup:password@db.internal:5432/trueup"
        trueup_listen = "0.0.0.0:9000"
        trueup_public_url = "https://billing.example.com/api/v1/stripe/webhook/"
        stripe_webhook_secret = ["whsec_new", "whsec_old"]
        stripe_secret_key = "rk_live_1"
        stripe_api_base = "https://stripe.internal/"
        stripe_livemode = true
        stripe_account = "acct_1"
        trueup_api_token = "0123456789abcdef-api"
        trueup_admin_token = "0123456789abcdef-admin"
        smtp_url = "smtps://user:password@mail.internal:465"
        trueup_log = "debug"
        trueup_log_format = "json"
        trueup_data = "/var/lib/trueup"

        [[plans]]
        tier = "free"
        monthly_limit = 3
        [[plans]]
        tier = "gold"
        prices = ["price_1"]
        lookup_keys = ["gold"]
        products = ["prod_1"]

        [mail]
        from = "Example <billing@example.com>"
        reply_to = "help@example.com"
        product_name = "Example Pro"
        templates = "texts"
        concurrency = 2
        timeout = "10s"
        [retention]
        payload_days = 20
        event_days = 100
        email_days = 200
        job_run_days = 10
        usage_record_days = 50
        reconciliation_days = 40
        [policy]
        past_due_grace_days = 7
        link_by_email = false
        [retry]
        pauses = ["250ms", "5s"]
        attempts = 3
        [intake]
        queue_events = 100
        queue_bytes = 2097152
        batch_events = 50
        deadline = "4s"
        [processor]
        batch_events = 10
        lease = "20s"
        poll = "500ms"
        [database]
        max_connections = 20
        acquire_timeout = "2s"
        statement_timeout = "1m"
        reserved_connections = 5
        lock_timeout = "5s"
        idle_in_transaction_timeout = "10s"
        application_name = "billing"
        slow_statement = "0s"
        pooler = "transaction"
        [jobs.retry_pending_webhooks]
        schedule = "30 */2 * * * *"
        enabled = false
        timeout = "1m"
        jitter = "5s"
        missed = "skip"
    "#;
    let config = right(&[("TRUEUP_LISTEN", "127.0.0.1:0"), ("TRUEUP_DATA", " ")], file);
    assert_eq!(config.listen, "127.0.0.1:0", "the environment wins");
    assert_eq!(config.public_url.as_deref(), Some("https://billing.example.com"), "with or without the path");
    assert_eq!(config.data, Path::new("/var/lib/trueup"), "an empty variable counts as unset");
    assert_eq!(config.database_shown(), "PostgreSQL, db.internal:5432/trueup");
    assert_eq!(config.webhook_secrets.len(), 2);
    assert_eq!(config.stripe_api_base, "https://stripe.internal");
    assert_eq!(config.intake_rules.livemode, Some(true));
    assert_eq!(config.intake_rules.account.as_deref(), Some("acct_1"));
    assert_eq!(config.log_format, Some(LogFormat::Json));
    assert!(!config.development);
    assert!(config.catalog.by_tier("gold").is_some() && config.catalog.by_tier("pro").is_none());
    assert_eq!(config.catalog.free().monthly_limit, Some(3));
    assert_eq!(config.policy.past_due_grace, Some(TimeDelta::days(7)));
    assert!(!config.policy.link_by_email && config.policy.queue_emails);
    let mail = config.mail.as_ref().expect("a mail server");
    assert_eq!((mail.product.as_str(), mail.concurrency, mail.timeout), ("Example Pro", 2, Duration::from_secs(10)));
    assert_eq!(mail.templates.as_deref(), Some(Path::new("texts")));
    assert!(mail.reply_to.is_some());
    let kept = config.retention;
    assert_eq!((kept.payload_days, kept.event_days, kept.email_days), (20, 100, 200));
    assert_eq!((kept.job_run_days, kept.usage_record_days, kept.reconciliation_days), (10, 50, 40));
    assert_eq!(config.processor.backoff.pauses, [Duration::from_millis(250), Duration::from_secs(5)]);
    assert_eq!(config.processor.backoff.attempts, 3);
    assert_eq!((config.inbox.queue_events, config.inbox.queue_bytes), (100, 2_097_152));
    assert_eq!((config.inbox.batch_events, config.inbox.writers), (50, 2));
    assert_eq!(config.inbox.deadline, Duration::from_secs(4));
    assert_eq!(config.processor.batch_events, 10);
    assert_eq!((config.processor.lease, config.processor.poll), (Duration::from_secs(20), Duration::from_millis(500)));
    assert_eq!(config.database.max_connections, 20);
    assert_eq!(config.database.acquire_timeout, Duration::from_secs(2));
    assert_eq!(config.database.statement_timeout, Duration::from_mins(1));
    assert_eq!(config.database.reserved_connections, 5);
    assert_eq!(config.database.lock_timeout, Some(Duration::from_secs(5)));
    assert_eq!(config.database.idle_in_transaction_timeout, Duration::from_secs(10));
    assert_eq!(config.database.application_name.as_deref(), Some("billing"));
    assert_eq!((config.database.slow_statement, config.database.pooler), (None, Pooler::Transaction));
    let job = &config.jobs["retry_pending_webhooks"];
    assert_eq!((job.schedule.as_str(), job.enabled, job.missed), ("30 */2 * * * *", false, Missed::Skip));
    assert_eq!((job.timeout, job.jitter), (Duration::from_mins(1), Duration::from_secs(5)));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let shown = format!("{config:?}");
    for secret in ["password", "whsec_", "rk_live", TOKEN] {
        assert!(!shown.contains(secret), "{secret} is shown by Debug: {shown}");
    }
}

#[test]
fn every_mistake_is_told_at_once_with_its_key_and_the_remedy() {
    let env = [
        ("DATABASE_URL", "mysql://root:hidden@localhost/x"),
        ("TRUEUP_LISTEN", "8000"),
        ("STRIPE_SECRET_KEY", "sk_live_hidden"),
        ("STRIPE_LIVEMODE", "false"),
        ("TRUEUP_API_TOKEN", "hidden"),
        ("TRUEUP_LOG", "info,=="),
        ("TRUEUP_LOG_FORMAT", "xml"),
    ];
    let file = r#"
        trueup_admin_token = 7
        colour = "blue"
        [[plans]]
        tier = "free"
        monthly_limit = -1
        [[plans]]
        tier = "pro"
        prices = ["price_1"]
        [[plans]]
        tier = "pro"
        price = ["price_2"]
        prices = ["price_1"]
        [policy]
        link_by_email = "yes"
        [retry]
        pauses = ["10s", "soon"]
        [intake]
        queue_event = 5
        deadline = 5
    "#;
    let told = mistakes(&env, file);
    let expected = [
        "DATABASE_URL: the scheme `mysql` is not supported; write sqlite://data/trueup.db or postgres://user:password@host:5432/trueup",
        "TRUEUP_LISTEN: `8000` is no address and port; write one like 127.0.0.1:8000, or 0.0.0.0:8000 for every network interface",
        "TRUEUP_API_TOKEN: has only 6 characters; write at least 16 random letters and digits",
        "trueup_admin_token: is of the type integer; write a text in double quotes",
        "STRIPE_LIVEMODE: `false` contradicts STRIPE_SECRET_KEY, a key of the live mode; write true, or unset it",
        "STRIPE_WEBHOOK_SECRET: is not set although STRIPE_SECRET_KEY, STRIPE_LIVEMODE and TRUEUP_API_TOKEN are, so that no webhook",
        "TRUEUP_LOG: `info,==` is no filter",
        "TRUEUP_LOG_FORMAT: `xml` is no format; write text or json",
        "policy.link_by_email: is a string; write true or false, without quotes",
        "retry.pauses[1]: `soon` is no duration; write a duration from 10ms to 30d, like \"10s\"",
        "intake.deadline: is an integer; write a duration from 100ms to 30s, like \"10s\"",
        "intake.queue_event: is unknown; did you mean `queue_events`?",
        "plans[0].monthly_limit: -1 is out of bounds; write a whole number from 0 to 2147483647",
        "plans[2].price: is unknown; did you mean `prices`?",
        "plans[2].tier: `pro` is there already; one plan per tier",
        "plans[2].prices: `price_1` belongs to the tier `pro` already; name it in one plan only",
        "colour: is unknown; remove it; known here are ",
    ];
    for part in expected {
        assert!(told.iter().any(|mistake| mistake.starts_with(part)), "{part}\nis missing in {told:#?}");
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    assert!(told.iter().all(|mistake| mistake.contains(": ") && mistake.contains("; ")), "{told:#?}");
    assert!(!told.concat().contains("hidden"), "{told:#?}");
    let shown = config(&env, file).unwrap_err().to_string();
    assert!(shown.starts_with("the configuration (environment and trueup.toml) has 17 mistakes:\n"), "{shown}");
}

#[test]
fn the_mode_comes_from_the_setting_or_the_key_and_they_must_agree() {
    let secret = ("STRIPE_WEBHOOK_SECRET", "whsec_1");
    let mode = |env: &[(&str, &str)]| right(&[&[secret], env].concat(), "").intake_rules.livemode;
    assert_eq!(mode(&[]), None);
    assert_eq!(mode(&[("STRIPE_LIVEMODE", "true")]), Some(true));
    for (key, live) in [("sk_live_1", true), ("rk_live_1", true), ("sk_test_1", false), ("rk_test_1", false)] {
        assert_eq!(mode(&[("STRIPE_SECRET_KEY", key)]), Some(live), "{key}");
        assert_eq!(mode(&[("STRIPE_SECRET_KEY", key), ("STRIPE_LIVEMODE", &live.to_string())]), Some(live));
        let other = (!live).to_string();
        let told = mistake(&[secret, ("STRIPE_SECRET_KEY", key), ("STRIPE_LIVEMODE", &other)], "");
        assert!(told.starts_with(&format!("STRIPE_LIVEMODE: `{other}` contradicts STRIPE_SECRET_KEY")), "{told}");
    }
    let told = mistake(&[secret, ("STRIPE_LIVEMODE", "yes")], "");
    assert_eq!(told, "STRIPE_LIVEMODE: `yes` is neither; write true (real money) or false (test mode and sandboxes)");
}

#[test]
fn several_secrets_need_a_mode_and_one_does_not() {
    let two = ("STRIPE_WEBHOOK_SECRET", "whsec_1, whsec_2,");
    assert!(mistake(&[two], "").starts_with("STRIPE_WEBHOOK_SECRET: holds 2 secrets, and nothing tells"));
    assert_eq!(right(&[two, ("STRIPE_LIVEMODE", "false")], "").webhook_secrets.len(), 2);
    assert_eq!(right(&[two, ("STRIPE_SECRET_KEY", "sk_test_1")], "").webhook_secrets.len(), 2);
    assert_eq!(right(&[("STRIPE_WEBHOOK_SECRET", "whsec_1,whsec_1")], "").webhook_secrets.len(), 1);
}

#[test]
fn half_a_configuration_is_refused_whichever_half_it_is() {
    for other in [
        ("STRIPE_SECRET_KEY", "sk_test_1"),
        ("STRIPE_LIVEMODE", "true"),
        ("STRIPE_ACCOUNT", "acct_1"),
        ("TRUEUP_API_TOKEN", TOKEN),
        ("TRUEUP_ADMIN_TOKEN", TOKEN),
    ] {
        let told = mistake(&[other], "");
        assert!(told.starts_with(&format!("STRIPE_WEBHOOK_SECRET: is not set although {} is", other.0)), "{told}");
    }
    // A webhook secret alone receives; what it cannot do is told.
    let config = right(&[("STRIPE_WEBHOOK_SECRET", "whsec_1")], "");
    assert!(!config.development);
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
}

#[test]
fn secrets_and_tokens_are_checked_for_what_they_are() {
    let secret = |text| mistake(&[("STRIPE_WEBHOOK_SECRET", text)], "");
    assert!(secret("sk_test_1").contains("it is an API key; write the signing secret"));
    assert!(secret("we_1").contains("it is the id of an endpoint"));
    assert!(secret("whsec 1").contains("holds white space"));
    assert!(secret(",").contains("holds no secret"));
    let odd = right(&[("STRIPE_WEBHOOK_SECRET", "something else".replace(' ', "_").as_str())], "");
    assert!(
        odd.warnings.iter().any(|warning| warning.contains("does not look like a signing secret")),
        "{:?}",
        odd.warnings
    );

    let whole = |extra: &[(&'static str, &'static str)]| [&[("STRIPE_WEBHOOK_SECRET", "whsec_1")], extra].concat();
    let token = |text| mistake(&whole(&[("TRUEUP_API_TOKEN", text)]), "");
    assert!(token("0123456789abcde").contains("has only 15 characters"));
    assert!(token("0123456789 abcdef").contains("holds white space"));
    assert!(token("0123456789abcdeé").contains("no HTTP header"));
    let same = mistake(&whole(&[("TRUEUP_API_TOKEN", TOKEN), ("TRUEUP_ADMIN_TOKEN", TOKEN)]), "");
    assert!(same.starts_with("TRUEUP_ADMIN_TOKEN: is the same as TRUEUP_API_TOKEN"), "{same}");
    let key = |text| mistake(&whole(&[("STRIPE_SECRET_KEY", text)]), "");
    assert!(key("pk_live_1").contains("is a publishable key"));
    assert!(key("whsec_1").contains("which belongs in STRIPE_WEBHOOK_SECRET"));
}

#[test]
fn what_cannot_work_together_is_refused() {
    for (file, start) in [
        (
            "[intake]\nqueue_events = 10\nbatch_events = 20",
            "intake.batch_events: 20 is more than intake.queue_events (10)",
        ),
        ("[intake]\ndeadline = \"1s\"", "intake.deadline: 1s is shorter than database.acquire_timeout (3s)"),
        ("[retry]\npauses = [\"1m\", \"1s\"]", "retry.pauses: a later pause is shorter"),
        ("[retry]\npauses = [\"1s\", \"1m\"]\nattempts = 2", "retry.pauses: holds 2 pauses, more than 2 attempts"),
        (
            "[database]\nreserved_connections = 7",
            "database.reserved_connections: 7 of database.max_connections (8) leave too few",
        ),
        (
            "[database]\nlock_timeout = \"1m\"",
            "database.lock_timeout: 1m is longer than database.statement_timeout (30s)",
        ),
        ("[database]\npooler = \"session\"", "database.pooler: `session` is none of the three; write \"auto\""),
        ("[database]\napplication_name = \"\"", "database.application_name: is no name that PostgreSQL keeps"),
        ("[database]\nmax_connections = 1", "database.max_connections: 1 is out of bounds"),
        ("database_url = \"sqlite::memory:\"", "database_url: a database in memory would be another one"),
        ("plans = []", "plans: the list is empty"),
        ("[[plans]]\ntier = \"pro\"\nprices = [\"price_1\"]", "plans: the tier `free` is missing"),
        ("plans = \"pro\"", "plans: is a string; write one [[plans]] for each"),
        ("policy = 5", "policy: is an integer; write a table, [policy]"),
    ] {
        let told = mistake(&[], file);
        assert!(told.starts_with(start), "{told}");
    }
    let live =
        [("STRIPE_WEBHOOK_SECRET", "whsec_1"), ("STRIPE_SECRET_KEY", "sk_live_1"), ("STRIPE_API_BASE", "http://x")];
    assert!(mistake(&live, "").contains("would send a live key unencrypted"));
}

#[test]
fn every_job_has_its_settings_and_what_is_wrong_with_them_is_told_by_name() {
    let config = right(&[], "");
    for job in scheduler::jobs::all() {
        let spec = job.spec();
        assert_eq!(config.jobs[spec.name], JobSettings::of(&spec));
    }
    for (file, told) in [
        (
            "retry_pending_webhook.enabled = true",
            "jobs.retry_pending_webhook: is unknown; did you mean `retry_pending_webhooks`?",
        ),
        (
            "retry_pending_webhooks.shedule = \"\"",
            "jobs.retry_pending_webhooks.shedule: is unknown; did you mean `schedule`?",
        ),
        (
            "retry_pending_webhooks.schedule = \"*/5 * * * *\"",
            "jobs.retry_pending_webhooks.schedule: `*/5 * * * *` is no schedule (it has 5 fields); write six fields, in UTC: second, minute, \
             hour, day, month, weekday, like \"0 */5 * * * *\"",
        ),
        (
            "retry_pending_webhooks.schedule = \"0 0 0 30 2 *\"",
            "jobs.retry_pending_webhooks.schedule: `0 0 0 30 2 *` is no schedule (no day ever fits it); write six fields, in UTC: second, \
             minute, hour, day, month, weekday, like \"0 */5 * * * *\"",
        ),
        (
            "retry_pending_webhooks.missed = \"never\"",
            "jobs.retry_pending_webhooks.missed: `never` is no policy; write once (the last missed slot runs), all (each of them) or skip (none)",
        ),
        (
            "retry_pending_webhooks.timeout = \"0s\"",
            "jobs.retry_pending_webhooks.timeout: 0s is out of bounds; write a duration from 1s to 1d, like \"10s\"",
        ),
        (
            "retry_pending_webhooks.enabled = \"no\"",
            "jobs.retry_pending_webhooks.enabled: is a string; write true or false, without quotes",
        ),
    ] {
        assert_eq!(mistake(&[], &format!("[jobs]\n{file}")), told);
    }
    assert!(mistake(&[], "jobs = 5").starts_with("jobs: is an integer; write a table, [jobs]"));
}

#[test]
fn a_file_that_is_no_toml_is_told_by_its_line_and_never_quoted() {
    let told = mistake(&[], "trueup_listen = \"127.0.0.1:0\"\nstripe_webhook_secret = \"whsec_hidden\n");
    assert!(told.starts_with("trueup.toml, line 2: is no TOML"), "{told}");
    assert!(!told.contains("hidden"), "{told}");
}

#[test]
fn a_wrong_type_in_a_plan_is_told_once() {
    let told = mistakes(&[], "[[plans]]\ntier = 5\n[[plans]]\ntier = \"pro\"\nprices = \"price_1\"");
    assert_eq!(
        told,
        [
            "plans[0].tier: is an integer; write a text in double quotes",
            "plans[1].prices: is no list; write a list of texts, like [\"a\", \"b\"]",
        ]
    );
}

#[test]
fn a_mail_server_needs_a_sender_and_an_address_that_is_one() {
    let smtp = ("SMTP_URL", "smtps://user:hidden@mail.example.com");
    let told = mistake(&[smtp], "");
    assert!(told.starts_with("mail.from: is not set although SMTP_URL is"), "{told}");
    let from = "[mail]\nfrom = \"Example <billing@example.com>\"";
    let config = right(&[smtp], from);
    let mail = config.mail.expect("a mail server");
    assert_eq!((mail.product.as_str(), mail.concurrency, mail.timeout), ("Example", 4, Duration::from_secs(30)));
    assert!(config.policy.queue_emails);
    for (url, file, start) in [
        (smtp.1, "[mail]\nfrom = \"nobody\"", "mail.from: is no address; write one like"),
        (smtp.1, "[mail]\nfrom = \"a@example.com\"\nreply_to = \"b\"", "mail.reply_to: is no address"),
        (
            smtp.1,
            "[mail]\nfrom = \"a@example.com\"\nform = \"b\"",
            "mail.form: is unknown; remove it; known here are concurrency, from,",
        ),
        (smtp.1, "[mail]\nfrom = \"a@example.com\"\nconcurrency = 0", "mail.concurrency: 0 is out of bounds"),
        ("mail.example.com", from, "SMTP_URL: is no URL; write one like smtps://"),
        ("http://u:hidden@h", from, "SMTP_URL: has the scheme `http`; write one like smtps://"),
        ("smtp://u:hidden@h?tls=yes", from, "SMTP_URL: asks for `tls=yes`"),
        ("smtp://hidden@h", from, "SMTP_URL: holds half of a user and password"),
    ] {
        let told = mistake(&[("SMTP_URL", url)], file);
        assert!(told.starts_with(start), "{told}");
        assert!(!told.contains("hidden"), "{told}");
    }
    let clear = right(&[("SMTP_URL", "smtp://user:hidden@mail.example.com")], from);
    assert!(clear.warnings[0].starts_with("SMTP_URL: sends the password without encryption"), "{:?}", clear.warnings);
    let unused = right(&[], from);
    assert!(unused.mail.is_none() && unused.warnings[0].starts_with("mail.from: SMTP_URL is not set"));
}

#[test]
fn nothing_is_kept_so_short_that_it_would_be_done_twice() {
    for (file, start) in [
        ("event_days = 34", "retention.event_days: 34 is too few: Stripe can send an event again for 30 days"),
        ("payload_days = 50\nevent_days = 40", "retention.payload_days: 50 is more than retention.event_days (40)"),
        (
            "email_days = 89",
            "retention.email_days: 89 is less than retention.event_days (90), so that a replayed event",
        ),
        ("payload_days = 0", "retention.payload_days: 0 is out of bounds"),
    ] {
        let told = mistake(&[], &format!("[retention]\n{file}"));
        assert!(told.starts_with(start), "{told}");
    }
    let days = |file: &str| {
        let kept = right(&[], &format!("[retention]\n{file}")).retention;
        (kept.payload_days, kept.event_days, kept.email_days)
    };
    assert_eq!(days(""), (30, 90, 90));
    assert_eq!(days("event_days = 365"), (30, 365, 365));
    assert_eq!(days("event_days = 35"), (30, 35, 90));
    assert_eq!(days("payload_days = 120"), (120, 120, 120));
}

#[test]
fn how_stripe_is_called_can_be_set_and_is_checked() {
    let options = right(&[], "").stripe;
    assert_eq!((options.api_version.as_str(), options.requests_per_second.get()), ("2026-10-28.endive", 20));
    let file = r#"
        [stripe]
        api_version = "2025-03-31.basil"
        requests_per_second = 5
        connect_timeout = "2s"
        timeout = "90s"
        retries = 4
    "#;
    let options = right(&[], file).stripe;
    assert_eq!((options.api_version.as_str(), options.requests_per_second.get()), ("2025-03-31.basil", 5));
    assert_eq!((options.connect_timeout.as_secs(), options.timeout.as_secs(), options.retries), (2, 90, 4));
    assert!(options.live_deadline > options.timeout, "a whole try fits");
    assert!(options.background_deadline >= options.timeout * 8, "every try fits");
    for (wrong, told) in [
        ("api_version = \"newest\"", "stripe.api_version: is no version"),
        ("api_version = \"2025-3-31\"", "stripe.api_version: is no version"),
        ("requests_per_second = 0", "stripe.requests_per_second: 0 is out of bounds"),
        ("timeout = \"1h\"", "stripe.timeout: 1h is out of bounds"),
        ("retries = -1", "stripe.retries: -1 is out of bounds"),
        ("connect_timeout = \"25s\"", "stripe.connect_timeout: 25s is longer than stripe.timeout"),
        ("retrys = 1", "stripe.retrys: is unknown; did you mean `retries`?"),
    ] {
        let mistake = mistake(&[], &format!("[stripe]\n{wrong}"));
        assert!(mistake.starts_with(told), "{mistake}");
    }
    let base = [("STRIPE_WEBHOOK_SECRET", "whsec_1"), ("STRIPE_API_BASE", "https://api.stripe.com/v1/")];
    assert!(mistake(&base, "").starts_with("STRIPE_API_BASE: ends with /v1"));
}

#[test]
fn the_outer_edge_is_closed_where_nothing_is_said_and_set_where_it_is() {
    use api::{config::edge::Docs, server::Limits};
    let secret = ("STRIPE_WEBHOOK_SECRET", "whsec_1");
    let edge = right(&[secret], "").edge;
    assert!(edge.tls.is_none() && edge.metrics_listen.is_none() && edge.metrics_token.is_none());
    assert!(edge.trusted_proxies.is_empty() && edge.cors_origins.is_empty());
    assert_eq!((edge.docs, edge.limits, edge.connections_set), (Docs::Token, Limits::default(), false));
    assert_eq!(right(&[], "").edge.docs, Docs::Open, "development secrets are worth nothing");

    let file = r#"
        trueup_trusted_proxies = ["10.0.0.0/8", "192.0.2.7"]
        trueup_cors_origins = ["https://app.example.com", "http://localhost:3000/"]
        trueup_docs = "off"
        trueup_tls_cert = "cert.pem"
        trueup_tls_key = "key.pem"
        trueup_metrics_listen = "127.0.0.1:9100"
        [http]
        connections = 500
        head_timeout = "5s"
        answer_timeout = "1m"
        idle_timeout = "2m"
    "#;
    let edge = right(&[secret, ("TRUEUP_DOCS", "open"), ("TRUEUP_METRICS_TOKEN", TOKEN)], file).edge;
    assert_eq!(edge.docs, Docs::Open, "the environment wins");
    let proxies: Vec<_> = edge.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["10.0.0.0/8", "192.0.2.7/32"]);
    assert_eq!(edge.cors_origins, ["https://app.example.com", "http://localhost:3000"]);
    assert_eq!((edge.limits.connections, edge.limits.head), (500, Duration::from_secs(5)));
    assert!(edge.connections_set && edge.tls.is_some() && edge.metrics_token.is_some());
    assert_eq!(edge.metrics_listen.as_deref(), Some("127.0.0.1:9100"));
}

#[test]
fn mistakes_about_the_outer_edge_are_told_with_what_would_be_right() {
    let secret = ("STRIPE_WEBHOOK_SECRET", "whsec_1");
    for (variable, value, part) in [
        ("TRUEUP_TLS_CERT", "cert.pem", "names a certificate without its key"),
        ("TRUEUP_TLS_KEY", "key.pem", "names a key without its certificate"),
        ("TRUEUP_METRICS_LISTEN", "9100", "no address and port"),
        ("TRUEUP_METRICS_TOKEN", "short", "has only 5 characters"),
        ("TRUEUP_DOCS", "yes", "none of the choices"),
        ("TRUEUP_TRUSTED_PROXIES", "10.0.0.0/8,proxy.internal", "`proxy.internal` is no address"),
        ("TRUEUP_TRUSTED_PROXIES", "0.0.0.0/0", "every address"),
        ("TRUEUP_CORS_ORIGINS", "*", "`*` is no origin"),
        ("TRUEUP_CORS_ORIGINS", "https://app.example.com/page", "is no origin"),
    ] {
        let told = mistake(&[secret, (variable, value)], "");
        assert!(told.starts_with(variable) && told.contains(part), "{told}");
    }
    let told = mistake(
        &[
            secret,
            ("TRUEUP_ADMIN_TOKEN", TOKEN),
            ("TRUEUP_METRICS_TOKEN", TOKEN),
            ("TRUEUP_API_TOKEN", "0123456789abcdef0"),
        ],
        "",
    );
    assert!(told.contains("is the same as TRUEUP_ADMIN_TOKEN"), "{told}");
    for (line, part) in
        [("connections = 3", "out of bounds"), ("head_timeout = \"0s\"", "out of bounds"), ("body = 1", "is unknown")]
    {
        let told = mistake(&[secret], &format!("[http]\n{line}"));
        assert!(told.starts_with("http.") && told.contains(part), "{told}");
    }
}
