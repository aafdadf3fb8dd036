//! Checkout sessions.

use serde_json::{Value, json};

use super::{merged, tail, when};
use crate::{
    account::Account,
    model::{Session, SessionStatus},
    version::ApiVersion,
};

pub(crate) fn session(account: &Account, session: &Session, version: ApiVersion) -> Value {
    let open = session.status == SessionStatus::Open;
    let complete = session.status == SessionStatus::Complete;
    let email = session.customer.as_deref().and_then(|id| account.customers.get(id)?.email.clone());
    let amounts = session
        .line_items
        .iter()
        .filter_map(|(price, quantity)| Some(account.prices.get(price)?.unit_amount.saturating_mul(*quantity)));
    let total: i64 = if session.trial_days > 0 { 0 } else { amounts.sum() };
    // 2026-03-25.dahlia renamed the values.
    let ui_mode = if version >= ApiVersion::Endive { "hosted_page" } else { "hosted" };
    merged([
        json!({
            "id": session.id,
            "object": "checkout.session",
            "after_expiration": null,
            "allow_promotion_codes": null,
            "amount_subtotal": total,
            "amount_total": total,
            "automatic_tax": { "enabled": false, "liability": null, "status": null },
            "billing_address_collection": null,
            "cancel_url": "https://example.com/pricing",
            "client_reference_id": session.reference,
            "client_secret": null,
            "consent": null,
            "consent_collection": null,
            "created": session.created,
            "currency": "usd",
            "currency_conversion": null,
            "custom_fields": [],
            "custom_text": { "after_submit": null, "shipping_address": null, "submit": null },
            "customer": session.customer,
            "customer_creation": "always",
            "customer_details": complete.then(|| json!({
                "address": null, "email": email, "name": null, "phone": null, "tax_exempt": "none", "tax_ids": [],
            })),
        }),
        json!({
            "customer_email": session.customer_email,
            "expires_at": session.expires_at,
            "invoice": session.invoice,
            "invoice_creation": null,
            "livemode": false,
            "locale": null,
            "metadata": session.metadata,
            "mode": "subscription",
            "payment_intent": null,
            "payment_link": null,
            "payment_method_collection": "always",
            "payment_method_options": { "card": { "request_three_d_secure": "automatic" } },
            "payment_method_types": ["card"],
            "payment_status": session.payment_status,
            "phone_number_collection": { "enabled": false },
            "recovered_from": null,
            "setup_intent": null,
            "shipping_address_collection": null,
            "shipping_cost": null,
            "shipping_options": [],
            "status": match session.status {
                SessionStatus::Open => "open",
                SessionStatus::Complete => "complete",
                SessionStatus::Expired => "expired",
            },
        }),
        json!({
            "submit_type": null,
            "subscription": session.subscription,
            "success_url": "https://example.com/welcome?session_id={CHECKOUT_SESSION_ID}",
            "total_details": { "amount_discount": 0, "amount_shipping": 0, "amount_tax": 0 },
            "ui_mode": ui_mode,
            "url": open.then(|| format!("https://checkout.stripe.com/c/pay/{}", tail(&session.id))),
        }),
        if version >= ApiVersion::Basil {
            json!({ "adaptive_pricing": { "enabled": false }, "discounts": [], "permissions": null })
        } else {
            json!({ "shipping_details": null })
        },
        when(
            version >= ApiVersion::Clover,
            || json!({ "customer_account": null, "origin_context": null, "wallet_options": null }),
        ),
        when(version >= ApiVersion::Endive, || json!({ "managed_payments": { "enabled": false } })),
    ])
}
