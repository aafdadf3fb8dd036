//! Customers, what is sold, endpoints.

use serde_json::{Value, json};

use super::{merged, tail, when};
use crate::{
    model::{Card, Customer, Endpoint, Price, Product},
    version::ApiVersion,
};

pub(crate) fn product(product: &Product) -> Value {
    json!({
        "id": product.id,
        "object": "product",
        "active": product.active,
        "created": product.created,
        "default_price": null,
        "description": null,
        "images": [],
        "livemode": false,
        "marketing_features": [],
        "metadata": product.metadata,
        "name": product.name,
        "package_dimensions": null,
        "shippable": null,
        "statement_descriptor": null,
        "tax_code": null,
        "type": "service",
        "unit_label": null,
        "updated": product.created,
        "url": null,
    })
}

pub(crate) fn price(price: &Price, version: ApiVersion) -> Value {
    json!({
        "id": price.id,
        "object": "price",
        "active": price.active,
        "billing_scheme": "per_unit",
        "created": price.created,
        "currency": price.currency,
        "custom_unit_amount": null,
        "livemode": false,
        "lookup_key": price.lookup_key,
        "metadata": price.metadata,
        "nickname": price.nickname,
        "product": price.product,
        "recurring": price.interval.map(|interval| merged([
            json!({
                "interval": interval.unit.as_str(),
                "interval_count": interval.count,
                "meter": null,
                "trial_period_days": null,
                "usage_type": "licensed",
            }),
            when(version < ApiVersion::Basil, || json!({ "aggregate_usage": null })),
        ])),
        "tax_behavior": "unspecified",
        "tiers_mode": null,
        "transform_quantity": null,
        "type": if price.interval.is_some() { "recurring" } else { "one_time" },
        "unit_amount": price.unit_amount,
        "unit_amount_decimal": price.unit_amount.to_string(),
    })
}

/// The price as the older API called it; it is still sent beside the price.
pub(super) fn plan(price: &Price) -> Value {
    let interval = price.interval;
    json!({
        "id": price.id,
        "object": "plan",
        "active": price.active,
        "amount": price.unit_amount,
        "amount_decimal": price.unit_amount.to_string(),
        "billing_scheme": "per_unit",
        "created": price.created,
        "currency": price.currency,
        "interval": interval.map(|interval| interval.unit.as_str()),
        "interval_count": interval.map(|interval| interval.count),
        "livemode": false,
        "metadata": price.metadata,
        "meter": null,
        "nickname": price.nickname,
        "product": price.product,
        "trial_period_days": null,
        "usage_type": "licensed",
    })
}

pub(crate) fn customer(customer: &Customer, version: ApiVersion) -> Value {
    let method = (customer.card != Card::None).then(|| format!("pm_1{}", tail(&customer.id)));
    merged([
        json!({
            "id": customer.id,
            "object": "customer",
            "address": null,
            "balance": 0,
            "created": customer.created,
            "currency": "usd",
            "default_source": null,
            "delinquent": false,
            "description": customer.description,
            "discount": null,
            "email": customer.email,
            "invoice_prefix": tail(&customer.id).to_uppercase(),
            "invoice_settings": {
                "custom_fields": null,
                "default_payment_method": method,
                "footer": null,
                "rendering_options": null,
            },
        }),
        json!({
            "livemode": false,
            "metadata": customer.metadata,
            "name": customer.name,
            "next_invoice_sequence": 1,
            "phone": null,
            "preferred_locales": [],
            "shipping": null,
            "tax_exempt": "none",
            "test_clock": null,
        }),
        when(version >= ApiVersion::Clover, || json!({ "customer_account": null })),
    ])
}

/// What a fetch of a deleted customer answers.
pub(crate) fn deleted_customer(id: &str) -> Value {
    json!({ "id": id, "object": "customer", "deleted": true })
}

/// The secret is shown once, when the endpoint is made.
pub(crate) fn endpoint(endpoint: &Endpoint, version: ApiVersion, with_secret: bool) -> Value {
    merged([
        json!({
            "id": endpoint.id,
            "object": "webhook_endpoint",
            "api_version": version.as_str(),
            "application": null,
            "created": endpoint.created,
            "description": endpoint.description,
            "enabled_events": endpoint.types,
            "livemode": false,
            "metadata": endpoint.metadata,
            "status": if endpoint.enabled { "enabled" } else { "disabled" },
            "url": endpoint.url,
        }),
        when(with_secret, || json!({ "secret": endpoint.secrets.first().map(|(secret, _)| secret) })),
    ])
}
