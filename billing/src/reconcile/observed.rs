//! A subscription as Stripe showed it in a list or on its own: what is compared, and what a repair takes in.

use chrono::TimeDelta;
use entity::{
    Time,
    enums::{LinkEvidence, SubscriptionStatus},
    ids::{CustomerId, SubscriptionId},
};
use serde::{Deserialize, Serialize};

use crate::{
    events::{self, Reading, Told, link, named_customer},
    facts::{Kind, Link, Rank, Snapshot, Stamp, SubscriptionTold, UNCONFIRMED},
    fetched::stamp,
    json_text::storable,
};

/// The facts of one subscription. Small enough to be kept with a drift, so that a repair need not fetch it again: a thousand repairs would be
/// a thousand calls, and a walk may only keep what it cannot do without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Observed {
    /// Which.
    pub(super) id: SubscriptionId,
    /// Who pays.
    pub(super) customer: Option<CustomerId>,
    /// The second in which the fetch began, on Stripe's clock.
    pub(super) at: Time,
    /// How it looked.
    pub(super) snapshot: Snapshot,
}

impl Observed {
    /// Reads an object of Stripe's API; nothing where it is no subscription, or tells no status.
    pub(super) fn read(object: &str, at: Time) -> Option<Self> {
        let text = storable(object).ok()?;
        // Any event that shows the subscription would read it alike.
        let reading = events::read_fetched("customer.subscription.updated", &text, &stamp(at)).ok()?;
        let Reading::Told(told) = reading else { return None };
        let SubscriptionTold { id, customer, snapshot, .. } = told.subscription?;
        let (_, _, snapshot) = snapshot?;
        Some(Self { id, customer, at, snapshot })
    }

    /// The user whom its metadata names, as it is written there.
    pub(super) fn named_user(&self) -> Option<&str> {
        self.snapshot.metadata.get("user_id").map(String::as_str)
    }

    /// Its tie to that user.
    pub(super) fn link(&self) -> Option<Link> {
        link(self.named_user(), LinkEvidence::Metadata, &stamp(self.at))
    }

    /// How far along its life it is.
    pub(super) fn rank(&self) -> Rank {
        Rank::of(&self.snapshot.status)
    }

    /// That a host's word of it, of which this is a copy, came to nothing. Whatever Stripe tells of it, before or after, wins against that.
    pub(super) fn unconfirmed(self) -> (Told, Stamp) {
        let stamp = Stamp { at: self.at + TimeDelta::seconds(1), event_id: UNCONFIRMED.to_owned() };
        let ended = Snapshot { status: SubscriptionStatus::Canceled, ..self.snapshot };
        let subscription = SubscriptionTold {
            id: self.id,
            customer: self.customer,
            link: None,
            snapshot: Some((Rank::Provisional, Kind::Other, ended)),
        };
        (Told { subscription: Some(subscription), ..Told::default() }, stamp)
    }

    /// What an event that shows it would tell.
    pub(super) fn told(self) -> (Told, Stamp) {
        let stamp = stamp(self.at);
        let customer = named_customer(self.customer.as_ref().map(CustomerId::as_str), self.named_user(), &stamp);
        let (link, rank) = (self.link(), self.rank());
        let subscription = SubscriptionTold {
            id: self.id,
            customer: self.customer,
            link,
            snapshot: Some((rank, Kind::Other, self.snapshot)),
        };
        (Told { customer, subscription: Some(subscription), ..Told::default() }, stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{ApiVersion, Metadata, SubscriptionSample};

    #[test]
    fn what_is_kept_with_a_drift_tells_what_the_object_told() {
        for version in ApiVersion::ALL {
            let mut sample = SubscriptionSample::new("sub_1", "cus_1", "active", 1_790_000_000);
            let user = "0f8fad5b-d9cb-469f-a165-70867728950e";
            sample.metadata = Metadata::from([("user_id".to_owned(), user.to_owned())]);
            let (object, at) = (sample.render(version).to_string(), Time::from_timestamp(1_790_000_100, 0).unwrap());
            let reading = events::read_fetched("customer.subscription.updated", &object, &stamp(at)).unwrap();
            let Reading::Told(told) = reading else { panic!("{reading:?}") };
            let kept = serde_json::to_string(&Observed::read(&object, at).unwrap()).unwrap();
            let back: Observed = serde_json::from_str(&kept).unwrap();
            assert_eq!(back.told(), (*told, stamp(at)));
        }
    }

    #[test]
    fn what_is_no_subscription_is_none() {
        let at = Time::UNIX_EPOCH;
        for object in ["", "[]", "{}", r#"{"id": "sub_1"}"#, r#"{"id": 5, "status": "active"}"#] {
            assert_eq!(Observed::read(object, at), None, "{object}");
        }
    }
}
