//! Sample Stripe objects and events, in the shapes of several API versions. Pure: ids and seconds are passed in.
//!
//! `trueup trigger` sends them in the newest shape, tests in all. Shapes and their history: Stripe's documentation and the types and
//! changelog of stripe-node 23.1.0.

mod charge;
mod checkout;
mod customer;
mod invoice;
mod scene;
mod subscription;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Days, Months, SecondsFormat};
use serde_json::{Map, Value, json};

pub use self::{
    charge::{ChargeSample, DisputeSample},
    checkout::CheckoutSessionSample,
    customer::CustomerSample,
    invoice::InvoiceSample,
    scene::{Scene, scene_events},
    subscription::{DiscountSample, ItemSample, SubscriptionSample},
};

/// Stripe's `metadata`: values are always text.
pub type Metadata = BTreeMap<String, String>;

/// Every event type that has an effect here or is noted, and for which [`scene_events`] has a scene.
pub const EVENT_TYPES: &[&str] = &[
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "customer.subscription.pending_update_applied",
    "customer.subscription.pending_update_expired",
    "customer.subscription.trial_will_end",
    "invoice.paid",
    "invoice.payment_succeeded",
    "invoice.payment_failed",
    "invoice.payment_action_required",
    "invoice.finalized",
    "invoice.voided",
    "invoice.marked_uncollectible",
    "invoice.updated",
    "invoice.upcoming",
    "customer.created",
    "customer.updated",
    "customer.deleted",
    "charge.refunded",
    "charge.dispute.created",
];

/// The API versions whose shapes are known here, oldest first: they compare by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApiVersion {
    /// `2020-08-27`: charges carry their refunds.
    V2020_08_27,
    /// `2023-10-16`: the period is on the subscription, the subscription on the invoice.
    V2023_10_16,
    /// `2025-03-31.basil`: the period is on the items, the subscription in the invoice's `parent`.
    Basil,
    /// `2025-09-30.clover`: flexible billing is the default, coupons are in `discount.source`.
    Clover,
    /// `2026-10-28.endive`: the newest.
    Endive,
}

impl ApiVersion {
    /// All of them, oldest first.
    pub const ALL: [Self; 5] = [Self::V2020_08_27, Self::V2023_10_16, Self::Basil, Self::Clover, Self::Endive];
    /// The newest.
    pub const LATEST: Self = Self::Endive;

    /// As Stripe writes it in `api_version`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2020_08_27 => "2020-08-27",
            Self::V2023_10_16 => "2023-10-16",
            Self::Basil => "2025-03-31.basil",
            Self::Clover => "2025-09-30.clover",
            Self::Endive => "2026-10-28.endive",
        }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A snapshot event about `object`; its `livemode` is the object's (false where the object does not say).
pub fn event(
    id: &str,
    event_type: &str,
    created: i64,
    version: ApiVersion,
    object: Value,
    previous_attributes: Option<Value>,
) -> Value {
    let livemode = object.get("livemode").and_then(Value::as_bool).unwrap_or(false);
    let mut data = Map::from_iter([("object".to_owned(), object)]);
    if let Some(previous) = previous_attributes {
        data.insert("previous_attributes".to_owned(), previous);
    }
    json!({
        "id": id,
        "object": "event",
        "api_version": version.as_str(),
        "created": created,
        "data": data,
        "livemode": livemode,
        "pending_webhooks": 1,
        "request": { "id": format!("req_{}", tail(id)), "idempotency_key": format!("sample-{id}") },
        "type": event_type,
    })
}

/// A thin event: it names the object it is about (`related_object_type` is its `object`, like `subscription`) and does not carry it. The
/// type gets its prefix `v1.` where it has none; sandbox mode.
pub fn thin_event(
    id: &str,
    event_type: &str,
    created: i64,
    related_object_id: &str,
    related_object_type: &str,
) -> Value {
    let event_type = if event_type.starts_with("v1.") { event_type.to_owned() } else { format!("v1.{event_type}") };
    let collection = format!("{}s", related_object_type.replace('.', "/"));
    json!({
        "id": id,
        "object": "v2.core.event",
        "changes": null,
        "context": null,
        "created": seconds(created).to_rfc3339_opts(SecondsFormat::Millis, true),
        "livemode": false,
        "reason": null,
        "related_object": {
            "id": related_object_id,
            "type": related_object_type,
            "url": format!("/v1/{collection}/{related_object_id}"),
        },
        "type": event_type,
    })
}

/// The moment of a Unix second; the epoch for seconds beyond the calendar.
fn seconds(at: i64) -> DateTime<chrono::Utc> {
    DateTime::from_timestamp(at, 0).unwrap_or_default()
}

/// One billing interval after `at`, by the calendar (a month after January 31st is the last of February).
fn next_period(at: i64, interval: &str, count: u32) -> i64 {
    let start = seconds(at);
    let end = match interval {
        "day" => start.checked_add_days(Days::new(count.into())),
        "week" => start.checked_add_days(Days::new(u64::from(count) * 7)),
        "year" => start.checked_add_months(Months::new(count.saturating_mul(12))),
        _ => start.checked_add_months(Months::new(count)),
    };
    end.unwrap_or(start).timestamp()
}

/// One month before `at`, by the calendar.
fn month_before(at: i64) -> i64 {
    let end = seconds(at);
    end.checked_sub_months(Months::new(1)).unwrap_or(end).timestamp()
}

/// An id without its prefix: `123` of `sub_123`.
fn tail(id: &str) -> &str {
    id.split_once('_').map_or(id, |(_, rest)| rest)
}

/// One object of the fields of several (the last wins); what is no object adds nothing. Large objects are written in pieces because
/// `json!` recurses once per token.
fn merged<const N: usize>(parts: [Value; N]) -> Value {
    let mut all = Map::new();
    for part in parts {
        if let Value::Object(fields) = part {
            all.extend(fields);
        }
    }
    Value::Object(all)
}

/// The fields where the condition holds, else none.
fn when(condition: bool, fields: impl FnOnce() -> Value) -> Value {
    if condition { fields() } else { Value::Null }
}
