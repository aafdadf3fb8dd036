//! How each object looks in each API version (types of stripe-node 23.1.0 and its changelog; docs.stripe.com/changelog).

mod charge;
mod customer;
mod invoice;
mod session;
mod subscription;

use serde_json::{Map, Value, json};

pub(crate) use self::{
    charge::{charge, dispute},
    customer::{customer, deleted_customer, endpoint, price, product},
    invoice::{invoice, upcoming_invoice},
    session::session,
    subscription::{item, subscription},
};
use crate::account::Account;

/// One object of the fields of several; the last wins. Large objects are written in pieces, since `json!` recurses once per token.
fn merged<const N: usize>(parts: [Value; N]) -> Value {
    let mut all = Map::new();
    for part in parts {
        if let Value::Object(fields) = part {
            all.extend(fields);
        }
    }
    Value::Object(all)
}

/// The fields where the condition holds, else none.
fn when(condition: bool, fields: impl FnOnce() -> Value) -> Value {
    if condition { fields() } else { Value::Null }
}

/// An id without its prefix.
fn tail(id: &str) -> &str {
    id.rsplit('_').next().unwrap_or(id)
}

/// A list as it is embedded in an object.
fn embedded(data: &[Value], total: usize, url: &str) -> Value {
    json!({ "object": "list", "has_more": data.len() < total, "data": data, "total_count": total, "url": url })
}

/// The account itself.
pub(crate) fn account() -> Value {
    json!({
        "id": "acct_1Simulated0000000",
        "object": "account",
        "business_profile": { "name": "Simulated, Inc.", "url": null },
        "charges_enabled": true,
        "country": "US",
        "default_currency": "usd",
        "details_submitted": true,
        "email": "owner@example.com",
        "payouts_enabled": true,
        "settings": { "dashboard": { "display_name": "Simulated, Inc.", "timezone": "Etc/UTC" } },
        "type": "standard",
    })
}

/// Whatever has this id, as it is now; for `expand`.
pub(crate) fn by_id(account: &Account, id: &str, version: crate::ApiVersion) -> Option<Value> {
    let (prefix, _) = id.split_once('_')?;
    Some(match prefix {
        "sub" => subscription(account, account.subscriptions.get(id)?, version),
        "cus" => match account.customers.get(id)? {
            gone if gone.deleted => deleted_customer(id),
            found => customer(found, version),
        },
        "in" => invoice(account, account.invoices.get(id)?, version),
        "prod" => product(account.products.get(id)?),
        "price" => price(account.prices.get(id)?, version),
        "ch" => charge(account, account.charges.get(id)?, version),
        "cs" => session(account, account.sessions.get(id)?, version),
        _ => return None,
    })
}
