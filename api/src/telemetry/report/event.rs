//! A log line as an event of Sentry.

use std::borrow::Cow;

use sentry::{
    Breadcrumb,
    integrations::backtrace::current_stacktrace,
    protocol::{Event, Exception, Map, Values},
};
use serde_json::Value;

use super::trail::{Fields, Trail, level};

/// Fields by which people look for an event, whatever span or line tells them.
const TAGS: &[&str] = &["event_id", "event_type", "job", "kind", "method", "outcome", "reconciliation", "route", "run"];

/// The event, and whether somebody else has seen to it that it is told once only.
pub(super) fn of(line: &tracing::Event<'_>, around: Vec<Trail>) -> (Event<'static>, bool) {
    let mut told = Fields::default();
    line.record(&mut told);
    let metadata = line.metadata();
    let message = told.message().unwrap_or_else(|| metadata.name().to_owned());
    let mut fields: Map<String, Value> = told.0;
    let mut tags = Map::new();
    let mut steps: Vec<Breadcrumb> = Vec::new();
    for trail in around {
        for (name, value) in trail.fields {
            // The span of a request names its id shortly.
            let name = if trail.name == "request" && name == "id" { "request_id".to_owned() } else { name };
            if name == "request_id" {
                tags.insert(name, text(&value));
            } else {
                fields.entry(name).or_insert(value);
            }
        }
        steps.extend(trail.steps);
    }
    steps.sort_by_key(|step| step.timestamp);
    for tag in TAGS {
        if let Some(value) = fields.remove(*tag) {
            tags.insert((*tag).to_owned(), text(&value));
        }
    }
    let once = fields.remove("first_failure").is_some();
    let tag = |name: &str| tags.get(name).cloned().unwrap_or_default();
    let field = |name: &str| fields.get(name).map(text);
    let panic = field("panic");
    let fingerprint: Vec<String> = match (&panic, field("fingerprint")) {
        (Some(location), _) => vec!["panic".to_owned(), location.clone()],
        (None, Some(fingerprint)) => vec!["event".to_owned(), fingerprint],
        (None, None) => vec![message.clone(), metadata.target().to_owned(), tag("job"), tag("route")],
    };
    let error = panic
        .as_ref()
        .map_or_else(|| field("error"), |at| Some(format!("{} at {at}", field("said").unwrap_or_default())));
    let exception = error.map(|value| Exception {
        ty: if panic.is_some() { "panic".to_owned() } else { message.clone() },
        value: Some(value),
        stacktrace: panic.is_some().then(current_stacktrace).flatten(),
        ..Exception::default()
    });
    let event = Event {
        level: level(*metadata.level()),
        logger: Some(metadata.target().to_owned()),
        // Where there is an exception it is what people read; a message beside it would be shown in its place.
        message: exception.is_none().then(|| message.clone()),
        transaction: Some(tag("route")).filter(|route| !route.is_empty()).or_else(|| tags.get("job").cloned()),
        fingerprint: fingerprint.into_iter().map(Cow::Owned).collect::<Vec<_>>().into(),
        exception: Values { values: exception.into_iter().collect() },
        breadcrumbs: Values { values: steps },
        tags,
        extra: fields,
        ..Event::default()
    };
    (event, once)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
