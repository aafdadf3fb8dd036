//! What the host is answered before it does one more, and what operators give.

use billing::samples::{self, Scene};
use chrono::{Months, Utc};
use poem::http::Method;
use serde_json::{Value, json};
use testkit::on_each;

use crate::http_server::{Server, Told, host, operator, series};

const ADA: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const BOB: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

impl Server {
    async fn consume(&self, user: &str, body: Value) -> Told {
        host(self.client.post(format!("/api/v1/users/{user}/usage")).body(body.to_string())).await
    }

    async fn release(&self, user: &str, body: Value) -> Told {
        host(self.client.post(format!("/api/v1/users/{user}/usage/release")).body(body.to_string())).await
    }

    async fn override_with(&self, method: Method, user: &str, body: Value) -> Told {
        let path = format!("/api/v1/admin/users/{user}/override");
        operator(self.client.request(method, path).body(body.to_string())).await
    }
}

fn figures(told: &Value) -> (i64, Option<i64>, Option<i64>) {
    (told["used"].as_i64().expect("a count"), told["limit"].as_i64(), told["remaining"].as_i64())
}

#[test]
fn a_use_is_counted_and_answered_with_what_is_left_and_refused_with_the_same_figures() {
    on_each(|database| async {
        let server = Server::new(database).await;
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        let told = server.consume(ADA, json!({"amount": 3})).await.assert_ok();
        assert_eq!(figures(&told), (3, Some(5), Some(2)));
        let resets_at = told["resets_at"].as_str().expect("a time").to_owned();
        assert!(resets_at.ends_with("-01T00:00:00Z"), "{resets_at}");
        assert_eq!(told.as_object().expect("an object").len(), 4, "{told}");
        let user = server.host_get(&format!("/api/v1/users/{ADA}")).await.assert_ok();
        assert_eq!((figures(&user["usage"]), &user["usage"]["resets_at"]), ((3, Some(5), Some(2)), &told["resets_at"]));

        let refused = server.consume(ADA, json!({"amount": 3, "idempotency_key": "k"})).await;
        let problem = refused.assert_problem(429, "quota-exceeded");
        assert_eq!((figures(&problem), &problem["resets_at"]), ((3, Some(5), Some(2)), &json!(resets_at)));
        assert_eq!(problem["detail"], format!("3 of 5 are used until {resets_at}, so 3 more do not fit"));
        let taken = server.consume(ADA, json!({"amount": 2, "idempotency_key": "k"})).await.assert_ok();
        assert_eq!(figures(&taken), (5, Some(5), Some(0)));
        let metrics = server.get("/metrics").await;
        assert_eq!(series(&metrics.text, "trueup_usage_consumed_total"), "5");
        assert_eq!(series(&metrics.text, "trueup_usage_refused_total"), "1");
        assert_eq!(series(&metrics.text, "trueup_usage_windows_rolled_total"), "1", "the first window, once");
    });
}

#[test]
fn a_key_counts_once_may_be_released_and_stands_for_one_amount() {
    on_each(|database| async {
        let server = Server::new(database).await;
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        let one = json!({"amount": 1, "idempotency_key": "job 1"});
        for _ in 0..3 {
            assert_eq!(figures(&server.consume(ADA, one.clone()).await.assert_ok()), (1, Some(5), Some(4)));
        }
        let two = json!({"amount": 2, "idempotency_key": "job 1"});
        server.consume(ADA, two).await.assert_problem(409, "key-taken");
        for (outcome, released) in [("released", 1), ("already_released", 0)] {
            let told = server.release(ADA, json!({"idempotency_key": "job 1"})).await.assert_ok();
            assert_eq!((told["outcome"].as_str(), told["released"].as_i64()), (Some(outcome), Some(released)));
            assert_eq!(figures(&told), (0, Some(5), Some(5)));
        }
        assert_eq!(
            figures(&server.consume(ADA, one).await.assert_ok()),
            (1, Some(5), Some(4)),
            "tried again, used again"
        );
        server.release(ADA, json!({"idempotency_key": "job 2"})).await.assert_problem(404, "key-unknown");
        server.release(BOB, json!({"idempotency_key": "job 1"})).await.assert_problem(404, "user-unknown");
        server.consume(BOB, json!({"amount": 1})).await.assert_problem(404, "user-unknown");
    });
}

#[test]
fn an_amount_that_is_no_whole_number_from_1_on_is_422_and_what_is_no_such_body_400() {
    on_each(|database| async {
        let server = Server::new(database).await;
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        for amount in
            [json!(0), json!(-1), json!(1.5), json!("1"), json!(null), json!([1]), json!(1e30), json!(u64::MAX)]
        {
            server.consume(ADA, json!({"amount": amount})).await.assert_problem(422, "invalid");
        }
        for key in [String::new(), "x".repeat(256), "a\u{0}".into(), "a\n".into()] {
            server.consume(ADA, json!({"amount": 1, "idempotency_key": key})).await.assert_problem(422, "invalid");
            server.release(ADA, json!({"idempotency_key": key})).await.assert_problem(422, "invalid");
        }
        for body in [json!({}), json!([]), json!({"amount": 1, "key": "k"}), json!({"amount": 1, "idempotency_key": 5})]
        {
            server.consume(ADA, body).await.assert_problem(400, "bad-request");
        }
        server.release(ADA, json!({})).await.assert_problem(400, "bad-request");
        let user = server.host_get(&format!("/api/v1/users/{ADA}")).await.assert_ok();
        assert_eq!(user["usage"]["used"], 0);
    });
}

#[test]
fn two_hundred_requests_at_once_use_no_more_than_there_is() {
    on_each(|database| async {
        let server = Server::new(database).await;
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        let mut scene = Scene::new("a", "ada@example.com", "pro", Utc::now().timestamp());
        scene.user_id = Some(ADA.to_owned());
        for event in samples::scene_events("customer.subscription.created", &scene).expect("a scene") {
            server.deliver(&event).await.assert_ok();
        }
        server.work().await;
        // As a host does: whoever is told to come again later comes again, with the key that counts once.
        let ask = async |number: usize| loop {
            let told = server.consume(ADA, json!({"amount": 1, "idempotency_key": format!("k{number}")})).await;
            if told.status != 503 {
                return told;
            }
        };
        let told = futures::future::join_all((0..200).map(ask)).await;
        let counted = told.iter().filter(|told| told.status == 200).count();
        for refused in told.iter().filter(|told| told.status != 200) {
            let problem = refused.assert_problem(429, "quota-exceeded");
            assert_eq!(figures(&problem), (100, Some(100), Some(0)));
        }
        assert_eq!(counted, 100);
        let user = server.host_get(&format!("/api/v1/users/{ADA}")).await.assert_ok();
        assert_eq!(figures(&user["usage"]), (100, Some(100), Some(0)));
    });
}

#[test]
fn an_operator_gives_a_tier_until_a_date_and_takes_it_back() {
    on_each(|database| async {
        let server = Server::new(database).await;
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        server.consume(ADA, json!({"amount": 5})).await.assert_ok();
        let until = (Utc::now() + Months::new(1)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
        let right = json!({"tier": "pro", "until": until, "reason": "ticket 7"});
        let told = server.override_with(Method::PUT, ADA, right.clone()).await.assert_ok();
        assert_eq!(told["override"]["by"], "api");
        assert_eq!((&told["override"]["until"], &told["override"]["reason"]), (&json!(until), &json!("ticket 7")));
        let may = &told["user"]["subscription"];
        assert_eq!((&may["tier"], &may["access"], &may["cancel_at"]), (&json!("pro"), &json!(true), &json!(until)));
        assert_eq!(figures(&told["user"]["usage"]), (5, Some(100), Some(95)));
        let timeline = server.host_get(&format!("/api/v1/users/{ADA}/timeline")).await.assert_ok();
        assert_eq!(timeline["items"][0]["source"], "operator");

        for wrong in [
            json!({"tier": "gold"}),
            json!({"until": "2020-01-01T00:00:00Z"}),
            json!({"reason": " "}),
            json!({"by": ""}),
        ] {
            let mut body = right.clone();
            body.as_object_mut().expect("an object").extend(wrong.as_object().expect("an object").clone());
            server.override_with(Method::PUT, ADA, body).await.assert_problem(422, "invalid");
        }
        for body in [json!({}), json!({"tier": "pro", "until": "soon", "reason": "x"})] {
            server.override_with(Method::PUT, ADA, body).await.assert_problem(400, "bad-request");
        }
        for method in [Method::PUT, Method::DELETE] {
            server.override_with(method, BOB, right.clone()).await.assert_problem(404, "user-unknown");
        }
        for _ in 0..2 {
            let told = server.override_with(Method::DELETE, ADA, json!(null)).await.assert_ok();
            assert_eq!((&told["override"], &told["user"]["subscription"]["tier"]), (&Value::Null, &json!("free")));
            assert_eq!(figures(&told["user"]["usage"]), (5, Some(5), Some(0)), "the window stays, and its count");
        }
        let path = format!("/api/v1/admin/users/{ADA}/override");
        host(server.client.delete(path)).await.assert_problem(401, "unauthorized");
    });
}
