//! What operators ask of subscriptions.

use billing::{
    facts::Item,
    subscriptions::{self, Filter},
};
use chrono::{DateTime, Utc};
use entity::{
    ids::{SubscriptionId, UserId},
    subscriptions::Model,
};
use poem_openapi::{Object, OpenApi, param::Query};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Tag,
    auth::AdminToken,
    body::Answer,
    problem::{BAD_REQUEST, Problem},
    within,
};
use crate::app::App;

#[derive(Debug, Clone)]
pub(super) struct SubscriptionsApi(pub(super) App);

/// One item of a subscription.
#[derive(Debug, Serialize, Object)]
struct SubscriptionItem {
    /// `si_…`
    #[oai(nullable)]
    id: Option<String>,
    /// `price_…`
    #[oai(nullable)]
    price_id: Option<String>,
    /// How many.
    #[oai(nullable)]
    quantity: Option<i64>,
    /// End of its period.
    #[oai(nullable)]
    current_period_end: Option<DateTime<Utc>>,
}

/// A subscription as its newest snapshot shows it.
#[derive(Debug, Serialize, Object)]
struct KnownSubscription {
    /// `sub_…`
    id: String,
    /// Whose it is.
    #[oai(nullable)]
    user_id: Option<Uuid>,
    /// Who pays.
    #[oai(nullable)]
    stripe_customer_id: Option<String>,
    /// The status of the snapshot; what it means for access is derived.
    status: String,
    /// Every item.
    items: Vec<SubscriptionItem>,
    /// Earliest start among the items.
    #[oai(nullable)]
    current_period_start: Option<DateTime<Utc>>,
    /// Latest end among the items.
    #[oai(nullable)]
    current_period_end: Option<DateTime<Utc>>,
    /// The moment billing periods are counted from.
    #[oai(nullable)]
    billing_cycle_anchor: Option<DateTime<Utc>>,
    /// Start of the trial.
    #[oai(nullable)]
    trial_start: Option<DateTime<Utc>>,
    /// End of the trial.
    #[oai(nullable)]
    trial_end: Option<DateTime<Utc>>,
    /// A date on which it is scheduled to end.
    #[oai(nullable)]
    cancel_at: Option<DateTime<Utc>>,
    /// Whether it ends with its period.
    cancel_at_period_end: bool,
    /// When its end was asked for.
    #[oai(nullable)]
    canceled_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[oai(nullable)]
    ended_at: Option<DateTime<Utc>>,
    /// What becomes of its invoices while their collection is paused: `keep_as_draft`, `mark_uncollectible` or `void`.
    #[oai(nullable)]
    pause_collection: Option<String>,
    /// True while two snapshots of one second disagree.
    needs_refresh: bool,
    /// The second the snapshot belongs to, on Stripe's clock.
    version_at: DateTime<Utc>,
}

impl From<Model> for KnownSubscription {
    fn from(row: Model) -> Self {
        let items: Vec<Item> = serde_json::from_value(row.items).unwrap_or_default();
        let item = |item: Item| SubscriptionItem {
            id: item.id,
            price_id: item.price_id,
            quantity: item.quantity,
            current_period_end: item.period_end,
        };
        Self {
            id: row.id.to_string(),
            user_id: row.user_id.map(|id| id.0),
            stripe_customer_id: row.stripe_customer_id,
            status: row.status.as_str().to_owned(),
            items: items.into_iter().map(item).collect(),
            current_period_start: row.current_period_start,
            current_period_end: row.current_period_end,
            billing_cycle_anchor: row.billing_cycle_anchor,
            trial_start: row.trial_start,
            trial_end: row.trial_end,
            cancel_at: row.cancel_at,
            cancel_at_period_end: row.cancel_at_period_end,
            canceled_at: row.canceled_at,
            ended_at: row.ended_at,
            pause_collection: row.pause_collection,
            needs_refresh: row.needs_refresh,
            version_at: row.version_at,
        }
    }
}

/// A page of subscriptions.
#[derive(Debug, Serialize, Object)]
struct KnownSubscriptions {
    /// In the order of their ids.
    items: Vec<KnownSubscription>,
    /// Where the next page begins; null on the last.
    #[oai(nullable)]
    next_cursor: Option<String>,
}

#[OpenApi]
impl SubscriptionsApi {
    /// The subscriptions that are known here, in the order of their ids
    #[oai(path = "/api/v1/admin/subscriptions", method = "get", operation_id = "listSubscriptions", tag = "Tag::Admin")]
    async fn list(
        &self,
        _token: AdminToken,
        /// Whose.
        user_id: Query<Option<Uuid>>,
        /// Only those of which two snapshots of one second disagree, or only the others.
        needs_refresh: Query<Option<bool>>,
        /// Subscriptions on a page.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "100")))]
        limit: Query<u32>,
        /// Where the page begins: `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Answer<KnownSubscriptions>, Problem> {
        let after = match cursor.0 {
            Some(text) => Some(
                SubscriptionId::parse(text)
                    .map_err(|error| Problem::new(BAD_REQUEST, format!("`cursor` is no cursor ({error})")))?,
            ),
            None => None,
        };
        let filter = Filter { user_id: user_id.0.map(UserId), needs_refresh: needs_refresh.0 };
        let page = subscriptions::list(&self.0.db, &filter, u64::from(limit.0), after);
        let (items, next) = within(page).await??;
        let items = items.into_iter().map(Into::into).collect();
        Ok(Answer(KnownSubscriptions { items, next_cursor: next.map(|id| id.to_string()) }))
    }
}

fn default_limit() -> u32 {
    50
}
