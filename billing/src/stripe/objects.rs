//! What is fetched, read as what it tells: by the readers of events, with the stamp of a fetch.

use std::{borrow::Cow, collections::BTreeMap};

use entity::{
    Time,
    ids::{CustomerId, SubscriptionId},
};
use serde_json::value::RawValue;

use super::{Collection, Lane, Listed, Resource, Stripe, StripeError};
use crate::{
    events::{Reading, Told, read_fetched},
    facts::Stamp,
    fetched::stamp,
    lenient::{Flag, Obj, Text, lenient_struct},
};

/// Pages of items that are read of one subscription: a thousand items, of which Stripe allows a few dozen.
const MOST_ITEM_PAGES: usize = 10;

lenient_struct! {
    struct Partial {
        id: Text,
        items: Obj<PartialItems>,
    }
}

lenient_struct! {
    struct PartialItems {
        has_more: Flag,
    }
}

lenient_struct! {
    struct PartialEvent {
        data: Obj<PartialData>,
    }
}

lenient_struct! {
    struct PartialData {
        object: Obj<Partial>,
    }
}

lenient_struct! {
    struct Identified {
        id: Text,
    }
}

fn unreadable(message: impl Into<String>) -> StripeError {
    StripeError::Protocol { message: message.into(), request: None }
}

/// The subscription as Stripe shows it now, with all its items.
pub async fn subscription(stripe: &dyn Stripe, id: &SubscriptionId, lane: Lane) -> Result<(Told, Stamp), StripeError> {
    let fetched = stripe.get(&Resource::Subscription(id.clone()), lane).await?;
    let object = completed(stripe, &fetched.object, lane).await?;
    told_of(&object, fetched.at)
}

/// The customer as Stripe shows them now; a deleted one too.
pub async fn customer(stripe: &dyn Stripe, id: &CustomerId, lane: Lane) -> Result<(Told, Stamp), StripeError> {
    let fetched = stripe.get(&Resource::Customer(id.clone()), lane).await?;
    told("customer.updated", &fetched.object, fetched.at)
}

/// Every subscription of a customer, whatever its status, each with all its items.
pub async fn subscriptions_of(
    stripe: &dyn Stripe,
    customer: &CustomerId,
    lane: Lane,
) -> Result<Vec<(Told, Stamp)>, StripeError> {
    let collection = Collection::Subscriptions { customer: Some(customer.clone()) };
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = stripe.list(&collection, after.as_deref(), lane).await?;
        for Listed { object, .. } in &page.objects {
            let object = completed(stripe, object, lane).await?;
            all.push(told_of(&object, page.at)?);
        }
        match page.objects.into_iter().next_back() {
            Some(last) if page.has_more => after = Some(last.id),
            _ => return Ok(all),
        }
    }
}

/// What a subscription's JSON text tells, fetched or from a page; `at` is the second of the fetch. A subscription of more items than Stripe
/// sends along is told of in part: see [`completed`].
pub fn told_of(object: &str, at: Time) -> Result<(Told, Stamp), StripeError> {
    told("customer.subscription.updated", object, at)
}

/// The subscription's JSON text with every item, where Stripe sent only the first of them. Borrows, and calls nobody, where all are there.
pub async fn completed<'a>(stripe: &dyn Stripe, object: &'a str, lane: Lane) -> Result<Cow<'a, str>, StripeError> {
    let Some(id) = partial(object) else { return Ok(Cow::Borrowed(object)) };
    let collection = Collection::SubscriptionItems(id);
    let mut items: Vec<Box<RawValue>> = Vec::new();
    let mut after: Option<String> = None;
    // From the first on, and not from where the subscription's own list ends: the two need not be in one order.
    for _ in 0..MOST_ITEM_PAGES {
        let page = stripe.list(&collection, after.as_deref(), lane).await?;
        let last = page.objects.last().map(|item| item.id.clone());
        for item in page.objects {
            items.push(RawValue::from_string(item.object).map_err(|_| unreadable("an item is no JSON"))?);
        }
        match last {
            Some(last) if page.has_more => after = Some(last),
            _ => return with_items(object, &items).map(Cow::Owned),
        }
    }
    Err(unreadable("a subscription has more items than can be read"))
}

/// The id of a subscription whose own list of items is cut.
pub(crate) fn partial(object: &str) -> Option<SubscriptionId> {
    // Most are whole, and need not be read for that.
    if !object.contains("\"has_more\"") {
        return None;
    }
    let Partial { id, items } = serde_json::from_str::<Obj<Partial>>(object).ok()?.0?;
    items.0?.has_more.0.filter(|more| *more)?;
    SubscriptionId::parse(id.0?).ok()
}

/// The id of a subscription that an event shows without all its items.
pub(crate) fn partial_in_event(event_type: &str, payload: &str) -> Option<SubscriptionId> {
    // As signed, or as a database writes it; most events need no second reading.
    let cut = ["\"has_more\": true", "\"has_more\":true"].iter().any(|text| payload.contains(text));
    if !cut || !event_type.starts_with("customer.subscription.") {
        return None;
    }
    let PartialEvent { data } = serde_json::from_str::<Obj<PartialEvent>>(payload).ok()?.0?;
    let Partial { id, items } = data.0?.object.0?;
    items.0?.has_more.0.filter(|more| *more)?;
    SubscriptionId::parse(id.0?).ok()
}

fn with_items(object: &str, items: &[Box<RawValue>]) -> Result<String, StripeError> {
    let no_json = |_| unreadable("a subscription is no JSON object");
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(object).map_err(no_json)?;
    let list = serde_json::value::to_raw_value(&ItemList { data: items, has_more: false }).map_err(no_json)?;
    fields.insert("items".to_owned(), list);
    serde_json::to_string(&fields).map_err(no_json)
}

#[derive(serde::Serialize)]
struct ItemList<'a> {
    data: &'a [Box<RawValue>],
    has_more: bool,
}

fn told(event_type: &str, object: &str, at: Time) -> Result<(Told, Stamp), StripeError> {
    let stamp = stamp(at);
    match read_fetched(event_type, object, &stamp) {
        Ok(Reading::Told(told)) => Ok((*told, stamp)),
        Ok(Reading::Nothing(reason)) => Err(unreadable(format!("it answered with {reason}"))),
        Ok(Reading::Thin(_)) => Err(unreadable("it answered with an event")),
        Err(_) => Err(unreadable("it answered with what is no JSON")),
    }
}

/// Whose key this is: `acct_…`.
pub async fn account_id(stripe: &dyn Stripe, lane: Lane) -> Result<String, StripeError> {
    let fetched = stripe.get(&Resource::Account, lane).await?;
    let account = serde_json::from_str::<Obj<Identified>>(&fetched.object).ok().and_then(|account| account.0);
    account
        .and_then(|account| account.id.0)
        .filter(|id| !id.is_empty())
        .ok_or_else(|| unreadable("the account has no id"))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use entity::enums::SubscriptionStatus;

    use super::*;
    use crate::stripe::{Fetched, Page};

    /// A Stripe that knows one object, and items that come one to a page.
    #[derive(Debug)]
    struct OneObject(String, usize);

    fn at() -> Time {
        Time::from_timestamp(1000, 0).expect("a moment")
    }

    #[async_trait]
    impl Stripe for OneObject {
        async fn get(&self, _: &Resource, _: Lane) -> Result<Fetched, StripeError> {
            Ok(Fetched { object: self.0.clone(), at: at() })
        }

        async fn list(&self, _: &Collection, after: Option<&str>, _: Lane) -> Result<Page, StripeError> {
            let number = after.map_or(0, |id| id.trim_start_matches("si_").parse::<usize>().expect("ours") + 1);
            let id = format!("si_{number}");
            let object = format!("{{\"id\": \"{id}\", \"price\": {{\"id\": \"price_{number}\"}}}}");
            Ok(Page { objects: vec![Listed { id, object }], has_more: number + 1 < self.1, at: at() })
        }
    }

    async fn fetched(object: &str, items: usize) -> Result<(Told, Stamp), StripeError> {
        let stripe = OneObject(object.to_owned(), items);
        subscription(&stripe, &SubscriptionId::parse("sub_1").expect("an id"), Lane::Live).await
    }

    const CUT: &str =
        r#"{"id": "sub_1", "status": "active", "n": 1.10, "items": {"data": [{"id": "si_0"}], "has_more": true}}"#;

    #[tokio::test]
    async fn a_subscription_of_many_items_is_read_with_all_of_them() {
        let (told, stamp) = fetched(CUT, 4).await.expect("it can be read");
        let (_, _, snapshot) = told.subscription.expect("a subscription").snapshot.expect("a snapshot");
        let prices: Vec<_> = snapshot.items.iter().map(|item| item.price_id.as_deref().expect("a price")).collect();
        assert_eq!(prices, ["price_0", "price_1", "price_2", "price_3"]);
        assert_eq!(snapshot.status, SubscriptionStatus::Active);
        assert_eq!(stamp.at, at());
    }

    #[tokio::test]
    async fn items_without_end_are_an_error_and_no_endless_walk() {
        let error = fetched(CUT, usize::MAX).await.expect_err("no end");
        assert!(matches!(error, StripeError::Protocol { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_subscription_is_an_error_and_never_a_panic() {
        for object in ["", "[]", "{}", "null", "<html>", r#"{"id": 1}"#, r#"{"id": ""}"#] {
            let error = fetched(object, 0).await.expect_err(object);
            assert!(matches!(error, StripeError::Protocol { .. }), "{object}: {error}");
        }
    }

    #[tokio::test]
    async fn the_account_tells_whose_key_it_is() {
        let of = async |object: &str| account_id(&OneObject(object.to_owned(), 0), Lane::Live).await;
        assert_eq!(of(r#"{"id": "acct_1"}"#).await, Ok("acct_1".to_owned()));
        assert!(of("{}").await.is_err());
    }
}
