//! What happens by date, whoever comes by: scheduled ends, grace, overrides, and windows that are over.

use std::{collections::BTreeSet, time::Duration};

use billing::{
    catalog::{Catalog, Plan},
    overrides::{self, OverrideError, OverrideTold},
    policy::Policy,
    processor::ProcessorOptions,
    progress::Progress,
    samples::{ApiVersion, InvoiceSample},
    usage::{Expired, Meter, Reset, Watch},
};
use chrono::TimeDelta;
use entity::{Time, enums::ChangeSource, ids::UserId};
use sea_orm::{ConnectionTrait, EntityTrait};
use testkit::{Kind, on_each};
use tokio_util::sync::CancellationToken;

use crate::{
    desk::{Desk, user_id},
    usage::{DAY, at, now, subscription, told, updated},
};

pub(crate) async fn give(desk: &Desk, user: UserId, tier: &str, until: i64) {
    let told = OverrideTold { tier: tier.into(), until: at(until), reason: "ticket 7".into(), by: "eve".into() };
    overrides::give(&desk.db, &desk.catalog, &desk.policy, user, told).await.expect("a right override");
}

async fn expire(meter: Meter<'_>) -> Expired {
    let mut report = Expired::default();
    let ended = meter.expire(&CancellationToken::new(), &Progress::default(), &Watch::default(), &mut report).await;
    ended.expect("the database answers");
    report
}

async fn reset(meter: Meter<'_>) -> Reset {
    let mut report = Reset::default();
    let ended = meter.reset(&CancellationToken::new(), &Progress::default(), &Watch::default(), &mut report).await;
    ended.expect("the database answers");
    report
}

/// Tier, status and access as the host's own query of `users` finds them.
async fn stored(desk: &Desk, user: UserId) -> String {
    let row = entity::users::Entity::find_by_id(user).one(desk.db.reader()).await.expect("an answer").expect("a user");
    let access = if row.subscription_access { "access" } else { "no access" };
    format!("{} {} {access}", row.subscription_tier, row.subscription_status)
}

/// Source and reason of the last entry of the timeline.
async fn last_entry(desk: &Desk, user: UserId) -> (ChangeSource, String) {
    let entry = desk.timeline(user).await.pop().expect("an entry");
    (entry.source, entry.reason)
}

#[test]
fn a_scheduled_end_takes_access_on_its_second_and_tells_why() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let (user, base) = (user_id(1), now());
        desk.put(user, "a@example.com").await;
        let mut sub = subscription(user, "pro", base - DAY);
        sub.cancel_at = Some(base + 5 * DAY);
        desk.apply(&[updated("evt_1", base - 10, &sub)]).await;
        assert_eq!(expire(desk.meter(at(base + 5 * DAY - 1))).await, Expired::default(), "nobody's date has come");
        assert_eq!(stored(&desk, user).await, "pro active access");
        let report = expire(desk.meter(at(base + 5 * DAY))).await;
        assert_eq!((report.users, report.entitlements_ended, report.batches), (1, 1, 1));
        assert_eq!(stored(&desk, user).await, "free canceled no access");
        let (source, reason) = last_entry(&desk, user).await;
        assert_eq!(source, ChangeSource::Schedule);
        assert_eq!(
            reason,
            "the scheduled end of sub_1 has passed: no subscription entitles; the best one left, sub_1, is canceled"
        );
        assert_eq!(expire(desk.meter(at(base + 6 * DAY))).await, Expired::default(), "it ends once");
        desk.close().await;
    });
}

#[test]
fn grace_that_is_over_takes_access_and_a_payment_gives_it_back() {
    on_each(|test_db| async {
        let policy = Policy { past_due_grace: Some(TimeDelta::days(7)), ..Policy::default() };
        let desk = Desk::with(test_db, policy, ProcessorOptions::default()).await;
        let (user, base) = (user_id(1), now());
        desk.put(user, "a@example.com").await;
        let mut sub = subscription(user, "pro", base - 3 * DAY);
        sub.status = "past_due".into();
        let mut bill = InvoiceSample::of(&sub, "in_1", "subscription_cycle", "open", base - 3 * DAY);
        let failed = told("evt_1", "invoice.payment_failed", base - 3 * DAY, bill.render(ApiVersion::LATEST));
        desk.apply(&[failed, updated("evt_2", base - 3 * DAY, &sub)]).await;
        assert_eq!(stored(&desk, user).await, "pro past_due access");
        assert_eq!(expire(desk.meter(at(base + 4 * DAY))).await.entitlements_ended, 1);
        assert_eq!(stored(&desk, user).await, "free past_due no access");
        let reason = last_entry(&desk, user).await.1;
        assert!(
            reason.starts_with("the time in which the payment of sub_1 could be made up for is over: "),
            "{reason}"
        );
        bill.status = "paid".into();
        bill.paid_at = Some(base - 5);
        desk.apply(&[told("evt_3", "invoice.paid", base - 5, bill.render(ApiVersion::LATEST))]).await;
        assert_eq!(stored(&desk, user).await, "pro active access");
        desk.close().await;
    });
}

#[test]
fn a_late_job_never_refuses_anyone_nor_lets_anyone_go_on() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let (user, base) = (user_id(1), now());
        desk.put(user, "a@example.com").await;
        let mut sub = subscription(user, "pro", base - DAY);
        sub.cancel_at = Some(base + DAY);
        desk.apply(&[updated("evt_1", base - 10, &sub)]).await;
        desk.meter(at(base)).consume(user, 50, None).await.expect("100 are there");
        // No job has run; the call itself ends what has ended.
        let after = desk.meter(at(base + DAY)).consume(user, 5, None).await.expect("5 are free");
        assert_eq!((after.figures.used, after.figures.limit, after.rolled.expired), (5, Some(5), 1));
        assert_eq!(last_entry(&desk, user).await.0, ChangeSource::Schedule);
        // And the free month is over by itself as well.
        let next = desk.meter(after.figures.resets_at).consume(user, 5, None).await.expect("another month");
        assert_eq!((next.figures.used, next.rolled.opened, next.rolled.expired), (5, 1, 0));
        desk.close().await;
    });
}

#[test]
fn an_override_wins_while_it_lasts_and_keeps_the_window() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let (user, base) = (user_id(1), now());
        desk.put(user, "a@example.com").await;
        let meter = desk.meter(at(base));
        meter.consume(user, 5, None).await.expect("5 are free");
        give(&desk, user, "pro", base + 5 * DAY).await;
        assert_eq!(stored(&desk, user).await, "pro active access");
        let (source, reason) = last_entry(&desk, user).await;
        assert_eq!(source, ChangeSource::Operator);
        assert!(reason.starts_with("override by eve until ") && reason.contains("(ticket 7)"), "{reason}");
        let view = desk.user_at(user, at(base)).await;
        assert_eq!(view.projection.entitlement.cancel_at, Some(at(base + 5 * DAY)));
        assert_eq!(view.tier_override.as_ref().map(|given| given.reason.as_str()), Some("ticket 7"));
        let taken = meter.consume(user, 10, None).await.expect("100 are there");
        assert_eq!((taken.figures.used, taken.figures.limit), (15, Some(100)));
        // Whatever Stripe says meanwhile: facts are kept, the tier stays.
        let sub = subscription(user, "starter", base - 60);
        desk.apply(&[updated("evt_1", base - 50, &sub)]).await;
        assert_eq!(stored(&desk, user).await, "pro active access");
        assert_eq!(expire(desk.meter(at(base + 5 * DAY))).await.entitlements_ended, 1);
        assert_eq!(stored(&desk, user).await, "starter active access");
        let (source, reason) = last_entry(&desk, user).await;
        assert_eq!(
            (source, reason.as_str()),
            (ChangeSource::Schedule, "the override to pro has ended: sub_1 (active) entitles to starter")
        );
        assert!(desk.user_at(user, at(base + 5 * DAY)).await.tier_override.is_none());
        desk.close().await;
    });
}

#[test]
fn an_override_may_lower_be_replaced_and_be_taken_back() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let (user, base) = (user_id(1), now());
        desk.put(user, "a@example.com").await;
        desk.apply(&[updated("evt_1", base - 50, &subscription(user, "pro", base - 60))]).await;
        give(&desk, user, "free", base + DAY).await;
        assert_eq!(stored(&desk, user).await, "free active no access");
        give(&desk, user, "elite", base + 2 * DAY).await;
        assert_eq!(stored(&desk, user).await, "elite active access");
        let take_back = async || overrides::take_back(&desk.db, &desk.catalog, &desk.policy, user).await;
        assert!(take_back().await.expect("an answer"));
        assert_eq!(stored(&desk, user).await, "pro active access");
        assert!(!take_back().await.expect("an answer"), "there is none any more");
        assert_eq!(last_entry(&desk, user).await.1, "override taken back: sub_1 (active) entitles to pro");
        desk.close().await;
    });
}

#[test]
fn a_wrong_override_is_refused_with_what_would_be_right() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let (user, base) = (user_id(1), now());
        desk.put(user, "a@example.com").await;
        let right =
            || OverrideTold { tier: "pro".into(), until: at(base + DAY), reason: "why".into(), by: "eve".into() };
        let give = async |user, told| match overrides::give(&desk.db, &desk.catalog, &desk.policy, user, told).await {
            Err(error) => error,
            Ok(given) => panic!("taken: {given:?}"),
        };
        let tier = give(user, OverrideTold { tier: "gold".into(), ..right() }).await;
        assert_eq!(tier.to_string(), "`tier`: no plan has the tier `gold`; there are free, starter, pro, elite");
        for until in [at(base - 1), Time::MAX_UTC] {
            let error = give(user, OverrideTold { until, ..right() }).await;
            assert!(matches!(error, OverrideError::BadUntil), "{error:?}");
        }
        for reason in ["", "  ", "a\nb", "x".repeat(1001).as_str()] {
            let error = give(user, OverrideTold { reason: reason.into(), ..right() }).await;
            assert!(matches!(error, OverrideError::BadReason), "{error:?}");
        }
        assert!(matches!(give(user, OverrideTold { by: String::new(), ..right() }).await, OverrideError::BadBy));
        assert!(matches!(give(user_id(9), right()).await, OverrideError::UserUnknown));
        assert!(desk.timeline(user).await.is_empty());
        desk.close().await;
    });
}

#[test]
fn an_override_whose_tier_no_plan_has_any_more_is_ignored_until_the_plan_comes_back() {
    on_each(|test_db| async {
        let mut desk = Desk::new(test_db).await;
        let (user, base) = (user_id(1), now());
        desk.put(user, "a@example.com").await;
        give(&desk, user, "pro", base + 5 * DAY).await;
        let whole = desk.catalog.clone();
        let plan = |tier: &str| Plan { tier: tier.into(), monthly_limit: Some(7), ..Plan::default() };
        desk.catalog = Catalog::new(vec![plan("free"), plan("starter")]).expect("a right catalogue").into();
        let again = async |desk: &Desk| {
            billing::reprojection::reproject_if_rules_changed(&desk.db, &desk.catalog, &desk.policy)
                .await
                .expect("an answer")
        };
        assert_eq!(again(&desk).await.changed, 1);
        assert_eq!(stored(&desk, user).await, "free active no access");
        let taken = desk.meter(at(base)).consume(user, 7, None).await.expect("7 are free now");
        assert_eq!(taken.figures.limit, Some(7));
        assert!(desk.user_at(user, at(base)).await.tier_override.is_some(), "and still there to be seen");
        desk.catalog = whole;
        assert_eq!(again(&desk).await.changed, 1);
        assert_eq!(stored(&desk, user).await, "pro active access");
        desk.close().await;
    });
}

/// So many users: most free, some monthly, one that was never looked at. Returns them all.
async fn population(desk: &Desk, base: i64) -> Vec<UserId> {
    let users: Vec<UserId> = (1..=40).map(user_id).collect();
    let mut events = Vec::new();
    for (number, user) in users.iter().enumerate() {
        desk.put(*user, &format!("u{number}@example.com")).await;
        if number % 4 == 0 {
            let mut sub = subscription(*user, "pro", base - DAY);
            sub.id = format!("sub_{number}");
            sub.customer = format!("cus_{number}");
            if number % 8 == 0 {
                sub.items[0].interval = "year".into();
                sub.set_period(base - DAY, base + 364 * DAY);
            }
            events.push(updated(&format!("evt_{number}"), base - 50, &sub));
        }
    }
    desk.apply(&events).await;
    users
}

/// Each user has one open window, which holds this moment, is mirrored in `users`, and is entered once.
async fn assert_in_order(desk: &Desk, users: &[UserId], now: Time) {
    for user in users {
        let ledger = desk.ledger(*user).await;
        let open: Vec<_> = ledger.iter().filter(|row| row.closed_at.is_none()).collect();
        assert_eq!(open.len(), 1, "{ledger:?}");
        assert!(open[0].period_start <= now && now < open[0].period_end, "{ledger:?}");
        let row =
            entity::users::Entity::find_by_id(*user).one(desk.db.reader()).await.expect("an answer").expect("a user");
        assert_eq!(
            (row.usage_source.as_deref(), row.usage_period_start, row.usage_period_end, row.usage_count),
            (Some(open[0].source.as_str()), Some(open[0].period_start), Some(open[0].period_end), open[0].used)
        );
        assert!(row.rolls_at > now);
    }
}

#[test]
fn a_reset_rolls_everybody_once_and_a_second_one_nobody() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let base = now();
        let users = population(&desk, base).await;
        // Nobody was rolled yet but by being put there and read.
        reset(desk.meter(at(base))).await;
        assert_in_order(&desk, &users, at(base)).await;
        for user in &users {
            desk.meter(at(base)).consume(*user, 2, None).await.expect("there is some");
        }
        for (day, moment) in [(45, at(base + 45 * DAY)), (200, at(base + 200 * DAY))] {
            let report = reset(desk.meter(moment)).await;
            assert_eq!((report.users, report.windows_opened, report.windows_closed), (40, 40, 40), "day {day}");
            assert_eq!((report.entitlements_ended, report.failed), (0, 0));
            assert!(report.largest_batch <= 40 && report.batches >= 1);
            assert_in_order(&desk, &users, moment).await;
            let second = reset(desk.meter(moment)).await;
            assert_eq!((second.users, second.windows_opened), (0, 0), "day {day}");
        }
        for user in &users {
            let counts: Vec<i64> =
                desk.ledger(*user).await.iter().map(|row| row.used).filter(|used| *used > 0).collect();
            assert_eq!(counts, [2], "what was used stays written");
        }
        desk.close().await;
    });
}

// What two replicas do, whose leases both think they hold.
#[test]
fn two_resets_at_once_share_the_work_and_none_of_it_is_done_twice() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let base = now();
        let users = population(&desk, base).await;
        reset(desk.meter(at(base))).await;
        let moment = at(base + 45 * DAY);
        let (one, other, third) = tokio::join!(reset(desk.meter(moment)), reset(desk.meter(moment)), async {
            for user in &users {
                desk.meter(moment).consume(*user, 1, None).await.expect("there is some");
            }
        });
        let () = third;
        let rows: usize = {
            let mut rows = 0;
            for user in &users {
                rows += desk.ledger(*user).await.len();
            }
            rows
        };
        assert!(one.users + other.users <= 40, "{one:?} {other:?}");
        let counts: BTreeSet<i64> = {
            let mut counts = BTreeSet::new();
            for user in &users {
                counts.insert(desk.user_at(*user, moment).await.used);
            }
            counts
        };
        assert_eq!(counts, BTreeSet::from([1]), "nothing was set back after it was counted");
        assert_in_order(&desk, &users, moment).await;
        reset(desk.meter(moment)).await;
        let mut after = 0;
        for user in &users {
            after += desk.ledger(*user).await.len();
        }
        assert_eq!(rows, after);
        desk.close().await;
    });
}

// kill -9 in mid-reset: the future is gone wherever it was, and with it its transaction.
#[test]
fn a_reset_that_is_cut_off_anywhere_leaves_nobody_out_and_resets_nobody_twice() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let base = now();
        let users = population(&desk, base).await;
        reset(desk.meter(at(base))).await;
        let mut moment = at(base);
        let mut cut = 0;
        for round in 0..60_u64 {
            if round % 10 == 0 {
                moment += TimeDelta::days(40);
            }
            let pause = Duration::from_micros(300 * (round % 10) * (round % 10));
            cut += u32::from(tokio::time::timeout(pause, reset(desk.meter(moment))).await.is_err());
            if round % 10 == 9 {
                let report = reset(desk.meter(moment)).await;
                assert!(report.users <= 40);
                assert_in_order(&desk, &users, moment).await;
                for user in &users {
                    let ledger = desk.ledger(*user).await;
                    let starts: BTreeSet<_> = ledger.iter().map(|row| (row.source.clone(), row.period_start)).collect();
                    assert_eq!(starts.len(), ledger.len());
                    desk.meter(moment).consume(*user, 1, None).await.expect("there is some");
                }
            }
        }
        assert!(cut > 0, "no run was cut off");
        for user in &users {
            let ledger = desk.ledger(*user).await;
            assert_eq!(ledger.iter().map(|row| row.used).sum::<i64>(), 6, "{:?} {ledger:#?}", desk.kind());
        }
        desk.close().await;
    });
}

#[test]
fn a_reset_stops_between_batches_when_it_is_told_to() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let base = now();
        population(&desk, base).await;
        let stop = CancellationToken::new();
        stop.cancel();
        let (progress, mut report) = (Progress::default(), Reset::default());
        let meter = desk.meter(at(base + 45 * DAY));
        meter.reset(&stop, &progress, &Watch::default(), &mut report).await.expect("an answer");
        assert_eq!((report.users, progress.total()), (0, Some(40)));
        let watched = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let watch = {
            let watched = std::sync::Arc::clone(&watched);
            Watch::new(move |rolled| {
                watched.fetch_add(rolled.users, std::sync::atomic::Ordering::Relaxed);
            })
        };
        meter.reset(&CancellationToken::new(), &progress, &watch, &mut report).await.expect("an answer");
        assert_eq!((report.users, progress.done(), watched.load(std::sync::atomic::Ordering::Relaxed)), (40, 40, 40));
        desk.close().await;
    });
}

#[test]
fn a_user_whose_facts_cannot_be_read_holds_nobody_up() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let base = now();
        let users = population(&desk, base).await;
        desk.sql(r#"UPDATE subscriptions SET items = '{"not": "a list"}' WHERE id = 'sub_4'"#).await;
        let moment = at(base + 45 * DAY);
        let report = reset(desk.meter(moment)).await;
        assert_eq!((report.users, report.failed), (39, 1));
        let (broken, well): (Vec<UserId>, Vec<UserId>) = users.iter().partition(|user| **user == user_id(5));
        assert_in_order(&desk, &well, moment).await;
        desk.sql("UPDATE subscriptions SET items = '[]' WHERE id = 'sub_4'").await;
        assert_eq!(reset(desk.meter(moment)).await.users, 1, "still due");
        assert_in_order(&desk, &broken, moment).await;
        desk.close().await;
    });
}

#[test]
fn whom_another_transaction_holds_is_rolled_last_and_not_left_out() {
    on_each(|test_db| async {
        if desk_is_sqlite(&test_db) {
            return;
        }
        let desk = Desk::new(test_db).await;
        let base = now();
        let users = population(&desk, base).await;
        reset(desk.meter(at(base))).await;
        let moment = at(base + 45 * DAY);
        let tx = desk.db.write().await.expect("a transaction");
        tx.execute_unprepared("UPDATE users SET full_name = 'held' WHERE email LIKE 'u1%'").await.expect("held");
        let watched = std::sync::Arc::new(tokio::sync::Notify::new());
        let watch = {
            let watched = std::sync::Arc::clone(&watched);
            Watch::new(move |_| watched.notify_one())
        };
        let (progress, mut report, stop) = (Progress::default(), Reset::default(), CancellationToken::new());
        let meter = desk.meter(moment);
        let (ended, ()) = tokio::join!(meter.reset(&stop, &progress, &watch, &mut report), async {
            watched.notified().await;
            assert_eq!(progress.done(), 29, "those who are free went first");
            tx.commit().await.expect("let go");
        });
        ended.expect("an answer");
        assert_eq!(report.users, 40);
        assert_in_order(&desk, &users, moment).await;
        desk.close().await;
    });
}

fn desk_is_sqlite(test_db: &testkit::TestDb) -> bool {
    test_db.kind() == Kind::Sqlite
}
