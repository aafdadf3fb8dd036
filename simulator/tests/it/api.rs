//! The API as an HTTP client meets it.

use std::time::Duration;

use reqwest::{Client, Response};
use serde_json::Value;
use simulator::{ApiFaults, ApiVersion, Plan, Share, Stripe, World, WorldOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) const KEY: &str = "sk_test_simulated";
/// 2026-05-28 20:26:40 UTC.
pub(crate) const START: i64 = 1_780_000_000;

pub(crate) fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().tls_certs_only([]).build().expect("a client")
}

pub(crate) fn world(seed: u64, start: i64, customers: u32) -> World {
    World::new(&WorldOptions {
        seed,
        customers,
        start,
        arrivals: 86_400,
        version: ApiVersion::Endive,
        plans: Plan::defaults(),
        bursts: Share::NONE,
    })
}

async fn get(url: &str, path: &str) -> Response {
    client().get(format!("{url}{path}")).bearer_auth(KEY).send().await.expect("an answer")
}

async fn served(faults: ApiFaults) -> (Stripe, String, CancellationToken) {
    let stop = CancellationToken::new();
    let stripe = Stripe::new(world(1, START, 5), KEY, 1);
    stripe.set_faults(faults);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let served = stripe.serve(listener, stop.clone()).expect("it serves");
    (stripe, served.url(), stop)
}

fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).unwrap_or_else(|| panic!("no {name}")).to_str().expect("text")
}

#[tokio::test]
async fn every_answer_tells_the_virtual_time_the_request_and_the_version() {
    let (stripe, url, _stop) = served(ApiFaults::default()).await;
    stripe.world().advance(START + 10);
    let response = get(&url, "/v1/account").await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "date"), "Thu, 28 May 2026 20:26:50 GMT");
    assert!(header(&response, "request-id").starts_with("req_"));
    assert_eq!(header(&response, "stripe-version"), "2026-10-28.endive");
    let account: Value = response.json().await.expect("JSON");
    assert_eq!(account["object"], "account");
    let refused = client().get(format!("{url}/v1/account")).send().await.expect("an answer");
    assert_eq!(refused.status(), 401);
}

#[tokio::test]
async fn a_limit_answers_429_with_its_reason_and_a_fault_500() {
    let (_stripe, url, _stop) = served(ApiFaults { limited: Share::ALL, ..ApiFaults::default() }).await;
    let response = get(&url, "/v1/events").await;
    assert_eq!(response.status(), 429);
    assert_eq!(header(&response, "stripe-rate-limited-reason"), "global-rate");
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], "rate_limit");

    let (_stripe, url, _stop) = served(ApiFaults { broken: Share::ALL, ..ApiFaults::default() }).await;
    let response = get(&url, "/v1/events").await;
    assert_eq!((response.status().as_u16(), header(&response, "stripe-should-retry")), (500, "true"));

    let (_stripe, url, _stop) = served(ApiFaults { most_per_second: Some(3), ..ApiFaults::default() }).await;
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(get(&url, "/v1/account").await.status().as_u16());
    }
    assert_eq!(answers[..3], [200; 3]);
    assert!(answers.contains(&429), "{answers:?}");
}

#[tokio::test]
async fn what_hangs_never_answers() {
    let (_stripe, url, _stop) = served(ApiFaults { hanging: Share::ALL, ..ApiFaults::default() }).await;
    let request = client().get(format!("{url}/v1/account")).bearer_auth(KEY).timeout(Duration::from_millis(300));
    assert!(request.send().await.expect_err("no answer").is_timeout());
}
