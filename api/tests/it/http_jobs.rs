//! What operators are answered about jobs.

use std::{sync::Arc, time::Duration};

use billing::processor::{Processor, ProcessorOptions};
use scheduler::{Engine, EngineOptions, JobSettings, Registry, Tools, jobs};
use serde_json::{Value, json};
use testkit::{TestDb, on_each};

use crate::http_server::Server;

const JOBS: &str = "/api/v1/admin/jobs";
const JOB: &str = "retry_pending_webhooks";

/// A server with a scheduler in it, whose jobs run when they are asked to only.
async fn with_scheduler(database: TestDb) -> (Server, Engine) {
    let idle =
        |spec: &_| JobSettings { schedule: "0 0 0 29 2 *".parse().expect("a schedule"), ..JobSettings::of(spec) };
    let registry = Registry::new(jobs::all(), idle);
    let mut server = Server::with(database, |app| app.jobs = registry.clone()).await;
    let app = &server.app;
    let options = ProcessorOptions::default();
    let processor = Processor::new(app.db.clone(), Arc::clone(&app.catalog), Arc::clone(&app.policy), options, None);
    let tools = Tools {
        nudge: Arc::clone(&app.nudge),
        ..Tools::new(Arc::clone(&app.catalog), Arc::clone(&app.policy), processor)
    };
    let options = EngineOptions { runner: "here".to_owned(), ..EngineOptions::default() };
    let engine = Engine::start(app.db.clone(), registry, tools, options, Arc::new(|_| {})).await.expect("it starts");
    server.restart(|app| app.scheduler = Some(engine.handle()));
    (server, engine)
}

async fn job(server: &Server) -> Value {
    let list = server.operator_get(JOBS).await.assert_ok();
    assert_eq!(list["next_cursor"], Value::Null);
    let items = list["items"].as_array().expect("items");
    items.iter().find(|job| job["name"] == JOB).expect("the job").clone()
}

async fn runs(server: &Server) -> Vec<Value> {
    let page = server.operator_get(&format!("{JOBS}/{JOB}/runs")).await.assert_ok();
    page["items"].as_array().expect("items").clone()
}

/// Waits until the newest run is over.
async fn over(server: &Server) -> Value {
    for _ in 0..2000 {
        let run = runs(server).await.swap_remove(0);
        if run["outcome"] != Value::Null {
            return run;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the run never ended");
}

#[test]
fn a_job_is_run_now_and_its_history_tells_what_came_of_it() {
    on_each(|database| async {
        let (server, engine) = with_scheduler(database).await;
        let before = job(&server).await;
        let next = before["next_run"].as_str().expect("a moment");
        assert!(next.contains("-02-29T00:00:00Z"), "{before}");
        assert_eq!(
            before,
            json!({
                "name": JOB, "about": before["about"], "schedule": "0 0 0 29 2 *", "enabled": true, "paused": false,
                "paused_at": null, "running": false, "next_run": next, "last_run": null, "missed": "once",
                "timeout_seconds": 300.0,
            })
        );
        let begun = server.operator_post(&format!("{JOBS}/{JOB}/run"), "").await;
        assert_eq!(begun.status.as_u16(), 202, "{}", begun.text);
        let begun: Value = serde_json::from_str(&begun.text).expect("JSON");
        assert_eq!(
            (&begun["outcome"], &begun["finished_at"], &begun["trigger"]),
            (&Value::Null, &Value::Null, &json!("manual"))
        );
        let run = over(&server).await;
        let report = json!({
            "released": 0, "rescued": 0, "recovered": 0, "parked": 0, "retried": 0, "failed": 0, "skipped": 0,
            "refetched": null,
        });
        assert_eq!(
            run,
            json!({
                "id": begun["id"], "job": JOB, "slot": begun["slot"], "attempt": 1, "trigger": "manual",
                "started_at": begun["started_at"], "finished_at": run["finished_at"], "outcome": "succeeded",
                "report": report, "error": null, "runner": "here",
            })
        );
        assert!(run["finished_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{run}");
        assert_eq!(job(&server).await["last_run"], run);
        engine.stop().await;
        server.operator_post(&format!("{JOBS}/{JOB}/run"), "").await.assert_problem(503, "stopping");
    });
}

#[test]
fn a_job_that_runs_is_told_so_and_not_run_beside_itself() {
    on_each(|database| async {
        let (server, engine) = with_scheduler(database).await;
        server.operator_post(&format!("{JOBS}/{JOB}/run"), "").await;
        over(&server).await;
        let until = if server.is_postgres() {
            "now() + interval '1 minute'"
        } else {
            "strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '60 seconds')"
        };
        server.sql(&format!("UPDATE job_leases SET holder = 'there', expires_at = {until}")).await;
        assert_eq!(job(&server).await["running"], true);
        server.operator_post(&format!("{JOBS}/{JOB}/run"), "").await.assert_problem(409, "job-running");
        assert_eq!(runs(&server).await.len(), 1);
        engine.stop().await;
    });
}

#[test]
fn a_job_is_paused_and_resumed_and_says_so() {
    on_each(|database| async {
        let server = Server::new(database).await;
        assert_eq!(job(&server).await["schedule"], "0 * * * * *");
        for _ in 0..2 {
            let paused = server.operator_post(&format!("{JOBS}/{JOB}/pause"), "").await.assert_ok();
            assert_eq!((&paused["paused"], &paused["next_run"]), (&json!(true), &Value::Null));
            assert!(paused["paused_at"].is_string());
        }
        assert_eq!(job(&server).await["paused"], true);
        let resumed = server.operator_post(&format!("{JOBS}/{JOB}/resume"), "").await.assert_ok();
        assert_eq!((&resumed["paused"], &resumed["paused_at"]), (&json!(false), &Value::Null));
        assert!(resumed["next_run"].is_string());
        server.operator_post(&format!("{JOBS}/{JOB}/run"), "").await.assert_problem(409, "scheduler-off");
    });
}

#[test]
fn what_is_no_job_or_no_page_is_refused() {
    on_each(|database| async {
        let server = Server::new(database).await;
        for path in ["run", "pause", "resume"] {
            let told = server.operator_post(&format!("{JOBS}/rest/{path}"), "").await;
            assert!(told.text.contains(JOB), "what there is: {}", told.text);
            told.assert_problem(404, "job-unknown");
        }
        server.operator_get(&format!("{JOBS}/rest/runs")).await.assert_problem(404, "job-unknown");
        for query in ["limit=0", "limit=101", "cursor=x"] {
            server.operator_get(&format!("{JOBS}/{JOB}/runs?{query}")).await.assert_problem(400, "bad-request");
        }
        server.get(JOBS).await.assert_problem(401, "unauthorized");
        assert_eq!(runs(&server).await.len(), 0);
    });
}

#[test]
fn history_comes_in_pages_over_http() {
    on_each(|database| async {
        let server = Server::new(database).await;
        for n in 0..5 {
            let slot = format!("2026-11-24{}10:00:0{n}+00:00", if server.is_postgres() { ' ' } else { 'T' });
            server
                .sql(&format!(
                    "INSERT INTO job_runs (job, slot, token, outcome) VALUES ('{JOB}', '{slot}', {n}, 'failed')"
                ))
                .await;
        }
        let (mut slots, mut query) = (Vec::new(), String::new());
        for size in [2, 2, 1] {
            let page = server.operator_get(&format!("{JOBS}/{JOB}/runs?limit=2{query}")).await.assert_ok();
            let items = page["items"].as_array().expect("items");
            assert_eq!(items.len(), size);
            slots.extend(items.iter().map(|run| run["slot"].as_str().expect("a moment").to_owned()));
            query = page["next_cursor"].as_str().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        }
        let expected: Vec<_> = (0..5).rev().map(|n| format!("2026-11-24T10:00:0{n}Z")).collect();
        assert_eq!((slots, query.as_str()), (expected, ""));
    });
}

#[test]
fn readiness_tells_of_the_scheduler() {
    on_each(|database| async {
        let (server, engine) = with_scheduler(database).await;
        assert_eq!(server.get("/readyz").await.assert_ok()["scheduler"], json!({"state": "ok", "detail": null}));
        engine.stop().await;
    });
}
