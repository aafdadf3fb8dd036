//! What differs between a subscription here and at Stripe: values in, values out.
//!
//! Compared is what decides over access, price and time. What an older API version of an endpoint leaves out, or spells in another way, is no
//! difference: a webhook's payload never looks quite like the same object fetched.

use std::fmt::Display;

use chrono::SecondsFormat;
use entity::{Time, ids::UserId};
use serde::{Deserialize, Serialize};

use super::observed::Observed;
use crate::{
    catalog::Catalog,
    facts::{Item, Rank, Snapshot, Subscription},
    projection::{Projection, Standing},
};

/// One thing that differs, with both sides as people read them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Name of the thing, for example `status`.
    pub field: String,
    /// How it is here.
    pub here: String,
    /// How it is at Stripe, or by what is stored of Stripe.
    pub stripe: String,
}

impl Difference {
    pub(super) fn new(field: &str, here: impl Display, stripe: impl Display) -> Self {
        Self { field: field.to_owned(), here: here.to_string(), stripe: stripe.to_string() }
    }
}

/// How a subscription of Stripe compares with ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Alike.
    Same,
    /// Something newer than the fetch is stored: a webhook came meanwhile. That is no difference.
    NewerHere,
    /// Not stored here.
    Missing,
    /// Different.
    Differs(Vec<Difference>),
    /// Further along its life here than at Stripe, although Stripe's word is later.
    Ahead(Vec<Difference>),
}

/// Compares one subscription of Stripe with ours.
pub(super) fn judge(local: Option<&Subscription>, theirs: &Observed, catalog: &Catalog) -> Verdict {
    let Some(local) = local else { return Verdict::Missing };
    let newer_here = local.version.at >= theirs.at;
    if local.version.rank <= Rank::Provisional {
        if newer_here {
            return Verdict::NewerHere;
        }
        let told = match local.version.rank {
            Rank::Unseen => "only named",
            _ if local.is_held() => "the host's word",
            _ => "a checkout's word",
        };
        let here = format!("{told}, {}", local.snapshot.status);
        return Verdict::Differs(vec![Difference::new("snapshot", here, &theirs.snapshot.status)]);
    }
    let mut differences = differences(local, &theirs.snapshot, catalog);
    let ours = local.link.as_ref();
    if let Some(link) = theirs.link().filter(|link| ours.is_none_or(|ours| ours.user != link.user && *ours < *link)) {
        differences.push(Difference::new("user", or_none(ours.map(|link| link.user)), link.user));
    }
    if local.needs_refresh {
        differences.push(Difference::new("certainty", "two events of one second disagree", &theirs.snapshot.status));
    }
    match (differences.is_empty(), newer_here) {
        (true, _) => Verdict::Same,
        (false, true) => Verdict::NewerHere,
        (false, false) if local.version.rank > theirs.rank() => Verdict::Ahead(differences),
        (false, false) => Verdict::Differs(differences),
    }
}

/// What differs of what is compared.
fn differences(local: &Subscription, theirs: &Snapshot, catalog: &Catalog) -> Vec<Difference> {
    let ours = &local.snapshot;
    let mut found = Vec::new();
    let mut compare = |field: &str, here: String, stripe: String| {
        if here != stripe {
            found.push(Difference::new(field, here, stripe));
        }
    };
    compare("status", ours.status.to_string(), theirs.status.to_string());
    compare("price", prices(ours), prices(theirs));
    compare("quantity", quantities(ours), quantities(theirs));
    compare("tier", tier(local, catalog), tier(&Subscription { snapshot: theirs.clone(), ..local.clone() }, catalog));
    compare("period", period(ours), period(theirs));
    compare("cancellation", cancellation(ours), cancellation(theirs));
    compare("trial", span(ours.trial_start, ours.trial_end), span(theirs.trial_start, theirs.trial_end));
    compare("pause", or_none(ours.pause_collection.as_ref()), or_none(theirs.pause_collection.as_ref()));
    found
}

/// Something that may be absent.
pub(super) fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

/// A moment, to the second.
pub(super) fn moment(at: Time) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn span(from: Option<Time>, to: Option<Time>) -> String {
    match (from, to) {
        (None, None) => "none".to_owned(),
        (from, to) => format!("{} to {}", or_none(from.map(moment)), or_none(to.map(moment))),
    }
}

/// The same whatever the order of the items.
fn sorted(snapshot: &Snapshot, of: impl Fn(&Item) -> String) -> String {
    let mut texts: Vec<String> = snapshot.items.iter().map(of).collect();
    texts.sort_unstable();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

fn prices(snapshot: &Snapshot) -> String {
    sorted(snapshot, |item| or_none(item.price_id.as_ref()))
}

fn quantities(snapshot: &Snapshot) -> String {
    sorted(snapshot, |item| format!("{} of {}", or_none(item.quantity), or_none(item.price_id.as_ref())))
}

fn period(snapshot: &Snapshot) -> String {
    let period = span(snapshot.period_start, snapshot.period_end);
    match snapshot.billing_cycle_anchor {
        Some(anchor) => format!("{period}, counted from {}", moment(anchor)),
        None => period,
    }
}

fn cancellation(snapshot: &Snapshot) -> String {
    let told: Vec<String> = [
        ("asked for", snapshot.canceled_at),
        // The flag and the date are two ways to say the same.
        ("scheduled for", snapshot.scheduled_end()),
        ("ended", snapshot.ended_at),
    ]
    .into_iter()
    .filter_map(|(what, at)| Some(format!("{what} {}", moment(at?))))
    .collect();
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}

/// The tier its plan gives.
pub(super) fn tier(subscription: &Subscription, catalog: &Catalog) -> String {
    let standing = Standing { subscription, invoice: None, customer_deleted: false };
    or_none(standing.deciding_item(catalog).1.map(|rank| &catalog.plan(rank).tier))
}

/// What differs between what a user's row says and what follows from the facts.
pub(super) fn projections(stored: &Projection, derived: &Projection) -> Vec<Difference> {
    let (here, there) = (&stored.entitlement, &derived.entitlement);
    let mut found = Vec::new();
    let mut compare = |field: &str, here: String, stripe: String| {
        if here != stripe {
            found.push(Difference::new(field, here, stripe));
        }
    };
    compare("tier", here.tier.clone(), there.tier.clone());
    compare("status", here.status.clone(), there.status.clone());
    compare("access", here.access.to_string(), there.access.to_string());
    let limit = |limit: Option<i64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    compare("limit", limit(here.limit), limit(there.limit));
    let at = |at: Option<Time>| or_none(at.map(moment));
    compare("period_end", at(here.current_period_end), at(there.current_period_end));
    compare("cancel_at", at(here.cancel_at), at(there.cancel_at));
    compare("customer", or_none(stored.customer.as_ref()), or_none(derived.customer.as_ref()));
    compare("subscription", or_none(stored.subscription.as_ref()), or_none(derived.subscription.as_ref()));
    found
}

/// The owner that is stored, beside the one that follows.
pub(super) fn owners(here: Option<UserId>, stripe: Option<UserId>) -> Option<Difference> {
    (here != stripe).then(|| Difference::new("user", or_none(here), or_none(stripe)))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use entity::ids::SubscriptionId;

    use super::*;
    use crate::{
        fetched::stamp,
        samples::{ApiVersion, Metadata, SubscriptionSample},
    };

    const AT: i64 = 1_790_000_000;

    fn at(second: i64) -> Time {
        Time::from_timestamp(second, 0).unwrap()
    }

    fn sample() -> SubscriptionSample {
        let mut sample = SubscriptionSample::new("sub_1", "cus_1", "active", AT - 1000);
        sample.items[0].lookup_key = Some("pro".to_owned());
        sample
    }

    fn observed(sample: &SubscriptionSample, second: i64) -> Observed {
        Observed::read(&sample.render(ApiVersion::LATEST).to_string(), at(second)).unwrap()
    }

    /// As it is stored after an event of this second.
    fn stored(observed: Observed, second: i64) -> Subscription {
        let mut local = Subscription::unseen(SubscriptionId::parse("sub_1").unwrap());
        let (told, _) = observed.told();
        local.merge(told.subscription.unwrap(), &stamp(at(second)));
        local
    }

    fn fields(change: impl Fn(&mut SubscriptionSample)) -> Vec<String> {
        let local = stored(observed(&sample(), AT), AT);
        let mut changed = sample();
        change(&mut changed);
        match judge(Some(&local), &observed(&changed, AT + 10), &Catalog::default()) {
            Verdict::Differs(differences) => differences.into_iter().map(|found| found.field).collect(),
            Verdict::Same => Vec::new(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_decides_over_access_price_and_time_is_compared_and_nothing_else() {
        assert!(fields(|_| {}).is_empty());
        assert_eq!(fields(|s| s.status = "past_due".into()), ["status"]);
        assert_eq!(fields(|s| s.items[0].lookup_key = Some("elite".into())), ["tier"]);
        assert_eq!(fields(|s| s.items[0].price = "price_other".into()), ["price", "quantity"]);
        assert_eq!(fields(|s| s.items[0].quantity = 7), ["quantity"]);
        assert_eq!(fields(|s| s.items[0].period_end += 86_400), ["period"]);
        assert_eq!(fields(|s| s.cancel_at_period_end = true), ["cancellation"]);
        assert_eq!(fields(|s| s.cancel_at = Some(AT + 86_400)), ["cancellation"]);
        assert_eq!(fields(|s| s.trial_end = Some(AT + 86_400)), ["trial"]);
        assert_eq!(fields(|s| s.pause_collection = Some("void".into())), ["pause"]);
        let user = "0f8fad5b-d9cb-469f-a165-70867728950e";
        assert_eq!(fields(|s| drop(s.metadata.insert("user_id".into(), user.into()))), ["user"]);
        assert!(fields(|s| s.description = Some("something for people".into())).is_empty());
        assert!(fields(|s| s.metadata = Metadata::from([("colour".into(), "red".into())])).is_empty());
    }

    #[test]
    fn the_same_subscription_in_another_api_versions_shape_is_no_difference() {
        // Known from estuary/flow#3166: a payload of an old version against the object fetched today.
        let today = observed(&sample(), AT + 10);
        for version in ApiVersion::ALL {
            let then = Observed::read(&sample().render(version).to_string(), at(AT)).unwrap();
            assert_eq!(judge(Some(&stored(then, AT)), &today, &Catalog::default()), Verdict::Same, "{version}");
        }
    }

    #[test]
    fn a_row_of_the_second_of_the_fetch_or_later_is_no_drift() {
        let local = stored(observed(&sample(), AT), AT);
        let mut changed = sample();
        changed.status = "past_due".into();
        for (second, newer) in [(AT - 5, true), (AT, true), (AT + 1, false)] {
            let verdict = judge(Some(&local), &observed(&changed, second), &Catalog::default());
            assert_eq!(verdict == Verdict::NewerHere, newer, "{second}: {verdict:?}");
        }
    }

    #[test]
    fn what_has_ended_here_and_not_at_stripe_is_told_and_is_no_plain_difference() {
        let mut ended = sample();
        ended.status = "canceled".into();
        let local = stored(observed(&ended, AT), AT);
        let verdict = judge(Some(&local), &observed(&sample(), AT + 10), &Catalog::default());
        assert!(matches!(verdict, Verdict::Ahead(differences) if differences[0].field == "status"));
    }

    #[test]
    fn two_snapshots_of_one_second_that_disagree_are_settled_by_a_later_look() {
        let mut local = stored(observed(&sample(), AT), AT);
        local.needs_refresh = true;
        let later = observed(&sample(), AT + TimeDelta::minutes(1).num_seconds());
        let Verdict::Differs(found) = judge(Some(&local), &later, &Catalog::default()) else { panic!("no drift") };
        assert_eq!(found[0].field, "certainty");
    }
}
