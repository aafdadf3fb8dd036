//! `customer.*`: by what a customer finds their user.

use entity::{enums::LinkEvidence, ids::CustomerId};

use super::{
    Reading, Told, Unreadable, link,
    raw::{Found, Raw, RawCustomer},
};
use crate::{
    facts::{CustomerTold, moment},
    skip::Skip,
};

/// The customer as it is.
pub(super) fn known(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    told(raw, false)
}

/// The customer is gone. Stripe sends the whole object or `{id, object, deleted}`; only the id counts.
pub(super) fn deleted(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    told(raw, true)
}

fn told(raw: &Raw<'_>, deleted: bool) -> Result<Reading, Unreadable> {
    let customer: RawCustomer = match raw.find()? {
        Found::Object(customer) => customer,
        Found::Other(reading) => return Ok(reading),
    };
    let Some(id) = customer.id.0.as_deref().and_then(|id| CustomerId::parse(id).ok()) else {
        return Ok(Reading::Nothing(Skip::incomplete("a customer without an id")));
    };
    let deleted = deleted || customer.deleted.0 == Some(true);
    let user = customer.metadata.0.get("user_id").map(String::as_str);
    let told = CustomerTold {
        id,
        link: link(user, LinkEvidence::Metadata, raw.stamp),
        email: (!deleted).then_some((2, customer.email.0.map(|email| email.trim().to_owned()))),
        deleted,
        made_at: moment(customer.created.0),
    };
    Ok(Reading::Told(Box::new(Told { customer: Some(told), ..Told::default() })))
}
