//! Whose a subscription of nobody is: its customer may say so, and else the checkout that sold it (`GET /v1/checkout/sessions?subscription=`). The
//! events that told of either may be lost, and after 30 days nobody can have them again.

use std::collections::{BTreeSet, HashSet};

use entity::{
    enums::DriftKind,
    ids::{CustomerId, SubscriptionId, UserId},
    reconciliation_drifts::{self, Column},
    stripe_cursors, stripe_customers, subscriptions,
};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde_json::Value;
use uuid::Uuid;

use super::{LOOK_UPS, Run};
use crate::{
    events::{self, Reading, Told},
    facts::{Rank, Stamp},
    fetched::{stamp, take_in_within},
    json_text::storable,
    store::{
        inbox::clock,
        rowset::{OnConflict, text_in, upsert},
    },
    stripe::{Collection, Fetched, Lane, Resource, StripeError},
};

/// Subscriptions that are asked about together.
const BATCH: u64 = 50;

/// Subscriptions that have ended, and that one run asks about. They give nobody access; what they tell is only how a user came to have none.
const ENDED: u64 = 100;

/// Where the last run stopped asking about those.
const CURSOR: &str = "ended_subscriptions_of_nobody";

/// A subscription of which nobody knows whose it is.
struct Ownerless {
    /// The drift that told so, where one did.
    drift: Option<Uuid>,
    customer: Option<CustomerId>,
    id: SubscriptionId,
}

/// What one run may still ask, and whether Stripe answers.
struct Asking {
    left: usize,
    answers: bool,
}

impl Asking {
    fn goes_on(&self) -> bool {
        self.answers && self.left > 0
    }
}

impl Run<'_> {
    /// Looks for the owners of what is nobody's: of everything that lives and came in this run, then of some of what has ended.
    pub(super) async fn find_owners(&self) -> Result<(), DbErr> {
        let mut asking = Asking { left: LOOK_UPS, answers: true };
        let mut after: Option<Uuid> = None;
        while asking.goes_on() {
            let mut select = reconciliation_drifts::Entity::find()
                .filter(Column::ReconciliationId.eq(self.ledger.reconciliation()))
                .filter(Column::Kind.eq(DriftKind::UnknownUser));
            if let Some(after) = after {
                select = select.filter(Column::Id.gt(after));
            }
            let rows = select.order_by_asc(Column::Id).limit(BATCH).all(self.reconciler.db.reader()).await?;
            let Some(last) = rows.last() else { break };
            after = Some(last.id);
            self.ask_whose(rows.iter().filter_map(living).collect(), &mut asking).await?;
        }
        if self.options.user.is_none() && asking.goes_on() {
            self.find_owners_of_ended(&mut asking).await?;
        }
        Ok(())
    }

    /// The next of those that have ended, in the order of their ids; after the last one the first.
    async fn find_owners_of_ended(&self, asking: &mut Asking) -> Result<(), DbErr> {
        use subscriptions::Column;
        let db = &self.reconciler.db;
        let begin = stripe_cursors::Entity::find_by_id(CURSOR).one(db.reader()).await?;
        let mut after = begin.and_then(|row| row.last_event_id);
        let mut seen = 0;
        while seen < ENDED && asking.goes_on() {
            let mut select = subscriptions::Entity::find()
                .select_only()
                .columns([Column::Id, Column::StripeCustomerId])
                .filter(Column::UserId.is_null())
                // Whoever is named and unknown is waited for.
                .filter(Column::LinkUserId.is_null())
                .filter(Column::Rank.eq(Rank::Terminal.number()));
            if let Some(livemode) = self.reconciler.livemode {
                select = select.filter(Column::Livemode.eq(livemode));
            }
            if let Some(after) = &after {
                select = select.filter(Column::Id.gt(after.clone()));
            }
            let rows: Vec<(SubscriptionId, Option<String>)> =
                select.order_by_asc(Column::Id).limit(BATCH).into_tuple().all(db.reader()).await?;
            seen += BATCH;
            after = rows.last().map(|(id, _)| id.to_string());
            let batch = rows.into_iter().map(|(id, customer)| Ownerless {
                drift: None,
                customer: customer.and_then(|id| CustomerId::parse(id).ok()),
                id,
            });
            self.ask_whose(batch.collect(), asking).await?;
            if after.is_none() {
                break;
            }
        }
        let tx = db.write().await?;
        let updated_at = clock(&*tx).await?;
        let row =
            stripe_cursors::Model { name: CURSOR.to_owned(), last_event_id: after, last_created: None, updated_at };
        upsert::<stripe_cursors::Entity>(&*tx, &[row], OnConflict::Replace).await?;
        tx.commit().await
    }

    /// Asks for their customers, then, where those do not tell, for their checkouts.
    async fn ask_whose(&self, mut batch: Vec<Ownerless>, asking: &mut Asking) -> Result<(), DbErr> {
        let told = self.ask_customers(&batch, asking).await?;
        self.settle(&mut batch, told).await?;
        let told = self.ask_checkouts(&batch, asking).await;
        self.settle(&mut batch, told).await
    }

    /// The customers that were never seen here.
    async fn ask_customers(&self, batch: &[Ownerless], asking: &mut Asking) -> Result<Vec<(Told, Stamp)>, DbErr> {
        let db = &self.reconciler.db;
        let mut unseen: BTreeSet<&CustomerId> = batch.iter().filter_map(|one| one.customer.as_ref()).collect();
        let known: Vec<CustomerId> = stripe_customers::Entity::find()
            .select_only()
            .column(stripe_customers::Column::Id)
            // 2: seen itself, and not only named by something else.
            .filter(stripe_customers::Column::VersionRank.gte(2))
            .filter(text_in(db.backend(), "id", unseen.iter().map(ToString::to_string)))
            .into_tuple()
            .all(db.reader())
            .await?;
        for id in &known {
            unseen.remove(id);
        }
        let mut told = Vec::new();
        for customer in unseen {
            if !asking.goes_on() {
                break;
            }
            asking.left -= 1;
            match self.reconciler.stripe.get(&Resource::Customer(customer.clone()), Lane::Background).await {
                Ok(Fetched { object, at }) => told.extend(read("customer.updated", &object, stamp(at))),
                Err(StripeError::Missing { .. }) => {}
                Err(error) => self.stop_asking(asking, &error),
            }
        }
        Ok(told)
    }

    /// The checkouts that sold these subscriptions; one sells one.
    async fn ask_checkouts(&self, batch: &[Ownerless], asking: &mut Asking) -> Vec<(Told, Stamp)> {
        let mut told = Vec::new();
        for one in batch {
            if !asking.goes_on() {
                break;
            }
            asking.left -= 1;
            let sold = Collection::CheckoutSessions(one.id.clone());
            match self.reconciler.stripe.list(&sold, None, Lane::Background).await {
                Ok(page) => {
                    let sessions = page.objects.iter();
                    told.extend(
                        sessions
                            .filter_map(|found| read("checkout.session.completed", &found.object, stamp(page.at)))
                            .filter(|(told, _)| told.subscription.as_ref().is_some_and(|sold| sold.id == one.id)),
                    );
                }
                Err(StripeError::Missing { .. }) => {}
                Err(error) => self.stop_asking(asking, &error),
            }
        }
        told
    }

    fn stop_asking(&self, asking: &mut Asking, error: &StripeError) {
        asking.answers = false;
        let note =
            format!("not every customer and checkout of a subscription that is nobody's could be asked for: {error}");
        self.ledger.report(|report| report.notes.push(note));
    }

    /// Takes in what was told, and leaves in the batch what is nobody's still.
    async fn settle(&self, batch: &mut Vec<Ownerless>, told: Vec<(Told, Stamp)>) -> Result<(), DbErr> {
        if told.is_empty() {
            return Ok(());
        }
        let (catalog, policy) = (&self.reconciler.catalog, &self.reconciler.policy);
        let tx = self.reconciler.db.write().await?;
        let nobody = BTreeSet::new();
        let taken = take_in_within(&tx, catalog, policy, told, &nobody, self.occasion());
        let (world, _) = Box::pin(taken).await?;
        let settled: HashSet<SubscriptionId> = batch
            .iter()
            .filter(|one| world.subscription(&one.id).is_some_and(|found| found.owner.is_some()))
            .map(|one| one.id.clone())
            .collect();
        let drifts: Vec<Uuid> =
            batch.iter().filter(|one| settled.contains(&one.id)).filter_map(|one| one.drift).collect();
        if !drifts.is_empty() {
            self.mark(&*tx, &drifts).await?;
        }
        tx.commit().await?;
        self.ledger.report(|report| report.repaired += drifts.len() as u64);
        batch.retain(|one| !settled.contains(&one.id));
        Ok(())
    }
}

/// One that lives, by the drift that told of it. Whoever names a user waits for that user.
fn living(row: &reconciliation_drifts::Model) -> Option<Ownerless> {
    let stripe = row.stripe.as_ref()?;
    if stripe.get("user_id").and_then(Value::as_str).is_some_and(|user| user.trim().parse::<UserId>().is_ok()) {
        return None;
    }
    let customer = stripe.get("customer").and_then(Value::as_str).and_then(|id| CustomerId::parse(id).ok());
    let id = SubscriptionId::parse(row.subscription_id.clone()?).ok()?;
    Some(Ownerless { drift: Some(row.id), customer, id })
}

/// What an object tells, as an event of this type would; nothing where it cannot be read.
fn read(event_type: &str, object: &str, stamp: Stamp) -> Option<(Told, Stamp)> {
    let text = storable(object).ok()?;
    match events::read_fetched(event_type, &text, &stamp) {
        Ok(Reading::Told(told)) => Some((*told, stamp)),
        _ => None,
    }
}
