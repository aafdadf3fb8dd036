//! What a real server shows to Prometheus, and what a scrape does while the database does not.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::time::Duration;

use reqwest::StatusCode;
use sea_orm::{ConnectionTrait, Statement, TransactionTrait};
use testkit::{Kind, TestDb, kinds};
use tokio::time::Instant;

use crate::{
    http_server::series,
    process_harness::{Caller, LONG, Running, run, subscribing},
};

async fn scrape(caller: &Caller) -> String {
    let response = caller.http.get(format!("{}/metrics", caller.url)).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.text().await.unwrap()
}

/// Scrapes until it holds.
async fn scraped(caller: &Caller, holds: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + LONG;
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    loop {
        looks.tick().await;
        let text = scrape(caller).await;
        if holds(&text) {
            return text;
        }
        assert!(Instant::now() < deadline, "never so:\n{text}");
    }
}

fn shows(text: &str, line: &str) -> bool {
    text.lines().any(|shown| shown == line)
}

fn number(text: &str, name: &str) -> f64 {
    series(text, name).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_part_of_a_server_is_told_from_what_is_in_its_database() {
    for kind in kinds() {
        let database = TestDb::migrated(kind).await;
        let folder = tempfile::tempdir().unwrap();
        let variables = [("DATABASE_URL", database.url())];
        let running = Running::start(folder.path(), &variables, &["serve", "--no-scheduler"]);
        let caller = Caller::new(&running.url().await, &folder.path().join("data"));
        let user = caller.make_user("user@example.com").await;
        for event in subscribing(&user, "pro") {
            assert_eq!(caller.deliver(&event).await, StatusCode::OK);
        }
        let mut foreign = subscribing(&user, "pro").remove(0);
        foreign["account"] = "acct_other".into();
        foreign["id"] = "evt_foreign".into();
        assert_eq!(caller.deliver(&foreign).await, StatusCode::OK);
        caller.tier_becomes(&user, "pro").await;
        let ran = run(folder.path(), &variables, &["jobs", "pause", "send_emails"]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let other = database.connect().await;
        let overdue = "UPDATE users SET rolls_at = '2026-01-01T00:00:00+00:00'";
        other.execute_unprepared(overdue).await.unwrap();
        running.stop().await;

        // Started anew, so that the census, which comes once a minute, is of now.
        let running = Running::start(folder.path(), &variables, &["serve", "--no-scheduler"]);
        let caller = Caller::new(&running.url().await, &folder.path().join("data"));
        let text = scraped(&caller, |text| shows(text, "trueup_scrape_part_up{part=\"users\"} 1")).await;
        for part in ["inbox", "usage", "jobs", "pool"] {
            assert_eq!(series(&text, &format!("trueup_scrape_part_up{{part=\"{part}\"}}")), "1", "{text}");
        }
        for (name, value) in [
            ("trueup_users{status=\"active\",tier=\"pro\"}", "1"),
            ("trueup_users{status=\"active\",tier=\"elite\"}", "0"),
            ("trueup_subscriptions{status=\"active\"}", "1"),
            ("trueup_subscriptions_unmapped_price", "0"),
            ("trueup_subscriptions_needs_refresh", "0"),
            ("trueup_usage_windows_overdue", "1"),
            ("trueup_inbox_events{status=\"pending\"}", "0"),
            ("trueup_job_paused{job_name=\"send_emails\"}", "1"),
            ("trueup_job_paused{job_name=\"reconcile_subscriptions\"}", "0"),
            ("trueup_job_enabled{job_name=\"send_emails\"}", "0"),
            ("trueup_reconcile_last_complete_timestamp_seconds", "0"),
            ("trueup_database_up", "1"),
            ("trueup_database_pool_waiting", "0"),
            ("trueup_panics_total", "0"),
        ] {
            assert_eq!(series(&text, name), value, "{kind:?}: {name}");
        }
        assert!(number(&text, "trueup_usage_oldest_overdue_seconds") > 86_400.0);
        assert!(number(&text, "trueup_database_pool_max_connections") >= 1.0);
        assert!(number(&text, "trueup_database_pool_connections{state=\"idle\"}") >= 1.0);
        for counted in
            ["trueup_database_query_duration_seconds_count", "trueup_database_acquire_duration_seconds_count"]
        {
            assert!(number(&text, counted) > 0.0, "{kind:?}: {counted}");
        }
        foreign["id"] = "evt_foreign_2".into();
        let other_account = "trueup_events_skipped_total{reason=\"foreign_account\"}";
        assert_eq!(caller.deliver(&foreign).await, StatusCode::OK);
        let text = scrape(&caller).await;
        assert_eq!(series(&text, other_account), "1");
        assert!(number(&text, "trueup_log_lines_total{level=\"info\"}") > 0.0, "{kind:?}: the delivery has its line");
        assert_eq!(series(&text, "trueup_inbox_commit_events_sum"), "1");
        assert_eq!(series(&text, "trueup_inbox_commit_duration_seconds_count"), "1");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_does_not_answer_is_left_out_in_time_and_is_asked_once_however_often_it_is_scraped() {
    if !kinds().contains(&Kind::Postgres) {
        return;
    }
    let database = TestDb::migrated(Kind::Postgres).await;
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(
        folder.path(),
        &[("DATABASE_URL", database.url())],
        &["serve", "--no-processor", "--no-scheduler"],
    );
    let caller = Caller::new(&running.url().await, &folder.path().join("data"));
    let text = scrape(&caller).await;
    assert!(shows(&text, "trueup_inbox_events{status=\"pending\"} 0"), "{text}");

    let other = database.connect().await;
    let lock = other.begin_with_options(sea_orm::TransactionOptions::default()).await.unwrap();
    lock.execute_unprepared("LOCK TABLE stripe_webhooks IN ACCESS EXCLUSIVE MODE").await.unwrap();
    scraped(&caller, |text| shows(text, "trueup_scrape_part_up{part=\"inbox\"} 0")).await;
    for _ in 0..2 {
        let begun = Instant::now();
        let text = scrape(&caller).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        for gone in ["trueup_inbox_events", "trueup_inbox_oldest_age_seconds", "trueup_emails_pending"] {
            assert!(!text.contains(gone), "{gone} is told as if it were known:\n{text}");
        }
        assert!(shows(&text, "trueup_database_up 0"));
        for part in ["usage", "jobs", "pool"] {
            assert!(shows(&text, &format!("trueup_scrape_part_up{{part=\"{part}\"}} 1")), "{part}:\n{text}");
        }
    }
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let row =
        other.query_one_raw(Statement::from_string(other.get_database_backend(), waiting)).await.unwrap().unwrap();
    assert_eq!(row.try_get_by_index::<i64>(0).unwrap(), 1, "every scrape asked again");
    lock.rollback().await.unwrap();
    scraped(&caller, |text| {
        shows(text, "trueup_scrape_part_up{part=\"inbox\"} 1")
            && shows(text, "trueup_inbox_events{status=\"pending\"} 0")
    })
    .await;
    running.stop().await;
}
