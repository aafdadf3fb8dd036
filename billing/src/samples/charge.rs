//! Charges and disputes.

use serde_json::{Value, json};

use super::{ApiVersion, Metadata, merged, tail, when};

/// A charge that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargeSample {
    /// `ch_…`
    pub id: String,
    /// `cus_…`; a guest's charge has none.
    pub customer: Option<String>,
    /// `pi_…`
    pub payment_intent: Option<String>,
    /// `in_…`; shown before basil.
    pub invoice: Option<String>,
    /// Minor units.
    pub amount: i64,
    /// Minor units.
    pub amount_refunded: i64,
    /// Three letters, lower case.
    pub currency: String,
    /// When it was made.
    pub created: i64,
    /// The payer's address.
    pub email: Option<String>,
    /// Free text of the host.
    pub metadata: Metadata,
    /// Whether it is disputed.
    pub disputed: bool,
    /// False in a sandbox.
    pub livemode: bool,
}

impl ChargeSample {
    /// Nineteen of the currency, captured at `at`, nothing refunded.
    pub fn new(id: impl Into<String>, customer: impl Into<String>, at: i64) -> Self {
        let id = id.into();
        Self {
            customer: Some(customer.into()),
            payment_intent: Some(format!("pi_{}", tail(&id))),
            invoice: None,
            amount: 1900,
            amount_refunded: 0,
            currency: "usd".to_owned(),
            created: at,
            email: None,
            metadata: Metadata::new(),
            disputed: false,
            livemode: false,
            id,
        }
    }

    /// As Stripe shows it in this version.
    pub fn render(&self, version: ApiVersion) -> Value {
        let key = tail(&self.id);
        merged([
            json!({
                "id": self.id,
                "object": "charge",
                "amount": self.amount,
                "amount_captured": self.amount,
                "amount_refunded": self.amount_refunded,
                "application": null,
                "application_fee": null,
                "application_fee_amount": null,
                "balance_transaction": format!("txn_{key}"),
                "billing_details": {
                    "address": {
                        "city": null, "country": "US", "line1": null, "line2": null, "postal_code": "94103", "state": null,
                    },
                    "email": self.email,
                    "name": "Sample Customer",
                    "phone": null,
                    "tax_id": null,
                },
                "calculated_statement_descriptor": "SAMPLE",
                "captured": true,
                "created": self.created,
                "currency": self.currency,
                "customer": self.customer,
                "description": "Subscription update",
                "disputed": self.disputed,
                "failure_balance_transaction": null,
                "failure_code": null,
                "failure_message": null,
                "fraud_details": {},
            }),
            json!({
                "livemode": self.livemode,
                "metadata": self.metadata,
                "on_behalf_of": null,
                "outcome": {
                    "network_status": "approved_by_network",
                    "reason": null,
                    "risk_level": "normal",
                    "risk_score": 11,
                    "seller_message": "Payment complete.",
                    "type": "authorized",
                },
                "paid": true,
                "payment_intent": self.payment_intent,
                "payment_method": format!("pm_{key}"),
                "payment_method_details": {
                    "card": {
                        "brand": "visa",
                        "checks": {
                            "address_line1_check": null, "address_postal_code_check": "pass", "cvc_check": null,
                        },
                        "country": "US",
                        "exp_month": 12,
                        "exp_year": 2034,
                        "fingerprint": "sample",
                        "funding": "credit",
                        "installments": null,
                        "last4": "4242",
                        "mandate": null,
                        "network": "visa",
                        "three_d_secure": null,
                        "wallet": null,
                    },
                    "type": "card",
                },
            }),
            json!({
                "receipt_email": null,
                "receipt_number": null,
                "receipt_url": format!("https://pay.stripe.com/receipts/invoices/{key}"),
                "refunded": self.amount_refunded >= self.amount,
                "review": null,
                "shipping": null,
                "source": null,
                "source_transfer": null,
                "statement_descriptor": null,
                "statement_descriptor_suffix": null,
                "status": "succeeded",
                "transfer_data": null,
                "transfer_group": null,
            }),
            when(version < ApiVersion::Basil, || json!({ "invoice": self.invoice })),
            // Included by default until 2022-11-15.
            when(version == ApiVersion::V2020_08_27, || json!({ "refunds": self.refunds() })),
        ])
    }

    fn refunds(&self) -> Value {
        let key = tail(&self.id);
        let data: Vec<Value> = (self.amount_refunded > 0)
            .then(|| {
                json!({
                    "id": format!("re_{key}"),
                    "object": "refund",
                    "amount": self.amount_refunded,
                    "balance_transaction": format!("txn_refund_{key}"),
                    "charge": self.id,
                    "created": self.created,
                    "currency": self.currency,
                    "metadata": {},
                    "payment_intent": self.payment_intent,
                    "reason": null,
                    "receipt_number": null,
                    "status": "succeeded",
                })
            })
            .into_iter()
            .collect();
        json!({
            "object": "list",
            "total_count": data.len(),
            "data": data,
            "has_more": false,
            "url": format!("/v1/charges/{}/refunds", self.id),
        })
    }
}

/// A dispute. It names its charge, not the customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisputeSample {
    /// `du_…`
    pub id: String,
    /// `ch_…`
    pub charge: String,
    /// `pi_…`
    pub payment_intent: Option<String>,
    /// Minor units.
    pub amount: i64,
    /// Three letters, lower case.
    pub currency: String,
    /// `fraudulent`, `product_not_received`, …
    pub reason: String,
    /// `needs_response`, `under_review`, `won`, `lost`, …
    pub status: String,
    /// When it was made.
    pub created: i64,
    /// Free text of the host.
    pub metadata: Metadata,
    /// False in a sandbox.
    pub livemode: bool,
}

impl DisputeSample {
    /// The payer of this charge says at `at` that it was not them.
    pub fn new(id: impl Into<String>, charge: &ChargeSample, at: i64) -> Self {
        Self {
            id: id.into(),
            charge: charge.id.clone(),
            payment_intent: charge.payment_intent.clone(),
            amount: charge.amount,
            currency: charge.currency.clone(),
            reason: "fraudulent".to_owned(),
            status: "needs_response".to_owned(),
            created: at,
            metadata: Metadata::new(),
            livemode: charge.livemode,
        }
    }

    /// As Stripe shows it in this version.
    pub fn render(&self, version: ApiVersion) -> Value {
        merged([
            json!({
                "id": self.id,
                "object": "dispute",
                "amount": self.amount,
                "balance_transaction": null,
                "balance_transactions": [],
                "charge": self.charge,
                "created": self.created,
                "currency": self.currency,
                "evidence": {
                    "access_activity_log": null,
                    "billing_address": "94103, US",
                    "cancellation_policy": null,
                    "customer_communication": null,
                    "customer_name": "Sample Customer",
                    "customer_purchase_ip": null,
                    "product_description": null,
                    "receipt": null,
                    "refund_policy": null,
                    "service_date": null,
                    "uncategorized_file": null,
                    "uncategorized_text": null,
                },
                "evidence_details": {
                    "due_by": self.created.saturating_add(9 * 86_400),
                    "has_evidence": false,
                    "past_due": false,
                    "submission_count": 0,
                },
            }),
            json!({
                "is_charge_refundable": false,
                "livemode": self.livemode,
                "metadata": self.metadata,
                "payment_intent": self.payment_intent,
                "payment_method_details": {
                    "card": { "brand": "visa", "case_type": "chargeback", "network_reason_code": "10.4" },
                    "type": "card",
                },
                "reason": self.reason,
                "status": self.status,
            }),
            when(version >= ApiVersion::Basil, || json!({ "enhanced_eligibility_types": [] })),
        ])
    }
}
