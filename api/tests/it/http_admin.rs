//! What operators are answered.

use billing::{
    samples::{ApiVersion, Scene, event},
    stripe::{Collection, Fetched, Lane, Page, Resource, Stripe, StripeError},
};
use chrono::Utc;
use serde_json::{Value, json};
use testkit::on_each;

use crate::http_server::Server;

const ADA: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const LIST: &str = "/api/v1/admin/webhooks";

fn ids(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().expect("items");
    items.iter().map(|item| item["event_id"].as_str().expect("an id")).collect()
}

/// Four events: two applied for a user, one parked, one skipped.
async fn filled(server: &Server) {
    server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
    let mut scene = Scene::new("a", "ada@example.com", "pro", Utc::now().timestamp());
    scene.user_id = Some(ADA.to_owned());
    server.play("customer.subscription.created", &scene).await;
    let object = json!({"id": "sub_x", "object": "subscription", "customer": "cus_x", "status": "active"});
    let parked = event("evt_parked", "customer.subscription.updated", 5, ApiVersion::LATEST, object, None);
    server.deliver(&parked).await.assert_ok();
    server.deliver(&json!({"id": "evt_skipped", "type": "payout.paid", "api_version": "2020-08-27"})).await.assert_ok();
    server.work().await;
}

#[test]
fn events_are_listed_newest_first_with_every_field() {
    on_each(|database| async {
        let server = Server::new(database).await;
        filled(&server).await;
        let page = server.operator_get(LIST).await.assert_ok();
        assert_eq!(&ids(&page)[..2], ["evt_skipped", "evt_parked"]);
        assert_eq!(page["next_cursor"], Value::Null);
        let parked = &page["items"][1];
        assert_eq!(
            *parked,
            json!({
                "event_id": "evt_parked", "event_type": "customer.subscription.updated", "status": "pending", "attempts": 0,
                "error": parked["error"], "user_id": null, "stripe_customer_id": "cus_x", "source": "webhook",
                "api_version": ApiVersion::LATEST.as_str(), "livemode": false, "stripe_created_at": "1970-01-01T00:00:05Z",
                "created_at": parked["created_at"], "processed_at": null, "next_attempt_at": parked["next_attempt_at"],
            })
        );
        assert!(parked["error"].as_str().is_some_and(|error| error.contains("unmatched user")), "{parked}");
        assert!(parked["created_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{parked}");
        let applied = &page["items"][2];
        assert_eq!((&applied["status"], &applied["user_id"]), (&json!("completed"), &json!(ADA)));
    });
}

#[test]
fn a_list_takes_every_filter_and_refuses_what_is_none() {
    on_each(|database| async {
        let server = Server::new(database).await;
        filled(&server).await;
        let all = ids(&server.operator_get(LIST).await.assert_ok()).len();
        for (query, expected) in [
            ("status=pending".to_owned(), vec!["evt_parked"]),
            ("status=skipped&type=payout.paid".to_owned(), vec!["evt_skipped"]),
            ("customer=cus_x".to_owned(), vec!["evt_parked"]),
            ("fingerprint=none".to_owned(), vec![]),
            ("since=2999-01-01T00:00:00Z".to_owned(), vec![]),
            ("until=2000-01-01T00:00:00Z".to_owned(), vec![]),
        ] {
            let page = server.operator_get(&format!("{LIST}?{query}")).await.assert_ok();
            assert_eq!(ids(&page), expected, "{query}");
        }
        let of_ada = server.operator_get(&format!("{LIST}?user_id={ADA}")).await.assert_ok();
        assert_eq!(ids(&of_ada).len(), all - 2);
        for query in [
            "status=lost",
            "user_id=x",
            "limit=0",
            "limit=101",
            "cursor=x",
            "since=yesterday",
            "since=%2B20000-01-01T00:00:00Z",
            "type=%00",
            "customer=%00",
        ] {
            server.operator_get(&format!("{LIST}?{query}")).await.assert_problem(400, "bad-request");
        }
    });
}

#[test]
fn pages_follow_each_other_without_gap_or_overlap() {
    on_each(|database| async {
        let server = Server::new(database).await;
        for number in 0..7 {
            server.deliver(&json!({"id": format!("evt_{number}"), "type": "payout.paid"})).await.assert_ok();
        }
        let (mut seen, mut query) = (Vec::new(), String::new());
        for size in [3, 3, 1] {
            let page = server.operator_get(&format!("{LIST}?limit=3{query}")).await.assert_ok();
            assert_eq!(ids(&page).len(), size);
            seen.extend(ids(&page).into_iter().map(str::to_owned));
            query = page["next_cursor"].as_str().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        }
        assert!(query.is_empty(), "the last page has no next");
        let expected: Vec<_> = (0..7).rev().map(|number| format!("evt_{number}")).collect();
        assert_eq!(seen, expected);
    });
}

#[test]
fn one_event_shows_its_payload_as_json_even_nested_500_levels() {
    on_each(|database| async {
        let server = Server::new(database).await;
        filled(&server).await;
        let shown = server.operator_get(&format!("{LIST}/evt_parked")).await.assert_ok();
        assert_eq!(
            (&shown["event_id"], &shown["payload"]["data"]["object"]["id"]),
            (&json!("evt_parked"), &json!("sub_x"))
        );
        assert!(shown.as_object().is_some_and(|shown| shown.contains_key("error_details")));
        let nested = format!("{}{}", "[".repeat(500), "]".repeat(500));
        server
            .deliver_text(&format!(r#"{{"id": "evt_deep", "type": "payout.paid", "deep": {nested}}}"#))
            .await
            .assert_ok();
        let shown = server.operator_get(&format!("{LIST}/evt_deep")).await;
        assert_eq!(shown.status.as_u16(), 200);
        assert!(shown.text.contains(&"[".repeat(500)), "as JSON, not as a string of it");
        assert!(shown.text.contains(r#""payload":{""#));
        for id in ["evt_none", "%00", "a%20b"] {
            server.operator_get(&format!("{LIST}/{id}")).await.assert_problem(404, "event-unknown");
        }
    });
}

#[test]
fn one_event_is_made_due_again_or_the_answer_says_why_not() {
    on_each(|database| async {
        let server = Server::new(database).await;
        filled(&server).await;
        let retry = |id: &str| format!("{LIST}/{id}/retry");
        let retried = server.operator_post(&retry("evt_parked"), "").await.assert_ok();
        assert_eq!(retried, json!({"retried": 1, "emptied": 0}));
        tokio::time::timeout(std::time::Duration::from_secs(1), server.app.nudge.notified()).await.expect("a nudge");
        assert_eq!(server.work().await.events(), 1, "the event is due");
        let shown = server.operator_get(&format!("{LIST}/evt_a_1")).await.assert_ok();
        assert_eq!(shown["status"], "completed");
        server.operator_post(&retry("evt_a_1"), "").await.assert_ok();
        assert_eq!(server.work().await.events(), 1, "a completed event may be applied again");
        server.operator_post(&retry("evt_none"), "").await.assert_problem(404, "event-unknown");
        server.operator_post(&retry("evt_skipped"), "").await.assert_problem(409, "event-not-ours");
        server.sql("UPDATE stripe_webhooks SET signature_verified = false WHERE event_id = 'evt_a_1'").await;
        server.operator_post(&retry("evt_a_1"), "").await.assert_problem(409, "event-unverified");
    });
}

/// Stripe, where one event is still kept.
#[derive(Debug)]
struct Keeper(Value);

#[async_trait::async_trait]
impl Stripe for Keeper {
    async fn get(&self, resource: &Resource, _: Lane) -> Result<Fetched, StripeError> {
        if resource.id() != self.0["id"] {
            return Err(StripeError::Unavailable { reason: "it is away".to_owned(), request: None });
        }
        Ok(Fetched { object: self.0.to_string(), at: Utc::now() })
    }

    async fn list(&self, _: &Collection, _: Option<&str>, _: Lane) -> Result<Page, StripeError> {
        Err(StripeError::Unavailable { reason: "it keeps no lists".to_owned(), request: None })
    }
}

#[test]
fn an_emptied_event_is_fetched_again_or_the_answer_says_what_to_do() {
    on_each(|database| async {
        let customer = |id: &str| {
            event(id, "customer.created", 5, ApiVersion::LATEST, json!({"id": "cus_1", "object": "customer"}), None)
        };
        let mut server = Server::new(database).await;
        for id in ["evt_1", "evt_2"] {
            server.deliver(&customer(id)).await.assert_ok();
        }
        server.work().await;
        server.sql("UPDATE stripe_webhooks SET payload = '{}', payload_emptied_at = processed_at").await;
        let shown = server.operator_get(&format!("{LIST}/evt_1")).await.assert_ok();
        assert_eq!(shown["payload"], json!({}));
        assert!(shown["payload_emptied_at"].is_string(), "{shown}");
        let retry = |id: &str| format!("{LIST}/{id}/retry");
        let problem = server.operator_post(&retry("evt_1"), "").await.assert_problem(409, "event-emptied");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("STRIPE_SECRET_KEY")), "{problem}");
        let all = server.operator_post(&format!("{LIST}/retry"), r#"{"status": "completed"}"#).await.assert_ok();
        assert_eq!(all, json!({"retried": 0, "emptied": 2}));

        server.offer_stripe(Keeper(customer("evt_1")));
        let told = server.operator_post(&retry("evt_2"), "").await;
        told.assert_problem(503, "stripe-unavailable");
        assert!(told.header("retry-after").is_some());
        server.operator_post(&retry("evt_1"), "").await.assert_ok();
        assert_eq!(server.work().await.events(), 1);
        let shown = server.operator_get(&format!("{LIST}/evt_1")).await.assert_ok();
        assert_eq!((&shown["payload_emptied_at"], &shown["payload"]["id"]), (&Value::Null, &json!("evt_1")));
    });
}

#[test]
fn failures_are_grouped_and_retried_by_filter() {
    on_each(|database| async {
        let server = Server::new(database).await;
        for number in 0..3 {
            let object = json!({"id": format!("cus_{number}"), "object": "customer"});
            let made = event(&format!("evt_{number}"), "customer.created", 5, ApiVersion::LATEST, object, None);
            server.deliver(&made).await.assert_ok();
        }
        server.work().await;
        assert_eq!(server.operator_get(&format!("{LIST}/failures")).await.assert_ok()["items"], json!([]));
        server
            .sql(
                "UPDATE stripe_webhooks SET processing_status = 'failed', processing_error = 'broken', error_fingerprint = 'f1'
                 WHERE event_id <> 'evt_2'",
            )
            .await;
        let failures = server.operator_get(&format!("{LIST}/failures")).await.assert_ok();
        let group = &failures["items"][0];
        assert_eq!(
            (&group["fingerprint"], &group["event_type"], &group["events"], &group["error"]),
            (&json!("f1"), &json!("customer.created"), &json!(2), &json!("broken"))
        );
        assert_eq!(failures["next_cursor"], Value::Null);
        let page = server.operator_get(&format!("{LIST}?fingerprint=f1")).await.assert_ok();
        assert_eq!(ids(&page), ["evt_1", "evt_0"]);

        let retry = format!("{LIST}/retry");
        let retried = |body: &'static str| server.operator_post(&retry, body);
        assert_eq!(retried(r#"{"fingerprint": "f2"}"#).await.assert_ok(), json!({"retried": 0, "emptied": 0}));
        assert_eq!(
            retried(r#"{"fingerprint": "f1", "type": "customer.created"}"#).await.assert_ok(),
            json!({"retried": 2, "emptied": 0})
        );
        assert_eq!(server.work().await.events(), 2);
        assert_eq!(retried("{}").await.assert_ok(), json!({"retried": 0, "emptied": 0}), "nothing failed is left");
        assert_eq!(retried(r#"{"status": "completed"}"#).await.assert_ok(), json!({"retried": 3, "emptied": 0}));
        for body in ["", "[]", r#"{"stauts": "failed"}"#, r#"{"status": "lost"}"#, r#"{"since": "yesterday"}"#] {
            retried(body).await.assert_problem(400, "bad-request");
        }
    });
}

#[test]
fn figures_count_by_status_and_by_type() {
    on_each(|database| async {
        let server = Server::new(database).await;
        filled(&server).await;
        let stats = server.operator_get(&format!("{LIST}/stats")).await.assert_ok();
        assert_eq!(stats["hours"], 24);
        let by_status = &stats["by_status"];
        assert_eq!(
            (&by_status["pending"], &by_status["skipped"], &by_status["failed"]),
            (&json!(1), &json!(1), &json!(0))
        );
        let types = stats["by_type"].as_array().expect("types");
        let updated = types.iter().find(|figures| figures["event_type"] == "customer.subscription.updated");
        let updated = updated.expect("the type of the parked event");
        assert_eq!((&updated["total"], &updated["pending"]), (&json!(1), &json!(1)));
        assert_eq!(server.operator_get(&format!("{LIST}/stats?hours=8760")).await.assert_ok()["hours"], 8760);
        for hours in ["0", "8761", "x"] {
            server.operator_get(&format!("{LIST}/stats?hours={hours}")).await.assert_problem(400, "bad-request");
        }
    });
}

#[test]
fn the_depth_of_the_inbox_is_measured_when_prometheus_asks() {
    on_each(|database| async {
        let server = Server::new(database).await;
        filled(&server).await;
        server.deliver(&json!({"id": "evt_due", "type": "invoice.paid"})).await.assert_ok();
        let told = server.get("/metrics").await;
        assert_eq!(told.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        let series = |name: &str| crate::http_server::series(&told.text, name);
        assert_eq!(series("trueup_database_up"), "1");
        assert_eq!(series("trueup_inbox_events{status=\"parked\"}"), "1");
        assert_eq!(series("trueup_inbox_events{status=\"pending\"}"), "1");
        assert_eq!(series("trueup_inbox_waiting_deliveries"), "0");
        let route = "route=\"/api/v1/users/{id}\"";
        assert_eq!(series(&format!("trueup_http_requests_total{{method=\"PUT\",{route},status=\"2xx\"}}")), "1");
        assert_eq!(series(&format!("trueup_http_requests_total{{method=\"GET\",{route},status=\"2xx\"}}")), "0");
        assert_ne!(series("trueup_webhook_ack_duration_seconds_count"), "0");
    });
}
