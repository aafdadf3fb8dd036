//! Facts: what is kept of Stripe's objects, each merged by a maximum under a total order.
//!
//! Stripe promises no order of delivery, and `created` has whole seconds (docs.stripe.com/webhooks). So nothing kept here depends on
//! the order of arrival: every merge is commutative, associative and idempotent. What follows from the facts (owner, status,
//! tier, access) is derived elsewhere and never merged itself.

mod customer;
mod invoice;
mod link;
mod subscription;

pub use customer::{Customer, CustomerTold};
pub use invoice::{Invoice, InvoiceSnapshot, InvoiceTold, Outcome};
pub use link::Link;
pub use subscription::{Item, Kind, Merge, Rank, Snapshot, Subscription, SubscriptionTold, Version};
pub(crate) use subscription::{UNCONFIRMED, is_placeholder};

use entity::Time;

/// The event (or fetch) a fact comes from: the second it belongs to, then the id as the last deterministic tie-break.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Second on Stripe's clock.
    pub at: Time,
    /// `evt_…`.
    pub event_id: String,
}

/// A moment from Stripe's whole seconds; absent where it lies outside the years 1970 to 9999, which is all that both databases hold.
pub(crate) fn moment(seconds: Option<i64>) -> Option<Time> {
    const END_OF_9999: i64 = 253_402_300_799;
    seconds.filter(|s| (0..=END_OF_9999).contains(s)).and_then(|s| Time::from_timestamp(s, 0))
}

/// The greater of two optional values; anything beats nothing.
fn later<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    a.max(b)
}

/// The smaller of two optional values; anything beats nothing.
fn earlier<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
