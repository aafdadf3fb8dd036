//! Reconciliations over HTTP.

use std::{sync::Arc, time::Duration};

use billing::{
    samples::{ApiVersion, Metadata, SubscriptionSample},
    stripe::{ApiKey, ClientOptions, StripeClient},
};
use chrono::Utc;
use serde_json::{Value, json};
use testkit::{TestDb, on_each, stripe::FakeStripe};

use crate::http_server::{Server, Told, series};

const ADA: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const LIST: &str = "/api/v1/admin/reconciliations";

/// So many subscriptions of Ada's, the first of them living.
fn subscriptions(count: u32) -> Vec<Value> {
    (0..count)
        .map(|number| {
            let at = Utc::now().timestamp() - 5000 - i64::from(number);
            let status = if number == 0 { "active" } else { "canceled" };
            let mut sample = SubscriptionSample::new(format!("sub_{number}"), "cus_1", status, at);
            sample.items[0].lookup_key = Some("pro".into());
            sample.metadata = Metadata::from([("user_id".into(), ADA.into())]);
            sample.render(ApiVersion::LATEST)
        })
        .collect()
}

async fn server(database: TestDb, stripe: &FakeStripe) -> Server {
    let client = StripeClient::new(
        &stripe.url(),
        ApiKey::parse("sk_test_1").expect("a key"),
        ClientOptions::default(),
        Arc::new(|_| {}),
    );
    let client = client.expect("a client");
    let server = Server::with(database, move |app| app.stripe = Some(Arc::new(client))).await;
    server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
    stripe.object("/v1/account", &json!({"id": "acct_1", "object": "account"}));
    stripe.list("/v1/subscriptions", subscriptions(3));
    server
}

/// Waits until the reconciliation has ended.
async fn ended(server: &Server, begun: &Told) -> Value {
    assert_eq!(begun.status.as_u16(), 202, "{}", begun.text);
    let path = format!("{LIST}/{}", begun.json()["id"].as_str().expect("an id"));
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..3000 {
        looks.tick().await;
        let detail = server.operator_get(&path).await.assert_ok();
        if detail["reconciliation"]["outcome"] != "running" {
            return detail;
        }
    }
    panic!("it never ended");
}

#[test]
fn a_dry_run_tells_and_applying_repairs_and_both_can_be_looked_at() {
    on_each(|database| async {
        let stripe = FakeStripe::start().await;
        let server = server(database, &stripe).await;
        let dry = ended(&server, &server.operator_post(LIST, r#"{"mode": "dry_run"}"#).await).await;
        let told = &dry["reconciliation"];
        let figures =
            ["outcome", "mode", "requested_by", "scanned", "drifted", "repaired"].map(|key| told[key].clone());
        assert_eq!(json!(figures), json!(["succeeded", "dry_run", "api", 3, 3, 0]));
        assert_eq!(dry["report"]["by_kind"]["missing"], 3);
        let drift = &dry["drifts"]["items"][0];
        assert_eq!((&drift["kind"], &drift["user_id"]), (&json!("missing"), &json!(ADA)));
        assert_eq!((&drift["local"], &drift["stripe"]["snapshot"]["status"]), (&Value::Null, &json!("active")));
        let user = server.host_get(&format!("/api/v1/users/{ADA}")).await.assert_ok();
        assert_eq!(user["subscription"]["tier"], "free");

        let applied = ended(&server, &server.operator_post(LIST, r#"{"mode": "apply"}"#).await).await;
        assert_eq!(applied["reconciliation"]["repaired"], 3);
        let user = server.host_get(&format!("/api/v1/users/{ADA}")).await.assert_ok();
        assert_eq!(user["subscription"]["tier"], "pro");
        let page = server.operator_get(&format!("{LIST}?limit=1")).await.assert_ok();
        assert_eq!(page["items"][0]["id"], applied["reconciliation"]["id"], "newest first");
        let next = page["next_cursor"].as_str().expect("there is one more");
        let page = server.operator_get(&format!("{LIST}?limit=1&before={next}")).await.assert_ok();
        assert_eq!((&page["items"][0], &page["next_cursor"]), (&dry["reconciliation"], &Value::Null));

        let metrics = server.get("/metrics").await.text;
        assert_eq!(series(&metrics, "trueup_reconcile_scanned_total"), "6");
        assert_eq!(series(&metrics, "trueup_reconcile_drift_total{kind=\"missing\"}"), "6");
        assert_eq!(series(&metrics, "trueup_reconcile_repaired_total"), "3");
        let last: f64 = series(&metrics, "trueup_reconcile_last_complete_timestamp_seconds").parse().expect("seconds");
        assert!(last > 1_700_000_000.0);
    });
}

#[test]
fn what_was_found_is_listed_page_by_page_and_kind_by_kind() {
    on_each(|database| async {
        let stripe = FakeStripe::start().await;
        let server = server(database, &stripe).await;
        let detail = ended(&server, &server.operator_post(LIST, r#"{"mode": "dry_run"}"#).await).await;
        let path = format!("{LIST}/{}", detail["reconciliation"]["id"].as_str().expect("an id"));
        let (mut ids, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = server.operator_get(&format!("{path}?limit=2&kind=missing{cursor}")).await.assert_ok();
            let drifts = &page["drifts"];
            ids.extend(drifts["items"].as_array().expect("items").iter().map(|drift| drift["subscription_id"].clone()));
            match drifts["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(json!(ids), json!(["sub_0", "sub_1", "sub_2"]));
        let none = server.operator_get(&format!("{path}?kind=absent")).await.assert_ok();
        assert_eq!(none["drifts"], json!({"items": [], "next_cursor": null}));
        server.operator_get(&format!("{path}?kind=strange")).await.assert_problem(400, "bad-request");
        let unknown = format!("{LIST}/00000000-0000-4000-8000-000000000000");
        server.operator_get(&unknown).await.assert_problem(404, "reconciliation-unknown");
    });
}

#[test]
fn there_is_never_a_second_one_and_none_without_a_key() {
    on_each(|database| async {
        let stripe = FakeStripe::start().await;
        let mut server = server(database, &stripe).await;
        stripe.latency(Duration::from_millis(300));
        let first = server.operator_post(LIST, r#"{"mode": "apply"}"#).await;
        let second = server.operator_post(LIST, r#"{"mode": "dry_run"}"#).await;
        let problem = second.assert_problem(409, "reconciliation-running");
        let id = first.json()["id"].as_str().expect("an id").to_owned();
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(&id)), "{problem}");
        ended(&server, &first).await;
        let unknown = r#"{"mode": "apply", "user_id": "00000000-0000-4000-8000-00000000000f"}"#;
        server.operator_post(LIST, unknown).await.assert_problem(404, "user-unknown");
        server.operator_post(LIST, r#"{"mode": "apply", "forced": true}"#).await.assert_problem(400, "bad-request");
        server.operator_post(LIST, "{}").await.assert_problem(400, "bad-request");
        server.app.stripe = None;
        let without = poem::test::TestClient::new(api::http::routes(server.app.clone()));
        let told = crate::http_server::operator(without.post(LIST).body(r#"{"mode": "apply"}"#)).await;
        let problem = told.assert_problem(409, "not-configured");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("STRIPE_SECRET_KEY")), "{problem}");
    });
}

#[test]
fn one_that_runs_when_the_server_stops_ends_in_order() {
    on_each(|database| async {
        let stripe = FakeStripe::start().await;
        let server = server(database, &stripe).await;
        stripe.route("/v1/subscriptions", |_| testkit::stripe::Answer::never());
        let begun = server.operator_post(LIST, r#"{"mode": "apply"}"#).await;
        assert_eq!(begun.status.as_u16(), 202);
        assert!(server.app.background.end(Duration::from_secs(30)).await, "it has ended");
        let detail = ended(&server, &begun).await;
        assert_eq!(detail["reconciliation"]["outcome"], "interrupted");
        assert!(detail["reconciliation"]["finished_at"].is_string());
    });
}
