//! What the host's backend is answered.

use billing::samples::{self, Scene};
use chrono::Utc;
use poem::http::StatusCode;
use serde_json::{Value, json};
use testkit::on_each;

use crate::http_server::Server;

const ADA: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const BOB: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

#[test]
fn a_put_makes_a_user_then_changes_them_and_answers_as_a_get_does() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let made = server.put_user(ADA, r#"{"email": "Ada@Example.com", "full_name": "Ada Lovelace"}"#).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
        let user = made.json();
        let window = &user["usage"];
        assert_eq!(
            user,
            json!({
                "id": ADA, "email": "Ada@Example.com", "full_name": "Ada Lovelace",
                "subscription": {
                    "tier": "free", "status": "active", "access": false, "stripe_customer_id": null,
                    "stripe_subscription_id": null, "current_period_end": null, "cancel_at": null,
                },
                "usage": {
                    "used": 0, "limit": 5, "remaining": 5,
                    "period_start": window["period_start"], "resets_at": window["resets_at"],
                },
            })
        );
        for time in ["period_start", "resets_at"] {
            let time = window[time].as_str().expect("a time");
            assert!(time.ends_with("-01T00:00:00Z"), "the calendar month in UTC: {time}");
        }
        assert_eq!(server.host_get(&format!("/api/v1/users/{ADA}")).await.assert_ok(), user);
        let changed = server.put_user(ADA, r#"{"email": "ada@new.example"}"#).await.assert_ok();
        assert_eq!((&changed["email"], &changed["full_name"]), (&json!("ada@new.example"), &json!("Ada Lovelace")));
    });
}

#[test]
fn a_taken_address_is_a_conflict_whatever_its_case() {
    on_each(|database| async {
        let server = Server::new(database).await;
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        server.put_user(BOB, r#"{"email": "ADA@example.com"}"#).await.assert_problem(409, "email-taken");
        server.host_get(&format!("/api/v1/users/{BOB}")).await.assert_problem(404, "user-unknown");
    });
}

#[test]
fn a_bad_value_is_422_and_a_bad_request_400() {
    on_each(|database| async {
        let server = Server::new(database).await;
        for body in [
            json!({"email": "nobody"}),
            json!({"email": ""}),
            json!({"email": "a@b@c"}),
            json!({"email": "a b@example.com"}),
            json!({"email": "a\u{0}@example.com"}),
            json!({"email": format!("{}@example.com", "x".repeat(250))}),
            json!({"email": "a@example.com", "full_name": "x".repeat(256)}),
            json!({"email": "a@example.com", "full_name": "a\u{0}"}),
        ] {
            server.put_user(ADA, &body.to_string()).await.assert_problem(422, "invalid");
        }
        for body in ["", "{", "[]", "{}", r#"{"email": 5}"#, r#"{"email": "a@example.com", "fullname": "typo"}"#] {
            server.put_user(ADA, body).await.assert_problem(400, "bad-request");
        }
        server.put_user("not-a-uuid", r#"{"email": "a@example.com"}"#).await.assert_problem(400, "bad-request");
        let large = json!({"email": "a@example.com", "full_name": "x".repeat(70_000)}).to_string();
        server.put_user(ADA, &large).await.assert_problem(413, "too-large");
    });
}

#[test]
fn a_user_is_found_by_exactly_one_of_address_and_customer() {
    on_each(|database| async {
        let server = Server::new(database).await;
        server.put_user(ADA, r#"{"email": "Ada+1@Example.com"}"#).await;
        let scene = Scene::new("a", "ada+1@example.com", "starter", Utc::now().timestamp());
        server.play("customer.subscription.created", &scene).await;
        server.work().await;
        let by_address = server.host_get("/api/v1/users?email=ada%2B1@example.com").await.assert_ok();
        assert_eq!(by_address["id"], ADA);
        assert_eq!(by_address["subscription"]["stripe_customer_id"], scene.customer);
        let by_customer = server.host_get(&format!("/api/v1/users?customer={}", scene.customer)).await.assert_ok();
        assert_eq!(by_customer, by_address);
        for query in ["email=nobody@example.com", "customer=cus_nobody", "email=%00", "customer=%00", "customer="] {
            server.host_get(&format!("/api/v1/users?{query}")).await.assert_problem(404, "user-unknown");
        }
        for query in ["", "email=a&customer=b"] {
            server.host_get(&format!("/api/v1/users?{query}")).await.assert_problem(400, "bad-request");
        }
    });
}

#[test]
fn events_that_waited_for_a_user_count_as_soon_as_the_user_is_told() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let mut scene = Scene::new("a", "ada@example.com", "elite", Utc::now().timestamp());
        scene.user_id = Some(ADA.to_owned());
        server.play("customer.subscription.created", &scene).await;
        server.work().await;
        let made = server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        assert_eq!(made.status, StatusCode::CREATED);
        let user = made.json();
        assert_eq!((&user["subscription"]["tier"], &user["usage"]["limit"]), (&json!("elite"), &Value::Null));
        assert_eq!(user["usage"]["remaining"], Value::Null);
        // The processor was woken for what waited.
        tokio::time::timeout(std::time::Duration::from_secs(1), server.app.nudge.notified()).await.expect("a nudge");
        server.work().await;
        let events = server.operator_get("/api/v1/admin/webhooks?status=pending").await.assert_ok();
        assert_eq!(events["items"], json!([]));
    });
}

#[test]
fn the_timeline_tells_every_change_newest_first_page_by_page() {
    on_each(|database| async {
        let server = Server::new(database).await;
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        let path = format!("/api/v1/users/{ADA}/timeline");
        assert_eq!(server.host_get(&path).await.assert_ok(), json!({"items": [], "next_cursor": null}));
        let at = Utc::now().timestamp();
        for (step, tier) in ["starter", "pro", "elite"].into_iter().enumerate() {
            let mut scene =
                Scene::new(format!("s{step}"), "ada@example.com", tier, at + i64::try_from(step).expect("small"));
            scene.user_id = Some(ADA.to_owned());
            scene.customer = "cus_a".to_owned();
            scene.subscription = "sub_a".to_owned();
            let events = samples::scene_events("customer.subscription.updated", &scene).expect("a scene");
            let update = events.last().expect("an event");
            server.deliver(update).await.assert_ok();
            server.work().await;
        }
        let tiers = |page: &Value| -> Vec<String> {
            let items = page["items"].as_array().expect("items");
            items.iter().map(|item| item["after"]["tier"].as_str().expect("a tier").to_owned()).collect()
        };
        let first = server.host_get(&format!("{path}?limit=2")).await.assert_ok();
        assert_eq!(tiers(&first), ["elite", "pro"]);
        let entry = &first["items"][0];
        assert_eq!((&entry["source"], &entry["before"]["tier"]), (&json!("webhook"), &json!("pro")));
        assert!(entry["changed_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{entry}");
        assert!(entry["event_id"].is_string() && entry["reason"].is_string());
        let cursor = first["next_cursor"].as_str().expect("there is more");
        let second = server.host_get(&format!("{path}?limit=2&before={cursor}")).await.assert_ok();
        assert_eq!((tiers(&second), &second["next_cursor"]), (vec!["starter".to_owned()], &Value::Null));
        server.host_get(&format!("/api/v1/users/{BOB}/timeline")).await.assert_problem(404, "user-unknown");
        for query in ["limit=0", "limit=101", "limit=x", "before=x"] {
            server.host_get(&format!("{path}?{query}")).await.assert_problem(400, "bad-request");
        }
    });
}
