//! The laws that make deliveries in any order end the same: permutation, duplication, cutting into batches, API versions.

use std::collections::BTreeMap;

use billing::{
    apply::{Cause, Rules, Verdict, apply},
    catalog::Catalog,
    events::{Reading, read},
    facts::Stamp,
    policy::Policy,
    projection::{Entitlement, Outlook, Projection},
    samples::ApiVersion,
    world::{Ahead, User, World},
};
use entity::{
    Time,
    enums::{ChangeSource, ProcessingStatus},
    ids::{CustomerId, InvoiceId, SubscriptionId, UserId},
    stripe_customers, subscriptions,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use sea_orm::{EntityTrait, QueryOrder};
use serde_json::Value;
use testkit::{TestDb, kinds};

use crate::{
    desk::{Desk, NOW},
    history::{EMAIL, Script, Tie, play, script, user},
};

fn now() -> Time {
    Time::from_timestamp(NOW, 0).expect("a moment")
}

fn newcomer(id: UserId, email: &str) -> User {
    let entitlement = Entitlement {
        tier: "free".into(),
        status: "active".into(),
        access: false,
        limit: Some(5),
        current_period_end: None,
        cancel_at: None,
    };
    User {
        id,
        email: email.into(),
        carried: None,
        projection: Projection { entitlement, customer: None, subscription: None },
        ahead: Ahead::default(),
    }
}

/// Everything an account ends with, but for when rows were made.
#[derive(Debug, Clone, PartialEq)]
struct Account {
    projection: Projection,
    ahead: Outlook,
    subscriptions: BTreeMap<SubscriptionId, String>,
    customers: BTreeMap<CustomerId, String>,
    invoices: BTreeMap<InvoiceId, String>,
}

/// Applies events in memory, parked ones again until nothing moves any more.
fn run(events: &[Value]) -> Account {
    let (catalog, policy) = (Catalog::default(), Policy::default());
    let rules = Rules { catalog: &catalog, policy: &policy, now: now() };
    let mut world = World::default();
    world.insert_user(newcomer(user(), EMAIL));
    let mut waiting: Vec<&Value> = events.iter().collect();
    loop {
        let before = waiting.len();
        let parked: Vec<&Value> = waiting
            .iter()
            .copied()
            .filter(|event| matches!(tell(&mut world, event, rules), Some(Verdict::Parked(_))))
            .collect();
        if parked.len() == before || parked.is_empty() {
            break;
        }
        waiting = parked;
    }
    let stored = world.user(user()).expect("the user was put there");
    let (projection, ahead) = world.project(user(), &catalog, &policy, now());
    assert_eq!(
        (&stored.projection, stored.ahead.changes_at),
        (&projection, ahead.changes_at),
        "nothing is left to derive"
    );
    Account {
        projection,
        ahead,
        subscriptions: world.subscriptions().map(|s| (s.id.clone(), format!("{s:?}"))).collect(),
        customers: world.customers().map(|c| (c.id.clone(), format!("{c:?}"))).collect(),
        invoices: world.invoices().map(|i| (i.id.clone(), format!("{i:?}"))).collect(),
    }
}

fn tell(world: &mut World, event: &Value, rules: Rules<'_>) -> Option<Verdict> {
    let event_type = event["type"].as_str().expect("a type");
    let stamp = Stamp {
        at: Time::from_timestamp(event["created"].as_i64().expect("a second"), 0).expect("a moment"),
        event_id: event["id"].as_str().expect("an id").to_owned(),
    };
    match read(event_type, &event.to_string(), &stamp).expect("a readable event") {
        Reading::Told(told) => {
            let cause = Cause { event_type, source: ChangeSource::Webhook, stamp: &stamp };
            Some(apply(world, *told, cause, rules).verdict)
        }
        _ => None,
    }
}

/// A script, an order in which its events arrive, and which of them arrive twice.
fn delivery(bursts: bool) -> impl Strategy<Value = (Script, Vec<Value>, Vec<Value>)> {
    script(bursts)
        .prop_flat_map(|script| {
            let events = play(&script, ApiVersion::LATEST).0;
            let twice = prop::collection::vec(any::<bool>(), events.len());
            (Just(script), Just(events), twice)
        })
        .prop_flat_map(|(script, events, twice)| {
            let mut arriving = events.clone();
            arriving.extend(events.iter().zip(twice).filter(|(_, twice)| *twice).map(|(event, _)| event.clone()));
            (Just(script), Just(events), Just(arriving).prop_shuffle())
        })
}

proptest! {
    #![proptest_config(Config { cases: 400, ..Config::default() })]

    #[test]
    fn any_permutation_and_duplication_of_a_history_ends_in_the_same_account(
        (_, in_order, arriving) in delivery(true),
    ) {
        prop_assert_eq!(run(&in_order), run(&arriving));
    }

    #[test]
    fn a_history_ends_where_stripes_own_last_word_does((script, _, arriving) in delivery(false)) {
        let expected = play(&script, ApiVersion::LATEST).1;
        let entitlement = run(&arriving).projection.entitlement;
        prop_assert_eq!((entitlement.tier, entitlement.access), expected);
    }

    #[test]
    fn one_history_in_the_shapes_of_five_api_versions_ends_the_same(script in script(true)) {
        let newest = run(&play(&script, ApiVersion::LATEST).0);
        for version in ApiVersion::ALL {
            prop_assert_eq!(&newest, &run(&play(&script, version).0), "{}", version);
        }
    }
}

#[test]
fn a_history_in_mixed_api_versions_ends_as_in_one() {
    let script = Script { tie: Tie::Email, ..one_of_each() };
    let newest = play(&script, ApiVersion::LATEST).0;
    let oldest = play(&script, ApiVersion::V2020_08_27).0;
    let mixed: Vec<Value> = newest
        .iter()
        .zip(&oldest)
        .enumerate()
        .map(|(i, (new, old))| if i % 2 == 0 { new } else { old }.clone())
        .collect();
    assert_eq!(run(&newest), run(&mixed));
}

fn one_of_each() -> Script {
    use crate::history::Step::{
        Buy, ChangeEmail, ChangePlan, End, FailPayment, PayLate, Renew, ScheduleEnd, Unschedule,
    };
    let steps = [
        Buy { plan: 0, trial: true },
        Renew,
        FailPayment,
        PayLate,
        ChangePlan(2),
        ScheduleEnd,
        Unschedule,
        ChangeEmail,
        Buy { plan: 1, trial: false },
        End,
    ];
    Script { tie: Tie::Metadata, steps: steps.into_iter().map(|step| (step, 0, 3600)).collect() }
}

/// Delivers and applies in batches of these sizes, on a database.
async fn run_on(
    desk: &Desk,
    arriving: &[Value],
    cuts: &[usize],
) -> ((Projection, Option<Time>), Vec<subscriptions::Model>, Vec<stripe_customers::Model>) {
    desk.put(user(), EMAIL).await;
    let mut rest = arriving;
    let mut sizes = cuts.iter().copied().cycle();
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(1).clamp(1, rest.len());
        let (now, later) = rest.split_at(size);
        desk.apply(now).await;
        rest = later;
    }
    desk.wait_out().await;
    desk.work().await;
    let epoch = Time::UNIX_EPOCH;
    let row =
        entity::users::Entity::find_by_id(user()).one(desk.db.reader()).await.expect("an answer").expect("the user");
    let subscriptions =
        subscriptions::Entity::find().order_by_asc(subscriptions::Column::Id).all(desk.db.reader()).await;
    let customers =
        stripe_customers::Entity::find().order_by_asc(stripe_customers::Column::Id).all(desk.db.reader()).await;
    (
        (desk.user(user()).await.projection, row.entitlement_changes_at),
        subscriptions
            .expect("the database answers")
            .into_iter()
            .map(|row| subscriptions::Model { created_at: epoch, updated_at: epoch, ..row })
            .collect(),
        customers
            .expect("the database answers")
            .into_iter()
            .map(|row| stripe_customers::Model { created_at: epoch, updated_at: epoch, ..row })
            .collect(),
    )
}

/// A customer who is nobody's leaves events that wait.
async fn close(desk: Desk) {
    let parked = desk.count(ProcessingStatus::Pending).await;
    desk.close_with(parked, 0).await;
}

#[test]
fn any_cut_of_a_history_into_batches_ends_in_the_same_account_on_each_database() {
    for kind in kinds() {
        let cases = Config { cases: 12, max_shrink_iters: 30, ..Config::default() };
        let mut runner = TestRunner::new(cases);
        let strategy = (delivery(true), prop::collection::vec(1..9_usize, 1..6));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let law = runner.run(&strategy, |((_, in_order, arriving), cuts)| {
            let (one, other) = runtime.block_on(async {
                let desk = Desk::new(TestDb::migrated(kind).await).await;
                let whole = run_on(&desk, &in_order, &[usize::MAX]).await;
                close(desk).await;
                let desk = Desk::new(TestDb::migrated(kind).await).await;
                let cut = run_on(&desk, &arriving, &cuts).await;
                close(desk).await;
                (whole, cut)
            });
            prop_assert_eq!(&one, &other);
            let account = run(&in_order);
            prop_assert_eq!(&one.0, &(account.projection, account.ahead.changes_at));
            Ok(())
        });
        if let Err(error) = law {
            panic!("{kind:?}: {error}");
        }
    }
}
