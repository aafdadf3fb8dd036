//! What reconciling does not do, so that nobody is hurt.

use billing::{
    progress::Progress,
    reconcile::{BeginError, Options, Report, records},
    stripe::StripeError,
};
use entity::{
    enums::{DriftKind, ReconcileOutcome, Requester},
    ids::UserId,
};
use testkit::{Kind, on_each};
use tokio_util::sync::CancellationToken;

use crate::{
    desk::{NOW, user_id},
    reconcile_desk::{APPLY, DRY, ReconcileDesk, kinds, owned, shown},
    scripted::{no_permission, unavailable},
    semantics::told,
};

/// So many paying users, and at Stripe the first `over` of their subscriptions have ended.
async fn paying(r: &ReconcileDesk, all: u32, over: u32) -> Vec<UserId> {
    let mut users = Vec::new();
    let mut events = Vec::new();
    let mut subs = Vec::new();
    for number in 0..all {
        let user = user_id(u128::from(number) + 1);
        r.desk.put(user, &format!("user{number}@example.com")).await;
        users.push(user);
        let sub = owned(number, user, "active");
        events.push(told(&format!("evt_{number}"), "customer.subscription.created", 5000, shown(&sub)));
        subs.push(shown(&owned(number, user, if number < over { "canceled" } else { "active" })));
    }
    r.desk.apply(&events).await;
    r.stripe.subscriptions(subs);
    users
}

async fn with_access(r: &ReconcileDesk, users: &[UserId]) -> usize {
    let mut count = 0;
    for user in users {
        count += usize::from(r.desk.user(*user).await.projection.entitlement.access);
    }
    count
}

#[test]
fn nothing_is_applied_where_more_than_a_tenth_and_more_than_twenty_would_lose_access() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let users = paying(&r, 30, 21).await;
        let dry = r.succeeds(DRY).await;
        assert_eq!((dry.access.paid, dry.access.lose, dry.access.gain), (30, 21, 0));
        assert!(dry.notes.iter().any(|note| note.contains("would be refused")), "{:?}", dry.notes);

        let refused = r.run(APPLY).await;
        assert_eq!((refused.outcome, refused.drifted, refused.repaired), (ReconcileOutcome::Refused, 21, 0));
        let why = refused.error.as_deref().expect("a reason");
        assert!(why.contains("21 of the 30") && why.contains("--force"), "{why}");
        assert_eq!(with_access(&r, &users).await, 30, "nobody lost anything");
        assert_eq!(r.drifts(&refused).await.len(), 21, "and all of it is told");

        let forced = r.succeeds(Options { force: true, ..APPLY }).await;
        assert_eq!(forced.repaired, 21);
        assert_eq!(with_access(&r, &users).await, 9);
        r.desk.close().await;
    });
}

#[test]
fn twenty_may_lose_access_however_few_pay() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let users = paying(&r, 21, 20).await;
        assert_eq!(r.succeeds(APPLY).await.repaired, 20);
        assert_eq!(with_access(&r, &users).await, 1);
        r.desk.close().await;
    });
}

#[test]
fn users_whose_rows_were_edited_count_among_those_who_would_lose_access() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        for number in 0..25_u32 {
            r.desk.put(user_id(u128::from(number) + 1), &format!("user{number}@example.com")).await;
        }
        r.stripe.subscriptions([]);
        // Given by hand, and by no fact.
        r.desk.sql("UPDATE users SET subscription_tier = 'pro', subscription_access = true").await;
        let refused = r.run(APPLY).await;
        assert_eq!((refused.outcome, refused.access.lose), (ReconcileOutcome::Refused, 25));
        r.desk.close().await;
    });
}

#[test]
fn a_walk_that_breaks_off_concludes_nothing_and_the_next_one_sees_everything() {
    // Known from stripe/sync-engine#300: a failed run is not taken for a success.
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let users = paying(&r, 4, 2).await;
        r.stripe.page_size(1);
        r.stripe.fail("subscriptions after sub_2", unavailable());
        let failed = r.run(APPLY).await;
        assert_eq!((failed.outcome, failed.complete, failed.scanned), (ReconcileOutcome::Failed, false, 3));
        assert_eq!((kinds(&failed), failed.repaired), (vec![(DriftKind::Differs, 2)], 0), "told what was found");
        assert_eq!((failed.absence.candidates, failed.absence.unknown), (0, 0), "sub_3 is not taken for absent");
        assert!(failed.error.as_deref().is_some_and(|error| error.contains("req_1")), "{:?}", failed.error);
        assert_eq!(with_access(&r, &users).await, 4);
        assert_eq!(records::last_complete(&r.desk.db).await.expect("an answer"), None);
        r.stripe.mend();
        let report = r.succeeds(APPLY).await;
        assert_eq!((report.scanned, report.repaired), (4, 2));
        assert!(records::last_complete(&r.desk.db).await.expect("an answer").is_some());
        r.desk.close().await;
    });
}

#[test]
fn an_empty_answer_while_subscriptions_live_here_concludes_nothing() {
    // Known from stripe/sync-engine#111: after downtime everything read 0, and that was taken for an answer.
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let users = paying(&r, 3, 0).await;
        r.stripe.subscriptions([]);
        let failed = r.run(APPLY).await;
        assert_eq!((failed.outcome, failed.drifted), (ReconcileOutcome::Failed, 0));
        assert!(
            failed.error.as_deref().is_some_and(|error| error.contains("3 that are not over")),
            "{:?}",
            failed.error
        );
        assert_eq!(r.stripe.log(), ["account", "subscriptions"], "and nobody was asked for one by one");
        assert_eq!(with_access(&r, &users).await, 3);
        // All of the other mode is as good as nothing.
        let mut live = owned(77, users[0], "active");
        live.livemode = true;
        r.stripe.subscriptions([shown(&live)]);
        assert_eq!(r.run(DRY).await.outcome, ReconcileOutcome::Failed);
        r.desk.close().await;
    });
}

#[test]
fn nothing_here_and_nothing_there_is_in_order() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        assert_eq!(kinds(&r.succeeds(APPLY).await), []);
        r.desk.close().await;
    });
}

#[test]
fn what_did_not_come_is_asked_for_and_a_404_concludes_nothing() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let users = paying(&r, 4, 0).await;
        // One comes; one is of a test clock and has ended; one is of a test clock and as it was; one Stripe does not know.
        r.stripe.subscriptions([shown(&owned(0, users[0], "active"))]);
        r.stripe.unlisted([shown(&owned(1, users[1], "canceled")), shown(&owned(2, users[2], "active"))]);
        let report = r.succeeds(APPLY).await;
        assert_eq!(kinds(&report), [(DriftKind::Differs, 1), (DriftKind::Absent, 1)]);
        let absence = report.absence;
        assert_eq!((absence.candidates, absence.found, absence.unknown, absence.unchecked), (3, 2, 1, 0));
        assert_eq!(r.status("sub_1").await.as_deref(), Some("canceled"));
        assert_eq!(r.status("sub_3").await.as_deref(), Some("active"), "a 404 concludes nothing");
        assert_eq!(with_access(&r, &users).await, 3);
        let absent = r.drifts(&report).await.into_iter().find(|d| d.kind == DriftKind::Absent).expect("told");
        assert_eq!((absent.user_id, absent.subscription_id.as_deref()), (Some(users[3]), Some("sub_3")));
        assert!(!absent.repaired && absent.local.is_some() && absent.stripe.is_none());
        r.desk.close().await;
    });
}

#[test]
fn what_becomes_known_while_the_walk_is_on_its_way_is_not_absent() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let users = paying(&r, 1, 0).await;
        r.stripe.at(NOW - 1000);
        let new = owned(9, users[0], "active");
        r.desk.apply(&[told("evt_new", "customer.subscription.created", 999, shown(&new))]).await;
        let report = r.succeeds(APPLY).await;
        assert_eq!((kinds(&report), report.absence.candidates), (vec![], 0));
        r.desk.close().await;
    });
}

#[test]
fn where_stripe_stops_answering_about_single_ones_the_rest_is_repaired_and_the_run_fails() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let users = paying(&r, 3, 1).await;
        r.stripe.subscriptions([shown(&owned(0, users[0], "canceled"))]);
        r.stripe.unlisted([shown(&owned(1, users[1], "active"))]);
        r.stripe.fail("subscription sub_2", unavailable());
        let report = r.run(APPLY).await;
        assert_eq!((report.outcome, report.complete, report.repaired), (ReconcileOutcome::Failed, true, 1));
        assert_eq!((report.absence.found, report.absence.unchecked), (1, 1));
        assert_eq!(with_access(&r, &users).await, 2);
        // The next run asks for the one that is left first.
        r.stripe.mend();
        r.stripe.unlisted([shown(&owned(1, users[1], "active")), shown(&owned(2, users[2], "active"))]);
        r.stripe.log();
        let report = r.succeeds(APPLY).await;
        assert_eq!((report.absence.found, report.absence.unchecked), (2, 0));
        let asked: Vec<_> = r.stripe.log().into_iter().filter(|call| call.starts_with("subscription ")).collect();
        assert_eq!(asked, ["subscription sub_2", "subscription sub_1"]);
        r.desk.close().await;
    });
}

#[test]
fn the_key_of_another_account_than_last_time_is_refused_until_it_is_accepted() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        paying(&r, 2, 1).await;
        assert_eq!(r.succeeds(DRY).await.account.as_deref(), Some("acct_1"));
        r.stripe.account(Ok("acct_other"));
        r.succeeds(DRY).await; // A dry run remembers nothing, so there was no last time.
        r.stripe.account(Ok("acct_1"));
        r.succeeds(APPLY).await;
        r.stripe.account(Ok("acct_2"));
        r.stripe.log();
        for options in [DRY, APPLY, Options { force: true, ..APPLY }] {
            let refused = r.run(options).await;
            assert_eq!(refused.outcome, ReconcileOutcome::Refused);
            let why = refused.error.expect("a reason");
            assert!(why.contains("acct_1") && why.contains("acct_2") && why.contains("--accept-account"), "{why}");
            assert_eq!(r.stripe.log(), ["account"], "nothing of the other account is even looked at");
        }
        r.succeeds(Options { accept_account: true, ..APPLY }).await;
        r.succeeds(APPLY).await;
        r.desk.close().await;
    });
}

#[test]
fn a_key_that_may_not_tell_its_account_is_noted_and_one_that_is_wrong_ends_the_run_once() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        paying(&r, 1, 1).await;
        r.stripe.account(Err(no_permission("account")));
        let report = r.succeeds(APPLY).await;
        assert!(report.account.is_none() && report.notes.iter().any(|note| note.contains("does not tell its account")));
        r.stripe.log();
        r.stripe.account(Err(StripeError::Key { message: "Invalid API Key provided".into(), request: None }));
        let failed = r.run(APPLY).await;
        assert_eq!(failed.outcome, ReconcileOutcome::Failed);
        assert!(failed.error.as_deref().is_some_and(|error| error.contains("STRIPE_SECRET_KEY")), "{:?}", failed.error);
        assert_eq!(r.stripe.log(), ["account"], "one call, and no more with a wrong key");
        r.stripe.account(Ok("acct_1"));
        r.stripe.fail("subscriptions", no_permission("subscriptions"));
        let failed = r.run(APPLY).await;
        assert!(failed.error.as_deref().is_some_and(|error| error.contains("permission")), "{:?}", failed.error);
        r.desk.close().await;
    });
}

#[test]
fn there_are_never_two_at_once_and_a_dead_one_gives_way() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let reconciler = r.reconciler();
        let first = reconciler.begin(APPLY).await.expect("the first");
        let id = first.id();
        let busy = |error: &BeginError| matches!(error, BeginError::Busy(running) if running.id == id);
        let second = reconciler.begin(Options { requested_by: Requester::Api, ..DRY }).await;
        assert!(second.as_ref().is_err_and(busy), "{second:?}");
        assert_eq!(records::under_way(&r.desk.db).await.expect("an answer").map(|run| run.id), Some(id));
        // Its process died three minutes ago.
        let past = if r.desk.kind() == Kind::Postgres {
            "now() - interval '3 minutes'"
        } else {
            "strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '-3 minutes')"
        };
        r.desk.sql(&format!("UPDATE reconciliations SET beat_at = {past}")).await;
        assert_eq!(records::under_way(&r.desk.db).await.expect("an answer"), None);
        let report = r.succeeds(APPLY).await;
        let dead = records::show(&r.desk.db, id).await.expect("an answer").expect("its row");
        assert_eq!(dead.outcome, ReconcileOutcome::Interrupted);
        assert!(dead.finished_at.is_some() && dead.error.is_some());
        // Should it come back, it does not overwrite what is told of it.
        let late = first.run(&Progress::default(), &CancellationToken::new()).await.expect("an end");
        assert_ne!(late.reconciliation, report.reconciliation);
        let dead = records::show(&r.desk.db, id).await.expect("an answer").expect("its row");
        assert_eq!(dead.outcome, ReconcileOutcome::Interrupted);
        r.desk.close().await;
    });
}

#[test]
fn of_many_that_begin_at_the_same_moment_one_does() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let reconciler = r.reconciler();
        let begun = futures::future::join_all((0..8).map(|_| reconciler.begin(DRY))).await;
        assert_eq!(begun.iter().filter(|run| run.is_ok()).count(), 1);
        assert!(begun.iter().all(|run| matches!(run, Ok(_) | Err(BeginError::Busy(_)))), "{begun:?}");
        r.desk.close().await;
    });
}

#[test]
fn a_run_that_is_stopped_says_so_and_leaves_nothing_half_done() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let users = paying(&r, 4, 2).await;
        r.stripe.page_size(1);
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        r.stripe.meanwhile("subscriptions after sub_2", move || {
            let stopping = stopping.clone();
            Box::pin(async move {
                stopping.cancel();
                std::future::pending::<()>().await;
            })
        });
        let run = r.reconciler().begin(APPLY).await.expect("nothing else runs");
        let report: Report = run.run(&Progress::default(), &stop).await.expect("the database answers");
        assert_eq!((report.outcome, report.repaired), (ReconcileOutcome::Interrupted, 0));
        assert_eq!(r.drifts(&report).await.len(), 2, "what was found until then is kept");
        assert_eq!(with_access(&r, &users).await, 4);
        assert_eq!(records::under_way(&r.desk.db).await.expect("an answer"), None, "the next one may begin");
        r.desk.close().await;
    });
}

#[test]
fn a_list_without_an_end_ends_the_run() {
    use async_trait::async_trait;
    use billing::stripe::{Collection, Fetched, Lane, Page, Resource, Stripe};

    #[derive(Debug)]
    struct Endless(crate::scripted::Scripted);

    #[async_trait]
    impl Stripe for Endless {
        async fn get(&self, resource: &Resource, lane: Lane) -> Result<Fetched, StripeError> {
            self.0.get(resource, lane).await
        }
        async fn list(&self, collection: &Collection, _: Option<&str>, lane: Lane) -> Result<Page, StripeError> {
            Ok(Page { has_more: true, ..self.0.list(collection, None, lane).await? })
        }
    }

    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        paying(&r, 2, 1).await;
        let mut reconciler = r.reconciler();
        reconciler.stripe = std::sync::Arc::new(Endless(r.stripe.clone()));
        let run = reconciler.begin(APPLY).await.expect("nothing else runs");
        let report = run.run(&Progress::default(), &CancellationToken::new()).await.expect("the database answers");
        assert_eq!((report.outcome, report.repaired), (ReconcileOutcome::Failed, 0));
        assert!(report.error.as_deref().is_some_and(|error| error.contains("no end")), "{:?}", report.error);
        r.desk.close().await;
    });
}
