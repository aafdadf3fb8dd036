//! Is it alive, is it ready, how is it doing.

use std::{fmt, sync::Arc, time::Duration};

use billing::db::obstacle;
use poem_openapi::{ApiResponse, Enum, Object, OpenApi, payload::PlainText};
use serde::Serialize;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    Tag,
    body::{Answer, Exposition},
};
use crate::{app::App, scrape::Scrape};

/// How long a part may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a row that could be written tells that others can be.
const WRITTEN: Duration = Duration::from_secs(5);

/// How long a batch of webhooks that could not be stored tells that others cannot be either.
const TROUBLE: Duration = Duration::from_secs(10);

/// A processor that has not been seen for so long is stuck: its loop turns at least every five seconds and a batch ends within ten.
const LIFELESS: Duration = Duration::from_secs(15);

#[derive(Clone)]
pub(super) struct HealthApi {
    app: App,
    scrape: Scrape,
    /// When a row was written last, only to see whether it can be.
    written: Arc<Mutex<Option<Instant>>>,
}

impl fmt::Debug for HealthApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthApi").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Enum)]
#[serde(rename_all = "lowercase")]
#[oai(rename_all = "lowercase")]
enum PartState {
    Ok,
    Failed,
}

/// One part of the server.
#[derive(Debug, Serialize, Object)]
struct Part {
    /// How it is.
    state: PartState,
    /// What is wrong, or worth knowing.
    #[oai(nullable)]
    detail: Option<String>,
}

impl Part {
    fn ok() -> Self {
        Self { state: PartState::Ok, detail: None }
    }

    fn failed(detail: impl Into<String>) -> Self {
        Self { state: PartState::Failed, detail: Some(detail.into()) }
    }
}

/// Every part on which requests depend.
#[derive(Debug, Serialize, Object)]
struct Readiness {
    /// True where every part is well.
    ready: bool,
    /// Whether it answers and takes writes.
    database: Part,
    /// Whether the schema is that of this version.
    migrations: Part,
    /// Whether events are being applied.
    processor: Part,
    /// Whether jobs run when their time comes.
    scheduler: Part,
}

#[derive(ApiResponse)]
enum ReadinessAnswer {
    /// Every part is well.
    #[oai(status = 200)]
    Ready(Answer<Readiness>),
    /// Some part is not.
    #[oai(status = 503)]
    NotReady(Answer<Readiness>),
}

#[OpenApi]
impl HealthApi {
    /// The process lives
    #[oai(path = "/healthz", method = "get", operation_id = "healthz", tag = "Tag::Health")]
    #[expect(clippy::unused_async, reason = "the macro asks for it")]
    async fn healthz(&self) -> PlainText<&'static str> {
        PlainText("ok\n")
    }

    /// The server can do its work; each part reported
    #[oai(path = "/readyz", method = "get", operation_id = "readyz", tag = "Tag::Health")]
    async fn readyz(&self) -> ReadinessAnswer {
        let (mut database, migrations) = tokio::join!(self.database(), self.migrations());
        // What it is written to comes with the schema.
        if (database.state, migrations.state) == (PartState::Ok, PartState::Ok) {
            database = self.writes().await;
        }
        let (processor, scheduler) = (self.processor(), self.scheduler());
        let ready = [&database, &migrations, &processor, &scheduler].iter().all(|part| part.state == PartState::Ok);
        let answer = Answer(Readiness { ready, database, migrations, processor, scheduler });
        if ready { ReadinessAnswer::Ready(answer) } else { ReadinessAnswer::NotReady(answer) }
    }

    /// Figures for Prometheus
    #[oai(path = "/metrics", method = "get", operation_id = "metrics", tag = "Tag::Health")]
    async fn metrics(&self) -> Exposition {
        Exposition(self.scrape.text().await)
    }
}

impl HealthApi {
    pub(super) fn new(app: App) -> Self {
        Self { scrape: Scrape::new(app.clone()), app, written: Arc::default() }
    }

    async fn database(&self) -> Part {
        match timeout(PATIENCE, self.app.db.ping()).await {
            Ok(Ok(())) => Part::ok(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "not ready: the database does not answer");
                Part::failed("the database does not answer; the server's log tells why")
            }
            Err(_) => Part::failed(format!("the database did not answer within {} s", PATIENCE.as_secs())),
        }
    }

    /// What answers may still not be written. What could not be stored just now tells more than a small row that could: a disk that is full
    /// has room for one now and then.
    async fn writes(&self) -> Part {
        let unwritten = |why| Part::failed(format!("the database cannot be written: {why}"));
        if let Some((_, why)) = self.app.inbox.trouble().filter(|(ago, _)| *ago < TROUBLE) {
            return unwritten(why);
        }
        let mut written = self.written.lock().await;
        if written.is_some_and(|at| at.elapsed() < WRITTEN) {
            return Part::ok();
        }
        match timeout(PATIENCE, self.app.db.probe()).await {
            Ok(Ok(())) => {
                *written = Some(Instant::now());
                Part::ok()
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "not ready: the database cannot be written");
                unwritten(obstacle(&error))
            }
            Err(_) => Part::failed(format!("the database did not take a write within {} s", PATIENCE.as_secs())),
        }
    }

    async fn migrations(&self) -> Part {
        match timeout(PATIENCE, migration::pending(self.app.db.reader())).await {
            Ok(Ok(0)) => Part::ok(),
            Ok(Ok(pending)) => Part::failed(format!("{pending} not applied; run `trueup migrate up`")),
            Ok(Err(error)) => {
                tracing::warn!(%error, "not ready: the state of the migrations is not known");
                Part::failed("not known: the database did not tell; the server's log tells why")
            }
            Err(_) => Part::failed(format!("not known: no answer within {} s", PATIENCE.as_secs())),
        }
    }

    fn processor(&self) -> Part {
        match &self.app.beat {
            None => Part { state: PartState::Ok, detail: Some("this process runs none".to_owned()) },
            Some(beat) if beat.age() < LIFELESS => Part::ok(),
            Some(beat) => Part::failed(format!("not seen alive for {} s", beat.age().as_secs())),
        }
    }

    fn scheduler(&self) -> Part {
        match self.app.scheduler.as_ref().map(scheduler::Handle::lifeless) {
            None => Part { state: PartState::Ok, detail: Some("this process runs none".to_owned()) },
            Some(None) => Part::ok(),
            Some(Some((job, age))) => Part::failed(format!("{job}: not seen alive for {} s", age.as_secs())),
        }
    }
}
