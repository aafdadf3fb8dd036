//! A database that goes away under a running server, and comes back.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use testkit::{Kind, TestDb, kinds};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::Instant,
};

use crate::process_harness::{Caller, LONG, Running, subscribing};

/// A way to a server that can be cut: what is open breaks off, and whoever comes is turned away.
struct Way {
    address: String,
    open: watch::Sender<bool>,
}

impl Way {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (open, state) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (server, mut state) = (server.clone(), state.clone());
                tokio::spawn(async move {
                    if !*state.borrow_and_update() {
                        return;
                    }
                    let mut far = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = state.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { address, open }
    }
}

async fn ready(caller: &Caller) -> (StatusCode, Value) {
    let response = caller.http.get(format!("{}/readyz", caller.url)).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn while_the_database_is_away_webhooks_get_503_in_time_and_afterwards_all_goes_on_without_a_restart() {
    if !kinds().contains(&Kind::Postgres) {
        return;
    }
    let database = TestDb::empty(Kind::Postgres).await;
    let (head, name) = database.url().rsplit_once('/').unwrap();
    let (scheme, server) = head.rsplit_once('@').unwrap();
    let way = Way::to(server.to_owned()).await;
    let url = format!("{scheme}@{}/{name}", way.address);
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(folder.path(), &[("DATABASE_URL", &url)], &[]);
    let caller = Caller::new(&running.url().await, &folder.path().join("data"));
    let user = caller.make_user("user@example.com").await;
    assert_eq!(ready(&caller).await.0, StatusCode::OK);

    way.open.send_replace(false);
    let events = subscribing(&user, "pro");
    let begun = Instant::now();
    let (body, signature) = caller.signed(&events[0]);
    let request = caller.http.post(format!("{}/api/v1/stripe/webhook", caller.url));
    let response = request.header("stripe-signature", signature).body(body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    assert!(begun.elapsed() < Duration::from_secs(5), "Stripe was kept waiting for {:?}", begun.elapsed());
    let (status, parts) = ready(&caller).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(parts["database"]["state"], "failed", "{parts}");
    let metrics = caller.http.get(format!("{}/metrics", caller.url)).send().await.unwrap();
    assert_eq!(metrics.status(), StatusCode::OK, "a scrape never fails because the database is away");
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("\ntrueup_database_up 0\n"));
    for part in ["inbox", "usage", "jobs"] {
        assert!(metrics.contains(&format!("\ntrueup_scrape_part_up{{part=\"{part}\"}} 0\n")), "{part}:\n{metrics}");
    }
    for gone in
        ["trueup_inbox_events", "trueup_usage_windows_overdue", "trueup_job_paused", "trueup_reconcile_last_complete"]
    {
        assert!(!metrics.contains(gone), "{gone} is told as if it were known");
    }
    let failed = |kind: &str| metrics.contains(&format!("\ntrueup_database_query_errors_total{{kind=\"{kind}\"}} 0\n"));
    assert!(!failed("connection") || !failed("pool_timeout"), "{metrics}");

    way.open.send_replace(true);
    // Stripe sends again what was not acknowledged.
    let deadline = Instant::now() + LONG;
    for event in &events {
        while caller.deliver(event).await != StatusCode::OK {
            assert!(Instant::now() < deadline, "never back:\n{}", running.err());
        }
    }
    caller.tier_becomes(&user, "pro").await;
    assert_eq!(ready(&caller).await.0, StatusCode::OK);
    let part = "\ntrueup_scrape_part_up{part=\"inbox\"} 1\n";
    loop {
        let metrics = caller.http.get(format!("{}/metrics", caller.url)).send().await.unwrap().text().await.unwrap();
        if metrics.contains(part) && metrics.contains("\ntrueup_inbox_events") {
            break;
        }
        assert!(Instant::now() < deadline, "the inbox is never shown again:\n{metrics}");
    }
    running.stop().await;
}
