//! The part of everything known that a batch of events can touch: loaded, changed in memory, saved.
//!
//! The facts inside are merged ([`crate::facts`]); owners and entitlements are derived from them here, and only here. A `World` knows
//! no database: it is filled by the processor's loader with everything that derivation can reach from the events at hand.

use std::collections::{BTreeSet, HashMap, HashSet};

use entity::{
    Time,
    enums::LinkEvidence,
    ids::{CustomerId, InvoiceId, SubscriptionId, UserId},
};

use crate::{
    catalog::Catalog,
    facts::{Customer, CustomerTold, Invoice, InvoiceTold, Link, Merge, Stamp, Subscription, SubscriptionTold},
    policy::Policy,
    projection::{Outlook, Override, Projection, Standing, project},
    usage::OpenWindow,
};

/// A user as far as billing is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The host's id.
    pub id: UserId,
    /// As the host writes it.
    pub email: String,
    /// The customer in the user's own row: our mirror, or the host's word.
    pub carried: Option<CustomerId>,
    /// What is stored now.
    pub projection: Projection,
    /// What is stored of the outlook.
    pub ahead: Ahead,
}

/// What a user's row keeps of their [`Outlook`]. The default is that of a user of whom nothing is derived yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ahead {
    /// The open window.
    pub open: Option<OpenWindow>,
    /// See [`Outlook::changes_at`].
    pub changes_at: Option<Time>,
    /// See [`Outlook::rolls_at`]; the epoch where the user is due whatever the time.
    pub rolls_at: Time,
}

impl Ahead {
    /// True where everything has been derived, and `outlook` says the same.
    fn is(&self, outlook: &Outlook) -> bool {
        self.rolls_at == outlook.rolls_at
            && self.changes_at == outlook.changes_at
            && self.open.as_ref() == Some(&outlook.window)
    }
}

/// A form of an e-mail address in which equal means the same for our purposes.
pub fn email_key(email: &str) -> String {
    email.trim().to_ascii_lowercase()
}

/// Everything a batch can touch.
#[derive(Debug, Clone, Default)]
pub struct World {
    users: HashMap<UserId, User>,
    customers: HashMap<CustomerId, Customer>,
    subscriptions: HashMap<SubscriptionId, Subscription>,
    invoices: HashMap<InvoiceId, Invoice>,
    user_by_email: HashMap<String, UserId>,
    customers_by_link: HashMap<UserId, BTreeSet<CustomerId>>,
    subscriptions_by_customer: HashMap<CustomerId, BTreeSet<SubscriptionId>>,
    subscriptions_by_owner: HashMap<UserId, BTreeSet<SubscriptionId>>,
    invoices_by_subscription: HashMap<SubscriptionId, BTreeSet<InvoiceId>>,
    overrides: HashMap<UserId, Override>,
    /// What has to be written back.
    pub(crate) dirty: Dirty,
}

/// What changed since the world was loaded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dirty {
    pub(crate) users: HashSet<UserId>,
    pub(crate) customers: HashSet<CustomerId>,
    pub(crate) subscriptions: HashSet<SubscriptionId>,
    pub(crate) invoices: HashSet<InvoiceId>,
    /// Subscriptions that got another owner: their invoices follow.
    pub(crate) moved: HashSet<SubscriptionId>,
    /// Subscriptions that had no owner and have one: whatever waited for that may go on.
    pub(crate) released: HashSet<SubscriptionId>,
    /// Users whose projection has to be derived anew, although no event has touched them yet.
    pub(crate) concerned: BTreeSet<UserId>,
}

impl World {
    /// Takes in a stored user.
    pub fn insert_user(&mut self, user: User) {
        self.user_by_email.insert(email_key(&user.email), user.id);
        self.users.insert(user.id, user);
    }

    /// Takes in a stored customer.
    pub fn insert_customer(&mut self, customer: Customer) {
        if let Some(link) = &customer.link {
            self.customers_by_link.entry(link.user).or_default().insert(customer.id.clone());
        }
        self.customers.insert(customer.id.clone(), customer);
    }

    /// Takes in a stored subscription.
    pub fn insert_subscription(&mut self, subscription: Subscription) {
        if let Some(customer) = &subscription.customer {
            self.subscriptions_by_customer.entry(customer.clone()).or_default().insert(subscription.id.clone());
        }
        if let Some(owner) = subscription.owner {
            self.subscriptions_by_owner.entry(owner).or_default().insert(subscription.id.clone());
        }
        self.subscriptions.insert(subscription.id.clone(), subscription);
    }

    /// Takes in a stored invoice.
    pub fn insert_invoice(&mut self, invoice: Invoice) {
        if let Some(subscription) = &invoice.subscription {
            self.invoices_by_subscription.entry(subscription.clone()).or_default().insert(invoice.id.clone());
        }
        self.invoices.insert(invoice.id.clone(), invoice);
    }

    /// Takes in a stored override, or one that is to be stored; `None` takes it away.
    pub fn set_override(&mut self, user: UserId, given: Option<Override>) {
        match given {
            Some(given) => self.overrides.insert(user, given),
            None => self.overrides.remove(&user),
        };
    }

    /// The override of a user, over or not.
    pub fn tier_override(&self, user: UserId) -> Option<&Override> {
        self.overrides.get(&user)
    }

    /// The user, if known.
    pub fn user(&self, id: UserId) -> Option<&User> {
        self.users.get(&id)
    }

    /// Every user.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// The customer, if known.
    pub fn customer(&self, id: &CustomerId) -> Option<&Customer> {
        self.customers.get(id)
    }

    /// Every customer.
    pub fn customers(&self) -> impl Iterator<Item = &Customer> {
        self.customers.values()
    }

    /// The subscription, if known.
    pub fn subscription(&self, id: &SubscriptionId) -> Option<&Subscription> {
        self.subscriptions.get(id)
    }

    /// Every subscription.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Subscription> {
        self.subscriptions.values()
    }

    /// Every invoice that is loaded.
    pub fn invoices(&self) -> impl Iterator<Item = &Invoice> {
        self.invoices.values()
    }

    /// The invoice, if known.
    pub fn invoice(&self, id: &InvoiceId) -> Option<&Invoice> {
        self.invoices.get(id)
    }

    /// Merges what is told of a customer, and follows it to everyone it concerns; they are added to `concerned`.
    pub(crate) fn tell_customer(
        &mut self,
        mut told: CustomerTold,
        stamp: &Stamp,
        policy: &Policy,
        concerned: &mut BTreeSet<UserId>,
    ) {
        let id = told.id.clone();
        // An address is evidence too, for whoever has it now; even that of an older version, or the order of arrival would show.
        if let (None, true, Some((_, Some(email)))) = (&told.link, policy.link_by_email, &told.email)
            && let Some(user) = self.user_by_email.get(&email_key(email))
        {
            told.link = Some(Link { evidence: LinkEvidence::Email, stamp: stamp.clone(), user: *user });
        }
        let customer = self.customers.entry(id.clone()).or_insert_with(|| Customer::unseen(id.clone()));
        let previous = customer.link.as_ref().map(|link| link.user);
        let tombstone = customer.deleted_at;
        if customer.merge(told, stamp) || customer.stored_at.is_none() {
            self.dirty.customers.insert(id.clone());
        }
        if customer.deleted_at != tombstone {
            concerned.extend(
                self.subscriptions_by_customer
                    .get(&id)
                    .into_iter()
                    .flatten()
                    .filter_map(|subscription| self.subscriptions.get(subscription)?.owner),
            );
        }
        self.relink(&id, previous);
        self.own_customer(&id, previous, policy, concerned);
    }

    /// Merges what is told of a subscription.
    pub(crate) fn tell_subscription(
        &mut self,
        told: SubscriptionTold,
        stamp: &Stamp,
        policy: &Policy,
        concerned: &mut BTreeSet<UserId>,
    ) -> Merge {
        let id = told.id.clone();
        let subscription = self.subscriptions.entry(id.clone()).or_insert_with(|| Subscription::unseen(id.clone()));
        let (merge, changed) = subscription.merge(told, stamp);
        if changed || subscription.stored_at.is_none() {
            self.dirty.subscriptions.insert(id.clone());
        }
        if let Some(customer) = subscription.customer.clone() {
            self.subscriptions_by_customer.entry(customer.clone()).or_default().insert(id.clone());
            let previous = self.customers.get(&customer).and_then(|c| c.link.as_ref()).map(|link| link.user);
            self.own_customer(&customer, previous, policy, concerned);
        }
        self.own_subscription(&id, concerned);
        concerned.extend(self.subscriptions.get(&id).and_then(|subscription| subscription.owner));
        merge
    }

    /// Merges what is told of an invoice.
    pub(crate) fn tell_invoice(&mut self, told: InvoiceTold, stamp: &Stamp, concerned: &mut BTreeSet<UserId>) {
        let id = told.id.clone();
        let invoice = self.invoices.entry(id.clone()).or_insert_with(|| Invoice::unseen(id.clone()));
        if invoice.merge(told, stamp) || invoice.stored_at.is_none() {
            self.dirty.invoices.insert(id.clone());
        }
        let (subscription, customer) = (invoice.subscription.clone(), invoice.customer.clone());
        if let Some(subscription) = &subscription {
            self.invoices_by_subscription.entry(subscription.clone()).or_default().insert(id.clone());
        }
        let owner = match subscription {
            Some(subscription) => self.subscriptions.get(&subscription).and_then(|s| s.owner),
            None => customer.and_then(|customer| self.customers.get(&customer)).and_then(|c| c.owner),
        };
        if let Some(invoice) = self.invoices.get_mut(&id)
            && invoice.owner != owner
        {
            invoice.owner = owner;
            self.dirty.invoices.insert(id);
        }
        concerned.extend(owner);
    }

    /// Finds what belongs to a user who is new or has a new address.
    pub(crate) fn welcome(&mut self, user: UserId, policy: &Policy, concerned: &mut BTreeSet<UserId>) {
        concerned.insert(user);
        let customers: Vec<CustomerId> = self.customers.keys().cloned().collect();
        for id in customers {
            let previous = self.customers.get(&id).and_then(|c| c.link.as_ref()).map(|link| link.user);
            self.own_customer(&id, previous, policy, concerned);
        }
        let subscriptions: Vec<SubscriptionId> = self.subscriptions.keys().cloned().collect();
        for id in subscriptions {
            self.own_subscription(&id, concerned);
        }
    }

    /// Keeps the index of links true after a customer's link may have changed.
    fn relink(&mut self, id: &CustomerId, previous: Option<UserId>) {
        let now = self.customers.get(id).and_then(|customer| customer.link.as_ref()).map(|link| link.user);
        if now != previous {
            if let Some(customers) = previous.and_then(|user| self.customers_by_link.get_mut(&user)) {
                customers.remove(id);
            }
            if let Some(user) = now {
                self.customers_by_link.entry(user).or_default().insert(id.clone());
            }
        }
    }

    /// Finds the owner of a customer, and of every other that competes with it for the same user.
    fn own_customer(
        &mut self,
        id: &CustomerId,
        previous: Option<UserId>,
        policy: &Policy,
        concerned: &mut BTreeSet<UserId>,
    ) {
        self.link_by_stored_address(id, policy);
        self.relink(id, previous);
        let now = self.customers.get(id).and_then(|customer| customer.link.as_ref()).map(|link| link.user);
        let both: BTreeSet<UserId> = previous.into_iter().chain(now).collect();
        for user in both {
            self.settle_customers_of(user, concerned);
        }
    }

    /// A stored address may by now be somebody's.
    fn link_by_stored_address(&mut self, id: &CustomerId, policy: &Policy) {
        let Some(customer) = self.customers.get_mut(id) else { return };
        if let (None, true, Some(email)) = (&customer.link, policy.link_by_email, &customer.email)
            && let Some(user) = self.user_by_email.get(&email_key(email))
        {
            let stamp = customer.version.1.clone();
            customer.link = Some(Link { evidence: LinkEvidence::Email, stamp, user: *user });
            self.dirty.customers.insert(id.clone());
        }
    }

    /// A user's own row may name a customer because the host wrote it there; that ties the two. Where we own the customer to that user
    /// already, the row only mirrors what we wrote. To be called once, on what was loaded: later the mirror lags behind.
    pub(crate) fn take_host_words(&mut self) {
        let mut concerned = BTreeSet::new();
        let carriers: Vec<(CustomerId, UserId)> =
            self.users.values().filter_map(|user| Some((user.carried.clone()?, user.id))).collect();
        for (id, user) in carriers {
            let customer = self.customers.entry(id.clone()).or_insert_with(|| Customer::unseen(id.clone()));
            let weak =
                customer.link.as_ref().is_none_or(|link| link.evidence == LinkEvidence::Email && link.user != user);
            if !weak || customer.owner == Some(user) {
                continue;
            }
            let previous = customer.link.as_ref().map(|link| link.user);
            let stamp = Stamp { at: Time::UNIX_EPOCH, event_id: String::new() };
            customer.link = Some(Link { evidence: LinkEvidence::Customer, stamp, user });
            self.dirty.customers.insert(id.clone());
            self.relink(&id, previous);
            for user in previous.into_iter().chain([user]) {
                self.settle_customers_of(user, &mut concerned);
            }
        }
        self.dirty.concerned.extend(concerned);
    }

    /// Which of the customers tied to a user are theirs: all with strong evidence; of those tied by address alone the senior one, and only
    /// while no living customer is tied by anything stronger.
    fn settle_customers_of(&mut self, user: UserId, concerned: &mut BTreeSet<UserId>) {
        let Some(ids) = self.customers_by_link.get(&user) else { return };
        let known = self.users.contains_key(&user);
        let by_email = |c: &Customer| c.link.as_ref().is_some_and(|link| link.evidence == LinkEvidence::Email);
        let customers = || ids.iter().filter_map(|id| self.customers.get(id));
        let strong = customers().any(|c| !by_email(c) && c.deleted_at.is_none());
        let senior =
            customers().filter(|c| by_email(c)).min_by(|a, b| a.seniority().cmp(&b.seniority())).map(|c| c.id.clone());
        let owners: Vec<(CustomerId, Option<UserId>)> = customers()
            .map(|c| {
                let theirs = known && (!by_email(c) || (!strong && senior.as_ref() == Some(&c.id)));
                (c.id.clone(), theirs.then_some(user))
            })
            .collect();
        for (id, owner) in owners {
            self.set_customer_owner(&id, owner, concerned);
        }
    }

    fn set_customer_owner(&mut self, id: &CustomerId, owner: Option<UserId>, concerned: &mut BTreeSet<UserId>) {
        let Some(customer) = self.customers.get_mut(id) else { return };
        if customer.owner == owner {
            return;
        }
        concerned.extend(customer.owner);
        concerned.extend(owner);
        customer.owner = owner;
        self.dirty.customers.insert(id.clone());
        for subscription in self.subscriptions_by_customer.get(id).cloned().unwrap_or_default() {
            self.own_subscription(&subscription, concerned);
        }
    }

    /// The user a subscription's own link names; without one, its customer's owner. An unknown user is nobody: the subscription does
    /// not fall to its customer's owner.
    fn own_subscription(&mut self, id: &SubscriptionId, concerned: &mut BTreeSet<UserId>) {
        let Some(subscription) = self.subscriptions.get(id) else { return };
        let owner = match &subscription.link {
            Some(link) => self.users.contains_key(&link.user).then_some(link.user),
            None => subscription.customer.as_ref().and_then(|c| self.customers.get(c)).and_then(|c| c.owner),
        };
        let before = subscription.owner;
        if before == owner {
            return;
        }
        concerned.extend(before);
        concerned.extend(owner);
        if let Some(set) = before.and_then(|user| self.subscriptions_by_owner.get_mut(&user)) {
            set.remove(id);
        }
        if let Some(user) = owner {
            self.subscriptions_by_owner.entry(user).or_default().insert(id.clone());
        }
        if before.is_none() {
            self.dirty.released.insert(id.clone());
        }
        self.dirty.moved.insert(id.clone());
        self.dirty.subscriptions.insert(id.clone());
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            subscription.owner = owner;
        }
        for invoice in self.invoices_by_subscription.get(id).cloned().unwrap_or_default() {
            if let Some(invoice) = self.invoices.get_mut(&invoice) {
                invoice.owner = owner;
                self.dirty.invoices.insert(invoice.id.clone());
            }
        }
    }

    /// A subscription with its newest speaking invoice and whether its customer lives.
    pub fn standing<'a>(&'a self, subscription: &'a Subscription) -> Standing<'a> {
        let invoice = self
            .invoices_by_subscription
            .get(&subscription.id)
            .into_iter()
            .flatten()
            .filter_map(|id| self.invoices.get(id))
            .filter(|invoice| invoice.speaks())
            .max_by(|a, b| a.age().cmp(&b.age()));
        let customer_deleted = subscription
            .customer
            .as_ref()
            .and_then(|id| self.customers.get(id))
            .is_some_and(|customer| customer.deleted_at.is_some());
        Standing { subscription, invoice, customer_deleted }
    }

    /// What a user may do at `now`, from the facts as they are, and what lies ahead.
    pub fn project(&self, user: UserId, catalog: &Catalog, policy: &Policy, now: Time) -> (Projection, Outlook) {
        let standings: Vec<Standing<'_>> = self
            .subscriptions_by_owner
            .get(&user)
            .into_iter()
            .flatten()
            .filter_map(|id| self.subscriptions.get(id))
            .map(|subscription| self.standing(subscription))
            .collect();
        let linked = self
            .customers_by_link
            .get(&user)
            .into_iter()
            .flatten()
            .filter_map(|id| self.customers.get(id))
            .filter(|customer| customer.owner == Some(user) && customer.deleted_at.is_none())
            .max_by(|a, b| a.link.cmp(&b.link).then_with(|| b.seniority().cmp(&a.seniority())))
            .map(|customer| &customer.id);
        project(&standings, linked, self.tier_override(user), catalog, policy, now)
    }

    /// Stores a projection. Where it differs, or lets something else lie ahead, the user becomes due: the window is opened by whoever
    /// comes by next to read, to consume or to reset, and never here.
    pub(crate) fn set_projection(&mut self, user: UserId, projection: Projection, outlook: &Outlook) {
        let Some(user) = self.users.get_mut(&user) else { return };
        // Nothing is derived yet, or it is known to be due: only what is stored of the entitlement counts.
        let due = user.ahead.rolls_at == Time::UNIX_EPOCH;
        let as_it_was = if due { user.ahead.changes_at == outlook.changes_at } else { user.ahead.is(outlook) };
        if user.projection == projection && as_it_was {
            return;
        }
        user.projection = projection;
        user.ahead.changes_at = outlook.changes_at;
        user.ahead.rolls_at = Time::UNIX_EPOCH;
        self.dirty.users.insert(user.id);
    }
}
