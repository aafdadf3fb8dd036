//! Checkouts that sell subscriptions.

use super::{
    Account, CustomerChange, Due, Refusal,
    billing::{FirstPayment, NewSubscription},
};
use crate::{
    calendar::DAY,
    model::{Card, InvoiceStatus, Metadata, NoCard, Session, SessionStatus, Status},
    render,
};

/// A checkout to be made.
#[derive(Debug, Clone, Default)]
pub(crate) struct NewSession {
    pub(crate) customer: Option<String>,
    pub(crate) customer_email: Option<String>,
    pub(crate) reference: Option<String>,
    pub(crate) metadata: Metadata,
    pub(crate) subscription_metadata: Metadata,
    /// Price and quantity.
    pub(crate) line_items: Vec<(String, i64)>,
    pub(crate) trial_days: u32,
}

impl Account {
    /// Stripe sends no event of that.
    pub(crate) fn create_session(&mut self, new: NewSession) -> Result<String, Refusal> {
        if new.line_items.is_empty() {
            return Err(
                Refusal::invalid("Missing required param: line_items.", "line_items").with_code("parameter_missing")
            );
        }
        for (index, (price, _)) in new.line_items.iter().enumerate() {
            self.recurring(price, &format!("line_items[{index}][price]"))?;
        }
        if let Some(customer) = &new.customer {
            self.living_customer(customer, "customer")?;
        }
        let id = self.new_id("cs_test_a1", 54);
        let expires_at = self.now + Session::LIFE;
        self.sessions.insert(Session {
            id: id.clone(),
            status: SessionStatus::Open,
            payment_status: "unpaid",
            customer: new.customer,
            customer_email: new.customer_email,
            reference: new.reference,
            subscription: None,
            invoice: None,
            metadata: new.metadata,
            subscription_metadata: new.subscription_metadata,
            line_items: new.line_items,
            trial_days: new.trial_days,
            created: self.now,
            expires_at,
        });
        self.put(expires_at, Due::ExpireSession(id.clone()));
        Ok(id)
    }

    /// The customer goes through with it. With a delayed payment the subscription waits for the money.
    pub(crate) fn complete_session(&mut self, id: &str, delayed: bool) -> Result<String, Refusal> {
        let found = self.sessions.get(id).ok_or_else(|| Refusal::missing("checkout.session", id, "id"))?;
        if found.status != SessionStatus::Open {
            return Err(Refusal::invalid("This checkout session is no longer open.", ""));
        }
        let mut session = found.clone();
        let customer = match session.customer.clone() {
            Some(customer) => customer,
            None => self.create_customer(CustomerChange {
                email: session.customer_email.clone(),
                name: Some("Simulated Customer".to_owned()),
                card: Some(Card::Good),
                ..CustomerChange::default()
            }),
        };
        let delayed = delayed && session.trial_days == 0;
        let subscription = self.create_subscription(NewSubscription {
            customer: customer.clone(),
            items: session.line_items.clone(),
            metadata: session.subscription_metadata.clone(),
            trial_end: (session.trial_days > 0).then(|| self.now + i64::from(session.trial_days) * DAY),
            first_payment: if delayed { FirstPayment::Delayed } else { FirstPayment::AtOnce },
            no_card: NoCard::CreateInvoice,
            flexible: None,
        })?;
        let invoice = self.subscriptions.get(&subscription).and_then(|made| made.invoices.first().cloned());
        session.status = SessionStatus::Complete;
        session.payment_status = match (delayed, session.trial_days) {
            (true, _) => "unpaid",
            (false, 0) => "paid",
            (false, _) => "no_payment_required",
        };
        session.customer = Some(customer);
        session.subscription = Some(subscription.clone());
        session.invoice = invoice;
        self.sessions.insert(session);
        self.tell_session(id, "checkout.session.completed");
        if delayed {
            let settles = self.now + self.chance.between(DAY, 3 * DAY);
            self.put(settles, Due::SettleSession(id.to_owned()));
        }
        Ok(subscription)
    }

    fn tell_session(&mut self, id: &str, event_type: &'static str) {
        let Some(session) = self.sessions.get(id) else { return };
        let (object, subscription) = (render::session(self, session, self.version), session.subscription.clone());
        self.tell(event_type, subscription.as_deref(), object, None);
    }

    pub(super) fn expire_session(&mut self, id: &str) {
        let Some(session) = self.sessions.get_mut(id).filter(|session| session.status == SessionStatus::Open) else {
            return;
        };
        session.status = SessionStatus::Expired;
        self.tell_session(id, "checkout.session.expired");
    }

    /// A delayed payment arrives, or not.
    pub(super) fn settle_session(&mut self, id: &str) {
        let Some(session) = self.sessions.get(id) else { return };
        let (Some(subscription), Some(invoice)) = (session.subscription.clone(), session.invoice.clone()) else {
            return;
        };
        let waits = self.subscriptions.get(&subscription).is_some_and(|s| s.status == Status::Incomplete);
        let open = self.invoices.get(&invoice).is_some_and(|invoice| invoice.status == InvoiceStatus::Open);
        if !waits || !open {
            return;
        }
        if self.chance.percent(75) {
            self.settle(&invoice);
            if let Some(session) = self.sessions.get_mut(id) {
                session.payment_status = "paid";
            }
            self.tell_session(id, "checkout.session.async_payment_succeeded");
        } else {
            self.tell_session(id, "checkout.session.async_payment_failed");
            self.expire(&subscription);
        }
    }
}
