//! From subscriptions to a user's tier: pure functions of the facts, the catalogue and the moment.

use entity::{
    Time,
    enums::SubscriptionStatus,
    ids::{CustomerId, SubscriptionId},
};
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{Catalog, FREE, PlanRank},
    facts::{Invoice, Item, Outcome, Rank, Subscription},
    policy::Policy,
    usage::OpenWindow,
};

/// What a user may do, and by what right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entitlement {
    /// The tier that governs.
    pub tier: String,
    /// Status of the governing subscription, else of the best one left, else `active`.
    pub status: String,
    /// True while a subscription entitles.
    pub access: bool,
    /// Uses in a window; none is unlimited.
    pub limit: Option<i64>,
    /// End of the paid period.
    pub current_period_end: Option<Time>,
    /// When access is scheduled to end.
    pub cancel_at: Option<Time>,
}

/// An entitlement with where it comes from. The sources alone changing makes no entry in the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// What the user may do.
    pub entitlement: Entitlement,
    /// The customer of the governing subscription, else the one linked.
    pub customer: Option<CustomerId>,
    /// The governing subscription, else the best one left.
    pub subscription: Option<SubscriptionId>,
}

/// A tier that an operator gave until a date. While it lasts it wins over whatever the subscriptions say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Which; one that no plan has any more is ignored.
    pub tier: String,
    /// First moment at which it no longer holds.
    pub until: Time,
    /// Why, for people.
    pub reason: String,
    /// Who gave it.
    pub by: String,
    /// When.
    pub created_at: Time,
}

impl Override {
    /// The plan it gives at `now`; none where it is over, or no plan has its tier.
    pub fn plan(&self, catalog: &Catalog, now: Time) -> Option<PlanRank> {
        catalog.by_tier(&self.tier).filter(|_| now < self.until)
    }
}

/// What goes with a projection: the usage window that is open at that moment, and when time alone makes a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// The window that is open.
    pub window: OpenWindow,
    /// The next moment at which time alone may change what the user may do: a scheduled end, the end of grace or of an override.
    pub changes_at: Option<Time>,
    /// The next moment at which anything has to be derived anew: that one, or the end of the window. Always later than the moment of
    /// the projection.
    pub rolls_at: Time,
    /// True where an operator's override gives the tier.
    pub overridden: bool,
}

impl Outlook {
    /// What lies ahead of a user in this window. A trial that has yet to begin will be a window of its own.
    pub(crate) fn new(window: OpenWindow, trial_start: Option<Time>, changes_at: Option<Time>, now: Time) -> Self {
        let trial = trial_start.filter(|start| *start > now);
        let rolls_at = [changes_at, trial].into_iter().flatten().fold(window.window.end, Time::min);
        Self { window, changes_at, rolls_at, overridden: false }
    }
}

/// A subscription with what its own snapshot does not tell.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// The subscription.
    pub subscription: &'a Subscription,
    /// Its newest invoice that speaks for it.
    pub invoice: Option<&'a Invoice>,
    /// True where Stripe deleted its customer.
    pub customer_deleted: bool,
}

impl Standing<'_> {
    /// The status that follows from the snapshot, the newest invoice and the customer.
    pub fn status(&self) -> SubscriptionStatus {
        let Subscription { snapshot, version, .. } = self.subscription;
        let status = &snapshot.status;
        if status.is_terminal() {
            return status.clone();
        }
        if self.customer_deleted {
            return SubscriptionStatus::Canceled;
        }
        match self.invoice.map(|invoice| (invoice, invoice.outcome())) {
            // Equal second: Stripe made the snapshot in the same breath, and it already tells of a failure.
            Some((invoice, Outcome::Failed(at)))
                if invoice.renews()
                    && at > version.at
                    && matches!(status, SubscriptionStatus::Active | SubscriptionStatus::Trialing) =>
            {
                SubscriptionStatus::PastDue
            }
            Some((_, Outcome::Paid(at)))
                if at >= version.at
                    && matches!(
                        status,
                        SubscriptionStatus::PastDue | SubscriptionStatus::Unpaid | SubscriptionStatus::Incomplete
                    ) =>
            {
                SubscriptionStatus::Active
            }
            _ => status.clone(),
        }
    }

    /// Since when it is past due: the first failure of its newest invoice, else the start of the period.
    fn past_due_since(&self) -> Time {
        let Subscription { snapshot, version, .. } = self.subscription;
        self.invoice
            .filter(|invoice| matches!(invoice.outcome(), Outcome::Failed(_)))
            .and_then(|invoice| invoice.first_failed_at)
            .or(snapshot.period_start)
            .unwrap_or(version.at)
    }

    /// True where the host's word holds. A customer that Stripe deleted ends it.
    fn is_held(&self) -> bool {
        self.subscription.is_held() && !self.customer_deleted
    }

    /// True for the host's word on a subscription of unknown name, where Stripe has told since of one of the same customer and owner that leads
    /// to the same tier: that is the one.
    fn yields(&self, others: &[Standing<'_>], catalog: &Catalog) -> bool {
        let Subscription { customer, version, .. } = self.subscription;
        self.subscription.is_placeholder()
            && customer.is_some()
            && others.iter().any(|other| {
                let theirs = other.subscription;
                theirs.customer == *customer
                    && theirs.version.rank >= Rank::Living
                    && theirs.version.at >= version.at
                    && other.deciding_item(catalog).1.map(|rank| catalog.plan(rank).tier.as_str())
                        == self.subscription.tier()
            })
    }

    /// The end of its grace, where it is past due and grace has an end. Since when the host's word is past due nobody knows.
    pub(crate) fn grace_end(&self, policy: &Policy) -> Option<Time> {
        if self.is_held() {
            return None;
        }
        let grace = policy.past_due_grace.filter(|_| self.status() == SubscriptionStatus::PastDue)?;
        self.past_due_since().checked_add_signed(grace)
    }

    /// The dates on which it ends, as far as they are known.
    fn ends(&self, policy: &Policy) -> impl Iterator<Item = Time> {
        let scheduled = self.subscription.snapshot.scheduled_end();
        [scheduled, self.grace_end(policy)].into_iter().flatten()
    }

    /// When access ends by a date that is known already, and `None` where no date is.
    pub fn ends_at(&self, policy: &Policy) -> Option<Time> {
        self.ends(policy).min()
    }

    /// True for what a user has, or had: not for a subscription that is only named, nor for a checkout that came to nothing.
    fn counts(&self) -> bool {
        match self.subscription.version.rank {
            Rank::Unseen => false,
            Rank::Provisional => self.is_held() || !self.subscription.snapshot.status.is_terminal(),
            _ => true,
        }
    }

    /// The item that decides, with the plan it leads to: of several plans the highest.
    pub fn deciding_item(&self, catalog: &Catalog) -> (Option<&Item>, Option<PlanRank>) {
        let own = self.subscription.tier();
        let items = &self.subscription.snapshot.items;
        let mapped = items
            .iter()
            .filter_map(|item| catalog.of_item(item, own).map(|rank| (item, rank)))
            .reduce(|best, next| if next.1 > best.1 { next } else { best });
        match mapped {
            Some((item, rank)) => (Some(item), Some(rank)),
            None if items.is_empty() => (None, own.and_then(|tier| catalog.by_tier(tier))),
            None => (items.first(), None),
        }
    }
}

/// How a subscription that does not entitle ranks among its like: the higher tells the user's status.
fn remaining_rank(status: &SubscriptionStatus) -> u8 {
    match status {
        SubscriptionStatus::Active | SubscriptionStatus::Trialing => 6,
        SubscriptionStatus::PastDue => 5,
        SubscriptionStatus::Unpaid => 4,
        SubscriptionStatus::Paused => 3,
        SubscriptionStatus::Incomplete => 2,
        SubscriptionStatus::Other(_) => 1,
        SubscriptionStatus::Canceled | SubscriptionStatus::IncompleteExpired => 0,
    }
}

fn entitling_rank(status: &SubscriptionStatus) -> Option<u8> {
    match status {
        SubscriptionStatus::Active => Some(2),
        SubscriptionStatus::Trialing => Some(1),
        SubscriptionStatus::PastDue => Some(0),
        _ => None,
    }
}

/// What a user with these subscriptions may do at `now`, and what lies ahead. `linked` is the customer shown where no subscription names
/// one. An override changes tier and limit and nothing about the window, so giving and taking one starts no count anew.
pub fn project(
    standings: &[Standing<'_>],
    linked: Option<&CustomerId>,
    given: Option<&Override>,
    catalog: &Catalog,
    policy: &Policy,
    now: Time,
) -> (Projection, Outlook) {
    let (mut projection, mut outlook) = from_subscriptions(standings, linked, catalog, policy, now);
    if let Some((given, plan)) = given.and_then(|given| Some((given, given.plan(catalog, now)?))) {
        let plan = catalog.plan(plan);
        let may = &mut projection.entitlement;
        let grants = plan.tier != FREE;
        if grants && may.access {
            // It may outlast the subscription.
            may.cancel_at = may.cancel_at.map(|end| end.max(given.until));
        } else if grants {
            "active".clone_into(&mut may.status);
            may.cancel_at = Some(given.until);
        }
        may.access = grants;
        may.tier.clone_from(&plan.tier);
        may.limit = plan.monthly_limit.map(i64::from);
        outlook.overridden = true;
        outlook.changes_at = Some(outlook.changes_at.map_or(given.until, |at| at.min(given.until)));
        outlook.rolls_at = outlook.rolls_at.min(given.until);
    }
    (projection, outlook)
}

fn from_subscriptions(
    standings: &[Standing<'_>],
    linked: Option<&CustomerId>,
    catalog: &Catalog,
    policy: &Policy,
    now: Time,
) -> (Projection, Outlook) {
    struct Judged<'a> {
        standing: &'a Standing<'a>,
        status: SubscriptionStatus,
        over: bool,
        plan: Option<PlanRank>,
        item: Option<&'a Item>,
        held: bool,
    }
    let judged: Vec<Judged<'_>> = standings
        .iter()
        .filter(|standing| standing.counts() && !standing.yields(standings, catalog))
        .map(|standing| {
            let (item, plan) = standing.deciding_item(catalog);
            if standing.is_held() {
                let status = standing.subscription.snapshot.status.clone();
                return Judged { standing, status, over: false, plan, item, held: true };
            }
            let scheduled = standing.subscription.snapshot.scheduled_end();
            let status = match (standing.status(), scheduled) {
                (status, Some(end)) if end <= now && !status.is_terminal() => SubscriptionStatus::Canceled,
                (status, _) => status,
            };
            let over = standing.ends_at(policy).is_some_and(|end| end <= now);
            Judged { standing, status, over, plan, item, held: false }
        })
        .collect();
    // Those of subscriptions that do not govern as well: they may come to, or show as the best one left.
    let changes_at = judged
        .iter()
        .filter(|j| !j.held && !j.status.is_terminal())
        .flat_map(|j| j.standing.ends(policy))
        .filter(|end| *end > now)
        .min();
    // Equal rank: the earliest made, then the smallest id, is the greater here.
    let age = |j: &Judged<'_>| {
        let made_at = j.standing.subscription.snapshot.made_at.unwrap_or(Time::MAX_UTC);
        std::cmp::Reverse((made_at, j.standing.subscription.id.clone()))
    };
    let governing = judged
        .iter()
        .filter(|j| !j.over)
        .filter_map(|j| {
            if j.held {
                // A tier that no plan has is beyond comparison: nobody loses it for a lesser one.
                let paid = j.standing.subscription.tier().is_some_and(|tier| tier != FREE);
                return paid.then_some(((j.plan.is_none(), j.plan, 0), j));
            }
            Some(((false, Some(j.plan?), entitling_rank(&j.status)?), j))
        })
        .max_by(|(a, x), (b, y)| a.cmp(b).then_with(|| age(x).cmp(&age(y))));
    let customer_of = |j: &Judged<'_>| {
        let customer = j.standing.subscription.customer.clone();
        customer.filter(|_| !j.standing.customer_deleted).or_else(|| linked.cloned())
    };

    let named =
        |j: &Judged<'_>| Some(j.standing.subscription.id.clone()).filter(|_| !j.standing.subscription.is_placeholder());
    let told = |j: &Judged<'_>| if j.held { j.status.as_str().to_owned() } else { shown(&j.status) };
    if let Some(((_, plan, _), j)) = governing {
        let plan = plan.map(|plan| catalog.plan(plan));
        let snapshot = &j.standing.subscription.snapshot;
        let own = plan.and_then(|plan| plan.monthly_limit).map(i64::from);
        let tier = plan.map(|plan| plan.tier.as_str()).or_else(|| j.standing.subscription.tier());
        let interval = j.item.and_then(Item::billed_every);
        let projection = Projection {
            entitlement: Entitlement {
                tier: tier.unwrap_or(FREE).to_owned(),
                status: told(j),
                access: true,
                limit: j.standing.subscription.hosts_limit().unwrap_or(own),
                current_period_end: snapshot.period_end,
                cancel_at: snapshot.scheduled_end(),
            },
            customer: customer_of(j),
            subscription: named(j),
        };
        let window = match named(j) {
            Some(_) => OpenWindow::of(j.standing.subscription, interval, now),
            // Its count goes over to the subscription's own window once that is known.
            None => OpenWindow { provisional: true, ..OpenWindow::free(now) },
        };
        return (projection, Outlook::new(window, snapshot.trial_start, changes_at, now));
    }
    let rest = judged
        .iter()
        .max_by(|x, y| remaining_rank(&x.status).cmp(&remaining_rank(&y.status)).then_with(|| age(x).cmp(&age(y))));
    let free = catalog.free();
    let projection = Projection {
        entitlement: Entitlement {
            tier: FREE.to_owned(),
            status: rest.map_or_else(|| "active".to_owned(), told),
            access: false,
            limit: free.monthly_limit.map(i64::from),
            current_period_end: None,
            cancel_at: None,
        },
        customer: rest.map_or_else(|| linked.cloned(), customer_of),
        subscription: rest.and_then(named),
    };
    (projection, Outlook::new(OpenWindow::free(now), None, changes_at, now))
}

/// The status a user is shown: the ended ones read `canceled`.
fn shown(status: &SubscriptionStatus) -> String {
    if status.is_terminal() { "canceled".to_owned() } else { status.as_str().to_owned() }
}
