//! Starts everything, and stops it in order.
//!
//! Start: database (waited for), listener, schema, own claims given back, writers, processor, scheduler, HTTP. The listener comes first of what
//! leaves a trace: whoever finds the address taken must not touch the claims of the process that has it.
//!
//! Stop, on SIGTERM or Ctrl-C, within 10 seconds: no new connections, and no job is begun; what is in flight is answered, while jobs that run
//! end or are interrupted; the writers write what waits; the processor finishes or gives back its batch; the pool closes. A second Ctrl-C stops at once.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use billing::{
    catalog::Catalog,
    db::{Blame, Db, Refusal, blame},
    mail::TemplateError,
    panics::{supervised, survived},
    policy::Policy,
    processor::{Beat, Observer, Processor},
    refresh::Refresher,
    reprojection::{Reprojected, reproject_if_rules_changed},
    signature::SecretError,
    stripe::ClientError,
};
use metrics::Metrics;
use migration::{MigrateError, Target};
use scheduler::{BellError, Engine, EngineOptions};
use sea_orm::DbErr;
use tokio::{
    net::TcpListener,
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::Token,
    assemble::{Assembled, assemble, name},
    census,
    config::Config,
    http, jobs, scrape,
    server::{
        Limits, Server, files,
        tls::{self, Hangup, Tls, TlsError},
    },
};

/// How long the start waits for a database that is away.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two tries to reach it.
const PAUSE: Duration = Duration::from_secs(1);
/// For what is in flight when the server is told to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// For what requests have begun and nobody waits for.
const BACKGROUND: Duration = Duration::from_millis(750);
/// For the writers to write what waits.
const WRITERS: Duration = Duration::from_secs(1);
/// For the processor to finish or give back its batch.
const PROCESSOR: Duration = Duration::from_millis(2500);
/// For runs of jobs to end; their own bounds lie within, and count from the moment the server is told to stop.
const SCHEDULER: Duration = Duration::from_secs(4);
/// For the pool to close.
const POOL: Duration = Duration::from_millis(500);
/// Files that the process needs beside those of its connections and of the database: logs, Stripe, mail, itself.
const OTHER_FILES: usize = 128;
/// Connections of the figures' own listener.
const SCRAPERS: usize = 64;

/// Which parts run.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// Whether this process applies events.
    pub processor: bool,
    /// Whether this process runs jobs.
    pub scheduler: bool,
}

/// Where the server is.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    /// As bound.
    pub address: SocketAddr,
    /// Whether the server itself encrypts.
    pub encrypted: bool,
    /// Where the figures are, if they have a listener of their own.
    pub figures: Option<SocketAddr>,
}

impl Started {
    /// The server's URL, as seen from this machine.
    pub fn url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let scheme = if self.encrypted { "https" } else { "http" };
        format!("{scheme}://{address}")
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everything was finished or given back.
    InOrder,
    /// Told twice: at once, and claims run out by themselves.
    AtOnce,
}

/// Why the server could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The database.
    #[error("the database ({shown}) {wrong}; {right}")]
    Database {
        /// Which, without its password.
        shown: String,
        /// What is wrong.
        wrong: &'static str,
        /// What would help.
        right: &'static str,
        /// What the driver says.
        source: DbErr,
    },
    /// The schema.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The address.
    #[error("cannot listen on {listen}; stop what listens there, or let {variable} name another address and port")]
    Listen {
        /// Which setting.
        variable: &'static str,
        /// As configured.
        listen: String,
        /// What the system says.
        source: io::Error,
    },
    /// The signals.
    #[error("signals cannot be handled")]
    Signals(#[source] io::Error),
    /// A webhook secret.
    #[error("STRIPE_WEBHOOK_SECRET: {0}")]
    Secret(#[from] SecretError),
    /// The scheduler.
    #[error(transparent)]
    Scheduler(#[from] BellError),
    /// The client of Stripe's API.
    #[error(transparent)]
    Stripe(#[from] ClientError),
    /// A text of an e-mail.
    #[error("mail.templates: {0}")]
    Template(TemplateError),
    /// Certificate or key.
    #[error("TRUEUP_TLS_CERT, TRUEUP_TLS_KEY: {0}")]
    Tls(#[from] TlsError),
}

/// Runs until it is told to stop. `announce` is called once the address is bound and everything runs.
pub async fn run(
    config: Config,
    parts: Parts,
    metrics: Arc<Metrics>,
    announce: impl FnOnce(Started),
) -> Result<Stopped, ServeError> {
    let signals = Signals::install()?;
    tokio::select! {
        stopped = serve(config, parts, metrics, announce, signals.stop.clone()) => stopped,
        () = signals.at_once.cancelled() => {
            tracing::warn!("told twice to stop: stopping at once");
            Ok(Stopped::AtOnce)
        }
    }
}

async fn serve(
    config: Config,
    parts: Parts,
    metrics: Arc<Metrics>,
    announce: impl FnOnce(Started),
    stop: CancellationToken,
) -> Result<Stopped, ServeError> {
    let Some(db) = patiently(&config, &stop, || Db::connect(config.database_url.expose(), &config.database)).await?
    else {
        return Ok(Stopped::InOrder);
    };
    let db = db.observed(scrape::database_observer(&metrics));
    let encryption = config.edge.tls.clone().map(Tls::load).transpose()?;
    let (listener, address) = listen("TRUEUP_LISTEN", &config.listen).await?;
    let figures = match &config.edge.metrics_listen {
        Some(wanted) => Some(listen("TRUEUP_METRICS_LISTEN", wanted).await?),
        None => None,
    };
    migration::up(target(&db), None).await?;
    if parts.processor && migration::carry_over_again(target(&db), true).await? {
        tracing::info!("what the host changed since the adoption is carried over; from now on Stripe's word counts");
    }

    let Assembled { mut app, writers, processor, passes, tools, mailing } =
        assemble(&config, &db, address, parts, &metrics, &stop)?;
    let working = match processor {
        Some(processor) => {
            if let Some(mailing) = &mailing {
                let end_leases = || async { mailing.end_own_leases(&db).await };
                if patiently(&config, &stop, end_leases).await?.is_none() {
                    return Ok(Stopped::InOrder);
                }
            }
            let release = || async { processor.release_own().await };
            let Some(released) = patiently(&config, &stop, release).await? else { return Ok(Stopped::InOrder) };
            if released > 0 {
                tracing::info!(events = released, "gave back what this server had claimed before it was started anew");
            }
            let end = CancellationToken::new();
            let projecting = project_again(db.clone(), Arc::clone(&app.catalog), Arc::clone(&app.policy), end.clone());
            tokio::spawn(async move {
                if survived(projecting).await.is_err() {
                    tracing::error!(
                        after_panic = true,
                        "deriving users' tiers anew panicked, which is a bug in Trueup; it begins again at the next start"
                    );
                }
            });
            if let Some(refresher) = processor.refresher() {
                tokio::spawn(refetch(refresher, end.clone()));
            }
            let beat = app.beat.clone().unwrap_or_default();
            let mut working = vec![tokio::spawn(work(processor, Arc::clone(&app.nudge), passes, beat, end.clone()))];
            working.extend(mailing.map(|mailing| {
                let (db, end) = (db.clone(), end.clone());
                let sending = move || mailing.clone().run(db.clone(), end.clone());
                tokio::spawn(async move { supervised("sender of e-mails", sending).await })
            }));
            Some((end, working))
        }
        None => None,
    };
    let scheduler = match tools {
        Some(tools) => {
            let options = EngineOptions { runner: name(address), ..EngineOptions::default() };
            let observer = jobs::observer(&app.metrics, &app.jobs);
            let engine = Engine::start(db.clone(), app.jobs.clone(), tools, options, observer).await?;
            app.scheduler = Some(engine.handle());
            let told = stop.clone();
            Some(tokio::spawn(async move {
                told.cancelled().await;
                engine.stop().await;
            }))
        }
        None => None,
    };
    tokio::spawn(census::run(db.clone(), Arc::clone(&app.catalog), Arc::clone(&metrics), stop.clone()));
    if let Some(encryption) = encryption.clone() {
        let hangup = Hangup::listen().map_err(ServeError::Signals)?;
        let stop = stop.clone();
        let fresh = encryption.keep_fresh(tls::LOOK, hangup, stop);
        tokio::spawn(async move {
            if survived(fresh).await.is_err() {
                tracing::error!(
                    after_panic = true,
                    "looking at the certificate panicked, which is a bug in Trueup; start again to use a new one"
                );
            }
        });
    }
    let figures_at = figures.as_ref().map(|(_, address)| *address);
    announce(Started { address, encrypted: encryption.is_some(), figures: figures_at });
    let background = app.background.clone();
    let metrics = Arc::clone(&app.metrics);
    let scraped = figures.map(|(listener, _)| {
        let token = config.edge.metrics_token.as_ref().map(|token| Token::new(token.expose()));
        let limits = Limits { connections: SCRAPERS, ..config.edge.limits };
        let server = Server::new(listener, encryption.clone(), limits, Arc::clone(&metrics));
        tokio::spawn(server.run(http::figures(app.clone(), token), stop.clone(), DRAIN))
    });
    let server = Server::new(listener, encryption, limits(&config), metrics);
    server.run(http::routes(app), stop, DRAIN).await;
    if let Some(scraped) = scraped
        && let Err(error) = scraped.await
    {
        tracing::error!(%error, "the listener of the figures ended before its time");
    }

    if !background.end(BACKGROUND).await {
        tracing::warn!(
            "what runs in the background did not end in time; it is taken for dead soon, and begins anew when it is asked for"
        );
    }
    // The last request is answered or given up, and with it the last way into the inbox is gone: the writers end by themselves.
    if timeout(WRITERS, futures::future::join_all(writers)).await.is_err() {
        tracing::warn!(
            "the database did not take the last webhooks in time; Stripe was not told that it did and sends them again"
        );
    }
    if let Some(scheduler) = scheduler
        && timeout(SCHEDULER, scheduler).await.is_err()
    {
        tracing::warn!("the scheduler did not stop in time; leases of its jobs run out");
    }
    if let Some((end, working)) = working {
        end.cancel();
        if timeout(PROCESSOR, futures::future::join_all(working)).await.is_err() {
            tracing::warn!(
                "the processor did not finish its batch, or the mail server did not answer, in time; what was claimed is taken back at the next start"
            );
        }
    }
    match timeout(POOL, db.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the connections to the database did not close in order"),
        Err(_) => tracing::debug!("connections to the database were still busy"),
    }
    tracing::info!("stopped");
    Ok(Stopped::InOrder)
}

/// The database, to those who change its schema.
pub(crate) fn target(db: &Db) -> Target<'_> {
    Target::new(db.connection(), db.is_pooled())
}

async fn listen(variable: &'static str, wanted: &str) -> Result<(TcpListener, SocketAddr), ServeError> {
    let listening = |source| ServeError::Listen { variable, listen: wanted.to_owned(), source };
    let listener = TcpListener::bind(wanted).await.map_err(listening)?;
    let address = listener.local_addr().map_err(listening)?;
    Ok((listener, address))
}

/// Bounds of connections: no more than there are files for.
fn limits(config: &Config) -> Limits {
    let files = files::raise();
    let reserved = OTHER_FILES + SCRAPERS + config.database.max_connections as usize * 2;
    let most = files.saturating_sub(reserved).max(16);
    let wanted = config.edge.limits.connections;
    if wanted > most && config.edge.connections_set {
        tracing::warn!(
            wanted,
            most,
            files,
            "http.connections is more than the limit of open files allows; raise that limit (LimitNOFILE, ulimit -n)"
        );
    }
    Limits { connections: wanted.min(most), ..config.edge.limits }
}

/// Applies events until told to end. A panic ends one batch, whose lease runs out and is counted against its events; never the server.
async fn work(processor: Processor, nudge: Arc<Notify>, observer: Observer, beat: Arc<Beat>, end: CancellationToken) {
    loop {
        let run = processor.clone().run(Arc::clone(&nudge), end.clone(), Arc::clone(&observer), Arc::clone(&beat));
        let ended = tokio::spawn(run).await;
        if end.is_cancelled() {
            return;
        }
        if let Err(error) = ended {
            tracing::error!(%error, after_panic = true, "the processor panicked, which is a mistake in Trueup; starting it again");
        }
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Asks Stripe about what batches flag, until told to end.
async fn refetch(refresher: Refresher, end: CancellationToken) {
    while let Err(error) = tokio::spawn(refresher.clone().run(end.clone())).await {
        tracing::error!(%error, after_panic = true, "asking Stripe about subscriptions panicked, which is a mistake in Trueup; starting it again");
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Gives everybody what the plans and the policy say now, where these have changed since the last start; beside the requests, which
/// compute against now anyway. Cut off, it begins again at the next start.
async fn project_again(db: Db, catalog: Arc<Catalog>, policy: Arc<Policy>, end: CancellationToken) {
    loop {
        let result = tokio::select! {
            result = reproject_if_rules_changed(&db, &catalog, &policy) => result,
            () = end.cancelled() => return,
        };
        match result {
            Ok(done) if done.users == 0 => return,
            Ok(done) => {
                let Reprojected { users, changed } = done;
                tracing::info!(users, changed, "plans or policy changed: derived every user's tier again");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "users' tiers could not be derived again after a change of plans; trying again");
            }
        }
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(PAUSE * 5) => {}
        }
    }
}

/// Tries until the database answers, at most for [`PATIENCE`]; `None` where it was told to stop meanwhile.
async fn patiently<T, F, Fut>(config: &Config, stop: &CancellationToken, attempt: F) -> Result<Option<T>, ServeError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, DbErr>>,
{
    let begun = Instant::now();
    loop {
        let error = tokio::select! {
            result = attempt() => match result {
                Ok(value) => return Ok(Some(value)),
                Err(error) => error,
            },
            () = stop.cancelled() => return Ok(None),
        };
        let shown = config.database_shown();
        // A file that cannot be opened now cannot be opened in a minute; a lock goes away.
        let passing = blame(&error) == Blame::Surroundings
            && Refusal::of(&error).is_none()
            && (!config.is_sqlite() || error.to_string().contains("locked"));
        if !passing || begun.elapsed() + PAUSE > PATIENCE {
            return Err(out_of_reach(shown, passing, config.is_sqlite(), error));
        }
        let left = PATIENCE.saturating_sub(begun.elapsed()).as_secs();
        tracing::warn!(database = shown, %error, "the database does not answer; trying again for {left} s");
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// The mistake with its remedy.
pub(crate) fn out_of_reach(shown: String, passing: bool, sqlite: bool, source: DbErr) -> ServeError {
    if !sqlite && let Some(refusal) = Refusal::of(&source) {
        let (wrong, right) = refusal.told();
        return ServeError::Database { shown, wrong, right, source };
    }
    let (wrong, right) = match (passing, sqlite) {
        (true, true) => ("is locked by another program", "end that program, or let DATABASE_URL name another file"),
        (true, false) => ("did not answer", "start it, or correct the host and port in DATABASE_URL"),
        (false, true) => ("cannot be opened", "let DATABASE_URL name a file in a folder that this user may write to"),
        (false, false) => ("refused", "correct user, password and database name in DATABASE_URL"),
    };
    ServeError::Database { shown, wrong, right, source }
}

struct Signals {
    /// The first SIGTERM or Ctrl-C.
    stop: CancellationToken,
    /// Ctrl-C once more.
    at_once: CancellationToken,
}

impl Signals {
    #[cfg(unix)]
    fn install() -> Result<Self, ServeError> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
        let (stop, at_once) = (CancellationToken::new(), CancellationToken::new());
        let signals = Self { stop: stop.clone(), at_once: at_once.clone() };
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("told to stop: answering what is in flight");
            stop.cancel();
            interrupt.recv().await;
            at_once.cancel();
        });
        Ok(signals)
    }

    #[cfg(not(unix))]
    #[expect(clippy::unnecessary_wraps, reason = "as on Unix")]
    fn install() -> Result<Self, ServeError> {
        let (stop, at_once) = (CancellationToken::new(), CancellationToken::new());
        let signals = Self { stop: stop.clone(), at_once: at_once.clone() };
        tokio::spawn(async move {
            for token in [stop, at_once] {
                if tokio::signal::ctrl_c().await.is_err() {
                    return;
                }
                token.cancel();
            }
        });
        Ok(signals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_every_interface_is_shown_as_one_that_can_be_called() {
        let started =
            |address: &str, encrypted| Started { address: address.parse().unwrap(), encrypted, figures: None };
        let url = |address: &str| started(address, false).url();
        assert_eq!(started("127.0.0.1:8443", true).url(), "https://127.0.0.1:8443");
        assert_eq!(url("127.0.0.1:8000"), "http://127.0.0.1:8000");
        assert_eq!(url("0.0.0.0:8000"), "http://127.0.0.1:8000");
        assert_eq!(url("[::]:80"), "http://[::1]:80");
        assert_eq!(url("10.0.0.5:8000"), "http://10.0.0.5:8000");
    }
}
