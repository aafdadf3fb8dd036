//! Invoices and their lines.

use serde_json::{Value, json};

use super::{
    customer::{plan, price},
    embedded, merged, tail, when,
};
use crate::{
    account::Account,
    calendar::HOUR,
    model::{Invoice, InvoiceStatus, Line, Subscription},
    version::ApiVersion,
};

fn line(account: &Account, invoice: &Invoice, line: &Line, version: ApiVersion) -> Value {
    let found = account.prices.get(&line.price);
    let unit = found.map_or(0, |price| price.unit_amount);
    merged([
        json!({
            "id": line.id,
            "object": "line_item",
            "amount": line.amount,
            "currency": invoice.currency,
            "description": format!("{} × {}", line.quantity, found.map_or("", |price| price.product.as_str())),
            "discount_amounts": [],
            "discountable": true,
            "discounts": [],
            "invoice": invoice.id,
            "livemode": false,
            "metadata": invoice.subscription_metadata,
            "period": { "end": line.end, "start": line.start },
            "quantity": line.quantity,
        }),
        if version >= ApiVersion::Basil {
            json!({
                "parent": {
                    "invoice_item_details": null,
                    "subscription_item_details": {
                        "invoice_item": null,
                        "proration": false,
                        "proration_details": { "credited_items": null },
                        "subscription": invoice.subscription,
                        "subscription_item": line.item,
                    },
                    "type": "subscription_item_details",
                },
                "pretax_credit_amounts": [],
                "pricing": {
                    "price_details": { "price": line.price, "product": found.map(|price| &price.product) },
                    "type": "price_details",
                    "unit_amount_decimal": unit.to_string(),
                },
                "taxes": [],
            })
        } else {
            json!({
                "amount_excluding_tax": line.amount,
                "plan": found.map(plan),
                "price": found.map(|found| price(found, version)),
                "proration": false,
                "proration_details": { "credited_items": null },
                "subscription": invoice.subscription,
                "subscription_item": line.item,
                "tax_amounts": [],
                "tax_rates": [],
                "type": "subscription",
                "unit_amount_excluding_tax": unit.to_string(),
            })
        },
    ])
}

pub(crate) fn invoice(account: &Account, invoice: &Invoice, version: ApiVersion) -> Value {
    let lines: Vec<Value> = invoice.lines.iter().map(|it| line(account, invoice, it, version)).collect();
    let url = format!("https://invoice.stripe.com/i/acct_1Simulated0000000/test_{}", tail(&invoice.id));
    let final_url = invoice.finalized_at.map(|_| url);
    let open = matches!(invoice.status, InvoiceStatus::Draft | InvoiceStatus::Open);
    merged([
        json!({
            "id": invoice.id,
            "object": "invoice",
            "account_country": "US",
            "account_name": "Simulated, Inc.",
            "account_tax_ids": null,
            "amount_due": invoice.amount_due,
            "amount_paid": invoice.amount_paid,
            "amount_remaining": invoice.amount_due - invoice.amount_paid,
            "amount_shipping": 0,
            "application": null,
            "attempt_count": invoice.attempts,
            "attempted": invoice.attempts > 0,
            "auto_advance": open && invoice.auto_advance,
            "automatic_tax": {
                "disabled_reason": null, "enabled": false, "liability": null, "provider": null, "status": null,
            },
            "automatically_finalizes_at": null,
            "billing_reason": invoice.billing_reason,
            "collection_method": "charge_automatically",
            "created": invoice.created,
            "currency": invoice.currency,
            "custom_fields": null,
        }),
        json!({
            "customer": invoice.customer,
            "customer_address": null,
            "customer_email": invoice.customer_email,
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
            "effective_at": invoice.finalized_at,
            "ending_balance": invoice.finalized_at.map(|_| 0),
            "footer": null,
            "from_invoice": null,
            "hosted_invoice_url": final_url,
            "invoice_pdf": final_url.as_ref().map(|url| format!("{url}/pdf")),
            "issuer": { "type": "self" },
            "last_finalization_error": null,
            "latest_revision": null,
        }),
        json!({
            "lines": embedded(&lines, invoice.lines.len(), &format!("/v1/invoices/{}/lines", invoice.id)),
            "livemode": false,
            "metadata": {},
            "next_payment_attempt": invoice.next_attempt.filter(|_| open),
            "number": invoice.number,
            "on_behalf_of": null,
            "payment_settings": {
                "default_mandate": null, "payment_method_options": null, "payment_method_types": null,
            },
            "period_end": invoice.period_end,
            "period_start": invoice.period_start,
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
            "status": invoice.status.as_str(),
            "status_transitions": {
                "finalized_at": invoice.finalized_at,
                "marked_uncollectible_at": invoice.uncollectible_at,
                "paid_at": invoice.paid_at,
                "voided_at": invoice.voided_at,
            },
            "subtotal": invoice.amount_due,
            "subtotal_excluding_tax": invoice.amount_due,
            "test_clock": null,
            "total": invoice.amount_due,
            "total_discount_amounts": [],
            "total_excluding_tax": invoice.amount_due,
            "webhooks_delivered_at": invoice.finalized_at,
        }),
        if version >= ApiVersion::Basil { parent(invoice) } else { flat(invoice) },
        when(version >= ApiVersion::Clover, || json!({ "customer_account": null })),
    ])
}

/// What basil brought.
fn parent(invoice: &Invoice) -> Value {
    json!({
        "amount_overpaid": 0,
        "parent": invoice.subscription.as_ref().map(|subscription| json!({
            "quote_details": null,
            "subscription_details": { "metadata": invoice.subscription_metadata, "subscription": subscription },
            "type": "subscription_details",
        })),
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
    })
}

/// What basil took away.
fn flat(invoice: &Invoice) -> Value {
    let intent = invoice.finalized_at.filter(|_| invoice.amount_due > 0);
    json!({
        "application_fee_amount": null,
        "charge": invoice.charge,
        "discount": null,
        "paid": invoice.status == InvoiceStatus::Paid,
        "paid_out_of_band": false,
        "payment_intent": intent.map(|_| format!("pi_3{}", tail(&invoice.id))),
        "quote": null,
        "subscription": invoice.subscription,
        "subscription_details": { "metadata": invoice.subscription.as_ref().map(|_| &invoice.subscription_metadata) },
        "tax": null,
        "total_tax_amounts": [],
        "transfer_data": null,
    })
}

/// What a subscription will be billed next: a preview, without an id.
pub(crate) fn upcoming_invoice(account: &Account, subscription: &Subscription, version: ApiVersion) -> Value {
    let due = subscription.next_end().unwrap_or(account.now());
    let billed = subscription.items.iter().filter(|item| item.period_end == due);
    let lines: Vec<Line> = billed
        .filter_map(|item| {
            let price = account.prices.get(&item.price)?;
            let end = price.interval?.next_end(subscription.anchor, due);
            Some(Line {
                id: item.id.replacen("si_", "il_tmp_", 1),
                item: item.id.clone(),
                price: item.price.clone(),
                quantity: item.quantity,
                amount: price.unit_amount.saturating_mul(item.quantity),
                start: due,
                end,
            })
        })
        .collect();
    let preview = Invoice {
        id: String::new(),
        customer: subscription.customer.clone(),
        customer_email: account.customers.get(&subscription.customer).and_then(|customer| customer.email.clone()),
        subscription: Some(subscription.id.clone()),
        subscription_metadata: subscription.metadata.clone(),
        status: InvoiceStatus::Draft,
        billing_reason: "upcoming",
        created: due,
        currency: "usd".to_owned(),
        amount_due: lines.iter().map(|line| line.amount).sum(),
        lines,
        amount_paid: 0,
        attempts: 0,
        next_attempt: Some(due + HOUR),
        auto_advance: true,
        period_start: subscription.items.iter().map(|item| item.period_start).min().unwrap_or(due),
        period_end: due,
        number: None,
        finalized_at: None,
        paid_at: None,
        voided_at: None,
        uncollectible_at: None,
        charge: None,
    };
    let mut object = invoice(account, &preview, version);
    if let Some(fields) = object.as_object_mut() {
        fields.remove("id");
    }
    object
}
