//! What is in flight when a server is told to stop, or is killed.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::time::Duration;

use futures::future::join_all;
use reqwest::StatusCode;
use testkit::{TestDb, kinds};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::process_harness::{Caller, LONG, Running, subscribing};

/// A webhook whose head is sent and whose body the server waits for.
async fn half_a_webhook(caller: &Caller, body: &[u8], signature: &str) -> TcpStream {
    let mut stream = TcpStream::connect(caller.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /api/v1/stripe/webhook HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\
         stripe-signature: {signature}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 25];
    timeout(LONG, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n", "the request is under way");
    stream
}

async fn until_nobody_listens(caller: &Caller) {
    let deadline = Instant::now() + LONG;
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    while TcpStream::connect(caller.url.trim_start_matches("http://")).await.is_ok() {
        assert!(Instant::now() < deadline, "it went on accepting");
        looks.tick().await;
    }
}

#[tokio::test]
async fn told_to_stop_a_server_accepts_nothing_more_answers_what_is_in_flight_and_exits_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Running::start(folder.path(), &[], &[]);
    let caller = Caller::new(&server.url().await, &data);
    let user = caller.make_user("user@example.com").await;
    let events = subscribing(&user, "pro");
    for event in &events[..events.len() - 1] {
        assert_eq!(caller.deliver(event).await, StatusCode::OK);
    }
    let (body, signature) = caller.signed(&events[events.len() - 1]);
    let mut answered = half_a_webhook(&caller, &body, &signature).await;
    // Never goes on; it must not hold the server up for ever.
    let _abandoned = half_a_webhook(&caller, &body, &signature).await;

    let begun = Instant::now();
    server.signal("TERM");
    until_nobody_listens(&caller).await;
    answered.write_all(&body).await.unwrap();
    let mut answer = String::new();
    timeout(LONG, answered.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"outcome\":\"recorded\""), "{answer}");
    assert_eq!(server.end(Duration::from_secs(10)).await.code(), Some(0), "{}", server.err());
    assert!(begun.elapsed() < Duration::from_secs(10));

    // What was answered 200 is there, and applied.
    let again = Running::start(folder.path(), &[], &[]);
    let caller = Caller::new(&again.url().await, &data);
    caller.tier_becomes(&user, "pro").await;
    again.stop().await;
}

#[tokio::test]
async fn told_twice_a_server_stops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(folder.path(), &[], &[]);
    let caller = Caller::new(&server.url().await, &folder.path().join("data"));
    let (body, signature) = caller.signed(&serde_json::json!({ "id": "evt_1", "type": "customer.created" }));
    let _abandoned = half_a_webhook(&caller, &body, &signature).await;
    server.signal("INT");
    server.line_with("told to stop").await;
    server.signal("INT");
    let status = server.end(Duration::from_secs(3)).await;
    assert_eq!(status.code(), Some(130), "{}", server.err());
}

#[tokio::test]
async fn what_was_answered_200_survives_a_kill_and_is_applied_after_the_restart() {
    const USERS: usize = 12;
    for kind in kinds() {
        let database = TestDb::empty(kind).await;
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let variables = [("DATABASE_URL", database.url())];
        let server = Running::start(folder.path(), &variables, &[]);
        let caller = Caller::new(&server.url().await, &data);
        let emails: Vec<String> = (0..USERS).map(|n| format!("user{n}@example.com")).collect();
        let users = join_all(emails.iter().map(|email| caller.make_user(email))).await;
        let deliveries = users.iter().flat_map(|user| subscribing(user, "elite"));
        let answers = join_all(deliveries.map(|event| {
            let caller = &caller;
            async move { caller.deliver(&event).await }
        }));
        assert!(answers.await.iter().all(|status| *status == StatusCode::OK));
        server.signal("KILL");
        assert!(!server.end(LONG).await.success());

        let again = Running::start(folder.path(), &variables, &[]);
        let caller = Caller::new(&again.url().await, &data);
        for user in &users {
            caller.tier_becomes(user, "elite").await;
        }
        again.stop().await;
    }
}

#[tokio::test]
async fn a_server_without_a_processor_stores_and_another_applies() {
    for kind in kinds() {
        let database = TestDb::empty(kind).await;
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let variables = [("DATABASE_URL", database.url())];
        let receiver = Running::start(folder.path(), &variables, &["serve", "--no-processor"]);
        let caller = Caller::new(&receiver.url().await, &data);
        let user = caller.make_user("user@example.com").await;
        for event in subscribing(&user, "starter") {
            assert_eq!(caller.deliver(&event).await, StatusCode::OK);
        }
        // Killed before anything could be applied: this is the state right after a 200.
        receiver.signal("KILL");
        receiver.end(LONG).await;
        let worker = Running::start(folder.path(), &variables, &[]);
        let caller = Caller::new(&worker.url().await, &data);
        caller.tier_becomes(&user, "starter").await;
        worker.stop().await;
    }
}
