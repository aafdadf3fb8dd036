//! A database that goes away under a running server, and comes back.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::time::Duration;

use reqwest::StatusCode;
use sea_orm::{ConnectionTrait, Statement, TransactionOptions, TransactionTrait};
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

#[tokio::test]
async fn a_slow_statement_is_told_in_the_log_without_what_is_bound_to_it() {
    if !kinds().contains(&Kind::Postgres) {
        return;
    }
    let database = TestDb::empty(Kind::Postgres).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("trueup.toml"), "[database]\nslow_statement = \"50ms\"\n").unwrap();
    let running = Running::start(folder.path(), &[("DATABASE_URL", database.url())], &[]);
    let caller = Caller::new(&running.url().await, &folder.path().join("data"));
    let connection = database.connect().await;
    let lock = connection.begin_with_options(TransactionOptions::default()).await.unwrap();
    lock.execute_unprepared("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let making = async {
        caller.make_user("not-to-be-told@example.com").await;
    };
    let letting = async {
        let deadline = Instant::now() + LONG;
        loop {
            let sql = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                AND clock_timestamp() - query_start > interval '100 milliseconds'";
            let waits = Statement::from_string(connection.get_database_backend(), sql);
            if connection.query_one_raw(waits).await.unwrap().is_some() {
                break;
            }
            assert!(Instant::now() < deadline, "nobody waits for the lock:\n{}", running.err());
            tokio::task::yield_now().await;
        }
        lock.commit().await.unwrap();
    };
    tokio::join!(making, letting);
    running.line_with("slow statement").await;
    running.stop().await;
    assert!(running.err().contains("users"), "the statement is told: {}", running.err());
    assert!(!running.err().contains("not-to-be-told"), "{}", running.err());
    connection.close().await.unwrap();
}

/// A webhook's status, and whether it says when to come again.
async fn delivered(caller: &Caller, event: &Value) -> (StatusCode, bool) {
    let (body, signature) = caller.signed(event);
    let request = caller.http.post(format!("{}/api/v1/stripe/webhook", caller.url));
    let response = request.header("stripe-signature", signature).body(body).send().await.unwrap();
    (response.status(), response.headers().contains_key("retry-after"))
}

#[tokio::test]
async fn a_database_that_answers_and_takes_no_writes_is_told_by_readyz_and_all_goes_on_once_it_does() {
    for kind in kinds() {
        let database = TestDb::empty(kind).await;
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start(folder.path(), &[("DATABASE_URL", database.url())], &[]);
        let caller = Caller::new(&running.url().await, &folder.path().join("data"));
        let user = caller.make_user("user@example.com").await;
        let events = subscribing(&user, "pro");

        // PostgreSQL becomes read-only, as a standby is; the file of `SQLite` is in the hands of somebody who does not let go of it.
        let operator = database.connect().await;
        let name = database.url().rsplit_once('/').unwrap().1;
        let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let mut held = None;
        let told = match kind {
            Kind::Postgres => {
                let sql = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
                operator.execute_unprepared(&sql).await.unwrap();
                operator.execute_unprepared(others).await.unwrap();
                "the database cannot be written: it is read-only"
            }
            Kind::Sqlite => {
                let tx = operator.begin_with_options(TransactionOptions::default()).await.unwrap();
                tx.execute_unprepared("DELETE FROM settings WHERE name = 'nothing'").await.unwrap();
                held = Some(tx);
                "the database did not take a write within 2 s"
            }
        };
        let deadline = Instant::now() + LONG;
        loop {
            let (status, parts) = ready(&caller).await;
            let detail = parts["database"]["detail"].as_str().unwrap_or_default();
            if (status, detail) == (StatusCode::SERVICE_UNAVAILABLE, told) {
                break;
            }
            assert!(Instant::now() < deadline, "never told: {parts}\n{}", running.err());
        }
        assert_eq!(delivered(&caller, &events[0]).await, (StatusCode::SERVICE_UNAVAILABLE, true), "{}", running.err());

        if let Some(tx) = held {
            tx.rollback().await.unwrap();
        } else {
            let sql = format!("BEGIN READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only; COMMIT");
            operator.execute_unprepared(&sql).await.unwrap();
            operator.execute_unprepared(others).await.unwrap();
        }
        operator.close().await.unwrap();
        for event in &events {
            while caller.deliver(event).await != StatusCode::OK {
                assert!(Instant::now() < deadline, "never back:\n{}", running.err());
            }
        }
        caller.answers_that_tier_is(&user, "pro").await;
        while ready(&caller).await.0 != StatusCode::OK {
            assert!(Instant::now() < deadline, "stored, and never ready again:\n{}", running.err());
        }
        running.stop().await;
    }
}
