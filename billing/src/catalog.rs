//! Plans: which price means which tier, and how much a tier may use a month.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::facts::Item;

/// The tier of a user whom no subscription entitles.
pub const FREE: &str = "free";

/// One tier and what leads to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Name of the tier.
    pub tier: String,
    /// Uses in a window; absent is unlimited.
    #[serde(default)]
    pub monthly_limit: Option<u32>,
    /// Ids of Stripe prices (`price_…`; legacy plans likewise).
    #[serde(default)]
    pub prices: Vec<String>,
    /// Lookup keys of Stripe prices.
    #[serde(default)]
    pub lookup_keys: Vec<String>,
    /// Ids of Stripe products.
    #[serde(default)]
    pub products: Vec<String>,
}

/// What is wrong with a list of plans.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// The list is empty.
    #[error(
        "plans: the list is empty; name at least the tier `free`, or leave `[[plans]]` out for the default catalogue"
    )]
    Empty,
    /// A plan without a name.
    #[error("plans[{index}].tier: a tier needs a name of 1 to 50 characters without white space")]
    BadTier {
        /// Position in the list, from 0.
        index: usize,
    },
    /// Two plans for one tier.
    #[error("plans[{index}].tier: `{tier}` is there already; one plan per tier")]
    DuplicateTier {
        /// Position in the list, from 0.
        index: usize,
        /// The tier.
        tier: String,
    },
    /// Two plans for one price, lookup key or product.
    #[error("plans[{index}].{key}: `{value}` belongs to the tier `{other}` already; name it in one plan only")]
    Claimed {
        /// Position in the list, from 0.
        index: usize,
        /// `prices`, `lookup_keys` or `products`.
        key: &'static str,
        /// What two plans name.
        value: String,
        /// The plan that named it first.
        other: String,
    },
    /// A plan names a price, lookup key or product twice.
    #[error("plans[{index}].{key}: `{value}` is listed twice; once is enough")]
    Twice {
        /// Position in the list, from 0.
        index: usize,
        /// `prices`, `lookup_keys` or `products`.
        key: &'static str,
        /// What is listed twice.
        value: String,
    },
    /// No plan for users who pay nothing.
    #[error(
        "plans: the tier `free` is missing; add [[plans]] tier = \"free\" as the first, with the limit of users who pay nothing"
    )]
    NoFree,
    /// `free` does not come first.
    #[error("plans: the tier `free` must come first, since plans are listed lowest first")]
    FreeNotFirst,
}

/// Position of a plan in the catalogue; a higher one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlanRank(usize);

/// Plans in rank order, lowest first, with the ways to find them.
#[derive(Clone)]
pub struct Catalog {
    plans: Vec<Plan>,
    prices: BTreeMap<String, PlanRank>,
    lookup_keys: BTreeMap<String, PlanRank>,
    products: BTreeMap<String, PlanRank>,
    tiers: BTreeMap<String, PlanRank>,
}

impl Catalog {
    /// Takes plans, lowest first; all that is wrong with them is told at once.
    pub fn new(plans: Vec<Plan>) -> Result<Self, Vec<CatalogError>> {
        let mut errors = Vec::new();
        let mut catalog = Self {
            plans: Vec::new(),
            prices: BTreeMap::new(),
            lookup_keys: BTreeMap::new(),
            products: BTreeMap::new(),
            tiers: BTreeMap::new(),
        };
        if plans.is_empty() {
            return Err(vec![CatalogError::Empty]);
        }
        for (index, plan) in plans.iter().enumerate() {
            let rank = PlanRank(index);
            let name = &plan.tier;
            if name.is_empty() || name.chars().count() > 50 || name.chars().any(|c| c.is_whitespace() || c.is_control())
            {
                errors.push(CatalogError::BadTier { index });
            } else if catalog.tiers.insert(name.clone(), rank).is_some() {
                errors.push(CatalogError::DuplicateTier { index, tier: name.clone() });
            }
            for (key, values, map) in [
                ("prices", &plan.prices, &mut catalog.prices),
                ("lookup_keys", &plan.lookup_keys, &mut catalog.lookup_keys),
                ("products", &plan.products, &mut catalog.products),
            ] {
                for value in values {
                    if let Some(other) = map.insert(value.clone(), rank) {
                        if other == rank {
                            errors.push(CatalogError::Twice { index, key, value: value.clone() });
                            continue;
                        }
                        let other = plans[other.0].tier.clone();
                        errors.push(CatalogError::Claimed { index, key, value: value.clone(), other });
                    }
                }
            }
        }
        match catalog.tiers.get(FREE) {
            None => errors.push(CatalogError::NoFree),
            Some(rank) if rank.0 != 0 => errors.push(CatalogError::FreeNotFirst),
            Some(_) => {}
        }
        catalog.plans = plans;
        if errors.is_empty() { Ok(catalog) } else { Err(errors) }
    }

    /// The plans, lowest first.
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// The plan of a rank.
    pub fn plan(&self, rank: PlanRank) -> &Plan {
        &self.plans[rank.0]
    }

    /// The plan of a tier by name.
    pub fn by_tier(&self, tier: &str) -> Option<PlanRank> {
        self.tiers.get(tier).copied()
    }

    /// The limit of users who pay nothing.
    pub fn free(&self) -> &Plan {
        &self.plans[0]
    }

    /// The plan an item leads to: by price, else lookup key, else product, else the tier its price or product names in
    /// metadata, else the one its subscription names.
    pub fn of_item(&self, item: &Item, subscription_tier: Option<&str>) -> Option<PlanRank> {
        let by =
            |map: &BTreeMap<String, PlanRank>, key: &Option<String>| key.as_ref().and_then(|k| map.get(k)).copied();
        by(&self.prices, &item.price_id)
            .or_else(|| by(&self.lookup_keys, &item.lookup_key))
            .or_else(|| by(&self.products, &item.product_id))
            .or_else(|| by(&self.tiers, &item.tier))
            .or_else(|| subscription_tier.and_then(|tier| self.by_tier(tier)))
    }
}

impl Default for Catalog {
    /// free 5, starter 25, pro 100, elite unlimited; found by lookup key or by `metadata.tier`.
    fn default() -> Self {
        let plan = |tier: &str, monthly_limit| Plan {
            tier: tier.to_owned(),
            monthly_limit,
            lookup_keys: vec![tier.to_owned()],
            ..Plan::default()
        };
        let plans = vec![plan(FREE, Some(5)), plan("starter", Some(25)), plan("pro", Some(100)), plan("elite", None)];
        Self::new(plans).expect("the default catalogue has one plan per tier and begins with `free`")
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Catalog").field(&self.plans).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(tier: &str, prices: &[&str]) -> Plan {
        Plan { tier: tier.into(), prices: prices.iter().map(ToString::to_string).collect(), ..Plan::default() }
    }

    #[test]
    fn every_mistake_in_a_list_of_plans_is_told_at_once() {
        let errors = Catalog::new(vec![plan("pro", &["price_1"]), plan("pro", &["price_1"]), plan("", &[])])
            .expect_err("four mistakes");
        assert_eq!(
            errors,
            [
                CatalogError::DuplicateTier { index: 1, tier: "pro".into() },
                CatalogError::Claimed { index: 1, key: "prices", value: "price_1".into(), other: "pro".into() },
                CatalogError::BadTier { index: 2 },
                CatalogError::NoFree,
            ]
        );
    }

    #[test]
    fn an_item_finds_its_plan_by_price_then_lookup_key_then_product_then_metadata() {
        let catalog = Catalog::new(vec![
            plan(FREE, &[]),
            Plan { lookup_keys: vec!["key".into()], ..plan("low", &[]) },
            Plan { products: vec!["prod".into()], ..plan("middle", &[]) },
            plan("high", &["price"]),
        ])
        .expect("a right catalogue");
        let mut item = Item {
            price_id: Some("price".into()),
            lookup_key: Some("key".into()),
            product_id: Some("prod".into()),
            tier: Some("low".into()),
            ..Item::default()
        };
        let tier = |item: &Item, own| catalog.of_item(item, own).map(|rank| catalog.plan(rank).tier.as_str());
        assert_eq!(tier(&item, Some("high")), Some("high"));
        item.price_id = Some("other".into());
        assert_eq!(tier(&item, Some("high")), Some("low"));
        item.lookup_key = None;
        assert_eq!(tier(&item, Some("high")), Some("middle"));
        item.product_id = None;
        assert_eq!(tier(&item, Some("high")), Some("low"));
        item.tier = Some("unheard of".into());
        assert_eq!(tier(&item, Some("high")), Some("high"));
        assert_eq!(tier(&item, None), None);
    }
}
