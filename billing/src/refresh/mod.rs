//! Asks Stripe how subscriptions really are: those of which two snapshots of one moment disagree, those that only a checkout or an adopted
//! database has told of, and all of one user when somebody asks.
//!
//! - [`Refresher::run`]: beside the processor, what its batches flagged, within a moment
//! - [`Refresher::refresh_flagged`]: whatever is flagged in the database; for a job
//! - [`Refresher::refresh_user`]: one user, for the host and for operators
//! - `flags`: what is to be asked for, and when again
//!
//! What is fetched is told to the world like an event ([`crate::fetched`]). No transaction is open while Stripe is called, and a 404 concludes
//! nothing: the key may be of another account.

mod flags;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use entity::{
    enums::ChangeSource,
    ids::{CustomerId, SubscriptionId, UserId},
    stripe_customers, subscriptions, users,
};
use futures::StreamExt as _;
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QuerySelect};
use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use self::flags::Flags;
use self::flags::{Due, Fate, Queue};
use crate::{
    adoption,
    apply::Change,
    catalog::Catalog,
    db::{Blame, Db, blame},
    events::Told,
    facts::{Stamp, is_placeholder},
    fetched::{Occasion, take_in, take_in_within},
    policy::Policy,
    store::refresh::flagged,
    stripe::{Lane, Stripe, StripeError, objects},
};

/// Subscriptions that are fetched and taken in together.
const GROUP: usize = 50;
/// Objects that are fetched at once.
const AT_ONCE: usize = 4;
/// How long one subscription may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rows that are looked at together.
const ROWS: u64 = 500;

/// What a sweep did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Subscriptions that Stripe was asked for, and answered.
    pub fetched: usize,
    /// Of them, those that are settled.
    pub settled: usize,
    /// Of them, those whose second was not over on Stripe's clock; the next sweep has them again.
    pub too_early: usize,
    /// Of them, those that Stripe does not know, or shows in no readable form.
    pub useless: usize,
    /// Entries of the timeline.
    pub changes: usize,
    /// Why the sweep ended before its end: Stripe's API was away, or refused the key.
    pub stopped: Option<String>,
}

/// What refreshing a user came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserRefreshed {
    /// Subscriptions as Stripe shows them.
    pub subscriptions: Vec<SubscriptionId>,
    /// Subscriptions that are stored here and that Stripe does not know. Nothing is concluded from that.
    pub missing: Vec<SubscriptionId>,
    /// What changed, for this user and for others whom it concerned.
    pub changes: Vec<Change>,
}

/// Why a user could not be refreshed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// We know no such user.
    #[error("there is no user {0}")]
    Unknown(UserId),
    /// Stripe's API.
    #[error(transparent)]
    Stripe(#[from] StripeError),
    /// An adopted database waits for its go-ahead.
    #[error(
        "Stripe shows less than what the host had, and until the first reconciliation of this adopted database is given the go-ahead nobody loses \
         anything; run `trueup reconcile --dry-run`, look at it, then `trueup reconcile release`"
    )]
    AwaitsRelease,
    /// The database.
    #[error("the database did not do what was asked")]
    Database(#[from] DbErr),
}

/// Asks Stripe how subscriptions really are. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Refresher {
    db: Db,
    catalog: Arc<Catalog>,
    policy: Arc<Policy>,
    stripe: Arc<dyn Stripe>,
    flags: Arc<Flags>,
}

impl Refresher {
    /// One that stands alone. The one of a running processor is [`crate::processor::Processor::refresher`].
    pub fn new(db: Db, catalog: Arc<Catalog>, policy: Arc<Policy>, stripe: Arc<dyn Stripe>) -> Self {
        Self::sharing(db, catalog, policy, stripe, Arc::default())
    }

    pub(crate) fn sharing(
        db: Db,
        catalog: Arc<Catalog>,
        policy: Arc<Policy>,
        stripe: Arc<dyn Stripe>,
        flags: Arc<Flags>,
    ) -> Self {
        Self { db, catalog, policy, stripe, flags }
    }

    /// The same on another handle of the database, for example one that is fenced by a job's lease.
    #[must_use]
    pub fn on(&self, db: Db) -> Self {
        Self { db, ..self.clone() }
    }

    /// Fetches what the processor's batches flag, until `stop` is cancelled. What does not settle within a few tries is left to sweeps.
    pub async fn run(self, stop: CancellationToken) {
        let mut queue = Queue::default();
        while !stop.is_cancelled() {
            queue.admit(self.flags.take());
            let due = queue.due(Instant::now());
            if due.is_empty() {
                let next = queue.next();
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.flags.wake.notified() => {}
                    () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                }
                continue;
            }
            let asked = due.clone();
            let result = tokio::select! {
                () = stop.cancelled() => return,
                result = self.refresh(due, Lane::Live) => result,
            };
            match result {
                Ok(done) => {
                    for (id, fate, pause) in done.fates {
                        queue.ended(&id, fate, pause);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "what Stripe shows of subscriptions could not be stored; trying again");
                    for Due { id, .. } in asked {
                        queue.ended(&id, Fate::Away, Duration::from_secs(5));
                    }
                }
            }
        }
    }

    /// Fetches at most `limit` of the flagged subscriptions, from where the last sweep ended, and leaves alone those that were fetched moments
    /// ago or are of no use for now. Ends early, with the reason in the report, where Stripe's API is away.
    ///
    /// # Errors
    /// Those of the database; what was stored until then stays.
    pub async fn refresh_flagged(&self, limit: usize, stop: &CancellationToken) -> Result<Swept, DbErr> {
        let mut swept = Swept::default();
        let mut wrapped = self.flags.state().swept_to.is_empty();
        while swept.fetched < limit && !stop.is_cancelled() {
            let after = self.flags.state().swept_to.clone();
            let rows = flagged(self.db.reader(), &after, ROWS).await?;
            let Some(last) = rows.last().map(|row| row.id.to_string()) else {
                self.flags.state().swept_to.clear();
                // Once from the start, where it began in the middle.
                if wrapped {
                    break;
                }
                wrapped = true;
                continue;
            };
            let now = Instant::now();
            let mut due: Vec<Due> = rows
                .into_iter()
                .filter(|row| self.flags.may_fetch(&row.id, now))
                .map(|row| Due { newer_than: row.needs_refresh.then_some(row.version_at), id: row.id })
                .collect();
            let room = (limit - swept.fetched).min(GROUP);
            let cut = due.len() > room;
            due.truncate(room);
            let reached = due.last().filter(|_| cut).map_or(last, |due| due.id.to_string());
            if !due.is_empty() {
                let done = self.refresh(due, Lane::Background).await?;
                for (_, fate, _) in &done.fates {
                    match fate {
                        Fate::Settled => swept.settled += 1,
                        Fate::TooEarly => swept.too_early += 1,
                        Fate::Useless => swept.useless += 1,
                        Fate::Away => continue,
                    }
                    swept.fetched += 1;
                }
                swept.changes += done.changes;
                if let Some(error) = done.away {
                    swept.stopped = Some(error.to_string());
                    break;
                }
            }
            self.flags.state().swept_to = reached;
        }
        Ok(swept)
    }

    /// Fetches every subscription of a user's customers, and whatever else is stored as theirs, and takes it in.
    pub async fn refresh_user(&self, user: UserId, source: ChangeSource) -> Result<UserRefreshed, RefreshError> {
        let (customers, stored) = self.belongings(user).await?;
        let mut told: Vec<(Told, Stamp)> = Vec::new();
        for customer in customers {
            match objects::subscriptions_of(self.stripe.as_ref(), &customer, Lane::Live).await {
                Ok(theirs) => told.extend(theirs),
                // What belongs to them is asked for one by one below.
                Err(StripeError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let id_of = |told: &Told| told.subscription.as_ref().map(|subscription| subscription.id.clone());
        let mut seen: BTreeSet<SubscriptionId> = told.iter().filter_map(|(told, _)| id_of(told)).collect();
        let mut refreshed = UserRefreshed::default();
        for id in stored.into_iter().filter(|id| !seen.contains(id) && !is_placeholder(id)).collect::<Vec<_>>() {
            match objects::subscription(self.stripe.as_ref(), &id, Lane::Live).await {
                Ok(one) => {
                    told.push(one);
                    seen.insert(id);
                }
                Err(StripeError::Missing { .. }) => refreshed.missing.push(id),
                Err(error) => return Err(error.into()),
            }
        }
        refreshed.subscriptions = seen.into_iter().collect();
        let occasion = Occasion { what: "refresh", source, reconciliation: None };
        if !told.is_empty() {
            let tx = self.db.write().await?;
            let nobody = BTreeSet::new();
            let taken = take_in_within(&tx, &self.catalog, &self.policy, told, &nobody, occasion);
            let (_, changes) = Box::pin(taken).await?;
            if changes.iter().any(|change| change.lowers(&self.catalog)) && adoption::awaits_release(&*tx).await? {
                return Err(RefreshError::AwaitsRelease);
            }
            tx.commit().await?;
            refreshed.changes = changes;
        }
        Ok(refreshed)
    }

    /// The customers of a user, and the subscriptions stored as theirs.
    async fn belongings(&self, user: UserId) -> Result<(BTreeSet<CustomerId>, BTreeSet<SubscriptionId>), RefreshError> {
        let db = self.db.reader();
        let row = users::Entity::find_by_id(user).one(db).await?.ok_or(RefreshError::Unknown(user))?;
        let theirs: Vec<CustomerId> = stripe_customers::Entity::find()
            .select_only()
            .column(stripe_customers::Column::Id)
            .filter(stripe_customers::Column::UserId.eq(user))
            .into_tuple()
            .all(db)
            .await?;
        let stored: Vec<(SubscriptionId, Option<String>)> = subscriptions::Entity::find()
            .select_only()
            .columns([subscriptions::Column::Id, subscriptions::Column::StripeCustomerId])
            .filter(subscriptions::Column::UserId.eq(user))
            .into_tuple()
            .all(db)
            .await?;
        let parsed = |id: Option<String>| id.and_then(|id| CustomerId::parse(id).ok());
        let carried = parsed(row.subscription_stripe_customer_id);
        let customers = theirs.into_iter().chain(carried).collect();
        Ok((customers, stored.into_iter().map(|(id, _)| id).collect()))
    }

    /// Fetches these and takes them in. One that cannot be fetched or stored holds up no other.
    async fn refresh(&self, due: Vec<Due>, lane: Lane) -> Result<Refreshed, DbErr> {
        let mut left: HashMap<SubscriptionId, Due> = due.iter().map(|due| (due.id.clone(), due.clone())).collect();
        let fetches = due.into_iter().map(async |due| {
            let result = timeout(PATIENCE, objects::subscription(self.stripe.as_ref(), &due.id, lane)).await;
            let too_late = || StripeError::Unavailable {
                reason: format!("there was no answer within {} s", PATIENCE.as_secs()),
                request: None,
            };
            (due, result.unwrap_or_else(|_| Err(too_late())))
        });
        let mut fetching = futures::stream::iter(fetches).buffer_unordered(AT_ONCE);
        let mut done = Refreshed::default();
        let mut told = Vec::new();
        let mut away_in_a_row = 0;
        while let Some((due, result)) = fetching.next().await {
            left.remove(&due.id);
            let fate = match result {
                Ok((one, stamp)) => {
                    away_in_a_row = 0;
                    let early = due.newer_than.is_some_and(|moment| stamp.at <= moment);
                    let fate = if early { Fate::TooEarly } else { Fate::Settled };
                    told.push((due.id, fate, one, stamp));
                    continue;
                }
                Err(error) => {
                    tracing::warn!(subscription = %due.id, %error, "a subscription could not be fetched");
                    if error.may_pass() || error.blames_key() {
                        away_in_a_row += 1;
                        done.away = Some(error);
                        Fate::Away
                    } else {
                        away_in_a_row = 0;
                        Fate::Useless
                    }
                }
            };
            self.ended(&mut done, due.id, fate);
            if away_in_a_row >= AT_ONCE {
                break;
            }
        }
        drop(fetching);
        // Stripe is away; the others need not find out for themselves.
        for id in left.into_keys() {
            self.ended(&mut done, id, Fate::Away);
        }
        let all = told.iter().map(|(_, _, told, stamp)| (told.clone(), stamp.clone())).collect();
        match self.store(all).await {
            Ok(changes) => {
                done.changes += changes;
                for (id, fate, ..) in told {
                    self.ended(&mut done, id, fate);
                }
            }
            Err(error) if blame(&error) == Blame::Surroundings => return Err(error),
            Err(_) => {
                for (id, fate, one, stamp) in told {
                    match self.store(vec![(one, stamp)]).await {
                        Ok(changes) => {
                            done.changes += changes;
                            self.ended(&mut done, id, fate);
                        }
                        Err(error) if blame(&error) == Blame::Surroundings => return Err(error),
                        Err(error) => {
                            tracing::warn!(subscription = %id, %error, "the database refuses what Stripe shows of a subscription");
                            self.ended(&mut done, id, Fate::Useless);
                        }
                    }
                }
            }
        }
        Ok(done)
    }

    async fn store(&self, told: Vec<(Told, Stamp)>) -> Result<usize, DbErr> {
        if told.is_empty() {
            return Ok(0);
        }
        let occasion = Occasion { what: "refetch", source: ChangeSource::Webhook, reconciliation: None };
        Ok(take_in(&self.db, &self.catalog, &self.policy, told, occasion).await?.len())
    }

    fn ended(&self, done: &mut Refreshed, id: SubscriptionId, fate: Fate) {
        let pause = self.flags.note(&id, fate, Instant::now());
        done.fates.push((id, fate, pause));
    }
}

/// What refreshing a group came to.
#[derive(Debug, Default)]
struct Refreshed {
    fates: Vec<(SubscriptionId, Fate, Duration)>,
    changes: usize,
    /// The last error that says Stripe's API is away, or refuses the key.
    away: Option<StripeError>,
}
