//! The simulated Stripe against the real binary.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use testkit::{Kind, TestDb, on_each};

use crate::process_harness::{LONG, Ran, Running, run};

fn report(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}\n{}", ran.out, ran.err))
}

/// `trueup simulate` on this database, with these words.
async fn simulate(database: &TestDb, words: &str) -> (Option<i32>, Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut arguments = vec!["simulate", "--json", "--patience", "3", "--database", database.url()];
    arguments.extend(words.split_whitespace());
    let ran = run(folder.path(), &[], &arguments).await;
    (ran.code, report(&ran))
}

fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("no {key} in {report}"))
}

const DISORDER: &str = "--customers 12 --days 70 --no-key --duplicate 10% --reorder 20% --delay 5% --twins 3%";

#[test]
fn webhooks_alone_converge_whatever_their_order_and_however_often_they_come() {
    for (seed, version) in [(1, "2020-08-27"), (2, "2025-03-31.basil"), (3, "2026-10-28.endive")] {
        on_each(|database| async move {
            let words = format!("{DISORDER} --rotate --seed {seed} --api-version {version}");
            let (code, report) = simulate(&database, &words).await;
            assert_eq!((&report["differences"], code), (&Value::Array(Vec::new()), Some(0)), "{report}");
            assert!(number(&report, "delivered") > number(&report, "events"), "{report}");
            assert!(number(&report, "sent_twice") > 0 && number(&report, "reordered") > 0, "{report}");
            assert_eq!((number(&report, "failed"), number(&report, "attempts_failed")), (0, 0), "{report}");
            assert!(number(&report, "subscriptions") > 5 && number(&report, "users") > 5, "{report}");
        });
    }
}

#[test]
fn what_never_arrives_is_told_as_a_difference() {
    on_each(|database| async move {
        let words = "--customers 12 --days 70 --no-key --no-repair --drop 40% --seed 2";
        let (code, report) = simulate(&database, words).await;
        assert_eq!(code, Some(1), "{report}");
        let differences = report["differences"].as_array().expect("a list");
        assert!(differences.iter().any(|difference| difference["of"] == "subscription"), "{report}");
        assert!(differences.iter().any(|difference| difference["of"] == "user"), "{report}");
        assert!(number(&report, "dropped") > 0, "{report}");
        assert_eq!(report["converged_after_ms"], Value::Null);
    });
}

fn ids(report: &Value, of: &str) -> BTreeSet<String> {
    let differences = report["differences"].as_array().expect("a list").iter();
    differences.filter(|found| found["of"] == of).map(|found| found["id"].as_str().expect("an id").to_owned()).collect()
}

fn set(list: &Value) -> BTreeSet<String> {
    list.as_array().expect("a list").iter().map(|id| id.as_str().expect("an id").to_owned()).collect()
}

// A history depends on the calendar too, so that whatever must happen at least once is given sixty people to happen to.

#[test]
fn without_a_key_exactly_what_events_of_one_second_leave_open_is_marked_and_nothing_else_differs() {
    on_each(|database| async move {
        let words = "--customers 60 --days 90 --no-key --duplicate 10% --reorder 20% --twins 3% --bursts 100% --seed 5";
        let (_, report) = simulate(&database, words).await;
        let marked = set(&report["needs_refresh"]);
        assert!(!marked.is_empty(), "{report}");
        assert_eq!(marked, set(&report["ambiguous"]), "{report}");
        assert!(ids(&report, "subscription").is_subset(&marked), "{report}");
        assert!(ids(&report, "user").is_subset(&set(&report["ambiguous_users"])), "{report}");
    });
}

#[test]
fn with_a_key_events_of_one_second_leave_nothing_open() {
    on_each(|database| async move {
        let words = "--customers 60 --days 90 --duplicate 10% --reorder 20% --bursts 100% --no-repair --seed 5";
        let (code, report) = simulate(&database, words).await;
        assert_eq!((&report["differences"], code), (&Value::Array(Vec::new()), Some(0)), "{report}");
        assert!(!set(&report["ambiguous"]).is_empty(), "{report}");
        assert_eq!(set(&report["needs_refresh"]), BTreeSet::new(), "{report}");
    });
}

#[test]
fn what_was_lost_is_recovered_as_far_as_stripe_remembers_and_the_rest_is_what_a_dry_run_tells_and_a_reconciliation_repairs()
 {
    on_each(|database| async move {
        let words = "--customers 60 --days 90 --drop 20% --duplicate 5% --reorder 10% --forged 5% --seed 4";
        let (code, report) = simulate(&database, words).await;
        assert_eq!((&report["differences"], code), (&Value::Array(Vec::new()), Some(0)), "{report}");
        assert!(number(&report, "recovered") > 0 && number(&report, "repaired") > 0, "{report}");
        assert!(
            number(&report, "differences_after_webhooks") > number(&report, "differences_after_recovery"),
            "{report}"
        );
        let dry = &report["dry_run"];
        assert!(dry["by_kind"]["differs"].as_u64() > Some(0), "{report}");
        assert_eq!((set(&dry["untold"]), set(&dry["unfounded"])), (BTreeSet::new(), BTreeSet::new()), "{report}");
        assert!(number(&report, "forged") > 0, "{report}");
        assert_eq!(number(&report, "forged_taken"), 0, "{report}");
    });
}

#[tokio::test]
async fn while_the_api_limits_fails_and_hangs_everything_is_repaired_all_the_same() {
    let database = TestDb::empty(Kind::Sqlite).await;
    let words =
        "--customers 15 --days 60 --drop 20% --bursts 50% --api-limits 8% --api-errors 4% --api-hangs 2% --seed 9";
    let (code, report) = simulate(&database, words).await;
    assert_eq!((&report["differences"], code), (&Value::Array(Vec::new()), Some(0)), "{report}");
    assert_eq!(report["recovery"]["outcome"], "succeeded", "{report}");
}

#[tokio::test]
async fn at_a_given_speed_days_take_their_time() {
    let database = TestDb::empty(Kind::Sqlite).await;
    let (code, report) = simulate(&database, "--customers 3 --days 20 --speed 10 --seed 1").await;
    assert_eq!(code, Some(0), "{report}");
    assert!(number(&report, "run_ms") >= 1_900, "20 days at 10 a second: {report}");
}

#[tokio::test]
async fn a_world_that_is_to_be_kept_running_goes_on_after_its_report() {
    let folder = tempfile::tempdir().expect("a folder");
    let words = "simulate --customers 6 --days 20 --seed 3 --keep-running";
    let arguments: Vec<&str> = words.split_whitespace().collect();
    let world = Running::start(folder.path(), &[], &arguments);
    let line = world.line_with("the world lives on against").await;
    assert!(world.out().contains("differences left"), "{}", world.out());
    let url = line.split_whitespace().find(|word| word.starts_with("http://")).expect("where").trim_end_matches(';');
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(LONG).build().expect("a client");
    let received = async || {
        let text = http.get(format!("{url}/metrics")).send().await.expect("an answer").text().await.expect("text");
        let lines = text.lines().filter(|line| line.starts_with("trueup_usage_consumed_total"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    let before = received().await;
    let lives = async {
        while received().await <= before {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LONG, lives).await.expect("somebody uses what they have");
    world.signal("TERM");
    assert_eq!(world.end(LONG).await.code(), Some(0), "{}", world.err());
}

#[tokio::test]
async fn a_record_that_is_sent_again_ends_in_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let words = "simulate --json --customers 8 --days 40 --seed 6 --duplicate 20% --reorder 20% --no-key";
    let mut arguments: Vec<&str> = words.split_whitespace().collect();
    arguments.extend(["--record", "run.jsonl"]);
    let recorded = run(folder.path(), &[], &arguments).await;
    assert_eq!(recorded.code, Some(0), "{}", recorded.err);
    let again = run(folder.path(), &[], &["simulate", "--json", "--replay", "run.jsonl"]).await;
    assert_eq!(again.code, Some(0), "{}\n{}", again.out, again.err);
    let (first, second) = (report(&recorded), report(&again));
    assert_eq!(first["attempts"], second["deliveries"]);
    assert_eq!(second["differences"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn a_server_that_runs_already_is_taken_as_it_is_configured() {
    let database = TestDb::empty(Kind::Sqlite).await;
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::start(folder.path(), &[("DATABASE_URL", database.url())], &[]);
    let url = server.url().await;
    let words = "simulate --json --customers 5 --days 30 --seed 7 --no-repair";
    let mut arguments: Vec<&str> = words.split_whitespace().collect();
    arguments.extend(["--against", &url]);
    let ran = run(folder.path(), &[], &arguments).await;
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.out, ran.err);
    assert_eq!(report(&ran)["differences"], Value::Array(Vec::new()));
    server.stop().await;
    let wrong = run(folder.path(), &[("TRUEUP_DATA", "elsewhere")], &arguments).await;
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.err.contains("no development secrets in elsewhere"), "{}", wrong.err);
}

#[tokio::test]
async fn the_demo_lives_until_it_is_told_to_stop_and_says_where_to_look() {
    let folder = tempfile::tempdir().expect("a folder");
    let words = "demo --listen 127.0.0.1:0 --customers 5 --days 20 --pace 1 --seed 3 --data kept";
    let arguments: Vec<&str> = words.split_whitespace().collect();
    let demo = Running::start(folder.path(), &[], &arguments);
    let line = demo.line_with("documentation").await;
    assert!(line.contains("http://127.0.0.1:"), "{line}");
    assert!(demo.out().contains(" 0 differences"), "{}", demo.out());
    assert!(!demo.out().contains("_sim_"), "secrets are for terminals: {}", demo.out());
    demo.signal("TERM");
    assert_eq!(demo.end(LONG.min(Duration::from_secs(30))).await.code(), Some(0), "{}", demo.err());
    assert!(folder.path().join("kept/trueup.db").is_file());
}

#[tokio::test]
async fn a_share_that_is_none_is_refused_with_what_would_be_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let ran = run(folder.path(), &[], &["simulate", "--drop", "5"]).await;
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("write one like 5%"), "{}", ran.err);
    let ran = run(folder.path(), &[], &["simulate", "--api-version", "latest"]).await;
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("2025-03-31.basil"), "{}", ran.err);
}
