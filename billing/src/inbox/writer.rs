//! Group commit: whatever waits goes into one statement.
//!
//! While one statement is on its way to the disk, the next requests gather; so the number of commits follows the disk's speed and
//! not the number of requests. Two writers take turns, one gathering while the other commits.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex as StdMutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use entity::enums::EventSource;
use sea_orm::{DbBackend, DbErr};
use tokio::{
    sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout_at},
};
use uuid::Uuid;

use super::Arrival;
use crate::{
    db::{Blame, Db, blame, obstacle},
    event::VerifiedEvent,
    panics::{supervised, survived},
    store::inbox::{NewEvent, insert},
};

/// Bounds of the queue between requests and the database.
#[derive(Debug, Clone)]
pub struct InboxOptions {
    /// Events that may wait.
    pub queue_events: usize,
    /// Bytes that may wait.
    pub queue_bytes: usize,
    /// Events in one statement.
    pub batch_events: usize,
    /// Bytes in one statement; a single larger event still goes.
    pub batch_bytes: usize,
    /// How long a request waits for its commit before it answers 503.
    pub deadline: Duration,
    /// Statements under way at once; 1 for `SQLite`, which has one writer.
    pub writers: usize,
    /// Told of every commit.
    pub commits: CommitWatch,
}

/// A commit of events that waited together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Commit {
    /// How many.
    pub events: usize,
    /// From when the database was asked.
    pub seconds: f64,
    /// False where it did not take them.
    pub stored: bool,
}

type CommitWatcher = dyn Fn(Commit) + Send + Sync;

/// Told of every commit, for metrics; the default tells nobody.
#[derive(Clone, Default)]
pub struct CommitWatch(Option<Arc<CommitWatcher>>);

impl CommitWatch {
    /// Tells `watcher`.
    pub fn new(watcher: impl Fn(Commit) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watcher)))
    }

    /// Sees a try through, also where it is given up half-way.
    fn begin(&self, events: usize) -> Committing<'_> {
        Committing { watch: self, events, begun: Instant::now(), stored: false }
    }
}

impl std::fmt::Debug for CommitWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CommitWatch(…)")
    }
}

struct Committing<'a> {
    watch: &'a CommitWatch,
    events: usize,
    begun: Instant,
    stored: bool,
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watch.0 {
            let seconds = self.begun.elapsed().as_secs_f64();
            watcher(Commit { events: self.events, seconds, stored: self.stored });
        }
    }
}

impl Default for InboxOptions {
    fn default() -> Self {
        Self {
            queue_events: 4096,
            queue_bytes: 32 << 20,
            batch_events: 256,
            batch_bytes: 4 << 20,
            deadline: Duration::from_secs(4),
            writers: 2,
            commits: CommitWatch::default(),
        }
    }
}

/// What became of a delivery. All three are committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Receipt {
    /// New, and to be applied.
    Recorded,
    /// The event was there.
    Duplicate,
    /// New, and not ours to apply.
    Skipped,
}

/// Why a delivery could not be stored. Stripe sends it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// Too much waits already.
    #[error("the queue to the database is full; the event was not stored, send it again")]
    QueueFull,
    /// No commit within the deadline.
    #[error("the database did not store the event in time; send it again")]
    Unavailable,
    /// This process is stopping.
    #[error("this server is stopping; the event was not stored, send it again")]
    Stopping,
    /// The database cannot hold this event.
    #[error("the event cannot be stored: {0}")]
    Refused(String),
}

struct Waiting {
    event: NewEvent,
    skipped: bool,
    deadline: Instant,
    answer: oneshot::Sender<Result<Receipt, ReceiveError>>,
    room: OwnedSemaphorePermit,
}

/// The way into the inbox. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Inbox {
    queue: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    options: Arc<InboxOptions>,
    trouble: Trouble,
}

/// Since when, and why, nothing could be stored; none where the last batch was.
type Trouble = Arc<StdMutex<Option<(Instant, &'static str)>>>;

impl Inbox {
    /// Starts the writers. `nudge` is notified whenever something new is to be applied. They stop, having written everything
    /// that waits, once every clone of the returned value is dropped.
    pub fn start(db: &Db, options: InboxOptions, nudge: &Arc<Notify>) -> (Self, Vec<tokio::task::JoinHandle<()>>) {
        let (queue, receiver) = mpsc::channel(options.queue_events);
        let receiver = Arc::new(Mutex::new(receiver));
        let options = Arc::new(options);
        let waiting = Arc::new(AtomicUsize::new(0));
        let trouble = Trouble::default();
        let tasks = (0..options.writers)
            .map(|_| {
                let writer = Writer {
                    db: db.clone(),
                    receiver: Arc::clone(&receiver),
                    options: Arc::clone(&options),
                    waiting: Arc::clone(&waiting),
                    nudge: Arc::clone(nudge),
                    trouble: Arc::clone(&trouble),
                };
                tokio::spawn(async move { supervised("writer of the inbox", || Box::pin(writer.run())).await })
            })
            .collect();
        let room = Arc::new(Semaphore::new(options.queue_bytes));
        (Self { queue, room, waiting, options, trouble }, tasks)
    }

    /// Stores an event and returns once it is committed.
    pub async fn receive(&self, event: VerifiedEvent, arrival: Arrival) -> Result<Receipt, ReceiveError> {
        let size = u32::try_from(event.payload_bytes().max(1)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(size).map_err(|_| ReceiveError::QueueFull)?;
        let deadline = Instant::now() + self.options.deadline;
        let (answer, answered) = oneshot::channel();
        let (event, skipped) = row(event, arrival, EventSource::Webhook);
        let waiting = Waiting { event, skipped, deadline, answer, room };
        // Counted before a writer can have done with it.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.queue.try_send(waiting).map_err(|error| {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            match error {
                mpsc::error::TrySendError::Full(_) => ReceiveError::QueueFull,
                mpsc::error::TrySendError::Closed(_) => ReceiveError::Stopping,
            }
        })?;
        match timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) if self.queue.is_closed() => Err(ReceiveError::Stopping),
            Ok(Err(_)) | Err(_) => Err(ReceiveError::Unavailable),
        }
    }

    /// How long ago a batch could not be stored, and why; none where one was stored since.
    pub fn trouble(&self) -> Option<(Duration, &'static str)> {
        let (at, why) = (*self.trouble.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some((at.elapsed(), why))
    }

    /// Deliveries that wait for their commit.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// The event as a row of the inbox; the second value is true where it is stored only.
pub(crate) fn row(event: VerifiedEvent, arrival: Arrival, source: EventSource) -> (NewEvent, bool) {
    let (skipped, skip_reason) = match arrival {
        Arrival::Apply => (String::new(), None),
        Arrival::Skip(skip) => (skip.to_string(), Some(skip.reason)),
    };
    let is_skipped = !skipped.is_empty();
    let parts = event.into_parts();
    let created = parts.created.map_or(-1, |at| at.timestamp());
    let row = NewEvent {
        id: Uuid::now_v7(),
        event_id: parts.id,
        event_type: parts.event_type,
        bytes: i64::try_from(parts.payload_bytes).unwrap_or(i64::MAX),
        payload: parts.payload,
        skipped,
        skip_reason,
        customer: parts.customer.unwrap_or_default(),
        created,
        api_version: parts.api_version.unwrap_or_default(),
        livemode: parts.livemode.unwrap_or_default(),
        account: parts.account.unwrap_or_default(),
        source,
    };
    (row, is_skipped)
}

struct Writer {
    db: Db,
    receiver: Arc<Mutex<mpsc::Receiver<Waiting>>>,
    options: Arc<InboxOptions>,
    waiting: Arc<AtomicUsize>,
    nudge: Arc<Notify>,
    trouble: Trouble,
}

impl Writer {
    async fn run(&self) {
        while let Some(batch) = self.gather().await {
            let size = batch.len();
            // Whoever waits for what a panic took along is told to send again.
            if survived(self.store(batch)).await.is_err() {
                tracing::error!(
                    events = size,
                    after_panic = true,
                    "storing webhooks panicked, which is a bug in Trueup; Stripe sends them again"
                );
            }
            self.waiting.fetch_sub(size, Ordering::Relaxed);
        }
    }

    /// Everything that waits, up to the bounds; `None` once nothing can come any more.
    async fn gather(&self) -> Option<Vec<Waiting>> {
        let mut receiver = self.receiver.lock().await;
        let first = receiver.recv().await?;
        let mut bytes = first.event.payload.len();
        let mut batch = vec![first];
        while batch.len() < self.options.batch_events && bytes < self.options.batch_bytes {
            let Ok(next) = receiver.try_recv() else { break };
            bytes += next.event.payload.len();
            batch.push(next);
        }
        Some(batch)
    }

    async fn store(&self, batch: Vec<Waiting>) {
        #[cfg(test)]
        for waiting in &batch {
            crate::panics::ordered("stored", waiting.event.event_id.as_str());
        }
        // Whoever gave up waiting was told to send again.
        let (events, waiters) = fold(batch);
        let deadline = waiters.values().flatten().map(|waiter| waiter.deadline).max();
        let Some(deadline) = deadline else { return };
        let ids: Vec<String> = waiters.keys().cloned().collect();
        match self.insert_until(deadline, events).await {
            Ok(recorded) => self.answer(waiters, &recorded),
            Err(Failure::Surroundings) => {
                for waiter in waiters.into_values().flatten() {
                    let _ = waiter.answer.send(Err(ReceiveError::Unavailable));
                }
            }
            Err(Failure::Data(events)) => self.store_one_by_one(events, ids, waiters, deadline).await,
        }
    }

    fn note(&self, trouble: Option<&'static str>) {
        let trouble = trouble.map(|why| (Instant::now(), why));
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    async fn insert(&self, events: &[NewEvent]) -> Result<Vec<String>, DbErr> {
        let mut committing = self.options.commits.begin(events.len());
        let recorded = self.insert_now(events).await?;
        committing.stored = true;
        Ok(recorded)
    }

    async fn insert_now(&self, events: &[NewEvent]) -> Result<Vec<String>, DbErr> {
        if self.db.backend() == DbBackend::Postgres {
            // One statement is one transaction.
            return insert(self.db.reader(), events).await;
        }
        let tx = self.db.write().await?;
        let recorded = insert(&*tx, events).await?;
        tx.commit().await?;
        Ok(recorded)
    }

    /// Tries until it is done or nobody waits any more. What the surroundings refuse is tried again.
    async fn insert_until(&self, deadline: Instant, events: Vec<NewEvent>) -> Result<HashSet<String>, Failure> {
        let mut pause = Duration::from_millis(20);
        loop {
            let attempt = timeout_at(deadline, self.insert(&events)).await;
            let error = match attempt {
                Ok(Ok(recorded)) => {
                    self.note(None);
                    return Ok(recorded.into_iter().collect());
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    self.note(Some("it does not answer in time"));
                    return Err(Failure::Surroundings);
                }
            };
            if blame(&error) == Blame::Data {
                return Err(Failure::Data(events));
            }
            self.note(Some(obstacle(&error)));
            tracing::warn!(error = %error, events = events.len(), "the database did not take a batch of webhooks; trying again");
            if Instant::now() + pause >= deadline {
                return Err(Failure::Surroundings);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// One event that the database cannot hold must not take its neighbours with it.
    async fn store_one_by_one(
        &self,
        events: Vec<NewEvent>,
        ids: Vec<String>,
        mut waiters: BTreeMap<String, Vec<Waiter>>,
        deadline: Instant,
    ) {
        for (event, id) in events.into_iter().zip(ids) {
            let Some(group) = waiters.remove(&id) else { continue };
            let group = BTreeMap::from([(id, group)]);
            match self.insert(std::slice::from_ref(&event)).await {
                Ok(recorded) => self.answer(group, &recorded.into_iter().collect()),
                Err(error) => {
                    let refused = blame(&error) == Blame::Data && Instant::now() < deadline;
                    for waiter in group.into_values().flatten() {
                        let _ = waiter.answer.send(Err(if refused {
                            ReceiveError::Refused(data_message(&error))
                        } else {
                            ReceiveError::Unavailable
                        }));
                    }
                }
            }
        }
    }

    fn answer(&self, waiters: BTreeMap<String, Vec<Waiter>>, recorded: &HashSet<String>) {
        let mut news = false;
        for (id, group) in waiters {
            let mut new = recorded.contains(&id);
            for waiter in group {
                let receipt = match (std::mem::take(&mut new), waiter.skipped) {
                    (false, _) => Receipt::Duplicate,
                    (true, true) => Receipt::Skipped,
                    (true, false) => Receipt::Recorded,
                };
                news |= receipt == Receipt::Recorded;
                let _ = waiter.answer.send(Ok(receipt));
            }
        }
        if news {
            self.nudge.notify_one();
        }
    }
}

enum Failure {
    Surroundings,
    Data(Vec<NewEvent>),
}

struct Waiter {
    skipped: bool,
    deadline: Instant,
    answer: oneshot::Sender<Result<Receipt, ReceiveError>>,
    #[expect(dead_code, reason = "held until the answer is given: it is the event's share of the queue's bytes")]
    room: OwnedSemaphorePermit,
}

/// One row for each id, in the order of the ids, and all who wait for it.
fn fold(batch: Vec<Waiting>) -> (Vec<NewEvent>, BTreeMap<String, Vec<Waiter>>) {
    let mut events: BTreeMap<String, NewEvent> = BTreeMap::new();
    let mut waiters: BTreeMap<String, Vec<Waiter>> = BTreeMap::new();
    for Waiting { event, skipped, deadline, answer, room } in batch {
        if answer.is_closed() {
            continue;
        }
        let id = event.event_id.to_string();
        waiters.entry(id.clone()).or_default().push(Waiter { skipped, deadline, answer, room });
        events.entry(id).or_insert(event);
    }
    (events.into_values().collect(), waiters)
}

fn data_message(error: &DbErr) -> String {
    // The database's own words may quote the payload; its first line does not.
    let text = error.to_string();
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}
