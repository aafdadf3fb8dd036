//! Deliveries, to an endpoint that is not always well.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use billing::{
    event::verify,
    signature::{Tolerance, WebhookSecret},
};
use chrono::Utc;
use poem::{
    Body, Response, Server,
    endpoint::make,
    http::{Method, StatusCode},
    listener::TcpAcceptor,
};
use simulator::{Faults, Run, RunOptions, Share, Stripe, Target};
use tokio::net::TcpListener;

use crate::api::{KEY, world};

/// What the endpoint has seen.
#[derive(Debug, Default)]
struct Seen {
    /// How often each event was acknowledged.
    events: Mutex<BTreeMap<String, u32>>,
    forged: AtomicU32,
    /// Signatures in the headers: one, or two while a secret is rolled.
    signatures: Mutex<BTreeMap<usize, u32>>,
    requests: AtomicU32,
}

fn secret(text: &str) -> WebhookSecret {
    WebhookSecret::parse(text).expect("a secret")
}

/// What becomes of every `nth` delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ill {
    Refused,
    /// Answered only after longer than anybody waits.
    Unanswered,
}

/// A server that verifies as the product does, is ill at every `nth` delivery, and knows users but nothing else.
async fn endpoint(seen: Arc<Seen>, secrets: &'static [&'static str], nth: u32, ill: Ill) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let secrets: Arc<[WebhookSecret]> = secrets.iter().map(|text| secret(text)).collect();
    let handler = make(move |request: poem::Request| {
        let (seen, secrets) = (Arc::clone(&seen), Arc::clone(&secrets));
        async move {
            if *request.method() == Method::PUT {
                return Ok::<_, poem::Error>(Response::builder().status(StatusCode::CREATED).finish());
            }
            let (parts, body): (_, Body) = request.into_parts();
            let header = parts.headers.get("stripe-signature").map(|value| value.as_bytes().to_vec());
            let body = body.into_vec().await.expect("a body");
            if verify(&body, header.as_deref(), &secrets, Utc::now(), Tolerance::default()).is_err() {
                seen.forged.fetch_add(1, Ordering::Relaxed);
                return Ok(Response::builder().status(StatusCode::BAD_REQUEST).finish());
            }
            let number = seen.requests.fetch_add(1, Ordering::Relaxed) + 1;
            if nth > 0 && number.is_multiple_of(nth) {
                if ill == Ill::Unanswered {
                    std::future::pending::<()>().await;
                }
                return Ok(Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).finish());
            }
            let text = String::from_utf8(header.unwrap_or_default()).expect("text");
            *seen.signatures.lock().expect("whole").entry(text.matches("v1=").count()).or_default() += 1;
            let event: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            let id = event["id"].as_str().expect("an id").to_owned();
            *seen.events.lock().expect("whole").entry(id).or_default() += 1;
            Ok(Response::builder().content_type("application/json").body(r#"{"outcome":"recorded"}"#))
        }
    });
    let acceptor = TcpAcceptor::from_tokio(listener).expect("it listens");
    tokio::spawn(Server::new_with_acceptor(acceptor).run(handler));
    url
}

fn now() -> i64 {
    Utc::now().timestamp()
}

fn options(faults: Faults) -> RunOptions {
    RunOptions {
        seed: 4,
        faults,
        speed: None,
        at_once: 8,
        timeout: Duration::from_secs(30),
        give_up_after: Duration::from_mins(1),
        patience: Duration::from_secs(1),
        repair: false,
        record: None,
    }
}

fn target(url: String, secrets: &[&str]) -> Target {
    let webhook_secrets = secrets.iter().map(|&secret| secret.to_owned()).collect();
    Target { url, api_token: "api".into(), admin_token: "admin".into(), webhook_secrets }
}

#[tokio::test]
async fn every_delivery_is_signed_so_that_the_product_believes_it_and_tried_until_it_is_taken() {
    let seen = Arc::new(Seen::default());
    let secrets: &'static [&'static str] = &["whsec_one"];
    let url = endpoint(Arc::clone(&seen), secrets, 40, Ill::Refused).await;
    let stripe = Stripe::new(world(4, now() - 40 * 86_400, 6), KEY, 4);
    let faults = Faults { duplicate: Share::percent(10), reorder: Share::percent(20), ..Faults::default() };
    let mut run = Run::new(&stripe, target(url, secrets), options(faults), &|_| {}).expect("a run");
    run.past().await.expect("it passes");
    assert_eq!(seen.forged.load(Ordering::Relaxed), 0);
    let events = seen.events.lock().expect("whole");
    assert!(events.len() > 40, "only {}", events.len());
    assert!(events.values().any(|times| *times > 1), "some come twice");
    let requests = seen.requests.load(Ordering::Relaxed);
    let taken: u32 = events.values().sum();
    assert_eq!(requests - taken, requests / 40, "what was refused came again");
    assert!(format!("{run:?}").contains("gave_up: 0"));
}

#[tokio::test]
async fn while_a_secret_is_rolled_there_is_a_signature_for_each_and_afterwards_only_the_new_one() {
    let seen = Arc::new(Seen::default());
    let secrets: &'static [&'static str] = &["whsec_old", "whsec_new"];
    let url = endpoint(Arc::clone(&seen), secrets, 0, Ill::Refused).await;
    let stripe = Stripe::new(world(5, now() - 20 * 86_400, 60), KEY, 5);
    let mut run = Run::new(&stripe, target(url, secrets), options(Faults::default()), &|_| {}).expect("a run");
    run.past().await.expect("it passes");
    assert_eq!(seen.forged.load(Ordering::Relaxed), 0);
    let signatures = seen.signatures.lock().expect("whole");
    assert!(signatures.contains_key(&1) && signatures.contains_key(&2), "{signatures:?}");
}

#[tokio::test]
async fn what_is_not_answered_in_time_is_sent_again() {
    let seen = Arc::new(Seen::default());
    let secrets: &'static [&'static str] = &["whsec_one"];
    let url = endpoint(Arc::clone(&seen), secrets, 60, Ill::Unanswered).await;
    let stripe = Stripe::new(world(6, now() - 30 * 86_400, 6), KEY, 6);
    let options = RunOptions { timeout: Duration::from_secs(1), ..options(Faults::default()) };
    let mut run = Run::new(&stripe, target(url, secrets), options, &|_| {}).expect("a run");
    run.past().await.expect("it passes");
    let (requests, taken) =
        (seen.requests.load(Ordering::Relaxed), seen.events.lock().expect("whole").values().sum::<u32>());
    assert!(requests >= 60, "only {requests}");
    assert_eq!(requests - taken, requests / 60, "each came again");
    assert!(format!("{run:?}").contains("gave_up: 0"));
}

#[tokio::test]
async fn what_somebody_without_the_secret_sends_is_known_by_its_signature() {
    let seen = Arc::new(Seen::default());
    let secrets: &'static [&'static str] = &["whsec_one"];
    let url = endpoint(Arc::clone(&seen), secrets, 0, Ill::Refused).await;
    let stripe = Stripe::new(world(7, now() - 20 * 86_400, 4), KEY, 7);
    let faults = Faults { forged: Share::ALL, ..Faults::default() };
    let mut run = Run::new(&stripe, target(url, secrets), options(faults), &|_| {}).expect("a run");
    run.past().await.expect("it passes");
    let (forged, events) = (seen.forged.load(Ordering::Relaxed), seen.events.lock().expect("whole"));
    assert!(forged > 0 && forged as usize == events.len(), "one for each: {forged} of {}", events.len());
    assert!(events.values().all(|times| *times == 1) && events.keys().all(|id| id.len() == "evt_1".len() + 23));
    assert!(format!("{run:?}").contains("forged_taken: 0"));
}
