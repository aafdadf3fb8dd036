//! How many users and subscriptions there are, for gauges. Counting reads whole tables: once a minute is often enough.

use entity::{
    enums::SubscriptionStatus,
    subscriptions::{self, Column, Entity},
    users,
};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    catalog::Catalog,
    db::Db,
    facts::{Item, Rank, Subscription},
    processor::load::subscription,
    projection::Standing,
    store,
};

/// Prices that are looked at, those with the most subscriptions first.
const PRICES: u64 = 500;

/// Users of one tier and status.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct UserGroup {
    /// Their tier, as it is stored.
    pub tier: String,
    /// Their status, as it is stored.
    pub status: String,
    /// How many.
    pub users: i64,
}

/// Subscriptions of one status.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct SubscriptionGroup {
    /// The status that Stripe last told.
    pub status: SubscriptionStatus,
    /// How many.
    pub subscriptions: i64,
}

/// A price that leads to no plan, so that whoever pays it has nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmapped {
    /// The price; none where a subscription names none.
    pub price: Option<String>,
    /// Living subscriptions at that price.
    pub subscriptions: i64,
}

/// Everybody, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// By tier and status; those without anybody are not among them.
    pub users: Vec<UserGroup>,
    /// By status; those without any are not among them.
    pub subscriptions: Vec<SubscriptionGroup>,
    /// See [`Unmapped`].
    pub unmapped: Vec<Unmapped>,
    /// Subscriptions of which two snapshots of one second disagree.
    pub uncertain: i64,
}

/// Counts everybody.
pub async fn take(db: &Db, catalog: &Catalog) -> Result<Census, DbErr> {
    let users = users::Entity::find()
        .select_only()
        .column_as(users::Column::SubscriptionTier, "tier")
        .column_as(users::Column::SubscriptionStatus, "status")
        .column_as(users::Column::Id.count(), "users")
        .group_by(users::Column::SubscriptionTier)
        .group_by(users::Column::SubscriptionStatus)
        .into_model()
        .all(db.reader())
        .await?;
    let subscriptions = Entity::find()
        .select_only()
        .column(Column::Status)
        .column_as(Column::Id.count(), "subscriptions")
        .group_by(Column::Status)
        .into_model()
        .all(db.reader())
        .await?;
    let (unmapped, uncertain) = (unmapped(db, catalog).await?, uncertain(db).await?);
    Ok(Census { users, subscriptions, unmapped, uncertain })
}

/// Subscriptions of which two snapshots of one second disagree.
pub async fn uncertain(db: &Db) -> Result<i64, DbErr> {
    store::refresh::count_uncertain(db.reader()).await
}

#[derive(Debug, FromQueryResult)]
struct Priced {
    price_id: Option<String>,
    product_id: Option<String>,
    lookup_key: Option<String>,
    subscriptions: i64,
}

/// Prices of living subscriptions that lead to no plan, those with the most subscriptions first. One subscription of each price tells for all.
pub async fn unmapped(db: &Db, catalog: &Catalog) -> Result<Vec<Unmapped>, DbErr> {
    let entitling = || {
        let statuses = [SubscriptionStatus::Active, SubscriptionStatus::Trialing, SubscriptionStatus::PastDue];
        Entity::find().filter(Column::Rank.eq(Rank::Living.number())).filter(Column::Status.is_in(statuses))
    };
    let priced: Vec<Priced> = entitling()
        .select_only()
        .columns([Column::PriceId, Column::ProductId, Column::LookupKey])
        .column_as(Column::Id.count(), "subscriptions")
        .group_by(Column::PriceId)
        .group_by(Column::ProductId)
        .group_by(Column::LookupKey)
        .order_by_desc(Column::Id.count())
        .limit(PRICES)
        .into_model()
        .all(db.reader())
        .await?;
    let mut unmapped = Vec::new();
    for Priced { price_id, product_id, lookup_key, subscriptions } in priced {
        let item = Item { price_id: price_id.clone(), product_id, lookup_key, ..Item::default() };
        if catalog.of_item(&item, None).is_some() {
            continue;
        }
        // Another item, or metadata, may lead to a plan: one of them tells.
        let one = match &price_id {
            Some(price) => entitling().filter(Column::PriceId.eq(price)),
            None => entitling().filter(Column::PriceId.is_null()),
        };
        let one: Option<subscriptions::Model> = one.order_by_asc(Column::Id).limit(1).one(db.reader()).await?;
        if let Some(row) = one
            && leads_nowhere(&subscription(row)?, catalog)
        {
            unmapped.push(Unmapped { price: price_id, subscriptions });
        }
    }
    Ok(unmapped)
}

fn leads_nowhere(subscription: &Subscription, catalog: &Catalog) -> bool {
    let standing = Standing { subscription, invoice: None, customer_deleted: false };
    standing.deciding_item(catalog).1.is_none()
}
