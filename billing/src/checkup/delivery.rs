//! Whether Stripe delivers: our endpoint as Stripe has it.

use super::{Item, stripe::of_error};
use crate::{
    endpoint::{self, Expected, Severity},
    stripe::{Stripe, StripeError, client::API_VERSION},
};

const AREA: &str = "endpoint";

pub(super) async fn delivery(stripe: &dyn Stripe, expected: &Expected) -> Vec<Item> {
    let report = match endpoint::check(stripe, expected).await {
        Ok(report) => report,
        Err(error @ (StripeError::Permission { .. } | StripeError::Missing { .. })) => {
            let told = error.to_string();
            let what =
                format!("whether Stripe delivers cannot be checked: {}", told.split(';').next().unwrap_or_default());
            return vec![Item::warn(AREA, what, "give the restricted key the permission to read webhook endpoints")];
        }
        Err(error) => return vec![of_error(AREA, &error)],
    };
    let mut items: Vec<Item> = report
        .findings
        .iter()
        .map(|finding| match finding.severity {
            Severity::Bad => Item::bad(AREA, &finding.what, &finding.remedy),
            Severity::Warn => Item::warn(AREA, &finding.what, &finding.remedy),
        })
        .collect();
    if items.is_empty() {
        let known = if report.by_address { "" } else { ", recognised by its path only (TRUEUP_PUBLIC_URL is not set)" };
        items.push(Item::ok(AREA, format!("Stripe delivers everything to {}{known}", report.ours.join(", "))));
    }
    for (endpoint, version) in report.ours.iter().zip(&report.api_versions) {
        items.push(match version {
            Some(version) => Item::ok(AREA, format!("{endpoint} sends payloads of the API version {version}")),
            None => Item::warn(
                AREA,
                format!("{endpoint} names no API version, so that its payloads change when the account is upgraded"),
                format!(
                    "make a new endpoint with an explicit version, {API_VERSION} for example (an endpoint's version cannot be changed), and \
                     delete this one"
                ),
            ),
        });
    }
    items
}
