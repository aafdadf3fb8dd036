//! What a person asks of jobs: pause, resume, run now, lists and history.

use std::sync::atomic::Ordering;

use billing::progress::Progress;
use chrono::TimeDelta;
use entity::enums::{RunOutcome, RunTrigger};
use scheduler::{
    Missed, RunNowError,
    control::{self, ControlError},
    history, run_here,
};
use testkit::on_each;
use tokio_util::sync::CancellationToken;

use crate::workshop::{EVERY_SECOND, RARELY, Workshop, counting, patient, tools};

#[test]
fn a_paused_job_rests_on_every_process_and_what_passed_is_not_missed_when_it_goes_on() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let (made, count) = counting(EVERY_SECOND, Missed::All);
        let registry = made.registry();
        // Before any process has seen it.
        control::pause(&workshop.db, &registry, "made_up").await.expect("it can be paused");
        control::pause(&workshop.db, &registry, "made_up").await.expect("twice is once");
        let engine = workshop.start(registry.clone()).await;
        workshop.looks(8).await;
        assert_eq!(count.load(Ordering::SeqCst), 0);
        let state = control::show(&workshop.db, &registry, "made_up").await.expect("it is there");
        assert!(state.paused_at.is_some() && state.next_run.is_none() && !state.running, "{state:?}");

        let run = engine.handle().run_now("made_up").await.expect("a person can run it all the same");
        assert_eq!((run.trigger, run.outcome), (RunTrigger::Manual, None));
        workshop.finished(1).await;

        control::resume(&workshop.db, &registry, "made_up").await.expect("it can be resumed");
        engine.handle().ring("made_up");
        let resumed = workshop.settings().await.resumed_at.expect("it was resumed");
        let runs = workshop.finished(3).await;
        engine.stop().await;
        let scheduled: Vec<_> = runs.iter().filter(|run| run.trigger != RunTrigger::Manual).collect();
        assert!(scheduled.iter().all(|run| run.slot > resumed), "{runs:#?}");
        assert!(scheduled[0].slot - resumed <= TimeDelta::seconds(1), "the very next one: {runs:#?}");
        let state = control::show(&workshop.db, &registry, "made_up").await.expect("it is there");
        assert!(state.paused_at.is_none() && state.next_run.is_some(), "{state:?}");
    });
}

#[test]
fn a_job_that_runs_cannot_be_run_beside_itself_by_whatever_process() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let made = patient(RARELY, Missed::Once);
        let registry = made.registry();
        let one = workshop.start_as("one", registry.clone()).await;
        let two = workshop.start_as("two", registry.clone()).await;
        one.handle().run_now("made_up").await.expect("it is idle");
        for handle in [one.handle(), two.handle()] {
            let refused = handle.run_now("made_up").await.expect_err("it runs");
            assert!(matches!(refused, RunNowError::Running("made_up")), "{refused:?}");
        }
        let planned = registry.find("made_up").expect("it is there");
        let (stop, options) = (CancellationToken::new(), Workshop::options("three"));
        let here = run_here(&workshop.db, planned, tools(&workshop.db), &options, &stop, Progress::default()).await;
        assert!(matches!(here, Err(RunNowError::Running(_))), "{here:?}");
        assert!(control::show(&workshop.db, &registry, "made_up").await.expect("it is there").running);
        one.stop().await;
        two.stop().await;
        assert_eq!(workshop.outcomes().await, ["interrupted"]);
        let state = control::show(&workshop.db, &registry, "made_up").await.expect("it is there");
        assert!(!state.running);
        assert_eq!(state.last_run.expect("one run").outcome, Some(RunOutcome::Interrupted));
    });
}

#[test]
fn runs_that_a_person_asked_for_have_slots_of_their_own_and_are_nobodys_to_catch_up() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        workshop.seen(3600, RARELY).await;
        let made = patient(RARELY, Missed::All);
        let engine = workshop.start(made.registry()).await;
        engine.handle().run_now("made_up").await.expect("it is idle");
        engine.stop().await;
        let (made, count) = counting(RARELY, Missed::All);
        let engine = workshop.start(made.registry()).await;
        workshop.looks(2).await;
        for _ in 0..3 {
            engine.handle().run_now("made_up").await.expect("it is idle");
            workshop.until(|runs| runs.iter().all(|run| run.finished_at.is_some())).await;
        }
        engine.stop().await;
        assert_eq!(count.load(Ordering::SeqCst), 3, "the one cut off was not run again");
        assert_eq!(workshop.outcomes().await, ["interrupted", "succeeded", "succeeded", "succeeded"]);
    });
}

#[test]
fn after_its_end_an_engine_begins_nothing() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let (made, count) = counting(RARELY, Missed::Once);
        let engine = workshop.start(made.registry()).await;
        let handle = engine.handle();
        engine.stop().await;
        let refused = handle.run_now("made_up").await.expect_err("it has stopped");
        assert!(matches!(refused, RunNowError::Stopping), "{refused:?}");
        assert_eq!((count.load(Ordering::SeqCst), workshop.runs().await.len()), (0, 0));
    });
}

#[test]
fn history_comes_in_pages_newest_slot_first() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let (made, _) = counting(EVERY_SECOND, Missed::All);
        workshop.seen(7, EVERY_SECOND).await;
        let engine = workshop.start(made.registry()).await;
        workshop.finished(6).await;
        engine.stop().await;
        // As if every slot had been run twice.
        workshop
            .sql("INSERT INTO job_runs (job, slot, attempt, token, outcome) SELECT job, slot, 2, token, outcome FROM job_runs")
            .await;
        let all = workshop.runs().await;
        let (mut seen, mut cursor, mut pages) = (Vec::new(), None, 0);
        loop {
            let (items, next) = history::runs(&workshop.db, "made_up", 4, cursor).await.expect("the database answers");
            seen.extend(items.into_iter().map(|run| (run.slot, run.attempt)));
            pages += 1;
            cursor = next.map(|next| next.to_string().parse().expect("its own cursor"));
            if cursor.is_none() {
                break;
            }
        }
        let mut expected: Vec<_> = all.iter().map(|run| (run.slot, run.attempt)).collect();
        expected.reverse();
        assert_eq!((seen, pages), (expected, all.len().div_ceil(4)));
        assert!(history::runs(&workshop.db, "other", 4, None).await.expect("an answer").0.is_empty());
    });
}

#[test]
fn a_job_nobody_knows_is_refused_whatever_is_asked_of_it() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let (made, _) = counting(RARELY, Missed::Once);
        let registry = made.registry();
        let engine = workshop.start(registry.clone()).await;
        let refused = [
            control::pause(&workshop.db, &registry, "made_down").await.expect_err("unknown"),
            control::resume(&workshop.db, &registry, "made_down").await.expect_err("unknown"),
            control::show(&workshop.db, &registry, "made_down").await.expect_err("unknown"),
        ];
        for error in refused {
            assert!(matches!(error, ControlError::Unknown(_)), "{error:?}");
            assert_eq!(error.to_string(), "there is no job `made_down`; there are made_up");
        }
        assert!(matches!(engine.handle().run_now("made_down").await, Err(RunNowError::Unknown(_))));
        engine.stop().await;
    });
}
