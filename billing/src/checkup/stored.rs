//! What the database tells.

use chrono::TimeDelta;
use entity::Time;
use sea_orm::DbErr;

use super::{Item, listed, spell};
use crate::{
    catalog::Catalog,
    census::{self, Unmapped},
    db::Db,
    inbox::records,
    reconcile, recovery,
    store::inbox::clock,
};

/// An event that waits longer than this for its turn waits for something that does not come.
const STUCK: TimeDelta = TimeDelta::minutes(10);
/// A reconciliation is due every six hours.
const RECONCILED: TimeDelta = TimeDelta::hours(24);
/// Events are recovered every fifteen minutes.
const RECOVERED: TimeDelta = TimeDelta::hours(1);

/// What the database tells. `with_stripe` is true where there is an API key: without one nothing is ever compared with Stripe.
pub async fn stored(db: &Db, catalog: &Catalog, with_stripe: bool) -> Result<Vec<Item>, DbErr> {
    let now = clock(db.reader()).await?;
    let mut items = events(db).await?;
    items.push(uncertain(db, with_stripe).await?);
    items.push(unmapped(db, catalog).await?);
    if with_stripe {
        items.push(reconciled(db, now).await?);
        items.push(recovered(db, now).await?);
    }
    Ok(items)
}

/// The account against which everything was reconciled last.
pub async fn remembered_account(db: &Db) -> Result<Option<String>, DbErr> {
    reconcile::remembered_account(db).await
}

async fn events(db: &Db) -> Result<Vec<Item>, DbErr> {
    const AREA: &str = "events";
    let depth = records::depth(db).await?;
    let mut items = Vec::new();
    if depth.failed > 0 {
        let remedy = "`trueup webhooks failures` groups them by cause; mend it, then `trueup webhooks retry`";
        items.push(Item::warn(AREA, format!("{} failed for good", depth.failed), remedy));
    }
    if depth.parked > 0 {
        let what = format!("{} wait for a user of theirs", depth.parked);
        let remedy = "make the users (PUT /api/v1/users/{id}) with the addresses or ids that Stripe knows; `trueup webhooks list --status pending` \
                      shows which wait";
        items.push(Item::warn(AREA, what, remedy));
    }
    if depth.oldest_pending_seconds > STUCK.as_seconds_f64() {
        let what = format!(
            "{} wait to be applied, the oldest for {} minutes",
            depth.pending,
            TimeDelta::seconds(whole(depth.oldest_pending_seconds)).num_minutes()
        );
        items.push(Item::bad(
            AREA,
            what,
            "start a server with its processor (`trueup serve`); its log tells what holds it up",
        ));
    }
    if items.is_empty() {
        items.push(Item::ok(AREA, format!("{} wait to be applied, none failed", depth.pending)));
    }
    Ok(items)
}

fn whole(seconds: f64) -> i64 {
    // Within a year; and what is not is a long time anyway.
    #[expect(clippy::cast_possible_truncation, reason = "clamped")]
    let whole = seconds.clamp(0.0, 31_536_000.0) as i64;
    whole
}

async fn uncertain(db: &Db, with_stripe: bool) -> Result<Item, DbErr> {
    const AREA: &str = "subscriptions";
    let uncertain = census::uncertain(db).await?;
    Ok(match (uncertain, with_stripe) {
        (0, _) => Item::ok(AREA, "none is uncertain"),
        (n, true) => {
            Item::warn(AREA, format!("{n} are uncertain: two events of one second disagree"), "run `trueup reconcile`")
        }
        (n, false) => Item::warn(
            AREA,
            format!("{n} are uncertain: two events of one second disagree, and only Stripe can tell"),
            "set STRIPE_SECRET_KEY",
        ),
    })
}

/// Prices of living subscriptions that lead to no plan.
async fn unmapped(db: &Db, catalog: &Catalog) -> Result<Item, DbErr> {
    const AREA: &str = "plans";
    let unmapped: Vec<String> = census::unmapped(db, catalog)
        .await?
        .into_iter()
        .map(|Unmapped { price, subscriptions }| format!("{} ({subscriptions})", price.as_deref().unwrap_or("none")))
        .collect();
    Ok(if unmapped.is_empty() {
        Item::ok(AREA, "every price of a living subscription leads to a tier")
    } else {
        Item::bad(
            AREA,
            format!(
                "prices of living subscriptions lead to no tier, so that whoever pays them has nothing: {}",
                listed(&unmapped)
            ),
            "name each in `prices` of the [[plans]] it belongs to",
        )
    })
}

async fn reconciled(db: &Db, now: Time) -> Result<Item, DbErr> {
    const AREA: &str = "reconcile";
    const REMEDY: &str = "run `trueup reconcile`; `trueup serve` does so every six hours";
    Ok(match reconcile::records::last_complete(db).await? {
        Some(at) if now - at <= RECONCILED => Item::ok(AREA, format!("last to its end {} ago", spell(now - at))),
        Some(at) => Item::warn(AREA, format!("last to its end {} ago", spell(now - at)), REMEDY),
        None => Item::warn(AREA, "never to its end yet", REMEDY),
    })
}

async fn recovered(db: &Db, now: Time) -> Result<Item, DbErr> {
    const AREA: &str = "recovery";
    const REMEDY: &str = "run `trueup recover`; `trueup serve` does so every fifteen minutes";
    Ok(match recovery::stored_until(db).await? {
        Some(at) if now - at <= RECOVERED => {
            Item::ok(AREA, format!("every event is stored up to {} ago", spell(now - at)))
        }
        Some(at) => {
            Item::warn(AREA, format!("events are known to be stored only up to {} ago", spell(now - at)), REMEDY)
        }
        None => Item::warn(AREA, "missed events were never asked for", REMEDY),
    })
}
