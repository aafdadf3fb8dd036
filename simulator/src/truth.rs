//! What a server must know in the end, derived from the account alone, by the rules of the design and by no code of the product.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::{
    account::Account,
    model::Subscription,
    world::{Plan, SimulatedUser},
};

/// What is true at Stripe, as far as a server can know it. A user's standing follows from it at any moment ([`Truth::standing`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// The plans of the server, lowest first.
    pub plans: Vec<Plan>,
    /// Every user of the host.
    pub users: Vec<SimulatedUser>,
    /// Every subscription.
    pub subscriptions: Vec<TrueSubscription>,
}

/// A subscription as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrueSubscription {
    /// `sub_…`
    pub id: String,
    /// `cus_…`
    pub customer: String,
    /// The user it belongs to.
    pub owner: Option<String>,
    /// As Stripe names it.
    pub status: String,
    /// When it was made.
    pub created: i64,
    /// Every item.
    pub items: Vec<TrueItem>,
    /// Its own word on its tier.
    pub tier: Option<String>,
    /// Earliest start among the items.
    pub period_start: Option<i64>,
    /// Latest end among the items.
    pub period_end: Option<i64>,
    /// What periods are counted from.
    pub anchor: Option<i64>,
    /// Start of the trial.
    pub trial_start: Option<i64>,
    /// End of the trial.
    pub trial_end: Option<i64>,
    /// A date on which it is scheduled to end.
    pub cancel_at: Option<i64>,
    /// Whether it ends with its period.
    pub cancel_at_period_end: bool,
    /// When its end was asked for.
    pub canceled_at: Option<i64>,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// What becomes of its invoices while their collection is paused.
    pub pause: Option<String>,
}

/// An item as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TrueItem {
    /// `si_…`
    pub id: String,
    /// `price_…`
    pub price: String,
    /// How many.
    pub quantity: i64,
    /// The price's name for look-ups.
    pub lookup_key: Option<String>,
    /// `prod_…`
    pub product: String,
    /// The price's word on its tier.
    pub tier: Option<String>,
}

/// How a user stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The tier.
    pub tier: String,
    /// As a user reads it.
    pub status: String,
    /// Whether a subscription entitles.
    pub access: bool,
    /// Uses in a month; none is unlimited.
    pub limit: Option<i64>,
    /// End of the paid period.
    pub period_end: Option<i64>,
    /// When access is scheduled to end.
    pub cancel_at: Option<i64>,
    /// The subscription that governs, or the best one left.
    pub subscription: Option<String>,
}

impl TrueSubscription {
    fn scheduled_end(&self) -> Option<i64> {
        self.cancel_at.or(if self.cancel_at_period_end { self.period_end } else { None })
    }

    fn is_over(&self, now: i64) -> bool {
        self.has_ended() || self.scheduled_end().is_some_and(|end| end <= now)
    }

    /// True for what never comes back, whatever its dates say.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "canceled" | "incomplete_expired")
    }

    /// True where its status gives access and no plan names what it sells.
    pub(crate) fn is_unmapped(&self, plans: &[Plan]) -> bool {
        matches!(self.status.as_str(), "active" | "trialing" | "past_due") && self.plan(plans).is_none()
    }

    /// The highest plan among its items, by its place in the list.
    fn plan(&self, plans: &[Plan]) -> Option<usize> {
        self.items.iter().filter_map(|item| item.plan(self, plans)).max()
    }
}

impl TrueItem {
    fn plan(&self, of: &TrueSubscription, plans: &[Plan]) -> Option<usize> {
        let find = |fits: &dyn Fn(&Plan) -> bool| plans.iter().position(fits);
        let named = |tier: &Option<String>| tier.as_ref().and_then(|tier| find(&|plan| plan.tier == *tier));
        find(&|plan| plan.prices.contains(&self.price))
            .or_else(|| self.lookup_key.as_ref().and_then(|key| find(&|plan| plan.lookup_keys.contains(key))))
            .or_else(|| find(&|plan| plan.products.contains(&self.product)))
            .or_else(|| named(&self.tier))
            .or_else(|| named(&of.tier))
    }
}

impl Truth {
    /// How a user stands at `now`.
    pub fn standing(&self, user: &str, now: i64) -> Standing {
        let theirs: Vec<&TrueSubscription> =
            self.subscriptions.iter().filter(|subscription| subscription.owner.as_deref() == Some(user)).collect();
        self.standing_with(&theirs, now)
    }

    /// Everybody's standing at `now`, in the order of the users.
    pub fn standings(&self, now: i64) -> Vec<Standing> {
        let mut by_owner: HashMap<&str, Vec<&TrueSubscription>> = HashMap::new();
        for subscription in &self.subscriptions {
            if let Some(owner) = &subscription.owner {
                by_owner.entry(owner).or_default().push(subscription);
            }
        }
        let none = Vec::new();
        let of = |user: &SimulatedUser| self.standing_with(by_owner.get(user.id.as_str()).unwrap_or(&none), now);
        self.users.iter().map(of).collect()
    }

    fn standing_with(&self, theirs: &[&TrueSubscription], now: i64) -> Standing {
        let earlier = |a: &TrueSubscription, b: &TrueSubscription| (b.created, &b.id).cmp(&(a.created, &a.id));
        let entitling = theirs.iter().filter_map(|subscription| {
            let order = match subscription.status.as_str() {
                _ if subscription.is_over(now) => return None,
                "active" => 2,
                "trialing" => 1,
                "past_due" => 0,
                _ => return None,
            };
            Some((subscription.plan(&self.plans)?, order, *subscription))
        });
        let governing = entitling.max_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then_with(|| earlier(a.2, b.2)));
        if let Some((plan, _, subscription)) = governing {
            return Standing {
                tier: self.plans[plan].tier.clone(),
                status: subscription.status.clone(),
                access: true,
                limit: self.plans[plan].limit,
                period_end: subscription.period_end,
                cancel_at: subscription.scheduled_end(),
                subscription: Some(subscription.id.clone()),
            };
        }
        let order = |subscription: &TrueSubscription| match subscription.status.as_str() {
            _ if subscription.is_over(now) => 0,
            "active" | "trialing" => 6,
            "past_due" => 5,
            "unpaid" => 4,
            "paused" => 3,
            "incomplete" => 2,
            _ => 1,
        };
        let best = theirs.iter().max_by(|a, b| order(a).cmp(&order(b)).then_with(|| earlier(a, b)));
        let status = best.map_or("active", |best| if best.is_over(now) { "canceled" } else { &best.status });
        Standing {
            tier: self.plans.first().map_or_else(|| "free".to_owned(), |plan| plan.tier.clone()),
            status: status.to_owned(),
            access: false,
            limit: self.plans.first().and_then(|plan| plan.limit),
            period_end: None,
            cancel_at: None,
            subscription: best.map(|best| best.id.clone()),
        }
    }
}

/// Reads the truth out of the account.
pub(crate) fn of(account: &Account, users: &[SimulatedUser], plans: &[Plan]) -> Truth {
    let known: HashSet<&str> = users.iter().map(|user| user.id.as_str()).collect();
    let by_email: HashMap<String, &str> =
        users.iter().map(|user| (user.email.to_ascii_lowercase(), user.id.as_str())).collect();
    let is_user = |id: &String| known.contains(id.as_str());

    let mut by_session: HashMap<&str, &String> = HashMap::new();
    let mut by_customer: HashMap<&str, &String> = HashMap::new();
    // The later word counts, and the customer's own before a session's.
    for session in account.sessions.iter() {
        let Some(user) = session.reference.as_ref().filter(|id| is_user(id)) else { continue };
        if let Some(subscription) = &session.subscription {
            by_session.insert(subscription, user);
        }
        if let Some(customer) = session.customer.as_ref().filter(|_| session.subscription.is_some()) {
            by_customer.insert(customer, user);
        }
    }
    for subscription in account.subscriptions.iter() {
        if let Some(user) = subscription.metadata.get("user_id").filter(|id| is_user(id)) {
            by_customer.entry(&subscription.customer).or_insert(user);
        }
    }
    for customer in account.customers.iter() {
        if let Some(user) = customer.metadata.get("user_id").filter(|id| is_user(id)) {
            by_customer.insert(&customer.id, user);
        }
    }
    let tied: HashSet<&str> = by_customer.values().map(|user| user.as_str()).collect();
    let owner = |subscription: &Subscription| -> Option<String> {
        let own = subscription.metadata.get("user_id").filter(|id| is_user(id));
        let strong = own.or_else(|| by_session.get(subscription.id.as_str()).copied());
        let strong = strong.or_else(|| by_customer.get(subscription.customer.as_str()).copied());
        strong.cloned().or_else(|| {
            let email = account.customers.get(&subscription.customer)?.email.as_ref()?.trim().to_ascii_lowercase();
            let user = *by_email.get(&email)?;
            (!tied.contains(user)).then(|| user.to_owned())
        })
    };
    let subscriptions = account.subscriptions.iter().map(|subscription| TrueSubscription {
        id: subscription.id.clone(),
        customer: subscription.customer.clone(),
        owner: owner(subscription),
        status: subscription.status.as_str().to_owned(),
        created: subscription.created,
        items: items(account, subscription),
        tier: subscription.metadata.get("tier").cloned(),
        period_start: subscription.items.iter().map(|item| item.period_start).min(),
        period_end: subscription.period_end(),
        anchor: Some(subscription.anchor),
        trial_start: subscription.trial_start,
        trial_end: subscription.trial_end,
        cancel_at: subscription.cancel_at,
        cancel_at_period_end: subscription.cancel_at_period_end,
        canceled_at: subscription.canceled_at,
        ended_at: subscription.ended_at,
        pause: subscription.pause_collection.as_ref().map(|pause| pause.behavior.clone()),
    });
    Truth { plans: plans.to_vec(), users: users.to_vec(), subscriptions: subscriptions.collect() }
}

fn items(account: &Account, subscription: &Subscription) -> Vec<TrueItem> {
    let item = |item: &crate::model::Item| {
        let price = account.prices.get(&item.price);
        TrueItem {
            id: item.id.clone(),
            price: item.price.clone(),
            quantity: item.quantity,
            lookup_key: price.and_then(|price| price.lookup_key.clone()),
            product: price.map(|price| price.product.clone()).unwrap_or_default(),
            tier: price.and_then(|price| price.metadata.get("tier").cloned()),
        }
    };
    subscription.items.iter().map(item).collect()
}
