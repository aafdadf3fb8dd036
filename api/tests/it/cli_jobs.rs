//! `trueup jobs …`, and jobs that run in servers.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::{collections::BTreeMap, fs, path::Path};

use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use testkit::{TestDb, kinds};
use tokio::time::{Duration, Instant};

use crate::process_harness::{LONG, Ran, Running, run};

const JOB: &str = "retry_pending_webhooks";

fn parsed(ran: &Ran) -> Value {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.out).unwrap()
}

async fn sql(database: &TestDb, sql: &str) {
    let connection = database.connect().await;
    connection.execute_unprepared(sql).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_job_is_run_shown_paused_and_resumed_without_a_server() {
    for kind in kinds() {
        let database = TestDb::migrated(kind).await;
        let folder = tempfile::tempdir().unwrap();
        let variables = [("DATABASE_URL", database.url())];
        let jobs = async |arguments: &[&str]| {
            let arguments: Vec<&str> = ["jobs"].iter().chain(arguments).copied().collect();
            run(folder.path(), &variables, &arguments).await
        };
        let shown = jobs(&["list"]).await;
        assert!(shown.out.lines().any(|line| line.starts_with(JOB) && line.contains("waiting")), "{shown:?}");
        assert!(jobs(&["history", JOB]).await.out.contains("no runs"));

        let ran = jobs(&["run", JOB]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.out.starts_with(&format!("{JOB}: succeeded after ")), "{ran:?}");
        assert!(ran.out.contains("  recovered  0"), "it ends with the report: {ran:?}");
        let ran = parsed(&jobs(&["run", JOB, "--json"]).await);
        assert_eq!(
            (&ran["outcome"], &ran["trigger"], &ran["report"]["failed"]),
            (&json!("succeeded"), &json!("manual"), &json!(0))
        );
        let page = parsed(&jobs(&["history", JOB, "--limit", "1", "--json"]).await);
        assert_eq!(page["items"], json!([ran]));
        let cursor = page["next_cursor"].as_str().unwrap();
        let rest = parsed(&jobs(&["history", JOB, "--json", "--cursor", cursor]).await);
        assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next_cursor"]), (1, &Value::Null));

        assert!(jobs(&["pause", JOB]).await.out.contains("is paused"));
        assert!(jobs(&["list"]).await.out.contains("paused"));
        assert_eq!(jobs(&["run", JOB]).await.code, Some(0), "paused or not");
        assert!(jobs(&["resume", JOB]).await.out.contains("goes on; its next run: 2"));
        let listed = parsed(&jobs(&["list", "--json"]).await);
        let job = &listed["items"][0];
        assert_eq!((&job["name"], &job["paused"], &job["running"]), (&json!(JOB), &json!(false), &json!(false)));

        // What it works on is away.
        sql(&database, "ALTER TABLE stripe_webhooks RENAME TO away").await;
        let failed = jobs(&["run", JOB]).await;
        assert_eq!(failed.code, Some(1), "{failed:?}");
        assert!(failed.out.starts_with(&format!("{JOB}: failed after ")), "{failed:?}");
        sql(&database, "ALTER TABLE away RENAME TO stripe_webhooks").await;
        sql(&database, "UPDATE job_leases SET holder = 'there', expires_at = '2999-01-01 00:00:00+00:00'").await;
        assert_eq!(jobs(&["run", JOB]).await.code, Some(0), "no lease holds for a thousand years");
    }
}

#[tokio::test]
async fn a_job_nobody_knows_is_told_with_the_one_that_was_probably_meant() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["run", "history", "pause", "resume"] {
        let ran = run(folder.path(), &[], &["jobs", command, "retry_pending_webhook"]).await;
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains("did you mean `retry_pending_webhooks`?"), "{ran:?}");
    }
    let ran = run(folder.path(), &[], &["jobs", "list"]).await;
    assert!(ran.err.contains("there is no database data/trueup.db yet"), "{ran:?}");
}

/// Of each slot that was not a person's, how its attempts ended; of the newest 200 runs.
async fn slots(folder: &Path, variables: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
    let page = parsed(&run(folder, variables, &["jobs", "history", JOB, "--limit", "200", "--json"]).await);
    let mut slots: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for run in page["items"].as_array().unwrap() {
        let outcome = run["outcome"].as_str().unwrap_or("running").to_owned();
        slots.entry(run["slot"].as_str().unwrap().to_owned()).or_default().push(outcome);
    }
    slots
}

async fn until_slots(folder: &Path, variables: &[(&str, &str)], count: usize) {
    let deadline = Instant::now() + LONG;
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    loop {
        looks.tick().await;
        let slots = slots(folder, variables).await;
        let succeeded = slots.values().filter(|outcomes| outcomes[0] == "succeeded").count();
        if succeeded >= count {
            return;
        }
        assert!(Instant::now() < deadline, "never {count}: {slots:?}");
    }
}

#[tokio::test]
async fn two_servers_on_one_database_run_each_slot_once_though_one_is_killed() {
    for kind in kinds() {
        let database = TestDb::empty(kind).await;
        let folder = tempfile::tempdir().unwrap();
        let file = format!("[jobs.{JOB}]\nschedule = \"* * * * * *\"\nmissed = \"all\"\n");
        fs::write(folder.path().join("trueup.toml"), file).unwrap();
        let variables = [("DATABASE_URL", database.url())];
        let one = Running::start(folder.path(), &variables, &[]);
        one.url().await;
        let two = Running::start(folder.path(), &variables, &[]);
        two.url().await;
        until_slots(folder.path(), &variables, 3).await;
        one.signal("KILL");
        one.end(LONG).await;
        until_slots(folder.path(), &variables, 7).await;
        two.stop().await;
        let slots = slots(folder.path(), &variables).await;
        let seconds: Vec<i64> =
            slots.keys().map(|slot| chrono::DateTime::parse_from_rfc3339(slot).unwrap().timestamp()).collect();
        assert!(seconds.windows(2).all(|pair| pair[1] - pair[0] == 1), "none is left out: {slots:?}");
        for outcomes in slots.values() {
            // Newest attempt first; killed in the middle of one, the server leaves it to the other.
            let (last, earlier) = outcomes.split_first().unwrap();
            assert!(last == "succeeded" && earlier.iter().all(|outcome| outcome == "interrupted"), "{slots:?}");
        }
    }
}

#[tokio::test]
async fn a_server_without_a_scheduler_runs_no_job_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("[jobs.{JOB}]\nschedule = \"* * * * * *\"\n");
    fs::write(folder.path().join("trueup.toml"), file).unwrap();
    let server = Running::start(folder.path(), &[], &["serve", "--no-scheduler"]);
    let url = server.url().await;
    let ready: Value = reqwest_get(&url, "/readyz", folder.path()).await;
    assert_eq!(ready["scheduler"], json!({"state": "ok", "detail": "this process runs none"}));
    assert!(slots(folder.path(), &[]).await.is_empty());
    // Another process may.
    assert_eq!(run(folder.path(), &[], &["jobs", "run", JOB]).await.code, Some(0));
    server.stop().await;
}

async fn reqwest_get(url: &str, path: &str, folder: &Path) -> Value {
    let caller = crate::process_harness::Caller::new(url, &folder.join("data"));
    caller.http.get(format!("{url}{path}")).send().await.unwrap().json().await.unwrap()
}
