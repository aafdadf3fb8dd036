//! What a person should look at where a host was before us.

use entity::enums::SubscriptionStatus;
use sea_orm::DbErr;

use super::state;
use crate::{
    catalog::Catalog,
    checkup::Item,
    db::Db,
    store::adoption::{Check, hosts_resets, refused_by, unknown_tiers},
};

const AREA: &str = "adoption";

/// Every status that a user's row may get.
const STATUSES: [SubscriptionStatus; 7] = [
    SubscriptionStatus::Active,
    SubscriptionStatus::Trialing,
    SubscriptionStatus::PastDue,
    SubscriptionStatus::Unpaid,
    SubscriptionStatus::Paused,
    SubscriptionStatus::Incomplete,
    SubscriptionStatus::Canceled,
];

/// Looks; nothing is told of a database that was never a host's and refuses none of our values.
pub async fn look(db: &Db, catalog: &Catalog) -> Result<Vec<Item>, DbErr> {
    let mut items = Vec::new();
    let tiers: Vec<String> = catalog.plans().iter().map(|plan| plan.tier.clone()).collect();
    let statuses: Vec<String> = STATUSES.iter().map(|status| status.as_str().to_owned()).collect();
    for (column, values) in [("subscription_tier", &tiers), ("subscription_status", &statuses)] {
        for Check { name, refused } in refused_by(db, column, values).await? {
            let all: Vec<String> = values.iter().map(|value| format!("'{}'", value.replace('\'', "''"))).collect();
            items.push(Item::bad(
                "database",
                format!("the constraint {name} of users does not let {column} be {}: nobody can be put there", refused.join(", ")),
                format!(
                    "ALTER TABLE users DROP CONSTRAINT \"{name}\", ADD CONSTRAINT \"{name}\" CHECK ({column} IN ({})) NOT VALID; then ALTER TABLE \
                     users VALIDATE CONSTRAINT \"{name}\"",
                    all.join(", ")
                ),
            ));
        }
    }
    let Some(adoption) = state(db.reader()).await? else { return Ok(items) };
    items.push(match &adoption.released {
        Some(released) => Item::ok(
            AREA,
            format!("adopted; the first reconciliation was given the go-ahead by {} at {}", released.by, released.at.to_rfc3339()),
        ),
        None => Item::warn(
            AREA,
            "this database was adopted, and no dry run was given the go-ahead yet: reconciliations repair nothing, so that nobody loses anything unseen",
            "run `trueup reconcile --dry-run`, look at what it would do, then `trueup reconcile release`",
        ),
    });
    for (tier, users) in unknown_tiers(db, &tiers).await? {
        items.push(Item::bad(
            AREA,
            format!("{users} users had the tier {tier}, which no plan has; they keep it until Stripe's word replaces it, and then it is lost"),
            "add it to [[plans]], with the prices that lead to it",
        ));
    }
    for what in hosts_resets(db, adoption.adopted_at).await? {
        items.push(Item::warn(
            AREA,
            format!("the host still resets usage itself: {what}"),
            "switch that off: Trueup resets by itself, and each of the host's resets gives an allowance anew in the middle of a window",
        ));
    }
    Ok(items)
}
