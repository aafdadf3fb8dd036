//! What Stripe is asked for, when, and what that never holds up.

use std::{sync::Arc, time::Duration};

use billing::{
    processor::{FetchOptions, Outcome, ProcessorOptions},
    refresh::{RefreshError, Refresher},
    samples::{ApiVersion, CheckoutSessionSample, CustomerSample, ItemSample, SubscriptionSample, thin_event},
};
use entity::{
    enums::{ChangeSource, ProcessingStatus},
    ids::{SubscriptionId, UserId},
    subscriptions,
};
use sea_orm::EntityTrait;
use serde_json::{Value, json};
use testkit::{TestDb, on_each};
use tokio_util::sync::CancellationToken;

use crate::{
    desk::{Desk, NOW, outcomes, user_id},
    fake_stripe::{FakeStripe, Mood},
    semantics::{subscription, told},
};

const USER: u128 = 1;

fn fetching(fetch: FetchOptions) -> ProcessorOptions {
    ProcessorOptions { fetch, ..ProcessorOptions::default() }
}

/// A desk with a user, a key, and a Stripe that watches for open transactions.
async fn desk_with(test_db: TestDb, options: ProcessorOptions) -> (Desk, Arc<FakeStripe>) {
    let desk = Desk::new(test_db).await;
    let stripe = Arc::new(FakeStripe::watching(&desk.db));
    let desk = desk.with_key(stripe.clone(), options);
    desk.put(user_id(USER), "a@example.com").await;
    (desk, stripe)
}

async fn desk(test_db: TestDb) -> (Desk, Arc<FakeStripe>) {
    desk_with(test_db, ProcessorOptions::default()).await
}

/// One that remembers nothing of what was fetched before: as after a restart, or a while later.
fn refresher(desk: &Desk, stripe: &Arc<FakeStripe>) -> Refresher {
    Refresher::new(desk.db.clone(), Arc::clone(&desk.catalog), Arc::clone(&desk.policy), stripe.clone())
}

async fn sweep(refresher: &Refresher) -> billing::refresh::Swept {
    refresher.refresh_flagged(100, &CancellationToken::new()).await.expect("the database answers")
}

async fn stored(desk: &Desk, id: &str) -> subscriptions::Model {
    let id = SubscriptionId::parse(id).expect("an id");
    subscriptions::Entity::find_by_id(id).one(desk.db.reader()).await.expect("an answer").expect("it is stored")
}

/// Waits for a condition.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("never came: {what}"));
}

fn updated(id: &str, seconds_ago: i64, sub: &SubscriptionSample) -> Value {
    told(id, "customer.subscription.updated", seconds_ago, sub.render(ApiVersion::LATEST))
}

fn thin(id: &str, sub: &str) -> Value {
    thin_event(id, "customer.subscription.updated", NOW, sub, "subscription")
}

fn checkout(id: &str, user: UserId, sub: &str, tier: Option<&str>) -> Value {
    let mut session = CheckoutSessionSample::new("cs_1", "cus_1", sub, NOW - 100);
    session.client_reference_id = Some(user.to_string());
    session.metadata.extend(tier.map(|tier| ("tier".to_owned(), tier.to_owned())));
    told(id, "checkout.session.completed", 100, session.render(ApiVersion::LATEST))
}

/// Known from stripe/sync-engine#268 and cashier#1201: of two events of one second the one that came last, or with the greater id, was taken for the truth.
#[test]
fn of_two_snapshots_of_one_second_the_one_that_stripe_confirms_stays() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        let user = user_id(USER);
        let both = ["pro", "starter"].map(|tier| subscription(user, tier, "active"));
        for (number, truth) in [0, 1].into_iter().enumerate() {
            let second = 100 - i64::try_from(number).expect("small") * 10;
            let ids = [format!("evt_{number}a"), format!("evt_{number}b")];
            desk.apply(&[updated(&ids[0], second, &both[0]), updated(&ids[1], second, &both[1])]).await;
            assert!(stored(&desk, "sub_1").await.needs_refresh);
            stripe.subscription(both[truth].render(ApiVersion::LATEST));

            // Stripe's clock is still in that second: nothing is concluded, and it is not asked again at once.
            stripe.clock(NOW - second);
            let calls = stripe.calls();
            let sweeping = refresher(&desk, &stripe);
            let swept = sweep(&sweeping).await;
            assert_eq!((swept.fetched, swept.too_early, stripe.calls() - calls), (1, 1, 1));
            assert_eq!(sweep(&sweeping).await.fetched, 0, "not before a moment is over");
            assert_eq!(stripe.calls() - calls, 1);
            assert!(stored(&desk, "sub_1").await.needs_refresh);

            stripe.clock(NOW - second + 1);
            let swept = sweep(&refresher(&desk, &stripe)).await;
            assert_eq!((swept.fetched, swept.settled), (1, 1));
            assert!(!stored(&desk, "sub_1").await.needs_refresh);
            assert_eq!(desk.standing(user).await, format!("{} active access", ["pro", "starter"][truth]));
            // One of the two that comes late changes nothing any more.
            desk.apply(&[updated(&format!("evt_{number}z"), second, &both[1 - truth])]).await;
            assert_eq!(desk.standing(user).await, format!("{} active access", ["pro", "starter"][truth]));
        }
        let timeline = desk.timeline(user).await;
        let by_fetch: Vec<_> = timeline.iter().filter(|entry| entry.reason.starts_with("refetch: ")).collect();
        assert_eq!(by_fetch.len(), 1, "the other time the right one had won already: {timeline:#?}");
        assert_eq!((by_fetch[0].source, by_fetch[0].event_id.as_ref()), (ChangeSource::Webhook, None));
        stripe.assert_no_call_within_a_transaction();
        desk.close().await;
    });
}

#[test]
fn an_ambiguity_that_a_batch_leaves_is_settled_without_anybody_asking() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        let user = user_id(USER);
        stripe.subscription(subscription(user, "pro", "active").render(ApiVersion::LATEST));
        let stop = CancellationToken::new();
        let refresher = desk.processor.refresher().expect("there is a key");
        let running = tokio::spawn(refresher.run(stop.clone()));
        let starter = subscription(user, "starter", "active");
        desk.apply(&[updated("evt_1", 100, &starter), updated("evt_2", 100, &subscription(user, "pro", "active"))])
            .await;
        eventually("the truth", async || !stored(&desk, "sub_1").await.needs_refresh).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        stop.cancel();
        running.await.expect("it ends in order");
        desk.close().await;
    });
}

#[test]
fn with_a_key_a_checkout_gives_what_was_really_bought_and_in_one_step() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        let user = user_id(USER);
        let mut sub = subscription(user, "pro", "active");
        sub.metadata.clear();
        stripe.subscription(sub.render(ApiVersion::LATEST));
        // The host's own word on the session says something else.
        desk.deliver(&checkout("evt_1", user, "sub_1", Some("starter"))).await;
        let pass = desk.work().await;
        assert_eq!(outcomes(&pass, Outcome::Applied), 1);
        assert_eq!(desk.standing(user).await, "pro active access");
        let row = stored(&desk, "sub_1").await;
        assert_eq!(row.rank, 3, "a real snapshot");
        assert_eq!(row.current_period_end.map(|at| at.timestamp()), sub.period_end());
        let timeline = desk.timeline(user).await;
        assert_eq!(timeline.len(), 1, "{timeline:#?}");
        assert_eq!(timeline[0].event_id.as_deref(), Some("evt_1"));
        assert_eq!(stripe.calls(), 1);
        stripe.assert_no_call_within_a_transaction();
        desk.close().await;
    });
}

#[test]
fn a_checkout_whose_subscription_is_known_asks_nobody() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        let user = user_id(USER);
        desk.apply(&[updated("evt_1", 100, &subscription(user, "pro", "active"))]).await;
        desk.apply(&[checkout("evt_2", user, "sub_1", None)]).await;
        assert_eq!(stripe.calls(), 0);
        assert_eq!(desk.standing(user).await, "pro active access");
        desk.close().await;
    });
}

/// Known from firezone#9869: after a 429 from Stripe the event was acknowledged, and the account never updated.
#[test]
fn while_stripe_is_away_a_checkout_gives_access_on_its_own_word_and_is_trued_up_later() {
    on_each(|test_db| async move {
        for mood in [Mood::Down, Mood::RefusesKey, Mood::Hangs] {
            let options =
                fetching(FetchOptions { checkout_patience: Duration::from_millis(50), ..FetchOptions::default() });
            let database = TestDb::migrated(test_db.kind()).await;
            let (desk, stripe) = desk_with(database, options).await;
            let user = user_id(USER);
            stripe.mood(mood);
            desk.deliver(&checkout("evt_1", user, "sub_1", Some("starter"))).await;
            let pass = desk.work().await;
            assert_eq!(outcomes(&pass, Outcome::Applied), 1, "{mood:?}");
            assert_eq!(desk.standing(user).await, "starter active access", "{mood:?}");
            assert_eq!(stored(&desk, "sub_1").await.rank, 1, "on the session's word");

            stripe.mood(Mood::Well);
            let mut sub = subscription(user, "pro", "trialing");
            sub.metadata.clear();
            stripe.subscription(sub.render(ApiVersion::LATEST));
            assert_eq!(sweep(&refresher(&desk, &stripe)).await.settled, 1);
            assert_eq!(desk.standing(user).await, "pro trialing access", "{mood:?}");
            desk.close().await;
        }
    });
}

/// Known from stripe/sync-engine#300: a run that failed was taken for one that succeeded.
#[test]
fn a_sweep_that_stripe_cut_short_says_so_and_the_next_one_has_it_all() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        stripe.mood(Mood::Down);
        for number in 0..20 {
            desk.deliver(&checkout(&format!("evt_{number}"), user_id(USER), &format!("sub_{number}"), None)).await;
        }
        desk.work().await;
        let calls = stripe.calls();
        let swept = sweep(&refresher(&desk, &stripe)).await;
        assert!(swept.stopped.expect("it was cut short").contains("too many calls"));
        assert_eq!(swept.settled, 0);
        assert!(stripe.calls() - calls < 10, "those after the first few need not find out for themselves");
        stripe.mood(Mood::Well);
        for number in 0..20 {
            let mut sub = subscription(user_id(USER), "pro", "active");
            sub.id = format!("sub_{number}");
            stripe.subscription(sub.render(ApiVersion::LATEST));
        }
        let swept = sweep(&refresher(&desk, &stripe)).await;
        assert_eq!((swept.settled, swept.stopped), (20, None));
        desk.close().await;
    });
}

#[test]
fn sweeps_go_on_where_the_last_one_ended_and_are_not_held_up_by_what_is_of_no_use() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        stripe.mood(Mood::Down);
        for number in 0..30 {
            desk.deliver(&checkout(&format!("evt_{number}"), user_id(USER), &format!("sub_{number:02}"), None)).await;
        }
        desk.work().await;
        stripe.mood(Mood::Well);
        // Stripe knows only the last of them.
        let mut sub = subscription(user_id(USER), "pro", "active");
        sub.id = "sub_29".to_owned();
        stripe.subscription(sub.render(ApiVersion::LATEST));
        let sweeping = refresher(&desk, &stripe);
        let calls = stripe.calls();
        let mut settled = 0;
        for _ in 0..4 {
            let swept = sweeping.refresh_flagged(10, &CancellationToken::new()).await.expect("an answer");
            assert!(swept.fetched <= 10);
            settled += swept.settled;
        }
        assert_eq!((settled, stripe.calls() - calls), (1, 30), "each was asked for once");
        assert_eq!(stored(&desk, "sub_00").await.rank, 1, "a 404 concludes nothing");
        desk.close().await;
    });
}

#[test]
fn events_that_need_no_stripe_do_not_wait_for_those_that_do() {
    on_each(|test_db| async {
        let fetch = FetchOptions { patience: Duration::from_mins(10), ..FetchOptions::default() };
        let (desk, stripe) = desk_with(test_db, fetching(fetch)).await;
        let user = user_id(USER);
        stripe.mood(Mood::Hangs);
        let stop = CancellationToken::new();
        let running = tokio::spawn(desk.processor.clone().run(
            Arc::clone(&desk.nudge),
            stop.clone(),
            Arc::new(|_| {}),
            Arc::default(),
        ));
        for number in 0..20 {
            desk.deliver(&thin(&format!("evt_t{number}"), &format!("sub_t{number}"))).await;
        }
        eventually("calls that hang", async || stripe.calls() > 0).await;
        for number in 0..3 {
            let tier = ["starter", "pro", "elite"][number];
            let id = format!("evt_{number}");
            desk.deliver(&updated(
                &id,
                100 - i64::try_from(number).expect("small"),
                &subscription(user, tier, "active"),
            ))
            .await;
            eventually("the plain event", async || {
                desk.event(&id).await.processing_status == ProcessingStatus::Completed
            })
            .await;
        }
        assert_eq!(desk.standing(user).await, "elite active access");
        assert_eq!(desk.event("evt_t0").await.processing_status, ProcessingStatus::Processing);
        // Stopping gives back what still waits, uncounted.
        stop.cancel();
        running.await.expect("it ends in order");
        let row = desk.event("evt_t7").await;
        assert_eq!((row.processing_status, row.processing_attempts), (ProcessingStatus::Pending, 0));
        desk.close_with(20, 0).await;
    });
}

#[test]
fn what_is_stripes_fault_or_the_keys_counts_as_nobodys_attempt() {
    on_each(|test_db| async {
        let fetch = FetchOptions { patience: Duration::from_millis(50), ..FetchOptions::default() };
        let (desk, stripe) = desk_with(test_db, fetching(fetch)).await;
        let user = user_id(USER);
        desk.deliver(&thin("evt_1", "sub_1")).await;
        for mood in [Mood::Down, Mood::RefusesKey, Mood::Hangs] {
            stripe.mood(mood);
            let pass = desk.work().await;
            assert_eq!((outcomes(&pass, Outcome::Postponed), pass.disturbed), (1, false), "{mood:?}");
            let row = desk.event("evt_1").await;
            assert_eq!((row.processing_status, row.processing_attempts), (ProcessingStatus::Pending, 0), "{mood:?}");
            assert!(row.processing_error.expect("a reason").contains("Stripe"));
            assert!(row.next_attempt_at > row.updated_at, "not at once: {mood:?}");
            assert_eq!(desk.work().await.events(), 0);
            desk.wait_out().await;
        }
        stripe.mood(Mood::Well);
        stripe.subscription(subscription(user, "pro", "active").render(ApiVersion::LATEST));
        assert_eq!(outcomes(&desk.work().await, Outcome::Applied), 1);
        assert_eq!(desk.standing(user).await, "pro active access");
        assert_eq!(desk.event("evt_1").await.processing_error, None);
        desk.close().await;
    });
}

#[test]
fn an_object_that_stripe_does_not_know_is_a_failed_attempt_of_its_event_alone() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        let user = user_id(USER);
        stripe.subscription(subscription(user, "pro", "active").render(ApiVersion::LATEST));
        desk.deliver(&thin("evt_1", "sub_1")).await;
        desk.deliver(&thin("evt_2", "sub_2")).await;
        let pass = desk.work().await;
        assert_eq!((outcomes(&pass, Outcome::Applied), outcomes(&pass, Outcome::Retried)), (1, 1));
        assert_eq!(desk.standing(user).await, "pro active access");
        let row = desk.event("evt_2").await;
        assert_eq!(row.processing_attempts, 1);
        assert!(row.processing_error.expect("a reason").contains("sub_2"));
        assert_eq!(row.processing_error_details.expect("details")["kind"], "stripe");
        desk.close_with(1, 0).await;
    });
}

#[test]
fn a_thin_event_about_a_deleted_customer_ends_what_was_theirs() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        let user = user_id(USER);
        desk.apply(&[updated("evt_1", 100, &subscription(user, "pro", "active"))]).await;
        stripe.customer(json!({ "id": "cus_1", "object": "customer", "deleted": true }));
        desk.apply(&[thin_event("evt_2", "customer.deleted", NOW, "cus_1", "customer")]).await;
        assert_eq!(desk.standing(user).await, "free canceled no access");
        stripe.assert_no_call_within_a_transaction();
        desk.close().await;
    });
}

#[test]
fn several_events_about_one_object_ask_for_it_once() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        stripe.subscription(subscription(user_id(USER), "pro", "active").render(ApiVersion::LATEST));
        for number in 0..25 {
            desk.deliver(&thin(&format!("evt_{number}"), "sub_1")).await;
        }
        assert_eq!(desk.work().await.events(), 25);
        assert_eq!(stripe.calls(), 1);
        desk.close().await;
    });
}

#[test]
fn calls_of_one_process_are_bounded_and_side_by_side() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        stripe.mood(Mood::Slow(Duration::from_millis(20)));
        for number in 0..40 {
            let mut sub = subscription(user_id(USER), "pro", "active");
            sub.id = format!("sub_{number}");
            stripe.subscription(sub.render(ApiVersion::LATEST));
            desk.deliver(&thin(&format!("evt_{number}"), &sub.id)).await;
        }
        assert_eq!(outcomes(&desk.work().await, Outcome::Applied), 40);
        let most = stripe.most_in_flight();
        assert!((2..=FetchOptions::default().at_once).contains(&most), "{most}");
        desk.close().await;
    });
}

#[test]
fn an_event_makes_only_so_many_calls() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        let mut object = subscription(user_id(USER), "pro", "active").render(ApiVersion::LATEST);
        object["items"]["has_more"] = json!(true);
        stripe.subscription(object);
        stripe.endless_items();
        desk.deliver(&thin("evt_1", "sub_1")).await;
        assert_eq!(outcomes(&desk.work().await, Outcome::Retried), 1);
        assert_eq!(u32::try_from(stripe.calls()).expect("small"), FetchOptions::default().calls);
        assert!(desk.event("evt_1").await.processing_error.expect("a reason").contains("more calls"));
        desk.close_with(1, 0).await;
    });
}

#[test]
fn where_too_many_events_wait_for_stripe_the_others_come_later_and_checkouts_go_on_their_own_word() {
    on_each(|test_db| async {
        let fetch = FetchOptions { events: 3, ..FetchOptions::default() };
        let (desk, stripe) = desk_with(test_db, fetching(fetch)).await;
        stripe.subscription(subscription(user_id(USER), "pro", "active").render(ApiVersion::LATEST));
        for number in 0..5 {
            desk.deliver(&thin(&format!("evt_{number}"), "sub_1")).await;
        }
        desk.deliver(&checkout("evt_9", user_id(USER), "sub_9", Some("elite"))).await;
        let pass = desk.work().await;
        assert_eq!((outcomes(&pass, Outcome::Applied), outcomes(&pass, Outcome::Postponed)), (4, 2));
        assert_eq!(stored(&desk, "sub_9").await.rank, 1);
        desk.wait_out().await;
        assert_eq!(outcomes(&desk.work().await, Outcome::Applied), 2);
        desk.close().await;
    });
}

#[test]
fn an_event_that_shows_only_some_of_a_subscriptions_items_has_the_others_fetched() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        let user = user_id(USER);
        let mut sub = subscription(user, "starter", "active");
        let mut last = ItemSample::monthly("si_last", "price_last", "prod_last", NOW - 100);
        last.lookup_key = Some("elite".to_owned());
        let mut whole = sub.clone();
        whole.items.push(last);
        stripe.items("sub_1", whole.render_items(ApiVersion::LATEST));
        sub.description = Some("cut".to_owned());
        let mut cut = sub.render(ApiVersion::LATEST);
        cut["items"]["has_more"] = json!(true);
        stripe.subscription(cut.clone());

        let stop = CancellationToken::new();
        let running = tokio::spawn(desk.processor.refresher().expect("a key").run(stop.clone()));
        desk.apply(&[told("evt_1", "customer.subscription.updated", 100, cut)]).await;
        eventually("the dearest item", async || desk.standing(user).await == "elite active access").await;
        stop.cancel();
        running.await.expect("it ends in order");
        desk.close().await;
    });
}

/// Known from adcp#6686: paying customers were stuck, and the events too old to be sent again. Known from pay#483 too: one by hand.
#[test]
fn a_user_can_be_trued_up_on_request_with_nothing_left_of_the_events() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        let user = user_id(USER);
        let mut customer = CustomerSample::new("cus_1", "a@example.com", NOW - 1000);
        customer.metadata.insert("user_id".to_owned(), user.to_string());
        desk.apply(&[told("evt_1", "customer.created", 1000, customer.render(ApiVersion::LATEST))]).await;
        assert_eq!(desk.standing(user).await, "free active no access");
        for (number, status) in ["canceled", "active", "canceled"].into_iter().enumerate() {
            let mut sub = subscription(user, "pro", status);
            sub.id = format!("sub_{number}");
            stripe.subscription(sub.render(ApiVersion::LATEST));
        }
        let mut strangers = subscription(user_id(7), "elite", "active");
        (strangers.id, strangers.customer) = ("sub_7".to_owned(), "cus_7".to_owned());
        stripe.subscription(strangers.render(ApiVersion::LATEST));

        let refresher = desk.processor.refresher().expect("a key");
        let done = refresher.refresh_user(user, ChangeSource::Operator).await.expect("Stripe answers");
        assert_eq!(done.subscriptions.len(), 3, "whatever their status, and nobody else's");
        assert_eq!((done.changes.len(), done.changes[0].after.tier.as_str()), (1, "pro"));
        assert_eq!(desk.standing(user).await, "pro active access");
        let timeline = desk.timeline(user).await;
        assert_eq!((timeline.len(), timeline[0].source), (1, ChangeSource::Operator));
        let again = refresher.refresh_user(user, ChangeSource::Api).await.expect("Stripe answers");
        assert_eq!(again.changes, [], "what is true stays");
        stripe.assert_no_call_within_a_transaction();
        desk.close().await;
    });
}

/// Known from pay#559: the wrong account was asked, and "No such subscription" was taken for an end.
#[test]
fn a_subscription_that_stripe_does_not_know_is_told_and_nothing_is_concluded() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        let user = user_id(USER);
        desk.apply(&[updated("evt_1", 100, &subscription(user, "pro", "active"))]).await;
        let refresher = desk.processor.refresher().expect("a key");
        let done = refresher.refresh_user(user, ChangeSource::Api).await.expect("Stripe answers");
        assert_eq!(done.missing.iter().map(SubscriptionId::as_str).collect::<Vec<_>>(), ["sub_1"]);
        assert_eq!((done.subscriptions, done.changes), (vec![], vec![]));
        assert_eq!(desk.standing(user).await, "pro active access");

        stripe.mood(Mood::Down);
        let error = refresher.refresh_user(user, ChangeSource::Api).await.expect_err("it is away");
        assert!(matches!(error, RefreshError::Stripe(error) if error.may_pass()));
        let error = refresher.refresh_user(user_id(99), ChangeSource::Api).await.expect_err("nobody");
        assert!(matches!(error, RefreshError::Unknown(_)));
        assert_eq!(desk.standing(user).await, "pro active access");
        stripe.forget_subscription("sub_1");
        desk.close().await;
    });
}

#[test]
fn a_webhook_newer_than_what_was_fetched_wins_whoever_comes_first() {
    on_each(|test_db| async {
        let (desk, stripe) = desk(test_db).await;
        let user = user_id(USER);
        desk.apply(&[updated("evt_1", 100, &subscription(user, "starter", "active"))]).await;
        // What Stripe showed at NOW - 50; meanwhile it went on to elite, and that event is here already.
        stripe.clock(NOW - 50);
        stripe.subscription(subscription(user, "pro", "active").render(ApiVersion::LATEST));
        desk.apply(&[updated("evt_2", 40, &subscription(user, "elite", "active"))]).await;
        let refresher = desk.processor.refresher().expect("a key");
        let done = refresher.refresh_user(user, ChangeSource::Api).await.expect("Stripe answers");
        assert_eq!(done.changes, []);
        assert_eq!(desk.standing(user).await, "elite active access");
        desk.close().await;
    });
}

/// Known from estuary/flow#3166: whatever version was asked for, the answer may come in an old one.
#[test]
fn what_is_fetched_is_read_in_the_shape_of_any_version() {
    on_each(|test_db| async move {
        for version in ApiVersion::ALL {
            let database = TestDb::migrated(test_db.kind()).await;
            let (desk, stripe) = desk_with(database, ProcessorOptions::default()).await;
            let user = user_id(USER);
            let sub = subscription(user, "pro", "active");
            stripe.subscription(sub.render(version));
            desk.apply(&[thin("evt_1", "sub_1")]).await;
            let row = stored(&desk, "sub_1").await;
            assert_eq!(row.current_period_end.map(|at| at.timestamp()), sub.period_end(), "{version}");
            assert_eq!(desk.standing(user).await, "pro active access", "{version}");
            desk.close().await;
        }
        // localstripe: a plan in place of a price, the period at the top.
        let (desk, stripe) = desk(TestDb::migrated(test_db.kind()).await).await;
        let user = user_id(USER);
        stripe.subscription(json!({
            "id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "active", "created": NOW - 1000,
            "current_period_start": NOW - 1000, "current_period_end": NOW + 100_000,
            "metadata": { "user_id": user.to_string(), "tier": "pro" },
            "items": { "object": "list", "data": [
                { "id": "si_1", "object": "subscription_item", "quantity": 1, "plan": { "id": "monthly", "object": "plan",
                  "interval": "month", "interval_count": 1, "currency": "usd", "product": "prod_1" } },
            ] },
        }));
        desk.apply(&[thin("evt_1", "sub_1")]).await;
        let row = stored(&desk, "sub_1").await;
        assert_eq!((row.price_id.as_deref(), row.interval.as_deref()), (Some("monthly"), Some("month")));
        assert_eq!(desk.standing(user).await, "pro active access");
        desk.close().await;
    });
}

#[test]
fn without_a_key_nobody_is_asked_and_a_checkout_gives_access_on_its_own_word() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(USER);
        desk.put(user, "a@example.com").await;
        assert!(desk.processor.refresher().is_none());
        desk.apply(&[checkout("evt_1", user, "sub_1", Some("starter")), thin("evt_2", "sub_1")]).await;
        assert_eq!(desk.standing(user).await, "starter active access");
        assert_eq!(desk.event("evt_2").await.processing_status, ProcessingStatus::Skipped);
        desk.close().await;
    });
}
