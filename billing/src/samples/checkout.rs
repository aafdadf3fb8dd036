//! Checkout sessions.

use serde_json::{Value, json};

use super::{ApiVersion, Metadata, merged, tail, when};

/// A checkout session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckoutSessionSample {
    /// `cs_…`
    pub id: String,
    /// `subscription`, `payment` or `setup`
    pub mode: String,
    /// `cus_…`; a guest's payment has none.
    pub customer: Option<String>,
    /// `sub_…`, once there is one.
    pub subscription: Option<String>,
    /// `in_…`, once there is one.
    pub invoice: Option<String>,
    /// `pi_…`, in mode `payment`.
    pub payment_intent: Option<String>,
    /// The host's name for the buyer.
    pub client_reference_id: Option<String>,
    /// Free text of the host; not copied to the subscription.
    pub metadata: Metadata,
    /// `paid`, `unpaid` or `no_payment_required`
    pub payment_status: String,
    /// `open`, `complete` or `expired`
    pub status: String,
    /// What the buyer entered: shown in `customer_details` once the session is complete.
    pub email: Option<String>,
    /// What the host filled in beforehand.
    pub customer_email: Option<String>,
    /// When it was made.
    pub created: i64,
    /// Minor units.
    pub amount_total: i64,
    /// Three letters, lower case.
    pub currency: String,
    /// False in a sandbox.
    pub livemode: bool,
}

impl CheckoutSessionSample {
    /// A complete, paid session in mode `subscription`, made at `at`.
    pub fn new(id: impl Into<String>, customer: impl Into<String>, subscription: impl Into<String>, at: i64) -> Self {
        Self {
            id: id.into(),
            mode: "subscription".to_owned(),
            customer: Some(customer.into()),
            subscription: Some(subscription.into()),
            invoice: None,
            payment_intent: None,
            client_reference_id: None,
            metadata: Metadata::new(),
            payment_status: "paid".to_owned(),
            status: "complete".to_owned(),
            email: None,
            customer_email: None,
            created: at,
            amount_total: 1900,
            currency: "usd".to_owned(),
            livemode: false,
        }
    }

    /// As Stripe shows it in this version.
    pub fn render(&self, version: ApiVersion) -> Value {
        let complete = self.status == "complete";
        let subscribes = self.mode == "subscription";
        let details = (complete && self.email.is_some()).then(|| {
            merged([
                json!({
                    "address": {
                        "city": null, "country": "US", "line1": null, "line2": null, "postal_code": "94103", "state": null,
                    },
                    "email": self.email,
                    "name": "Sample Customer",
                    "phone": null,
                    "tax_exempt": "none",
                    "tax_ids": [],
                }),
                when(version >= ApiVersion::Clover, || json!({ "business_name": null, "individual_name": null })),
            ])
        });
        let ui_mode = if version >= ApiVersion::Endive { "hosted_page" } else { "hosted" };
        merged([
            json!({
                "id": self.id,
                "object": "checkout.session",
                "after_expiration": null,
                "allow_promotion_codes": null,
                "amount_subtotal": self.amount_total,
                "amount_total": self.amount_total,
                "automatic_tax": { "enabled": false, "liability": null, "provider": null, "status": null },
                "billing_address_collection": null,
                "cancel_url": "https://example.com/pricing",
                "client_reference_id": self.client_reference_id,
                "client_secret": null,
                "consent": null,
                "consent_collection": null,
                "created": self.created,
                "currency": self.currency,
                "currency_conversion": null,
                "custom_fields": [],
                "custom_text": {
                    "after_submit": null, "shipping_address": null, "submit": null, "terms_of_service_acceptance": null,
                },
                "customer": self.customer,
                "customer_creation": if subscribes { "always" } else { "if_required" },
                "customer_details": details,
                "customer_email": self.customer_email,
            }),
            json!({
                "expires_at": self.created.saturating_add(86_400),
                "invoice": self.invoice,
                "invoice_creation": null,
                "livemode": self.livemode,
                "locale": null,
                "metadata": self.metadata,
                "mode": self.mode,
                "payment_intent": self.payment_intent,
                "payment_link": null,
                "payment_method_collection": if subscribes { "always" } else { "if_required" },
                "payment_method_configuration_details": null,
                "payment_method_options": { "card": { "request_three_d_secure": "automatic" } },
                "payment_method_types": ["card"],
                "payment_status": self.payment_status,
                "phone_number_collection": { "enabled": false },
                "recovered_from": null,
            }),
            json!({
                "saved_payment_method_options": subscribes.then(|| json!({
                    "allow_redisplay_filters": ["always"],
                    "payment_method_remove": "disabled",
                    "payment_method_save": null,
                })),
                "setup_intent": null,
                "shipping_address_collection": null,
                "shipping_cost": null,
                "shipping_options": [],
                "status": self.status,
                "submit_type": null,
                "subscription": self.subscription,
                "success_url": "https://example.com/welcome?session_id={CHECKOUT_SESSION_ID}",
                "total_details": { "amount_discount": 0, "amount_shipping": 0, "amount_tax": 0 },
                "ui_mode": ui_mode,
                "url": (self.status == "open").then(|| format!("https://checkout.stripe.com/c/pay/{}", tail(&self.id))),
            }),
            if version >= ApiVersion::Basil {
                json!({
                    "adaptive_pricing": { "enabled": false },
                    "collected_information": complete.then(|| json!({ "shipping_details": null })),
                    "discounts": [],
                    "permissions": null,
                })
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
}
