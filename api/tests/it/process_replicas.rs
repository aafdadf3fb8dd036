//! Several processes on one PostgreSQL, behind an address that leads to each in turn.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use reqwest::{Client, StatusCode};
use sea_orm::{DbBackend, FromQueryResult, Statement};
use serde_json::Value;
use testkit::{Kind, TestDb, kinds};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::Instant,
};

use crate::process_harness::{Caller, LONG, Running, subscribing};

/// Leads each connection to the next server that takes it.
async fn in_turn(servers: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let next = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (servers, next) = (servers.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                for _ in 0..servers.len() {
                    let turn = next.fetch_add(1, Ordering::Relaxed) % servers.len();
                    if let Ok(mut far) = TcpStream::connect(&servers[turn]).await {
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                        return;
                    }
                }
            });
        }
    });
    address
}

#[derive(Debug, FromQueryResult)]
struct Counts {
    stored: i64,
    completed: i64,
    changed_twice: i64,
    slots_twice: i64,
    since: i64,
}

const COUNTS: &str = "SELECT (SELECT count(*) FROM stripe_webhooks) AS stored,
    (SELECT count(*) FROM stripe_webhooks WHERE processing_status = 'completed') AS completed,
    (SELECT count(*) FROM (SELECT event_id FROM entitlement_changes WHERE event_id IS NOT NULL GROUP BY event_id HAVING count(*) > 1) AS t)
        AS changed_twice,
    (SELECT count(*) FROM (SELECT job, slot FROM job_runs WHERE outcome = 'succeeded' GROUP BY job, slot HAVING count(*) > 1) AS t)
        AS slots_twice,
    (SELECT count(*) FROM job_runs WHERE job = 'retry_pending_webhooks' AND outcome = 'succeeded' AND started_at > $1::timestamptz) AS since";

/// Sends an event until it is acknowledged, as Stripe does; the process it went to may be gone.
async fn insist(caller: &Caller, event: &Value) {
    let deadline = Instant::now() + LONG;
    loop {
        let (body, signature) = caller.signed(event);
        let request = caller.http.post(format!("{}/api/v1/stripe/webhook", caller.url));
        match request.header("stripe-signature", signature).body(body).send().await.map(|answer| answer.status()) {
            Ok(StatusCode::OK) => return,
            Ok(status) => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
            Err(_) => {}
        }
        assert!(Instant::now() < deadline, "never acknowledged");
        tokio::task::yield_now().await;
    }
}

/// Of the test below.
const USERS: usize = 30;

#[tokio::test]
async fn of_three_processes_one_is_killed_and_nothing_acknowledged_is_lost_or_done_twice_and_jobs_go_on() {
    if !kinds().contains(&Kind::Postgres) {
        return;
    }
    let database = TestDb::empty(Kind::Postgres).await;
    let folder = tempfile::tempdir().unwrap();
    let settings = "[processor]\nlease = \"1s\"\n[jobs.retry_pending_webhooks]\nschedule = \"* * * * * *\"\n";
    fs::write(folder.path().join("trueup.toml"), settings).unwrap();
    let start = || Running::start(folder.path(), &[("DATABASE_URL", database.url())], &[]);
    let mut replicas: Vec<Running> = (0..3).map(|_| start()).collect();
    let mut addresses = Vec::new();
    for replica in &replicas {
        addresses.push(replica.url().await.trim_start_matches("http://").to_owned());
    }
    let address = format!("http://{}", in_turn(addresses).await);
    let caller = Caller::new(&address, &folder.path().join("data"));
    // Every request by a connection of its own, so that each goes to another process.
    let http = Client::builder().no_proxy().tls_certs_only([]).pool_max_idle_per_host(0).timeout(LONG).build().unwrap();
    let caller = Arc::new(Caller { http, ..caller });
    let mut users = Vec::new();
    for number in 0..USERS {
        users.push(caller.make_user(&format!("user{number}@example.com")).await);
    }

    let (acknowledge, mut acknowledged) = watch::channel(0);
    let mut deliveries = Vec::new();
    let mut sent = 0;
    for user in &users {
        let events = subscribing(user, "pro");
        sent += events.len();
        let (caller, acknowledge) = (Arc::clone(&caller), acknowledge.clone());
        deliveries.push(tokio::spawn(async move {
            for event in &events {
                // Twice, to two processes.
                insist(&caller, event).await;
                insist(&caller, event).await;
                acknowledge.send_modify(|count| *count += 1);
            }
        }));
    }
    acknowledged.wait_for(|count| *count >= sent / 3).await.unwrap();
    let killed = replicas.remove(0);
    killed.signal("KILL");
    killed.end(LONG).await;
    let since = chrono::Utc::now();
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    for user in &users {
        caller.tier_becomes(user, "pro").await;
    }

    let connection = database.connect().await;
    let deadline = Instant::now() + LONG;
    let mut looks = tokio::time::interval(std::time::Duration::from_millis(50));
    loop {
        looks.tick().await;
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, COUNTS, [since.into()]);
        let counts = Counts::find_by_statement(statement).one(&connection).await.unwrap().unwrap();
        assert_eq!((counts.changed_twice, counts.slots_twice), (0, 0), "{counts:?}");
        // Two slots later the dead process's share of the jobs is taken over.
        if counts.completed == i64::try_from(sent).unwrap() && counts.since >= 2 {
            assert_eq!(counts.stored, counts.completed);
            break;
        }
        assert!(Instant::now() < deadline, "{counts:?}\n{}", replicas[0].err());
    }
    for replica in &replicas {
        replica.stop().await;
    }
    connection.close().await.unwrap();
}
