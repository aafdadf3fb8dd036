//! `invoice.*`: whether payments come in.

use entity::{
    enums::{EmailKind, InvoiceStatus, LinkEvidence},
    ids::{CustomerId, InvoiceId, SubscriptionId},
};

use super::{
    Email, Reading, Told, Unreadable, link, named_customer,
    raw::{Found, Raw, RawInvoice},
};
use crate::{
    facts::{InvoiceSnapshot, InvoiceTold, SubscriptionTold, moment},
    skip::Skip,
};

/// It was paid.
pub(super) fn paid(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    told(raw, |invoice| invoice.paid_at = Some(raw.stamp.at), None)
}

/// An attempt to pay it failed.
pub(super) fn failed(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    told(raw, |invoice| invoice.failed = true, Some(EmailKind::PaymentFailed))
}

/// Its payment waits for the customer's confirmation.
pub(super) fn action_required(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    told(raw, |_| {}, Some(EmailKind::PaymentActionRequired))
}

/// It moved forward in some other way.
pub(super) fn moved(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    told(raw, |_| {}, None)
}

/// A preview of an invoice that does not exist yet (it has no id; node `Invoices.d.ts`).
pub(super) fn upcoming(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    Ok(match raw.find::<RawInvoice>()? {
        Found::Object(invoice) => Reading::Told(Box::new(Told {
            about: invoice.customer.0.and_then(|id| CustomerId::parse(id).ok()),
            ..Told::nothing("a preview of an invoice; nothing to keep")
        })),
        Found::Other(reading) => reading,
    })
}

fn told(raw: &Raw<'_>, more: impl FnOnce(&mut InvoiceTold), email: Option<EmailKind>) -> Result<Reading, Unreadable> {
    let invoice: RawInvoice = match raw.find()? {
        Found::Object(invoice) => invoice,
        Found::Other(reading) => return Ok(reading),
    };
    let Some(id) = invoice.id.0.as_deref().and_then(|id| InvoiceId::parse(id).ok()) else {
        return Ok(Reading::Nothing(Skip::incomplete("an invoice without an id")));
    };
    let details = invoice.parent.0.unwrap_or_default().subscription_details.0;
    let details = details.or(invoice.subscription_details.0).unwrap_or_default();
    let subscription = details.subscription.0.or(invoice.subscription.0).and_then(|id| SubscriptionId::parse(id).ok());
    let user = details.metadata.0.get("user_id").map(String::as_str);
    let customer_id = invoice.customer.0.as_deref().and_then(|id| CustomerId::parse(id).ok());
    let customer = named_customer(invoice.customer.0.as_deref(), user, raw.stamp);
    let status: Option<InvoiceStatus> = invoice.status.0.as_deref().and_then(|status| status.parse().ok());
    let mut told = InvoiceTold {
        id: id.clone(),
        customer: customer_id.clone(),
        subscription: subscription.clone(),
        status,
        billing_reason: invoice.billing_reason.0,
        failed: false,
        paid_at: invoice
            .status_transitions
            .0
            .and_then(|t| moment(t.paid_at.0))
            .filter(|_| status == Some(InvoiceStatus::Paid)),
        made_at: moment(invoice.created.0),
        snapshot: InvoiceSnapshot {
            number: invoice.number.0,
            currency: invoice.currency.0,
            amount_due: invoice.amount_due.0,
            amount_paid: invoice.amount_paid.0,
            attempt_count: invoice.attempt_count.0,
            next_payment_attempt: moment(invoice.next_payment_attempt.0),
            hosted_invoice_url: invoice.hosted_invoice_url.0,
            invoice_pdf: invoice.invoice_pdf.0,
            period_start: moment(invoice.period_start.0),
            period_end: moment(invoice.period_end.0),
        },
    };
    more(&mut told);
    let subscription = subscription.map(|id| SubscriptionTold {
        id,
        customer: customer_id,
        link: link(user, LinkEvidence::Invoice, raw.stamp),
        snapshot: None,
    });
    let email = email.map(|kind| Email::Payment { invoice: id, kind });
    Ok(Reading::Told(Box::new(Told { customer, subscription, invoice: Some(told), email, ..Told::default() })))
}
