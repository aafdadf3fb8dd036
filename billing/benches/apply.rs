//! What the processor spends on one `customer.subscription.updated` of about 4.6 KB, step by step; no database, no HTTP.
//!
//! `cargo bench -p billing --bench apply`

use std::hint::black_box;

use billing::{
    apply::{Applied, Cause, Rules, apply},
    catalog::Catalog,
    event::{VerifiedEvent, verify},
    events::{Reading, Told, read},
    facts::Stamp,
    policy::Policy,
    projection::{Entitlement, Projection},
    samples::{Scene, scene_events},
    signature::{self, Tolerance, WebhookSecret, sign},
    world::{Ahead, User, World},
};
use chrono::{DateTime, Utc};
use criterion::{BatchSize, Criterion, Throughput};
use entity::{enums::ChangeSource, ids::UserId};
use serde_json::json;
use uuid::Uuid;

const EVENT_TYPE: &str = "customer.subscription.updated";
const USER: UserId = UserId(Uuid::from_u128(0xb3ec_0000_0000_4000_8000_0000_0000_0001));
const NOW: i64 = 1_795_000_000;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(NOW, 0).expect("a moment in 2026")
}

/// The event of second `at`: the subscription's period begins there.
fn body(at: i64) -> Vec<u8> {
    let scene = Scene {
        user_id: Some(USER.to_string()),
        customer: "cus_Bench000000001".to_owned(),
        subscription: "sub_1Bench000000000000000001".to_owned(),
        invoice: "in_1Bench000000000000000001".to_owned(),
        ..Scene::new(format!("1Bench{at:018}"), "bench@example.com", "pro", at)
    };
    let mut event = scene_events(EVENT_TYPE, &scene).and_then(|mut events| events.pop()).expect("a type with a sample");
    // As `ingest`, the load generator, cuts it to size.
    let previous = &mut event["data"]["previous_attributes"];
    if let Some(item) = previous["items"]["data"][0].as_object_mut() {
        item.retain(|name, _| matches!(name.as_str(), "current_period_end" | "current_period_start" | "id" | "price"));
    }
    *previous = json!({ "items": previous["items"] });
    event.to_string().into_bytes()
}

/// One delivery, and what is needed to take it.
struct Delivery {
    body: Vec<u8>,
    header: String,
    secrets: [WebhookSecret; 1],
}

impl Delivery {
    fn new(at: i64) -> Self {
        let secret = WebhookSecret::parse("whsec_bench").expect("not empty");
        let body = body(at);
        Self { header: sign(&secret, NOW, &body), body, secrets: [secret] }
    }

    fn verify(&self) -> VerifiedEvent {
        verify(&self.body, Some(self.header.as_bytes()), &self.secrets, now(), Tolerance::default()).expect("signed")
    }
}

fn told(event: &VerifiedEvent) -> (Told, Stamp) {
    let stamp = Stamp { at: event.created().unwrap_or_default(), event_id: event.id().to_string() };
    match read(event.event_type(), event.payload(), &stamp) {
        Ok(Reading::Told(told)) => (*told, stamp),
        other => panic!("not an event that tells something: {other:?}"),
    }
}

fn apply_to(world: &mut World, event: &VerifiedEvent, catalog: &Catalog, policy: &Policy) -> Applied {
    let (told, stamp) = told(event);
    let cause = Cause { event_type: event.event_type(), source: ChangeSource::Webhook, stamp: &stamp };
    apply(world, told, cause, Rules { catalog, policy, now: now() })
}

/// A user who has never paid.
fn user() -> User {
    let entitlement = Entitlement {
        tier: "free".to_owned(),
        status: "active".to_owned(),
        access: false,
        limit: Some(5),
        current_period_end: None,
        cancel_at: None,
    };
    User {
        id: USER,
        email: "bench@example.com".to_owned(),
        carried: None,
        projection: Projection { entitlement, customer: None, subscription: None },
        ahead: Ahead::default(),
    }
}

fn benches(criterion: &mut Criterion) {
    let earlier = Delivery::new(NOW - 20);
    let delivery = Delivery::new(NOW - 10);
    let (catalog, policy) = (Catalog::default(), Policy::default());
    let mut world = World::default();
    world.insert_user(user());
    apply_to(&mut world, &earlier.verify(), &catalog, &policy);
    // Otherwise the figures would be those of an event that comes to nothing.
    let applied = apply_to(&mut world.clone(), &delivery.verify(), &catalog, &policy);
    assert_eq!((applied.user, applied.changes.len()), (Some(USER), 1), "{applied:?}");

    let mut group = criterion.benchmark_group(format!("{EVENT_TYPE}, {} bytes", delivery.body.len()));
    group.throughput(Throughput::Bytes(delivery.body.len() as u64));
    group.bench_function("signature", |bencher| {
        let header = delivery.header.as_bytes();
        bencher.iter(|| {
            signature::check(Some(header), black_box(&delivery.body), &delivery.secrets, now(), Tolerance::default())
        });
    });
    group.bench_function("verify", |bencher| bencher.iter(|| black_box(&delivery).verify()));
    group.bench_function("verify + read", |bencher| bencher.iter(|| told(&black_box(&delivery).verify())));
    group.bench_function("verify + read + apply", |bencher| {
        bencher.iter_batched_ref(
            || world.clone(),
            |world| apply_to(world, &black_box(&delivery).verify(), &catalog, &policy),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    benches(&mut criterion);
    criterion.final_summary();
}
