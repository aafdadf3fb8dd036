//! `customer.subscription.updated` in the newest shape, by the thousand: one event is made the long way, and of all others only what
//! tells them apart is put in its place.

use std::{fmt::Write as _, time::Duration};

use billing::samples::{Scene, scene_events};
use serde_json::{Value, json};

/// What is sent.
const EVENT_TYPE: &str = "customer.subscription.updated";

// Each stands in the sample event where the value of a field, which is just as long, goes.
const EVENT: &str = "evtEVTevtEVTevtEVTevtEVT";
const CUSTOMER: &str = "cusCUScusCUScu";
const SUBSCRIPTION: &str = "subSUBsubSUBsubSUBsubSUB";
const USER: &str = "b3ec0000-0000-4000-8000-ffffffffffff";
const CREATED: i64 = 1_999_999_997;
const PERIOD_START: i64 = 1_999_999_998;
const PERIOD_END: i64 = 1_999_999_999;

const THIRTY_DAYS: i64 = 30 * 86_400;

#[derive(Debug, Clone, Copy)]
enum Field {
    Event,
    Customer,
    Subscription,
    User,
    Created,
    PeriodStart,
    PeriodEnd,
}

/// Text up to a field, and the field.
#[derive(Debug)]
struct Part {
    text: String,
    field: Field,
}

/// The sample event, cut where its fields are.
#[derive(Debug)]
struct Template {
    parts: Vec<Part>,
    rest: String,
}

impl Template {
    fn new() -> Self {
        let scene = Scene {
            user_id: Some(USER.to_owned()),
            customer: format!("cus_{CUSTOMER}"),
            subscription: format!("sub_{SUBSCRIPTION}"),
            invoice: format!("in_{SUBSCRIPTION}"),
            period: Some((PERIOD_START, PERIOD_END)),
            ..Scene::new(EVENT, "unused@example.com", "pro", CREATED)
        };
        let mut event = scene_events(EVENT_TYPE, &scene).and_then(|mut events| events.pop()).unwrap_or_default();
        trim(&mut event);
        Self::cut(&event.to_string())
    }

    fn cut(mut text: &str) -> Self {
        // The seconds stand in other places too, where they stay.
        let marks = [
            (EVENT.to_owned(), "", Field::Event),
            (CUSTOMER.to_owned(), "", Field::Customer),
            (SUBSCRIPTION.to_owned(), "", Field::Subscription),
            (USER.to_owned(), "", Field::User),
            (format!("\"created\":{CREATED}"), "\"created\":", Field::Created),
            (format!("\"current_period_start\":{PERIOD_START}"), "\"current_period_start\":", Field::PeriodStart),
            (format!("\"current_period_end\":{PERIOD_END}"), "\"current_period_end\":", Field::PeriodEnd),
        ];
        let mut parts = Vec::new();
        while let Some((at, (mark, kept, field))) =
            marks.iter().filter_map(|mark| Some((text.find(&mark.0)?, mark))).min_by_key(|(at, _)| *at)
        {
            parts.push(Part { text: format!("{}{kept}", &text[..at]), field: *field });
            text = &text[at + mark.len()..];
        }
        // What is left of the marks in other places: the period of a subscription that began long ago.
        for part in &mut parts {
            part.text = settle(&part.text);
        }
        Self { parts, rest: settle(text) }
    }
}

/// Of what the update changed, the event tells the item's period and price only: 4.6 KB, as most of Stripe's own.
fn trim(event: &mut Value) {
    let previous = &mut event["data"]["previous_attributes"];
    if let Some(item) = previous["items"]["data"][0].as_object_mut() {
        item.retain(|name, _| matches!(name.as_str(), "current_period_end" | "current_period_start" | "id" | "price"));
    }
    *previous = json!({ "items": previous["items"] });
}

/// A subscription and its price were made before any period that is sent.
fn settle(text: &str) -> String {
    text.replace(&PERIOD_START.to_string(), "1700000000")
}

/// A reproducible sequence of events, each newer than all before it of the same subscription.
#[derive(Debug)]
pub(crate) struct Events {
    template: Template,
    /// Makes the ids of two runs differ, and those of the later run the greater, as Stripe's do.
    run: u128,
    /// Second of the first event.
    first: i64,
    customers: u32,
    steady: bool,
}

impl Events {
    /// Up to `count` events, the last of them made now.
    pub(crate) fn new(now: Duration, customers: u32, count: u32, steady: bool) -> Self {
        let rounds = count.div_ceil(customers);
        let first = i64::try_from(now.as_secs()).unwrap_or(i64::MAX) - i64::from(rounds);
        Self { template: Template::new(), run: now.as_millis(), first, customers, steady }
    }

    /// Event number `n`, as Stripe would send it.
    pub(crate) fn body(&self, n: u32) -> String {
        let customer = n % self.customers;
        let created = self.first + i64::from(n / self.customers);
        let start = if self.steady { 1_790_000_000 } else { created };
        let mut body = String::with_capacity(6144);
        for part in &self.template.parts {
            body.push_str(&part.text);
            // Writing to a string cannot fail.
            let _ = match part.field {
                Field::Event => write!(body, "1{:011x}{n:012x}", self.run),
                Field::Customer => write!(body, "Bench{customer:09}"),
                Field::Subscription => write!(body, "1Bench{customer:018}"),
                Field::User => write!(body, "{}{customer:012x}", &USER[..24]),
                Field::Created => write!(body, "{created}"),
                Field::PeriodStart => write!(body, "{start}"),
                Field::PeriodEnd => write!(body, "{}", start + THIRTY_DAYS),
            };
        }
        body.push_str(&self.template.rest);
        body
    }
}

/// The body of one event.
pub(crate) fn sample(now: Duration) -> String {
    Events::new(now, 1, 1, false).body(0)
}

/// SQL for the users whom the events of that many customers name.
pub(crate) fn users_sql(count: u32) -> String {
    let prefix = &USER[..24];
    format!(
        "INSERT INTO users (id, email) SELECT ('{prefix}' || lpad(to_hex(n), 12, '0'))::uuid, 'bench-' || n || '@example.com' \
         FROM generate_series(0, {count} - 1) AS n ON CONFLICT DO NOTHING;"
    )
}

#[cfg(test)]
mod tests {
    use billing::events::{Reading, read};

    use super::*;

    const NOW: Duration = Duration::from_secs(1_795_000_000);

    #[test]
    fn an_event_has_the_size_that_is_aimed_at_and_differs_only_where_it_should() {
        let events = Events::new(NOW, 10, 30, false);
        let (one, other) = (events.body(3), events.body(13));
        assert_eq!(one.len(), other.len());
        assert!((4500..=4700).contains(&one.len()), "{} bytes", one.len());
        let parsed: Value = serde_json::from_str(&one).unwrap();
        assert_eq!(parsed["type"], EVENT_TYPE);
        assert_eq!(parsed["data"]["object"]["customer"], "cus_Bench000000003");
        assert_eq!(parsed["data"]["object"]["created"], 1_700_000_000);
        for mark in [EVENT, CUSTOMER, SUBSCRIPTION, USER, "19999999"] {
            assert!(!one.contains(mark), "{mark}");
        }
    }

    #[test]
    fn the_domain_reads_an_event_as_a_newer_snapshot_of_its_user() {
        let events = Events::new(NOW, 10, 30, false);
        let told = |n: u32| {
            let stamp = billing::facts::Stamp { at: chrono::DateTime::UNIX_EPOCH, event_id: "evt_1".to_owned() };
            match read(EVENT_TYPE, &events.body(n), &stamp) {
                Ok(Reading::Told(told)) => told.subscription.unwrap(),
                other => panic!("{other:?}"),
            }
        };
        let (one, other) = (told(3), told(13));
        assert_eq!(one.id, other.id);
        assert_eq!(one.link.unwrap().user.to_string(), "b3ec0000-0000-4000-8000-000000000003");
    }
}
