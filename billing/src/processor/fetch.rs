//! Events that want something of Stripe: thin ones their object, checkouts the subscription they sold.
//!
//! They leave their batch and are seen through beside it, under the same claim, so that a Stripe that is slow or away holds up nobody else.
//! Everything is bounded: how many events wait for Stripe, how many calls are under way, how many calls and how much time one event
//! may take. No transaction is open while Stripe is called. What is Stripe's fault, or the key's, counts as nobody's attempt.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::TimeDelta;
use entity::{ids::SubscriptionId, subscriptions};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QuerySelect};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    Outcome, Pass, Processor,
    batch::{Ready, STEPS},
    failure::{PANIC, chain},
    mark::postponed_mark,
};
use crate::{
    events::{self, Reading, Told},
    facts::{Rank, Stamp},
    panics::{Panicked, caught, survived},
    skip::Skip,
    store::{
        inbox::{ClaimedRow, Mark},
        rowset::text_in,
    },
    stripe::{Collection, Fetched, Lane, Page, Resource, Stripe, StripeError, objects},
};

/// What events may ask of Stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchOptions {
    /// Events that may wait for Stripe at once, in this process.
    pub events: usize,
    /// Objects that are fetched at once, in this process.
    pub at_once: usize,
    /// Calls that one event may make.
    pub calls: u32,
    /// How long one event may wait for Stripe altogether.
    pub patience: Duration,
    /// How long a checkout waits before it gives access on its own word.
    pub checkout_patience: Duration,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            events: 256,
            at_once: 8,
            calls: 4,
            patience: Duration::from_secs(10),
            checkout_patience: Duration::from_secs(2),
        }
    }
}

/// The room for fetching that all workers of a processor share.
#[derive(Debug, Clone)]
pub(super) struct Room {
    events: Arc<Semaphore>,
    at_once: Arc<Semaphore>,
}

impl Room {
    pub(super) fn new(options: &FetchOptions) -> Self {
        Self {
            events: Arc::new(Semaphore::new(options.events)),
            at_once: Arc::new(Semaphore::new(options.at_once.max(1))),
        }
    }
}

/// What an event wants of Stripe.
#[derive(Debug)]
pub(super) enum Want {
    /// The object that it names and does not show.
    Object(Resource),
    /// The subscription that it sold; without it the event tells enough to give access.
    Subscription { id: SubscriptionId, told: Box<Told>, stamp: Stamp },
}

impl Want {
    fn resource(&self) -> Resource {
        match self {
            Self::Object(resource) => resource.clone(),
            Self::Subscription { id, .. } => Resource::Subscription(id.clone()),
        }
    }

    fn can_do_without(&self) -> bool {
        matches!(self, Self::Subscription { .. })
    }
}

/// A claimed event that waits for Stripe, and has its room there.
#[derive(Debug)]
pub(super) struct Wanting {
    row: ClaimedRow,
    want: Want,
    _room: OwnedSemaphorePermit,
}

/// What goes on beside the batches.
#[derive(Debug, Default)]
pub(super) struct Beside(JoinSet<Pass>);

impl Beside {
    /// Sees these events through on a task of their own.
    pub(super) fn fetch(&mut self, on: Processor, token: Uuid, wanting: Vec<Wanting>, stop: CancellationToken) {
        let span = tracing::info_span!("fetch", claim = %token, events = wanting.len());
        let fetching = async move {
            let mut pass = Pass::default();
            on.keeping(token, Box::pin(on.fetch_through(token, wanting, &stop, &mut pass))).await;
            pass
        };
        self.0.spawn(fetching.instrument(span));
    }

    /// What the next that ends has done; `None` where nothing goes on. A panic goes on to whoever waits.
    pub(super) async fn next(&mut self) -> Option<Pass> {
        Some(unwound(self.0.join_next().await?).unwrap_or_default())
    }
}

/// What a task came to; `None` where it was called off. A panic goes on here.
fn unwound<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(done) => Some(done),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => None,
    }
}

impl Processor {
    /// Who has to wait for Stripe? A checkout whose subscription is known does not; where there is no room, a checkout goes on its own word
    /// and anything else comes again a little later.
    pub(super) async fn sort_out(
        &self,
        token: Uuid,
        wanting: Vec<(ClaimedRow, Want)>,
        ready: &mut Vec<Ready>,
        pass: &mut Pass,
    ) -> Vec<Wanting> {
        let known = self.known_living(wanting.iter().map(|(_, want)| want)).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "whether subscriptions are known could not be read; they are fetched");
            HashSet::new()
        });
        let mut admitted = Vec::new();
        let mut postponed = Vec::new();
        for (row, want) in wanting {
            match want {
                Want::Subscription { id, told, stamp } if known.contains(&id) => {
                    ready.push(Ready { row, stamp, told, fetched: None, partial: None });
                }
                want => match (Arc::clone(&self.room.events).try_acquire_owned(), want) {
                    (Ok(room), want) => admitted.push(Wanting { row, want, _room: room }),
                    (Err(_), Want::Subscription { told, stamp, .. }) => {
                        ready.push(Ready { row, stamp, told, fetched: None, partial: None });
                    }
                    (Err(_), Want::Object(_)) => {
                        let reason = "many events wait for Stripe's API; this one comes after them";
                        postponed.push(postponed_mark(&row, reason, 1.0));
                    }
                },
            }
        }
        self.postpone(token, &postponed, pass).await;
        admitted
    }

    /// Which of the subscriptions that were sold are known, and live or have ended.
    async fn known_living(&self, wants: impl Iterator<Item = &Want>) -> Result<HashSet<SubscriptionId>, DbErr> {
        let ids: Vec<String> = wants
            .filter_map(|want| match want {
                Want::Subscription { id, .. } => Some(id.to_string()),
                Want::Object(_) => None,
            })
            .collect();
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        let found: Vec<SubscriptionId> = subscriptions::Entity::find()
            .select_only()
            .column(subscriptions::Column::Id)
            .filter(text_in(self.db.backend(), "id", ids))
            .filter(subscriptions::Column::Rank.gte(Rank::Living.number()))
            .into_tuple()
            .all(self.db.reader())
            .await?;
        Ok(found.into_iter().collect())
    }

    /// Fetches what these events want, and applies each as soon as it can be.
    async fn fetch_through(&self, token: Uuid, wanting: Vec<Wanting>, stop: &CancellationToken, pass: &mut Pass) {
        let Some(stripe) = &self.stripe else { return self.give_back(token).await };
        // Several events about one object need it once.
        let mut groups: HashMap<(Resource, bool), Vec<Wanting>> = HashMap::new();
        for event in wanting {
            groups.entry((event.want.resource(), event.want.can_do_without())).or_default().push(event);
        }
        let away = Arc::new(Away { seen: Mutex::default(), most: self.options.fetch.at_once.max(1) });
        tracing::debug!(target: STEPS, objects = groups.len(), "asking Stripe");
        // Tasks of their own: whoever has a slot of the budget must get on while others are applied here.
        let mut fetching = JoinSet::new();
        for ((resource, can_do_without), events) in groups {
            let (on, stripe, away) = (self.clone(), Arc::clone(stripe), Arc::clone(&away));
            let call = async move {
                let result = survived(on.fetch(stripe.as_ref(), &resource, can_do_without, &away)).await;
                (result, events)
            };
            fetching.spawn(call.in_current_span());
        }
        loop {
            let first = tokio::select! {
                first = fetching.join_next() => first,
                () = stop.cancelled() => break,
            };
            let Some(first) = first else { return };
            let mut arrived = vec![unwound(first)];
            while let Some(next) = fetching.try_join_next() {
                arrived.push(unwound(next));
            }
            let (mut ready, mut postponed) = (Vec::new(), Vec::new());
            for (result, events) in arrived.into_iter().flatten() {
                for Wanting { row, want, .. } in events {
                    let Ok(result) = &result else {
                        self.fail(token, &row, PANIC, &chain(&Panicked), pass).await;
                        continue;
                    };
                    match self.supplied(token, row, want, result, pass).await {
                        Supplied::Ready(event) => ready.push(event),
                        Supplied::Postponed(mark) => postponed.push(mark),
                        Supplied::Ended => {}
                    }
                }
            }
            self.postpone(token, &postponed, pass).await;
            if !self.apply_all(token, ready, stop, pass).await {
                return;
            }
        }
        self.give_back(token).await;
    }

    /// One object, within the bounds of one event. Who can do without does not wait for others either.
    async fn fetch(
        &self,
        stripe: &dyn Stripe,
        resource: &Resource,
        can_do_without: bool,
        away: &Away,
    ) -> Result<Fetched, StripeError> {
        let FetchOptions { patience, checkout_patience, calls, .. } = self.options.fetch;
        let allowance = Allowance { stripe, left: AtomicU32::new(calls) };
        let calling = async {
            let fetched = allowance.get(resource, Lane::Live).await?;
            match resource {
                Resource::Subscription(_) => {
                    let object = objects::completed(&allowance, &fetched.object, Lane::Live).await?.into_owned();
                    Ok(Fetched { object, ..fetched })
                }
                _ => Ok(fetched),
            }
        };
        let result = if can_do_without {
            let in_turn = async {
                let _slot = self.room.at_once.acquire().await;
                calling.await
            };
            within(checkout_patience, in_turn).await
        } else {
            let _slot = self.room.at_once.acquire().await;
            away.known()?;
            within(patience, calling).await
        };
        away.note(&result);
        result
    }

    /// An event with what was fetched for it.
    async fn supplied(
        &self,
        token: Uuid,
        row: ClaimedRow,
        want: Want,
        result: &Result<Fetched, StripeError>,
        pass: &mut Pass,
    ) -> Supplied {
        match (want, result) {
            (Want::Subscription { told, stamp, id }, result) => {
                let told_of = |fetched: &Fetched| caught(|| objects::told_of(&fetched.object, fetched.at));
                let fetched = match result.as_ref().map(told_of) {
                    Ok(Ok(told)) => told,
                    Ok(Err(Panicked)) => {
                        self.fail(token, &row, PANIC, &chain(&Panicked), pass).await;
                        return Supplied::Ended;
                    }
                    Err(error) => Err(error.clone()),
                };
                let (told, fetched) = match fetched {
                    Ok(fetched) => (Box::new(without_snapshot(*told)), Some(Box::new(fetched))),
                    Err(error) => {
                        tracing::warn!(event_id = %row.event_id, subscription = %id, %error,
                            "a checkout's subscription could not be fetched; access is given on the checkout's word until it can be");
                        (told, None)
                    }
                };
                Supplied::Ready(Ready { row, stamp, told, fetched, partial: None })
            }
            (Want::Object(_), Ok(fetched)) => {
                let stamp = Stamp { at: fetched.at, event_id: row.event_id.to_string() };
                let reading = caught(|| events::read_fetched(&row.event_type, &fetched.object, &stamp));
                let Ok(reading) = reading else {
                    self.fail(token, &row, PANIC, &chain(&Panicked), pass).await;
                    return Supplied::Ended;
                };
                match reading {
                    Ok(Reading::Told(told)) => {
                        return Supplied::Ready(Ready { row, stamp, told, fetched: None, partial: None });
                    }
                    Ok(Reading::Nothing(skip)) => self.skip(token, &row, &skip, pass).await,
                    Ok(Reading::Thin(_)) => {
                        let skip = Skip::incomplete("a thin event whose object is a thin event");
                        self.skip(token, &row, &skip, pass).await;
                    }
                    Err(error) => self.fail(token, &row, "payload", &chain(&error), pass).await,
                }
                Supplied::Ended
            }
            (Want::Object(_), Err(error)) if error.may_pass() || error.blames_key() => {
                tracing::warn!(event_id = %row.event_id, %error, "an object could not be fetched; its event waits");
                let pause = away_pause(row.db_now - row.created_at, error.blames_key());
                Supplied::Postponed(postponed_mark(&row, &error.to_string(), pause))
            }
            (Want::Object(_), Err(error)) => {
                self.fail(token, &row, "stripe", &chain(error), pass).await;
                Supplied::Ended
            }
        }
    }

    /// Lets events wait, uncounted.
    async fn postpone(&self, token: Uuid, marks: &[Mark], pass: &mut Pass) {
        if !marks.is_empty() && self.settle(token, marks, pass).await {
            *pass.outcomes.entry(Outcome::Postponed).or_default() += marks.len();
        }
    }
}

/// What the event tells but for the snapshot, where a real one was fetched: the session's word is of lesser rank in any case.
fn without_snapshot(mut told: Told) -> Told {
    if let Some(subscription) = &mut told.subscription {
        subscription.snapshot = None;
    }
    told
}

/// Seconds until an event that Stripe kept waiting comes again: a quarter of its age. A key that is refused takes a person to mend.
fn away_pause(age: TimeDelta, key: bool) -> f64 {
    let (shortest, longest) = if key { (30.0, 900.0) } else { (2.0, 300.0) };
    (age.as_seconds_f64() / 4.0).clamp(shortest, longest)
}

/// What became of an event that waited for Stripe.
enum Supplied {
    Ready(Ready),
    Postponed(Mark),
    Ended,
}

/// Waits for Stripe, but not for ever.
async fn within(
    patience: Duration,
    calling: impl Future<Output = Result<Fetched, StripeError>>,
) -> Result<Fetched, StripeError> {
    timeout(patience, calling).await.unwrap_or_else(|_| {
        let seconds = patience.as_secs_f64();
        let reason = format!("there was no answer within {seconds} s, which is all that one event may take");
        Err(StripeError::Unavailable { reason, request: None })
    })
}

/// Whether Stripe turned out to be away: then those whose turn comes later need not find out for themselves.
#[derive(Debug)]
struct Away {
    /// Calls in a row that failed so, and the last of their errors.
    seen: Mutex<(usize, Option<StripeError>)>,
    /// After so many it is known.
    most: usize,
}

impl Away {
    fn note(&self, result: &Result<Fetched, StripeError>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = match result {
            Err(error) if error.may_pass() || error.blames_key() => (seen.0 + 1, Some(error.clone())),
            _ => (0, None),
        };
    }

    fn known(&self) -> Result<(), StripeError> {
        match &*self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
            (number, Some(error)) if *number >= self.most => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

/// Stripe, for one event: only so many calls.
#[derive(Debug)]
struct Allowance<'a> {
    stripe: &'a dyn Stripe,
    left: AtomicU32,
}

impl Allowance<'_> {
    fn spend(&self) -> Result<(), StripeError> {
        let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let message = || "an event would need more calls of Stripe's API than it may make".to_owned();
        spent.map(|_| ()).map_err(|_| StripeError::Protocol { message: message(), request: None })
    }
}

#[async_trait]
impl Stripe for Allowance<'_> {
    async fn get(&self, resource: &Resource, lane: Lane) -> Result<Fetched, StripeError> {
        self.spend()?;
        self.stripe.get(resource, lane).await
    }

    async fn list(&self, collection: &Collection, after: Option<&str>, lane: Lane) -> Result<Page, StripeError> {
        self.spend()?;
        self.stripe.list(collection, after, lane).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_stripe_keeps_waiting_comes_again_soon_at_first_and_every_five_minutes_at_last() {
        for (age, key, seconds) in [
            (TimeDelta::zero(), false, 2.0),
            (TimeDelta::seconds(60), false, 15.0),
            (TimeDelta::days(1), false, 300.0),
            (TimeDelta::zero(), true, 30.0),
            (TimeDelta::days(1), true, 900.0),
        ] {
            assert!((away_pause(age, key) - seconds).abs() < 1e-9, "{age}");
        }
    }
}
