//! What each event type tells, and nothing of what follows from it.
//!
//! One line of [`TABLE`] and one function in the family's file make an event type known.

mod charges;
mod checkout;
mod customers;
mod invoices;
mod raw;
mod subscriptions;

use entity::{
    enums::{EmailKind, LinkEvidence},
    ids::{CustomerId, InvoiceId, SubscriptionId, UserId},
};

use crate::{
    facts::{CustomerTold, InvoiceTold, Link, Stamp, SubscriptionTold},
    skip::Skip,
};
pub(crate) use raw::Raw;

/// What one event tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// Of a customer.
    pub customer: Option<CustomerTold>,
    /// Of a subscription. An event that tells of one waits for its owner.
    pub subscription: Option<SubscriptionTold>,
    /// Of an invoice.
    pub invoice: Option<InvoiceTold>,
    /// An e-mail it gives reason for.
    pub email: Option<Email>,
    /// Whose event it is, where it tells nothing that is kept.
    pub about: Option<CustomerId>,
    /// For whoever looks at the event.
    pub note: Option<&'static str>,
}

impl Told {
    /// Nothing that is kept.
    fn nothing(note: &'static str) -> Self {
        Self { note: Some(note), ..Self::default() }
    }
}

/// A reason to write to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Email {
    /// The trial of this subscription ends soon.
    TrialEnding {
        /// Which.
        subscription: SubscriptionId,
    },
    /// Something about the payment of this invoice.
    Payment {
        /// Which.
        invoice: InvoiceId,
        /// What.
        kind: EmailKind,
    },
}

/// What an event turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// It tells something.
    Told(Box<Told>),
    /// A thin event: it names an object that has to be fetched.
    Thin(Related),
    /// Nothing for us, for this reason.
    Nothing(Skip),
}

/// The object a thin event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Related {
    /// For example `subscription`.
    pub kind: String,
    /// For example `sub_…`.
    pub id: String,
}

/// The payload of a stored event cannot be read. It was read when it was stored, so somebody changed it.
#[derive(Debug, thiserror::Error)]
#[error("the stored payload cannot be read as an event; restore it, or let Stripe send the event again")]
pub struct Unreadable(#[source] serde_json::Error);

type Read = fn(&Raw<'_>) -> Result<Reading, Unreadable>;

/// Every event type that changes something here.
const TABLE: &[(&str, Read)] = &[
    // Who bought, by the reference the host gave the session: the one tie that needs no metadata on the subscription.
    ("checkout.session.completed", checkout::completed),
    // A delayed payment method settled, or did not.
    ("checkout.session.async_payment_succeeded", checkout::settled),
    ("checkout.session.async_payment_failed", checkout::withdrawn),
    ("checkout.session.expired", checkout::withdrawn),
    // The subscription as it is: status, items, periods, scheduled end.
    ("customer.subscription.created", subscriptions::snapshot),
    ("customer.subscription.updated", subscriptions::snapshot),
    ("customer.subscription.paused", subscriptions::snapshot),
    ("customer.subscription.resumed", subscriptions::snapshot),
    ("customer.subscription.pending_update_applied", subscriptions::snapshot),
    ("customer.subscription.pending_update_expired", subscriptions::snapshot),
    // It ended; scheduling an end is an update.
    ("customer.subscription.deleted", subscriptions::ended),
    // Three days before, or at once where a trial is cut short.
    ("customer.subscription.trial_will_end", subscriptions::trial_will_end),
    // Whether payments come in. `paid` covers `payment_succeeded` and payments out of band; either may be all an endpoint sends.
    ("invoice.paid", invoices::paid),
    ("invoice.payment_succeeded", invoices::paid),
    ("invoice.payment_failed", invoices::failed),
    ("invoice.payment_action_required", invoices::action_required),
    ("invoice.finalized", invoices::moved),
    ("invoice.voided", invoices::moved),
    ("invoice.marked_uncollectible", invoices::moved),
    ("invoice.updated", invoices::moved),
    // A preview: it has no id, and nothing to keep.
    ("invoice.upcoming", invoices::upcoming),
    // By which address or metadata a customer finds their user.
    ("customer.created", customers::known),
    ("customer.updated", customers::known),
    // Its subscriptions end with it, and no events tell so one by one.
    ("customer.deleted", customers::deleted),
    // Money that went back changes no access; the user's timeline should show it.
    ("charge.refunded", charges::refunded),
    ("charge.dispute.created", charges::disputed),
];

/// Every event type that changes something here.
pub fn event_types() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

/// True where events of this type change something here.
pub fn handles(event_type: &str) -> bool {
    event_types().any(|name| name == event_type)
}

/// Reads an event from its payload.
pub fn read(event_type: &str, payload: &str, stamp: &Stamp) -> Result<Reading, Unreadable> {
    read_raw(&Raw::event(event_type, payload, stamp))
}

/// Reads the object a thin event named, as it was fetched; `stamp` tells when.
pub fn read_fetched(event_type: &str, object: &str, stamp: &Stamp) -> Result<Reading, Unreadable> {
    read_raw(&Raw::object(event_type, object, stamp))
}

fn read_raw(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    match TABLE.iter().find(|(name, _)| *name == raw.event_type) {
        Some((_, read)) => read(raw),
        None => Ok(Reading::Nothing(Skip::unhandled("an event type that changes nothing here"))),
    }
}

/// A tie to the user whom metadata or a reference names, where it is one of our ids.
pub(crate) fn link(user: Option<&str>, evidence: LinkEvidence, stamp: &Stamp) -> Option<Link> {
    let user: UserId = user?.trim().parse().ok()?;
    Some(Link { evidence, stamp: stamp.clone(), user })
}

/// The customer that an object names. Where the object names its user, that ties the customer too, if only as far as nothing better does.
pub(crate) fn named_customer(id: Option<&str>, user: Option<&str>, stamp: &Stamp) -> Option<CustomerTold> {
    let id = CustomerId::parse(id?).ok()?;
    Some(CustomerTold { link: link(user, LinkEvidence::Customer, stamp), ..CustomerTold::new(id) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_type_with_a_sample_is_in_the_table_and_the_other_way_round() {
        let mut ours: Vec<_> = event_types().collect();
        let mut samples = crate::samples::EVENT_TYPES.to_vec();
        ours.sort_unstable();
        samples.sort_unstable();
        assert_eq!(ours, samples);
    }
}
