//! Runs that do not end by themselves, and leases that are lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use billing::{db::is_lease_lost, progress::Progress};
use entity::enums::{RunOutcome, RunTrigger};
use scheduler::{EngineOptions, JobError, Missed, News, run_here};
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use serde_json::json;
use testkit::{Kind, on_each};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::workshop::{EVERY_SECOND, LONG, Made, RARELY, Workshop, by_slot, counting, job, patient, tools};

#[test]
fn a_job_that_panics_ends_that_run_and_nothing_else() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let times = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&times);
        let made = job(EVERY_SECOND, Missed::Once, move |_| {
            let time = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                assert!(time > 0, "secret");
                Ok(json!({}))
            }
        });
        let engine = workshop.start(made.registry()).await;
        let runs = workshop.finished(2).await;
        engine.stop().await;
        assert_eq!(runs[0].outcome, RunOutcome::Failed);
        let error = runs[0].error.as_deref().expect("a reason");
        assert!(error.starts_with("it panicked") && !error.contains("secret"), "{error}");
        assert_eq!(runs[1].outcome, RunOutcome::Succeeded);
    });
}

#[test]
fn a_run_that_outlasts_its_time_is_told_to_stop_and_tells_what_it_got_done() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let made = patient(EVERY_SECOND, Missed::Once).within(Duration::from_millis(200));
        let engine = workshop.start(made.registry()).await;
        let runs = workshop.finished(2).await;
        engine.stop().await;
        for run in &runs[..2] {
            assert_eq!((run.outcome, &run.report), (RunOutcome::TimedOut, &Some(json!({"stopped": true}))));
            assert_eq!((run.error.as_deref(), run.attempt), (Some("it was not done within 200ms"), 1));
        }
        assert!(runs[1].slot > runs[0].slot, "it is not tried again: the next slot has its turn");
    });
}

#[test]
fn a_run_that_hangs_beyond_its_stop_is_aborted_and_can_write_nothing_more() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let (tell, mut heard) = mpsc::unbounded_channel();
        let over = Arc::new(Notify::new());
        let awaited = Arc::clone(&over);
        let made = job(RARELY, Missed::Once, move |context| {
            let (tell, awaited) = (tell.clone(), Arc::clone(&awaited));
            async move {
                // Out of reach of whoever aborts the run.
                tokio::spawn(async move {
                    tell.send(context.db.write().await.err()).expect("the test listens");
                    awaited.notified().await;
                    tell.send(context.db.write().await.err()).expect("the test listens");
                });
                std::future::pending().await
            }
        });
        let made = made.within(Duration::from_millis(200));
        let engine = workshop.start_with(Workshop::short_grace(), made.registry()).await;
        engine.handle().run_now("made_up").await.expect("it is idle");
        let runs = workshop.finished(1).await;
        assert_eq!(runs[0].outcome, RunOutcome::TimedOut);
        assert_eq!(runs[0].error.as_deref(), Some("it was not done within 200ms, and did not stop when told"));
        assert_eq!(heard.recv().await.expect("a first write"), None, "while it ran it could");
        over.notify_one();
        let refused = heard.recv().await.expect("a second write").expect("it cannot write any more");
        assert!(is_lease_lost(&refused), "{refused}");
        engine.stop().await;
    });
}

#[test]
fn a_lease_lost_in_mid_run_ends_the_run_which_writes_nothing_more() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let (tell, mut heard) = mpsc::unbounded_channel();
        let (ready, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (told, awaited) = (Arc::clone(&ready), Arc::clone(&go));
        let made = job(RARELY, Missed::Once, move |context| {
            let (tell, told, awaited) = (tell.clone(), Arc::clone(&told), Arc::clone(&awaited));
            async move {
                told.notify_one();
                awaited.notified().await;
                let refused = context.db.write().await.err();
                // Told to stop, not only refused.
                let stopped = timeout(LONG / 2, context.stop.cancelled()).await.is_ok();
                tell.send((refused.clone(), stopped)).expect("the test listens");
                refused.map_or(Ok(json!({})), |error| Err(error.into()))
            }
        });
        let engine = workshop.start(made.registry()).await;
        let run = engine.handle().run_now("made_up").await.expect("it is idle");
        ready.notified().await;
        // As another process does that takes the lease over.
        let until = workshop.moment(60);
        workshop.sql(&format!("UPDATE job_leases SET holder = 'there', token = token + 1, expires_at = {until}")).await;
        go.notify_one();
        let (refused, stopped) = heard.recv().await.expect("a write");
        let refused = refused.expect("it is refused");
        assert!(is_lease_lost(&refused) && stopped, "{refused}");
        let ended = || workshop.told(|news| matches!(news, News::Ended { outcome: RunOutcome::Interrupted, .. }));
        workshop.until(|_| ended() == 1).await;
        let row = workshop.runs().await.remove(0);
        assert_eq!((row.id, row.outcome, row.finished_at), (run.id, RunOutcome::Running, None), "it wrote nothing");
        // Whoever has the lease next ends it; the one who took it over is done.
        workshop.sql("UPDATE job_leases SET holder = NULL").await;
        let runs = workshop.finished(1).await;
        assert_eq!(runs[0].outcome, RunOutcome::Interrupted);
        assert!(runs[0].error.as_deref().is_some_and(|error| error.starts_with("its process died")), "{runs:?}");
        engine.stop().await;
    });
}

#[test]
fn a_long_transaction_of_a_run_costs_it_no_lease() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let (made, ready, go) = writing(&workshop).await;
        let engine = workshop.start_with(Workshop::short_leases(), made.registry()).await;
        engine.handle().run_now("made_up").await.expect("it is idle");
        ready.notified().await;
        // On SQLite the renewal waits for this very transaction, and nobody else can take the lease over meanwhile.
        workshop.outlive_the_lease().await;
        go.add_permits(2);
        let runs = workshop.finished(1).await;
        assert_eq!(runs[0].outcome, RunOutcome::Succeeded, "{runs:?}");
        engine.stop().await;
    });
}

#[test]
fn a_take_over_waits_for_the_fenced_transaction_under_way() {
    on_each(|database| async {
        if database.kind() == Kind::Sqlite {
            return; // There whoever writes waits for whoever writes.
        }
        let workshop = Workshop::new(database).await;
        let (made, ready, go) = writing(&workshop).await;
        let registry = made.registry();
        let slow = EngineOptions { lease: LONG, ..Workshop::options("here") };
        let engine = workshop.start_with(slow, registry.clone()).await;
        engine.handle().run_now("made_up").await.expect("it is idle");
        ready.notified().await;
        // A renewal, or whatever else changes no key, does not wait for the transaction; here one that ends the lease.
        let past = workshop.moment(-1);
        workshop.sql(&format!("UPDATE job_leases SET expires_at = {past}")).await;
        let (made, _) = counting(RARELY, Missed::Once);
        let db = workshop.db.clone();
        let taking = tokio::spawn(async move {
            let registry = made.registry();
            let planned = registry.find("made_up").expect("it is there");
            let (stop, options) = (CancellationToken::new(), Workshop::options("there"));
            run_here(&db, planned, tools(&db), &options, &stop, Progress::default()).await
        });
        let waiting =
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%job_leases%FOR UPDATE%'";
        let waits = || workshop.db.reader().query_all_raw(Statement::from_string(DbBackend::Postgres, waiting));
        while waits().await.expect("the database answers").is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!taking.is_finished());
        assert_eq!(workshop.outcomes().await, ["running"], "nothing is taken over yet");
        go.add_permits(1);
        let run = taking.await.expect("no panic").expect("it is free");
        assert_eq!((run.outcome, run.runner.as_str()), (Some(RunOutcome::Succeeded), "there"));
        // Only now it wants to end.
        go.add_permits(1);
        let lost = || workshop.told(|news| matches!(news, News::Ended { .. }));
        workshop.until(|_| lost() == 1).await;
        engine.stop().await;
        // What it had begun to write before the lease was lost, it has written; its outcome came too late.
        let rows =
            workshop.db.reader().query_all_raw(Statement::from_string(DbBackend::Postgres, "SELECT n FROM effects"));
        assert_eq!(rows.await.expect("the database answers").len(), 1);
        assert_eq!(workshop.outcomes().await, ["interrupted", "succeeded"]);
    });
}

/// A job that writes into `effects`, does not commit until it is let, and does not end until it is let again.
async fn writing(workshop: &Workshop) -> (Made, Arc<Notify>, Arc<Semaphore>) {
    workshop.sql("CREATE TABLE effects (n integer)").await;
    let (ready, go) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let (told, awaited) = (Arc::clone(&ready), Arc::clone(&go));
    let made = job(RARELY, Missed::Once, move |context| {
        let (told, awaited) = (Arc::clone(&told), Arc::clone(&awaited));
        async move {
            let tx = context.db.write().await?;
            tx.execute_unprepared("INSERT INTO effects VALUES (1)").await?;
            told.notify_one();
            awaited.acquire().await.map_err(JobError::failed)?.forget();
            tx.commit().await?;
            awaited.acquire().await.map_err(JobError::failed)?.forget();
            Ok(json!({}))
        }
    });
    (made, ready, go)
}

#[test]
fn a_run_that_is_stopped_with_its_process_is_interrupted_and_run_again_by_the_next() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let first = workshop.start(patient(EVERY_SECOND, Missed::All).registry()).await;
        workshop.until(|runs| !runs.is_empty()).await;
        let stopping = tokio::time::Instant::now();
        first.stop().await;
        assert!(stopping.elapsed() < Duration::from_secs(5));
        let runs = workshop.runs().await;
        assert_eq!(workshop.outcomes().await, ["interrupted"], "{runs:#?}");
        assert_eq!(runs[0].error.as_deref(), Some("the process stopped"));
        assert_eq!(runs[0].report, Some(json!({"stopped": true})));

        let (made, _) = counting(EVERY_SECOND, Missed::All);
        let second = workshop.start_as("there", made.registry()).await;
        let runs = workshop.finished(3).await;
        second.stop().await;
        let first = (runs[1].slot, runs[1].attempt, runs[1].trigger, runs[1].outcome);
        assert_eq!(first, (runs[0].slot, 2, RunTrigger::CatchUp, RunOutcome::Succeeded), "at once: {runs:#?}");
    });
}

#[test]
fn a_process_that_stops_waits_only_so_long_for_a_run_that_does_not() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let hanging = job(RARELY, Missed::Once, |_| async { std::future::pending().await });
        let engine = workshop.start_with(Workshop::short_grace(), hanging.registry()).await;
        engine.handle().run_now("made_up").await.expect("it is idle");
        workshop.until(|runs| !runs.is_empty()).await;
        let stopping = tokio::time::Instant::now();
        engine.stop().await;
        assert!(stopping.elapsed() < Duration::from_secs(5));
        assert_eq!(workshop.outcomes().await, ["interrupted"]);
        // Its lease is given back: nobody has to wait for it.
        let (made, _) = counting(RARELY, Missed::Once);
        let planned = made.registry();
        let planned = planned.find("made_up").expect("it is there");
        let stop = CancellationToken::new();
        let options = Workshop::options("there");
        let run = run_here(&workshop.db, planned, tools(&workshop.db), &options, &stop, Progress::default()).await;
        assert_eq!(run.expect("it is idle").outcome, Some(RunOutcome::Succeeded));
    });
}

#[test]
fn slots_of_a_process_that_died_are_interrupted_and_caught_up_when_its_lease_runs_out() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        // What a process leaves behind that was killed two seconds ago in the middle of its run, a lease that holds a second more.
        workshop.seen(10, EVERY_SECOND).await;
        let (until, begun) = (workshop.moment(1), workshop.moment(-2));
        workshop.sql(&format!("UPDATE job_leases SET holder = 'dead', token = 7, expires_at = {until}")).await;
        let (made, count) = counting(EVERY_SECOND, Missed::All);
        let slot = made.registry().find("made_up").expect("it is there").settings.schedule.up_to(chrono::Utc::now());
        let slot = slot.expect("a slot") - chrono::TimeDelta::seconds(2);
        let row = entity::job_runs::ActiveModel {
            id: sea_orm::ActiveValue::Set(uuid::Uuid::now_v7()),
            job: sea_orm::ActiveValue::Set("made_up".to_owned()),
            slot: sea_orm::ActiveValue::Set(slot),
            token: sea_orm::ActiveValue::Set(7),
            ..Default::default()
        };
        sea_orm::EntityTrait::insert(row).exec_without_returning(workshop.db.reader()).await.expect("a row");
        workshop.sql(&format!("UPDATE job_runs SET started_at = {begun}")).await;

        let engine = workshop.start(made.registry()).await;
        let runs =
            workshop.until(|runs| runs.iter().filter(|run| run.outcome == RunOutcome::Succeeded).count() >= 5).await;
        engine.stop().await;
        assert_eq!(by_slot(&runs)[&slot], ["interrupted", "succeeded"], "{runs:#?}");
        let slots = by_slot(&runs[1..]);
        let (first, last) = (runs[0].slot, runs[runs.len() - 1].slot);
        assert_eq!(
            (last - first).num_seconds() + 1,
            i64::try_from(slots.len()).expect("few"),
            "none is left out: {slots:?}"
        );
        assert!(runs[1].started_at - runs[0].started_at > chrono::TimeDelta::milliseconds(2900), "the lease was kept");
        assert_eq!(count.load(Ordering::SeqCst), workshop.count(RunOutcome::Succeeded).await);
    });
}

#[test]
fn a_slot_that_kills_whoever_runs_it_is_tried_three_times_and_then_the_next_has_its_turn() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let hanging = job(EVERY_SECOND, Missed::All, |_| async { std::future::pending().await });
        for attempt in 1..=4_usize {
            let engine = workshop.start_with(Workshop::short_grace(), hanging.registry()).await;
            workshop.until(|runs| runs.len() == attempt).await;
            engine.stop().await;
        }
        let slots = by_slot(&workshop.runs().await);
        let ends: Vec<_> = slots.values().map(Vec::len).collect();
        assert_eq!(ends, [3, 1], "{slots:?}");
    });
}
