//! What a span knows, and the steps that were taken within it.

use std::{collections::VecDeque, fmt};

use sentry::{
    Breadcrumb, Level,
    protocol::{Map, Value},
};
use tracing::{
    Event,
    field::{Field, Visit},
    span::{Attributes, Record},
};

/// Steps that are kept; the oldest go first.
const STEPS: usize = 30;

#[derive(Debug, Clone)]
pub(super) struct Trail {
    /// Name of the span.
    pub(super) name: &'static str,
    pub(super) fields: Map<String, Value>,
    pub(super) steps: VecDeque<Breadcrumb>,
}

impl Trail {
    pub(super) fn of(attributes: &Attributes<'_>) -> Self {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        Self { name: attributes.metadata().name(), fields: fields.0, steps: VecDeque::new() }
    }

    pub(super) fn record(&mut self, values: &Record<'_>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        self.fields.extend(fields.0);
    }

    pub(super) fn step(&mut self, line: &Event<'_>) {
        let mut fields = Fields::default();
        line.record(&mut fields);
        let message = fields.message();
        if self.steps.len() >= STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back(Breadcrumb {
            category: Some(line.metadata().target().to_owned()),
            level: level(*line.metadata().level()),
            message,
            data: fields.0,
            ..Breadcrumb::default()
        });
    }
}

pub(super) fn level(level: tracing::Level) -> Level {
    match level {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warning,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG | tracing::Level::TRACE => Level::Debug,
    }
}

/// The fields of a line or span, by name.
#[derive(Debug, Default)]
pub(super) struct Fields(pub(super) Map<String, Value>);

impl Fields {
    /// Takes the message out.
    pub(super) fn message(&mut self) -> Option<String> {
        match self.0.remove("message") {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }
}
