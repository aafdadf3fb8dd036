//! Commands beside `serve`.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::path::Path;

use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use serde_json::Value;
use testkit::{Kind, TestDb, kinds};

use crate::process_harness::{Ran, Running, run};

async fn trigger(folder: &Path, url: &str, arguments: &[&str]) -> Ran {
    let arguments: Vec<&str> = ["trigger"].iter().chain(arguments).copied().chain(["--url", url]).collect();
    run(folder, &[], &arguments).await
}

async fn user(folder: &Path, email: &str) -> Value {
    let ran = run(folder, &[], &["users", "show", email, "--json"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.out).unwrap()
}

fn subscription<'v>(user: &'v Value, key: &str) -> &'v str {
    user["subscription"][key].as_str().unwrap()
}

#[tokio::test]
async fn trigger_moves_a_user_to_pro_and_back_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let server = Running::start(folder, &[], &[]);
    let url = server.url().await;

    let who = ["--email", "Someone@example.com"];
    let ran = trigger(folder, &url, &["checkout.session.completed", who[0], who[1], "--tier", "pro"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let row = |ran: &Ran, name: &str| -> Vec<String> {
        let line = ran.out.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect()
    };
    assert_eq!(row(&ran, "tier"), ["free", "→", "pro"]);
    assert_eq!(row(&ran, "access"), ["no", "→", "yes"]);
    assert!(ran.out.contains("200 recorded"), "{}", ran.out);
    let bought = user(folder, "someone@example.com").await;
    assert_eq!(subscription(&bought, "tier"), "pro");
    assert_eq!(bought["timeline"].as_array().unwrap().len(), 1);

    // The same subscription, the same period, another tier.
    let ran = trigger(folder, &url, &["customer.subscription.updated", who[0], who[1], "--tier", "elite"]).await;
    assert_eq!(row(&ran, "tier"), ["pro", "→", "elite"], "{ran:?}");
    let raised = user(folder, "someone@example.com").await;
    for key in ["stripe_customer_id", "stripe_subscription_id", "current_period_end"] {
        assert_eq!(subscription(&raised, key), subscription(&bought, key), "{key}");
    }

    let ran = trigger(folder, &url, &["customer.subscription.deleted", who[0], who[1]]).await;
    assert_eq!(row(&ran, "tier"), ["elite", "→", "free"], "{ran:?}");
    assert_eq!(row(&ran, "status"), ["active", "→", "canceled"], "{ran:?}");
    // Nothing that has ended comes back; who buys again has another subscription.
    let ran = trigger(folder, &url, &["checkout.session.completed", who[0], who[1], "--tier", "starter"]).await;
    assert_eq!(row(&ran, "tier"), ["free", "→", "starter"], "{ran:?}");
    let again = user(folder, "someone@example.com").await;
    assert_ne!(subscription(&again, "stripe_subscription_id"), subscription(&bought, "stripe_subscription_id"));

    // By id, and with an id that nobody has yet.
    let id = again["id"].as_str().unwrap();
    let ran = trigger(folder, &url, &["customer.subscription.deleted", "--user", id]).await;
    assert_eq!(row(&ran, "tier"), ["starter", "→", "free"], "{ran:?}");
    let new = "00000000-0000-4000-8000-000000000001";
    let ran = trigger(folder, &url, &["customer.subscription.created", "--user", new]).await;
    assert_eq!(row(&ran, "tier"), ["free", "→", "pro"], "{ran:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_sample_event_that_a_busy_server_does_not_take_at_once_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let server = Running::start(folder, &[], &[]);
    let url = server.url().await;
    // Somebody else has the file for longer than a delivery may wait.
    let path = format!("sqlite://{}", folder.join("data/trueup.db").display());
    let other = sea_orm::Database::connect(path).await.unwrap();
    let held = other.begin_with_options(sea_orm::TransactionOptions::default()).await.unwrap();
    held.execute_unprepared("DELETE FROM settings WHERE name = 'nothing'").await.unwrap();
    let who = ["customer.created", "--email", "someone@example.com"];
    let (ran, ()) = tokio::join!(trigger(folder, &url, &who), async {
        server.line_with("\"status\":503").await;
        held.rollback().await.unwrap();
    });
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("200 recorded"), "{ran:?}");
    other.close().await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn every_event_type_can_be_triggered_and_each_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let list = run(folder, &[], &["trigger", "--list"]).await;
    assert_eq!(list.code, Some(0), "{list:?}");
    let server = Running::start(folder, &[], &[]);
    let url = server.url().await;
    for line in list.out.lines() {
        let (event_type, what) = line.split_once(' ').expect("each type has its line");
        assert!(!what.trim().is_empty(), "{line}");
        let ran = trigger(folder, &url, &[event_type, "--email", "all@example.com"]).await;
        assert_eq!(ran.code, Some(0), "{event_type}: {ran:?}");
    }
    for event_type in billing::events::event_types() {
        let stats = run(folder, &[], &["webhooks", "list", "--type", event_type, "--status", "completed"]).await;
        assert!(stats.out.contains(event_type), "{event_type} was never applied: {stats:?}");
    }
    let failures = run(folder, &[], &["webhooks", "failures"]).await;
    assert!(failures.out.contains("no event failed for good"), "{failures:?}");
    server.stop().await;
}

#[tokio::test]
async fn the_inbox_can_be_looked_at_and_tried_again_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let nothing = run(folder, &[], &["webhooks", "list"]).await;
    assert_eq!(nothing.code, Some(1));
    assert!(nothing.err.contains("there is no database data/trueup.db yet; start the server once"), "{nothing:?}");
    assert!(!folder.join("data").exists(), "looking makes nothing");

    let server = Running::start(folder, &[], &[]);
    let url = server.url().await;
    let triggered = trigger(folder, &url, &["checkout.session.completed"]).await;
    assert_eq!(triggered.code, Some(0), "{triggered:?}\n{}", server.err());
    server.stop().await;

    let json = |ran: &Ran| -> Value { serde_json::from_str(&ran.out).unwrap() };
    let page = json(&run(folder, &[], &["webhooks", "list", "--limit", "3", "--json"]).await);
    assert_eq!(page["items"].as_array().unwrap().len(), 3);
    let rest =
        run(folder, &[], &["webhooks", "list", "--json", "--cursor", page["next_cursor"].as_str().unwrap()]).await;
    let rest = json(&rest);
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next_cursor"]), (1, &Value::Null));
    let id = rest["items"][0]["event_id"].as_str().unwrap();
    let shown = json(&run(folder, &[], &["webhooks", "show", id, "--json"]).await);
    assert_eq!(shown["payload"]["id"], id);
    assert_eq!(shown["status"], "completed");
    let shown = run(folder, &[], &["webhooks", "show", id]).await;
    assert!(shown.out.contains(id) && shown.out.contains("payload"), "{shown:?}");

    let pending = |ran: Ran| json(&ran)["by_status"]["pending"].clone();
    let retried = run(folder, &[], &["webhooks", "retry", id]).await;
    assert_eq!(retried.code, Some(0), "{retried:?}");
    assert_eq!(pending(run(folder, &[], &["webhooks", "stats", "--json"]).await), 1);
    let retried = run(folder, &[], &["webhooks", "retry", "--status", "completed", "--since", "1h"]).await;
    assert!(retried.out.contains("3 events are due now"), "{retried:?}");
    assert_eq!(pending(run(folder, &[], &["webhooks", "stats", "--json"]).await), 4);

    let retried = run(folder, &[], &["webhooks", "retry", "--fingerprint", "0123456789abcdef"]).await;
    assert!(retried.out.contains("0 events are due now"), "{retried:?}");
    let emails = run(folder, &[], &["emails", "list"]).await;
    assert!(emails.out.contains("no e-mails"), "{emails:?}");
    assert_eq!(
        json(&run(folder, &[], &["emails", "list", "--status", "failed", "--json"]).await)["items"],
        Value::Array(vec![])
    );
    let again = run(folder, &[], &["emails", "retry", "--all"]).await;
    assert!(again.out.contains("0 e-mails are due now"), "{again:?}");

    for (arguments, code, part) in [
        (&["webhooks", "retry"][..], 2, "--all"),
        (&["emails", "retry"], 2, "--all"),
        (&["emails", "retry", "0f8fad5b-d9cb-469f-a165-70867728950e"], 1, "no e-mail 0f8fad5b"),
        (&["emails", "list", "--status", "lost"], 2, "pending, sent, dropped, failed"),
        (&["webhooks", "retry", "evt_none"], 1, "no event evt_none in the inbox"),
        (&["webhooks", "show", "evt_none"], 1, "no event evt_none in the inbox"),
        (&["webhooks", "list", "--status", "done"], 2, "pending, processing, completed, failed, skipped"),
        (&["webhooks", "list", "--since", "yesterday"], 2, "nor a duration like 2h"),
        (&["users", "show", "nobody@example.com"], 1, "no user nobody@example.com"),
        (&["frobnicate"], 2, "frobnicate"),
    ] {
        let ran = run(folder, &[], arguments).await;
        assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
        assert!(ran.err.contains(part), "{arguments:?}: {ran:?}");
    }
}

#[tokio::test]
async fn the_schema_goes_up_and_down_by_hand_and_down_only_when_it_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let migrate = async |arguments: &[&str]| {
        let arguments: Vec<&str> = ["migrate"].iter().chain(arguments).copied().collect();
        run(folder, &[], &arguments).await
    };
    let up = migrate(&["up"]).await;
    assert_eq!(up.code, Some(0), "{up:?}");
    let status = migrate(&["status"]).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    assert!(status.out.contains("applied") && !status.out.contains("pending"), "{status:?}");
    let refused = migrate(&["down", "--all"]).await;
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.contains("add --yes if that is meant"), "{refused:?}");
    assert_eq!(migrate(&["status"]).await.code, Some(0), "nothing was taken back");
    assert_eq!(migrate(&["down", "--all", "--yes"]).await.code, Some(0));
    assert_eq!(migrate(&["status"]).await.code, Some(1), "all are pending");
    let refused = run(folder, &[], &["webhooks", "list"]).await;
    assert!(refused.err.contains("run `trueup migrate up`"), "{refused:?}");
    assert_eq!(migrate(&["up"]).await.code, Some(0));
    assert_eq!(migrate(&["status"]).await.code, Some(0));
}

#[tokio::test]
async fn a_dry_run_prints_the_sql_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let ran = run(folder, &[], &["migrate", "up", "--dry-run"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for part in ["BEGIN;", "CREATE TABLE stripe_webhooks", "CREATE TABLE IF NOT EXISTS \"seaql_migrations\"", "COMMIT;"]
    {
        assert!(ran.out.contains(part), "`{part}` is missing: {}", ran.out);
    }
    assert!(!folder.join("data").exists(), "not even a folder is made");
    assert_eq!(run(folder, &[], &["migrate", "up"]).await.code, Some(0));
    let ran = run(folder, &[], &["migrate", "up", "--dry-run"]).await;
    assert_eq!((ran.code, ran.out.starts_with("-- nothing is pending")), (Some(0), true), "{ran:?}");
}

#[tokio::test]
async fn the_schema_is_verified_and_the_use_of_indexes_listed_on_both_databases() {
    for kind in kinds() {
        let database = TestDb::migrated(kind).await;
        let folder = tempfile::tempdir().unwrap();
        let variables = [("DATABASE_URL", database.url())];
        let ask = async |arguments: &[&str]| run(folder.path(), &variables, arguments).await;
        let ran = ask(&["db", "verify"]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.out.contains("as expected"), "{ran:?}");

        let connection = database.connect().await;
        connection.execute_unprepared("DROP INDEX idx_users_last_login").await.unwrap();
        let ran = ask(&["db", "verify"]).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.out.contains("index idx_users_last_login of users: missing\n  remedy    CREATE INDEX"), "{ran:?}");
        let ran = ask(&["db", "verify", "--json"]).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let verdict: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(verdict["as_expected"], false);
        assert_eq!(
            (&verdict["findings"][0]["name"], &verdict["findings"][0]["problem"]),
            (&"idx_users_last_login".into(), &"missing".into())
        );

        let ran = ask(&["db", "indexes"]).await;
        if kind == Kind::Sqlite {
            assert_eq!(ran.code, Some(2), "{ran:?}");
            assert!(ran.err.contains("SQLite does not count"), "{ran:?}");
            continue;
        }
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.out.contains("idx_stripe_webhooks_failed"), "{ran:?}");
        let ran = ask(&["db", "indexes", "--unused", "--json"]).await;
        let unused: Value = serde_json::from_str(&ran.out).unwrap();
        assert!(unused.as_array().unwrap().iter().all(|index| index["scans"] == 0 && index["is_unique"] == false));
    }
}

#[tokio::test]
async fn a_server_that_does_not_run_is_told_in_one_line_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let configured = [
        ("STRIPE_WEBHOOK_SECRET", "whsec_test"),
        ("TRUEUP_API_TOKEN", "an-api-token-for-tests"),
        ("TRUEUP_ADMIN_TOKEN", "an-admin-token-for-tests"),
    ];
    for arguments in [&["healthcheck"][..], &["trigger", "customer.created"]] {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--url", &url]).collect();
        let ran = run(folder, &configured, &arguments).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert_eq!(
            ran.err.trim_end(),
            format!(
                "error: no server answers at {url}; start it with `trueup serve` in another terminal, or name it with --url"
            )
        );
    }
    let ran = run(folder, &[], &["trigger", "customer.created", "--url", &url]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("start the server first"), "{ran:?}");
}

#[tokio::test]
async fn a_command_with_other_secrets_than_the_server_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let server = Running::start(folder, &[], &[]);
    let url = server.url().await;
    let healthy = run(folder, &[], &["healthcheck", "--url", &url]).await;
    assert_eq!(healthy.code, Some(0), "{healthy:?}");

    let secrets = std::fs::read_to_string(folder.join("data/dev-secrets.toml")).unwrap();
    let secrets: toml::Table = secrets.parse().unwrap();
    let own = |name: &str| secrets[name].as_str().unwrap();
    let (api, admin) = (own("trueup_api_token"), own("trueup_admin_token"));
    let with = async |secret: &str, api: &str| {
        let variables = [("STRIPE_WEBHOOK_SECRET", secret), ("TRUEUP_API_TOKEN", api), ("TRUEUP_ADMIN_TOKEN", admin)];
        run(folder, &variables, &["trigger", "customer.created", "--url", &url]).await
    };
    let ran = with("whsec_another", api).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("signs with the first secret of STRIPE_WEBHOOK_SECRET"), "{ran:?}");
    let ran = with("whsec_another", "another-token-than-its").await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("must be configured alike"), "{ran:?}");
    server.stop().await;
}

#[tokio::test]
async fn the_description_of_the_http_interface_can_be_had_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run(folder.path(), &[], &["openapi"]).await;
    assert_eq!(ran.code, Some(0));
    let spec: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(spec["paths"].as_object().unwrap().contains_key("/api/v1/stripe/webhook"));
}
