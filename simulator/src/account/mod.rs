//! The account: everything the simulated Stripe keeps, and its clock.
//!
//! Nothing here waits or sends. Time is moved from outside ([`Account::step`]), and what happens is told as events, which whoever delivers
//! them takes ([`Account::take_events`]). The same seed and the same calls give the same objects, ids and events.

mod agenda;
mod billing;
mod change;
mod checkout;
mod dunning;
mod end;
mod people;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc};

use serde_json::{Map, Value};

use self::agenda::Due;
pub(crate) use self::{
    billing::{FirstPayment, NewSubscription},
    change::{Collection, ItemChange, SubscriptionChange, When},
    checkout::NewSession,
    people::{CustomerChange, NewPrice},
};
use crate::{
    calendar::DAY,
    event::{Event, NewEvent},
    model::{Charge, Customer, Dispute, Endpoint, Invoice, Price, Product, Session, Subscription},
    render,
    rng::{Rng, Share},
    table::Table,
    version::ApiVersion,
};

/// Events are listed for so long (docs.stripe.com/api/events).
const EVENTS_KEPT: i64 = 30 * DAY;

/// Why a request cannot be done: Stripe's words for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) code: Option<&'static str>,
    pub(crate) message: String,
    pub(crate) param: Option<String>,
}

impl Refusal {
    pub(crate) fn missing(what: &str, id: &str, param: &str) -> Self {
        let message = format!("No such {what}: '{id}'");
        let param = Some(param.to_owned());
        Self { status: 404, kind: "invalid_request_error", code: Some("resource_missing"), message, param }
    }

    pub(crate) fn invalid(message: impl Into<String>, param: &str) -> Self {
        let param = (!param.is_empty()).then(|| param.to_owned());
        Self { status: 400, kind: "invalid_request_error", code: None, message: message.into(), param }
    }

    pub(crate) fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }
}

/// The account.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) version: ApiVersion,
    pub(crate) products: Table<Product>,
    pub(crate) prices: Table<Price>,
    pub(crate) customers: Table<Customer>,
    pub(crate) subscriptions: Table<Subscription>,
    pub(crate) invoices: Table<Invoice>,
    pub(crate) charges: Table<Charge>,
    pub(crate) disputes: Table<Dispute>,
    pub(crate) sessions: Table<Session>,
    pub(crate) endpoints: Table<Endpoint>,
    now: i64,
    agenda: agenda::Agenda,
    ids: Rng,
    chance: Rng,
    /// How often several changes of one subscription fall into one second.
    bursts: Share,
    /// The request that is being done, while one is.
    request: Option<String>,
    /// Listed, oldest first.
    events: VecDeque<Arc<Event>>,
    /// Made, and not taken yet.
    fresh: Vec<Arc<Event>>,
}

impl Account {
    /// An empty account whose clock stands at `now`.
    pub(crate) fn new(seed: u64, now: i64, version: ApiVersion, bursts: Share) -> Self {
        Self {
            version,
            products: Table::default(),
            prices: Table::default(),
            customers: Table::default(),
            subscriptions: Table::default(),
            invoices: Table::default(),
            charges: Table::default(),
            disputes: Table::default(),
            sessions: Table::default(),
            endpoints: Table::default(),
            now,
            agenda: agenda::Agenda::default(),
            ids: Rng::new(seed, "ids"),
            chance: Rng::new(seed, "payments"),
            bursts,
            request: None,
            events: VecDeque::new(),
            fresh: Vec::new(),
        }
    }

    /// The second of virtual time.
    pub(crate) fn now(&self) -> i64 {
        self.now
    }

    /// Lets time pass up to `to`. Whatever is due before has to be done first; see [`Self::step`].
    pub(crate) fn pass(&mut self, to: i64) {
        self.now = self.now.max(to);
    }

    /// When Stripe does something by itself next.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.agenda.next()
    }

    /// Does the next thing that is due until `until`, at its time; false where there is none.
    pub(crate) fn step(&mut self, until: i64) -> bool {
        let Some((at, due)) = self.agenda.take(until) else { return false };
        self.pass(at);
        self.request = None;
        self.perform(due, at);
        true
    }

    /// What happened since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<Arc<Event>> {
        std::mem::take(&mut self.fresh)
    }

    /// Every event that is still listed, newest first.
    pub(crate) fn events_newest_first(&self) -> impl Iterator<Item = &Arc<Event>> {
        self.events.iter().rev()
    }

    /// What follows is done because of a request; the id of it.
    pub(crate) fn begin_request(&mut self) -> String {
        let id = self.new_id("req_", 14);
        self.request = Some(id.clone());
        id
    }

    /// `prefix` and so many letters.
    pub(crate) fn new_id(&mut self, prefix: &str, letters: usize) -> String {
        format!("{prefix}{}", self.ids.letters(letters))
    }

    /// Tells that something happened, and forgets what is too old to be listed.
    fn tell(&mut self, event_type: &'static str, subscription: Option<&str>, object: Value, previous: Option<Value>) {
        let id = self.new_id("evt_1", 23);
        let event = Event::new(NewEvent {
            id,
            event_type,
            created: self.now,
            subscription: subscription.map(str::to_owned),
            object,
            previous,
            version: self.version,
            request: self.request.clone(),
        });
        self.keep(event);
    }

    /// Lists an event that somebody else made.
    pub(crate) fn list(&mut self, event: &Arc<Event>) {
        self.events.push_back(Arc::clone(event));
    }

    fn keep(&mut self, event: Arc<Event>) {
        self.events.push_back(Arc::clone(&event));
        self.fresh.push(event);
        while self.events.front().is_some_and(|oldest| oldest.created < self.now - EVENTS_KEPT) {
            self.events.pop_front();
        }
    }

    /// Changes a subscription and tells of it by one event for each type, all with the same content. Nothing where it is unknown.
    ///
    /// Two changes of one subscription fall into different seconds, but for the bursts.
    fn change_subscription(&mut self, id: &str, types: &[&'static str], change: impl FnOnce(&mut Subscription)) {
        let Some(subscription) = self.subscriptions.get(id) else { return };
        let old = render::subscription(self, subscription, self.version);
        self.pass_for(id);
        let now = self.now;
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            change(subscription);
            subscription.changed = now;
        }
        self.tell_subscription(id, types, Some(&old));
    }

    /// Lets a second pass where the subscription has changed in this one already.
    fn pass_for(&mut self, id: &str) {
        let Some(subscription) = self.subscriptions.get(id) else { return };
        if subscription.changed >= self.now && !self.chance.chance(self.bursts) {
            self.now = subscription.changed + 1;
        }
    }

    fn tell_subscription(&mut self, id: &str, types: &[&'static str], old: Option<&Value>) {
        let Some(subscription) = self.subscriptions.get(id) else { return };
        let object = render::subscription(self, subscription, self.version);
        for event_type in types {
            let previous = old.filter(|_| event_type.ends_with(".updated")).map(|old| difference(old, &object));
            self.tell(event_type, Some(id), object.clone(), previous);
        }
    }

    /// Changes an invoice and tells of it.
    fn change_invoice(&mut self, id: &str, types: &[&'static str], change: impl FnOnce(&mut Invoice)) {
        if let Some(invoice) = self.invoices.get_mut(id) {
            change(invoice);
        }
        self.tell_invoice(id, types);
    }

    fn tell_invoice(&mut self, id: &str, types: &[&'static str]) {
        let Some(invoice) = self.invoices.get(id) else { return };
        let (object, subscription) = (render::invoice(self, invoice, self.version), invoice.subscription.clone());
        for event_type in types {
            self.tell(event_type, subscription.as_deref(), object.clone(), None);
        }
    }
}

/// The old values of what differs, as `previous_attributes` shows them: a changed list is given whole.
fn difference(old: &Value, new: &Value) -> Value {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return Value::Null };
    let changed = old.iter().filter(|(key, value)| new.get(*key) != Some(*value));
    Value::Object(changed.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>())
}
