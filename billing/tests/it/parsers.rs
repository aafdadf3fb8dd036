//! Whatever comes in from outside is taken or refused, and never makes anything panic: headers and bodies made from true ones, and spoilt.
//!
//! `TRUEUP_PARSER_CASES` sets how many of each are tried; `scripts/proof.d/parsers` does so with an optimised build.

use std::sync::LazyLock;

use billing::{
    apply::{Cause, Rules, apply},
    catalog::Catalog,
    event::verify,
    events::{Reading, event_types, read, read_fetched},
    facts::Stamp,
    inbox::{IntakeRules, route},
    policy::Policy,
    samples::{Scene, scene_events},
    signature::{Tolerance, WebhookSecret, check, sign},
    stripe::objects::told_of,
    world::World,
};
use chrono::DateTime;
use entity::{Time, enums::ChangeSource};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, TestRunner},
};
use serde_json::{Map, Value, json};

const NOW: i64 = 1_780_000_000;

fn now() -> Time {
    DateTime::from_timestamp(NOW, 0).expect("a moment")
}

fn cases() -> u32 {
    std::env::var("TRUEUP_PARSER_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(25_000)
}

/// A panic is a failed case, and is shrunk to the smallest that still panics.
fn try_all<S: Strategy>(strategy: &S, test: impl Fn(S::Value)) {
    let config = Config { cases: cases(), failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(strategy, |value| {
        test(value);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// One of every event that samples know, in one text each.
static SAMPLES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let types = event_types().chain(["customer.created", "invoice.paid"]);
    let mut events: Vec<Value> = types
        .filter_map(|event_type| scene_events(event_type, &Scene::new("parse", "user@example.com", "pro", NOW)))
        .flatten()
        .collect();
    events.push(json!({
        "id": "evt_thin", "object": "v2.core.event", "type": "v1.customer.subscription.updated", "created": "2026-05-28T20:26:40.000Z",
        "livemode": false, "related_object": { "id": "sub_1", "type": "subscription", "url": "/v1/subscriptions/sub_1" },
    }));
    events
});

fn secret() -> WebhookSecret {
    WebhookSecret::parse("whsec_parsers").expect("a secret")
}

/// Texts that something may stumble over.
fn odd_text() -> impl Strategy<Value = String> {
    let known = select(vec![
        "",
        " ",
        "\u{0}",
        "\u{feff}",
        "null",
        "0",
        "-1",
        "1e999",
        "9223372036854775808",
        "NaN",
        "'; DROP TABLE users; --",
        "\"",
        "\\u0000",
        "\u{202e}x",
        "ß",
        "𝄞",
        "user@example.com",
        "2026-02-30",
        "9999-12-31T23:59:60Z",
        "sub_",
        "evt_",
        "€",
        "a\r\nb: c",
    ]);
    prop_oneof![
        4 => known.prop_map(str::to_owned),
        2 => any::<String>(),
        1 => (0_usize..4000).prop_map(|length| "x".repeat(length)),
    ]
}

/// What may stand where something else is expected.
fn odd_value() -> impl Strategy<Value = Value> {
    let numbers = select(vec![
        json!(0),
        json!(-1),
        json!(1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e308),
        json!(-0.0),
        json!(0.1),
        json!(253_402_300_800_i64),
        json!(-62_135_596_801_i64),
        json!(8_640_000_000_000_i64),
        json!(i32::MAX),
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        numbers,
        any::<i64>().prop_map(Value::from),
        odd_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((odd_text(), inner), 0..4).prop_map(|pairs| Value::Object(Map::from_iter(pairs))),
        ]
    })
}

#[derive(Debug, Clone)]
enum Change {
    Replace(Value),
    Remove,
    Rename(String),
    /// Another place of the same event comes here.
    Graft(Index),
    Repeat(usize),
    Wrap(usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => odd_value().prop_map(Change::Replace),
        2 => Just(Change::Remove),
        1 => odd_text().prop_map(Change::Rename),
        2 => any::<Index>().prop_map(Change::Graft),
        1 => (2_usize..60).prop_map(Change::Repeat),
        1 => (1_usize..160).prop_map(Change::Wrap),
    ]
}

/// Every place of a value, as a JSON pointer.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                places(member, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), into);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{at}/{index}"), into);
            }
        }
        _ => {}
    }
}

fn spoil(event: &mut Value, place: Index, change: Change) {
    let mut all = Vec::new();
    places(event, "", &mut all);
    let at = all[place.index(all.len())].clone();
    let parent =
        at.rsplit_once('/').map(|(parent, key)| (parent.to_owned(), key.replace("~1", "/").replace("~0", "~")));
    match change {
        Change::Replace(value) => event.pointer_mut(&at).into_iter().for_each(|place| *place = value.clone()),
        Change::Graft(from) => {
            let graft = event.pointer(&all[from.index(all.len())]).cloned().unwrap_or_default();
            event.pointer_mut(&at).into_iter().for_each(|place| *place = graft.clone());
        }
        Change::Repeat(times) => {
            if let Some(place) = event.pointer_mut(&at) {
                *place = Value::from(vec![place.clone(); times.min(1 + 20_000 / place.to_string().len().max(1))]);
            }
        }
        Change::Wrap(levels) => {
            if let Some(place) = event.pointer_mut(&at) {
                *place = (0..levels).fold(place.take(), |inner, _| Value::from(vec![inner]));
            }
        }
        Change::Remove | Change::Rename(_) => {
            let Some((parent, key)) = parent else { return };
            if let Some(Value::Object(members)) = event.pointer_mut(&parent)
                && let Some(member) = members.remove(&key)
                && let Change::Rename(name) = change
            {
                members.insert(name, member);
            }
        }
    }
}

/// How the text of a body is spoilt after all.
#[derive(Debug, Clone)]
enum Cut {
    None,
    Truncate(Index),
    Byte(Index, u8),
    Insert(Index, Vec<u8>),
}

fn cut() -> impl Strategy<Value = Cut> {
    prop_oneof![
        5 => Just(Cut::None),
        1 => any::<Index>().prop_map(Cut::Truncate),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Cut::Byte(at, byte)),
        1 => (any::<Index>(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Cut::Insert(at, bytes)),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let sample = any::<Index>().prop_map(|index| SAMPLES[index.index(SAMPLES.len())].clone());
    (sample, vec((any::<Index>(), change()), 0..6), cut()).prop_map(|(mut event, changes, cut)| {
        for (place, change) in changes {
            spoil(&mut event, place, change);
        }
        let mut bytes = event.to_string().into_bytes();
        match cut {
            Cut::None => {}
            Cut::Truncate(at) => bytes.truncate(at.index(bytes.len())),
            Cut::Byte(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            Cut::Insert(at, more) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, more);
            }
        }
        bytes
    })
}

/// `Stripe-Signature`, in pieces that are right, nearly right, or nonsense.
fn header() -> impl Strategy<Value = Vec<u8>> {
    let key = prop_oneof![
        3 => Just("t".to_owned()), 5 => Just("v1".to_owned()), 1 => Just("v0".to_owned()), 1 => Just(String::new()), 1 => odd_text(),
    ];
    let value = prop_oneof![
        2 => (NOW - 400..NOW + 400).prop_map(|at| at.to_string()),
        1 => any::<i64>().prop_map(|at| at.to_string()),
        1 => Just("99999999999999999999999".to_owned()),
        3 => "[0-9a-f]{64}",
        1 => "[0-9a-fA-F]{0,130}",
        1 => odd_text(),
    ];
    let piece =
        (key, select(vec!["=", "==", "", " = "]), value).prop_map(|(key, sign, value)| format!("{key}{sign}{value}"));
    let pieces = (vec(piece, 0..12), select(vec![",", ", ", ";", "", ",,"]))
        .prop_map(|(pieces, comma)| pieces.join(comma).into_bytes());
    let right = (any::<bool>(), cut()).prop_map(|(twice, cut)| {
        let mut header = sign(&secret(), NOW, b"{}").into_bytes();
        if twice {
            header.extend_from_slice(b",v1=00,v0=ff");
        }
        match cut {
            Cut::Byte(at, byte) => {
                let at = at.index(header.len());
                header[at] = byte;
            }
            Cut::Truncate(at) => header.truncate(at.index(header.len())),
            Cut::Insert(at, more) => {
                let at = at.index(header.len());
                header.splice(at..at, more);
            }
            Cut::None => {}
        }
        header
    });
    prop_oneof![4 => pieces, 2 => right, 1 => vec(any::<u8>(), 0..200)]
}

#[test]
fn no_header_makes_the_check_of_a_signature_panic_and_only_a_true_one_passes() {
    let secrets = [secret()];
    try_all(&header(), |header| {
        if let Ok(at) = check(Some(&header), b"{}", &secrets, now(), Tolerance::default()) {
            assert_eq!(at, NOW, "{}", String::from_utf8_lossy(&header));
        }
    });
}

#[test]
fn no_signed_body_makes_anything_panic_from_its_first_look_to_what_follows_from_it() {
    let (secrets, catalog, policy) = ([secret()], Catalog::default(), Policy::default());
    let rules = Rules { catalog: &catalog, policy: &policy, now: now() };
    let intake = IntakeRules { livemode: Some(false), account: Some("acct_1".to_owned()) };
    try_all(&body(), |body| {
        let header = sign(&secrets[0], NOW, &body);
        let Ok(event) = verify(&body, Some(header.as_bytes()), &secrets, now(), Tolerance::default()) else { return };
        let _ = route(&event, &intake);
        let (event_type, payload) = (event.event_type().to_owned(), event.payload().to_owned());
        let stamp = Stamp { at: event.created().unwrap_or_else(now), event_id: event.id().to_string() };
        let mut world = World::default();
        if let Ok(Reading::Told(told)) = read(&event_type, &payload, &stamp) {
            let cause = Cause { event_type: &event_type, source: ChangeSource::Webhook, stamp: &stamp };
            let _ = apply(&mut world, *told, cause, rules);
        }
        // What Stripe's API answers is as foreign.
        if let Some(object) =
            serde_json::from_str::<Value>(&payload).ok().and_then(|event| event.pointer("/data/object").cloned())
        {
            let object = object.to_string();
            let _ = read_fetched(&event_type, &object, &stamp);
            let _ = told_of(&object, now());
        }
    });
}
