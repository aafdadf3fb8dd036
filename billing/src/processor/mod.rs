//! The processor: takes what is due from the inbox and applies it, in batches.
//!
//! - [`Processor`]: one pass ([`Processor::run_once`]) and the loop around it ([`Processor::run`])
//! - `batch`: claim, load, apply, save, mark; and what happens when that fails
//! - `fetch`: what events want of Stripe, beside the batches
//! - `load`, `save`: between rows and a [`crate::world::World`]
//! - `failure`: backoff, fingerprints, the history of attempts; `mark`: what becomes of an event
//!
//! There is one path: a first attempt, a retry, a replay and a recovered event all come from the same claim.

mod batch;
pub mod failure;
mod fetch;
pub(crate) mod load;
mod mark;
pub(crate) mod save;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use entity::enums::ProcessingStatus;
use sea_orm::DbErr;
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

pub use self::fetch::FetchOptions;
use self::fetch::{Beside, Room};
use crate::{
    catalog::Catalog,
    db::{Db, WriteTx},
    policy::Policy,
    processor::failure::{Backoff, NewFailure},
    refresh::{Flags, Refresher},
    skip::SkipReason,
    store::{
        failures,
        inbox::{self, Abandoned},
    },
    stripe::Stripe,
};

/// How the processor works.
#[derive(Debug, Clone)]
pub struct ProcessorOptions {
    /// Name under which this instance claims; of two running instances no two may share it.
    pub holder: String,
    /// Batches under way at once; 1 for `SQLite`, which has one writer.
    pub workers: usize,
    /// Events in a batch.
    pub batch_events: u32,
    /// Bytes of payload in a batch; a single larger event still goes.
    pub batch_bytes: u64,
    /// How long a claim holds without being renewed.
    pub lease: Duration,
    /// How often to look for what became due, when nobody says that something did.
    pub poll: Duration,
    /// How often to look for claims whose lease ran out.
    pub rescue: Duration,
    /// Leases that may run out under one event before it is given up.
    pub most_crashes: i32,
    /// When failed events are tried again.
    pub backoff: Backoff,
    /// What events may ask of Stripe.
    pub fetch: FetchOptions,
}

impl Default for ProcessorOptions {
    fn default() -> Self {
        Self {
            holder: "trueup".to_owned(),
            workers: 1,
            batch_events: 500,
            batch_bytes: 8 << 20,
            lease: Duration::from_secs(10),
            poll: Duration::from_secs(1),
            rescue: Duration::from_secs(5),
            most_crashes: 20,
            backoff: Backoff::default(),
            fetch: FetchOptions::default(),
        }
    }
}

/// How an event came out of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Its facts are stored.
    Applied,
    /// Its facts are stored; a newer snapshot was there.
    Stale,
    /// It waits for a user.
    Parked,
    /// Not ours to apply.
    Skipped,
    /// It waits for Stripe's API.
    Postponed,
    /// It failed and is tried again.
    Retried,
    /// It failed for the last time.
    Failed,
}

/// What one pass did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pass {
    /// Events by outcome.
    pub outcomes: BTreeMap<Outcome, usize>,
    /// Events that were skipped, by reason.
    pub skipped: BTreeMap<SkipReason, usize>,
    /// Entries of the timeline.
    pub changes: usize,
    /// E-mails that events gave reason for; one that was queued before is counted again.
    pub emails: usize,
    /// Claims whose holder had died.
    pub rescued: u64,
    /// Seconds from Stripe's `created` to the commit, for each applied event that tells it.
    pub lags: Vec<f64>,
    /// Batches, with their number of events and the seconds they took.
    pub batches: Vec<(usize, f64)>,
    /// True where the surroundings failed and claims were given back.
    pub disturbed: bool,
}

impl Pass {
    /// Events that were taken up.
    pub fn events(&self) -> usize {
        self.outcomes.values().sum()
    }

    /// Adds what another one did.
    fn add(&mut self, other: Self) {
        for (outcome, events) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += events;
        }
        for (reason, events) in other.skipped {
            *self.skipped.entry(reason).or_default() += events;
        }
        self.changes += other.changes;
        self.rescued += other.rescued;
        self.lags.extend(other.lags);
        self.batches.extend(other.batches);
        self.disturbed |= other.disturbed;
    }

    fn count(&mut self, outcome: Outcome) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }
}

/// Told of every pass that did something, for metrics.
pub type Observer = Arc<dyn Fn(&Pass) + Send + Sync>;

/// Applies what is due.
#[derive(Clone)]
pub struct Processor {
    pub(crate) db: Db,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) options: Arc<ProcessorOptions>,
    pub(crate) stripe: Option<Arc<dyn Stripe>>,
    room: Room,
    flags: Arc<Flags>,
}

impl std::fmt::Debug for Processor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Processor").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Processor {
    /// A processor; nothing runs yet.
    pub fn new(
        db: Db,
        catalog: Arc<Catalog>,
        policy: Arc<Policy>,
        options: ProcessorOptions,
        stripe: Option<Arc<dyn Stripe>>,
    ) -> Self {
        let room = Room::new(&options.fetch);
        Self { db, catalog, policy, options: Arc::new(options), stripe, room, flags: Arc::default() }
    }

    /// Asks Stripe about what this processor's batches flag; none without a key. [`Refresher::run`] is to run beside [`Processor::run`].
    pub fn refresher(&self) -> Option<Refresher> {
        let (catalog, policy) = (Arc::clone(&self.catalog), Arc::clone(&self.policy));
        let stripe = Arc::clone(self.stripe.as_ref()?);
        Some(Refresher::sharing(self.db.clone(), catalog, policy, stripe, Arc::clone(&self.flags)))
    }

    /// The same processor on another handle of the database, for example one that is fenced by a job's lease.
    #[must_use]
    pub fn on(&self, db: Db) -> Self {
        Self { db, ..self.clone() }
    }

    /// Gives back what this instance had claimed before it was started anew. Counts as a crash: whoever starts did not stop in order.
    pub async fn release_own(&self) -> Result<u64, DbErr> {
        let tx = self.db.write().await?;
        let (released, told) = self.take_back(&tx, Abandoned::Of(&self.options.holder)).await?;
        tx.commit().await?;
        told.into_iter().for_each(NewFailure::tell);
        Ok(released)
    }

    /// Takes back claims whose lease ran out.
    pub async fn rescue(&self) -> Result<u64, DbErr> {
        let tx = self.db.write().await?;
        let (rescued, told) = self.take_back(&tx, Abandoned::Expired).await?;
        tx.commit().await?;
        if rescued > 0 {
            tracing::warn!(events = rescued, "took back claims whose lease had run out; whoever held them died");
        }
        told.into_iter().for_each(NewFailure::tell);
        Ok(rescued)
    }

    /// Takes claims back; tells how many, and which of their events is the first to be given up for it.
    async fn take_back(&self, tx: &WriteTx, which: Abandoned<'_>) -> Result<(u64, Option<NewFailure>), DbErr> {
        let rescued = inbox::rescue(&**tx, which, self.options.most_crashes).await?;
        let given_up = rescued.iter().find(|row| row.processing_status == ProcessingStatus::Failed);
        let told = match given_up {
            Some(row) if failures::is_first(&**tx, inbox::CRASH, row.event_id.as_str()).await? => Some(NewFailure {
                event_id: row.event_id.clone(),
                event_type: row.event_type.clone(),
                attempts: self.options.most_crashes,
                kind: inbox::CRASH,
                fingerprint: inbox::CRASH.to_owned(),
                error: "processes died while they applied it".to_owned(),
            }),
            _ => None,
        };
        Ok((rescued.len() as u64, told))
    }

    /// Applies everything that is due, batch after batch, and returns what came of it. Stops early once `stop` is cancelled; what
    /// was claimed by then is finished or given back.
    pub async fn run_once(&self, stop: &CancellationToken) -> Result<Pass, DbErr> {
        let mut pass = Pass { rescued: self.rescue().await?, ..Pass::default() };
        self.drain(stop, &mut pass).await?;
        Ok(pass)
    }

    async fn drain(&self, stop: &CancellationToken, pass: &mut Pass) -> Result<(), DbErr> {
        let nobody = Notify::new();
        let mut beside = Beside::default();
        let mut result = Ok(());
        loop {
            let before = pass.events();
            if !stop.is_cancelled() && !pass.disturbed && result.is_ok() {
                result = self.round(stop, &nobody, pass, &mut beside).await;
            }
            // What waited for Stripe may have freed something that is due now.
            if pass.events() == before || stop.is_cancelled() || pass.disturbed || result.is_err() {
                match beside.next().await {
                    Some(done) => pass.add(done),
                    None => return result,
                }
            }
        }
    }

    /// One batch; and one event under which a process died more than once, alone, so that it takes no neighbour along.
    /// `more` is notified as soon as the batch turns out full: there is work for another.
    async fn round(
        &self,
        stop: &CancellationToken,
        more: &Notify,
        pass: &mut Pass,
        beside: &mut Beside,
    ) -> Result<(), DbErr> {
        self.batch(false, stop, more, pass, beside).await?;
        self.batch(true, stop, more, pass, beside).await
    }

    /// Works until `stop` is cancelled: at once when `nudge` is notified, and every [`ProcessorOptions::poll`]. When the surroundings fail
    /// it slows down, to at most 5 seconds between tries.
    ///
    /// # Panics
    /// Where one of its workers does; the others end with it.
    pub async fn run(self, nudge: Arc<Notify>, stop: CancellationToken, observer: Observer, beat: Arc<Beat>) {
        let mut workers = JoinSet::new();
        for number in 0..self.options.workers.max(1) {
            let worker = Worker {
                processor: self.clone(),
                rescues: number == 0,
                nudge: Arc::clone(&nudge),
                stop: stop.clone(),
                observer: Arc::clone(&observer),
                beat: Arc::clone(&beat),
            };
            workers.spawn(worker.run());
        }
        while let Some(ended) = workers.join_next().await {
            if let Err(error) = ended
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// One of several that take batches side by side: while one waits for the database, another computes.
struct Worker {
    processor: Processor,
    /// One of them takes abandoned claims back.
    rescues: bool,
    nudge: Arc<Notify>,
    stop: CancellationToken,
    observer: Observer,
    beat: Arc<Beat>,
}

impl Worker {
    async fn run(self) {
        let options = &self.processor.options;
        let mut pause = Duration::ZERO;
        let mut rescue_at = Instant::now();
        let mut beside = Beside::default();
        let mut trouble = false;
        while !self.stop.is_cancelled() {
            let mut pass = Pass::default();
            let mut result = Ok(());
            if self.rescues && Instant::now() >= rescue_at {
                rescue_at = Instant::now() + options.rescue;
                result = self.processor.rescue().await.map(|rescued| pass.rescued = rescued);
            }
            if result.is_ok() {
                result = self.processor.round(&self.stop, &self.nudge, &mut pass, &mut beside).await;
            }
            self.beat.beat();
            self.observe(&pass);
            if let Err(error) = &result {
                tracing::warn!(%error, "the processor cannot reach its inbox; trying again");
            }
            pause = if result.is_err() || pass.disturbed || std::mem::take(&mut trouble) {
                (pause * 2).clamp(Duration::from_millis(100), Duration::from_secs(5))
            } else if pass.events() > 0 {
                // There may be more.
                continue;
            } else {
                Duration::ZERO
            };
            let nudged = async {
                if pause.is_zero() {
                    tokio::select! {
                        () = self.nudge.notified() => {}
                        () = tokio::time::sleep(options.poll) => {}
                    }
                } else {
                    tokio::time::sleep(pause).await;
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = nudged => {}
                // What waited for Stripe may have freed something that is due now.
                Some(done) = beside.next() => {
                    trouble = done.disturbed;
                    self.observe(&done);
                }
            }
        }
        while let Some(done) = beside.next().await {
            self.observe(&done);
        }
    }

    fn observe(&self, pass: &Pass) {
        if pass.events() > 0 || pass.rescued > 0 {
            (self.observer)(pass);
        }
    }
}

/// When the processor was last seen alive.
#[derive(Debug)]
pub struct Beat(std::sync::Mutex<Instant>);

impl Default for Beat {
    fn default() -> Self {
        Self(std::sync::Mutex::new(Instant::now()))
    }
}

impl Beat {
    fn beat(&self) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
    }

    /// How long ago.
    pub fn age(&self) -> Duration {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).elapsed()
    }
}
