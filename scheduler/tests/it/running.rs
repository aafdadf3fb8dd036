//! Slots, bells and replicas.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use entity::enums::{RunOutcome, RunTrigger};
use scheduler::{JobSettings, Missed, News, Registry};
use serde_json::json;
use testkit::on_each;
use tokio::sync::Notify;

use crate::workshop::{EVERY_SECOND, RARELY, Workshop, by_slot, counting, job};

/// Far enough apart for a test to be done between two of them, as a rule.
const OFTEN: &str = "*/5 * * * * *";

#[test]
fn a_job_runs_at_each_of_its_slots_and_history_tells_what_it_did() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let made = job(EVERY_SECOND, Missed::Once, |context| async move {
            context.progress.add(2);
            Ok(json!({"done": context.progress.done()}))
        });
        let engine = workshop.start(made.registry()).await;
        let runs = workshop.finished(3).await;
        engine.stop().await;
        for (run, next) in runs.iter().zip(&runs[1..]) {
            assert_eq!(next.slot - run.slot, TimeDelta::seconds(1), "{runs:#?}");
        }
        for run in &runs[..3] {
            assert_eq!((run.outcome, run.attempt, run.trigger), (RunOutcome::Succeeded, 1, RunTrigger::Scheduled));
            assert_eq!(run.report, Some(json!({"done": 2})));
            assert_eq!((run.error.as_deref(), run.runner.as_str()), (None, "here"));
            let late = run.started_at - run.slot;
            assert!(late >= TimeDelta::zero() && late < TimeDelta::seconds(5), "never before its slot: {run:?}");
            assert!(run.finished_at >= Some(run.started_at));
        }
        let told =
            |outcome| workshop.told(|news| matches!(news, News::Ended { outcome: told, .. } if *told == outcome));
        assert_eq!(told(RunOutcome::Succeeded), workshop.runs().await.len());
        assert_eq!(workshop.told(|news| matches!(news, News::Missed { .. })), 0);
        assert!(
            workshop.told(|news| matches!(news, News::Looked { last_success: Some(_), next_run: Some(_), .. })) > 0
        );
    });
}

#[test]
fn two_engines_on_one_database_run_every_slot_exactly_once() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let (made, count) = counting(EVERY_SECOND, Missed::All);
        let engines =
            [workshop.start_as("one", made.registry()).await, workshop.start_as("two", made.registry()).await];
        workshop.finished(5).await;
        for engine in engines {
            engine.stop().await;
        }
        let runs = workshop.runs().await;
        assert_eq!(count.load(Ordering::SeqCst), runs.len(), "a run for each row");
        let slots = by_slot(&runs);
        assert_eq!(slots.len(), runs.len(), "a row for each slot: {runs:#?}");
        let (first, last) = (runs[0].slot, runs[runs.len() - 1].slot);
        assert_eq!((last - first).num_seconds() + 1, i64::try_from(slots.len()).expect("few"), "none is left out");
        assert!(slots.values().all(|outcomes| outcomes == &["succeeded"]), "{slots:?}");
    });
}

#[test]
fn a_new_installation_catches_nothing_up() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        for missed in [Missed::Once, Missed::All, Missed::Skip] {
            let (made, count) = counting(RARELY, missed);
            let engine = workshop.start(made.registry()).await;
            workshop.looks(2).await;
            engine.stop().await;
            assert_eq!(count.load(Ordering::SeqCst), 0, "{missed:?}");
        }
    });
}

#[test]
fn missed_slots_are_caught_up_as_each_policy_says() {
    on_each(|database| async move {
        for (missed, least, most) in [(Missed::Once, 1, 2), (Missed::All, 11, 14), (Missed::Skip, 0, 2)] {
            let workshop = Workshop::new(testkit::TestDb::migrated(database.kind()).await).await;
            workshop.seen(60, OFTEN).await;
            // What was taken up a minute ago was the last.
            let (made, count) = counting(OFTEN, missed);
            let engine = workshop.start(made.registry()).await;
            let reached =
                |runs: &[entity::job_runs::Model]| runs.iter().filter(|run| run.finished_at.is_some()).count() >= least;
            let runs = workshop.until(reached).await;
            engine.stop().await;
            let ran = count.load(Ordering::SeqCst);
            assert!((least..=most).contains(&ran), "{missed:?}: {ran} of {runs:#?}");
            let told = workshop.told(|news| matches!(news, News::Missed { slots, .. } if *slots >= 9));
            match missed {
                Missed::Once => {
                    assert_eq!(told, 1, "{:?}", workshop.news);
                }
                Missed::All => {
                    assert_eq!(told, 0);
                    assert_eq!(runs[0].trigger, RunTrigger::CatchUp);
                    let starts: Vec<_> = runs.iter().map(|run| run.started_at).collect();
                    assert!(starts.is_sorted(), "the oldest first: {runs:#?}");
                }
                Missed::Skip => assert!(runs.iter().all(|run| run.trigger == RunTrigger::Scheduled), "{runs:#?}"),
            }
        }
    });
}

#[test]
fn a_job_that_takes_longer_than_its_slots_are_apart_never_runs_beside_itself() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, highest) = (Arc::clone(&inside), Arc::clone(&most));
        let made = job(EVERY_SECOND, Missed::Once, move |_| {
            let (counted, highest) = (Arc::clone(&counted), Arc::clone(&highest));
            async move {
                highest.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2300)).await;
                counted.fetch_sub(1, Ordering::SeqCst);
                Ok(json!({}))
            }
        });
        let engines =
            [workshop.start_as("one", made.registry()).await, workshop.start_as("two", made.registry()).await];
        let runs = workshop.finished(2).await;
        for engine in engines {
            engine.stop().await;
        }
        assert_eq!(most.load(Ordering::SeqCst), 1);
        assert!(runs[1].slot - runs[0].slot > TimeDelta::seconds(1), "bells that rang meanwhile are one: {runs:#?}");
        assert!(runs[1].started_at >= runs[0].finished_at.expect("it is over"));
        assert!(workshop.told(|news| matches!(news, News::Missed { .. })) > 0);
    });
}

#[test]
fn a_job_switched_off_leaves_its_slots_alone_and_has_none_to_catch_up_when_it_is_on_again() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        workshop.seen(3600, EVERY_SECOND).await;
        let (made, count) = counting(EVERY_SECOND, Missed::All);
        let off = |spec: &_| JobSettings { enabled: false, ..JobSettings::of(spec) };
        let engine = workshop.start(Registry::new(vec![Box::new(made.clone())], off)).await;
        engine.handle().run_now("made_up").await.expect("a person can still run it");
        let runs = workshop.finished(1).await;
        engine.stop().await;
        assert_eq!((count.load(Ordering::SeqCst), runs[0].trigger), (1, RunTrigger::Manual));

        let engine = workshop.start(made.registry()).await;
        let runs = workshop.finished(2).await;
        engine.stop().await;
        let scheduled = runs.iter().find(|run| run.trigger != RunTrigger::Manual).expect("one");
        assert!(scheduled.slot > runs[0].slot, "the hour before is nobody's: {runs:#?}");
    });
}

#[test]
fn another_schedule_has_no_past() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        workshop.seen(3600, RARELY).await;
        let (made, _) = counting(EVERY_SECOND, Missed::All);
        let begun = workshop.settings().await.slots_after;
        let engine = workshop.start(made.registry()).await;
        let runs = workshop.finished(1).await;
        engine.stop().await;
        assert!(runs[0].slot - begun > TimeDelta::seconds(3590), "{runs:#?}");
        assert_eq!(workshop.settings().await.schedule, EVERY_SECOND);
    });
}

#[test]
fn what_a_clock_since_set_back_has_written_stops_no_job() {
    on_each(|database| async move {
        for column in ["slots_after", "expires_at"] {
            let workshop = Workshop::new(testkit::TestDb::migrated(database.kind()).await).await;
            workshop.seen(5, EVERY_SECOND).await;
            let ahead = workshop.moment(90 * 86_400);
            workshop
                .sql(&match column {
                    "slots_after" => format!("UPDATE job_settings SET slots_after = {ahead}"),
                    _ => format!("UPDATE job_leases SET holder = 'dead', expires_at = {ahead}"),
                })
                .await;
            let slot = workshop.moment(30 * 86_400);
            workshop
                .sql(&format!(
                    "INSERT INTO job_runs (job, slot, token, outcome, finished_at) VALUES ('made_up', {slot}, 0, 'succeeded', {slot})"
                ))
                .await;
            let (made, _) = counting(EVERY_SECOND, Missed::All);
            let engine = workshop.start(made.registry()).await;
            workshop.finished(3).await;
            engine.stop().await;
        }
    });
}

#[test]
fn jitter_takes_a_slot_up_later_but_not_much() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let (made, _) = counting(EVERY_SECOND, Missed::All);
        let jittered = |spec: &_| JobSettings { jitter: Duration::from_millis(800), ..JobSettings::of(spec) };
        let engine = workshop.start(Registry::new(vec![Box::new(made)], jittered)).await;
        let runs = workshop.finished(4).await;
        engine.stop().await;
        assert_eq!(by_slot(&runs).len(), runs.len());
        assert!(runs.iter().any(|run| run.started_at - run.slot > TimeDelta::milliseconds(40)), "{runs:#?}");
    });
}

#[test]
fn an_engine_that_cannot_reach_its_tables_goes_on_when_it_can() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        workshop.sql("ALTER TABLE job_runs RENAME TO job_runs_away").await;
        let (made, _) = counting(EVERY_SECOND, Missed::All);
        let engine = workshop.start(made.registry()).await;
        let refused = engine.handle().run_now("made_up").await.expect_err("there is no table");
        assert!(refused.to_string().starts_with("the job could not be taken up"), "{refused}");
        workshop.sql("ALTER TABLE job_runs_away RENAME TO job_runs").await;
        workshop.finished(2).await;
        assert_eq!(engine.handle().lifeless(), None);
        engine.stop().await;
    });
}

#[test]
fn a_run_whose_outcome_cannot_be_written_at_once_is_ended_as_soon_as_it_can() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let (ready, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (told, awaited) = (Arc::clone(&ready), Arc::clone(&go));
        let made = job(RARELY, Missed::Once, move |_| {
            let (told, awaited) = (Arc::clone(&told), Arc::clone(&awaited));
            async move {
                told.notify_one();
                awaited.notified().await;
                Ok(json!({"late": true}))
            }
        });
        let engine = workshop.start_with(Workshop::short_leases(), made.registry()).await;
        engine.handle().run_now("made_up").await.expect("it is idle");
        ready.notified().await;
        // The table is away, but not the lease, which goes on being renewed.
        workshop.sql("ALTER TABLE job_runs RENAME TO job_runs_away").await;
        go.notify_one();
        workshop.outlive_the_lease().await;
        workshop.sql("ALTER TABLE job_runs_away RENAME TO job_runs").await;
        let runs = workshop.finished(1).await;
        engine.stop().await;
        assert_eq!((runs[0].outcome, &runs[0].report), (RunOutcome::Succeeded, &Some(json!({"late": true}))));
    });
}
