//! `trueup check`: a world in which all is well, and then each thing broken once.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::{collections::BTreeMap, path::Path};

use billing::db::{Db, DbOptions};
use chrono::TimeDelta;
use sea_orm::ConnectionTrait as _;
use serde_json::{Value, json};
use testkit::{
    TestDb, on_each,
    stripe::{Answer, FakeStripe},
};

use crate::{
    process_edge::Files,
    process_harness::{Ran, Running, run},
};

const SECRET: &str = "whsec_hidden_hidden_hidden_hidden_hidden";
const PLANS: &str = r#"
[[plans]]
tier = "free"
monthly_limit = 5

[[plans]]
tier = "pro"
prices = ["price_pro"]
products = ["prod_pro"]
lookup_keys = ["pro"]
"#;

fn endpoint() -> Value {
    json!({
        "id": "we_1", "object": "webhook_endpoint", "status": "enabled", "enabled_events": ["*"], "livemode": false,
        "api_version": "2026-10-28.endive", "url": "https://billing.example.com/api/v1/stripe/webhook",
    })
}

fn price(id: &str, lookup_key: Option<&str>) -> Value {
    json!({
        "id": id, "object": "price", "active": true, "product": "prod_pro", "lookup_key": lookup_key, "metadata": {},
        "recurring": {"interval": "month", "interval_count": 1},
    })
}

/// A server that is ready, and everything around it.
struct Desk {
    folder: tempfile::TempDir,
    stripe: FakeStripe,
    sentry: FakeStripe,
    variables: BTreeMap<&'static str, String>,
    server: Option<(Running, String)>,
}

impl Desk {
    /// All is well, once the server runs.
    async fn new(database: &str) -> Self {
        let (stripe, sentry) = (FakeStripe::start().await, FakeStripe::start().await);
        stripe.object("/v1/account", &json!({"id": "acct_1", "object": "account"}));
        stripe.object("/v1/prices/price_pro", &price("price_pro", Some("pro")));
        stripe.object("/v1/products/prod_pro", &json!({"id": "prod_pro", "object": "product"}));
        stripe.list("/v1/prices", vec![price("price_pro", Some("pro"))]);
        stripe.list("/v1/subscriptions", vec![]);
        stripe.list("/v1/events", vec![]);
        stripe.list("/v1/webhook_endpoints", vec![endpoint()]);
        sentry.object("/api/7/envelope/", &json!({}));
        let dsn = sentry.url().replace("http://", "http://public@") + "/7";
        let variables = BTreeMap::from([
            ("DATABASE_URL", database.to_owned()),
            ("STRIPE_SECRET_KEY", "rk_test_hidden".to_owned()),
            ("STRIPE_WEBHOOK_SECRET", SECRET.to_owned()),
            ("TRUEUP_API_TOKEN", "hidden_api_token_0001".to_owned()),
            ("TRUEUP_ADMIN_TOKEN", "hidden_admin_token_01".to_owned()),
            ("TRUEUP_PUBLIC_URL", "https://billing.example.com".to_owned()),
            ("STRIPE_API_BASE", stripe.url()),
            ("SENTRY_DSN", dsn),
        ]);
        let desk = Self { folder: tempfile::tempdir().unwrap(), stripe, sentry, variables, server: None };
        desk.write_plans(PLANS);
        let migrated = desk.run(&["migrate", "up"]).await;
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
        desk
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn write_plans(&self, plans: &str) {
        std::fs::write(self.folder().join("trueup.toml"), plans).unwrap();
    }

    /// Starts the server and waits until its first jobs have run.
    async fn serve(&mut self) {
        let variables: Vec<(&str, &str)> = self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let server = Running::start(self.folder(), &variables, &["serve"]);
        let url = server.url().await;
        for job in ["reconcile_subscriptions", "recover_missed_events"] {
            let ran = self.run(&["jobs", "run", job]).await;
            assert_eq!(ran.code, Some(0), "{ran:?}");
        }
        self.server = Some((server, url));
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(&[], arguments).await
    }

    async fn run_with(&self, changed: &[(&'static str, &str)], arguments: &[&str]) -> Ran {
        let mut variables: BTreeMap<&str, &str> = self.variables.iter().map(|(k, v)| (*k, v.as_str())).collect();
        for (name, value) in changed {
            variables.insert(name, value);
        }
        let variables: Vec<(&str, &str)> = variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let ran = run(self.folder(), &variables, arguments).await;
        assert!(!ran.out.contains("hidden") && !ran.err.contains("hidden"), "a secret is shown: {ran:?}");
        ran
    }

    async fn check_with(&self, changed: &[(&'static str, &str)]) -> Checked {
        let url = self.server.as_ref().map_or("http://127.0.0.1:1", |(_, url)| url);
        let ran = self.run_with(changed, &["check", "--json", "--url", url]).await;
        let told: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("no JSON: {ran:?}"));
        Checked { code: ran.code, items: told["items"].as_array().unwrap().clone() }
    }

    async fn check(&self) -> Checked {
        self.check_with(&[]).await
    }
}

/// What `check` told.
#[derive(Debug)]
struct Checked {
    code: Option<i32>,
    items: Vec<Value>,
}

impl Checked {
    /// The one item with this text; its state and remedy are these.
    #[track_caller]
    fn tells(&self, state: &str, area: &str, part: &str, remedy: &str) {
        let about =
            |item: &&Value| item["area"] == area && item["what"].as_str().is_some_and(|what| what.contains(part));
        let item = self.items.iter().find(about).unwrap_or_else(|| panic!("{area}: {part} in {:#?}", self.items));
        assert_eq!(item["state"], state, "{item}");
        assert!(item["remedy"].as_str().unwrap_or_default().contains(remedy), "{item}");
        let expected = if state == "bad" { Some(1) } else { Some(0) };
        if state == "bad" {
            assert_eq!(self.code, expected, "{item}");
        }
    }
}

async fn well(test_db: &TestDb) -> Desk {
    let mut desk = Desk::new(test_db.url()).await;
    desk.serve().await;
    desk
}

#[test]
fn where_all_is_well_check_says_so_of_everything() {
    on_each(|test_db| async move {
        let postgres = test_db.url().starts_with("postgres");
        let desk = well(&test_db).await;
        let checked = desk.check().await;
        assert_eq!(checked.code, Some(0), "{checked:#?}");
        for (area, part) in [
            ("configuration", "nothing wrong with it"),
            ("configuration", "Stripe reaches this server at"),
            ("secrets", "signed with one secret"),
            ("database", "answers"),
            ("migrations", "that of this version"),
            ("indexes", "there and valid"),
            ("events", "none failed"),
            ("subscriptions", "none is uncertain"),
            ("plans", "leads to a tier"),
            ("plans", "knows all 2 prices and products"),
            ("plans", "all 1 active recurring prices"),
            ("reconcile", "last to its end"),
            ("recovery", "every event is stored up to"),
            ("jobs", "none is paused, and none failed last"),
            ("scheduler", "jobs run when their time comes"),
            ("stripe", "account acct_1, test mode"),
            ("stripe", "may read subscriptions, customers, checkout sessions, invoices, events, charges, disputes"),
            ("endpoint", "delivers everything to we_1"),
            ("endpoint", "API version 2026-10-28.endive"),
            ("clock", "Stripe's agree"),
            ("clock", "the database's clock"),
            ("server", "is ready"),
            ("metrics", "/metrics answers with"),
            ("sentry", "takes errors"),
            ("disk", if postgres { "the database server's to watch" } else { "are free in" }),
        ] {
            checked.tells("ok", area, part, "");
        }
        if postgres {
            checked.tells("ok", "row-level security", "on for all", "");
        }
        let sent = desk.sentry.asked();
        assert!(sent.iter().all(|asked| asked.headers["x-sentry-auth"].contains("sentry_key=public")), "{sent:?}");
        let table = desk.run(&["check", "--url", &desk.server.as_ref().unwrap().1]).await;
        assert!(table.code == Some(0) && table.out.contains("0 bad"), "{table:?}");
    });
}

#[test]
fn a_schema_that_was_tampered_with_is_told_with_the_statement_that_mends_it() {
    on_each(|test_db| async move {
        let postgres = test_db.url().starts_with("postgres");
        let desk = Desk::new(test_db.url()).await;
        let db = Db::connect(test_db.url(), &DbOptions { max_connections: 2, ..DbOptions::default() }).await.unwrap();
        db.reader().execute_unprepared("DROP INDEX idx_stripe_webhooks_status").await.unwrap();
        let checked = desk.check().await;
        checked.tells("bad", "indexes", "idx_stripe_webhooks_status of stripe_webhooks is missing", "CREATE INDEX");
        // Without a server, whose parts are only what the database tells of them.
        checked.tells("warn", "server", "no server answers", "start it");
        checked.tells("bad", "scheduler", "no job has ever run", "start a server");
        checked.tells("warn", "reconcile", "never to its end", "trueup reconcile");
        if postgres {
            db.reader().execute_unprepared("ALTER TABLE stripe_webhooks DISABLE ROW LEVEL SECURITY").await.unwrap();
            let checked = desk.check().await;
            checked.tells(
                "bad",
                "row-level security",
                "table stripe_webhooks is not as it should be",
                "ENABLE ROW LEVEL SECURITY",
            );
        }
        let down = desk.run(&["migrate", "down", "--yes"]).await;
        assert_eq!(down.code, Some(0), "{down:?}");
        desk.check().await.tells("bad", "migrations", "1 migrations are pending", "trueup migrate up");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_is_broken_at_stripe_is_told_with_its_remedy() {
    let desk = Desk::new("sqlite://trueup.db").await;
    let permission = || Answer::error(403, "permission", "The provided key does not have the required permissions");
    for (path, what, state) in [
        ("/v1/subscriptions", "subscriptions", "bad"),
        ("/v1/customers/cus_trueup_check", "customers", "bad"),
        ("/v1/checkout/sessions/cs_trueup_check", "checkout sessions", "bad"),
        ("/v1/invoices/in_trueup_check", "invoices", "bad"),
        ("/v1/events", "events", "bad"),
        ("/v1/charges/ch_trueup_check", "charges", "warn"),
        ("/v1/disputes/dp_trueup_check", "disputes", "warn"),
    ] {
        desk.stripe.route(path, move |_| permission());
        desk.check().await.tells(state, "stripe", &format!("may not read {what}"), "permission");
        match path {
            "/v1/subscriptions" | "/v1/events" => desk.stripe.list(path, vec![]),
            _ => desk.stripe.forget(path),
        }
    }
    desk.stripe.route("/v1/webhook_endpoints", move |_| permission());
    desk.check().await.tells("warn", "endpoint", "cannot be checked", "read webhook endpoints");

    let mut changed = endpoint();
    let broken: [(&str, Value, &str, &str, &str); 5] = [
        ("status", json!("disabled"), "bad", "we_1 is disabled", "trueup recover"),
        ("enabled_events", json!(["customer.subscription.updated"]), "bad", "does not listen to", "let it listen"),
        ("enabled_events", json!(["*", "invoice.created"]), "warn", "listens to invoice.created", "take it off"),
        ("api_version", Value::Null, "warn", "names no API version", "explicit version"),
        ("api_version", json!("2016-07-06"), "warn", "payloads of the API version 2016-07-06", "newer version"),
    ];
    for (key, value, state, part, remedy) in broken {
        let before = std::mem::replace(&mut changed[key], value);
        desk.stripe.list("/v1/webhook_endpoints", vec![changed.clone()]);
        desk.check().await.tells(state, "endpoint", part, remedy);
        changed[key] = before;
    }
    desk.stripe.list("/v1/webhook_endpoints", vec![]);
    desk.check().await.tells(
        "bad",
        "endpoint",
        "none of the 0 webhook endpoints",
        "make one for https://billing.example.com",
    );

    desk.stripe.forget("/v1/prices/price_pro");
    desk.check().await.tells("bad", "plans", "does not know: price_pro", "[[plans]]");
    desk.stripe
        .list("/v1/prices", vec![json!({"id": "price_new", "active": true, "recurring": {}, "product": "prod_new"})]);
    desk.check().await.tells("warn", "plans", "lead to no tier by themselves: price_new", "name each");
    desk.stripe.forget("/v1/products/prod_pro");
    desk.check().await.tells("warn", "plans", "no price at Stripe leads to pro", "lookup key");

    desk.stripe.clock_ahead(TimeDelta::seconds(60));
    desk.check().await.tells("warn", "clock", "behind Stripe's", "NTP");
    desk.stripe.clock_ahead(TimeDelta::seconds(-600));
    desk.check().await.tells("bad", "clock", "ahead of Stripe's", "NTP");

    desk.stripe.instead(Some(Answer::error(401, "api_key_invalid", "Invalid API Key provided")));
    let checked = desk.check().await;
    checked.tells("bad", "stripe", "refused the API key", "STRIPE_SECRET_KEY");
    let about = checked.items.iter().filter(|item| item["area"] == "stripe").count();
    assert_eq!(about, 1, "a wrong key is told once: {checked:#?}");
    desk.check_with(&[("STRIPE_API_BASE", "http://127.0.0.1:1")]).await.tells(
        "bad",
        "stripe",
        "no connection",
        "internet",
    );
    desk.check_with(&[("STRIPE_SECRET_KEY", "")]).await.tells("warn", "stripe", "is not set", "docs/stripe-setup.md");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_is_broken_here_is_told_with_its_remedy() {
    let mut desk = Desk::new("sqlite://trueup.db").await;
    desk.serve().await;
    let checked = desk.check_with(&[("STRIPE_WEBHOOK_SECRET", "hello_hidden_world")]).await;
    checked.tells("bad", "secrets", "does not begin with whsec_", "copy the signing secret");
    desk.check_with(&[("STRIPE_WEBHOOK_SECRET", "whsec_short")]).await.tells("warn", "secrets", "shorter than", "copy");
    let live = [("STRIPE_SECRET_KEY", "sk_live_hidden"), ("STRIPE_API_BASE", "https://127.0.0.1:1")];
    desk.check_with(&live).await.tells("warn", "secrets", "may do everything with real money", "restricted key");
    // A key of one mode beside the other mode: no server would start, and every mistake is told as an item.
    let checked = desk.check_with(&[("STRIPE_LIVEMODE", "true"), ("TRUEUP_LISTEN", "nowhere")]).await;
    assert_eq!((checked.code, checked.items.len()), (Some(2), 3), "{checked:#?}");
    assert!(checked.items.iter().any(|item| item["what"].as_str().unwrap().contains("contradicts STRIPE_SECRET_KEY")));

    desk.check_with(&[("DATABASE_URL", "sqlite://elsewhere.db")]).await.tells(
        "bad",
        "database",
        "no database",
        "migrate up",
    );
    let away = [("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")];
    desk.check_with(&away).await.tells("bad", "database", "127.0.0.1:1", "start it");

    desk.sentry.object("/api/7/envelope/", &json!({}));
    desk.sentry.instead(Some(Answer::error(403, "forbidden", "bad sentry DSN public key")));
    desk.check().await.tells("bad", "sentry", "refuses the key", "copy the DSN");
    desk.sentry.instead(None);
    desk.check_with(&[("SENTRY_DSN", "http://public@127.0.0.1:1/7")]).await.tells(
        "bad",
        "sentry",
        "cannot be reached",
        "SENTRY_DSN",
    );
    let none = desk.check_with(&[("SENTRY_DSN", "http://127.0.0.1:1/7")]).await;
    assert!(none.code == Some(2) && none.items[0]["what"].as_str().unwrap().contains("no DSN of Sentry"), "{none:#?}");

    let other = format!("{}/elsewhere", desk.sentry.url());
    let ran = desk.run(&["check", "--json", "--url", &other]).await;
    assert!(ran.code == Some(1) && ran.out.contains("is not Trueup"), "{ran:?}");

    desk.run(&["jobs", "pause", "send_emails"]).await;
    desk.check().await.tells("warn", "jobs", "send_emails is paused", "trueup jobs resume send_emails");
    let strict = desk.run(&["check", "--strict", "--url", &desk.server.as_ref().unwrap().1]).await;
    assert!(strict.code == Some(1) && strict.out.contains("→ trueup jobs resume send_emails"), "{strict:?}");

    // The server is gone, and hours pass: nobody runs jobs any more.
    let (server, _) = desk.server.take().unwrap();
    server.stop().await;
    let db =
        Db::connect(&format!("sqlite://{}/trueup.db", desk.folder().display()), &DbOptions::default()).await.unwrap();
    db.reader().execute_unprepared("UPDATE job_runs SET slot = datetime(slot, '-9 hours')").await.unwrap();
    let checked = desk.check().await;
    checked.tells("warn", "server", "no server answers", "start it");
    checked.tells("warn", "scheduler", "did not run when their time came", "start a server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_that_is_silent_does_not_keep_check_from_ending() {
    let desk = Desk::new("sqlite://trueup.db").await;
    desk.stripe.instead(Some(Answer::never()));
    desk.sentry.instead(Some(Answer::never()));
    let silent = desk.stripe.url();
    let ran = desk.run(&["check", "--json", "--within", "2s", "--url", &silent]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    let items = told["items"].as_array().unwrap();
    for area in ["stripe", "sentry", "server"] {
        let of = items.iter().find(|item| item["area"] == area).unwrap_or_else(|| panic!("{area} in {told:#}"));
        assert_ne!(of["state"], "ok", "{of}");
    }
    assert!(items.iter().any(|item| item["area"] == "migrations" && item["state"] == "ok"), "{told:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_encrypts_and_keeps_its_figures_elsewhere_behind_a_token_is_found_by_its_configuration() {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut desk = Desk::new("sqlite://trueup.db").await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let files = Files::of(desk.folder());
    files.renew();
    desk.variables.extend([
        ("TRUEUP_LISTEN", free()),
        ("TRUEUP_METRICS_LISTEN", free()),
        ("TRUEUP_METRICS_TOKEN", "hidden_metrics_token".to_owned()),
        ("TRUEUP_TLS_CERT", files.certificate.clone()),
        ("TRUEUP_TLS_KEY", files.key.clone()),
    ]);
    let variables: Vec<(&str, &str)> = desk.variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Running::start(desk.folder(), &variables, &["serve"]);
    server.line_with(" listens on https://").await;
    let healthy = desk.run(&["healthcheck"]).await;
    assert!(healthy.code == Some(0) && healthy.out.contains("\"ready\": true"), "{healthy:?}");
    let told = |ran: Ran| serde_json::from_str::<Value>(&ran.out).unwrap()["items"].as_array().unwrap().clone();
    let find = |items: &[Value], area: &str| items.iter().find(|item| item["area"] == area).unwrap().clone();
    let items = told(desk.run(&["check", "--json"]).await);
    assert_eq!(
        (find(&items, "server")["state"].clone(), find(&items, "metrics")["state"].clone()),
        (json!("ok"), json!("ok"))
    );
    let other = [("TRUEUP_METRICS_TOKEN", "hidden_other_token_01")];
    let items = told(desk.run_with(&other, &["check", "--json"]).await);
    let refused = find(&items, "metrics");
    assert!(
        refused["state"] == "bad" && refused["remedy"].as_str().unwrap().contains("TRUEUP_METRICS_TOKEN"),
        "{refused}"
    );
}
