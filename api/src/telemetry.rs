//! Log lines, to stderr.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::config::LogFormat;

/// What a server logs where nothing else is said.
pub(crate) const SERVER_FILTER: &str = "info,sqlx=warn,tokio_cron_scheduler=warn";

/// What a short command logs where nothing else is said: what it does is on stdout.
pub(crate) const COMMAND_FILTER: &str = "warn";

/// Begins to log. The filter was checked with the configuration; a second call changes nothing.
pub(crate) fn start(filter: &str, format: Option<LogFormat>) {
    let terminal = std::io::stderr().is_terminal();
    let filter = EnvFilter::builder().parse_lossy(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let _ = match format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json }) {
        LogFormat::Text => registry.with(lines.with_ansi(terminal)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_current_span(false)).try_init(),
    };
}
