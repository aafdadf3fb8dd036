//! Invoices and their lines.

use serde_json::{Value, json};

use super::{ApiVersion, ItemSample, Metadata, SubscriptionSample, merged, subscription::Owner, tail, when};

/// An invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoiceSample {
    /// `in_…`; an upcoming invoice has none.
    pub id: Option<String>,
    /// `cus_…`
    pub customer: String,
    /// The payer's address.
    pub customer_email: Option<String>,
    /// What it bills; absent for a one-off invoice.
    pub subscription: Option<String>,
    /// The subscription's metadata when the invoice was made.
    pub subscription_metadata: Metadata,
    /// `draft`, `open`, `paid`, `uncollectible` or `void`
    pub status: String,
    /// `subscription_create`, `subscription_cycle`, `manual`, …
    pub billing_reason: String,
    /// When it was made.
    pub created: i64,
    /// Minor units.
    pub amount_due: i64,
    /// Minor units.
    pub amount_paid: i64,
    /// Automatic payment attempts so far.
    pub attempt_count: i64,
    /// When Stripe tries again.
    pub next_payment_attempt: Option<i64>,
    /// Start of the invoice's own period, which is not the period of service.
    pub period_start: i64,
    /// End of the invoice's own period.
    pub period_end: i64,
    /// As printed on it.
    pub number: Option<String>,
    /// Where the customer can pay.
    pub hosted_invoice_url: Option<String>,
    /// The document.
    pub invoice_pdf: Option<String>,
    /// Three letters, lower case.
    pub currency: String,
    /// When it became final.
    pub finalized_at: Option<i64>,
    /// When it was paid.
    pub paid_at: Option<i64>,
    /// When it was voided.
    pub voided_at: Option<i64>,
    /// When it was given up.
    pub marked_uncollectible_at: Option<i64>,
    /// `pi_…`; shown before basil.
    pub payment_intent: Option<String>,
    /// `ch_…`; shown before basil.
    pub charge: Option<String>,
    /// What is billed: one line each.
    pub items: Vec<ItemSample>,
    /// False in a sandbox.
    pub livemode: bool,
}

impl InvoiceSample {
    /// The bill of a subscription for the current period of its items. `paid`, `void` and `uncollectible` became so at `at`.
    pub fn of(
        subscription: &SubscriptionSample,
        id: impl Into<String>,
        billing_reason: impl Into<String>,
        status: impl Into<String>,
        at: i64,
    ) -> Self {
        let mut invoice = Self::one_off(id, subscription.customer.clone(), status, at);
        invoice.subscription = Some(subscription.id.clone());
        invoice.subscription_metadata = subscription.metadata.clone();
        invoice.billing_reason = billing_reason.into();
        invoice.items.clone_from(&subscription.items);
        invoice.currency.clone_from(&subscription.currency);
        invoice.livemode = subscription.livemode;
        invoice.amount_due = invoice.items.iter().map(ItemSample::amount).sum();
        invoice.amount_paid = if invoice.status == "paid" { invoice.amount_due } else { 0 };
        invoice
    }

    /// A bill of 25 of the currency that no subscription stands behind.
    pub fn one_off(id: impl Into<String>, customer: impl Into<String>, status: impl Into<String>, at: i64) -> Self {
        let (id, status) = (id.into(), status.into());
        let key = tail(&id).to_owned();
        let is = |state: &str| (status == state).then_some(at);
        let attempted = matches!(status.as_str(), "paid" | "uncollectible");
        let url = format!("https://invoice.stripe.com/i/acct_sample/test_{key}");
        let finalized = status != "draft";
        Self {
            customer: customer.into(),
            customer_email: None,
            subscription: None,
            subscription_metadata: Metadata::new(),
            billing_reason: "manual".to_owned(),
            created: at,
            amount_due: 2500,
            amount_paid: if status == "paid" { 2500 } else { 0 },
            attempt_count: i64::from(attempted),
            next_payment_attempt: None,
            period_start: at,
            period_end: at,
            number: finalized.then(|| format!("{}-0001", key.to_uppercase())),
            invoice_pdf: finalized.then(|| format!("{url}/pdf")),
            hosted_invoice_url: finalized.then_some(url),
            currency: "usd".to_owned(),
            finalized_at: finalized.then_some(at),
            paid_at: is("paid"),
            voided_at: is("void"),
            marked_uncollectible_at: is("uncollectible"),
            payment_intent: finalized.then(|| format!("pi_{key}")),
            charge: attempted.then(|| format!("ch_{key}")),
            items: Vec::new(),
            livemode: false,
            id: Some(id),
            status,
        }
    }

    /// What a subscription will be billed next: no id yet, a draft.
    pub fn upcoming(subscription: &SubscriptionSample, at: i64) -> Self {
        let mut invoice = Self::of(subscription, "", "upcoming", "draft", at);
        let due = subscription.period_end().unwrap_or(at);
        invoice.id = None;
        invoice.created = due;
        invoice.next_payment_attempt = Some(due.saturating_add(3600));
        invoice.period_start = subscription.period_start().unwrap_or(at);
        invoice.period_end = due;
        invoice
    }

    fn line(&self, item: &ItemSample, version: ApiVersion) -> Value {
        let owner = Owner { created: self.created, currency: &self.currency, livemode: self.livemode };
        let amount = item.amount();
        let common = json!({
            "id": format!("il_{}", tail(&item.id)),
            "object": "line_item",
            "amount": amount,
            "currency": self.currency,
            "description": format!("{} × {} (per {})", item.quantity, item.product, item.interval),
            "discount_amounts": [],
            "discountable": true,
            "discounts": [],
            "invoice": self.id,
            "livemode": self.livemode,
            "metadata": self.subscription_metadata,
            "period": { "end": item.period_end, "start": item.period_start },
            "quantity": item.quantity,
        });
        let by_version = if version >= ApiVersion::Basil {
            json!({
                "parent": {
                    "invoice_item_details": null,
                    "subscription_item_details": {
                        "invoice_item": null,
                        "proration": false,
                        "proration_details": { "credited_items": null },
                        "subscription": self.subscription,
                        "subscription_item": item.id,
                    },
                    "type": "subscription_item_details",
                },
                "pretax_credit_amounts": [],
                "pricing": {
                    "price_details": { "price": item.price, "product": item.product },
                    "type": "price_details",
                    "unit_amount_decimal": item.unit_amount.to_string(),
                },
                "taxes": [],
            })
        } else {
            json!({
                "amount_excluding_tax": amount,
                "plan": item.plan(owner, version),
                "price": item.price(owner, version),
                "proration": false,
                "proration_details": { "credited_items": null },
                "subscription": self.subscription,
                "subscription_item": item.id,
                "tax_amounts": [],
                "tax_rates": [],
                "type": "subscription",
                "unit_amount_excluding_tax": item.unit_amount.to_string(),
            })
        };
        merged([common, by_version])
    }

    /// As Stripe shows it in this version.
    pub fn render(&self, version: ApiVersion) -> Value {
        let attempted = self.attempt_count > 0;
        let lines: Vec<Value> = self.items.iter().map(|item| self.line(item, version)).collect();
        let lines_of = self.id.as_deref().unwrap_or("upcoming");
        let remaining = self.amount_due.saturating_sub(self.amount_paid);
        merged([
            when(self.id.is_some(), || json!({ "id": self.id })),
            json!({
                "object": "invoice",
                "account_country": "US",
                "account_name": "Sample, Inc.",
                "account_tax_ids": null,
                "amount_due": self.amount_due,
                "amount_paid": self.amount_paid,
                "amount_remaining": remaining,
                "amount_shipping": 0,
                "application": null,
                "attempt_count": self.attempt_count,
                "attempted": attempted,
                "auto_advance": matches!(self.status.as_str(), "draft" | "open"),
                "automatic_tax": {
                    "disabled_reason": null, "enabled": false, "liability": null, "provider": null, "status": null,
                },
                "automatically_finalizes_at": null,
                "billing_reason": self.billing_reason,
                "collection_method": "charge_automatically",
                "created": self.created,
                "currency": self.currency,
                "custom_fields": null,
            }),
            json!({
                "customer": self.customer,
                "customer_address": null,
                "customer_email": self.customer_email,
                "customer_name": null,
                "customer_phone": null,
                "customer_shipping": null,
                "customer_tax_exempt": "none",
                "customer_tax_ids": [],
                "default_payment_method": null,
                "default_source": null,
                "default_tax_rates": [],
                "description": null,
                "discounts": [],
                "due_date": null,
                "effective_at": self.finalized_at,
                "ending_balance": self.finalized_at.map(|_| 0),
                "footer": null,
                "from_invoice": null,
                "hosted_invoice_url": self.hosted_invoice_url,
                "invoice_pdf": self.invoice_pdf,
                "issuer": { "type": "self" },
                "last_finalization_error": null,
                "latest_revision": null,
            }),
            json!({
                "lines": {
                    "object": "list",
                    "data": lines,
                    "has_more": false,
                    "total_count": self.items.len(),
                    "url": format!("/v1/invoices/{lines_of}/lines"),
                },
                "livemode": self.livemode,
                "metadata": {},
                "next_payment_attempt": self.next_payment_attempt,
                "number": self.number,
                "on_behalf_of": null,
                "payment_settings": {
                    "default_mandate": null, "payment_method_options": null, "payment_method_types": null,
                },
                "period_end": self.period_end,
                "period_start": self.period_start,
                "post_payment_credit_notes_amount": 0,
                "pre_payment_credit_notes_amount": 0,
                "receipt_number": null,
                "rendering": null,
                "shipping_cost": null,
                "shipping_details": null,
                "starting_balance": 0,
                "statement_descriptor": null,
            }),
            json!({
                "status": self.status,
                "status_transitions": {
                    "finalized_at": self.finalized_at,
                    "marked_uncollectible_at": self.marked_uncollectible_at,
                    "paid_at": self.paid_at,
                    "voided_at": self.voided_at,
                },
                "subtotal": self.amount_due,
                "subtotal_excluding_tax": self.amount_due,
                "test_clock": null,
                "total": self.amount_due,
                "total_discount_amounts": [],
                "total_excluding_tax": self.amount_due,
                "webhooks_delivered_at": self.finalized_at,
            }),
            if version >= ApiVersion::Basil { self.parent_fields() } else { self.flat_fields() },
            when(version >= ApiVersion::Clover, || json!({ "customer_account": null })),
        ])
    }

    /// What basil brought.
    fn parent_fields(&self) -> Value {
        json!({
            "amount_overpaid": 0,
            "parent": self.subscription.as_ref().map(|subscription| json!({
                "quote_details": null,
                "subscription_details": { "metadata": self.subscription_metadata, "subscription": subscription },
                "type": "subscription_details",
            })),
            "total_pretax_credit_amounts": [],
            "total_taxes": [],
        })
    }

    /// What basil took away.
    fn flat_fields(&self) -> Value {
        json!({
            "application_fee_amount": null,
            "charge": self.charge,
            "discount": null,
            "paid": self.status == "paid",
            "paid_out_of_band": false,
            "payment_intent": self.payment_intent,
            "quote": null,
            "subscription": self.subscription,
            "subscription_details": {
                "metadata": self.subscription.as_ref().map(|_| &self.subscription_metadata),
            },
            "tax": null,
            "total_tax_amounts": [],
            "transfer_data": null,
        })
    }
}
