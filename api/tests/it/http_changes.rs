//! The feed of changes as the host's backend sees it.

use std::time::Duration;

use billing::{changes::Feed, samples::Scene};
use chrono::Utc;
use serde_json::{Value, json};
use testkit::on_each;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::http_server::{Server, host, tell};

const ADA: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const FEED: &str = "/api/v1/changes";
/// What nothing here should ever take; the machine may be busy.
const LONG: Duration = Duration::from_secs(20);

/// Ada subscribes, and ends it again: two changes.
async fn come_and_go(server: &Server, seed: &str) {
    let mut scene = Scene::new(seed, "ada@example.com", "pro", Utc::now().timestamp());
    scene.user_id = Some(ADA.to_owned());
    server.play("customer.subscription.created", &scene).await;
    server.work().await;
    scene.at += 1;
    scene.seed = format!("{seed}_end");
    server.play("customer.subscription.deleted", &scene).await;
    server.work().await;
}

fn tiers(page: &Value) -> Vec<(&str, &str)> {
    let items = page["items"].as_array().expect("items");
    items
        .iter()
        .map(|item| (item["before"]["tier"].as_str().unwrap_or(""), item["after"]["tier"].as_str().unwrap_or("")))
        .collect()
}

#[test]
fn the_feed_is_read_page_by_page_and_its_cursor_goes_on() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let empty = server.host_get(FEED).await.assert_ok();
        assert_eq!(empty, json!({"items": [], "next_cursor": "0"}));
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        come_and_go(&server, "a").await;
        let page = server.host_get(FEED).await.assert_ok();
        assert_eq!(tiers(&page), [("free", "pro"), ("pro", "free")]);
        let first = &page["items"][0];
        assert_eq!(
            (&first["user_id"], &first["source"], &first["cursor"]),
            (&json!(ADA), &json!("webhook"), &json!("1"))
        );
        assert!(first["changed_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{first}");
        assert!(first["event_id"].is_string() && first["reason"].is_string() && first["id"].is_string(), "{first}");
        assert_eq!(page["next_cursor"], "2");
        let page = server.host_get(&format!("{FEED}?limit=1")).await.assert_ok();
        assert_eq!((tiers(&page).len(), &page["next_cursor"]), (1, &json!("1")));
        let page = server.host_get(&format!("{FEED}?after=1")).await.assert_ok();
        assert_eq!((tiers(&page), &page["next_cursor"]), (vec![("pro", "free")], &json!("2")));
        let latest = server.host_get(&format!("{FEED}?after=latest")).await.assert_ok();
        assert_eq!(latest, json!({"items": [], "next_cursor": "2"}));
        // As every route of the host's.
        tell(server.client.get(FEED)).await.assert_problem(401, "unauthorized");
        for query in ["after=x", "after=-1", "after=", "limit=0", "limit=501", "wait=31", "wait=-1"] {
            server.host_get(&format!("{FEED}?{query}")).await.assert_problem(400, "bad-request");
        }
        server.host_get(&format!("{FEED}?after=3")).await.assert_problem(409, "cursor-unknown");
    });
}

#[test]
fn who_waits_is_answered_as_soon_as_something_changes() {
    on_each(|database| async {
        let server = Server::new(database).await;
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        let path = format!("{FEED}?wait=30");
        let begun = Instant::now();
        let (page, ()) = tokio::join!(server.host_get(&path), come_and_go(&server, "a"));
        assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
        let page = page.assert_ok();
        assert_eq!(tiers(&page)[0], ("free", "pro"));
        // With something there already, nobody waits.
        let begun = Instant::now();
        server.host_get(&format!("{FEED}?after=1&wait=30")).await.assert_ok();
        assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
    });
}

#[test]
fn who_waits_for_nothing_gets_an_empty_answer_when_the_time_is_over() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let begun = Instant::now();
        let page = server.host_get(&format!("{FEED}?wait=1")).await.assert_ok();
        assert_eq!(page, json!({"items": [], "next_cursor": "0"}));
        assert!(begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < LONG, "{:?}", begun.elapsed());
        // Nor does it look for ever where the users of all later changes are gone.
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        come_and_go(&server, "a").await;
        assert_eq!(server.host_get(FEED).await.assert_ok()["next_cursor"], "2");
        server.sql("DELETE FROM users").await;
        let page = server.host_get(&format!("{FEED}?wait=1")).await.assert_ok();
        assert_eq!(page, json!({"items": [], "next_cursor": "2"}));
    });
}

#[test]
fn a_hundred_hosts_that_wait_leave_the_database_to_others() {
    on_each(|database| async {
        let server = Server::new(database).await;
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        let path = format!("{FEED}?wait=30");
        let waiting = futures::future::join_all((0..100).map(|_| host(server.client.get(path.as_str()))));
        let begun = Instant::now();
        let (pages, ()) = tokio::join!(waiting, come_and_go(&server, "a"));
        assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
        assert_eq!(pages.len(), 100);
        assert!(pages.iter().all(|page| tiers(&page.assert_ok())[0] == ("free", "pro")));
    });
}

#[test]
fn a_server_that_is_told_to_end_answers_who_waits_at_once() {
    on_each(|database| async {
        let end = CancellationToken::new();
        let told = end.clone();
        let server = Server::with(database, move |app| app.feed = Feed::start(app.db.clone(), told)).await;
        let path = format!("{FEED}?wait=30");
        let (page, ()) = tokio::join!(timeout(LONG, server.host_get(&path)), async { end.cancel() });
        assert_eq!(page.expect("in time").assert_ok()["items"], json!([]));
    });
}
