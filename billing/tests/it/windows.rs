//! The laws of time: what a moment changes, and that it does not matter who looks when.

use std::collections::BTreeMap;

use billing::{
    catalog::Catalog,
    facts::{Item, Kind, Rank, Snapshot, Subscription, Version},
    policy::Policy,
    projection::{Outlook, Override, Projection, Standing, project},
    usage::{OpenWindow, Source},
};
use chrono::{Months, TimeDelta};
use entity::{Time, enums::SubscriptionStatus, ids::SubscriptionId};
use proptest::prelude::*;

const DAY: i64 = 86_400;

fn second(second: i64) -> Time {
    Time::from_timestamp(second, 0).expect("in range")
}

/// Around leap years and everything else: 2023 to 2029.
fn moment() -> impl Strategy<Value = Time> {
    (1_672_531_200_i64..1_861_920_000).prop_map(second)
}

fn status() -> impl Strategy<Value = SubscriptionStatus> {
    use SubscriptionStatus::{Active, Canceled, PastDue, Paused, Trialing, Unpaid};
    prop_oneof![4 => Just(Active), 2 => Just(Trialing), 2 => Just(PastDue), 1 => Just(Unpaid), 1 => Just(Paused), 1 => Just(Canceled)]
}

/// As Stripe makes them: periods that hold some moment near `about`, counted from an anchor.
fn subscription(about: Time) -> impl Strategy<Value = Subscription> {
    let interval =
        prop_oneof![4 => Just(("month", 1)), 2 => Just(("year", 1)), 1 => Just(("month", 3)), 1 => Just(("week", 1))];
    let near = move |days: i64| (-days * DAY..days * DAY).prop_map(move |offset| about + TimeDelta::seconds(offset));
    (
        (1..4_u8, prop_oneof!["starter", "pro", "elite"], status(), interval),
        (near(500), any::<bool>(), prop::option::of(near(20)), prop::option::of(near(60)), any::<bool>()),
    )
        .prop_map(
            move |((id, tier, status, interval), (anchor, renewed, trial, cancel_at, cancel_at_period_end))| {
                let months = match interval {
                    ("year", _) => 12,
                    (_, count) => count,
                };
                let months = u32::try_from(months).expect("a small number");
                // The period that holds `about`, or the one before, whose renewal is late.
                let mut number = 0;
                let bound = |number: i32| {
                    let months = Months::new(months * number.unsigned_abs());
                    if number < 0 { anchor - months } else { anchor + months }
                };
                while bound(number) > about {
                    number -= 1;
                }
                while bound(number + 1) <= about {
                    number += 1;
                }
                number -= i32::from(!renewed);
                let mut snapshot = Snapshot::of_status(status);
                snapshot.billing_cycle_anchor = Some(anchor);
                snapshot.period_start = Some(bound(number));
                snapshot.period_end = Some(bound(number + 1));
                snapshot.trial_start = trial;
                snapshot.trial_end = trial.map(|start| start + TimeDelta::days(14));
                snapshot.cancel_at = cancel_at;
                snapshot.cancel_at_period_end = cancel_at_period_end;
                snapshot.items = vec![Item {
                    lookup_key: Some(tier),
                    interval: Some(interval.0.to_owned()),
                    interval_count: Some(interval.1),
                    ..Item::default()
                }];
                Subscription {
                    snapshot,
                    version: Version {
                        rank: Rank::Living,
                        at: about - TimeDelta::days(1),
                        kind: Kind::Other,
                        event_id: "evt_1".into(),
                    },
                    ..Subscription::unseen(SubscriptionId::parse(format!("sub_{id}")).expect("an id"))
                }
            },
        )
}

#[derive(Debug, Clone)]
struct Facts {
    subscriptions: Vec<Subscription>,
    given: Option<Override>,
}

fn facts(about: Time) -> impl Strategy<Value = Facts> {
    let given = (prop_oneof!["free", "starter", "pro", "elite", "gone"], -20 * DAY..60 * DAY).prop_map(
        move |(tier, offset)| Override {
            tier,
            until: about + TimeDelta::seconds(offset),
            reason: "r".into(),
            by: "b".into(),
            created_at: about,
        },
    );
    (prop::collection::vec(subscription(about), 0..3), prop::option::weighted(0.3, given)).prop_map(
        |(mut subscriptions, given)| {
            subscriptions.sort_by(|a, b| a.id.cmp(&b.id));
            subscriptions.dedup_by(|a, b| a.id == b.id);
            Facts { subscriptions, given }
        },
    )
}

fn at(facts: &Facts, now: Time) -> (Projection, Outlook) {
    let standing = |subscription| Standing { subscription, invoice: None, customer_deleted: false };
    let standings: Vec<Standing<'_>> = facts.subscriptions.iter().map(standing).collect();
    let policy = Policy { past_due_grace: Some(TimeDelta::days(9)), ..Policy::default() };
    project(&standings, None, facts.given.as_ref(), &Catalog::default(), &policy, now)
}

/// The ledger as the database keeps it: a row for each source and start.
#[derive(Debug, Default)]
struct Ledger {
    rows: BTreeMap<(Source, Time), i64>,
    open: Option<OpenWindow>,
    rolls_at: Time,
    entered: Vec<(Source, Time)>,
}

impl Ledger {
    /// Rolls, if due.
    fn visit(&mut self, facts: &Facts, now: Time) {
        if self.rolls_at > now {
            return;
        }
        let (_, ahead) = at(facts, now);
        let next = ahead.window;
        if !self.open.as_ref().is_some_and(|open| open.is_same_row(&next)) {
            let key = (next.source.clone(), next.window.start);
            self.rows.entry(key.clone()).or_insert(0);
            self.entered.push(key);
        }
        self.open = Some(next);
        self.rolls_at = ahead.rolls_at;
    }

    fn consume(&mut self, facts: &Facts, now: Time) -> OpenWindow {
        self.visit(facts, now);
        let open = self.open.clone().expect("visited");
        *self.rows.get_mut(&(open.source.clone(), open.window.start)).expect("entered") += 1;
        open
    }
}

/// Moments in order, from `start`: every few hours, in leaps of days and months, or mixed.
fn walk() -> impl Strategy<Value = Vec<i64>> {
    let step = prop_oneof![Just(1_i64), Just(3600), 1..DAY, DAY..4 * DAY, 20 * DAY..200 * DAY];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    // What makes a late, missed or doubled visit harmless: until the moment it names, nothing changes.
    #[test]
    fn nothing_changes_before_the_moment_that_is_named(
        (about, facts) in moment().prop_flat_map(|about| (Just(about), facts(about))), part in 0.0_f64..1.0,
    ) {
        let (projection, ahead) = at(&facts, about);
        prop_assert!(ahead.rolls_at > about);
        prop_assert!(ahead.window.window.contains(about));
        let within = |end: Time| {
            let seconds = (end - about).num_seconds();
            #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "any moment in between will do")]
            let offset = (seconds as f64 * part) as i64;
            about + TimeDelta::seconds(offset.clamp(0, seconds - 1))
        };
        for later in [within(ahead.rolls_at), ahead.rolls_at - TimeDelta::seconds(1)] {
            let (same, still) = at(&facts, later);
            prop_assert_eq!(&same, &projection);
            prop_assert_eq!(&still.window, &ahead.window);
            prop_assert_eq!(still.rolls_at, ahead.rolls_at);
        }
        // Nobody looks later than a century.
        let end = ahead.changes_at.unwrap_or(about + TimeDelta::days(36_500));
        for later in [within(end), end - TimeDelta::seconds(1)] {
            prop_assert_eq!(&at(&facts, later).0, &projection);
        }
    }

    #[test]
    fn however_time_is_walked_the_same_window_is_open_and_each_use_counts_in_the_window_it_falls_into(
        (start, facts) in moment().prop_flat_map(|about| (Just(about), facts(about))), steps in walk(), extra in walk(),
    ) {
        let mut now = start;
        let mut moments = vec![start];
        for step in &steps {
            now += TimeDelta::seconds(*step);
            moments.push(now);
        }
        let mut used = Ledger::default();
        // Another who comes by at other moments as well, and twice each.
        let mut busy = Ledger::default();
        let mut other = start;
        let mut others = extra.into_iter();
        let mut uses: BTreeMap<(Source, Time), i64> = BTreeMap::new();
        for &now in &moments {
            while other < now {
                busy.visit(&facts, other);
                busy.visit(&facts, other);
                let Some(step) = others.next() else { break };
                other += TimeDelta::seconds(step);
            }
            let open = used.consume(&facts, now);
            prop_assert!(open.window.contains(now), "{:?} does not hold {}", open, now);
            prop_assert_eq!(&busy.consume(&facts, now), &open);
            prop_assert_eq!(&at(&facts, now).1.window, &open);
            *uses.entry((open.source, open.window.start)).or_default() += 1;
        }
        // Nothing was lost and nothing set back.
        used.rows.retain(|_, count| *count > 0);
        busy.rows.retain(|_, count| *count > 0);
        prop_assert_eq!(&used.rows, &uses);
        prop_assert_eq!(&busy.rows, &uses);
    }

    #[test]
    fn windows_of_one_source_never_overlap_and_none_is_begun_twice(
        (start, facts) in moment().prop_flat_map(|about| (Just(about), facts(about))), steps in walk(),
    ) {
        let mut ledger = Ledger::default();
        let mut now = start;
        let mut last: BTreeMap<Source, OpenWindow> = BTreeMap::new();
        for step in steps {
            ledger.visit(&facts, now);
            let open = ledger.open.clone().expect("visited");
            if let Some(before) = last.insert(open.source.clone(), open.clone()) {
                let same = before.is_same_row(&open);
                // A trial is cut out of what would otherwise be one window; its neighbours may begin or end within that.
                let trial = facts.subscriptions.iter().any(|s| s.snapshot.trial_start.is_some());
                prop_assert!(same || trial || before.window.end <= open.window.start, "{:?} {:?}", before, open);
            }
            now += TimeDelta::seconds(step);
        }
        // Subscriptions only ever end here, so each window is entered once, unless an end leads back to an earlier one.
        let mut entered = ledger.entered.clone();
        entered.sort();
        let all = entered.len();
        entered.dedup();
        if facts.subscriptions.iter().all(|s| s.snapshot.trial_start.is_none()) && facts.given.is_none() {
            prop_assert!(all - entered.len() <= facts.subscriptions.len());
        }
    }
}

#[test]
fn a_walk_by_seconds_over_a_month_end_opens_each_window_once() {
    // Known from openmeter#1408: a reset at the very moment of the recurrence counted twice.
    let anchor: Time = "2028-01-31T23:59:58Z".parse().expect("a moment");
    let mut snapshot = Snapshot::of_status(SubscriptionStatus::Active);
    snapshot.billing_cycle_anchor = Some(anchor);
    snapshot.period_start = Some(anchor);
    snapshot.period_end = Some("2028-02-29T23:59:58Z".parse().expect("a moment"));
    snapshot.items = vec![Item {
        lookup_key: Some("pro".into()),
        interval: Some("month".into()),
        interval_count: Some(1),
        ..Item::default()
    }];
    let mut subscription = Subscription::unseen(SubscriptionId::parse("sub_1").expect("an id"));
    subscription.snapshot = snapshot;
    subscription.version.rank = Rank::Living;
    let facts = Facts { subscriptions: vec![subscription], given: None };
    let mut ledger = Ledger::default();
    let mut now: Time = "2028-02-29T23:59:50Z".parse().expect("a moment");
    for _ in 0..20 {
        ledger.consume(&facts, now);
        ledger.visit(&facts, now);
        now += TimeDelta::seconds(1);
    }
    let starts: Vec<String> = ledger.entered.iter().map(|(_, start)| start.to_rfc3339()).collect();
    assert_eq!(starts, ["2028-01-31T23:59:58+00:00", "2028-02-29T23:59:58+00:00"]);
    assert_eq!(ledger.rows.values().copied().collect::<Vec<_>>(), [8, 12]);
}
