//! A database in which a host was before us: nobody loses anything before the go-ahead, and Stripe's word counts.

use std::sync::Arc;

use billing::{
    adoption::{self, ReleaseError},
    refresh::{RefreshError, Refresher},
    users::{self, PutError, UserTold},
};
use chrono::TimeDelta;
use entity::{
    Time,
    enums::{ChangeSource, DriftKind, ReconcileOutcome},
    ids::UserId,
};
use sea_orm::{ConnectionTrait, Statement};
use serde_json::Value;
use testkit::{
    Kind, TestDb,
    host::{HostUser, SCHEMA},
    kinds,
};
use tokio_util::sync::CancellationToken;

use crate::{
    reconcile_desk::{APPLY, DRY, ReconcileDesk, anonymous, kinds as found, shown},
    semantics::told,
};

const fn user(
    number: u32,
    tier: &'static str,
    status: &'static str,
    ids: [&'static str; 2],
    used: i32,
    limit: i32,
) -> HostUser {
    HostUser { number, tier, status, customer: ids[0], subscription: ids[1], used, limit }
}

const FREE: HostUser = user(1, "free", "active", ["", ""], 3, 5);
const NAMED: HostUser = user(2, "pro", "active", ["cus_2", "sub_2"], 42, 100);
const UNNAMED: HostUser = user(3, "pro", "active", ["cus_3", ""], 25, 30);
const NO_CUSTOMER: HostUser = user(4, "elite", "past_due", ["", ""], 7, -1);
const CANCELED: HostUser = user(5, "pro", "canceled", ["cus_5", "sub_5"], 9, 250);
const GONE: HostUser = user(6, "pro", "active", ["cus_6", "sub_6"], 0, 100);
const ALL: [HostUser; 6] = [FREE, NAMED, UNNAMED, NO_CUSTOMER, CANCELED, GONE];

fn id(user: HostUser) -> UserId {
    user.id().parse().expect("an id")
}

/// An adopted database, taken over, with a Stripe beside it whose clock is some seconds ahead of the adoption.
async fn adopted() -> ReconcileDesk {
    let database = TestDb::empty(Kind::Postgres).await;
    let db = database.connect().await;
    db.execute_unprepared(SCHEMA).await.expect("a host's database can be made");
    for user in ALL {
        db.execute_unprepared(&user.insert()).await.expect("a user of the host's");
    }
    migration::up(&db, None).await.expect("it is adopted");
    migration::carry_over_again(&db, true).await.expect("it is taken over");
    let r = ReconcileDesk::new(database).await;
    r.stripe.at(now(&r).await.timestamp() + 5);
    r
}

async fn now(r: &ReconcileDesk) -> Time {
    billing::db::clock(r.desk.db.reader()).await.expect("the database answers")
}

/// Tier, status, access, limit and usage, as the API tells them, and the host's own columns.
async fn told_of(r: &ReconcileDesk, user: HostUser) -> String {
    let view = r.desk.user_at(id(user), now(r).await).await;
    let may = &view.projection.entitlement;
    let limit = may.limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let access = if may.access { "access" } else { "none" };
    let sql = format!("SELECT subscription_tier || ' ' || propiq_usage_count FROM users WHERE id = '{}'", user.id());
    let row = r.desk.db.reader().query_one_raw(Statement::from_string(sea_orm::DbBackend::Postgres, sql)).await;
    let host: String = row.expect("an answer").expect("a row").try_get_by_index(0).expect("a text");
    format!("{} {} {access} {}/{limit} | {host}", may.tier, may.status, view.used)
}

fn on_adopted<F: Future<Output = ()>>(test: impl FnOnce(ReconcileDesk) -> F) {
    if kinds().contains(&Kind::Postgres) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime can be made").block_on(async { test(adopted().await).await });
    }
}

/// What Stripe has: that of NAMED, of UNNAMED and of CANCELED lives, that of GONE ended, and NO_CUSTOMER has none.
fn at_stripe() -> Vec<Value> {
    let ended = shown(&anonymous(6, "canceled"));
    [2, 3, 5].iter().map(|number| shown(&anonymous(*number, "active"))).chain([ended]).collect()
}

const AS_ADOPTED: [(HostUser, &str); 6] = [
    (FREE, "free active none 3/5 | free 3"),
    (NAMED, "pro active access 42/100 | pro 42"),
    (UNNAMED, "pro active access 25/30 | pro 25"),
    (NO_CUSTOMER, "elite past_due access 7/unlimited | elite 7"),
    (CANCELED, "pro canceled access 9/250 | pro 9"),
    (GONE, "pro active access 0/100 | pro 0"),
];

#[test]
fn nobody_loses_anything_before_a_dry_run_was_given_the_go_ahead_and_then_stripes_word_counts() {
    on_adopted(|r| async move {
        r.stripe.subscriptions(at_stripe());
        // Everything that derives anew does so.
        billing::reprojection::reproject_if_rules_changed(&r.desk.db, &r.desk.catalog, &r.desk.policy)
            .await
            .expect("derived");
        for (user, told) in AS_ADOPTED {
            assert_eq!(told_of(&r, user).await, told);
            assert!(r.desk.timeline(id(user)).await.is_empty(), "and nothing has changed: {told}");
        }
        let refused = r.run(APPLY).await;
        assert_eq!((refused.outcome, refused.repaired), (ReconcileOutcome::Refused, 0));
        assert!(
            refused.error.as_deref().is_some_and(|why| why.contains("trueup reconcile release")),
            "{:?}",
            refused.error
        );
        let calls = r.stripe.calls();
        let (catalog, policy) = (Arc::clone(&r.desk.catalog), Arc::clone(&r.desk.policy));
        let refresher = Refresher::new(r.desk.db.clone(), catalog, policy, Arc::new(r.stripe.clone()));
        refresher.refresh_flagged(100, &CancellationToken::new()).await.expect("swept");
        assert_eq!(r.stripe.calls(), calls, "a sweep asks for nothing that is held");
        let lowering = refresher.refresh_user(id(GONE), ChangeSource::Operator).await;
        assert!(matches!(lowering, Err(RefreshError::AwaitsRelease)), "{lowering:?}");
        let (none, early) =
            (adoption::release(&r.desk.db, None, "ada").await, adoption::awaits_release(r.desk.db.reader()).await);
        assert!(matches!(none, Err(ReleaseError::NoDryRun)) && early.expect("an answer"));

        let dry = r.succeeds(DRY).await;
        assert_eq!((dry.access.paid, dry.access.lose, dry.access.gain), (5, 2, 0));
        assert!(found(&dry).contains(&(DriftKind::Unconfirmed, 2)), "{:?}", found(&dry));
        for (user, told) in AS_ADOPTED {
            assert_eq!(told_of(&r, user).await, told, "a dry run changes nothing");
        }
        let one = r.succeeds(billing::reconcile::Options { user: Some(id(GONE)), ..DRY }).await;
        let not = adoption::release(&r.desk.db, Some(one.reconciliation), "ada").await;
        assert!(matches!(not, Err(ReleaseError::NotSuitable { .. })), "{not:?}");
        let (release, record) = adoption::release(&r.desk.db, None, "ada").await.expect("released");
        assert_eq!((release.by.as_str(), record.id), ("ada", dry.reconciliation));
        assert!(matches!(adoption::release(&r.desk.db, None, "bob").await, Err(ReleaseError::Already(_))));
        for (user, told) in AS_ADOPTED {
            assert_eq!(told_of(&r, user).await, told, "the go-ahead alone changes nothing");
        }

        let applied = r.succeeds(APPLY).await;
        assert_eq!(applied.access.lose, 2, "as the dry run said");
        for (user, told) in [
            (FREE, "free active none 3/5 | free 3"),
            (NAMED, "pro active access 42/100 | pro 42"),
            (UNNAMED, "pro active access 25/100 | pro 25"),
            (NO_CUSTOMER, "free active none 7/5 | free 7"),
            (CANCELED, "pro active access 9/100 | pro 9"),
            (GONE, "free canceled none 0/5 | free 0"),
        ] {
            assert_eq!(told_of(&r, user).await, told);
        }
        let again = r.succeeds(APPLY).await;
        assert_eq!(found(&again), [], "and that is all");
        r.desk.close().await;
    });
}

#[test]
fn a_webhook_counts_as_stripes_word_on_the_subscription_it_names_and_on_no_other() {
    on_adopted(|r| async move {
        let created = now(&r).await.timestamp() - crate::desk::NOW;
        let event = |number: &str, kind: &str, subscription: &billing::samples::SubscriptionSample| {
            told(number, kind, -created - 3, shown(subscription))
        };
        // Another subscription of the same customer ended; that the host's word meant this one, nobody knows.
        let mut other = anonymous(2, "canceled");
        other.id = "sub_other".into();
        // The unnamed one: of the same customer, at the same tier.
        let unnamed = anonymous(3, "active");
        r.desk
            .apply(&[
                event("evt_1", "customer.subscription.deleted", &other),
                event("evt_2", "customer.subscription.deleted", &anonymous(6, "canceled")),
                event("evt_3", "customer.subscription.updated", &unnamed),
            ])
            .await;
        for (user, told) in [
            (NAMED, "pro active access 42/100 | pro 42"),
            (GONE, "free canceled none 0/5 | free 0"),
            (UNNAMED, "pro active access 25/100 | pro 25"),
            (NO_CUSTOMER, "elite past_due access 7/unlimited | elite 7"),
        ] {
            assert_eq!(told_of(&r, user).await, told);
        }
        let mut ended = unnamed;
        ended.status = "canceled".into();
        r.desk.apply(&[event("evt_4", "customer.subscription.deleted", &ended)]).await;
        assert!(told_of(&r, UNNAMED).await.starts_with("free canceled none"), "{}", told_of(&r, UNNAMED).await);
        r.desk.close().await;
    });
}

#[test]
fn counting_by_us_and_by_the_host_is_one_count() {
    on_adopted(|r| async move {
        let at = now(&r).await;
        for (user, counted) in [
            (FREE, "4/5 | free 4"),
            (NAMED, "43/100 | pro 43"),
            (UNNAMED, "26/30 | pro 26"),
            (NO_CUSTOMER, "8/unlimited | elite 8"),
        ] {
            r.desk.meter(at).consume(id(user), 1, Some("key")).await.expect("the allowance holds it");
            assert!(told_of(&r, user).await.ends_with(counted), "{}", told_of(&r, user).await);
            r.desk
                .sql(&format!(
                    "UPDATE users SET propiq_usage_count = propiq_usage_count + 1 WHERE id = '{}'",
                    user.id()
                ))
                .await;
        }
        let full = r.desk.meter(at).consume(id(FREE), 1, None).await;
        assert!(full.is_err(), "what the host counted counts: {full:?}");
        r.desk.meter(at).release(id(NAMED), "key").await.expect("released");
        assert!(told_of(&r, NAMED).await.ends_with("43/100 | pro 43"), "{}", told_of(&r, NAMED).await);
        // The next window begins at 0 for both.
        r.desk.meter(at + TimeDelta::days(40)).roll(id(FREE)).await.expect("rolled");
        let sql = format!("SELECT propiq_usage_count || ' ' || usage_count FROM users WHERE id = '{}'", FREE.id());
        let row = r.desk.db.reader().query_one_raw(Statement::from_string(sea_orm::DbBackend::Postgres, sql)).await;
        let both: String = row.expect("an answer").expect("a row").try_get_by_index(0).expect("a text");
        assert_eq!(both, "0 0");
        r.desk.close().await;
    });
}

#[test]
fn what_the_hosts_table_does_not_let_us_do_is_told_clearly() {
    on_adopted(|r| async move {
        let new = UserTold { id: UserId(uuid::Uuid::from_u128(99)), email: "new@example.com".into(), full_name: None };
        let refused = users::put(&r.desk.db, &r.desk.catalog, &r.desk.policy, new).await;
        let Err(error @ PutError::HostMakesUsers { .. }) = refused else { panic!("{refused:?}") };
        assert!(error.to_string().contains("the column `password_hash`"), "{error}");
        let known = UserTold { id: id(FREE), email: "Changed@example.com".into(), full_name: Some("New".into()) };
        assert!(
            users::put(&r.desk.db, &r.desk.catalog, &r.desk.policy, known).await.is_ok_and(|(_, created)| !created)
        );

        r.desk.sql("ALTER TABLE users DROP CONSTRAINT users_subscription_tier_check").await;
        r.desk
            .sql("ALTER TABLE users ADD CONSTRAINT tiers CHECK (subscription_tier IN ('free', 'pro', 'elite'))")
            .await;
        r.desk
            .sql("CREATE FUNCTION monthly() RETURNS void LANGUAGE sql AS 'UPDATE users SET propiq_usage_count = 0'")
            .await;
        let items = adoption::look(&r.desk.db, &r.desk.catalog).await.expect("looked");
        let all: Vec<String> =
            items.iter().map(|item| format!("{} -> {}", item.what, item.remedy.clone().unwrap_or_default())).collect();
        for part in [
            "the constraint tiers of users does not let subscription_tier be starter",
            "no dry run was given",
            "has the function monthly",
        ] {
            assert!(all.iter().any(|item| item.contains(part)), "{part}: {all:#?}");
        }
        let remedy = items[0].remedy.clone().expect("a remedy");
        for statement in remedy.split("; then ") {
            r.desk.sql(statement).await;
        }
        let items = adoption::look(&r.desk.db, &r.desk.catalog).await.expect("looked");
        assert!(items.iter().all(|item| !item.what.contains("tiers")), "the remedy heals it: {items:?}");
        r.desk.close().await;
    });
}
