//! What is wrong with what is stored and with what Stripe lets us do, for a person: each with what would mend it.

use chrono::TimeDelta;
use entity::{Time, ids::CustomerId};
use sea_orm::DbErr;
use serde::Serialize;

use crate::{
    catalog::Catalog,
    census::{self, Unmapped},
    db::Db,
    endpoint::{self, Expected, Severity},
    events::event_types,
    inbox::records,
    reconcile, recovery,
    store::inbox::clock,
    stripe::{Collection, Lane, Resource, Stripe, StripeError},
};

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, and should be looked at.
    Warn,
    /// It does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What was looked at, for example `events`.
    pub area: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub what: String,
    /// What would mend it; none where all is well.
    pub remedy: Option<String>,
}

impl Item {
    /// Something that is as it should be.
    pub fn ok(area: &'static str, what: impl Into<String>) -> Self {
        Self { area, state: State::Ok, what: what.into(), remedy: None }
    }

    /// Something that should be looked at.
    pub fn warn(area: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { area, state: State::Warn, what: what.into(), remedy: Some(remedy.into()) }
    }

    /// Something that does not work.
    pub fn bad(area: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { area, state: State::Bad, what: what.into(), remedy: Some(remedy.into()) }
    }
}

/// An event that waits longer than this for its turn waits for something that does not come.
const STUCK: TimeDelta = TimeDelta::minutes(10);
/// A reconciliation is due every six hours.
const RECONCILED: TimeDelta = TimeDelta::hours(24);
/// Events are recovered every fifteen minutes.
const RECOVERED: TimeDelta = TimeDelta::hours(1);
/// Prices and products that are looked at, of those that plans name.
const PRICES: usize = 500;
/// Things that are named in one line.
const NAMED: usize = 5;

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

fn listed(all: &[String]) -> String {
    let more = all.len().saturating_sub(NAMED);
    let named = all[..all.len().min(NAMED)].join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
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

fn spell(span: TimeDelta) -> String {
    match (span.num_days(), span.num_hours(), span.num_minutes()) {
        (days, ..) if days >= 2 => format!("{days} days"),
        (_, hours, _) if hours >= 2 => format!("{hours} hours"),
        (.., minutes) => format!("{} minutes", minutes.max(0)),
    }
}

/// Asks Stripe for a little of everything that is needed.
pub async fn stripe(db: &Db, stripe: &dyn Stripe, catalog: &Catalog, expected: &Expected) -> Result<Vec<Item>, DbErr> {
    let mut items = Vec::new();
    match reconcile::account_of_key(stripe).await {
        Ok(account) => items.push(whose(account, reconcile::remembered_account(db).await?, expected.livemode)),
        Err(error) => {
            // Without Stripe, or with a wrong key, everything else would say the same.
            items.push(of_error("stripe", &error));
            return Ok(items);
        }
    }
    let now = clock(db.reader()).await?;
    let nobody = |id: &str| CustomerId::parse(id).map(Resource::Customer);
    let checks: [(&str, Option<Question>); 4] = [
        ("subscriptions", Some(Question::List(Collection::Subscriptions { customer: None }))),
        // There is no such customer; whoever may not read customers is told that instead.
        ("customers", nobody("cus_trueup_check").ok().map(Question::Get)),
        (
            "events",
            Some(Question::List(Collection::Events {
                types: event_types().take(1).collect(),
                created_gte: now - TimeDelta::minutes(1),
                created_lte: now,
            })),
        ),
        ("checkout sessions", Some(Question::Get(Resource::CheckoutSession("cs_trueup_check".to_owned())))),
    ];
    let mut readable = Vec::new();
    for (what, question) in checks {
        let Some(question) = question else { continue };
        let answer = match question {
            Question::List(collection) => stripe.list(&collection, None, Lane::Live).await.map(|_| ()),
            Question::Get(resource) => stripe.get(&resource, Lane::Live).await.map(|_| ()),
        };
        match answer {
            Ok(()) | Err(StripeError::Missing { .. }) => readable.push(what),
            Err(error) => items.push(of_error("stripe", &error)),
        }
    }
    if !readable.is_empty() {
        items.push(Item::ok("stripe", format!("the key may read {}", readable.join(", "))));
    }
    items.extend(delivery(stripe, expected).await);
    items.push(prices(stripe, catalog).await);
    Ok(items)
}

enum Question {
    List(Collection),
    Get(Resource),
}

fn of_error(area: &'static str, error: &StripeError) -> Item {
    let told = error.to_string();
    // Its texts say first what is wrong, and last what to do.
    let (what, remedy) = told.rsplit_once("; ").unwrap_or((&told, "look at what Stripe says"));
    match error {
        StripeError::Unavailable { .. } => Item::warn(area, what, remedy),
        _ => Item::bad(area, what, remedy),
    }
}

fn whose(account: Option<String>, remembered: Option<String>, livemode: Option<bool>) -> Item {
    const AREA: &str = "stripe";
    let mode = match livemode {
        Some(true) => "live mode",
        Some(false) => "test mode",
        None => "whatever mode it shows",
    };
    match (account, remembered) {
        (Some(account), Some(last)) if account != last => Item::bad(
            AREA,
            format!("the key is of the account {account}; what is stored was reconciled with {last}"),
            format!(
                "set STRIPE_SECRET_KEY to a key of {last}, or, if the account is new, run `trueup reconcile --accept-account`"
            ),
        ),
        (Some(account), _) => Item::ok(AREA, format!("the key works: account {account}, {mode}")),
        (None, _) => Item::ok(AREA, format!("the key works, {mode}; it may not tell its account")),
    }
}

async fn delivery(stripe: &dyn Stripe, expected: &Expected) -> Vec<Item> {
    const AREA: &str = "endpoint";
    let report = match endpoint::check(stripe, expected).await {
        Ok(report) => report,
        Err(error @ (StripeError::Permission { .. } | StripeError::Missing { .. })) => {
            let remedy = "give the restricted key the permission to read webhook endpoints";
            let what = format!(
                "whether Stripe delivers cannot be checked: {}",
                error.to_string().split(';').next().unwrap_or_default()
            );
            return vec![Item::warn(AREA, what, remedy)];
        }
        Err(error) => return vec![of_error(AREA, &error)],
    };
    if report.findings.is_empty() {
        let known = if report.by_address { "" } else { ", recognised by its path only (TRUEUP_PUBLIC_URL is not set)" };
        return vec![Item::ok(AREA, format!("Stripe delivers everything to {}{known}", report.ours.join(", ")))];
    }
    let item = |finding: endpoint::Finding| match finding.severity {
        Severity::Bad => Item::bad(AREA, finding.what, finding.remedy),
        Severity::Warn => Item::warn(AREA, finding.what, finding.remedy),
    };
    report.findings.into_iter().map(item).collect()
}

/// Prices and products that plans name and Stripe does not know.
async fn prices(stripe: &dyn Stripe, catalog: &Catalog) -> Item {
    const AREA: &str = "plans";
    let prices = catalog.plans().iter().flat_map(|plan| plan.prices.iter().cloned().map(Resource::Price));
    let products = catalog.plans().iter().flat_map(|plan| plan.products.iter().cloned().map(Resource::Product));
    let (mut known, mut unknown) = (0, Vec::new());
    for resource in prices.chain(products).take(PRICES) {
        match stripe.get(&resource, Lane::Live).await {
            Ok(_) => known += 1,
            Err(StripeError::Missing { .. }) => unknown.push(resource.id().to_owned()),
            Err(error) => {
                let what = format!("whether Stripe knows the prices of the plans cannot be told: {error}");
                return Item::warn(
                    AREA,
                    what,
                    "give the restricted key the permission to read prices and products, or try again",
                );
            }
        }
    }
    if unknown.is_empty() {
        Item::ok(AREA, format!("Stripe knows all {known} prices and products that plans name"))
    } else {
        let what = format!("plans name prices or products that Stripe does not know: {}", listed(&unknown));
        Item::warn(AREA, what, "correct them in [[plans]]: they are misspelled, or of another account or mode")
    }
}
