//! Users and subscriptions are counted in the background: that reads whole tables, and no scrape should wait for it.

use std::{sync::Arc, time::Duration};

use billing::{
    catalog::Catalog,
    census::{self, Census},
    db::Db,
};
use metrics::{
    Counted, Metrics,
    labels::{ScrapePart, SubscriptionStatus, UserStatus},
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Between two counts.
const EVERY: Duration = Duration::from_mins(1);
/// Until the next try where one failed.
const AGAIN: Duration = Duration::from_secs(5);
/// For one count; what it takes longer for is not known.
const PATIENCE: Duration = Duration::from_secs(45);

/// Counts until told to end. What cannot be counted is left out of the metrics until it can.
pub(crate) async fn run(db: Db, catalog: Arc<Catalog>, metrics: Arc<Metrics>, end: CancellationToken) {
    metrics.tiers(catalog.plans().iter().map(|plan| plan.tier.as_str()));
    loop {
        let counted = tokio::select! {
            counted = timeout(PATIENCE, census::take(&db, &catalog)) => counted,
            () = end.cancelled() => return,
        };
        let pause = match counted {
            Ok(Ok(census)) => {
                metrics.users_counted(&told(census));
                EVERY
            }
            Ok(Err(error)) => {
                metrics.part_unknown(ScrapePart::Users);
                tracing::warn!(%error, "users and subscriptions could not be counted; trying again");
                AGAIN
            }
            Err(_) => {
                metrics.part_unknown(ScrapePart::Users);
                tracing::warn!("users and subscriptions could not be counted in time; trying again");
                EVERY
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = end.cancelled() => return,
        }
    }
}

fn told(census: Census) -> Counted {
    Counted {
        users: census
            .users
            .into_iter()
            .map(|group| (group.tier, UserStatus::named(&group.status), group.users))
            .collect(),
        subscriptions: census
            .subscriptions
            .into_iter()
            .map(|group| (SubscriptionStatus::named(group.status.as_str()), group.subscriptions))
            .collect(),
        unmapped_price: census.unmapped.iter().map(|price| price.subscriptions).sum(),
        needs_refresh: census.uncertain,
    }
}
