//! Errors and panics go to Sentry, from the log lines that tell of them.
//!
//! What is reported: every line of the level ERROR, once an hour for one cause; but of an event that cannot be applied only the line that says
//! its failure is new, on all processes together (`billing`), and of a panic only its own. With it goes what the spans around it know (request,
//! route, job, event) and the lines that came before within the same request, run or batch.
//!
//! `sentry`'s own layers for `tracing` keep these steps in a hub that lasts from one await to the next only (sentry-tracing 0.49,
//! `layer/span.rs`), so they are kept with the spans here.

mod event;
mod limit;
mod scrub;
mod trail;

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use billing::stripe::tls;
use sentry::{
    Client, ClientOptions, Transport, TransportFactory, TransportOptions,
    integrations::backtrace::ProcessStacktraceIntegration,
    transports::ReqwestHttpTransportOptions,
    types::{Dsn, ParseDsnError},
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    layer::{Context, Layer},
    registry::LookupSpan,
};

use self::{limit::Limit, trail::Trail};
use crate::config::Config;

/// For one report to be taken, its connection included.
const PATIENCE: Duration = Duration::from_secs(3);

/// Log lines of this target tell the steps of the work.
const STEPS: &str = "steps";

/// Why nothing can be reported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SentryError {
    /// The address.
    #[error("SENTRY_DSN: {0}; copy it from the project's settings at Sentry")]
    Dsn(#[from] ParseDsnError),
    /// The HTTP client.
    #[error("no client for Sentry could be made: {0}")]
    Client(Box<dyn std::error::Error + Send + Sync>),
}

/// The way to Sentry.
#[derive(Debug, Clone)]
pub(crate) struct Reports(Arc<Client>);

impl Reports {
    /// As configured; none without a DSN.
    pub(super) fn of(config: &Config) -> Result<Option<Self>, SentryError> {
        let Some(dsn) = &config.sentry_dsn else { return Ok(None) };
        let dsn: Dsn = dsn.expose().parse()?;
        let encrypted = dsn.scheme() == sentry::types::Scheme::Https;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("trueup/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .tls_backend_preconfigured(tls::config(encrypted).map_err(|error| SentryError::Client(error.into()))?);
        if !encrypted {
            // A proxy of the environment is for the world outside.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| SentryError::Client(error.into()))?;
        let mut options = ClientOptions::new();
        options.dsn = Some(dsn);
        options.release = Some(config.sentry_release.clone().into());
        options.environment = Some(config.sentry_environment.clone().into());
        options.server_name = Some(crate::assemble::hostname().into());
        options.send_default_pii = false;
        options.default_integrations = false;
        options.integrations = vec![Arc::new(ProcessStacktraceIntegration)];
        options.before_send = Some(Arc::new(|event| Some(scrub::event(event))));
        options.transport = Some(Arc::new(Http(http)));
        Ok(Some(Self(Arc::new(Client::with_options(options)))))
    }

    /// Sends what waits, for at most so long; nothing is reported any more. False where something had to be left.
    pub(crate) fn close(self, within: Duration) -> bool {
        // In a thread of its own: where the server at the other end is slow, the library waits longer than it is told, for room in its queue
        // and for what is on its way.
        let (done, closed) = mpsc::channel();
        let closing = thread::Builder::new().name("sentry-close".to_owned()).spawn(move || {
            let _ = done.send(self.0.close(Some(within)));
        });
        closing.is_ok() && closed.recv_timeout(within).unwrap_or(false)
    }
}

#[derive(Debug)]
struct Http(reqwest::Client);

impl TransportFactory for Http {
    fn create_transport_with_options(&self, options: TransportOptions) -> Arc<dyn Transport> {
        Arc::new(ReqwestHttpTransportOptions::from(options).with_client(self.0.clone()).build())
    }
}

/// What the reporter wants to see: spans, what is logged anyway, and the steps of the work.
pub(super) fn concerns(metadata: &Metadata<'_>) -> bool {
    metadata.target() != super::figures::ACQUIRED && (*metadata.level() <= Level::INFO || metadata.target() == STEPS)
}

/// Whether a line is a report; else it is a step on the way to one.
fn is_report(metadata: &Metadata<'_>) -> bool {
    let has = |name: &str| metadata.fields().field(name).is_some();
    let of_known_failure = has("fingerprint") && !has("first_failure");
    *metadata.level() == Level::ERROR && !of_known_failure && !has("after_panic")
}

/// Turns log lines into reports.
pub(super) struct Reporter {
    client: Arc<Client>,
    limit: Limit,
}

impl Reporter {
    pub(super) fn new(reports: &Reports) -> Self {
        Self { client: Arc::clone(&reports.0), limit: Limit::default() }
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Reporter {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Trail::of(attributes));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(trail) = span.extensions_mut().get_mut::<Trail>()
        {
            trail.record(values);
        }
    }

    fn on_event(&self, line: &Event<'_>, context: Context<'_, S>) {
        let mut spans: Vec<_> = context.event_scope(line).into_iter().flatten().collect();
        spans.reverse();
        let reported = is_report(line.metadata()).then(|| {
            let around = spans.iter().filter_map(|span| span.extensions().get::<Trail>().cloned());
            event::of(line, around.collect())
        });
        // The steps are kept with the outermost span: those within may be over by the time something goes wrong.
        if let Some(span) = spans.first()
            && let Some(trail) = span.extensions_mut().get_mut::<Trail>()
        {
            trail.step(line);
        }
        if let Some((event, once)) = reported
            && (once || self.limit.admits(&event.fingerprint))
        {
            self.client.capture_event(event, None);
        }
    }
}
