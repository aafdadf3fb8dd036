//! `checkout.session.*`: who bought.

use std::collections::BTreeMap;

use entity::{
    enums::{LinkEvidence, SubscriptionStatus},
    ids::{CustomerId, SubscriptionId, UserId},
};

use super::{
    Reading, Told, Unreadable, link,
    raw::{Found, Raw, RawSession},
};
use crate::facts::{CustomerTold, Kind, Rank, Snapshot, SubscriptionTold};

/// The session is complete; with a delayed payment method it may still be `unpaid`.
pub(super) fn completed(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    told(raw, Kind::Created, |session| {
        // `no_payment_required` (a free trial, a full coupon) is as good as paid (docs.stripe.com/checkout/fulfillment).
        if session.payment_status.0.as_deref() == Some("unpaid") {
            SubscriptionStatus::Incomplete
        } else {
            SubscriptionStatus::Active
        }
    })
}

/// The delayed payment came.
pub(super) fn settled(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    told(raw, Kind::Other, |_| SubscriptionStatus::Active)
}

/// The payment did not come.
pub(super) fn withdrawn(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    told(raw, Kind::Other, |_| SubscriptionStatus::IncompleteExpired)
}

fn told(
    raw: &Raw<'_>,
    kind: Kind,
    status: impl FnOnce(&RawSession) -> SubscriptionStatus,
) -> Result<Reading, Unreadable> {
    let session: RawSession = match raw.find()? {
        Found::Object(session) => session,
        Found::Other(reading) => return Ok(reading),
    };
    if session.mode.0.as_deref() != Some("subscription") {
        return Ok(Reading::Told(Box::new(Told::nothing("a checkout that sells no subscription"))));
    }
    let status = status(&session);
    let customer_id = session.customer.0.as_deref().and_then(|id| CustomerId::parse(id).ok());
    let subscription_id = session.subscription.0.as_deref().and_then(|id| SubscriptionId::parse(id).ok());
    // A reference that is none of our ids belongs to another system; the metadata may still name the user.
    let reference = session.client_reference_id.0.as_deref().filter(|text| text.trim().parse::<UserId>().is_ok());
    let user = reference.or_else(|| session.metadata.0.get("user_id").map(String::as_str));
    let email = session.customer_details.0.and_then(|contact| contact.email.0).or(session.customer_email.0);
    let customer = customer_id.clone().map(|id| CustomerTold {
        link: link(user, LinkEvidence::Metadata, raw.stamp),
        email: email.map(|email| (1, Some(email.trim().to_owned()))),
        ..CustomerTold::new(id)
    });
    let metadata: BTreeMap<String, String> = session.metadata.0.clone();
    let subscription = subscription_id.map(|id| SubscriptionTold {
        id,
        customer: customer_id,
        link: link(user, LinkEvidence::Metadata, raw.stamp),
        snapshot: Some((
            Rank::Provisional,
            kind,
            Snapshot { metadata, livemode: session.livemode.0.unwrap_or(false), ..Snapshot::of_status(status) },
        )),
    });
    Ok(Reading::Told(Box::new(Told { customer, subscription, ..Told::default() })))
}
