//! What Stripe, and whoever pretends to be Stripe, is answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use billing::{
    inbox::{Inbox, InboxOptions, records},
    samples::{self, ApiVersion, Scene},
    signature::{WebhookSecret, sign},
};
use chrono::Utc;
use entity::{enums::ProcessingStatus, ids::EventId};
use futures::{StreamExt, future::join_all, stream};
use poem::{Body, http::StatusCode, listener::TcpListener};
use serde_json::json;
use testkit::on_each;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::http_server::{Server, WEBHOOK, series, signature, tell};

const USER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

async fn stored(server: &Server) -> i64 {
    let stats = records::stats(&server.app.db, 1, Utc::now()).await.expect("the database answers");
    stats.by_status.values().sum()
}

async fn status_of(server: &Server, id: &str) -> ProcessingStatus {
    let id = EventId::parse(id).expect("an id");
    let row = records::row(&server.app.db, &id).await.expect("the database answers");
    row.unwrap_or_else(|| panic!("no event {id}")).processing_status
}

#[test]
fn a_signed_event_is_recorded_then_a_duplicate_and_its_user_gets_the_tier() {
    on_each(|database| async {
        let server = Server::new(database).await;
        server.put_user(USER, r#"{"email": "ada@example.com"}"#).await;
        let mut scene = Scene::new("a", "ada@example.com", "pro", Utc::now().timestamp());
        scene.user_id = Some(USER.to_owned());
        let events = samples::scene_events("checkout.session.completed", &scene).expect("a scene");
        for event in &events {
            let told = server.deliver(event).await.assert_ok();
            assert_eq!(told, json!({"received": true, "event_id": event["id"], "outcome": "recorded"}));
        }
        let again = server.deliver(&events[0]).await.assert_ok();
        assert_eq!(again, json!({"received": true, "event_id": events[0]["id"], "outcome": "duplicate"}));
        server.work().await;
        let user = server.host_get(&format!("/api/v1/users/{USER}")).await.assert_ok();
        assert_eq!(user["subscription"]["tier"], "pro");
        assert_eq!(user["subscription"]["access"], true);
        assert_eq!(user["usage"]["remaining"], 100);
    });
}

#[test]
fn a_request_stripe_did_not_sign_is_refused_with_the_reason_and_nothing_is_stored() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let body = r#"{"id": "evt_1", "type": "invoice.paid"}"#;
        let now = Utc::now().timestamp();
        let secret = |text: &str| WebhookSecret::parse(text).expect("a secret");
        let good = sign(&secret("whsec_test"), now, body.as_bytes());
        let cases = [
            (None, "signature-missing"),
            (Some(String::new()), "signature-missing"),
            (Some("nonsense".to_owned()), "signature-malformed"),
            (Some("t=soon,v1=00".to_owned()), "signature-malformed"),
            (Some(good.replace("v1=", "v0=")), "signature-no-v1"),
            (Some(sign(&secret("whsec_foreign"), now, body.as_bytes())), "signature-mismatch"),
            (Some(sign(&secret("whsec_test"), now, b"{}")), "signature-mismatch"),
            (Some(sign(&secret("whsec_test"), now - 302, body.as_bytes())), "signature-expired"),
            (Some(sign(&secret("whsec_test"), now + 400, body.as_bytes())), "signature-future"),
        ];
        for (header, reason) in cases {
            let mut request = server.client.post(WEBHOOK).body(body);
            if let Some(header) = header {
                request = request.header("Stripe-Signature", header);
            }
            let told = tell(request).await;
            let problem = told.assert_problem(400, reason);
            assert!(!problem["detail"].as_str().unwrap_or_default().contains("evt_1"), "nothing of the body is told");
        }
        assert_eq!(stored(&server).await, 0);
        let metrics = server.get("/metrics").await.text;
        assert_eq!(series(&metrics, "trueup_webhooks_rejected_total{reason=\"signature-missing\"}"), "2");
        assert_eq!(series(&metrics, "trueup_webhooks_rejected_total{reason=\"signature-mismatch\"}"), "2");
        assert_eq!(series(&metrics, "trueup_webhooks_rejected_total{reason=\"signature-expired\"}"), "1");
    });
}

#[test]
fn while_a_secret_is_rolled_both_sign() {
    on_each(|database| async {
        let server = Server::new(database).await;
        for (number, secret) in ["whsec_test", "whsec_older"].into_iter().enumerate() {
            let body = json!({"id": format!("evt_{number}"), "type": "invoice.paid"}).to_string();
            let secret = WebhookSecret::parse(secret).expect("a secret");
            let header = sign(&secret, Utc::now().timestamp(), body.as_bytes());
            tell(server.client.post(WEBHOOK).header("Stripe-Signature", header).body(body)).await.assert_ok();
        }
    });
}

#[test]
fn of_several_signature_headers_the_first_counts_and_any_content_type_is_taken() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let body = r#"{"id": "evt_1", "type": "invoice.paid"}"#;
        let (good, bad) = (signature(body), "t=1,v1=00");
        let request = || server.client.post(WEBHOOK).body(body).content_type("text/x-anything");
        let told = tell(request().header("Stripe-Signature", good.clone()).header("Stripe-Signature", bad)).await;
        told.assert_ok();
        let told = tell(request().header("Stripe-Signature", bad).header("Stripe-Signature", good)).await;
        told.assert_problem(400, "signature-mismatch");
    });
}

#[test]
fn what_is_signed_but_no_event_is_refused_as_not_an_event() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let texts = ["", "not json", "{\"id\": \"evt_1\"", "[]", "\"evt_1\"", "null", r#"{"type": "invoice.paid"}"#];
        for text in texts {
            server.deliver_text(text).await.assert_problem(400, "not-an-event");
        }
        for text in [r#"{"id": "evt_1"}"#, r#"{"id": "", "type": "a"}"#, r#"{"id": 5, "type": "a"}"#] {
            server.deliver_text(text).await.assert_problem(400, "not-an-event");
        }
        assert_eq!(stored(&server).await, 0);
    });
}

#[test]
fn a_body_over_a_mebibyte_is_refused_and_read_no_further() {
    on_each(|database| async {
        let server = Server::new(database).await;
        // The largest that is taken.
        let frame = r#"{"id": "evt_1", "type": "invoice.paid", "pad": ""}"#;
        let body = frame.replace("\"\"", &format!("\"{}\"", "x".repeat((1 << 20) - frame.len())));
        assert_eq!(body.len(), 1 << 20);
        server.deliver_text(&body).await.assert_ok();
        // With a length that says so, nothing is read.
        let read = Arc::new(AtomicUsize::new(0));
        let endless = || {
            let read = Arc::clone(&read);
            let chunks = stream::repeat_with(move || {
                read.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::io::Error>(vec![b'x'; 4096])
            });
            Body::from_bytes_stream(chunks.take(100_000))
        };
        let request = server.client.post(WEBHOOK).header("Content-Length", (1 << 20) + 1).body(endless());
        tell(request).await.assert_problem(413, "too-large");
        assert_eq!(read.load(Ordering::Relaxed), 0);
        // Without one, no more than the limit.
        tell(server.client.post(WEBHOOK).body(endless())).await.assert_problem(413, "too-large");
        let chunks = read.load(Ordering::Relaxed);
        assert!(chunks <= (1 << 20) / 4096 + 2, "{chunks} chunks of 4 KiB were read");
        let metrics = server.get("/metrics").await.text;
        assert_eq!(series(&metrics, "trueup_webhooks_rejected_total{reason=\"too-large\"}"), "2");
    });
}

#[test]
fn a_chunked_body_over_a_mebibyte_is_refused_over_a_real_connection() {
    on_each(|database| async {
        use poem::{Server as Http, listener::Listener};
        let server = Server::new(database).await;
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.expect("a free port");
        let address = poem::listener::Acceptor::local_addr(&acceptor)[0].clone();
        let address = *address.as_socket_addr().expect("a socket");
        let running = tokio::spawn(Http::new_with_acceptor(acceptor).run(api::http::routes(server.app.clone())));
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let head = format!("POST {WEBHOOK} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("it reads");
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        for _ in 0..17 {
            stream.write_all(chunk.as_bytes()).await.expect("it reads");
        }
        // The body never ends, and yet there is an answer.
        let mut answer = [0; 12];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut answer)).await;
        read.expect("an answer in time").expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 413");
        running.abort();
    });
}

#[test]
fn hostile_json_is_stored_or_refused_never_a_fault_and_never_stops_the_queue() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let object = |what: &str| format!(r#"{{"id": "sub_1", "object": "subscription", "metadata": {what}}}"#);
        let objects = [
            object(r#"{"a": "\u0000"}"#),
            object(r#"{"a": "\ud800", "\udc00b": 1}"#),
            object(&format!(r#"{{"a": 1e999, "b": -1e999999999999, "c": {}}}"#, "9".repeat(2000))),
            object(&nested(200)),
            object(&nested(500)),
            r#"{"id": 99999999999999999999999999, "object": "subscription", "customer": 1e400, "items": null}"#
                .to_owned(),
            r#"{"id": "sub_\u0000", "object": "subscription", "customer": "cus_\u0000", "status": "\ud800"}"#
                .to_owned(),
            r#"{"id": null, "object": null, "customer": {"id": ["x"]}, "status": {"deep": []}, "items": {"data": 5}}"#
                .to_owned(),
            "null".to_owned(),
            "[]".to_owned(),
            "\"\\u0000\"".to_owned(),
        ];
        for (number, object) in objects.iter().enumerate() {
            for (kind, event_type) in samples::EVENT_TYPES.iter().enumerate() {
                let body = format!(
                    r#"{{"id": "evt_{number}_{kind}", "type": "{event_type}", "data": {{"object": {object}}}}}"#
                );
                server.deliver_text(&body).await.assert_ok();
            }
        }
        for body in [
            format!(r#"{{"id": "evt_deep", "type": "a", "data": {}}}"#, nested(600)),
            r#"{"id": "evt_\u0000", "type": "a"}"#.to_owned(),
            r#"{"id": "evt_x", "type": "\ud800"}"#.to_owned(),
        ] {
            server.deliver_text(&body).await.assert_problem(400, "not-an-event");
        }
        server.put_user(USER, r#"{"email": "ada@example.com"}"#).await;
        let mut scene = Scene::new("good", "ada@example.com", "pro", Utc::now().timestamp());
        scene.user_id = Some(USER.to_owned());
        server.play("customer.subscription.created", &scene).await;
        server.work().await;
        let user = server.host_get(&format!("/api/v1/users/{USER}")).await.assert_ok();
        assert_eq!(user["subscription"]["tier"], "pro", "whatever came before");
        let depth = records::depth(&server.app.db).await.expect("the database answers");
        assert_eq!((depth.pending, depth.processing, depth.failed), (0, 0, 0), "done, or waiting for a user");
    });
}

#[test]
fn events_that_are_not_ours_are_acknowledged_as_skipped() {
    on_each(|database| async {
        let server = Server::new(database).await;
        for (number, event) in [
            json!({"id": "evt_0", "type": "radar.early_fraud_warning.created"}),
            json!({"id": "evt_1", "type": "invoice.paid", "livemode": true}),
            json!({"id": "evt_2", "type": "invoice.paid", "account": "acct_other"}),
        ]
        .iter()
        .enumerate()
        {
            let told = server.deliver(event).await.assert_ok();
            assert_eq!(told["outcome"], "skipped");
            assert_eq!(status_of(&server, &format!("evt_{number}")).await, ProcessingStatus::Skipped);
        }
        let metrics = server.get("/metrics").await.text;
        assert_eq!(series(&metrics, "trueup_webhooks_received_total{outcome=\"skipped\",type=\"other\"}"), "1");
        assert_eq!(series(&metrics, "trueup_webhooks_received_total{outcome=\"skipped\",type=\"invoice.paid\"}"), "2");
    });
}

#[test]
fn an_unknown_enum_value_or_a_missing_field_is_taken_like_any_other_event() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let object = json!({"id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "on_the_moon"});
        let event = samples::event("evt_1", "customer.subscription.updated", 5, ApiVersion::LATEST, object, None);
        server.deliver(&event).await.assert_ok();
        server.deliver(&json!({"id": "evt_2", "type": "customer.subscription.updated"})).await.assert_ok();
        server.deliver(&json!({"id": "evt_3", "type": "invoice.paid", "data": null})).await.assert_ok();
        server.work().await;
        for id in ["evt_1", "evt_2", "evt_3"] {
            let status = status_of(&server, id).await;
            assert!(!matches!(status, ProcessingStatus::Failed | ProcessingStatus::Processing), "{id}: {status}");
        }
    });
}

#[test]
fn the_same_event_a_hundred_times_at_once_is_one_row_and_a_hundred_times_200() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let event = json!({"id": "evt_1", "type": "customer.created", "data": {"object": {"id": "cus_1", "object": "customer"}}});
        let told = join_all((0..100).map(|_| server.deliver(&event))).await;
        let outcomes: Vec<_> = told.iter().map(|told| told.assert_ok()["outcome"].clone()).collect();
        assert_eq!(outcomes.iter().filter(|outcome| *outcome == "recorded").count(), 1);
        assert_eq!(outcomes.iter().filter(|outcome| *outcome == "duplicate").count(), 99);
        assert_eq!(stored(&server).await, 1);
        assert_eq!(server.work().await.events(), 1);
        assert_eq!(server.work().await.events(), 0);
    });
}

#[test]
fn a_full_queue_answers_503_and_stripe_is_told_when_to_come_again() {
    on_each(|database| async {
        let server = Server::with(database, |app| {
            let options = InboxOptions { queue_bytes: 64, ..InboxOptions::default() };
            app.inbox = Inbox::start(&app.db, options, &app.nudge).0;
        })
        .await;
        let told = server.deliver(&json!({"id": "evt_1", "type": "invoice.paid", "pad": "x".repeat(64)})).await;
        told.assert_problem(503, "not-stored");
        assert_eq!(told.header("retry-after"), Some("5"));
        server.deliver(&json!({"id": "evt_2", "type": "invoice.paid"})).await.assert_ok();
        assert_eq!(stored(&server).await, 1);
        let metrics = server.get("/metrics").await.text;
        assert_eq!(
            series(&metrics, "trueup_webhooks_received_total{outcome=\"unavailable\",type=\"invoice.paid\"}"),
            "1"
        );
    });
}

#[test]
fn without_its_database_the_server_answers_503_and_says_which_part_failed() {
    on_each(|database| async {
        let server = Server::with(database, |app| {
            let options = InboxOptions { deadline: Duration::from_millis(300), ..InboxOptions::default() };
            app.inbox = Inbox::start(&app.db, options, &app.nudge).0;
        })
        .await;
        server.put_user(USER, r#"{"email": "ada@example.com"}"#).await;
        assert_eq!(server.get("/readyz").await.status, StatusCode::OK);
        server.lose_database().await;

        let told = server.deliver(&json!({"id": "evt_1", "type": "invoice.paid"})).await;
        told.assert_problem(503, "not-stored");
        assert_eq!(told.header("retry-after"), Some("5"));
        let told = server.host_get(&format!("/api/v1/users/{USER}")).await;
        let problem = told.assert_problem(503, "database-unavailable");
        assert!(!problem["detail"].as_str().unwrap_or_default().contains("pool"), "no internals");
        assert_eq!(told.header("retry-after"), Some("5"));
        server.operator_get("/api/v1/admin/webhooks").await.assert_problem(503, "database-unavailable");

        let ready = server.get("/readyz").await;
        assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
        let ready = ready.json();
        assert_eq!((&ready["ready"], &ready["database"]["state"]), (&json!(false), &json!("failed")));
        assert_eq!(ready["processor"]["state"], "ok");
        assert_eq!(server.get("/healthz").await.status, StatusCode::OK, "the process lives");
        let metrics = server.get("/metrics").await;
        assert_eq!(metrics.status, StatusCode::OK);
        assert_eq!(series(&metrics.text, "trueup_database_up"), "0");
    });
}
