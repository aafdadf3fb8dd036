//! A subscription as facts: the newest snapshot, and what makes it the newest.

use std::collections::BTreeMap;

use entity::{
    Time,
    enums::SubscriptionStatus,
    ids::{CustomerId, SubscriptionId, UserId},
};
use serde::{Deserialize, Serialize};

use super::{Link, Stamp};

/// How far along its life a snapshot is. Stripe never goes back along this line
/// (docs.stripe.com/billing/subscriptions/overview: `canceled` and `incomplete_expired` are terminal).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rank {
    /// Named by something else; no snapshot yet.
    Unseen,
    /// Told by a checkout session or an adopted database, not by the subscription itself.
    Provisional,
    /// Its first payment is not done.
    Incomplete,
    /// Anything in between.
    Living,
    /// Ended.
    Terminal,
}

impl Rank {
    /// The rank of a real snapshot with this status.
    pub fn of(status: &SubscriptionStatus) -> Self {
        match status {
            SubscriptionStatus::Incomplete => Self::Incomplete,
            status if status.is_terminal() => Self::Terminal,
            _ => Self::Living,
        }
    }

    /// The number that is stored.
    pub fn number(self) -> i16 {
        match self {
            Self::Unseen => 0,
            Self::Provisional => 1,
            Self::Incomplete => 2,
            Self::Living => 3,
            Self::Terminal => 4,
        }
    }

    /// The rank stored as `number`; an unknown number is unseen.
    pub fn from_number(number: i16) -> Self {
        match number {
            1 => Self::Provisional,
            2 => Self::Incomplete,
            3 => Self::Living,
            4 => Self::Terminal,
            _ => Self::Unseen,
        }
    }
}

/// Which kind of event brought a snapshot; `.created` loses against anything else of its second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The first that can be told of the object.
    Created,
    /// Anything later.
    Other,
}

impl Kind {
    /// The number that is stored.
    pub fn number(self) -> i16 {
        match self {
            Self::Created => 0,
            Self::Other => 1,
        }
    }

    /// The kind stored as `number`.
    pub fn from_number(number: i16) -> Self {
        if number == 0 { Self::Created } else { Self::Other }
    }
}

/// Orders the snapshots of one subscription; the fields compare in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// How far along its life.
    pub rank: Rank,
    /// The second it belongs to, on Stripe's clock.
    pub at: Time,
    /// `.created` or later.
    pub kind: Kind,
    /// The last, arbitrary but deterministic, tie-break.
    pub event_id: String,
}

impl Version {
    /// Everything but the tie-break: two snapshots equal in this cannot be told apart by time.
    fn moment(&self) -> (Rank, Time, Kind) {
        (self.rank, self.at, self.kind)
    }
}

/// One item of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Item {
    /// `si_…`.
    pub id: Option<String>,
    /// `price_…`, or a legacy plan's id.
    pub price_id: Option<String>,
    /// `prod_…`.
    pub product_id: Option<String>,
    /// The price's lookup key.
    pub lookup_key: Option<String>,
    /// `metadata.tier` of the price, else of the product.
    pub tier: Option<String>,
    /// How many.
    pub quantity: Option<i64>,
    /// `day`, `week`, `month` or `year`.
    pub interval: Option<String>,
    /// Intervals in a billing period.
    pub interval_count: Option<i64>,
    /// Start of the item's period.
    pub period_start: Option<Time>,
    /// End of the item's period.
    pub period_end: Option<Time>,
}

impl Item {
    /// How long a billing period is: the unit, and how many of it.
    pub(crate) fn billed_every(&self) -> Option<(&str, i64)> {
        Some((self.interval.as_deref()?, self.interval_count.unwrap_or(1)))
    }
}

/// A subscription as one event shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// As Stripe names it.
    pub status: SubscriptionStatus,
    /// Every item.
    pub items: Vec<Item>,
    /// Three-letter code, lower case.
    pub currency: Option<String>,
    /// The moment billing periods are counted from.
    pub billing_cycle_anchor: Option<Time>,
    /// Earliest start among the items (since 2025-03-31.basil periods belong to items), else the subscription's own.
    pub period_start: Option<Time>,
    /// Latest end among the items, else the subscription's own.
    pub period_end: Option<Time>,
    /// Start of the trial.
    pub trial_start: Option<Time>,
    /// End of the trial.
    pub trial_end: Option<Time>,
    /// A date on which it is scheduled to end.
    pub cancel_at: Option<Time>,
    /// True where it ends with the period.
    pub cancel_at_period_end: bool,
    /// When the end was asked for.
    pub canceled_at: Option<Time>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// How collection is paused, where it is.
    pub pause_collection: Option<String>,
    /// Stripe's metadata.
    pub metadata: BTreeMap<String, String>,
    /// Stripe's `livemode`.
    pub livemode: bool,
    /// When Stripe made it.
    pub made_at: Option<Time>,
}

impl Snapshot {
    /// A snapshot that tells no more than a status.
    pub fn of_status(status: SubscriptionStatus) -> Self {
        Self {
            status,
            items: Vec::new(),
            currency: None,
            billing_cycle_anchor: None,
            period_start: None,
            period_end: None,
            trial_start: None,
            trial_end: None,
            cancel_at: None,
            cancel_at_period_end: false,
            canceled_at: None,
            ended_at: None,
            pause_collection: None,
            metadata: BTreeMap::new(),
            livemode: false,
            made_at: None,
        }
    }

    /// When it is scheduled to end. Flexible billing schedules by `cancel_at` alone, classic by the flag
    /// (docs.stripe.com/billing/subscriptions/billing-mode/compare).
    pub fn scheduled_end(&self) -> Option<Time> {
        self.cancel_at.or(if self.cancel_at_period_end { self.period_end } else { None })
    }
}

/// In place of an event's id: the word of a host whose database was adopted (`migration`, `adoption/carry.rs`).
pub(crate) const ADOPTED: &str = "adopted";

/// In place of an event's id: the end of such a word, which nothing at Stripe bore out.
pub(crate) const UNCONFIRMED: &str = "unconfirmed";

/// So begins the id of a subscription of which the host did not say how Stripe calls it. Stripe knows of none such, and nobody is shown it.
const PLACEHOLDER: &str = "sub_adopted_";

/// Under this key of the metadata is the allowance that the host gave.
const HOSTS_LIMIT: &str = "trueup_usage_limit";

/// What is known of one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Stripe's id.
    pub id: SubscriptionId,
    /// Derived: see `World`.
    pub owner: Option<UserId>,
    /// The strongest tie to a user of its own, as opposed to its customer's.
    pub link: Option<Link>,
    /// Who pays. Stripe never changes it.
    pub customer: Option<CustomerId>,
    /// The newest snapshot.
    pub snapshot: Snapshot,
    /// What makes it the newest.
    pub version: Version,
    /// True while two snapshots of one moment disagree.
    pub needs_refresh: bool,
    /// When our row was made, if it is stored already.
    pub stored_at: Option<Time>,
}

/// What one event tells of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionTold {
    /// Which.
    pub id: SubscriptionId,
    /// Who pays.
    pub customer: Option<CustomerId>,
    /// A tie to a user.
    pub link: Option<Link>,
    /// How it looks; absent where the event only names it.
    pub snapshot: Option<(Rank, Kind, Snapshot)>,
}

/// What a merge came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Merge {
    /// The snapshot told is the newest now.
    Newest,
    /// The very version told, or one not to be told from it by content, was there.
    Known,
    /// A newer one was there.
    Stale,
    /// The event brought no snapshot.
    Named,
}

/// True for an id that Stripe never gave.
pub(crate) fn is_placeholder(id: &SubscriptionId) -> bool {
    id.as_str().starts_with(PLACEHOLDER)
}

impl Subscription {
    /// A subscription of which nothing is known but that it exists.
    pub fn unseen(id: SubscriptionId) -> Self {
        Self {
            id,
            owner: None,
            link: None,
            customer: None,
            snapshot: Snapshot::of_status(SubscriptionStatus::Other("unseen".into())),
            version: Version { rank: Rank::Unseen, at: Time::UNIX_EPOCH, kind: Kind::Created, event_id: String::new() },
            needs_refresh: false,
            stored_at: None,
        }
    }

    /// Takes in what an event tells. The second value is true where anything changed.
    pub fn merge(&mut self, told: SubscriptionTold, stamp: &Stamp) -> (Merge, bool) {
        let mut changed = Link::merge(&mut self.link, told.link);
        if self.customer.is_none() && told.customer.is_some() {
            self.customer = told.customer;
            changed = true;
        }
        let Some((rank, kind, snapshot)) = told.snapshot else { return (Merge::Named, changed) };
        // A checkout's hearsay says less than the host's word.
        if self.is_held() && rank <= Rank::Provisional && stamp.event_id != UNCONFIRMED {
            return (Merge::Stale, changed);
        }
        let version = Version { rank, at: stamp.at, kind, event_id: stamp.event_id.clone() };
        let same_moment = version.moment() == self.version.moment();
        if same_moment && snapshot != self.snapshot && !self.needs_refresh {
            // Whichever id wins, Stripe alone can say which of the two is true.
            self.needs_refresh = true;
            changed = true;
        }
        if version > self.version {
            let known = same_moment && snapshot == self.snapshot;
            if !same_moment {
                self.needs_refresh = false;
            }
            self.version = version;
            self.snapshot = snapshot;
            (if known { Merge::Known } else { Merge::Newest }, true)
        } else if version == self.version || (same_moment && snapshot == self.snapshot) {
            (Merge::Known, changed)
        } else {
            (Merge::Stale, changed)
        }
    }

    /// True for the word of a host whose database was adopted: it holds, whatever its status, until Stripe's own word replaces it, or a
    /// reconciliation that was given the go-ahead finds nothing that bears it out.
    pub fn is_held(&self) -> bool {
        self.version.rank == Rank::Provisional && self.version.event_id == ADOPTED
    }

    /// True where the host did not say how Stripe calls it.
    pub fn is_placeholder(&self) -> bool {
        is_placeholder(&self.id)
    }

    /// The allowance that the host gave, while only the host's word is known: none where it gave none of its own, and within, none for
    /// unlimited.
    pub fn hosts_limit(&self) -> Option<Option<i64>> {
        let text = self.snapshot.metadata.get(HOSTS_LIMIT).filter(|_| self.version.rank == Rank::Provisional)?;
        if text == "unlimited" { Some(None) } else { text.parse().ok().map(Some) }
    }

    /// The subscription's own word on its tier.
    pub fn tier(&self) -> Option<&str> {
        self.snapshot.metadata.get("tier").map(String::as_str)
    }
}
