//! Nothing leaves this process that is a payload, an e-mail address or a secret.
//!
//! No log line is meant to hold any of them; this is the second lock. An error of a database may quote what it was given.

use std::borrow::Cow;

use sentry::protocol::{Event, Map, Value};

/// Longest text that is sent, in characters.
const LONGEST: usize = 1000;

/// Longest text in quotation marks that may be a name of the schema.
const LONGEST_NAME: usize = 63;

/// How secrets begin.
const SECRETS: &[&str] = &["sk_", "rk_", "pk_", "whsec_", "sbp_", "xox", "eyJ"];

/// The event without any of that.
pub(super) fn event(mut event: Event<'static>) -> Event<'static> {
    let optional = |text: &mut Option<String>| {
        if let Some(text) = text {
            clean(text);
        }
    };
    optional(&mut event.message);
    event.tags.values_mut().for_each(clean);
    map(&mut event.extra);
    for exception in &mut event.exception.values {
        clean(&mut exception.ty);
        optional(&mut exception.value);
        // Variables and source lines are never gathered; should a later version do so, they stay here.
        for frame in exception.stacktrace.iter_mut().flat_map(|stack| &mut stack.frames) {
            frame.vars.clear();
        }
    }
    for step in &mut event.breadcrumbs.values {
        optional(&mut step.message);
        map(&mut step.data);
    }
    event.user = None;
    event.request = None;
    event
}

fn map(values: &mut Map<String, Value>) {
    values.values_mut().for_each(value);
}

fn value(value: &mut Value) {
    match value {
        Value::String(text) => clean(text),
        Value::Array(items) => items.iter_mut().for_each(self::value),
        Value::Object(fields) => fields.values_mut().for_each(self::value),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn clean(text: &mut String) {
    let cleaned = scrubbed(text);
    *text = cleaned;
}

/// The text without JSON, without what is quoted and no name, without addresses and secrets.
fn scrubbed(text: &str) -> String {
    let text = without_json(text);
    let text = without_quotes(text);
    let mut out = String::with_capacity(text.len());
    let ends = |c: char| {
        c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | ';' | '(' | ')' | '<' | '>' | '[' | ']' | '=' | '|')
    };
    for piece in text.split_inclusive(ends) {
        let word = piece.trim_end_matches(ends);
        out.push_str(&word_of(word));
        out.push_str(&piece[word.len()..]);
    }
    if out.chars().count() > LONGEST {
        out = out.chars().take(LONGEST).chain(['…']).collect();
    }
    out
}

/// What begins like JSON is left out, to the end: where it stops, only a reader of JSON could tell.
fn without_json(text: &str) -> &str {
    let begins = |rest: &str| {
        let mut inner = rest[1..].trim_start().chars();
        matches!(inner.next(), Some('"' | '\\' | '{' | '['))
    };
    let found = text.char_indices().find(|(at, c)| matches!(c, '{' | '[') && begins(&text[*at..]));
    found.map_or(text, |(at, _)| text[..at].trim_end())
}

/// What is quoted stays only where it can be the name of a table, column or constraint.
fn without_quotes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, part) in text.split('"').enumerate() {
        if index > 0 {
            out.push('"');
        }
        let is_name = part.chars().count() <= LONGEST_NAME
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.'));
        out.push_str(if index % 2 == 1 && !is_name { "…" } else { part });
    }
    out
}

fn word_of(word: &str) -> Cow<'_, str> {
    if let Some((scheme, rest)) = word.split_once("://")
        && let Some((_, host)) = rest.rsplit_once('@')
    {
        return format!("{scheme}://…@{host}").into();
    }
    if word.contains('@') && !word.starts_with('@') && !word.ends_with('@') {
        return "[address]".into();
    }
    if SECRETS.iter().any(|beginning| word.starts_with(beginning)) || may_be_token(word) {
        return "[secret]".into();
    }
    word.into()
}

/// A long word of letters and digits that is neither a UUID nor one of Stripe's ids, which have a short beginning before an underscore.
fn may_be_token(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let mixed = word.contains(|c: char| c.is_ascii_digit()) && word.contains(|c: char| c.is_ascii_alphabetic());
    let is_id = uuid::Uuid::parse_str(word).is_ok()
        || word.split_once('_').is_some_and(|(begin, _)| (2..=6).contains(&begin.len()));
    word.len() >= 32 && plain && mixed && !is_id
}

#[cfg(test)]
mod tests {
    use sentry::{
        Breadcrumb,
        protocol::{Exception, Values},
    };

    use super::*;

    #[test]
    fn addresses_secrets_and_payloads_are_left_out_of_any_text() {
        for (given, left) in [
            (
                "Key (lower(email))=(ann.lee@example.com) already exists",
                "Key (lower(email))=([address]) already exists",
            ),
            ("cannot reach postgres://trueup:hunter2@db:5432/x", "cannot reach postgres://…@db:5432/x"),
            ("refused sk_live_51abc, asked with whsec_x", "refused [secret], asked with [secret]"),
            ("token 4f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c refused", "token [secret] refused"),
            (r#"cannot read {"id":"evt_1","email":"a@b.c"} at all"#, "cannot read"),
            (r#"invalid input for json: "Ann Lee, 5 High Street""#, r#"invalid input for json: "…""#),
            (r#"duplicate key violates "users_email_key""#, r#"duplicate key violates "users_email_key""#),
            (
                "event evt_1NG8Du2eZvKYlo2CUI79vXWy of job 018f9a4e-7f9b-7c7e-9a3b-0123456789ab",
                "event evt_1NG8Du2eZvKYlo2CUI79vXWy of job 018f9a4e-7f9b-7c7e-9a3b-0123456789ab",
            ),
        ] {
            assert_eq!(scrubbed(given), left);
        }
        assert!(scrubbed(&"word ".repeat(1000)).chars().count() <= LONGEST + 1);
    }

    #[test]
    fn every_part_of_an_event_is_scrubbed() {
        let address = "ann@example.com";
        let values = || Map::from_iter([("x".to_owned(), serde_json::json!({"deep": [address]}))]);
        let told = Event {
            message: Some(address.into()),
            tags: Map::from_iter([("x".to_owned(), address.to_owned())]),
            extra: values(),
            exception: Values {
                values: vec![Exception { ty: address.into(), value: Some(address.into()), ..Exception::default() }],
            },
            breadcrumbs: Values {
                values: vec![Breadcrumb { message: Some(address.into()), data: values(), ..Breadcrumb::default() }],
            },
            ..Event::default()
        };
        let sent = serde_json::to_string(&event(told)).expect("an event is JSON");
        assert!(!sent.contains('@'), "{sent}");
        assert_eq!(sent.matches("[address]").count(), 7, "{sent}");
    }
}
