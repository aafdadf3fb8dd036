//! Attempts, poison, leases, crashes: what happens when applying fails.

use std::{sync::Arc, time::Duration};

use billing::{
    inbox::{IntakeRules, records},
    policy::Policy,
    processor::{Outcome, ProcessorOptions},
    samples::ApiVersion,
};
use chrono::{TimeDelta, Utc};
use entity::{enums::ProcessingStatus, ids::EventId};
use serde_json::Value;
use testkit::{Kind, on_each};
use tokio_util::sync::CancellationToken;

use crate::{
    desk::{Desk, outcomes, user_id},
    semantics::{subscription, told},
};

/// Makes the database refuse the subscription `sub_poison`.
async fn poison(desk: &Desk) {
    let statements: &[&str] = match desk.kind() {
        Kind::Postgres => &[
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.id = 'sub_poison' THEN RAISE EXCEPTION 'poison in sub_poison'; END IF; RETURN NEW; END $$",
            "CREATE TRIGGER refuse BEFORE INSERT ON subscriptions FOR EACH ROW EXECUTE FUNCTION refuse()",
        ],
        Kind::Sqlite => &["CREATE TRIGGER refuse BEFORE INSERT ON subscriptions WHEN NEW.id = 'sub_poison'
            BEGIN SELECT RAISE(ABORT, 'poison in sub_poison'); END"],
    };
    for statement in statements {
        desk.sql(statement).await;
    }
}

async fn cure(desk: &Desk) {
    desk.sql(match desk.kind() {
        Kind::Postgres => "DROP TRIGGER refuse ON subscriptions",
        Kind::Sqlite => "DROP TRIGGER refuse",
    })
    .await;
}

fn of(number: usize, id: &str) -> Value {
    let mut sub = subscription(user_id(1), "pro", "active");
    sub.id = id.to_owned();
    told(&format!("evt_{number:03}"), "customer.subscription.updated", 100, sub.render(ApiVersion::LATEST))
}

async fn age(desk: &Desk, seconds: i64) {
    let sql = match desk.kind() {
        Kind::Postgres => {
            format!("UPDATE stripe_webhooks SET claimed_until = claimed_until - interval '{seconds} seconds'")
        }
        Kind::Sqlite => format!(
            "UPDATE stripe_webhooks SET claimed_until = strftime('%Y-%m-%dT%H:%M:%f+00:00', claimed_until, '-{seconds} seconds')"
        ),
    };
    desk.sql(&sql).await;
}

#[test]
fn a_poisoned_event_fails_alone_and_holds_up_none_of_its_neighbours() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        poison(&desk).await;
        for number in 0..40 {
            let id = if number == 17 { "sub_poison".to_owned() } else { format!("sub_{number}") };
            desk.deliver(&of(number, &id)).await;
        }
        let pass = desk.work().await;
        assert_eq!((outcomes(&pass, Outcome::Applied), outcomes(&pass, Outcome::Retried)), (39, 1));
        let row = desk.event("evt_017").await;
        assert_eq!((row.processing_status, row.processing_attempts), (ProcessingStatus::Pending, 1));
        assert_eq!(desk.event("evt_018").await.processing_attempts, 1);
        let pause = row.next_attempt_at - Utc::now();
        assert!(
            pause > TimeDelta::seconds(5) && pause <= TimeDelta::seconds(12),
            "10 s, give or take a fifth: {pause}"
        );
        cure(&desk).await;
        desk.wait_out().await;
        assert_eq!(outcomes(&desk.work().await, Outcome::Applied), 1);
        let row = desk.event("evt_017").await;
        assert_eq!((row.processing_status, row.processing_attempts), (ProcessingStatus::Completed, 2));
        assert_eq!(row.processing_error, None);
        assert_eq!(row.processing_error_details.expect("the history stays")["history"][0]["attempt"], 1);
        desk.close().await;
    });
}

#[test]
fn five_attempts_with_growing_pauses_then_failed_with_chain_history_and_fingerprint() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        poison(&desk).await;
        desk.deliver(&of(1, "sub_poison")).await;
        let mut pauses = Vec::new();
        for attempt in 1..=5 {
            let pass = desk.work().await;
            assert_eq!(pass.events(), 1);
            let row = desk.event("evt_001").await;
            assert_eq!(row.processing_attempts, attempt);
            if attempt < 5 {
                pauses.push((row.next_attempt_at - row.updated_at).num_seconds());
                assert_eq!(desk.work().await.events(), 0, "not due before its pause is over");
                desk.wait_out().await;
            }
        }
        for (pause, expected) in pauses.iter().zip([10, 60, 600, 3600]) {
            assert!((expected * 8 / 10 - 1..=expected * 12 / 10 + 1).contains(pause), "{pause} for {expected}");
        }
        let row = desk.event("evt_001").await;
        assert_eq!((row.processing_status, row.processed), (ProcessingStatus::Failed, false));
        let details = row.processing_error_details.expect("details");
        assert_eq!(details["kind"], "database");
        assert_eq!(details["history"].as_array().map(Vec::len), Some(5));
        let chain = details["chain"].to_string();
        assert!(chain.contains("poison in sub_poison"), "{chain}");
        let groups = records::failures(&desk.db, 10).await.expect("an answer");
        assert_eq!((groups.len(), groups[0].events), (1, 1));
        assert_eq!(groups[0].fingerprint, row.error_fingerprint);

        // A person mends the cause and tries again: all attempts are before it.
        cure(&desk).await;
        let id = EventId::parse("evt_001").expect("an id");
        records::retry(&desk.db, &id, &IntakeRules::default()).await.expect("it can be tried again");
        assert_eq!(outcomes(&desk.work().await, Outcome::Applied), 1);
        desk.close().await;
    });
}

#[test]
fn applying_a_completed_event_again_ends_as_it_did_and_writes_no_second_entry() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        desk.apply(&[of(1, "sub_1")]).await;
        let before = (desk.user(user).await, desk.timeline(user).await.len());
        let id = EventId::parse("evt_001").expect("an id");
        records::retry(&desk.db, &id, &IntakeRules::default()).await.expect("it can be applied again");
        desk.work().await;
        assert_eq!((desk.user(user).await, desk.timeline(user).await.len()), before);
        desk.close().await;
    });
}

#[test]
fn a_row_that_sql_put_there_unverified_is_never_applied() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        let payload = of(1, "sub_1").to_string().replace('\'', "''");
        desk.sql(&format!(
            "INSERT INTO stripe_webhooks (event_id, event_type, payload)
             VALUES ('evt_001', 'customer.subscription.updated', '{payload}')"
        ))
        .await;
        assert_eq!(desk.work().await.events(), 0);
        let id = EventId::parse("evt_001").expect("an id");
        let refused = records::retry(&desk.db, &id, &IntakeRules::default()).await.expect_err("nobody vouches for it");
        assert!(matches!(refused, records::RetryError::Unverified(_)));
        assert_eq!(desk.standing(user_id(1)).await, "free active no access");
        desk.close_with(1, 0).await;
    });
}

/// A claim by a process that died.
async fn die_with_a_claim(desk: &Desk) {
    desk.sql(match desk.kind() {
        Kind::Postgres => "UPDATE stripe_webhooks SET processing_status = 'processing', claimed_by = 'the late one',
            claim_token = gen_random_uuid(), claimed_until = now() + interval '10 seconds' WHERE processing_status = 'pending'",
        Kind::Sqlite => "UPDATE stripe_webhooks SET processing_status = 'processing', claimed_by = 'the late one',
            claim_token = randomblob(16), claimed_until = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '+10 seconds')
            WHERE processing_status = 'pending'",
    })
    .await;
}

#[test]
fn a_claim_whose_holder_died_is_taken_over_when_its_lease_runs_out_and_not_before() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        desk.deliver(&of(1, "sub_1")).await;
        die_with_a_claim(&desk).await;
        assert_eq!(desk.work().await.events(), 0);
        age(&desk, 11).await;
        let pass = desk.work().await;
        assert_eq!((pass.rescued, outcomes(&pass, Outcome::Applied)), (1, 1));
        let row = desk.event("evt_001").await;
        assert_eq!((row.crashes, row.processing_attempts), (1, 1), "a crash is no failed attempt");
        desk.close().await;
    });
}

#[test]
fn a_starting_instance_takes_back_its_own_claims_at_once_and_nobody_elses() {
    on_each(|test_db| async {
        let options = ProcessorOptions { holder: "the late one".into(), ..ProcessorOptions::default() };
        let desk = Desk::with(test_db, Policy::default(), options).await;
        desk.put(user_id(1), "a@example.com").await;
        desk.deliver(&of(1, "sub_1")).await;
        die_with_a_claim(&desk).await;
        desk.deliver(&of(2, "sub_2")).await;
        die_with_a_claim(&desk).await;
        desk.sql("UPDATE stripe_webhooks SET claimed_by = 'another' WHERE event_id = 'evt_002'").await;
        assert_eq!(desk.processor.release_own().await.expect("an answer"), 1);
        assert_eq!(outcomes(&desk.work().await, Outcome::Applied), 1);
        assert_eq!(desk.event("evt_002").await.processing_status, ProcessingStatus::Processing);
        age(&desk, 11).await;
        desk.work().await;
        desk.close().await;
    });
}

#[test]
fn an_event_under_which_processes_die_runs_alone_and_is_given_up_after_twenty() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        for number in 1..=3 {
            desk.deliver(&of(number, &format!("sub_{number}"))).await;
        }
        desk.sql("UPDATE stripe_webhooks SET crashes = 2 WHERE event_id = 'evt_002'").await;
        let pass = desk.work().await;
        let mut sizes: Vec<usize> = pass.batches.iter().map(|(events, _)| *events).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 2]);

        desk.deliver(&of(4, "sub_4")).await;
        desk.sql("UPDATE stripe_webhooks SET crashes = 19 WHERE event_id = 'evt_004'").await;
        die_with_a_claim(&desk).await;
        age(&desk, 11).await;
        desk.work().await;
        let row = desk.event("evt_004").await;
        assert_eq!((row.processing_status, row.crashes), (ProcessingStatus::Failed, 20));
        assert!(row.processing_error.expect("a reason").contains("died 20 times"));
        desk.close_with(0, 1).await;
    });
}

#[test]
fn stopping_gives_back_what_was_claimed_and_counts_nothing() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        desk.deliver(&of(1, "sub_1")).await;
        let stop = CancellationToken::new();
        stop.cancel();
        desk.processor.run_once(&stop).await.expect("an answer");
        let row = desk.event("evt_001").await;
        assert_eq!((row.processing_status, row.processing_attempts), (ProcessingStatus::Pending, 0));
        desk.work().await;
        desk.close().await;
    });
}

#[test]
fn surroundings_that_fail_count_no_attempt() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        // The disk is full (PostgreSQL); a table is away (SQLite, which keeps no trigger that tells of its disk).
        let (break_it, mend_it): (&[&str], &str) = match desk.kind() {
            Kind::Postgres => (
                &[
                    "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                        RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$",
                    "CREATE TRIGGER full_disk BEFORE INSERT ON subscriptions FOR EACH ROW EXECUTE FUNCTION full_disk()",
                ],
                "DROP TRIGGER full_disk ON subscriptions",
            ),
            Kind::Sqlite => (&["ALTER TABLE subscriptions RENAME TO away"], "ALTER TABLE away RENAME TO subscriptions"),
        };
        for statement in break_it {
            desk.sql(statement).await;
        }
        desk.deliver(&of(1, "sub_1")).await;
        let pass = desk.work().await;
        assert!(pass.disturbed && pass.events() == 0);
        let row = desk.event("evt_001").await;
        assert_eq!((row.processing_status, row.processing_attempts, row.crashes), (ProcessingStatus::Pending, 0, 0));
        desk.sql(mend_it).await;
        assert_eq!(outcomes(&desk.work().await, Outcome::Applied), 1);
        desk.close().await;
    });
}

#[test]
fn a_nudge_wakes_the_processor_at_once() {
    on_each(|test_db| async {
        // Polling alone would take a minute.
        let options = ProcessorOptions { poll: Duration::from_mins(1), ..ProcessorOptions::default() };
        let desk = Desk::with(test_db, Policy::default(), options).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let stop = CancellationToken::new();
        let (told_tx, mut told_rx) = tokio::sync::mpsc::unbounded_channel();
        let observer: billing::processor::Observer = Arc::new(move |pass| {
            let _ = told_tx.send(pass.events());
        });
        let running =
            tokio::spawn(desk.processor.clone().run(Arc::clone(&desk.nudge), stop.clone(), observer, Arc::default()));
        desk.deliver(&of(1, "sub_1")).await;
        let told = tokio::time::timeout(Duration::from_secs(20), told_rx.recv()).await.expect("woken, not polled");
        assert_eq!(told, Some(1));
        assert_eq!(desk.standing(user).await, "pro active access");
        stop.cancel();
        running.await.expect("it ends in order");
        desk.close().await;
    });
}

#[test]
fn two_processors_on_one_database_share_the_work_and_apply_nothing_twice() {
    on_each(|test_db| async {
        let options = ProcessorOptions { batch_events: 7, ..ProcessorOptions::default() };
        let desk = Desk::with(test_db, Policy::default(), options).await;
        let users: Vec<_> = (1..=10).map(user_id).collect();
        for (n, user) in users.iter().enumerate() {
            desk.put(*user, &format!("u{n}@example.com")).await;
        }
        for number in 0..200_usize {
            let user = users[number % users.len()];
            let mut sub = subscription(user, ["starter", "pro", "elite"][number / 10 % 3], "active");
            sub.id = format!("sub_{user}");
            sub.customer = format!("cus_{user}");
            let seconds_ago = 1000 - i64::try_from(number).expect("small");
            desk.deliver(&told(
                &format!("evt_{number:03}"),
                "customer.subscription.updated",
                seconds_ago,
                sub.render(ApiVersion::LATEST),
            ))
            .await;
        }
        let stop = CancellationToken::new();
        let other = desk.processor.clone();
        loop {
            let (one, two) = tokio::join!(desk.processor.run_once(&stop), other.run_once(&stop));
            one.expect("an answer");
            two.expect("an answer");
            if desk.count(ProcessingStatus::Completed).await == 200 {
                break;
            }
        }
        for user in &users {
            assert_eq!(desk.standing(*user).await, "pro active access");
            // Whoever applied what, each entry begins where the one before it ended.
            let timeline = desk.timeline(*user).await;
            assert!(timeline.windows(2).all(|pair| pair[0].after == pair[1].before), "{timeline:#?}");
        }
        desk.close().await;
    });
}
