//! Every job: a file here, and a line in [`all`].

mod expire_entitlements;
mod reset_monthly_usage;

use crate::AnyJob;

/// Every job there is.
pub fn all() -> Vec<Box<dyn AnyJob>> {
    vec![Box::new(reset_monthly_usage::ResetMonthlyUsage), Box::new(expire_entitlements::ExpireEntitlements)]
}
