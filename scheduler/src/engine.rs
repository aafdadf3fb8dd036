//! Everything together: bells, drivers, and what a person may ask of them.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use billing::{db::Db, progress::Progress};
use futures::{FutureExt, future::join_all};
use sea_orm::DbErr;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Duration, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    JobRun, Registry, Tools, UnknownJob,
    cron::{BellError, Bells},
    driver::{Driver, State, give_up},
    history,
    lease::{self, Taken},
    news::{Beat, Observer},
    run::{Ground, see_through},
    settings::Planned,
};

/// Between two tries to go on after a panic.
const PAUSE: Duration = Duration::from_secs(1);

/// How the engine works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Name of this process in leases and history; of two that run, no two should share it.
    pub runner: String,
    /// How long a lease holds without being renewed: as long may the slots of a job rest whose process has died. Less than 10 minutes.
    pub lease: Duration,
    /// How often a job is looked at when nothing wakes its driver.
    pub look: Duration,
    /// How long a run that is told to stop may take to do so.
    pub grace: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            runner: "trueup".to_owned(),
            lease: Duration::from_secs(15),
            look: Duration::from_mins(1),
            grace: Duration::from_secs(2),
        }
    }
}

/// Why a job was not run.
#[derive(Debug, thiserror::Error)]
pub enum RunNowError {
    /// No such job.
    #[error(transparent)]
    Unknown(#[from] UnknownJob),
    /// It never runs beside itself.
    #[error("the job `{0}` is running right now; ask again when it has ended")]
    Running(&'static str),
    /// This process stops.
    #[error("this process is about to stop; ask again in a moment")]
    Stopping,
    /// The database.
    #[error("the job could not be taken up: {0}")]
    Database(#[from] DbErr),
}

/// Runs jobs by the clock until it is stopped.
pub struct Engine {
    handle: Handle,
    bells: Bells,
    drivers: Vec<JoinHandle<()>>,
    grace: Duration,
    /// An engine that is dropped rather than stopped begins nothing more.
    _dropped: DropGuard,
}

/// Asks a running engine. Cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    ground: Ground,
    registry: Registry,
    runner: Arc<str>,
    /// A driver that was not seen for so long is stuck.
    lifeless: Duration,
    stop: CancellationToken,
    posts: BTreeMap<&'static str, Post>,
}

/// Where a driver can be reached.
struct Post {
    ask: mpsc::Sender<Taken>,
    bell: Arc<Notify>,
    beat: Arc<Beat>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("runner", &self.0.runner).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts a driver for every job of the registry. Needs no database yet: drivers wait for it.
    pub async fn start(
        db: Db,
        registry: Registry,
        tools: Tools,
        options: EngineOptions,
        observer: Observer,
    ) -> Result<Self, BellError> {
        let EngineOptions { runner, lease, look, grace } = options;
        let ground = Ground { db, tools: Arc::new(tools), lease, grace, observer };
        let runner: Arc<str> = runner.into();
        let stop = CancellationToken::new();
        let (mut posts, mut drivers, mut bells) = (BTreeMap::new(), Vec::new(), Vec::new());
        for planned in registry.iter() {
            let (ask, asked) = mpsc::channel(1);
            let (bell, beat) = (Arc::<Notify>::default(), Arc::<Beat>::default());
            if planned.settings.enabled {
                bells.push((planned.settings.schedule.clone(), Arc::clone(&bell)));
            }
            posts.insert(planned.spec.name, Post { ask, bell: Arc::clone(&bell), beat: Arc::clone(&beat) });
            drivers.push(Driver {
                planned: planned.clone(),
                ground: ground.clone(),
                runner: Arc::clone(&runner),
                look,
                bell,
                asked,
                stop: stop.clone(),
                beat,
                state: State::default(),
            });
        }
        let bells = Bells::hang(bells).await?;
        let drivers = drivers.into_iter().map(|driver| tokio::spawn(supervise(driver))).collect();
        // A look takes as long as a wait for a connection and a few statements may take.
        let lifeless = look.max(lease) + Duration::from_mins(1);
        let dropped = stop.clone().drop_guard();
        let shared = Shared { ground, registry, runner, lifeless, stop, posts };
        Ok(Self { handle: Handle(Arc::new(shared)), bells, drivers, grace, _dropped: dropped })
    }

    /// For whoever asks this engine.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops in order: no slot is taken up any more; runs are told, waited for, and ended where they do not; their leases are given back.
    pub async fn stop(self) {
        self.handle.0.stop.cancel();
        self.bells.silence().await;
        let aborts: Vec<_> = self.drivers.iter().map(JoinHandle::abort_handle).collect();
        // The run's own bounds lie within.
        if timeout(self.grace + Duration::from_millis(1500), join_all(self.drivers)).await.is_err() {
            tracing::warn!("the scheduler did not stop in time; leases run out");
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
    }
}

/// A panic ends one turn of one driver, never the others.
async fn supervise(mut driver: Driver) {
    while AssertUnwindSafe(driver.run()).catch_unwind().await.is_err() {
        tracing::error!(
            job = driver.planned.spec.name,
            after_panic = true,
            "the scheduler panicked, which is a mistake in Trueup; going on with the job"
        );
        tokio::select! {
            () = driver.stop.cancelled() => return,
            () = sleep(PAUSE) => {}
        }
    }
}

impl Handle {
    /// Begins a run at once, also of a paused job, and returns as soon as it is written down. It is seen through in this process.
    pub async fn run_now(&self, name: &str) -> Result<JobRun, RunNowError> {
        let job = self.0.registry.find(name)?.spec.name;
        // In a task of its own: a caller who goes away leaves no run behind that was taken up and never begins.
        let shared = Arc::clone(&self.0);
        let begun = tokio::spawn(async move { shared.begin(job).await });
        begun.await.unwrap_or(Err(RunNowError::Stopping))
    }

    /// Lets a job be looked at now: something about it was changed.
    pub fn ring(&self, name: &str) {
        if let Some(post) = self.0.posts.get(name) {
            post.bell.notify_one();
        }
    }

    /// A job whose driver was not seen alive for too long, and how long.
    pub fn lifeless(&self) -> Option<(&'static str, Duration)> {
        let ages = self.0.posts.iter().map(|(job, post)| (*job, post.beat.age()));
        ages.max_by_key(|(_, age)| *age).filter(|(_, age)| *age >= self.0.lifeless)
    }
}

impl Shared {
    async fn begin(&self, job: &'static str) -> Result<JobRun, RunNowError> {
        let post = self.posts.get(job).ok_or(RunNowError::Stopping)?;
        if self.stop.is_cancelled() {
            return Err(RunNowError::Stopping);
        }
        let taken = lease::take_now(&self.ground.db, job, &self.runner, self.ground.lease).await?;
        let taken = taken.ok_or(RunNowError::Running(job))?;
        let run = JobRun::from(taken.run.clone());
        match post.ask.send(taken).await {
            Ok(()) => Ok(run),
            Err(mpsc::error::SendError(taken)) => {
                give_up(&self.ground, job, &taken).await;
                Err(RunNowError::Stopping)
            }
        }
    }
}

/// Runs a job in this process, under its lease, and returns its run when that is over. For a process without an engine.
pub async fn run_here(
    db: &Db,
    planned: &Planned,
    tools: Tools,
    options: &EngineOptions,
    stop: &CancellationToken,
    progress: Progress,
) -> Result<JobRun, RunNowError> {
    let EngineOptions { runner, lease, grace, .. } = options;
    let job = planned.spec.name;
    let ground =
        Ground { db: db.clone(), tools: Arc::new(tools), lease: *lease, grace: *grace, observer: Arc::new(|_| {}) };
    let taken = lease::take_now(db, job, runner, *lease).await?.ok_or(RunNowError::Running(job))?;
    let (id, begun) = (taken.run.id, JobRun::from(taken.run.clone()));
    see_through(&ground, planned, taken, stop, progress, &Arc::default()).await;
    Ok(history::run(db, id).await?.unwrap_or(begun))
}
