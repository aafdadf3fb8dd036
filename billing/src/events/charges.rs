//! `charge.*`: money that went back. It changes no access; the event is noted with its user.

use entity::ids::CustomerId;

use super::{
    Reading, Told, Unreadable,
    raw::{Found, Raw, RawCharge},
};

/// All or part of a charge was paid back.
pub(super) fn refunded(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    noted(raw, "a refund; access is unchanged")
}

/// The customer's bank disputes a charge. A dispute names no customer (node `Disputes.d.ts`).
pub(super) fn disputed(raw: &Raw<'_>) -> Result<Reading, Unreadable> {
    noted(raw, "a dispute; access is unchanged")
}

fn noted(raw: &Raw<'_>, note: &'static str) -> Result<Reading, Unreadable> {
    Ok(match raw.find::<RawCharge>()? {
        Found::Object(charge) => Reading::Told(Box::new(Told {
            about: charge.customer.0.and_then(|id| CustomerId::parse(id).ok()),
            ..Told::nothing(note)
        })),
        Found::Other(reading) => reading,
    })
}
