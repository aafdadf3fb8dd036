//! Subscriptions and their items.

use serde_json::{Value, json};

use super::{
    customer::{plan, price},
    embedded, merged, when,
};
use crate::{
    account::Account,
    model::{Item, Status, Subscription},
    version::ApiVersion,
};

/// Items that are shown within their subscription; the rest is listed by `GET /v1/subscription_items`.
const SHOWN: usize = 20;

pub(crate) fn item(account: &Account, item: &Item, of: &str, version: ApiVersion) -> Value {
    let found = account.prices.get(&item.price);
    merged([
        json!({
            "id": item.id,
            "object": "subscription_item",
            "created": item.created,
            "discounts": [],
            "metadata": {},
            "plan": found.map(plan),
            "price": found.map(|found| price(found, version)),
            "quantity": item.quantity,
            "subscription": of,
            "tax_rates": [],
        }),
        // Basil took it away; 2025-07-30 brought it back.
        when(version != ApiVersion::Basil, || json!({ "billing_thresholds": null })),
        when(
            version >= ApiVersion::Basil,
            || json!({ "current_period_start": item.period_start, "current_period_end": item.period_end }),
        ),
    ])
}

pub(crate) fn subscription(account: &Account, subscription: &Subscription, version: ApiVersion) -> Value {
    let items = subscription.items.iter().take(SHOWN);
    let items: Vec<Value> = items.map(|it| item(account, it, &subscription.id, version)).collect();
    let first = subscription.items.first().and_then(|item| account.prices.get(&item.price));
    let currency = first.map_or("usd", |price| price.currency.as_str());
    let url = format!("/v1/subscription_items?subscription={}", subscription.id);
    merged([
        json!({
            "id": subscription.id,
            "object": "subscription",
            "application": null,
            "application_fee_percent": null,
            "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null },
            "billing_cycle_anchor": subscription.anchor,
            "billing_cycle_anchor_config": null,
            "cancel_at": subscription.cancel_at,
            "cancel_at_period_end": subscription.cancel_at_period_end,
            "canceled_at": subscription.canceled_at,
            "cancellation_details": {
                "comment": null, "feedback": null, "reason": subscription.cancellation_reason,
            },
            "collection_method": "charge_automatically",
            "created": subscription.created,
            "currency": currency,
            "customer": subscription.customer,
            "days_until_due": null,
            "default_payment_method": null,
            "default_source": null,
            "default_tax_rates": [],
            "description": null,
            "discounts": [],
            "ended_at": subscription.ended_at,
            "invoice_settings": { "account_tax_ids": null, "issuer": { "type": "self" } },
        }),
        json!({
            "items": embedded(&items, subscription.items.len(), &url),
            "latest_invoice": subscription.invoices.last(),
            "livemode": false,
            "metadata": subscription.metadata,
            "next_pending_invoice_item_invoice": null,
            "on_behalf_of": null,
            "pause_collection": subscription.pause_collection.as_ref()
                .map(|pause| json!({ "behavior": pause.behavior, "resumes_at": pause.resumes_at })),
            "payment_settings": {
                "payment_method_options": null,
                "payment_method_types": null,
                "save_default_payment_method": "off",
            },
            "pending_invoice_item_interval": null,
            "pending_setup_intent": null,
            "pending_update": null,
            "plan": first.filter(|_| subscription.items.len() == 1).map(plan),
            "quantity": subscription.items.first().filter(|_| subscription.items.len() == 1).map(|item| item.quantity),
            "schedule": null,
            "start_date": subscription.created,
            "status": subscription.status.as_str(),
            "test_clock": null,
            "transfer_data": null,
            "trial_end": subscription.trial_end,
            "trial_settings": { "end_behavior": { "missing_payment_method": subscription.no_card.as_str() } },
            "trial_start": subscription.trial_start,
        }),
        when(version != ApiVersion::Basil, || json!({ "billing_thresholds": null })),
        when(version < ApiVersion::Basil, || {
            json!({
                "current_period_end": subscription.period_end(),
                "current_period_start": subscription.items.iter().map(|item| item.period_start).min(),
                "discount": null,
            })
        }),
        when(version >= ApiVersion::Clover, || {
            let mode = if subscription.flexible { "flexible" } else { "classic" };
            json!({
                "billing_mode": {
                    "flexible": subscription.flexible.then(|| json!({ "proration_discounts": "included" })),
                    "type": mode,
                    "updated_at": subscription.created,
                },
                "customer_account": null,
            })
        }),
        when(
            version >= ApiVersion::Endive,
            || json!({ "billing_schedules": [], "managed_payments": { "enabled": false } }),
        ),
        when(
            version >= ApiVersion::Endive && subscription.status == Status::Paused,
            || json!({ "status_details": { "paused": { "subscription": { "type": subscription.paused_for } } } }),
        ),
    ])
}
