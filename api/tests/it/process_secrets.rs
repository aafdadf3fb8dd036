//! A whole run, with every secret there is and at the most talkative level: whatever the process says is searched for each of them.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::{
    fs,
    sync::{Arc, Mutex},
};

use api::config::{Secret, development::DevelopmentSecrets};
use billing::{
    samples::{Scene, scene_events},
    signature::{WebhookSecret, sign},
};
use chrono::Utc;
use http_body_util::Empty;
use hyper::{Request, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::{Method, StatusCode};
use serde_json::json;
use testkit::{
    Kind, TestDb, kinds,
    smtp::SmtpServer,
    stripe::{Answer, FakeStripe},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::process_harness::{Caller, LONG, Running, run};

const STRIPE_KEY: &str = "sk_test_HIDDENstripekey";
const SECRETS: [&str; 2] = ["whsec_HIDDENnew", "whsec_HIDDENold"];
const API: &str = "HIDDENapi-0123456789";
const ADMIN: &str = "HIDDENadmin-0123456789";
const SCRAPER: &str = "HIDDENscraper-0123456789";
const GUESS: &str = "HIDDENguess-0123456789";
const MAIL_PASSWORD: &str = "HIDDENmailpassword";
const DATABASE_PASSWORD: &str = "HIDDENdatabasepassword";
const SENTRY_KEY: &str = "HIDDENsentrykey";
/// In addresses of people.
const PERSON: &str = "hidden.person@people.example";
/// In payloads, names, queries and bodies.
const PAYLOAD: &str = "HIDDENpayload";

/// What must be said nowhere. An e-mail address is looked for by its parts too: it may be cut or escaped.
const MARKS: [&str; 4] = ["HIDDEN", "hidden.person", "people.example", "hidden%2Eperson"];

/// Takes whatever is sent to it by HTTP, as a place that errors are reported to.
async fn sink() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let into = Arc::clone(&into);
            tokio::spawn(async move {
                let mut buffer = [0; 16 * 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    into.lock().unwrap().extend_from_slice(&buffer[..read]);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                }
            });
        }
    });
    (format!("http://{SENTRY_KEY}@{address}/1"), taken)
}

fn with_password(database: &TestDb) -> String {
    match database.kind() {
        Kind::Sqlite => database.url().to_owned(),
        // The server of the tests asks for none, so any will do.
        Kind::Postgres => database.url().replacen("postgres@", &format!("postgres:{DATABASE_PASSWORD}@"), 1),
    }
}

fn search(where_: &str, text: &str, marks: &[&str]) {
    for line in text.lines() {
        for mark in marks {
            assert!(!line.contains(mark), "{where_} tells `{mark}`: {line}");
        }
    }
}

/// A request with its token, over HTTP/2, whose own layers have much to say at that level.
async fn over_http2(address: &str) -> u16 {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("http://{address}/api/v1/admin/webhooks?type={PAYLOAD}"))
        .header("authorization", format!("Bearer {ADMIN}"))
        .body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    connection.abort();
    answer.status().as_u16()
}

#[tokio::test]
async fn nothing_the_process_says_holds_a_secret_a_token_an_address_or_a_payload() {
    for kind in kinds() {
        let database = TestDb::empty(kind).await;
        let folder = tempfile::tempdir().unwrap();
        let (stripe, mail, (sentry, reported)) = (FakeStripe::start().await, SmtpServer::start().await, sink().await);
        stripe.object("/v1/account", &json!({ "id": "acct_1", "object": "account" }));
        stripe.route("/v1/subscriptions", |_| {
            Answer::error(400, "parameter_invalid", &format!("No such customer: {PERSON}"))
        });
        let mail_url = mail.url().replacen("smtp://", &format!("smtp://mailer:{MAIL_PASSWORD}@"), 1);
        fs::write(folder.path().join("trueup.toml"), "[mail]\nfrom = \"Billing <billing@shop.example>\"\n").unwrap();
        let (url, secrets) = (with_password(&database), SECRETS.join(","));
        let variables = [
            ("DATABASE_URL", &*url),
            ("STRIPE_WEBHOOK_SECRET", &*secrets),
            ("STRIPE_SECRET_KEY", STRIPE_KEY),
            ("STRIPE_API_BASE", &*stripe.url()),
            ("TRUEUP_API_TOKEN", API),
            ("TRUEUP_ADMIN_TOKEN", ADMIN),
            ("TRUEUP_METRICS_TOKEN", SCRAPER),
            ("SMTP_URL", &*mail_url),
            ("SENTRY_DSN", &*sentry),
            ("TRUEUP_LOG", "trace"),
            ("RUST_BACKTRACE", "1"),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, &**value)).collect();
        let server = Running::start(folder.path(), &variables, &[]);
        let url = server.url().await;
        let caller = Caller::with(
            &url,
            DevelopmentSecrets {
                webhook_secret: Secret::new(SECRETS[0]),
                api_token: Secret::new(API),
                admin_token: Secret::new(ADMIN),
                path: folder.path().to_owned(),
            },
        );
        let call = async |method: Method, path: &str, token: &str, body: &str| {
            let request = caller.http.request(method, format!("{url}{path}")).bearer_auth(token);
            let request = request.header("cookie", PAYLOAD).header("x-forwarded-for", PAYLOAD).body(body.to_owned());
            let answer = request.send().await.unwrap();
            (answer.status(), answer.text().await.unwrap())
        };

        // Somebody subscribes and cannot pay, so that an e-mail goes out.
        let user = caller.make_user(PERSON).await;
        let mut scene = Scene::new("secrets", PERSON, "pro", Utc::now().timestamp());
        scene.user_id = Some(user.clone());
        for event_type in ["customer.subscription.created", "checkout.session.completed", "invoice.payment_failed"] {
            // What failed must not be what was paid before.
            scene.invoice = format!("in_{}", event_type.replace('.', "_"));
            for mut event in scene_events(event_type, &scene).unwrap() {
                event["data"]["object"]["description"] = PAYLOAD.into();
                event["data"]["object"]["customer_name"] = PAYLOAD.into();
                event["id"] = format!("{}_{}", event["id"].as_str().unwrap(), event_type.replace('.', "_")).into();
                assert_eq!(caller.deliver(&event).await, StatusCode::OK);
            }
        }
        caller.tier_becomes(&user, "pro").await;
        tokio::time::timeout(LONG, mail.took(1)).await.unwrap_or_else(|_| {
            let told = server.err();
            let about: Vec<_> = told.lines().filter(|line| line.contains("mail") && !line.contains("sqlx")).collect();
            panic!("no e-mail went out: {about:#?}")
        });

        // Whatever can go wrong with webhooks.
        let webhook = format!("{url}/api/v1/stripe/webhook");
        let old = WebhookSecret::parse(SECRETS[1]).unwrap();
        let bad = [
            json!({ "id": "evt_bad", "object": "event", "type": "customer.subscription.updated", "created": 5, "data": { "object": { "id": { "x": PAYLOAD }, "status": PAYLOAD, "items": PAYLOAD, "customer": "cus_odd", "receipt_email": PERSON } } }).to_string(),
            format!("{{\"id\": \"evt_{PAYLOAD}"),
            format!("\"{PERSON}\""),
            json!({ "id": "evt_odd", "object": "event", "type": "made.up", "data": { "object": { "email": PERSON, "note": PAYLOAD } } }).to_string(),
        ];
        for body in &bad {
            for signature in
                [sign(&old, Utc::now().timestamp(), body.as_bytes()), format!("t=1,v1={PAYLOAD}"), PAYLOAD.to_owned()]
            {
                let request = caller.http.post(&webhook).header("stripe-signature", signature).body(body.clone());
                let _ = request.send().await.unwrap();
            }
        }

        // Whatever can go wrong with calls.
        let mut told = Vec::new();
        for path in [
            "/api/v1/users",
            "/api/v1/admin/webhooks",
            "/metrics",
            "/docs",
            "/api/v1/changes",
            &format!("/{PAYLOAD}"),
            &format!("/api/v1/admin/{PAYLOAD}"),
        ] {
            told.push(call(Method::GET, path, GUESS, PAYLOAD).await.1);
        }
        for (method, path) in [
            (Method::PUT, format!("/api/v1/users/{user}")),
            (Method::PUT, format!("/api/v1/users/{}", uuid::Uuid::new_v4())),
            (Method::POST, format!("/api/v1/users/{user}/usage")),
            (Method::GET, format!("/api/v1/users?email={PERSON}")),
            (Method::GET, format!("/api/v1/users/{PAYLOAD}")),
            (Method::POST, format!("/api/v1/users/{user}/refresh")),
        ] {
            for body in [
                format!("{{\"email\": \"{PERSON}\", \"full_name\": \"{PAYLOAD}\"}}"),
                format!("{{\"email\": {PAYLOAD}"),
                PAYLOAD.to_owned(),
            ] {
                let _ = call(method.clone(), &path, API, &body).await;
            }
        }
        assert_eq!(over_http2(url.trim_start_matches("http://")).await, 200);
        for (method, path, body) in [
            (Method::POST, "/api/v1/admin/reconciliations", "{}"),
            (Method::POST, "/api/v1/admin/jobs/recover_missed_events/run", ""),
            (Method::POST, "/api/v1/admin/webhooks/retry", "{\"status\": \"failed\"}"),
            (Method::GET, "/api/v1/admin/webhooks?limit=100", ""),
            (Method::GET, "/api/v1/admin/webhooks/failures", ""),
            (Method::GET, "/api/v1/admin/webhooks/stats", ""),
            (Method::GET, "/api/v1/admin/jobs", ""),
            (Method::GET, "/api/v1/admin/jobs/recover_missed_events/runs", ""),
            (Method::GET, "/api/v1/admin/reconciliations", ""),
            (Method::GET, "/healthz", ""),
            (Method::GET, "/readyz", ""),
        ] {
            let (status, text) = call(method, path, ADMIN, body).await;
            assert!(!status.is_server_error() || status == StatusCode::BAD_GATEWAY, "{path}: {status} {text}");
            told.push(text);
        }
        let (status, figures) = call(Method::GET, "/metrics", SCRAPER, "").await;
        assert_eq!(status, StatusCode::OK);
        let check = run(folder.path(), &variables, &["check"]).await;

        server.stop().await;
        for (name, text) in [
            ("stdout", server.out()),
            ("the log", server.err()),
            ("the figures", figures),
            ("trueup check", check.out + &check.err),
            ("what errors are reported to", String::from_utf8_lossy(&reported.lock().unwrap()).replace(SENTRY_KEY, "")),
        ] {
            search(name, &text, &MARKS);
        }
        for text in told {
            search("an answer", &text, &MARKS);
        }
        let talkative = server.err().lines().count() > 100 && server.err().contains("\"level\":\"TRACE\"");
        assert!(talkative, "the log was not talkative");
    }
}
