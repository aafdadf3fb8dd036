//! What `/metrics` measures when it is asked, and what it cannot: each part by itself, so that one that fails takes no other along.
//!
//! A scrape never fails and never hangs for the database: a part that does not answer in time is left out, and says so. A part is measured by
//! one task at a time, however many ask and however they give up, and what it found serves everybody for a moment; so a slow database is asked
//! once and not by every scrape again.

mod part;

use std::{fmt, sync::Arc, time::Duration};

use billing::{
    adoption,
    db::{Db, DbNews, DbObserver, Fault},
    inbox::records,
    mail::outbox,
    reconcile, usage,
};
use metrics::{
    InboxDepth, Metrics, Pool,
    labels::{QueryError, ScrapePart},
};
use scheduler::{Registry, control};
use sea_orm::DbErr;

use self::part::Part;
use crate::app::App;

/// How long a scrape waits for a part.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a measurement is good for: several scrapers cost no more than one.
const FRESH: Duration = Duration::from_secs(2);

/// Measures.
#[derive(Clone)]
pub(crate) struct Scrape(Arc<Inner>);

struct Inner {
    app: App,
    inbox: Part,
    usage: Part,
    jobs: Part,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").finish_non_exhaustive()
    }
}

impl Scrape {
    pub(crate) fn new(app: App) -> Self {
        Self(Arc::new(Inner { app, inbox: Part::default(), usage: Part::default(), jobs: Part::default() }))
    }

    /// Everything for Prometheus.
    pub(crate) async fn text(&self) -> String {
        let Inner { app, inbox, usage, jobs } = &*self.0;
        tokio::join!(
            self.part(inbox, ScrapePart::Inbox, measure_inbox),
            self.part(usage, ScrapePart::Usage, measure_usage),
            self.part(jobs, ScrapePart::Jobs, measure_jobs),
        );
        // Last: what waits for a connection now has waited while the others were measured.
        match app.db.pool() {
            Some(pool) => app.metrics.pool_measured(Pool {
                idle: pool.idle,
                in_use: pool.in_use,
                waiting: pool.waiting,
                most: pool.most,
            }),
            None => app.metrics.part_unknown(ScrapePart::Pool),
        }
        app.metrics.deliveries_waiting(app.inbox.waiting());
        app.metrics.render()
    }

    async fn part<F>(&self, part: &Part, label: ScrapePart, measure: impl FnOnce(Db, Arc<Metrics>, Registry) -> F)
    where
        F: Future<Output = Result<(), DbErr>> + Send + 'static,
    {
        let App { db, metrics, jobs, .. } = &self.0.app;
        let work = || {
            let measuring = measure(db.clone(), Arc::clone(metrics), jobs.clone());
            let metrics = Arc::clone(metrics);
            async move {
                let result = measuring.await;
                if label == ScrapePart::Inbox {
                    metrics.database_up(result.is_ok());
                }
                if let Err(error) = result {
                    metrics.part_unknown(label);
                    tracing::warn!(%error, part = label.as_str(), "a part of the metrics could not be measured");
                }
            }
        };
        if !part.measured(FRESH, PATIENCE, work).await {
            metrics.part_unknown(label);
            if label == ScrapePart::Inbox {
                metrics.database_up(false);
            }
            tracing::warn!(part = label.as_str(), "a part of the metrics could not be measured in time");
        }
    }
}

async fn measure_inbox(db: Db, metrics: Arc<Metrics>, _: Registry) -> Result<(), DbErr> {
    let depth = records::depth(&db).await?;
    let emails = outbox::pending(&db).await?;
    metrics.inbox_measured(&InboxDepth {
        pending: depth.pending,
        processing: depth.processing,
        failed: depth.failed,
        parked: depth.parked,
        oldest_pending_seconds: depth.oldest_pending_seconds,
        oldest_processing_seconds: depth.oldest_processing_seconds,
        emails,
    });
    Ok(())
}

async fn measure_usage(db: Db, metrics: Arc<Metrics>, _: Registry) -> Result<(), DbErr> {
    let overdue = usage::overdue(&db).await?;
    metrics.usage_measured(overdue.users, overdue.oldest_seconds);
    Ok(())
}

async fn measure_jobs(db: Db, metrics: Arc<Metrics>, registry: Registry) -> Result<(), DbErr> {
    let paused = control::paused(&db, &registry).await?;
    let reconciled = reconcile::records::last_complete(&db).await?;
    metrics.reconcile_awaiting_release(adoption::awaits_release(db.reader()).await?);
    metrics.jobs_measured(paused, reconciled.map(|at| at.timestamp()));
    Ok(())
}

/// Tells metrics of everything that is asked of the database.
pub(crate) fn database_observer(metrics: &Arc<Metrics>) -> DbObserver {
    let metrics = Arc::clone(metrics);
    Arc::new(move |news| match news {
        DbNews::Answered { seconds } => metrics.query_answered_after(seconds),
        DbNews::GaveUp { seconds } => metrics.connection_acquired_after(seconds),
        DbNews::Failed { fault } => metrics.query_failed(match fault {
            Fault::PoolTimeout => QueryError::PoolTimeout,
            Fault::Connection => QueryError::Connection,
            Fault::Timeout => QueryError::Timeout,
            Fault::Conflict => QueryError::Conflict,
            Fault::Resources => QueryError::Resources,
            Fault::Constraint => QueryError::Constraint,
            Fault::Data => QueryError::Data,
            Fault::Other => QueryError::Other,
        }),
    })
}
