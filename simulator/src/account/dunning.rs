//! Invoices are charged, and charged again.

use super::{Account, Due, Refusal};
use crate::{
    calendar::DAY,
    model::{AfterDunning, Card, Charge, Dispute, Invoice, InvoiceStatus, Status},
    render,
};

/// After how many days an invoice is charged again, from one attempt to the next. Stripe's smart retries choose their own times within
/// such a span (docs.stripe.com/billing/revenue-recovery/smart-retries).
const RETRIES: [i64; 3] = [3, 5, 7];
/// Reasons for which an invoice decides how its subscription stands.
const SPEAKING: [&str; 3] = ["subscription_create", "subscription_cycle", "subscription_update"];

/// Whether a failure is followed by another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Stripe tries again by itself.
    Dunning,
    /// Nobody but the customer tries again.
    Last,
}

impl Account {
    /// A draft is due: it becomes an invoice and is charged.
    pub(super) fn finalize(&mut self, id: &str) {
        let Some(invoice) = self.invoices.get(id) else { return };
        let alive = invoice.subscription.as_deref().and_then(|id| self.subscriptions.get(id));
        if invoice.status != InvoiceStatus::Draft || alive.is_none_or(|subscription| subscription.status.is_over()) {
            return;
        }
        self.open(id);
        if self.invoices.get(id).is_some_and(|invoice| invoice.amount_due == 0) {
            self.settle(id);
        } else {
            self.attempt(id, Attempt::Dunning);
        }
    }

    /// Makes a draft final.
    pub(super) fn open(&mut self, id: &str) {
        let Some(customer) = self.invoices.get(id).map(|invoice| invoice.customer.clone()) else { return };
        let Some(customer) = self.customers.get_mut(&customer) else { return };
        customer.invoices += 1;
        let number = format!("{}-{:04}", customer.id[4..].to_uppercase(), customer.invoices);
        let now = self.now;
        self.change_invoice(id, &["invoice.finalized"], |invoice| {
            invoice.status = InvoiceStatus::Open;
            invoice.number = Some(number);
            invoice.finalized_at = Some(now);
            invoice.next_attempt = None;
        });
    }

    fn card_of(&self, invoice: &Invoice) -> Card {
        self.customers.get(&invoice.customer).filter(|c| !c.deleted).map_or(Card::None, |customer| customer.card)
    }

    /// Charges an open invoice.
    pub(super) fn attempt(&mut self, id: &str, attempt: Attempt) {
        let Some(invoice) = self.invoices.get(id).filter(|invoice| invoice.status == InvoiceStatus::Open) else {
            return;
        };
        match self.card_of(invoice) {
            Card::Good => self.settle(id),
            card => self.fail(id, card, attempt),
        }
    }

    /// It is paid.
    pub(super) fn settle(&mut self, id: &str) {
        let Some(invoice) = self.invoices.get(id) else { return };
        let (amount, subscription) = (invoice.amount_due, invoice.subscription.clone());
        let charge = (amount > 0).then(|| self.charge(id, amount, true)).flatten();
        let now = self.now;
        self.change_invoice(id, &["invoice.updated", "invoice.paid", "invoice.payment_succeeded"], |invoice| {
            invoice.status = InvoiceStatus::Paid;
            invoice.amount_paid = amount;
            invoice.attempts += u32::from(amount > 0);
            invoice.next_attempt = None;
            invoice.paid_at = Some(now);
            invoice.charge = charge.or(invoice.charge.take());
        });
        if let Some(subscription) = subscription {
            self.good_standing(&subscription, id);
        }
    }

    /// The subscription is in good standing again, where this invoice is the one that decides.
    fn good_standing(&mut self, subscription: &str, invoice: &str) {
        let waits = self.subscriptions.get(subscription).is_some_and(|subscription| {
            matches!(subscription.status, Status::Incomplete | Status::PastDue | Status::Unpaid)
        });
        if waits && self.decides(subscription, invoice) {
            self.change_subscription(subscription, &["customer.subscription.updated"], |subscription| {
                subscription.status = Status::Active;
            });
        }
    }

    /// True for the newest invoice of the subscription that is final.
    fn decides(&self, subscription: &str, invoice: &str) -> bool {
        let Some(subscription) = self.subscriptions.get(subscription) else { return false };
        let newest = subscription
            .invoices
            .iter()
            .rev()
            .filter_map(|id| self.invoices.get(id))
            .find(|invoice| invoice.status != InvoiceStatus::Draft && SPEAKING.contains(&invoice.billing_reason));
        newest.is_some_and(|newest| newest.id == invoice)
    }

    fn charge(&mut self, invoice: &str, amount: i64, paid: bool) -> Option<String> {
        let id = self.new_id("ch_3", 23);
        let invoice = self.invoices.get(invoice)?;
        let charge = Charge {
            id: id.clone(),
            customer: invoice.customer.clone(),
            invoice: Some(invoice.id.clone()),
            amount,
            refunded: 0,
            currency: invoice.currency.clone(),
            created: self.now,
            paid,
            disputed: false,
        };
        self.charges.insert(charge);
        self.tell_charge(&id, if paid { "charge.succeeded" } else { "charge.failed" });
        Some(id)
    }

    fn tell_charge(&mut self, id: &str, event_type: &'static str) {
        if let Some(charge) = self.charges.get(id) {
            let object = render::charge(self, charge, self.version);
            self.tell(event_type, None, object, None);
        }
    }

    /// It is not paid.
    fn fail(&mut self, id: &str, card: Card, attempt: Attempt) {
        let Some(invoice) = self.invoices.get(id) else { return };
        let (amount, Some(subscription)) = (invoice.amount_due, invoice.subscription.clone()) else { return };
        let dunning = attempt == Attempt::Dunning;
        let tried = usize::try_from(invoice.attempts).unwrap_or(usize::MAX);
        let next = RETRIES.get(tried).filter(|_| dunning).map(|days| self.now + days * DAY);
        if card != Card::None {
            self.charge(id, amount, false);
        }
        let mut types = vec!["invoice.updated", "invoice.payment_failed"];
        if card == Card::NeedsAction {
            types.push("invoice.payment_action_required");
        }
        self.change_invoice(id, &types, |invoice| {
            invoice.attempts += 1;
            invoice.next_attempt = next;
        });
        match next {
            Some(at) => self.put(at, Due::Retry(id.to_owned())),
            None if dunning => return self.give_up_collecting(&subscription, id),
            None => {}
        }
        let active = self.subscriptions.get(&subscription).is_some_and(|s| s.status == Status::Active);
        if active && self.decides(&subscription, id) {
            self.change_subscription(&subscription, &["customer.subscription.updated"], |subscription| {
                subscription.status = Status::PastDue;
            });
        }
    }

    /// It is charged again, as was said at the last attempt.
    pub(super) fn retry(&mut self, id: &str, at: i64) {
        let Some(invoice) = self.invoices.get(id) else { return };
        let subscription = invoice.subscription.as_deref().and_then(|id| self.subscriptions.get(id));
        let alive = subscription.is_some_and(|s| s.status.renews() && s.pause_collection.is_none());
        if invoice.next_attempt == Some(at) && alive {
            self.attempt(id, Attempt::Dunning);
        }
    }

    /// The last retry has failed.
    fn give_up_collecting(&mut self, id: &str, invoice: &str) {
        let Some(subscription) = self.subscriptions.get(id) else { return };
        match subscription.after_dunning {
            _ if subscription.status.is_over() => {}
            AfterDunning::Cancel => {
                self.give_up(invoice);
                self.end(id, "payment_failed");
            }
            AfterDunning::Unpaid => {
                self.change_subscription(id, &["customer.subscription.updated"], |s| s.status = Status::Unpaid);
            }
            AfterDunning::LeavePastDue => {}
        }
    }

    /// Nobody believes any more that it will be paid.
    pub(super) fn give_up(&mut self, id: &str) {
        let now = self.now;
        self.change_invoice(id, &["invoice.updated", "invoice.marked_uncollectible"], |invoice| {
            invoice.status = InvoiceStatus::Uncollectible;
            invoice.uncollectible_at = Some(now);
            invoice.next_attempt = None;
        });
    }

    /// It was a mistake.
    pub(super) fn void(&mut self, id: &str) {
        if self.invoices.get(id).is_some_and(|invoice| invoice.status == InvoiceStatus::Draft) {
            self.open(id);
        }
        let now = self.now;
        self.change_invoice(id, &["invoice.updated", "invoice.voided"], |invoice| {
            invoice.status = InvoiceStatus::Void;
            invoice.voided_at = Some(now);
            invoice.next_attempt = None;
        });
    }

    fn open_invoice(&self, id: &str) -> Result<&Invoice, Refusal> {
        let invoice = self.invoices.get(id).ok_or_else(|| Refusal::missing("invoice", id, "id"))?;
        if invoice.status == InvoiceStatus::Open {
            return Ok(invoice);
        }
        let message = format!("This invoice can't be changed because its status is `{}`.", invoice.status.as_str());
        Err(Refusal::invalid(message, "").with_code("invoice_not_editable"))
    }

    /// The customer, or the host, pays an open invoice (docs.stripe.com/api/invoices/pay).
    pub(crate) fn pay_invoice(&mut self, id: &str) -> Result<(), Refusal> {
        let card = self.card_of(self.open_invoice(id)?);
        if card == Card::Good {
            self.settle(id);
            return Ok(());
        }
        let message = "Your card was declined.".to_owned();
        Err(Refusal { status: 402, kind: "card_error", code: Some("card_declined"), message, param: None })
    }

    /// docs.stripe.com/api/invoices/void; it does not change how the subscription stands.
    pub(crate) fn void_invoice(&mut self, id: &str) -> Result<(), Refusal> {
        self.open_invoice(id)?;
        self.void(id);
        Ok(())
    }

    /// Gives an invoice up (`docs.stripe.com/api/invoices/mark_uncollectible`); a subscription that was past due for it is active again.
    pub(crate) fn mark_uncollectible(&mut self, id: &str) -> Result<(), Refusal> {
        let subscription = self.open_invoice(id)?.subscription.clone();
        self.give_up(id);
        if let Some(subscription) = subscription {
            let past_due = self.subscriptions.get(&subscription).is_some_and(|s| s.status == Status::PastDue);
            if past_due {
                self.good_standing(&subscription, id);
            }
        }
        Ok(())
    }

    /// Gives money back (docs.stripe.com/api/refunds/create).
    pub(crate) fn refund(&mut self, charge: &str, amount: Option<i64>) -> Result<(), Refusal> {
        let found = self.charges.get_mut(charge).ok_or_else(|| Refusal::missing("charge", charge, "charge"))?;
        let left = found.amount - found.refunded;
        let amount = amount.unwrap_or(left);
        if !found.paid || amount <= 0 || amount > left {
            return Err(Refusal::invalid(
                "Refund amount is greater than the unrefunded amount on the charge.",
                "amount",
            ));
        }
        found.refunded += amount;
        self.tell_charge(charge, "charge.refunded");
        Ok(())
    }

    /// The customer's bank takes money back.
    pub(crate) fn dispute(&mut self, charge: &str) {
        let id = self.new_id("du_1", 23);
        let Some(found) = self.charges.get_mut(charge).filter(|charge| charge.paid && !charge.disputed) else { return };
        found.disputed = true;
        let (amount, currency) = (found.amount, found.currency.clone());
        let dispute = Dispute { id, charge: charge.to_owned(), amount, currency, created: self.now };
        let object = render::dispute(&dispute, self.version);
        self.disputes.insert(dispute);
        self.tell("charge.dispute.created", None, object, None);
    }
}
