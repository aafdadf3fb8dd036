//! Is it alive, is it ready, how is it doing.

use std::{fmt, sync::Arc, time::Duration};

use billing::{adoption, inbox::records, mail::outbox, reconcile};
use metrics::InboxDepth;
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
use crate::app::App;

/// How long a part may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a measurement of the inbox is good for: several scrapers cost no more than one.
const FRESH: Duration = Duration::from_secs(2);

/// A processor that has not been seen for so long is stuck: its loop turns at least every five seconds and a batch ends within ten.
const LIFELESS: Duration = Duration::from_secs(15);

#[derive(Clone)]
pub(super) struct HealthApi {
    app: App,
    measured: Arc<Mutex<Option<Instant>>>,
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
    /// Whether it answers.
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
        let (database, migrations) = tokio::join!(self.database(), self.migrations());
        let (processor, scheduler) = (self.processor(), self.scheduler());
        let ready = [&database, &migrations, &processor, &scheduler].iter().all(|part| part.state == PartState::Ok);
        let answer = Answer(Readiness { ready, database, migrations, processor, scheduler });
        if ready { ReadinessAnswer::Ready(answer) } else { ReadinessAnswer::NotReady(answer) }
    }

    /// Figures for Prometheus
    #[oai(path = "/metrics", method = "get", operation_id = "metrics", tag = "Tag::Health")]
    async fn metrics(&self) -> Exposition {
        self.measure().await;
        self.app.metrics.deliveries_waiting(self.app.inbox.waiting());
        Exposition(self.app.metrics.render())
    }
}

impl HealthApi {
    pub(super) fn new(app: App) -> Self {
        Self { app, measured: Arc::default() }
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

    /// Brings the gauges of the inbox up to date. A scrape never fails for it: without the database the last ones stay.
    async fn measure(&self) {
        let mut measured = self.measured.lock().await;
        if measured.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let metrics = &self.app.metrics;
        let measuring = async { tokio::try_join!(records::depth(&self.app.db), outbox::pending(&self.app.db)) };
        match timeout(PATIENCE, measuring).await {
            Ok(Ok((depth, emails))) => {
                metrics.emails_pending(emails);
                metrics.database_up(true);
                metrics.inbox_measured(&InboxDepth {
                    pending: depth.pending,
                    processing: depth.processing,
                    failed: depth.failed,
                    parked: depth.parked,
                    oldest_pending_seconds: depth.oldest_pending_seconds,
                    oldest_processing_seconds: depth.oldest_processing_seconds,
                });
            }
            Ok(Err(error)) => {
                metrics.database_up(false);
                tracing::warn!(%error, "the inbox could not be measured");
            }
            Err(_) => {
                metrics.database_up(false);
                tracing::warn!("the inbox could not be measured in time");
            }
        }
        if let Ok(Ok(Some(at))) = timeout(PATIENCE, reconcile::records::last_complete(&self.app.db)).await {
            metrics.reconcile_last_complete(at.timestamp());
        }
        if let Ok(Ok(waits)) = timeout(PATIENCE, adoption::awaits_release(self.app.db.reader())).await {
            metrics.reconcile_awaiting_release(waits);
        }
        *measured = Some(Instant::now());
    }
}
