//! Events that never arrived come in through Stripe's Events API.

use std::collections::BTreeMap;

use billing::{
    inbox::IntakeRules,
    progress::Progress,
    recovery::{RecoverError, Recovery, Report, Unfinished, stored_until},
    samples::{ApiVersion, event},
};
use chrono::{TimeDelta, Utc};
use entity::{
    Time,
    enums::{EventSource, ProcessingStatus},
    stripe_cursors,
};
use sea_orm::{EntityTrait, PaginatorTrait};
use serde_json::{Value, json};
use testkit::on_each;
use tokio_util::sync::CancellationToken;

use crate::{
    desk::{Desk, user_id},
    reconcile_desk::{owned, shown},
    scripted::{Scripted, unavailable},
};

struct RecoveryDesk {
    desk: Desk,
    stripe: Scripted,
}

impl RecoveryDesk {
    async fn new(test_db: testkit::TestDb) -> Self {
        Self { desk: Desk::new(test_db).await, stripe: Scripted::new() }
    }

    async fn run(&self, since: Option<Time>) -> Result<Report, Box<Unfinished>> {
        let intake = IntakeRules { livemode: Some(false), account: None };
        let recovery = Recovery { db: &self.desk.db, stripe: &self.stripe, intake: &intake };
        recovery.run(since, &Progress::default(), &CancellationToken::new()).await
    }

    async fn succeeds(&self) -> Report {
        self.run(None).await.expect("it comes to its end")
    }

    /// Puts the cursor so long ago.
    async fn cursor(&self, ago: TimeDelta) -> Time {
        let at = second(Utc::now() - ago);
        let row = format!("INSERT INTO stripe_cursors (name, last_created) VALUES ('events', '{}')", at.to_rfc3339());
        self.desk.sql(&format!("DELETE FROM stripe_cursors; {row}")).await;
        at
    }

    async fn until(&self) -> Time {
        stored_until(&self.desk.db).await.expect("an answer").expect("a cursor")
    }

    async fn inbox(&self) -> u64 {
        entity::stripe_webhooks::Entity::find().count(self.desk.db.reader()).await.expect("an answer")
    }
}

fn second(at: Time) -> Time {
    Time::from_timestamp(at.timestamp(), 0).expect("a moment")
}

/// An event made so long ago.
fn made(id: &str, ago: TimeDelta) -> Value {
    let at = (Utc::now() - ago).timestamp();
    event(id, "customer.subscription.updated", at, ApiVersion::LATEST, shown(&owned(1, user_id(1), "active")), None)
}

#[test]
fn the_first_cursor_is_now_and_nothing_old_is_asked_for() {
    on_each(|test_db| async {
        let r = RecoveryDesk::new(test_db).await;
        r.stripe.events([made("evt_old", TimeDelta::minutes(30))]);
        let report = r.succeeds().await;
        assert!(report.first && report.stored == 0, "{report:?}");
        assert!(r.stripe.log().is_empty());
        assert!((Utc::now() - r.until().await).num_seconds() < 60);
        r.desk.close().await;
    });
}

#[test]
fn an_event_that_never_arrived_is_stored_once_and_applied_like_any_other() {
    // Known from pay#382.
    on_each(|test_db| async {
        let r = RecoveryDesk::new(test_db).await;
        r.desk.put(user_id(1), "a@example.com").await;
        r.cursor(TimeDelta::minutes(15)).await;
        let known = made("evt_known", TimeDelta::minutes(8));
        r.desk.deliver(&known).await;
        r.stripe.events([known, made("evt_lost", TimeDelta::minutes(7)), made("evt_fresh", TimeDelta::seconds(30))]);
        let report = r.succeeds().await;
        assert_eq!((report.seen, report.stored, report.refused), (2, 1, 0), "what is younger than the lag waits");
        let row = r.desk.event("evt_lost").await;
        assert_eq!((row.source, row.signature_verified), (EventSource::Recovery, true));
        r.desk.work().await;
        assert_eq!(r.desk.event("evt_lost").await.processing_status, ProcessingStatus::Completed);
        assert_eq!(r.desk.event("evt_known").await.source, EventSource::Webhook, "who came first stays");
        assert_eq!(r.desk.standing(user_id(1)).await, "pro active access");
        // Asked for again within the overlap, and known by its id.
        let again = r.succeeds().await;
        assert_eq!((again.stored, r.inbox().await), (0, 2));
        r.desk.close().await;
    });
}

#[test]
fn the_arrival_is_decided_as_for_a_webhook() {
    on_each(|test_db| async {
        let r = RecoveryDesk::new(test_db).await;
        r.cursor(TimeDelta::minutes(15)).await;
        let mut live = made("evt_live", TimeDelta::minutes(7));
        live["livemode"] = json!(true);
        let mut foreign = made("evt_foreign", TimeDelta::minutes(6));
        foreign["account"] = json!("acct_other");
        r.stripe.events([live, foreign]);
        let report = r.succeeds().await;
        assert_eq!((report.stored, report.skipped), (2, 2));
        for id in ["evt_live", "evt_foreign"] {
            assert_eq!(r.desk.event(id).await.processing_status, ProcessingStatus::Skipped, "{id}");
        }
        r.desk.close().await;
    });
}

#[test]
fn a_payload_of_an_old_api_version_is_recovered_and_applied() {
    // Known from estuary/flow#3166: the Events API keeps the version in which an event was rendered.
    on_each(|test_db| async {
        let r = RecoveryDesk::new(test_db).await;
        r.desk.put(user_id(1), "a@example.com").await;
        r.cursor(TimeDelta::minutes(15)).await;
        let old = ApiVersion::V2020_08_27;
        let object = owned(1, user_id(1), "active").render(old);
        let at = (Utc::now() - TimeDelta::minutes(5)).timestamp();
        r.stripe.events([event("evt_1", "customer.subscription.created", at, old, object, None)]);
        assert_eq!(r.succeeds().await.stored, 1);
        r.desk.work().await;
        assert_eq!(r.desk.event("evt_1").await.api_version.as_deref(), Some(old.as_str()));
        assert_eq!(r.desk.standing(user_id(1)).await, "pro active access");
        r.desk.close().await;
    });
}

#[test]
fn a_webhook_that_arrives_by_itself_never_moves_the_cursor_over_an_older_one() {
    // Known from workos-authkit#75.
    on_each(|test_db| async {
        let r = RecoveryDesk::new(test_db).await;
        let at = r.cursor(TimeDelta::hours(3)).await;
        r.desk.deliver(&made("evt_new", TimeDelta::minutes(5))).await;
        assert_eq!(r.until().await, at);
        r.stripe.events([made("evt_new", TimeDelta::minutes(5)), made("evt_older", TimeDelta::hours(2))]);
        assert_eq!(r.succeeds().await.stored, 1);
        assert_eq!(r.desk.event("evt_older").await.source, EventSource::Recovery);
        r.desk.work().await;
        r.desk.close_with(2, 0).await; // They wait for their user.
    });
}

#[test]
fn the_cursor_moves_only_over_what_is_stored_and_the_next_run_goes_on_there() {
    on_each(|test_db| async {
        let r = RecoveryDesk::new(test_db).await;
        let begin = r.cursor(TimeDelta::hours(5)).await;
        let hours = |hours| TimeDelta::hours(hours);
        r.stripe.events((0..5).map(|n| made(&format!("evt_{n}"), hours(n) + TimeDelta::minutes(30))));
        // The slices grow while little comes: one hour, then two.
        r.stripe.page_size(1);
        let since = crate::desk::NOW;
        let offset = |at: Time| at.timestamp() - since;
        let second_slice = begin - TimeDelta::minutes(10) + hours(1);
        let fails = format!("events {}..{}", offset(second_slice), offset(second_slice + hours(2)) - 1);
        r.stripe.fail(&fails, unavailable());
        let stopped = r.run(None).await.expect_err("a slice fails");
        assert!(matches!(stopped.error, RecoverError::Stripe(_)), "{stopped}");
        assert_eq!(stopped.report.stored, 1, "the oldest, by slice");
        assert_eq!(r.desk.event("evt_4").await.source, EventSource::Recovery);
        assert_eq!(r.until().await, second_slice - TimeDelta::seconds(1));
        r.stripe.mend();
        let report = r.succeeds().await;
        assert_eq!((report.stored, r.inbox().await), (4, 5));
        assert!((Utc::now() - r.until().await).num_seconds() < 180);
        r.desk.work().await;
        r.desk.close_with(5, 0).await;
    });
}

#[test]
fn a_crowded_time_is_taken_in_smaller_slices_and_nothing_of_it_is_left_out() {
    on_each(|test_db| async {
        let r = RecoveryDesk::new(test_db).await;
        r.cursor(TimeDelta::hours(2)).await;
        let ago = |n: i64| TimeDelta::minutes(60) + TimeDelta::seconds(n % 100);
        let mut events: Vec<Value> = (0..2_000).map(|n| made(&format!("evt_{n}"), ago(n))).collect();
        // More in one second than a slice holds.
        let crowd = (Utc::now() - TimeDelta::minutes(30)).timestamp();
        events.extend((0..1_500).map(|n| {
            let mut event = made(&format!("evt_crowd_{n}"), TimeDelta::minutes(30));
            event["created"] = json!(crowd);
            event["data"]["object"] = json!({"id": "sub_1", "object": "subscription"});
            event
        }));
        r.stripe.events(events);
        let report = r.succeeds().await;
        assert_eq!((report.stored, r.inbox().await), (3_500, 3_500));
        // What is held in memory is bounded: a slice of more than a second is given up after its eleventh page, which is one too many.
        let mut pages: BTreeMap<String, u32> = BTreeMap::new();
        for call in r.stripe.log() {
            let slice = call.split(" after ").next().expect("a call").trim_start_matches("events ").to_owned();
            *pages.entry(slice).or_default() += 1;
        }
        let within_a_second = |slice: &str| slice.split_once("..").is_some_and(|(begin, end)| begin == end);
        assert!(pages.iter().all(|(slice, pages)| *pages <= 11 || within_a_second(slice)), "{pages:?}");
        assert!(pages.iter().any(|(slice, pages)| *pages > 11 && within_a_second(slice)), "{pages:?}");
        r.desk.sql("UPDATE stripe_webhooks SET processing_status = 'skipped'").await;
        r.desk.close().await;
    });
}

#[test]
fn a_gap_older_than_stripe_remembers_is_told_once_and_the_rest_is_recovered() {
    on_each(|test_db| async {
        let r = RecoveryDesk::new(test_db).await;
        let begin = r.cursor(TimeDelta::days(40)).await;
        r.stripe.events([made("evt_kept", TimeDelta::days(20))]);
        let unfinished = r.run(None).await.expect_err("some are lost");
        let RecoverError::Lost(lost) = unfinished.error else { panic!("{unfinished}") };
        assert_eq!(lost.from, begin);
        assert!((Utc::now() - lost.until).num_hours() >= 30 * 24 - 2);
        assert!(unfinished.to_string().contains("trueup reconcile"), "{unfinished}");
        assert_eq!((unfinished.report.stored, unfinished.report.lost.is_some()), (1, true));
        assert_eq!(r.succeeds().await.lost, None, "told once");
        r.desk.work().await;
        r.desk.close_with(1, 0).await;
    });
}

#[test]
fn asked_for_a_while_ago_everything_since_is_fetched_and_the_cursor_skips_nothing() {
    on_each(|test_db| async {
        let r = RecoveryDesk::new(test_db).await;
        let cursor = r.cursor(TimeDelta::hours(10)).await;
        r.stripe.events([made("evt_between", TimeDelta::hours(5)), made("evt_late", TimeDelta::minutes(30))]);
        let late = r.run(Some(Utc::now() - TimeDelta::hours(1))).await.expect("its end");
        assert_eq!((late.stored, r.until().await), (1, cursor), "the cursor does not jump over what lies between");
        let all = r.run(Some(Utc::now() - TimeDelta::days(2))).await.expect("its end");
        assert_eq!(all.stored, 1);
        assert!(r.until().await > cursor);
        // Long forgotten by the cursor, and asked for the last hour only: what lies between is not known to be stored.
        let cursor = r.cursor(TimeDelta::days(40)).await;
        r.run(Some(Utc::now() - TimeDelta::hours(1))).await.expect("its end");
        assert_eq!(r.until().await, cursor);
        r.desk.work().await;
        r.desk.close_with(2, 0).await;
    });
}

#[test]
fn what_is_no_event_is_gone_over_and_its_neighbours_are_stored() {
    on_each(|test_db| async {
        let r = RecoveryDesk::new(test_db).await;
        r.cursor(TimeDelta::minutes(15)).await;
        let mut odd = made("evt odd", TimeDelta::minutes(6));
        odd["data"] = json!({});
        r.stripe.events([odd, made("evt_1", TimeDelta::minutes(5))]);
        let report = r.succeeds().await;
        assert_eq!((report.stored, report.refused), (1, 1));
        r.desk.work().await;
        r.desk.close_with(1, 0).await;
    });
}

#[test]
fn a_cursor_never_moves_back() {
    on_each(|test_db| async {
        let r = RecoveryDesk::new(test_db).await;
        let ahead = second(Utc::now() + TimeDelta::minutes(5));
        r.cursor(TimeDelta::minutes(-5)).await;
        r.succeeds().await;
        assert!((r.until().await - ahead).num_seconds().abs() <= 2, "another replica was further");
        let row = stripe_cursors::Entity::find_by_id("events").one(r.desk.db.reader()).await.expect("an answer");
        assert!(row.is_some());
        r.desk.close().await;
    });
}
