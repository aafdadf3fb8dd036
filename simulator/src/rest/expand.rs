//! `expand[]`: an id is replaced by what it names (`docs.stripe.com/api/expanding_objects`).

use serde_json::Value;

use crate::{
    account::{Account, Refusal},
    render,
    version::ApiVersion,
};

/// Deepest path that Stripe follows.
const DEEPEST: usize = 4;

pub(super) fn expand(
    account: &Account,
    body: &mut Value,
    paths: &[String],
    version: ApiVersion,
) -> Result<(), Refusal> {
    for path in paths {
        let steps: Vec<&str> = path.split('.').collect();
        let depth = steps.iter().filter(|step| **step != "data").count();
        if depth > DEEPEST {
            return Err(Refusal::invalid(
                format!("You cannot expand more than {DEEPEST} levels of a property."),
                "expand",
            ));
        }
        if !follow(account, body, &steps, version) {
            let message = format!("This property cannot be expanded ({path}).");
            return Err(Refusal::invalid(message, "expand"));
        }
    }
    Ok(())
}

/// False where there is no such property.
fn follow(account: &Account, value: &mut Value, steps: &[&str], version: ApiVersion) -> bool {
    if let Value::Array(items) = value {
        return items.iter_mut().all(|item| follow(account, item, steps, version));
    }
    let Some((step, rest)) = steps.split_first() else {
        return true;
    };
    let Some(inner) = value.get_mut(*step) else { return false };
    if let Some(found) = inner.as_str().and_then(|id| render::by_id(account, id, version)) {
        *inner = found;
    }
    inner.is_null() || follow(account, inner, rest, version)
}
