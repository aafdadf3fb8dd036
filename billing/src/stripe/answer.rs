//! What a reply says: an object, a page, an error, and when it was so.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use entity::Time;
use serde_json::value::RawValue;

use super::{Fetched, Listed, Page, Resource, StripeError, address::Target, retry::Ending};
use crate::{
    json_text::storable,
    lenient::{Flag, Obj, Text, lenient_struct},
};

/// Longest text of Stripe's that goes into an error, in characters.
const LONGEST_MESSAGE: usize = 300;

/// How far ahead of our clock a reply's `Date` may be to be believed. What is stamped too late would beat every event until then; clocks
/// that far apart would also refuse every webhook's signature.
const AHEAD_AT_MOST: TimeDelta = TimeDelta::minutes(10);

/// One reply, its body read.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// `Stripe-Should-Retry`.
    pub(super) should_retry: Option<bool>,
    /// `Stripe-Rate-Limited-Reason`, where it is there.
    pub(super) limited: Option<Limit>,
    /// `Request-Id`.
    pub(super) request: Option<String>,
    /// The second in which what it shows was so.
    pub(super) at: Time,
    pub(super) body: Vec<u8>,
}

/// The reasons that Stripe documents (docs.stripe.com/rate-limits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    GlobalRate,
    GlobalConcurrency,
    EndpointRate,
    EndpointConcurrency,
    Resource,
    Other,
}

impl Limit {
    pub(super) fn named(text: &str) -> Self {
        match text {
            "global-rate" => Self::GlobalRate,
            "global-concurrency" => Self::GlobalConcurrency,
            "endpoint-rate" => Self::EndpointRate,
            "endpoint-concurrency" => Self::EndpointConcurrency,
            "resource-specific" => Self::Resource,
            _ => Self::Other,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::GlobalRate => "too many calls of this account in a second",
            Self::GlobalConcurrency => "too many calls of this account at once",
            Self::EndpointRate => "too many calls of this kind in a second",
            Self::EndpointConcurrency => "too many calls of this kind at once",
            Self::Resource => "too many calls about this object",
            Self::Other => "too many calls",
        }
    }
}

/// How many seconds our clock is ahead of Stripe's, by the `Date` of a reply: it was told half-way between the request's sending and the
/// reply's head, and is cut to whole seconds.
pub(super) fn ahead(date: Option<&str>, sent: Time, took: Duration) -> Option<f64> {
    let date = DateTime::parse_from_rfc2822(date?).ok()?.with_timezone(&Utc);
    Some((sent - date).as_seconds_f64() + took.as_secs_f64() / 2.0 - 0.5)
}

/// The second in which what a reply shows was so, on Stripe's clock, or an earlier one: its `Date`, which is cut to whole seconds, less
/// the time from the request's sending to the reply's head. Without a believable `Date` our own clock at the sending.
pub(super) fn second(date: Option<&str>, sent: Time, took: Duration) -> Time {
    let date = date.and_then(|text| DateTime::parse_from_rfc2822(text).ok()).map(|date| date.with_timezone(&Utc));
    let took = TimeDelta::from_std(took).unwrap_or(TimeDelta::MAX);
    let at = match date.filter(|date| *date <= sent + AHEAD_AT_MOST) {
        Some(date) => date.checked_sub_signed(took).unwrap_or(sent),
        None => sent,
    };
    DateTime::from_timestamp(at.timestamp(), 0).unwrap_or(at)
}

/// An id that Stripe gave a request, if it looks like one.
pub(super) fn request_id(text: &str) -> Option<String> {
    let fits = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    fits.then(|| text.to_owned())
}

lenient_struct! {
    struct RawFailure {
        error: Obj<RawError>,
    }
}

lenient_struct! {
    struct RawError {
        message: Text,
        kind: Text = "type",
        code: Text,
    }
}

lenient_struct! {
    struct Identified {
        id: Text,
    }
}

lenient_struct! {
    struct RawPage {
        data: Option<Box<RawValue>>,
        has_more: Flag,
    }
}

/// What a refusing reply comes to. `key` is the API key, which must not be told whatever Stripe quotes.
pub(super) fn error(target: Target<'_>, reply: &Reply, key: &str) -> StripeError {
    let text = String::from_utf8_lossy(&reply.body);
    let text = storable(&text).unwrap_or_default();
    let told = serde_json::from_str::<RawFailure>(&text).ok().and_then(|failure| failure.error.0);
    let request = reply.request.clone();
    let from_stripe = told.is_some();
    let message = words(told.unwrap_or_default(), key);
    let said = || message.clone().map(|text| format!(": {text}")).unwrap_or_default();
    let status = reply.status;
    match status {
        401 => {
            let message = message.unwrap_or_else(|| "it gave no reason".to_owned());
            StripeError::Key { message, request }
        }
        403 => StripeError::Permission {
            what: target.endpoint().permission(),
            message: message.unwrap_or_else(|| "it gave no reason".to_owned()),
            request,
        },
        404 if from_stripe => {
            let (kind, id) = target.subject();
            StripeError::Missing { kind, id, request }
        }
        404 => {
            let message = "the answer 404 is not one of Stripe's; check STRIPE_API_BASE".to_owned();
            StripeError::Protocol { message, request }
        }
        300..=399 => {
            let message = format!("it answered {status}, a redirect, which is not followed; check STRIPE_API_BASE");
            StripeError::Protocol { message, request }
        }
        429 => {
            let reason = match reply.limited {
                Some(limit) => format!("{} (429)", limit.as_str()),
                None => format!("it answered 429{}", said()),
            };
            StripeError::Unavailable { reason, request }
        }
        408 | 409 | 424 | 425 | 500.. => {
            StripeError::Unavailable { reason: format!("it answered {status}{}", said()), request }
        }
        _ => StripeError::Protocol { message: format!("it answered {status}{}", said()), request },
    }
}

/// Message, type and code in one line, without anything secret.
fn words(error: RawError, key: &str) -> Option<String> {
    let clean = |text: Text| text.0.map(|text| shown(&text, key)).filter(|text| !text.is_empty());
    let kinds: Vec<String> = [clean(error.kind), clean(error.code)].into_iter().flatten().collect();
    match (clean(error.message), kinds.join(", ")) {
        (Some(message), kinds) if kinds.is_empty() => Some(message),
        (Some(message), kinds) => Some(format!("{message} ({kinds})")),
        (None, kinds) => Some(kinds).filter(|kinds| !kinds.is_empty()),
    }
}

/// Text of somebody else's for an error: one line, shortened, without keys, signing secrets and addresses. Stripe quotes part of a key that
/// it refuses.
pub(super) fn shown(text: &str, key: &str) -> String {
    let text = if key.is_empty() { text.to_owned() } else { text.replace(key, "(the key)") };
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let masked: Vec<String> = words.map(mask).collect();
    let line = masked.join(" ");
    match line.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn mask(word: &str) -> String {
    if word.contains('@') {
        return "(an address)".to_owned();
    }
    for prefix in ["sk_", "rk_", "pk_", "whsec_"] {
        // At the start of a token; `task_1` is none.
        let found = word.match_indices(prefix).find(|(at, _)| !word[..*at].ends_with(|c: char| c.is_alphanumeric()));
        if let Some((start, _)) = found {
            let token = word[start..].find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '*' | '.')));
            let after = token.map_or("", |length| &word[start + length..]);
            return format!("{}{prefix}…{}", &word[..start], mask(after));
        }
    }
    word.to_owned()
}

fn disagree(message: &str, request: Option<&String>) -> StripeError {
    StripeError::Protocol { message: message.to_owned(), request: request.cloned() }
}

fn text_of(reply: &Reply) -> Result<&str, StripeError> {
    std::str::from_utf8(&reply.body).map_err(|_| disagree("the answer is no UTF-8", reply.request.as_ref()))
}

/// A good reply as the object that was asked for.
pub(super) fn object(resource: &Resource, reply: &Reply) -> Result<Fetched, StripeError> {
    let request = reply.request.as_ref();
    let text = storable(text_of(reply)?).map_err(|error| disagree(&error.to_string(), request))?;
    let Ok(Obj(Some(named))) = serde_json::from_str::<Obj<Identified>>(&text) else {
        return Err(disagree("the answer is no JSON object; check STRIPE_API_BASE", request));
    };
    if let Some(id) = named.id.0
        && *resource != Resource::Account
        && id != resource.id()
    {
        return Err(disagree("the answer is about another object than was asked for", request));
    }
    Ok(Fetched { object: text.into_owned(), at: reply.at })
}

/// A good reply as a page.
pub(super) fn page(after: Option<&str>, reply: &Reply) -> Result<Page, StripeError> {
    let request = reply.request.as_ref();
    let no_list = || disagree("the answer is no list; check STRIPE_API_BASE", request);
    let raw: RawPage =
        serde_json::from_str::<Obj<RawPage>>(text_of(reply)?).ok().and_then(|page| page.0).ok_or_else(no_list)?;
    let data = raw.data.ok_or_else(no_list)?;
    let elements: Vec<&RawValue> = serde_json::from_str(data.get()).map_err(|_| no_list())?;
    let has_more = raw.has_more.0.unwrap_or(false);
    let mut objects = Vec::with_capacity(elements.len());
    let mut last_named = true;
    for element in elements {
        let text = storable(element.get()).map_err(|error| disagree(&error.to_string(), request))?;
        let id = serde_json::from_str::<Obj<Identified>>(&text).ok().and_then(|named| named.0).and_then(|n| n.id.0);
        last_named = id.is_some();
        match id {
            Some(id) if after == Some(id.as_str()) => {
                return Err(disagree("a page begins anew where the one before it ended", request));
            }
            Some(id) => objects.push(Listed { id, object: text.into_owned() }),
            None => tracing::warn!("an element of one of Stripe's lists has no id and is left out"),
        }
    }
    if has_more && (objects.is_empty() || !last_named) {
        return Err(disagree("a page has no last id, and there is said to be more after it", request));
    }
    Ok(Page { objects, has_more, at: reply.at })
}

impl Reply {
    pub(super) fn ending(&self) -> Ending {
        Ending::Status { code: self.status, should_retry: self.should_retry }
    }

    pub(super) fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

#[cfg(test)]
mod tests {
    use entity::ids::SubscriptionId;
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Time {
        Time::from_timestamp(seconds, 0).expect("a moment")
    }

    fn reply(status: u16, body: &str) -> Reply {
        Reply {
            status,
            should_retry: None,
            limited: None,
            request: Some("req_1".to_owned()),
            at: at(1000),
            body: body.as_bytes().to_vec(),
        }
    }

    fn subscription() -> Resource {
        Resource::Subscription(SubscriptionId::parse("sub_1").expect("an id"))
    }

    fn refused(status: u16, body: &str) -> StripeError {
        error(Target::Object(&subscription()), &reply(status, body), "sk_test_thekey1234")
    }

    #[test]
    fn the_second_is_the_one_in_which_the_call_began_at_the_latest() {
        let date = "Wed, 09 Sep 2026 01:46:40 GMT";
        let sent = DateTime::parse_from_rfc2822(date).expect("a date").with_timezone(&Utc);
        let seconds = |took_ms| second(Some(date), sent, Duration::from_millis(took_ms)).timestamp() - sent.timestamp();
        assert_eq!(seconds(0), 0);
        assert_eq!(seconds(40), -1, "within the second before, for all we know");
        assert_eq!(seconds(1000), -1);
        assert_eq!(seconds(1001), -2);
        // Stripe's clock counts, not ours.
        let ours = sent + TimeDelta::minutes(4);
        assert_eq!(second(Some(date), ours, Duration::ZERO), sent);
    }

    #[test]
    fn how_far_our_clock_is_ahead_is_told_to_half_a_second() {
        let date = "Wed, 09 Sep 2026 01:46:40 GMT";
        let told = DateTime::parse_from_rfc2822(date).expect("a date").with_timezone(&Utc);
        let took = Duration::from_secs(2);
        for (sent, seconds) in
            [(told, 0.5), (told - TimeDelta::seconds(301), -300.5), (told + TimeDelta::seconds(9), 9.5)]
        {
            let ahead = ahead(Some(date), sent, took).expect("a date was told");
            assert!((ahead - seconds).abs() < 1e-9, "{ahead}");
        }
        assert_eq!(ahead(None, told, took), None);
        assert_eq!(ahead(Some("yesterday"), told, took), None);
    }

    #[test]
    fn without_a_believable_date_our_own_clock_counts() {
        let sent = at(1_790_000_000);
        for date in [None, Some("yesterday"), Some(""), Some("Wed, 09 Sep 2126 01:46:40 GMT")] {
            assert_eq!(second(date, sent, Duration::from_secs(9)), sent, "{date:?}");
        }
    }

    #[test]
    fn each_refusal_is_told_as_what_it_is() {
        let body = r#"{"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "No such subscription: 'sub_1'"}}"#;
        let missing = StripeError::Missing { kind: "subscription", id: "sub_1".into(), request: Some("req_1".into()) };
        assert_eq!(refused(404, body), missing);
        assert!(refused(401, body).blames_key() && refused(403, body).blames_key());
        assert!(refused(403, body).to_string().contains("may not read subscriptions"));
        for status in [408, 409, 424, 429, 500, 502, 503, 504] {
            assert!(refused(status, "<html>Bad gateway</html>").may_pass(), "{status}");
        }
        for (status, body) in [(400, body), (402, body), (404, "<html>Not here</html>"), (302, ""), (200, "")] {
            assert!(matches!(refused(status, body), StripeError::Protocol { .. }), "{status}");
        }
        let text = refused(400, body).to_string();
        assert!(text.contains("No such subscription: 'sub_1' (invalid_request_error, resource_missing)"), "{text}");
        assert!(text.contains("(request req_1)"), "{text}");
    }

    #[test]
    fn a_429_tells_which_limit_it_was() {
        let mut limited = reply(429, "");
        limited.limited = Some(Limit::named("endpoint-rate"));
        let text = error(Target::Object(&Resource::Account), &limited, "").to_string();
        assert!(text.contains("too many calls of this kind in a second"), "{text}");
        let lock = r#"{"error": {"code": "lock_timeout", "message": "This object cannot be accessed right now"}}"#;
        assert!(refused(429, lock).to_string().contains("lock_timeout"));
    }

    #[test]
    fn nothing_secret_that_stripe_quotes_is_told() {
        for (said, told) in [
            ("Invalid API Key provided: sk_test_****1234", "Invalid API Key provided: sk_…"),
            ("Invalid API Key provided: 'rk_live_abcDEF123'.", "Invalid API Key provided: 'rk_…'."),
            ("keys sk_live_a,rk_test_b and whsec_c", "keys sk_…,rk_… and whsec_…"),
            ("No such customer: jo@example.com", "No such customer: (an address)"),
            ("the desk_1 of task_2", "the desk_1 of task_2"),
            ("two\nlines\u{0}", "two lines"),
        ] {
            assert_eq!(shown(said, ""), told);
        }
        assert_eq!(shown("Bearer whatever-it-is!", "whatever-it-is"), "Bearer (the key)!");
        assert_eq!(shown(&"x".repeat(1000), "").chars().count(), LONGEST_MESSAGE + 1);
    }

    #[test]
    fn a_page_keeps_every_object_as_it_was_written() {
        let body = r#"{"object": "list", "url": "/v1/x", "has_more": true, "data": [{"id": "a", "n": 12345678901234567890.10}, {"deep": [[[]]], "id":"b"}]}"#;
        let page = page(None, &reply(200, body)).expect("a page");
        assert!(page.has_more);
        let objects: Vec<_> = page.objects.iter().map(|listed| (listed.id.as_str(), listed.object.as_str())).collect();
        assert_eq!(
            objects,
            [("a", r#"{"id": "a", "n": 12345678901234567890.10}"#), ("b", r#"{"deep": [[[]]], "id":"b"}"#)]
        );
        let nul = r#"{"data": [{"id": "a", "name": "\u0000"}]}"#;
        assert_eq!(
            super::page(None, &reply(200, nul)).expect("a page").objects[0].object,
            r#"{"id": "a", "name": "\ufffd"}"#
        );
    }

    #[test]
    fn what_is_no_page_is_told_and_never_walked_for_ever() {
        for body in [
            "<html></html>",
            "",
            "[]",
            r#"{"object": "list"}"#,
            r#"{"data": {}}"#,
            r#"{"data": null}"#,
            // More after nothing; more after something without an id; the same page again.
            r#"{"data": [], "has_more": true}"#,
            r#"{"data": [{"id": "a"}, {}], "has_more": true}"#,
            r#"{"data": [{"id": "before"}, {"id": "b"}], "has_more": true}"#,
        ] {
            let error = page(Some("before"), &reply(200, body)).expect_err(body);
            assert!(matches!(error, StripeError::Protocol { .. }), "{error}");
        }
    }

    #[test]
    fn the_answer_must_be_about_what_was_asked() {
        let of = |body: &str| object(&subscription(), &reply(200, body));
        assert_eq!(of(r#"{"id": "sub_1"}"#).expect("it is").at, at(1000));
        for body in [r#"{"id": "sub_2"}"#, "[]", "<html>", "\"sub_1\""] {
            assert!(matches!(of(body), Err(StripeError::Protocol { .. })), "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_key_survives(before in "[ -~]{0,20}", key in "sk_(test|live)_[A-Za-z0-9]{8,30}", after in "[ -~]{0,20}") {
            let told = shown(&format!("{before} {key}{after}"), "");
            prop_assert!(!told.contains(&key), "{}", told);
        }

        #[test]
        fn no_body_makes_reading_panic(status in 100u16..600, body in "\\PC{0,60}|[\\[\\]{}:,\"a-z0-9]{0,40}") {
            let _ = refused(status, &body);
            let _ = page(Some("a"), &reply(status, &body));
            let _ = object(&subscription(), &reply(status, &body));
        }
    }
}
