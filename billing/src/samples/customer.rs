//! Customers.

use serde_json::{Value, json};

use super::{ApiVersion, DiscountSample, Metadata, merged, tail, when};

/// A customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomerSample {
    /// `cus_…`
    pub id: String,
    /// Address.
    pub email: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// Free text of the host, often with `user_id`.
    pub metadata: Metadata,
    /// When it was made.
    pub created: i64,
    /// Whether an invoice of theirs is overdue.
    pub delinquent: bool,
    /// The one discount on all they buy.
    pub discount: Option<DiscountSample>,
    /// True renders what a fetch of a deleted customer answers, id and little else. (The event `customer.deleted` carries the full one.)
    pub deleted: bool,
    /// False in a sandbox.
    pub livemode: bool,
}

impl CustomerSample {
    /// A customer with an address, made at `at`.
    pub fn new(id: impl Into<String>, email: impl Into<String>, at: i64) -> Self {
        Self {
            id: id.into(),
            email: Some(email.into()),
            name: Some("Sample Customer".to_owned()),
            metadata: Metadata::new(),
            created: at,
            delinquent: false,
            discount: None,
            deleted: false,
            livemode: false,
        }
    }

    /// As Stripe shows it in this version.
    pub fn render(&self, version: ApiVersion) -> Value {
        if self.deleted {
            return json!({ "id": self.id, "object": "customer", "deleted": true });
        }
        let discount = self.discount.as_ref().map(|discount| discount.render(&self.id, None, self.livemode, version));
        merged([
            json!({
                "id": self.id,
                "object": "customer",
                "address": null,
                "balance": 0,
                "created": self.created,
                "currency": "usd",
                "default_source": null,
                "delinquent": self.delinquent,
                "description": null,
                "discount": discount,
                "email": self.email,
                "invoice_prefix": tail(&self.id).to_uppercase(),
                "invoice_settings": {
                    "custom_fields": null,
                    "default_payment_method": null,
                    "footer": null,
                    "rendering_options": null,
                },
            }),
            json!({
                "livemode": self.livemode,
                "metadata": self.metadata,
                "name": self.name,
                "next_invoice_sequence": 1,
                "phone": null,
                "preferred_locales": ["en-US"],
                "shipping": null,
                "tax_exempt": "none",
                "test_clock": null,
            }),
            when(version >= ApiVersion::Clover, || json!({ "customer_account": null })),
        ])
    }
}
