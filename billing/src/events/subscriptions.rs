//! `customer.subscription.*`: the subscription as it is.

use entity::{
    enums::{LinkEvidence, SubscriptionStatus},
    ids::{CustomerId, SubscriptionId},
};

use super::{
    Email, Reading, Told, Unreadable, link, named_customer,
    raw::{Found, Raw, RawItem, RawSubscription},
};
use crate::{
    facts::{Item, Kind, Rank, Snapshot, SubscriptionTold, moment},
    skip::Skip,
};

/// Any event that shows the subscription.
pub(super) fn snapshot(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    told(raw, false, false)
}

/// The event that shows it for the last time.
pub(super) fn ended(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    told(raw, true, false)
}

/// A snapshot, and a reason to write to the user.
pub(super) fn trial_will_end(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    told(raw, false, true)
}

fn told(raw: &Raw<'_>, ended: bool, trial_ends: bool) -> Result<Reading, Unreadable> {
    let subscription: RawSubscription = match raw.find()? {
        Found::Object(subscription) => subscription,
        Found::Other(reading) => return Ok(reading),
    };
    let Some(id) = subscription.id.0.as_deref().and_then(|id| SubscriptionId::parse(id).ok()) else {
        return Ok(Reading::Nothing(Skip::incomplete("a subscription without an id")));
    };
    let user = subscription.metadata.0.get("user_id").map(String::as_str);
    let customer = named_customer(subscription.customer.0.as_deref(), user, raw.stamp);
    let link = link(user, LinkEvidence::Metadata, raw.stamp);
    let kind = if raw.event_type.ends_with(".created") { Kind::Created } else { Kind::Other };
    let customer_id = subscription.customer.0.as_deref().and_then(|id| CustomerId::parse(id).ok());
    // Without a status it says nothing of access; what is known of that stays.
    if subscription.status.0.is_none() && !ended {
        let told = SubscriptionTold { id, customer: customer_id, link, snapshot: None };
        let note = Some("a subscription without a status; only named");
        return Ok(Reading::Told(Box::new(Told { customer, subscription: Some(told), note, ..Told::default() })));
    }
    let mut snapshot = snapshot_of(subscription);
    if ended && !snapshot.status.is_terminal() {
        snapshot.status = SubscriptionStatus::Canceled;
    }
    let rank = Rank::of(&snapshot.status);
    let email = trial_ends.then(|| Email::TrialEnding { subscription: id.clone() });
    let told = SubscriptionTold { id, customer: customer_id, link, snapshot: Some((rank, kind, snapshot)) };
    Ok(Reading::Told(Box::new(Told { customer, subscription: Some(told), email, ..Told::default() })))
}

fn snapshot_of(raw: RawSubscription) -> Snapshot {
    let own_period = (moment(raw.current_period_start.0), moment(raw.current_period_end.0));
    let currency = raw.currency.0.or_else(|| {
        let item = raw.items.data.first()?;
        item.price.0.as_ref().or(item.plan.0.as_ref())?.currency.0.clone()
    });
    let items: Vec<Item> = raw
        .items
        .data
        .into_iter()
        .map(|raw| {
            let mut item = item_of(raw);
            item.period_start = item.period_start.or(own_period.0);
            item.period_end = item.period_end.or(own_period.1);
            item
        })
        .collect();
    Snapshot {
        status: raw.status.0.unwrap_or_default().into(),
        currency,
        billing_cycle_anchor: moment(raw.billing_cycle_anchor.0),
        period_start: items.iter().filter_map(|item| item.period_start).min().or(own_period.0),
        period_end: items.iter().filter_map(|item| item.period_end).max().or(own_period.1),
        items,
        trial_start: moment(raw.trial_start.0),
        trial_end: moment(raw.trial_end.0),
        cancel_at: moment(raw.cancel_at.0),
        cancel_at_period_end: raw.cancel_at_period_end.0.unwrap_or(false),
        canceled_at: moment(raw.canceled_at.0),
        ended_at: moment(raw.ended_at.0),
        pause_collection: raw.pause_collection.0.map(|pause| pause.behavior.0.unwrap_or_else(|| "paused".to_owned())),
        metadata: raw.metadata.0,
        livemode: raw.livemode.0.unwrap_or(false),
        made_at: moment(raw.created.0),
    }
}

fn item_of(raw: RawItem) -> Item {
    let price = raw.price.0.or(raw.plan.0).unwrap_or_default();
    let product = price.product.0.unwrap_or_default();
    let recurring = price.recurring.0.unwrap_or_default();
    let tier = price.metadata.0.get("tier").or_else(|| product.metadata.0.get("tier")).cloned();
    Item {
        id: raw.id.0,
        price_id: price.id.0,
        product_id: product.id.0,
        lookup_key: price.lookup_key.0,
        tier,
        quantity: raw.quantity.0,
        interval: recurring.interval.0.or(price.interval.0),
        interval_count: recurring.interval_count.0.or(price.interval_count.0),
        period_start: moment(raw.current_period_start.0),
        period_end: moment(raw.current_period_end.0),
    }
}
