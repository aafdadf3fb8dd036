//! The client of Stripe's API, over real HTTP, against a Stripe on loopback that answers as it is told.

use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use billing::stripe::{
    Answer as Outcome, ApiKey, ClientOptions, Collection, Endpoint, Lane, Observation, Resource, Stripe, StripeClient,
    StripeError, client::API_VERSION,
};
use chrono::{TimeDelta, Utc};
use entity::{
    Time,
    ids::{CustomerId, SubscriptionId},
};
use futures::future::join_all;
use serde_json::{Value, json};
use testkit::stripe::{Answer, FakeStripe};
use tokio::time::Instant;

const KEY: &str = "sk_test_verysecretkey";

/// Fast enough for tests, and in nothing else other than the product.
fn options() -> ClientOptions {
    ClientOptions {
        requests_per_second: NonZeroU32::new(1000).expect("not zero"),
        connect_timeout: Duration::from_secs(2),
        timeout: Duration::from_secs(5),
        ..ClientOptions::default()
    }
}

fn client_at(base: &str, options: ClientOptions) -> (StripeClient, Arc<Mutex<Vec<Observation>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observer = {
        let seen = Arc::clone(&seen);
        Arc::new(move |observation| seen.lock().expect("no panic").push(observation))
    };
    let key = ApiKey::parse(KEY).expect("a key");
    (StripeClient::new(base, key, options, observer).expect("a client"), seen)
}

fn client(fake: &FakeStripe) -> StripeClient {
    client_at(&fake.url(), options()).0
}

fn subscription() -> Resource {
    Resource::Subscription(SubscriptionId::parse("sub_1").expect("an id"))
}

async fn fake() -> FakeStripe {
    let fake = FakeStripe::start().await;
    fake.object("/v1/subscriptions/sub_1", &json!({ "id": "sub_1", "object": "subscription", "status": "active" }));
    fake
}

fn answers(seen: &Mutex<Vec<Observation>>) -> Vec<Outcome> {
    let seen = seen.lock().expect("no panic");
    seen.iter()
        .filter_map(|observation| match observation {
            Observation::Tried { answer, .. } => Some(*answer),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn every_call_bears_the_key_the_version_and_our_name() {
    let fake = fake().await;
    let fetched = client(&fake).get(&subscription(), Lane::Live).await.expect("it is there");
    assert_eq!(serde_json::from_str::<Value>(&fetched.object).expect("JSON")["status"], "active");
    let asked = fake.asked().remove(0);
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/v1/subscriptions/sub_1"));
    assert_eq!(asked.headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(asked.headers["stripe-version"], API_VERSION);
    assert!(asked.headers["user-agent"].starts_with("trueup/"));
}

/// Known from pay#559: for an event of a Connect account the platform was asked, which knows no such subscription.
#[tokio::test]
async fn where_a_connect_account_is_served_it_is_its_objects_that_are_asked_for() {
    let fake = fake().await;
    let (client, _) = client_at(&fake.url(), ClientOptions { account: Some("acct_1".to_owned()), ..options() });
    client.get(&subscription(), Lane::Live).await.expect("it is there");
    self::client(&fake).get(&subscription(), Lane::Live).await.expect("it is there");
    let accounts: Vec<_> = fake.asked().iter().map(|asked| asked.headers.get("stripe-account").cloned()).collect();
    assert_eq!(accounts, [Some("acct_1".to_owned()), None]);
}

#[tokio::test]
async fn a_list_is_walked_page_by_page_whatever_the_status_of_its_objects() {
    let fake = FakeStripe::start().await;
    let status = |number: usize| if number.is_multiple_of(3) { "canceled" } else { "active" };
    let all: Vec<Value> = (0..250)
        .map(|n| json!({ "id": format!("sub_{n}"), "status": status(n), "customer": format!("cus_{}", n % 2) }))
        .collect();
    fake.list("/v1/subscriptions", all);
    let client = client(&fake);
    let walk = async |customer: Option<CustomerId>| {
        let collection = Collection::Subscriptions { customer };
        let (mut ids, mut sizes, mut after) = (BTreeSet::new(), Vec::new(), None);
        loop {
            let page = client.list(&collection, after.as_deref(), Lane::Background).await.expect("a page");
            sizes.push(page.objects.len());
            after = page.objects.last().map(|listed| listed.id.clone());
            ids.extend(page.objects.into_iter().map(|listed| listed.id));
            if !page.has_more {
                return (ids.len(), sizes);
            }
        }
    };
    assert_eq!(walk(None).await, (250, vec![100, 100, 50]));
    assert_eq!(walk(CustomerId::parse("cus_1").ok()).await, (125, vec![100, 25]));
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_succeeds() {
    let lock = || Answer::error(429, "lock_timeout", "This object cannot be accessed right now");
    let body = Answer::json(200, &json!({ "id": "sub_1" }));
    let scripts = [
        ("a proxy's page", Answer::bad_gateway()),
        ("a fault", Answer::error(500, "", "")),
        ("a limit", Answer::limited("global-rate")),
        ("a limit without a reason", lock()),
        ("a conflict", Answer::error(409, "", "")),
        ("a connection that is cut", Answer::cut()),
        ("half an answer", body.cut_in_body()),
        ("what Stripe says to try again", Answer::error(400, "", "").with("Stripe-Should-Retry", "true")),
    ];
    join_all(scripts.map(async |(what, answer)| {
        let fake = fake().await;
        fake.next([answer.clone(), answer]);
        client(&fake).get(&subscription(), Lane::Live).await.expect(what);
        assert_eq!(fake.requests(), 3, "{what}");
    }))
    .await;
}

#[tokio::test]
async fn what_cannot_pass_is_asked_once() {
    let scripts = [
        ("bad request", Answer::error(400, "", "")),
        ("key", Answer::error(401, "", "")),
        ("permission", Answer::error(403, "", "")),
        ("missing", Answer::error(404, "resource_missing", "")),
        ("not Stripe's 404", Answer::text(404, "text/html", "<html>")),
        ("redirect", Answer::text(302, "text/html", "").with("Location", "/elsewhere")),
        ("what Stripe says not to try again", Answer::error(500, "", "").with("Stripe-Should-Retry", "false")),
        ("no JSON", Answer::text(200, "text/html", "<html>Welcome to this hotel's network</html>")),
        ("no object", Answer::json(200, &json!([]))),
    ];
    for (what, answer) in scripts {
        let fake = fake().await;
        fake.next([answer]);
        client(&fake).get(&subscription(), Lane::Live).await.expect_err(what);
        assert_eq!(fake.requests(), 1, "{what}");
    }
}

#[tokio::test]
async fn tries_end_and_the_background_has_more_of_them() {
    let (one, two) = (fake().await, fake().await);
    for fake in [&one, &two] {
        fake.instead(Some(Answer::error(503, "", "Come back later")));
    }
    let few = |fake: &FakeStripe| client_at(&fake.url(), ClientOptions { retries: 0, ..options() });
    let (live, background) = (few(&one), few(&two));
    let resource = subscription();
    let (first, second) =
        tokio::join!(live.0.get(&resource, Lane::Live), background.0.get(&resource, Lane::Background));
    for error in [first.expect_err("it is away"), second.expect_err("it is away")] {
        assert!(error.may_pass() && error.to_string().contains("503: Come back later"), "{error}");
    }
    assert_eq!((one.requests(), two.requests()), (1, 4));
    assert_eq!(answers(&background.1), vec![Outcome::ServerError; 4]);
    let retries = background.1.lock().expect("no panic");
    assert_eq!(retries.iter().filter(|seen| matches!(seen, Observation::Retried { .. })).count(), 3);
}

#[tokio::test]
async fn silence_is_not_waited_out() {
    let body = || Answer::json(200, &json!({ "id": "sub_1" }));
    for (what, answer) in [
        ("never", Answer::never()),
        ("late", body().after(Duration::from_mins(1))),
        ("a slow body", body().dripping(Duration::from_mins(1))),
    ] {
        let fake = fake().await;
        fake.instead(Some(answer));
        let (client, seen) =
            client_at(&fake.url(), ClientOptions { retries: 0, timeout: Duration::from_millis(200), ..options() });
        let begun = Instant::now();
        let error = client.get(&subscription(), Lane::Live).await.expect_err(what);
        assert!(error.may_pass() && error.to_string().contains("no whole answer within 0.2 s"), "{what}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        assert_eq!(answers(&seen), [Outcome::TimedOut], "{what}");
    }
}

#[tokio::test]
async fn all_tries_together_end_at_the_deadline() {
    let fake = fake().await;
    fake.instead(Some(Answer::never()));
    let options = ClientOptions { retries: 1000, live_deadline: Duration::from_millis(300), ..options() };
    let (client, seen) = client_at(&fake.url(), options);
    let begun = Instant::now();
    let error = client.get(&subscription(), Lane::Live).await.expect_err("it hangs");
    assert!(error.may_pass(), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(4), "less than one try's own limit");
    assert_eq!(answers(&seen), [Outcome::TimedOut], "a try that is given up is counted too");
}

#[tokio::test]
async fn where_nobody_listens_no_connection_is_made_and_that_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let (client, seen) = client_at(&base, ClientOptions { retries: 0, ..options() });
    let error = client.get(&subscription(), Lane::Live).await.expect_err("nobody is there");
    let text = error.to_string();
    assert!(error.may_pass() && text.contains("no connection could be made"), "{text}");
    assert!(!text.contains("127.0.0.1"), "the address is not told: {text}");
    assert_eq!(answers(&seen), [Outcome::Broken]);
}

#[tokio::test]
async fn what_is_fetched_belongs_to_stripes_second_and_not_to_ours() {
    let fake = fake().await;
    let client = client(&fake);
    for minutes in [0, -90, 4] {
        fake.clock_ahead(TimeDelta::minutes(minutes));
        let before = Utc::now() + TimeDelta::minutes(minutes);
        let at = client.get(&subscription(), Lane::Live).await.expect("it is there").at;
        let off = (at - before).num_seconds();
        assert!((-2..=0).contains(&off), "{minutes}: {off}");
        assert_eq!(at.timestamp_subsec_nanos(), 0, "whole seconds, as events have them");
    }
}

#[tokio::test]
async fn a_slow_answer_belongs_to_the_second_in_which_it_was_asked_for() {
    let fake = fake().await;
    fake.latency(Duration::from_millis(1500));
    let before = Utc::now();
    let at = client(&fake).get(&subscription(), Lane::Live).await.expect("it is there").at;
    assert!(at <= before, "{at} {before}: whatever happens after the asking must win");
}

#[tokio::test]
async fn without_a_date_our_own_clock_counts() {
    fn clock() -> Time {
        Time::from_timestamp(1_234_567, 0).expect("a moment")
    }
    let fake = fake().await;
    fake.next([Answer::json(200, &json!({ "id": "sub_1" })).undated()]);
    let (client, _) = client_at(&fake.url(), ClientOptions { clock, ..options() });
    assert_eq!(client.get(&subscription(), Lane::Live).await.expect("it is there").at, clock());
}

#[tokio::test]
async fn nothing_secret_is_in_any_error() {
    let quoted = format!("Invalid API Key provided: {KEY}, or sk_test_****tkey of jo@example.com");
    let fake = fake().await;
    let base = fake.url().replace("http://", "http://user:hidden@");
    let (client, _) = client_at(&base, ClientOptions { retries: 0, ..options() });
    let fast = ClientOptions { retries: 0, timeout: Duration::from_millis(100), ..options() };
    let (hasty, _) = client_at(&base, fast);
    let mut told = Vec::new();
    let answers = [400, 401, 403, 404, 409, 429, 500]
        .map(|status| Answer::error(status, KEY, &quoted).with("Request-Id", "req_1"))
        .into_iter()
        .chain([Answer::cut(), Answer::text(200, "text/plain", KEY), Answer::text(404, "text/plain", KEY)]);
    for answer in answers {
        fake.next([answer]);
        let error = client.get(&subscription(), Lane::Live).await.expect_err("refused");
        told.extend([error.to_string(), format!("{error:?} {error:#?}")]);
    }
    fake.next([Answer::never()]);
    told.push(hasty.get(&subscription(), Lane::Live).await.expect_err("it hangs").to_string());
    told.push(format!("{client:?}"));
    let told = told.join("\n");
    for secret in [KEY, "verysecret", "****", "jo@", "hidden", "127.0.0.1"] {
        assert!(!told.contains(secret), "{secret} in:\n{told}");
    }
    assert!(told.contains("req_1"), "Stripe's own id of the request is told");
}

#[tokio::test]
async fn a_redirect_takes_the_key_nowhere() {
    let (fake, elsewhere) = (fake().await, fake().await);
    fake.next([
        Answer::text(307, "text/plain", "").with("Location", &format!("{}/v1/subscriptions/sub_1", elsewhere.url()))
    ]);
    let error = client(&fake).get(&subscription(), Lane::Live).await.expect_err("not followed");
    assert!(matches!(error, StripeError::Protocol { .. }), "{error}");
    assert_eq!(elsewhere.requests(), 0);
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let fake = fake().await;
    fake.instead(Some(Answer::text(200, "application/json", &" ".repeat(33 << 20))));
    let (client, _) = client_at(&fake.url(), ClientOptions { retries: 0, ..options() });
    let error = client.get(&subscription(), Lane::Live).await.expect_err("too long");
    assert!(error.to_string().contains("more than 32 MiB"), "{error}");
}

#[tokio::test]
async fn the_observer_learns_of_waits_answers_and_the_key() {
    let fake = fake().await;
    let (client, seen) = client_at(&fake.url(), ClientOptions { retries: 0, ..options() });
    fake.next([Answer::error(401, "", "")]);
    let error = client.get(&subscription(), Lane::Live).await.expect_err("refused");
    assert!(error.blames_key());
    client.get(&subscription(), Lane::Live).await.expect("it is there");
    fake.next([Answer::limited("endpoint-rate")]);
    client.get(&subscription(), Lane::Live).await.expect_err("limited");
    assert_eq!(answers(&seen), [Outcome::KeyRefused, Outcome::Success, Outcome::Limited]);
    let seen = seen.lock().expect("no panic");
    assert!(matches!(seen[0], Observation::Waited { lane: Lane::Live, .. }));
    assert!(seen.iter().any(|one| matches!(one, Observation::Tried { endpoint: Endpoint::Subscription, .. })));
}

#[tokio::test]
async fn everybody_shares_one_budget() {
    let fake = fake().await;
    let options = ClientOptions { requests_per_second: NonZeroU32::new(10).expect("not zero"), ..options() };
    let (client, _) = client_at(&fake.url(), options);
    let begun = Instant::now();
    let (others, resource) = (client.clone(), subscription());
    join_all((0..12).map(|number| {
        let (client, lane) = if number % 2 == 0 { (&client, Lane::Live) } else { (&others, Lane::Background) };
        client.get(&resource, lane)
    }))
    .await
    .into_iter()
    .for_each(|result| drop(result.expect("it is there")));
    // Two at once, then ten a second.
    assert!(begun.elapsed() >= Duration::from_millis(950), "{:?}", begun.elapsed());
}
