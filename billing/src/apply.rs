//! Applies one event to a world: values in, values out; no database, no clock, no network.

use std::collections::{BTreeSet, HashMap};

use entity::{
    Time,
    enums::{ChangeSource, EmailKind},
    ids::{CustomerId, SubscriptionId, UserId},
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    catalog::Catalog,
    events::{Email, Told},
    facts::{Merge, Stamp},
    policy::Policy,
    projection::{Entitlement, Outlook, Projection},
    world::World,
};

/// The rules and the moment under which events are applied.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Which price means which tier.
    pub catalog: &'a Catalog,
    /// The operator's switches.
    pub policy: &'a Policy,
    /// Now, by the database's clock.
    pub now: Time,
}

/// The event that is applied, as far as the outcome depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Cause<'a> {
    /// For the timeline.
    pub event_type: &'a str,
    /// Where it came from.
    pub source: ChangeSource,
    /// Its second and id.
    pub stamp: &'a Stamp,
}

/// What applying an event came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Whose event it is.
    pub user: Option<UserId>,
    /// Done, or waiting for a user.
    pub verdict: Verdict,
    /// What a person who looks at the event should know.
    pub note: Option<&'static str>,
    /// Entries of the timeline, at most one for a user.
    pub changes: Vec<Change>,
    /// An e-mail to queue.
    pub email: Option<QueuedEmail>,
}

/// What becomes of the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its facts are stored.
    Completed {
        /// How its snapshot compared with the stored one.
        merge: Option<Merge>,
    },
    /// Its facts are stored; it stays pending until this subscription has an owner.
    Parked(SubscriptionId),
}

/// One entry of the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub user: UserId,
    /// What they might do until now.
    pub before: Entitlement,
    /// What they may do from now on.
    pub after: Entitlement,
    /// What made it.
    pub source: ChangeSource,
    /// The event, where one did.
    pub event_id: Option<String>,
    /// The reconciliation, where one did.
    pub reconciliation: Option<Uuid>,
    /// For people.
    pub reason: String,
}

impl Change {
    /// True where somebody may do less than before.
    pub fn lowers(&self, catalog: &Catalog) -> bool {
        let Self { before, after, .. } = self;
        let rank = |entitlement: &Entitlement| catalog.by_tier(&entitlement.tier);
        // A tier that no plan has is beyond comparison.
        let lesser = before.tier != after.tier && rank(before).is_none_or(|was| rank(after).is_none_or(|is| is < was));
        let (was, is) = (before.limit.unwrap_or(i64::MAX), after.limit.unwrap_or(i64::MAX));
        (before.access && !after.access) || lesser || is < was
    }
}

/// An e-mail to be queued in the same transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedEmail {
    /// To whom.
    pub user: UserId,
    /// What about.
    pub kind: EmailKind,
    /// One e-mail per key.
    pub dedupe_key: String,
    /// What the text needs.
    pub data: serde_json::Value,
}

/// Applies what an event tells.
pub fn apply(world: &mut World, told: Told, cause: Cause<'_>, rules: Rules<'_>) -> Applied {
    let Told { customer, subscription, invoice, email, about, note } = told;
    let subject: (Option<CustomerId>, Option<SubscriptionId>) = (
        customer.as_ref().map(|c| c.id.clone()).or_else(|| invoice.as_ref().and_then(|i| i.customer.clone())).or(about),
        subscription.as_ref().map(|s| s.id.clone()),
    );
    let mut concerned = std::mem::take(&mut world.dirty.concerned);
    if let Some(told) = customer {
        world.tell_customer(told, cause.stamp, rules.policy, &mut concerned);
    }
    let merge = subscription.map(|told| world.tell_subscription(told, cause.stamp, rules.policy, &mut concerned));
    if let Some(told) = invoice {
        world.tell_invoice(told, cause.stamp, &mut concerned);
    }
    let user = match &subject {
        (_, Some(subscription)) => world.subscription(subscription).and_then(|s| s.owner),
        (Some(customer), None) => world.customer(customer).and_then(|c| c.owner),
        (None, None) => None,
    };
    concerned.extend(user);
    let changes = reproject(world, &concerned, cause.event_type, cause.source, Some(cause.stamp), rules);
    let email = user.zip(email).and_then(|(user, email)| queue(world, user, email, rules));
    match subject.1 {
        Some(subscription) if user.is_none() => {
            Applied { user, verdict: Verdict::Parked(subscription), note: Some("unmatched user"), changes, email }
        }
        subscription => {
            let stale =
                (merge == Some(Merge::Stale)).then_some("stale: a newer snapshot of the subscription is stored");
            let stranger = (subscription.is_none() && user.is_none()).then_some("no user of ours");
            let note = note.or(stale).or(stranger);
            Applied { user, verdict: Verdict::Completed { merge }, note, changes, email }
        }
    }
}

/// Derives anew what these users may do, and tells what differs.
pub(crate) fn reproject(
    world: &mut World,
    users: &BTreeSet<UserId>,
    what: &str,
    source: ChangeSource,
    stamp: Option<&Stamp>,
    rules: Rules<'_>,
) -> Vec<Change> {
    reproject_each(world, users, |_, _| what.to_owned(), source, stamp, rules)
}

/// The same, with an occasion for each user; it is asked for before anything of that user changes.
pub(crate) fn reproject_each(
    world: &mut World,
    users: &BTreeSet<UserId>,
    what: impl Fn(&World, UserId) -> String,
    source: ChangeSource,
    stamp: Option<&Stamp>,
    rules: Rules<'_>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for &id in users {
        let Some(user) = world.user(id) else { continue };
        let before = user.projection.entitlement.clone();
        let (after, outlook) = world.project(id, rules.catalog, rules.policy, rules.now);
        if before != after.entitlement {
            changes.push(Change {
                user: id,
                before,
                after: after.entitlement.clone(),
                source,
                event_id: stamp.map(|stamp| stamp.event_id.clone()),
                reconciliation: None,
                reason: format!("{}: {}", what(world, id), because(&after, &outlook)),
            });
        }
        world.set_projection(id, after, &outlook);
    }
    changes
}

/// Changes that belong together: one entry for each user, from the first `before` to the last `after`, and none where these are equal.
pub(crate) fn folded(changes: Vec<Change>) -> Vec<Change> {
    let mut places: HashMap<UserId, usize> = HashMap::new();
    let mut folded: Vec<Change> = Vec::new();
    for change in changes {
        if let Some(&place) = places.get(&change.user) {
            folded[place].after = change.after;
            folded[place].reason = change.reason;
        } else {
            places.insert(change.user, folded.len());
            folded.push(change);
        }
    }
    folded.retain(|change| change.before != change.after);
    folded
}

fn because(projection: &Projection, outlook: &Outlook) -> String {
    let Entitlement { tier, status, access, .. } = &projection.entitlement;
    match (&projection.subscription, access) {
        _ if outlook.overridden => format!("an operator's override gives {tier}"),
        (Some(subscription), true) => format!("{subscription} ({status}) entitles to {tier}"),
        (Some(subscription), false) => {
            format!("no subscription entitles; the best one left, {subscription}, is {status}")
        }
        (None, true) => format!("what the host had before ({status}) entitles to {tier}"),
        (None, false) => "no subscription".to_owned(),
    }
}

fn queue(world: &World, user: UserId, email: Email, rules: Rules<'_>) -> Option<QueuedEmail> {
    if !rules.policy.queue_emails {
        return None;
    }
    let (kind, dedupe_key, data) = match email {
        Email::TrialEnding { subscription } => {
            let standing = world.standing(world.subscription(&subscription)?);
            let trial_end = standing.subscription.snapshot.trial_end.filter(|end| *end > rules.now)?;
            if standing.status() != entity::enums::SubscriptionStatus::Trialing {
                return None;
            }
            let key = format!("trial_ending:{subscription}:{}", trial_end.timestamp());
            (EmailKind::TrialEnding, key, json!({ "subscription_id": subscription, "trial_end": trial_end }))
        }
        Email::Payment { invoice, kind } => {
            let invoice = world.invoice(&invoice)?;
            if matches!(invoice.outcome(), crate::facts::Outcome::Paid(_)) {
                return None;
            }
            let facts = &invoice.snapshot;
            let attempt = facts.attempt_count.unwrap_or(0);
            let data = json!({
                "invoice_id": invoice.id,
                "number": facts.number,
                "amount_due": facts.amount_due,
                "currency": facts.currency,
                "attempt": attempt,
                "next_payment_attempt": facts.next_payment_attempt,
                "hosted_invoice_url": facts.hosted_invoice_url,
            });
            (kind, format!("{kind}:{}:{attempt}", invoice.id), data)
        }
    };
    Some(QueuedEmail { user, kind, dedupe_key, data })
}
