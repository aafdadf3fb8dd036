//! Puts a server's parts together; nothing runs yet but the writers of the inbox and the feed.

use std::{net::SocketAddr, sync::Arc};

use billing::{
    changes::Feed,
    db::Db,
    inbox::{Commit, CommitWatch, Inbox, InboxOptions},
    processor::{Observer, Outcome, Pass, Processor, ProcessorOptions},
    refresh::Refresher,
    signature::{SecretError, Tolerance, WebhookSecret},
};
use metrics::{Metrics, labels::EventOutcome};
use scheduler::Tools;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Edge, Figures, Token},
    background::Background,
    config::{Config, Secret},
    jobs::{self, Ground},
    mailing::Mailing,
    observe,
    serve::{Parts, ServeError},
    stripe,
};

/// Everything of a server.
pub(crate) struct Assembled {
    pub(crate) app: App,
    /// They end once nothing can come into the inbox any more.
    pub(crate) writers: Vec<JoinHandle<()>>,
    /// Where this process applies events.
    pub(crate) processor: Option<Processor>,
    /// Told of every pass, the processor's and those of jobs.
    pub(crate) passes: Observer,
    /// Where this process runs jobs.
    pub(crate) tools: Option<Tools>,
    /// Where there is a mail server.
    pub(crate) mailing: Option<Mailing>,
}

/// The name of this process among others.
pub(crate) fn name(address: SocketAddr) -> String {
    format!("{}/{address}", hostname())
}

/// Puts everything together. The feed ends when `stop` is cancelled.
pub(crate) fn assemble(
    config: &Config,
    db: &Db,
    address: SocketAddr,
    parts: Parts,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> Result<Assembled, ServeError> {
    let catalog = Arc::new(config.catalog.clone());
    let policy = Arc::new(config.policy.clone());
    let secrets: Result<Arc<[WebhookSecret]>, SecretError> =
        config.webhook_secrets.iter().map(|secret| WebhookSecret::parse(secret.expose())).collect();
    let metrics = Arc::clone(metrics);
    let stripe = stripe::client(config, Some(Arc::clone(&metrics)))?;
    let mailing = Mailing::of(config, &catalog, &metrics, name(address)).map_err(ServeError::Template)?;
    let nudge = Arc::new(Notify::new());
    let commits = {
        let metrics = Arc::clone(&metrics);
        CommitWatch::new(move |Commit { events, seconds, stored }| metrics.inbox_committed(events, seconds, stored))
    };
    let (inbox, writers) = Inbox::start(&db.reserved(), InboxOptions { commits, ..config.inbox.clone() }, &nudge);
    let feed = Feed::start(db.clone(), stop.clone());
    let options = ProcessorOptions { holder: name(address), ..config.processor.clone() };
    let processor = Processor::new(db.clone(), Arc::clone(&catalog), Arc::clone(&policy), options, stripe.clone());
    let alone = || Some(Refresher::new(db.clone(), Arc::clone(&catalog), Arc::clone(&policy), stripe.clone()?));
    let refresher = if parts.processor { processor.refresher() } else { alone() };
    let passes = passes(&metrics, &feed, mailing.as_ref());
    let tools = parts.scheduler.then(|| {
        jobs::tools(
            config,
            Ground {
                stripe: stripe.clone(),
                processor: processor.clone(),
                passes: Arc::clone(&passes),
                nudge: Arc::clone(&nudge),
                mailer: mailing.as_ref().map(Mailing::mailer),
                metrics: Arc::clone(&metrics),
                feed: Some(feed.clone()),
            },
        )
    });
    let token = |secret: &Secret| Token::new(secret.expose());
    let app = App {
        db: db.clone(),
        catalog,
        policy,
        inbox,
        intake: Arc::new(config.intake_rules.clone()),
        secrets: secrets?,
        tolerance: Tolerance::default(),
        api_token: config.api_token.as_ref().map(token),
        admin_token: config.admin_token.as_ref().map(token),
        metrics: Arc::clone(&metrics),
        beat: parts.processor.then(Arc::default),
        nudge,
        stripe,
        refresher,
        feed,
        background: Background::default(),
        jobs: jobs::registry(config),
        scheduler: None,
        edge: edge(config),
    };
    for job in app.jobs.iter() {
        metrics.job_enabled(job.spec.name, parts.scheduler && job.settings.enabled);
    }
    let processor = parts.processor.then_some(processor);
    Ok(Assembled { app, writers, processor, passes, tools, mailing })
}

fn edge(config: &Config) -> Edge {
    let edge = &config.edge;
    Edge {
        figures: match (&edge.metrics_listen, &edge.metrics_token) {
            (Some(_), _) => Figures::Elsewhere,
            (None, Some(token)) => Figures::Behind(Token::new(token.expose())),
            (None, None) => Figures::Open,
        },
        docs: edge.docs,
        trusted_proxies: edge.trusted_proxies.clone().into(),
        cors_origins: edge.cors_origins.clone().into(),
    }
}

/// What follows a pass that applied events: figures, news for hosts that wait, e-mails.
fn passes(metrics: &Arc<Metrics>, feed: &Feed, mailing: Option<&Mailing>) -> Observer {
    let (metrics, feed, mail) = (Arc::clone(metrics), feed.clone(), mailing.map(Mailing::nudge));
    Arc::new(move |pass| {
        told(&metrics, pass);
        if pass.changes > 0 {
            feed.ring();
        }
        if let Some(mail) = mail.as_ref().filter(|_| pass.emails > 0) {
            mail.notify_one();
        }
    })
}

/// What a pass did, for Prometheus.
fn told(metrics: &Metrics, pass: &Pass) {
    for (outcome, events) in &pass.outcomes {
        let outcome = match outcome {
            Outcome::Applied => EventOutcome::Applied,
            Outcome::Stale => EventOutcome::Stale,
            Outcome::Parked => EventOutcome::Parked,
            Outcome::Skipped => EventOutcome::Skipped,
            Outcome::Postponed => EventOutcome::Postponed,
            Outcome::Retried => EventOutcome::Retried,
            Outcome::Failed => EventOutcome::Failed,
        };
        metrics.events_done(outcome, *events);
    }
    for (reason, events) in &pass.skipped {
        metrics.events_skipped(observe::skip_label(*reason), *events);
    }
    for (events, seconds) in &pass.batches {
        metrics.batch_applied(*events, *seconds);
    }
    for seconds in &pass.lags {
        metrics.event_applied_after(*seconds);
    }
    metrics.entitlements_changed(pass.changes);
    metrics.claims_rescued(pass.rescued);
}

/// The machine's name, as far as it is told.
pub(crate) fn hostname() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    let told = told.or_else(|| std::env::var("COMPUTERNAME").ok()).unwrap_or_default();
    let name = told.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}
