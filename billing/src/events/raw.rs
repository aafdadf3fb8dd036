//! Stripe's objects as any API version sends them: the new path of a field, else the old one, else absent.

use std::{borrow::Cow, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess},
};

use super::{Reading, Related, Unreadable};
use crate::{
    facts::Stamp,
    lenient::{Flag, Id, Int, Key, Lenient, Listing, Obj, Strings, Text, lenient_struct, read},
    skip::Skip,
};

/// An event, or the object fetched in its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw<'a> {
    pub(crate) event_type: &'a str,
    pub(crate) stamp: &'a Stamp,
    text: &'a str,
    is_object: bool,
}

/// What was found in an event.
pub(crate) enum Found<T> {
    Object(T),
    Other(Reading),
}

impl<'a> Raw<'a> {
    pub(crate) fn event(event_type: &'a str, payload: &'a str, stamp: &'a Stamp) -> Self {
        Self { event_type, stamp, text: payload, is_object: false }
    }

    pub(crate) fn object(event_type: &'a str, object: &'a str, stamp: &'a Stamp) -> Self {
        Self { event_type, stamp, text: object, is_object: true }
    }

    /// The event's object as a `T`.
    pub(crate) fn find<T: Lenient>(&self) -> Result<Found<T>, Unreadable> {
        let object = if self.is_object {
            serde_json::from_str::<Obj<T>>(self.text).map_err(Unreadable)?.0
        } else {
            let event: Event<T> = serde_json::from_str(self.text).map_err(Unreadable)?;
            if event.object.0.as_deref() == Some("v2.core.event") {
                let RawRelated { id, kind } = event.related;
                return Ok(Found::Other(match (id.0, kind.0) {
                    (Some(id), Some(kind)) => Reading::Thin(Related { kind, id }),
                    _ => Reading::Nothing(Skip::incomplete("a thin event that names no object")),
                }));
            }
            event.data
        };
        Ok(object.map_or(Found::Other(Reading::Nothing(Skip::incomplete("an event without an object"))), Found::Object))
    }
}

/// The envelope with its object. Generic, so written out where `lenient_struct!` would do otherwise.
struct Event<T> {
    object: Text,
    data: Option<T>,
    related: RawRelated,
}

struct Data<T>(PhantomData<T>, Option<T>);

impl<T: Lenient> Lenient for Data<T> {
    fn from_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        let mut object = None;
        while let Some(is_object) = map.next_key_seed(Key(|key: &str| key == "object"))? {
            if is_object {
                object = map.next_value::<Obj<T>>()?.0;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Some(Self(PhantomData, object)))
    }
}

impl<'de, T: Lenient> Deserialize<'de> for Data<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(read(deserializer)?.unwrap_or(Self(PhantomData, None)))
    }
}

impl<T: Lenient> Lenient for Event<T> {
    fn from_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        enum Field {
            Object,
            Data,
            Related,
            Other,
        }
        let field: fn(&str) -> Field = |key| match key {
            "object" => Field::Object,
            "data" => Field::Data,
            "related_object" => Field::Related,
            _ => Field::Other,
        };
        let mut event = Self { object: Text::default(), data: None, related: RawRelated::default() };
        while let Some(field) = map.next_key_seed(Key(field))? {
            match field {
                Field::Object => event.object = map.next_value()?,
                Field::Data => event.data = map.next_value::<Data<T>>()?.1,
                Field::Related => event.related = map.next_value()?,
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Some(event))
    }
}

impl<'de, T: Lenient> Deserialize<'de> for Event<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let empty = || Self { object: Text::default(), data: None, related: RawRelated::default() };
        Ok(read(deserializer)?.unwrap_or_else(empty))
    }
}

lenient_struct! {
    pub(crate) struct RawRelated {
        pub(crate) id: Text,
        pub(crate) kind: Text = "type",
    }
}

lenient_struct! {
    pub(crate) struct RawSubscription {
        pub(crate) id: Text,
        pub(crate) customer: Id,
        pub(crate) status: Text,
        pub(crate) created: Int,
        pub(crate) items: Listing<RawItem>,
        pub(crate) currency: Text,
        pub(crate) current_period_start: Int,
        pub(crate) current_period_end: Int,
        pub(crate) billing_cycle_anchor: Int,
        pub(crate) trial_start: Int,
        pub(crate) trial_end: Int,
        pub(crate) cancel_at: Int,
        pub(crate) cancel_at_period_end: Flag,
        pub(crate) canceled_at: Int,
        pub(crate) ended_at: Int,
        pub(crate) pause_collection: Obj<RawPause>,
        pub(crate) metadata: Strings,
        pub(crate) livemode: Flag,
    }
}

lenient_struct! {
    pub(crate) struct RawPause {
        pub(crate) behavior: Text,
    }
}

lenient_struct! {
    pub(crate) struct RawItem {
        pub(crate) id: Text,
        pub(crate) price: Expandable<RawPrice>,
        pub(crate) plan: Expandable<RawPrice>,
        pub(crate) quantity: Int,
        pub(crate) current_period_start: Int,
        pub(crate) current_period_end: Int,
    }
}

lenient_struct! {
    /// A price, or the plan it was called before; a plan has its interval at the top.
    pub(crate) struct RawPrice {
        pub(crate) id: Text,
        pub(crate) product: Expandable<RawProduct>,
        pub(crate) lookup_key: Text,
        pub(crate) metadata: Strings,
        pub(crate) recurring: Obj<RawRecurring>,
        pub(crate) interval: Text,
        pub(crate) interval_count: Int,
        pub(crate) currency: Text,
    }
}

lenient_struct! {
    pub(crate) struct RawRecurring {
        pub(crate) interval: Text,
        pub(crate) interval_count: Int,
    }
}

lenient_struct! {
    pub(crate) struct RawProduct {
        pub(crate) id: Text,
        pub(crate) metadata: Strings,
    }
}

/// Something that can be named by its id alone.
pub(crate) trait Named: Lenient {
    fn named(id: String) -> Self;
}

impl Named for RawPrice {
    fn named(id: String) -> Self {
        Self { id: Text(Some(id)), ..Self::default() }
    }
}

impl Named for RawProduct {
    fn named(id: String) -> Self {
        Self { id: Text(Some(id)), ..Self::default() }
    }
}

/// An object, or only its id.
#[derive(Debug, Clone)]
pub(crate) struct Expandable<T>(pub(crate) Option<T>);

impl<T> Default for Expandable<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Named> Lenient for Expandable<T> {
    fn from_text(text: Cow<'_, str>) -> Option<Self> {
        Some(Self(Some(T::named(text.into_owned()))))
    }

    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
        Ok(Some(Self(T::from_map(map)?)))
    }
}

impl<'de, T: Named> Deserialize<'de> for Expandable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(read(deserializer)?.unwrap_or_default())
    }
}

lenient_struct! {
    pub(crate) struct RawInvoice {
        pub(crate) id: Text,
        pub(crate) customer: Id,
        /// Until 2025-03-31.basil.
        pub(crate) subscription: Id,
        /// Until 2025-03-31.basil.
        pub(crate) subscription_details: Obj<RawDetails>,
        /// Since 2025-03-31.basil.
        pub(crate) parent: Obj<RawParent>,
        pub(crate) status: Text,
        pub(crate) billing_reason: Text,
        pub(crate) created: Int,
        pub(crate) number: Text,
        pub(crate) currency: Text,
        pub(crate) amount_due: Int,
        pub(crate) amount_paid: Int,
        pub(crate) attempt_count: Int,
        pub(crate) next_payment_attempt: Int,
        pub(crate) hosted_invoice_url: Text,
        pub(crate) invoice_pdf: Text,
        pub(crate) period_start: Int,
        pub(crate) period_end: Int,
        pub(crate) status_transitions: Obj<RawTransitions>,
    }
}

lenient_struct! {
    pub(crate) struct RawParent {
        pub(crate) subscription_details: Obj<RawDetails>,
    }
}

lenient_struct! {
    pub(crate) struct RawDetails {
        pub(crate) subscription: Id,
        pub(crate) metadata: Strings,
    }
}

lenient_struct! {
    pub(crate) struct RawTransitions {
        pub(crate) paid_at: Int,
    }
}

lenient_struct! {
    pub(crate) struct RawSession {
        pub(crate) mode: Text,
        pub(crate) customer: Id,
        pub(crate) subscription: Id,
        pub(crate) client_reference_id: Text,
        pub(crate) metadata: Strings,
        pub(crate) payment_status: Text,
        pub(crate) customer_details: Obj<RawContact>,
        pub(crate) customer_email: Text,
        pub(crate) livemode: Flag,
    }
}

lenient_struct! {
    pub(crate) struct RawContact {
        pub(crate) email: Text,
    }
}

lenient_struct! {
    pub(crate) struct RawCustomer {
        pub(crate) id: Text,
        pub(crate) email: Text,
        pub(crate) metadata: Strings,
        pub(crate) created: Int,
        pub(crate) deleted: Flag,
    }
}

lenient_struct! {
    pub(crate) struct RawCharge {
        pub(crate) customer: Id,
    }
}
