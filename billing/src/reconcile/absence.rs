//! What is not over here and did not come in the walk: each is asked for by its id before anything is concluded, and from Stripe's not knowing it
//! nothing is. Subscriptions of test clocks never come in a walk (node `SubscriptionListParams`).

use entity::{
    Time,
    enums::DriftKind,
    ids::{SubscriptionId, UserId},
    stripe_cursors,
    subscriptions::{self, Column},
};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{LOOK_UPS, Run, ledger::Found, observed::Observed};
use crate::{
    facts::{Version, is_placeholder},
    processor::load::{lock_key, subscription},
    store::{
        inbox::clock,
        rowset::{OnConflict, text_in, upsert},
    },
    stripe::{Lane, Resource, StripeError, objects::completed},
};

/// Rows of ours that are looked through at a time.
const PAGE: u64 = 1000;

/// Subscriptions that are compared at a time.
const BATCH: usize = 50;

/// Where the last run stopped asking.
const CURSOR: &str = "absent_subscriptions";

/// What came in a walk, at eight bytes each. Two ids with one number would hide that one of them is absent; of a million that happens once in
/// some ten million walks, and hurts nobody.
#[derive(Debug, Default)]
pub(super) struct Seen(Vec<i64>);

impl Seen {
    pub(super) fn add(&mut self, id: &str) {
        self.0.push(lock_key(id));
    }

    fn settle(&mut self) {
        self.0.sort_unstable();
    }

    fn contains(&self, id: &str) -> bool {
        self.0.binary_search(&lock_key(id)).is_ok()
    }
}

/// Some that did not come, and how many did not.
#[derive(Debug, Default)]
struct Candidates {
    asked: Vec<SubscriptionId>,
    all: u64,
}

impl Run<'_> {
    /// Asks for what did not come. Returns why Stripe stopped answering, if it did.
    pub(super) async fn ask_for_absent(
        &self,
        mut seen: Seen,
        first_at: Option<Time>,
    ) -> Result<Option<StripeError>, DbErr> {
        seen.settle();
        let db = &self.reconciler.db;
        let begin = stripe_cursors::Entity::find_by_id(CURSOR).one(db.reader()).await?;
        let begin = begin.and_then(|row| row.last_event_id).filter(|_| self.options.user.is_none());
        let mut candidates = Candidates::default();
        // Where there are more than one run asks about, the next run goes on where this one stopped.
        self.gather(&mut candidates, &seen, first_at, begin.clone(), None).await?;
        if begin.is_some() {
            self.gather(&mut candidates, &seen, first_at, None, begin).await?;
        }
        let Candidates { asked, all } = candidates;
        self.ledger.report(|report| {
            report.absence.candidates = all;
            report.absence.unchecked = all;
        });
        if all == 0 {
            return Ok(None);
        }
        let (mut last, mut failed) = (None, None);
        for batch in asked.chunks(BATCH) {
            let error = self.ask(batch, &mut last).await?;
            if error.is_some() {
                failed = error;
                break;
            }
        }
        if self.options.user.is_none() && !self.is_dry() {
            let unchecked = self.ledger.told().absence.unchecked;
            let tx = db.write().await?;
            let row = stripe_cursors::Model {
                name: CURSOR.to_owned(),
                last_event_id: last.filter(|_| unchecked > 0),
                last_created: None,
                updated_at: clock(&*tx).await?,
            };
            upsert::<stripe_cursors::Entity>(&*tx, &[row], OnConflict::Replace).await?;
            tx.commit().await?;
        }
        Ok(failed)
    }

    /// Looks through our rows from one id to another.
    async fn gather(
        &self,
        candidates: &mut Candidates,
        seen: &Seen,
        first_at: Option<Time>,
        mut after: Option<String>,
        until: Option<String>,
    ) -> Result<(), DbErr> {
        loop {
            let mut select = self.living_here().select_only().columns([Column::Id, Column::VersionAt]);
            if let Some(after) = &after {
                select = select.filter(Column::Id.gt(after.clone()));
            }
            if let Some(until) = &until {
                select = select.filter(Column::Id.lte(until.clone()));
            }
            let page: Vec<(SubscriptionId, Time)> =
                select.order_by_asc(Column::Id).limit(PAGE).into_tuple().all(self.reconciler.db.reader()).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.to_string());
            let mut placeholders = Vec::new();
            for (id, version_at) in page {
                // What became known after the walk had begun may have come too late for it.
                if first_at.is_some_and(|first| version_at >= first) || seen.contains(id.as_str()) {
                    continue;
                }
                // Stripe does not know it by this id; whatever its customer has has come.
                if is_placeholder(&id) {
                    placeholders.push(id);
                    continue;
                }
                candidates.all += 1;
                if candidates.asked.len() < LOOK_UPS {
                    candidates.asked.push(id);
                }
            }
            self.note_unknown(placeholders).await?;
        }
    }

    /// Asks for some by name, compares what comes, and notes what Stripe does not know.
    async fn ask(&self, ids: &[SubscriptionId], last: &mut Option<String>) -> Result<Option<StripeError>, DbErr> {
        let stripe = &*self.reconciler.stripe;
        let (mut came, mut unknown, mut failed) = (Vec::new(), Vec::new(), None);
        for id in ids {
            let fetched = stripe.get(&Resource::Subscription(id.clone()), Lane::Background).await;
            let observed = match &fetched {
                Ok(fetched) => completed(stripe, &fetched.object, Lane::Background)
                    .await
                    .map(|object| Observed::read(&object, fetched.at)),
                Err(error) => Err(error.clone()),
            };
            match observed {
                Ok(Some(theirs)) => came.push(theirs),
                Ok(None) => self.ledger.report(|report| report.unreadable += 1),
                Err(StripeError::Missing { .. }) => unknown.push(id.clone()),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            *last = Some(id.to_string());
        }
        self.ledger.report(|report| {
            let absence = &mut report.absence;
            absence.found += came.len() as u64;
            absence.unknown += unknown.len() as u64;
            absence.unchecked = absence.unchecked.saturating_sub((came.len() + unknown.len()) as u64);
        });
        self.compare(came).await?;
        self.note_unknown(unknown).await?;
        Ok(failed)
    }

    async fn note_unknown(&self, ids: Vec<SubscriptionId>) -> Result<(), DbErr> {
        if ids.is_empty() {
            return Ok(());
        }
        let db = &self.reconciler.db;
        let of = text_in(db.backend(), "id", ids.iter().map(ToString::to_string));
        let mut found = Vec::new();
        for row in subscriptions::Entity::find().filter(of).all(db.reader()).await? {
            let local = subscription(row)?;
            let Version { at, .. } = local.version;
            let user: Option<UserId> = local.owner;
            let kind = if local.is_held() { DriftKind::Unconfirmed } else { DriftKind::Absent };
            let ours = Observed { id: local.id.clone(), customer: local.customer, at, snapshot: local.snapshot };
            found.push(Found {
                kind,
                user,
                subscription: Some(local.id.to_string()),
                differences: Vec::new(),
                local: Some(serde_json::to_value(ours).map_err(|error| DbErr::Json(error.to_string()))?),
                stripe: None,
            });
        }
        self.ledger.note(db, found).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_in_any_order_is_known_and_nothing_else_is() {
        let mut seen = Seen::default();
        let id = |number: u32| format!("sub_{number}");
        (0..1000).rev().for_each(|number| seen.add(&id(number)));
        seen.settle();
        assert!((0..1000).all(|number| seen.contains(&id(number))));
        assert!((1000..2000).all(|number| !seen.contains(&id(number))));
        assert_eq!(size_of::<i64>(), 8, "eight bytes for each");
    }
}
