//! What reaches Sentry, from real servers.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::{path::Path, time::Duration};

use reqwest::StatusCode;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use testkit::{Kind, TestDb, kinds};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    process_harness::{Caller, LONG, Running, subscribing},
    sentry_server::Sentry,
};

const SECRETS: [(&str, &str); 3] = [
    ("STRIPE_WEBHOOK_SECRET", "whsec_of_this_test"),
    ("TRUEUP_API_TOKEN", "host-token-of-this-test-0123456789"),
    ("TRUEUP_ADMIN_TOKEN", "operator-token-of-this-test-0123456789"),
];

/// Three attempts in a moment.
const QUICK: &str = "[retry]\npauses = [\"10ms\", \"20ms\"]\nattempts = 3\n";

/// Makes the database refuse subscriptions whose id begins so.
async fn poison(database: &TestDb) {
    let statements: &[&str] = match database.kind() {
        Kind::Postgres => &[
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.id LIKE 'sub_poison%' THEN RAISE EXCEPTION 'poison for someone@example.com in %', NEW.id; END IF; RETURN NEW; END $$",
            "CREATE TRIGGER refuse BEFORE INSERT ON subscriptions FOR EACH ROW EXECUTE FUNCTION refuse()",
        ],
        Kind::Sqlite => &["CREATE TRIGGER refuse BEFORE INSERT ON subscriptions WHEN NEW.id LIKE 'sub_poison%'
            BEGIN SELECT RAISE(ABORT, 'poison for someone@example.com in sub_poison'); END"],
    };
    let connection = database.connect().await;
    for statement in statements {
        connection.execute_unprepared(statement).await.unwrap();
    }
    connection.close().await.unwrap();
}

fn poisoned(event_type: &str, number: u32) -> Value {
    json!({
        "id": format!("evt_{}", Uuid::new_v4().simple()), "object": "event", "type": event_type, "livemode": false,
        "created": chrono::Utc::now().timestamp(), "api_version": "2026-10-28.endive",
        "data": { "object": {
            "id": format!("sub_poison_{number}"), "object": "subscription", "status": "active", "customer": "cus_1", "livemode": false,
            "metadata": { "card": "4242424242424242", "address": "ann.lee@example.com" }, "items": { "data": [] },
        } },
    })
}

async fn failed(caller: &Caller) -> i64 {
    let request = caller.http.get(format!("{}/api/v1/admin/webhooks/stats", caller.url));
    let response = request.bearer_auth(SECRETS[2].1).send().await.unwrap();
    let stats: Value = response.json().await.unwrap();
    stats["by_status"]["failed"].as_i64().unwrap()
}

async fn until_failed(caller: &Caller, number: i64) {
    let deadline = Instant::now() + LONG;
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    while failed(caller).await < number {
        looks.tick().await;
        assert!(Instant::now() < deadline, "{} of {number} have failed", failed(caller).await);
    }
}

async fn server(folder: &Path, database: &TestDb, dsn: &str, listen: &[(&str, &str)]) -> (Running, Caller) {
    let mut variables = SECRETS.to_vec();
    variables.extend([("DATABASE_URL", database.url()), ("SENTRY_DSN", dsn), ("SENTRY_ENVIRONMENT", "proof")]);
    variables.extend(listen);
    let running = Running::start(folder, &variables, &[]);
    let url = running.url().await;
    let secrets = api::config::development::DevelopmentSecrets {
        webhook_secret: api::config::Secret::new(SECRETS[0].1),
        api_token: api::config::Secret::new(SECRETS[1].1),
        admin_token: api::config::Secret::new(SECRETS[2].1),
        path: folder.to_owned(),
    };
    (running, Caller::with(&url, secrets))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_distinct_failure_is_one_report_however_many_events_attempts_replicas_and_starts_there_are() {
    for kind in kinds() {
        let (database, sentry) = (TestDb::migrated(kind).await, Sentry::start().await);
        poison(&database).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("trueup.toml"), QUICK).unwrap();
        let (first, caller) = server(folder.path(), &database, &sentry.dsn, &[]).await;
        let second = match kind {
            Kind::Postgres => Some(server(folder.path(), &database, &sentry.dsn, &[]).await),
            Kind::Sqlite => None,
        };
        for number in 0..4 {
            for event_type in ["customer.subscription.created", "customer.subscription.updated"] {
                let to = second.as_ref().map_or(&caller, |(_, other)| if number % 2 == 0 { other } else { &caller });
                assert_eq!(to.deliver(&poisoned(event_type, number)).await, StatusCode::OK);
            }
        }
        until_failed(&caller, 8).await;
        first.stop().await;
        if let Some((second, _)) = &second {
            second.stop().await;
        }
        // Started anew, and everything tried again: they fail as before.
        let (third, caller) = server(folder.path(), &database, &sentry.dsn, &[]).await;
        let again = caller.http.post(format!("{}/api/v1/admin/webhooks/retry", caller.url)).bearer_auth(SECRETS[2].1);
        let response = again.json(&json!({ "status": "failed" })).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await.unwrap());
        assert_eq!(caller.deliver(&poisoned("customer.subscription.created", 9)).await, StatusCode::OK);
        until_failed(&caller, 9).await;
        third.stop().await;

        let events = sentry.events();
        let types: std::collections::BTreeSet<&str> =
            events.iter().map(|event| event["tags"]["event_type"].as_str().unwrap_or_default()).collect();
        assert_eq!((events.len(), types.len()), (2, 2), "{kind:?}: {}", sentry.text());
        for event in &events {
            assert_eq!(event["release"], concat!("trueup@", env!("CARGO_PKG_VERSION")));
            assert_eq!((&event["environment"], &event["level"]), (&json!("proof"), &json!("error")));
            assert!(event["tags"]["event_id"].as_str().unwrap().starts_with("evt_"), "{event}");
            assert_eq!(event["tags"]["kind"], "database");
            assert_eq!(
                (&event["fingerprint"][0], event["fingerprint"].as_array().unwrap().len()),
                (&json!("event"), 2)
            );
            let steps: Vec<&str> = event["breadcrumbs"]["values"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|step| step["message"].as_str())
                .collect();
            for step in ["claimed", "loaded what they touch"] {
                assert!(steps.contains(&step), "{step}: {steps:?}");
            }
        }
        let text = sentry.text();
        for kept in
            ["4242424242424242", "example.com", SECRETS[0].1, SECRETS[1].1, SECRETS[2].1, "postgres://", "cus_1"]
        {
            assert!(!text.contains(kept), "{kept}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_fails_is_reported_once_with_its_route_and_its_id() {
    let (database, sentry) = (TestDb::migrated(Kind::Sqlite).await, Sentry::start().await);
    let connection = database.connect().await;
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON users BEGIN SELECT RAISE(ABORT, 'no more'); END";
    connection.execute_unprepared(refuse).await.unwrap();
    connection.close().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (running, caller) = server(folder.path(), &database, &sentry.dsn, &[]).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let request =
            caller.http.put(format!("{}/api/v1/users/{}", caller.url, Uuid::new_v4())).bearer_auth(SECRETS[1].1);
        let response = request.json(&json!({ "email": "ann.lee@example.com" })).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        ids.push(response.headers()["x-request-id"].to_str().unwrap().to_owned());
    }
    running.stop().await;
    let events = sentry.events();
    assert_eq!(events.len(), 1, "{}", sentry.text());
    assert_eq!(events[0]["tags"]["route"], "/api/v1/users/{id}");
    assert_eq!(events[0]["tags"]["request_id"].as_str().unwrap(), ids[0]);
    assert!(!sentry.text().contains('@'), "{}", sentry.text());
    let lines: Vec<Value> = running.err().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of_request = lines.iter().filter(|line| line["spans"][0]["id"] == json!(ids[0]));
    assert!(of_request.count() >= 2, "the log lines of a request carry its id: {}", running.err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentry_that_never_answers_holds_up_neither_events_nor_the_end() {
    let (database, sentry) = (TestDb::migrated(Kind::Sqlite).await, Sentry::silent().await);
    poison(&database).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("trueup.toml"), QUICK).unwrap();
    let (running, caller) = server(folder.path(), &database, &sentry.dsn, &[]).await;
    assert_eq!(caller.deliver(&poisoned("customer.subscription.created", 1)).await, StatusCode::OK);
    sentry.envelopes(1).await;
    assert_eq!(caller.deliver(&poisoned("customer.subscription.updated", 2)).await, StatusCode::OK);
    let user = caller.make_user("user@example.com").await;
    for event in subscribing(&user, "pro") {
        assert_eq!(caller.deliver(&event).await, StatusCode::OK);
    }
    caller.tier_becomes(&user, "pro").await;
    until_failed(&caller, 2).await;
    let begun = Instant::now();
    running.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(running.err().contains("did not take the last reports in time"), "{}", running.err());
}
