//! Subscriptions end, or are to end.

use super::{Account, Refusal, When};
use crate::model::{InvoiceStatus, Status, Subscription};

impl Account {
    /// One that has not ended.
    pub(super) fn living(&self, id: &str) -> Result<&Subscription, Refusal> {
        let found = self.subscriptions.get(id).ok_or_else(|| Refusal::missing("subscription", id, "id"))?;
        if found.status.is_over() {
            return Err(Refusal::missing("subscription", id, "id"));
        }
        Ok(found)
    }

    /// It ends, now.
    pub(super) fn end(&mut self, id: &str, reason: &'static str) {
        self.pass_for(id);
        let now = self.now;
        self.change_subscription(id, &["customer.subscription.deleted"], |subscription| {
            subscription.status = Status::Canceled;
            subscription.ended_at = Some(now);
            subscription.canceled_at = Some(subscription.canceled_at.unwrap_or(now));
            subscription.cancellation_reason = Some(subscription.cancellation_reason.unwrap_or(reason));
            subscription.pause_collection = None;
        });
    }

    /// Ends it now, or schedules its end, or takes the schedule back (docs.stripe.com/billing/subscriptions/cancel).
    pub(crate) fn cancel(&mut self, id: &str, when: When) -> Result<(), Refusal> {
        let subscription = self.living(id)?;
        if when == When::Now {
            self.end(id, "cancellation_requested");
            return Ok(());
        }
        let mut changed = subscription.clone();
        self.schedule(&mut changed, when)?;
        self.store_change(id, changed);
        Ok(())
    }

    /// Puts a scheduled end into a subscription; [`When::Now`] leaves it as it is.
    pub(super) fn schedule(&self, subscription: &mut Subscription, when: When) -> Result<(), Refusal> {
        let end = subscription.period_end();
        (subscription.cancel_at_period_end, subscription.cancel_at) = match when {
            When::Now => return Ok(()),
            // Both are set, in flexible billing as in classic.
            When::PeriodEnd => (true, end),
            // What the customer portal does in flexible billing.
            When::PortalPeriodEnd => (false, end),
            When::At(at) if at > self.now => (false, Some(at)),
            When::At(_) => {
                return Err(Refusal::invalid("cancel_at must be a timestamp in the future.", "cancel_at"));
            }
            When::Never => (false, None),
        };
        let asked = when != When::Never;
        subscription.canceled_at = asked.then_some(self.now);
        subscription.cancellation_reason = asked.then_some("cancellation_requested");
        Ok(())
    }

    /// Takes over a changed subscription, tells of it, and puts down its end.
    pub(super) fn store_change(&mut self, id: &str, changed: Subscription) {
        let end = changed.scheduled_end();
        self.change_subscription(id, &["customer.subscription.updated"], |subscription| *subscription = changed);
        if let Some(end) = end {
            self.put_end(id, end);
        }
    }

    pub(super) fn end_by_date(&mut self, id: &str, at: i64) {
        let Some(subscription) = self.subscriptions.get(id) else { return };
        if !subscription.status.is_over() && subscription.scheduled_end().is_some_and(|end| end <= at) {
            self.end(id, "cancellation_requested");
        }
    }

    /// The first payment was not made in time.
    pub(super) fn expire(&mut self, id: &str) {
        let Some(subscription) = self.subscriptions.get(id) else { return };
        if subscription.status != Status::Incomplete {
            return;
        }
        let open = subscription.invoices.iter().filter_map(|id| self.invoices.get(id));
        let open = open.filter(|invoice| invoice.status == InvoiceStatus::Open).map(|invoice| invoice.id.clone());
        for invoice in open.collect::<Vec<_>>() {
            self.void(&invoice);
        }
        self.pass_for(id);
        let now = self.now;
        self.change_subscription(id, &["customer.subscription.updated"], |subscription| {
            subscription.status = Status::IncompleteExpired;
            subscription.ended_at = Some(now);
            subscription.canceled_at = Some(now);
        });
    }
}
