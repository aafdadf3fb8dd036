//! What a process tells of itself while it works: log lines on stderr, figures about them, errors to Sentry.
//!
//! - [`command`], [`server`]: begin to log
//! - `figures`: lines by level, and how long callers waited for a connection
//! - `panics`: what becomes of a panic
//! - `report`: errors and panics to Sentry

mod figures;
mod panics;
mod report;

use std::{io::IsTerminal, sync::Arc};

use metrics::Metrics;
use tracing_subscriber::{
    EnvFilter, Registry,
    filter::{FilterExt as _, filter_fn},
    fmt,
    layer::{Layer, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

pub(crate) use self::report::{Reports, SentryError};
use self::{figures::Acquired, figures::Lines, report::Reporter};
use crate::config::{Config, LogFormat};

/// What a server logs where nothing else is said.
const SERVER_FILTER: &str = "info,sqlx=warn,tokio_cron_scheduler=warn";

/// What a short command logs where nothing else is said: what it does is on stdout.
const COMMAND_FILTER: &str = "warn";

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;

/// Begins to log, for a short command. The filter was checked with the configuration; a second call changes nothing.
pub(crate) fn command(config: &Config) {
    let lines = lines(config).with_filter(filter(config, COMMAND_FILTER));
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

/// Begins to log, for a server: its lines are counted, its panics are log lines, and its errors go to Sentry where that is configured.
pub(crate) fn server(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Reports>, SentryError> {
    let reports = Reports::of(config)?;
    let lines = lines(config).and_then(Lines::new(metrics)).with_filter(filter(config, SERVER_FILTER));
    let acquired = Acquired::new(metrics).with_filter(filter_fn(|metadata| metadata.target() == figures::ACQUIRED));
    let reporter = reports.as_ref().map(|reports| Reporter::new(reports).with_filter(filter_fn(report::concerns)));
    let _ = tracing_subscriber::registry().with(lines).with(acquired).with(reporter).try_init();
    panics::log(Arc::clone(metrics));
    Ok(reports)
}

/// Lines for people on a terminal, else for programs.
fn lines(config: &Config) -> Boxed {
    let terminal = std::io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(std::io::stderr);
    match config.log_format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json }) {
        LogFormat::Text => lines.with_ansi(terminal).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    }
}

/// What is configured, without what is meant for figures only.
fn filter(config: &Config, default: &str) -> impl tracing_subscriber::layer::Filter<Registry> + 'static {
    let filter = EnvFilter::builder().parse_lossy(config.log.as_deref().unwrap_or(default));
    filter.and(filter_fn(|metadata| metadata.target() != figures::ACQUIRED))
}
