//! Subscriptions change: other prices, other quantities, pauses.

use super::{Account, Due, Refusal, billing::mixed_intervals, dunning::Attempt, people::merge_metadata};
use crate::model::{Card, Item, Metadata, PausedCollection, Status, Subscription};

/// When a subscription is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Now,
    PeriodEnd,
    /// The same, in the shape in which the customer portal writes it in flexible billing: a date, and no flag.
    PortalPeriodEnd,
    At(i64),
    /// Not at all: what was scheduled is taken back.
    Never,
}

/// A change of one item, or a new one.
#[derive(Debug, Clone, Default)]
pub(crate) struct ItemChange {
    pub(crate) id: Option<String>,
    pub(crate) price: Option<String>,
    pub(crate) quantity: Option<i64>,
    pub(crate) deleted: bool,
}

/// What is to become of collecting payments.
#[derive(Debug, Clone, Default)]
pub(crate) enum Collection {
    #[default]
    AsItIs,
    Pause(PausedCollection),
    GoOn,
}

/// A change of a subscription (docs.stripe.com/api/subscriptions/update).
#[derive(Debug, Clone, Default)]
pub(crate) struct SubscriptionChange {
    pub(crate) items: Vec<ItemChange>,
    pub(crate) metadata: Metadata,
    pub(crate) end: Option<When>,
    pub(crate) collection: Collection,
    /// Ends the trial now.
    pub(crate) end_trial: bool,
}

impl Account {
    pub(crate) fn update_subscription(&mut self, id: &str, told: SubscriptionChange) -> Result<(), Refusal> {
        let found = self.subscriptions.get(id).ok_or_else(|| Refusal::missing("subscription", id, "id"))?;
        if found.status.is_over() {
            let message = "A canceled subscription can only update its cancellation_details and metadata.";
            return Err(Refusal::invalid(message, ""));
        }
        let mut changed = found.clone();
        let billed = self.change_items(&mut changed, told.items)?;
        merge_metadata(&mut changed.metadata, told.metadata);
        match told.collection {
            Collection::AsItIs => {}
            Collection::Pause(pause) => changed.pause_collection = Some(pause),
            Collection::GoOn => changed.pause_collection = None,
        }
        if let Some(when) = told.end {
            self.schedule(&mut changed, when)?;
        }
        let cut_short = told.end_trial && changed.status == Status::Trialing;
        let billed = if cut_short { self.end_trial(&mut changed) } else { billed };
        let resumes_at = changed.pause_collection.as_ref().and_then(|pause| pause.resumes_at);
        if cut_short {
            // Stripe tells of it at once where a trial is cut short (node `Events.d.ts`).
            self.trial_will_end(id);
        }
        if billed.is_empty() {
            self.store_change(id, changed);
        } else {
            self.bill_at_once(id, changed, &billed);
        }
        if let Some(at) = resumes_at {
            self.put(at, Due::ResumeCollection(id.to_owned()));
        }
        if told.end == Some(When::Now) {
            self.cancel(id, When::Now)?;
        }
        Ok(())
    }

    /// Changes the items and gives those that are billed at once: whose interval is another now. Everything else is settled with the
    /// next invoice; what has to be paid for a part of a period is not calculated.
    fn change_items(&self, subscription: &mut Subscription, changes: Vec<ItemChange>) -> Result<Vec<Item>, Refusal> {
        let mut other_interval = Vec::new();
        for (index, change) in changes.into_iter().enumerate() {
            let param = |field: &str| format!("items[{index}][{field}]");
            if let Some(quantity) = change.quantity.filter(|quantity| *quantity < 0) {
                return Err(Refusal::invalid(format!("Invalid quantity: {quantity}"), &param("quantity")));
            }
            let Some(id) = change.id else {
                let price =
                    change.price.ok_or_else(|| Refusal::invalid("Missing required param: price.", &param("price")))?;
                let (_, interval) = self.recurring(&price, &param("price"))?;
                let like = subscription.items.iter().find(|item| self.interval_of(item) == Some(interval));
                let (period_start, period_end) = match like {
                    Some(item) => (item.period_start, item.period_end),
                    None if subscription.status == Status::Trialing => {
                        (self.now, subscription.trial_end.unwrap_or(self.now))
                    }
                    None => (self.now, interval.next_end(subscription.anchor, self.now)),
                };
                // The id follows from what is there, so that nothing is drawn before the change is known to be right.
                let id = format!("si_{}x{}x{}", &subscription.id[5..17], self.now, subscription.items.len());
                let quantity = change.quantity.unwrap_or(1);
                subscription.items.push(Item { id, price, quantity, created: self.now, period_start, period_end });
                continue;
            };
            let Some(at) = subscription.items.iter().position(|item| item.id == id) else {
                return Err(Refusal::missing("subscription item", &id, &param("id")));
            };
            if change.deleted {
                subscription.items.remove(at);
                continue;
            }
            let item = &mut subscription.items[at];
            item.quantity = change.quantity.unwrap_or(item.quantity);
            if let Some(price) = change.price {
                let (_, interval) = self.recurring(&price, &param("price"))?;
                if self.interval_of(item) != Some(interval) {
                    other_interval.push(item.id.clone());
                }
                item.price = price;
            }
        }
        if subscription.items.is_empty() {
            return Err(Refusal::invalid("A subscription must have at least one item.", "items"));
        }
        let mut intervals = subscription.items.iter().map(|item| self.interval_of(item));
        let first = intervals.next().flatten();
        if !subscription.flexible && intervals.any(|interval| interval != first) {
            return Err(mixed_intervals());
        }
        if other_interval.is_empty() || subscription.status == Status::Trialing {
            return Ok(Vec::new());
        }
        // Classic billing counts from now on; flexible keeps its anchor (docs.stripe.com/billing/subscriptions/billing-mode/compare).
        if !subscription.flexible {
            subscription.anchor = self.now;
        }
        let mut billed = Vec::new();
        for item in &mut subscription.items {
            let Some(interval) = self.prices.get(&item.price).and_then(|price| price.interval) else { continue };
            if !subscription.flexible || other_interval.contains(&item.id) {
                item.period_start = self.now;
                item.period_end = interval.next_end(subscription.anchor, self.now);
                billed.push(item.clone());
            }
        }
        if subscription.cancel_at_period_end {
            subscription.cancel_at = subscription.period_end();
        }
        Ok(billed)
    }

    fn interval_of(&self, item: &Item) -> Option<crate::calendar::Interval> {
        self.prices.get(&item.price)?.interval
    }

    fn end_trial(&self, subscription: &mut Subscription) -> Vec<Item> {
        subscription.status = Status::Active;
        subscription.trial_end = Some(self.now);
        subscription.anchor = self.now;
        for item in &mut subscription.items {
            let Some(interval) = self.prices.get(&item.price).and_then(|price| price.interval) else { continue };
            item.period_start = self.now;
            item.period_end = interval.next_end(self.now, self.now);
        }
        subscription.items.clone()
    }

    /// Takes over a changed subscription whose items are billed now, tells of it and charges.
    fn bill_at_once(&mut self, id: &str, mut changed: Subscription, billed: &[Item]) {
        let invoice = self.draft(id, "subscription_update", billed, false);
        changed.invoices.push(invoice.clone());
        let collects = changed.pause_collection.is_none() && changed.status.renews();
        self.store_change(id, changed);
        self.tell_invoice(&invoice, &["invoice.created"]);
        if collects {
            self.open(&invoice);
            self.attempt(&invoice, Attempt::Dunning);
        }
        self.expect_renewal(id);
    }

    /// Stops a subscription; no period passes until it is resumed (docs.stripe.com/api/subscriptions/pause, flexible billing only).
    pub(crate) fn pause(&mut self, id: &str) -> Result<(), Refusal> {
        let subscription = self.living(id)?;
        if !subscription.flexible {
            return Err(Refusal::invalid("Only subscriptions with flexible billing mode can be paused.", ""));
        }
        if !matches!(subscription.status, Status::Active | Status::Trialing | Status::PastDue) {
            let message = format!("A subscription that is {} cannot be paused.", subscription.status.as_str());
            return Err(Refusal::invalid(message, ""));
        }
        let types = ["customer.subscription.updated", "customer.subscription.paused"];
        self.change_subscription(id, &types, |subscription| {
            subscription.status = Status::Paused;
            subscription.paused_for = Some("pause_requested");
        });
        Ok(())
    }

    /// Lets a paused subscription go on, with a new period from now (docs.stripe.com/api/subscriptions/resume).
    pub(crate) fn resume(&mut self, id: &str) -> Result<(), Refusal> {
        let subscription = self.living(id)?;
        if subscription.status != Status::Paused {
            return Err(Refusal::invalid("The subscription is not paused.", ""));
        }
        if self.customers.get(&subscription.customer).is_none_or(|customer| customer.card != Card::Good) {
            let message = "Your card was declined.".to_owned();
            return Err(Refusal { status: 402, kind: "card_error", code: Some("card_declined"), message, param: None });
        }
        let mut changed = subscription.clone();
        changed.status = Status::Active;
        changed.paused_for = None;
        changed.anchor = self.now;
        for item in &mut changed.items {
            let Some(interval) = self.prices.get(&item.price).and_then(|price| price.interval) else { continue };
            item.period_start = self.now;
            item.period_end = interval.next_end(self.now, self.now);
        }
        if changed.cancel_at_period_end {
            changed.cancel_at = changed.period_end();
        }
        let items = changed.items.clone();
        let invoice = self.draft(id, "subscription_update", &items, false);
        changed.invoices.push(invoice.clone());
        let end = changed.scheduled_end();
        let types = ["customer.subscription.updated", "customer.subscription.resumed"];
        self.change_subscription(id, &types, |subscription| *subscription = changed);
        self.tell_invoice(&invoice, &["invoice.created"]);
        self.open(&invoice);
        self.settle(&invoice);
        self.expect_renewal(id);
        if let Some(end) = end {
            self.put_end(id, end);
        }
        Ok(())
    }
}
