//! Figures that log lines tell.

use std::sync::Arc;

use metrics::{Metrics, labels::LogLevel};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// Counts what is written.
pub(super) struct Lines(Arc<Metrics>);

impl Lines {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        Self(Arc::clone(metrics))
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.line_logged(match *event.metadata().level() {
            Level::ERROR => LogLevel::Error,
            Level::WARN => LogLevel::Warn,
            Level::INFO => LogLevel::Info,
            Level::DEBUG => LogLevel::Debug,
            Level::TRACE => LogLevel::Trace,
        });
    }
}

/// Where the pool tells how long a caller waited for a connection (sqlx-core 0.9, `pool/inner.rs`), and in which field.
pub(super) const ACQUIRED: &str = "sqlx::pool::acquire";
const SECONDS: &str = "acquired_after_secs";

/// Takes down how long callers waited for connections.
pub(super) struct Acquired(Arc<Metrics>);

impl Acquired {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        Self(Arc::clone(metrics))
    }
}

impl<S: Subscriber> Layer<S> for Acquired {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut seconds = Seconds(None);
        event.record(&mut seconds);
        if let Seconds(Some(seconds)) = seconds {
            self.0.connection_acquired_after(seconds);
        }
    }
}

struct Seconds(Option<f64>);

impl Visit for Seconds {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == SECONDS {
            self.0 = Some(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
