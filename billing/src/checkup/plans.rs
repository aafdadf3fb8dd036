//! Whether plans name what Stripe has, and whether what Stripe sells leads to a plan.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, stream};
use serde_json::Value;

use super::{Item, listed};
use crate::{
    catalog::{Catalog, FREE},
    facts::Item as PricedItem,
    stripe::{Collection, Lane, Listed, Resource, Stripe, StripeError},
};

const AREA: &str = "plans";
/// Prices and products that are looked at, of those that plans name.
const NAMED: usize = 500;
/// Pages of active prices that are looked at.
const PAGES: usize = 5;
/// At most so many lookup keys go into one call (node `PriceListParams`).
const KEYS: usize = 10;
/// Calls at once; the client has its own budget besides.
const AT_ONCE: usize = 8;
const REMEDY: &str = "give the restricted key the permission to read prices and products, or try again";

/// What of the plans Stripe knows, and which active prices lead to none.
pub(super) async fn plans(stripe: &dyn Stripe, catalog: &Catalog) -> Vec<Item> {
    let (named, keys, active) =
        tokio::join!(named(stripe, catalog), lookup_keys(stripe, catalog), active_prices(stripe));
    let cannot = |error: StripeError| {
        let told = error.to_string();
        let told = told.split(';').next().unwrap_or_default();
        vec![Item::warn(AREA, format!("whether Stripe knows the prices of the plans cannot be told: {told}"), REMEDY)]
    };
    let (named, keys, active) = match (named, keys, active) {
        (Ok(named), Ok(keys), Ok(active)) => (named, keys, active),
        (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => return cannot(error),
    };
    let mut items = vec![known(&named)];
    items.extend(unreachable(catalog, &named, &keys, &active));
    items.extend(unled(catalog, &active));
    items
}

/// Ids that plans name, and whether Stripe knows each.
async fn named(stripe: &dyn Stripe, catalog: &Catalog) -> Result<BTreeMap<String, bool>, StripeError> {
    let prices = catalog.plans().iter().flat_map(|plan| plan.prices.iter().cloned().map(Resource::Price));
    let products = catalog.plans().iter().flat_map(|plan| plan.products.iter().cloned().map(Resource::Product));
    let all: Vec<Resource> = prices.chain(products).take(NAMED).collect();
    let asked = stream::iter(all)
        .map(|resource| async move {
            match stripe.get(&resource, Lane::Live).await {
                Ok(_) => Ok((resource.id().to_owned(), true)),
                Err(StripeError::Missing { .. }) => Ok((resource.id().to_owned(), false)),
                Err(error) => Err(error),
            }
        })
        .buffer_unordered(AT_ONCE);
    asked.collect::<Vec<_>>().await.into_iter().collect()
}

/// The lookup keys of plans that some price at Stripe has.
async fn lookup_keys(stripe: &dyn Stripe, catalog: &Catalog) -> Result<BTreeSet<String>, StripeError> {
    let wanted: Vec<String> = catalog.plans().iter().flat_map(|plan| plan.lookup_keys.clone()).collect();
    let mut found = BTreeSet::new();
    for keys in wanted.chunks(KEYS) {
        let page = stripe.list(&Collection::Prices { lookup_keys: keys.to_vec() }, None, Lane::Live).await?;
        found.extend(page.objects.iter().filter_map(Price::read).filter_map(|price| price.item.lookup_key));
    }
    Ok(found)
}

/// A price, as far as it is looked at.
struct Price {
    item: PricedItem,
    recurring: bool,
}

impl Price {
    fn read(listed: &Listed) -> Option<Self> {
        let object: Value = serde_json::from_str(&listed.object).ok()?;
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let product = object.get("product");
        let item = PricedItem {
            price_id: text(object.get("id")),
            product_id: text(product).or_else(|| text(product?.get("id"))),
            lookup_key: text(object.get("lookup_key")),
            tier: text(object.pointer("/metadata/tier")),
            ..PricedItem::default()
        };
        Some(Self { item, recurring: object.get("recurring").is_some_and(Value::is_object) })
    }
}

/// What can be subscribed to now.
async fn active_prices(stripe: &dyn Stripe) -> Result<Vec<Price>, StripeError> {
    let (mut prices, mut after): (Vec<Price>, Option<String>) = (Vec::new(), None);
    for _ in 0..PAGES {
        let all = Collection::Prices { lookup_keys: Vec::new() };
        let page = stripe.list(&all, after.as_deref(), Lane::Live).await?;
        prices.extend(page.objects.iter().filter_map(Price::read).filter(|price| price.recurring));
        after = page.objects.last().map(|price| price.id.clone());
        if !page.has_more || after.is_none() {
            break;
        }
    }
    Ok(prices)
}

fn known(named: &BTreeMap<String, bool>) -> Item {
    let unknown: Vec<String> = named.iter().filter(|(_, known)| !**known).map(|(id, _)| id.clone()).collect();
    if unknown.is_empty() {
        return Item::ok(AREA, format!("Stripe knows all {} prices and products that plans name", named.len()));
    }
    let what = format!("plans name prices or products that Stripe does not know: {}", listed(&unknown));
    Item::bad(AREA, what, "correct them in [[plans]]: they are misspelled, or of another account or mode")
}

/// Tiers that nobody can buy.
fn unreachable(
    catalog: &Catalog,
    named: &BTreeMap<String, bool>,
    keys: &BTreeSet<String>,
    active: &[Price],
) -> Option<Item> {
    let led: BTreeSet<&str> = active
        .iter()
        .filter_map(|price| catalog.of_item(&price.item, None))
        .map(|rank| catalog.plan(rank).tier.as_str())
        .collect();
    let nobody: Vec<String> = catalog
        .plans()
        .iter()
        .filter(|plan| plan.tier != FREE && !led.contains(plan.tier.as_str()))
        .filter(|plan| !plan.lookup_keys.iter().any(|key| keys.contains(key)))
        .filter(|plan| !plan.prices.iter().chain(&plan.products).any(|id| named.get(id) == Some(&true)))
        .map(|plan| plan.tier.clone())
        .collect();
    if nobody.is_empty() {
        return None;
    }
    let what =
        format!("no price at Stripe leads to {}; only metadata of products and subscriptions could", listed(&nobody));
    Some(Item::warn(AREA, what, "give a price its lookup key, or name prices or products in that tier's [[plans]]"))
}

/// What can be bought and gives nothing.
fn unled(catalog: &Catalog, active: &[Price]) -> Option<Item> {
    let leads_nowhere = |price: &&Price| catalog.of_item(&price.item, None).is_none();
    let unled: Vec<String> =
        active.iter().filter(leads_nowhere).filter_map(|price| price.item.price_id.clone()).collect();
    if active.is_empty() {
        return None;
    }
    Some(if unled.is_empty() {
        Item::ok(AREA, format!("all {} active recurring prices at Stripe lead to a tier", active.len()))
    } else {
        let what = format!("active recurring prices at Stripe lead to no tier by themselves: {}", listed(&unled));
        let remedy = "name each in `prices` of the [[plans]] it belongs to; leave it where it is sold for something else, or where its product or \
                      subscriptions name the tier in their metadata";
        Item::warn(AREA, what, remedy)
    })
}
