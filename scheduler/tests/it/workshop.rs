//! A workshop: one fresh database, jobs that the test makes up, and engines over them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use billing::{
    catalog::Catalog,
    db::{Db, DbOptions, clock},
    policy::Policy,
    processor::{Processor, ProcessorOptions},
};
use chrono::TimeDelta;
use entity::{Time, enums::RunOutcome, job_runs, job_settings};
use futures::future::BoxFuture;
use scheduler::{
    Engine, EngineOptions, Job, JobContext, JobError, JobSettings, JobSpec, Missed, News, Registry, Tools,
};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder};
use serde_json::{Value, json};
use testkit::{Kind, TestDb};
use tokio::time::Instant;

/// What nothing here should ever take; the machine may be busy.
pub(crate) const LONG: Duration = Duration::from_mins(1);

type Body = dyn Fn(JobContext) -> BoxFuture<'static, Result<Value, JobError>> + Send + Sync;

/// A job that does what the test says.
#[derive(Clone)]
pub(crate) struct Made {
    spec: JobSpec,
    body: Arc<Body>,
}

impl Job for Made {
    type Report = Value;

    fn spec(&self) -> JobSpec {
        self.spec
    }

    async fn run(&self, context: &JobContext) -> Result<Value, JobError> {
        (self.body)(context.clone()).await
    }
}

pub(crate) const EVERY_SECOND: &str = "* * * * * *";
/// Comes no more while a test runs.
pub(crate) const RARELY: &str = "0 0 0 29 2 *";

/// A job of this schedule and policy.
pub(crate) fn job<F>(
    schedule: &'static str,
    missed: Missed,
    body: impl Fn(JobContext) -> F + Send + Sync + 'static,
) -> Made
where
    F: Future<Output = Result<Value, JobError>> + Send + 'static,
{
    let spec = JobSpec { name: "made_up", about: "For a test", schedule, timeout: LONG, missed };
    Made { spec, body: Arc::new(move |context| Box::pin(body(context))) }
}

/// A job that does nothing, and tells how often.
pub(crate) fn counting(schedule: &'static str, missed: Missed) -> (Made, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let made = job(schedule, missed, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok(json!({})) }
    });
    (made, count)
}

/// A job that runs until it is told to stop.
pub(crate) fn patient(schedule: &'static str, missed: Missed) -> Made {
    job(schedule, missed, |context| async move {
        context.stop.cancelled().await;
        Err(JobError::CutOff { report: None }.with(&json!({"stopped": true})))
    })
}

impl Made {
    pub(crate) fn within(mut self, timeout: Duration) -> Self {
        self.spec.timeout = timeout;
        self
    }

    pub(crate) fn registry(&self) -> Registry {
        Registry::new(vec![Box::new(self.clone())], JobSettings::of)
    }
}

pub(crate) struct Workshop {
    pub(crate) db: Db,
    pub(crate) database: TestDb,
    pub(crate) news: Arc<Mutex<Vec<News>>>,
}

impl Workshop {
    pub(crate) async fn new(database: TestDb) -> Self {
        let db = connect(&database).await;
        Self { db, database, news: Arc::default() }
    }

    pub(crate) fn options(runner: &str) -> EngineOptions {
        EngineOptions {
            runner: runner.to_owned(),
            // Longer than a busy machine lets a renewal wait.
            lease: Duration::from_secs(6),
            look: Duration::from_millis(300),
            grace: Duration::from_secs(2),
        }
    }

    /// With leases that a test can outlive.
    pub(crate) fn short_leases() -> EngineOptions {
        EngineOptions { lease: Duration::from_secs(2), ..Self::options("here") }
    }

    /// Where no run stops when it is told to.
    pub(crate) fn short_grace() -> EngineOptions {
        EngineOptions { grace: Duration::from_millis(100), ..Self::options("here") }
    }

    pub(crate) async fn start(&self, registry: Registry) -> Engine {
        self.start_as("here", registry).await
    }

    /// An engine with connections of its own, as another process would have.
    pub(crate) async fn start_as(&self, runner: &str, registry: Registry) -> Engine {
        self.start_with(Self::options(runner), registry).await
    }

    pub(crate) async fn start_with(&self, options: EngineOptions, registry: Registry) -> Engine {
        let db = connect(&self.database).await;
        let news = Arc::clone(&self.news);
        let observer = Arc::new(move |told: &News| news.lock().expect("nobody panicked").push(told.clone()));
        let tools = tools(&db);
        Engine::start(db, registry, tools, options, observer).await.expect("bells can be hung")
    }

    /// Waits until the job was looked at so many times more.
    pub(crate) async fn looks(&self, count: usize) {
        let looks = || self.told(|news| matches!(news, News::Looked { .. }));
        let before = looks();
        self.until(|_| looks() >= before + count).await;
    }

    /// Waits until a short lease that is held now would have run out, had nobody renewed it.
    pub(crate) async fn outlive_the_lease(&self) {
        let end = clock(self.db.reader()).await.expect("the database answers") + TimeDelta::milliseconds(2500);
        while clock(self.db.reader()).await.expect("the database answers") < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn told(&self, what: impl Fn(&News) -> bool) -> usize {
        self.news.lock().expect("nobody panicked").iter().filter(|news| what(news)).count()
    }

    /// Every run, oldest slot first.
    pub(crate) async fn runs(&self) -> Vec<job_runs::Model> {
        use job_runs::{Column, Entity};
        let runs = Entity::find().order_by_asc(Column::Slot).order_by_asc(Column::Attempt).all(self.db.reader());
        runs.await.expect("the database answers")
    }

    pub(crate) async fn outcomes(&self) -> Vec<&'static str> {
        self.runs().await.iter().map(|run| run.outcome.as_str()).collect()
    }

    /// Waits until this many runs are over, and gives all there are.
    pub(crate) async fn finished(&self, count: usize) -> Vec<job_runs::Model> {
        let over = |runs: &[job_runs::Model]| runs.iter().filter(|run| run.finished_at.is_some()).count();
        self.until(|runs| over(runs) >= count).await
    }

    pub(crate) async fn until(&self, reached: impl Fn(&[job_runs::Model]) -> bool) -> Vec<job_runs::Model> {
        let deadline = Instant::now() + LONG;
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        loop {
            looks.tick().await;
            let runs = self.runs().await;
            if reached(&runs) {
                return runs;
            }
            assert!(Instant::now() < deadline, "it never came to that: {runs:#?}");
        }
    }

    pub(crate) async fn sql(&self, sql: &str) {
        let tx = self.db.write().await.expect("the database answers");
        tx.execute_unprepared(sql).await.expect("the statement is right");
        tx.commit().await.expect("the database answers");
    }

    /// The database's clock, so many seconds ahead, as an expression.
    pub(crate) fn moment(&self, seconds: i64) -> String {
        match self.database.kind() {
            Kind::Postgres => format!("(clock_timestamp() + interval '{seconds} seconds')"),
            Kind::Sqlite => format!("strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '{seconds} seconds')"),
        }
    }

    /// What the database would know of a job that this schedule was seen for so many seconds ago.
    pub(crate) async fn seen(&self, seconds_ago: i64, schedule: &str) {
        let at = self.moment(-seconds_ago);
        self.sql("INSERT INTO job_leases (job) VALUES ('made_up')").await;
        self.sql(&format!(
            "INSERT INTO job_settings (job, schedule, slots_after) VALUES ('made_up', '{schedule}', {at})"
        ))
        .await;
    }

    pub(crate) async fn settings(&self) -> job_settings::Model {
        let row = job_settings::Entity::find_by_id("made_up").one(self.db.reader()).await;
        row.expect("the database answers").expect("the job has been seen")
    }

    pub(crate) async fn count(&self, outcome: RunOutcome) -> usize {
        let runs = job_runs::Entity::find().filter(job_runs::Column::Outcome.eq(outcome)).all(self.db.reader());
        runs.await.expect("the database answers").len()
    }
}

pub(crate) async fn connect(database: &TestDb) -> Db {
    Db::connect(database.url(), &DbOptions::default()).await.expect("the test's database answers")
}

pub(crate) fn tools(db: &Db) -> Tools {
    let (catalog, policy) = (Arc::new(Catalog::default()), Arc::new(Policy::default()));
    let options = ProcessorOptions::default();
    let processor = Processor::new(db.clone(), Arc::clone(&catalog), Arc::clone(&policy), options, None);
    Tools::new(catalog, policy, processor)
}

/// Of each slot, how its attempts ended.
pub(crate) fn by_slot(runs: &[job_runs::Model]) -> BTreeMap<Time, Vec<&'static str>> {
    let mut slots: BTreeMap<Time, Vec<&'static str>> = BTreeMap::new();
    for run in runs {
        slots.entry(run.slot).or_default().push(run.outcome.as_str());
    }
    slots
}
