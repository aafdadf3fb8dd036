//! Subscriptions begin, and their periods pass.

use super::{Account, Due, Refusal, dunning::Attempt};
use crate::{
    calendar::{DAY, HOUR, Interval, MINUTE},
    model::{AfterDunning, Card, Invoice, InvoiceStatus, Item, Line, Metadata, NoCard, Price, Status, Subscription},
    render,
    version::ApiVersion,
};

/// A draft is finalised after about an hour (docs.stripe.com/billing/subscriptions/overview).
const DRAFT: i64 = HOUR;
/// A first payment must be made within 23 hours (the same page).
const FIRST_PAYMENT: i64 = 23 * HOUR;
/// How long before it happens Stripe tells of a trial's end, or of what will be billed.
const NOTICE: i64 = 3 * DAY;
/// Most items of a subscription (docs.stripe.com/billing/subscriptions/multiple-products).
const MOST_ITEMS: usize = 20;

/// How the first payment is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstPayment {
    /// At once; where that fails the subscription is incomplete.
    AtOnce,
    /// By the customer, later: incomplete until then.
    ByCustomer,
    /// It is under way for days.
    Delayed,
}

/// A subscription to be made.
#[derive(Debug, Clone)]
pub(crate) struct NewSubscription {
    pub(crate) customer: String,
    /// Price and quantity.
    pub(crate) items: Vec<(String, i64)>,
    pub(crate) metadata: Metadata,
    pub(crate) trial_end: Option<i64>,
    pub(crate) first_payment: FirstPayment,
    pub(crate) no_card: NoCard,
    /// None: what is the default of the account's version.
    pub(crate) flexible: Option<bool>,
}

impl NewSubscription {
    pub(crate) fn of(customer: &str, price: &str) -> Self {
        Self {
            customer: customer.to_owned(),
            items: vec![(price.to_owned(), 1)],
            metadata: Metadata::new(),
            trial_end: None,
            first_payment: FirstPayment::AtOnce,
            no_card: NoCard::CreateInvoice,
            flexible: None,
        }
    }
}

impl Account {
    pub(crate) fn recurring(&self, price: &str, param: &str) -> Result<(&Price, Interval), Refusal> {
        let found = self.prices.get(price).ok_or_else(|| Refusal::missing("price", price, param))?;
        let interval = found.interval.ok_or_else(|| {
            Refusal::invalid("The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.", param)
        })?;
        Ok((found, interval))
    }

    /// Makes a subscription (docs.stripe.com/api/subscriptions/create).
    pub(crate) fn create_subscription(&mut self, new: NewSubscription) -> Result<String, Refusal> {
        let card = self.living_customer(&new.customer, "customer")?.card;
        let flexible = new.flexible.unwrap_or(self.version >= ApiVersion::Clover);
        if new.items.is_empty() {
            return Err(Refusal::invalid("Missing required param: items.", "items").with_code("parameter_missing"));
        }
        if new.items.len() > MOST_ITEMS {
            return Err(Refusal::invalid(format!("A subscription can have up to {MOST_ITEMS} items."), "items"));
        }
        if new.trial_end.is_some_and(|end| end <= self.now) {
            return Err(Refusal::invalid(
                "Invalid timestamp: must be an integer Unix timestamp in the future.",
                "trial_end",
            ));
        }
        let mut intervals = Vec::new();
        for (index, (price, _)) in new.items.iter().enumerate() {
            intervals.push(self.recurring(price, &format!("items[{index}][price]"))?.1);
        }
        if !flexible && intervals.iter().any(|interval| *interval != intervals[0]) {
            return Err(mixed_intervals());
        }
        let now = self.now;
        let anchor = new.trial_end.unwrap_or(now);
        let mut items = Vec::new();
        for ((price, quantity), interval) in new.items.into_iter().zip(intervals) {
            let id = self.new_id("si_", 14);
            let period_end = new.trial_end.unwrap_or_else(|| interval.next_end(anchor, now));
            items.push(Item { id, price, quantity, created: now, period_start: now, period_end });
        }
        let prompt =
            new.first_payment == FirstPayment::AtOnce && card == Card::Good && self.version >= ApiVersion::Basil;
        let status = match new.trial_end {
            Some(_) => Status::Trialing,
            None if prompt => Status::Active,
            None => Status::Incomplete,
        };
        let after_dunning = match self.chance.below(3) {
            0 => AfterDunning::Cancel,
            1 => AfterDunning::Unpaid,
            _ => AfterDunning::LeavePastDue,
        };
        let id = self.new_id("sub_1", 23);
        self.subscriptions.insert(Subscription {
            id: id.clone(),
            customer: new.customer,
            status,
            created: now,
            items: items.clone(),
            anchor,
            cancel_at: None,
            cancel_at_period_end: false,
            canceled_at: None,
            cancellation_reason: None,
            ended_at: None,
            trial_start: new.trial_end.map(|_| now),
            trial_end: new.trial_end,
            no_card: new.no_card,
            after_dunning,
            pause_collection: None,
            paused_for: None,
            flexible,
            metadata: new.metadata,
            invoices: Vec::new(),
            changed: now,
        });
        let invoice = self.draft(&id, "subscription_create", &items, status == Status::Trialing);
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            subscription.invoices.push(invoice.clone());
        }
        self.tell_subscription(&id, &["customer.subscription.created"], None);
        self.tell_invoice(&invoice, &["invoice.created"]);
        self.open(&invoice);
        if self.invoices.get(&invoice).is_some_and(|invoice| invoice.amount_due == 0) {
            self.settle(&invoice);
        } else if new.first_payment == FirstPayment::AtOnce {
            self.attempt(&invoice, Attempt::Last);
        }
        if status == Status::Incomplete && new.first_payment != FirstPayment::Delayed {
            self.put(now + FIRST_PAYMENT, Due::Expire(id.clone()));
        }
        if let Some(end) = new.trial_end {
            self.put((end - NOTICE).max(now + MINUTE), Due::TrialWillEnd(id.clone()));
        }
        self.expect_renewal(&id);
        Ok(id)
    }

    /// Puts down when the next period ends.
    pub(super) fn expect_renewal(&mut self, id: &str) {
        let Some(end) = self.subscriptions.get(id).and_then(Subscription::next_end) else { return };
        if end - NOTICE > self.now {
            self.put(end - NOTICE, Due::Upcoming(id.to_owned()));
        }
        self.put(end, Due::Renew(id.to_owned()));
    }

    pub(super) fn trial_will_end(&mut self, id: &str) {
        if self.subscriptions.get(id).is_some_and(|subscription| subscription.status == Status::Trialing) {
            self.change_subscription(id, &["customer.subscription.trial_will_end"], |_| {});
        }
    }

    pub(super) fn upcoming(&mut self, id: &str) {
        let Some(subscription) = self.subscriptions.get(id) else { return };
        let ends = subscription.scheduled_end().is_some_and(|end| Some(end) <= subscription.next_end());
        let soon = subscription.next_end().is_some_and(|end| end - self.now <= NOTICE);
        if matches!(subscription.status, Status::Active | Status::Trialing) && !ends && soon {
            let object = render::upcoming_invoice(self, subscription, self.version);
            self.tell("invoice.upcoming", Some(id), object, None);
        }
    }

    /// A period that ends at `at` is over; the next one begins.
    pub(super) fn renew(&mut self, id: &str, at: i64) {
        let Some(subscription) = self.subscriptions.get(id) else { return };
        let over = subscription.next_end().is_some_and(|end| end <= at);
        if !subscription.status.renews() || !over {
            return;
        }
        if subscription.scheduled_end().is_some_and(|end| end <= at) {
            self.end(id, "cancellation_requested");
            return;
        }
        let trial_over = subscription.status == Status::Trialing;
        let card = self.customers.get(&subscription.customer).map_or(Card::None, |customer| customer.card);
        if trial_over && card == Card::None {
            match subscription.no_card {
                NoCard::Pause => {
                    let types = ["customer.subscription.updated", "customer.subscription.paused"];
                    self.change_subscription(id, &types, |subscription| {
                        subscription.status = Status::Paused;
                        subscription.paused_for = Some("trial_end_without_payment_method");
                    });
                    return;
                }
                NoCard::Cancel => return self.end(id, "cancellation_requested"),
                NoCard::CreateInvoice => {}
            }
        }
        let mut rolled = subscription.clone();
        if trial_over {
            rolled.status = Status::Active;
            if !rolled.flexible {
                rolled.anchor = at;
            }
        }
        for item in rolled.items.iter_mut().filter(|item| item.period_end <= at) {
            let Ok((_, interval)) = self.recurring(&item.price, "") else { continue };
            item.period_start = item.period_end;
            item.period_end = interval.next_end(rolled.anchor, item.period_start);
        }
        if rolled.cancel_at_period_end && !rolled.flexible {
            rolled.cancel_at = rolled.period_end();
        }
        let behavior = rolled.pause_collection.as_ref().map(|pause| pause.behavior.clone());
        let unpaid = rolled.status == Status::Unpaid;
        let begun: Vec<Item> = rolled.items.iter().filter(|item| item.period_start == at).cloned().collect();
        let invoice = self.draft(id, "subscription_cycle", &begun, false);
        rolled.invoices.push(invoice.clone());
        self.change_subscription(id, &["customer.subscription.updated"], |subscription| *subscription = rolled);
        self.tell_invoice(&invoice, &["invoice.created"]);
        match behavior.as_deref() {
            Some("void") => self.void(&invoice),
            Some("mark_uncollectible") => {
                self.open(&invoice);
                self.give_up(&invoice);
            }
            Some(_) => {}
            // Made, and not attempted (docs.stripe.com/billing/subscriptions/overview).
            None if unpaid => {}
            None => self.put(self.now + DRAFT, Due::Finalize(invoice)),
        }
        self.expect_renewal(id);
    }

    /// A draft for those items of a subscription, for their present periods; for nothing during a trial. Not told of yet.
    pub(super) fn draft(&mut self, id: &str, reason: &'static str, items: &[Item], free: bool) -> String {
        let invoice = self.new_id("in_1", 23);
        let now = self.now;
        let Some(subscription) = self.subscriptions.get(id) else { return invoice };
        let mut lines = Vec::new();
        let mut currency = "usd".to_owned();
        for item in items {
            let Some(price) = self.prices.get(&item.price) else { continue };
            currency.clone_from(&price.currency);
            lines.push(Line {
                id: item.id.replacen("si_", "il_", 1),
                item: item.id.clone(),
                price: item.price.clone(),
                quantity: item.quantity,
                amount: if free { 0 } else { price.unit_amount.saturating_mul(item.quantity) },
                start: item.period_start,
                end: item.period_end,
            });
        }
        let customer = self.customers.get(&subscription.customer);
        // The invoice's own period is the one before; of a first one it is a moment (node `Invoices.d.ts`).
        let before = subscription.invoices.last().and_then(|last| self.invoices.get(last));
        let period_start = before.map_or(now, |before| before.period_end);
        let made = Invoice {
            id: invoice.clone(),
            customer: subscription.customer.clone(),
            customer_email: customer.and_then(|customer| customer.email.clone()),
            subscription: Some(id.to_owned()),
            subscription_metadata: subscription.metadata.clone(),
            status: InvoiceStatus::Draft,
            billing_reason: reason,
            created: now,
            currency,
            amount_due: lines.iter().map(|line| line.amount).sum(),
            lines,
            amount_paid: 0,
            attempts: 0,
            next_attempt: (reason == "subscription_cycle").then_some(now + DRAFT),
            auto_advance: true,
            period_start,
            period_end: now,
            number: None,
            finalized_at: None,
            paid_at: None,
            voided_at: None,
            uncollectible_at: None,
            charge: None,
        };
        self.invoices.insert(made);
        invoice
    }
}

pub(super) fn mixed_intervals() -> Refusal {
    Refusal::invalid(
        "Currency and interval fields must match across all plans on this subscription; use `billing_mode[type]=flexible` to mix intervals.",
        "items",
    )
}
