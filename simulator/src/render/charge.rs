//! Charges and disputes.

use serde_json::{Value, json};

use super::{merged, tail, when};
use crate::{
    account::Account,
    calendar::DAY,
    model::{Charge, Dispute},
    version::ApiVersion,
};

pub(crate) fn charge(account: &Account, charge: &Charge, version: ApiVersion) -> Value {
    let email = account.customers.get(&charge.customer).and_then(|customer| customer.email.as_deref());
    let key = tail(&charge.id);
    merged([
        json!({
            "id": charge.id,
            "object": "charge",
            "amount": charge.amount,
            "amount_captured": if charge.paid { charge.amount } else { 0 },
            "amount_refunded": charge.refunded,
            "application": null,
            "application_fee": null,
            "application_fee_amount": null,
            "balance_transaction": charge.paid.then(|| format!("txn_{key}")),
            "billing_details": { "address": null, "email": email, "name": null, "phone": null, "tax_id": null },
            "captured": charge.paid,
            "created": charge.created,
            "currency": charge.currency,
            "customer": charge.customer,
            "description": "Subscription update",
            "disputed": charge.disputed,
            "failure_code": (!charge.paid).then_some("card_declined"),
            "failure_message": (!charge.paid).then_some("Your card was declined."),
            "fraud_details": {},
        }),
        json!({
            "livemode": false,
            "metadata": {},
            "on_behalf_of": null,
            "paid": charge.paid,
            "payment_intent": format!("pi_3{}", charge.invoice.as_deref().map_or(key, tail)),
            "payment_method": format!("pm_1{}", tail(&charge.customer)),
            "payment_method_details": { "card": { "brand": "visa", "last4": "4242" }, "type": "card" },
            "receipt_email": null,
            "receipt_number": null,
            "receipt_url": null,
            "refunded": charge.paid && charge.refunded >= charge.amount,
            "review": null,
            "shipping": null,
            "source": null,
            "statement_descriptor": null,
            "status": if charge.paid { "succeeded" } else { "failed" },
            "transfer_data": null,
            "transfer_group": null,
        }),
        when(version < ApiVersion::Basil, || json!({ "invoice": charge.invoice })),
        // Included by default until 2022-11-15.
        when(version == ApiVersion::V2020_08_27, || json!({ "refunds": refunds(charge) })),
    ])
}

fn refunds(charge: &Charge) -> Value {
    let refund = json!({
        "id": format!("re_{}", tail(&charge.id)),
        "object": "refund",
        "amount": charge.refunded,
        "charge": charge.id,
        "created": charge.created,
        "currency": charge.currency,
        "status": "succeeded",
    });
    let data: Vec<Value> = (charge.refunded > 0).then_some(refund).into_iter().collect();
    super::embedded(&data, data.len(), &format!("/v1/charges/{}/refunds", charge.id))
}

pub(crate) fn dispute(dispute: &Dispute, version: ApiVersion) -> Value {
    merged([
        json!({
            "id": dispute.id,
            "object": "dispute",
            "amount": dispute.amount,
            "balance_transactions": [],
            "charge": dispute.charge,
            "created": dispute.created,
            "currency": dispute.currency,
            "evidence": {},
            "evidence_details": {
                "due_by": dispute.created + 9 * DAY, "has_evidence": false, "past_due": false, "submission_count": 0,
            },
            "is_charge_refundable": false,
            "livemode": false,
            "metadata": {},
            "payment_intent": null,
            "reason": "fraudulent",
            "status": "needs_response",
        }),
        when(version >= ApiVersion::Basil, || json!({ "enhanced_eligibility_types": [] })),
    ])
}
