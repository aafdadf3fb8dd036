//! An event of Stripe that is known to be Stripe's.
//!
//! [`VerifiedEvent`] is made by [`verify`], or from the answer of an authenticated call of Stripe's API, and by nothing
//! else; so what takes one need not ask where it came from. Only the envelope is read here, and as leniently as can be:
//! without an id and a type there is no event, all else may be missing or of any type. `data` is read when the event is
//! applied.

use std::{borrow::Cow, fmt};

use chrono::{DateTime, Utc};
use entity::ids::{EventId, IdError};
use serde::de::IgnoredAny;

use crate::{
    json_text::{self, JsonTextError},
    lenient::{Flag, Id, Lenient, Obj, Text, lenient_struct},
    signature::{self, SignatureError, Tolerance, WebhookSecret},
};

/// Longest text that is kept of the envelope, in characters; Stripe's ids have at most as many
/// (docs.stripe.com/upgrades).
const MAX_CHARACTERS: usize = 255;

/// `object` of a thin event, which has no `data` (docs.stripe.com/changelog, 2026-09-30.endive).
const THIN: &str = "v2.core.event";

/// Prefix of a thin event's type where the event is about a resource of API v1.
const THIN_TYPE_PREFIX: &str = "v1.";

/// The end of the year 9999: later times sort wrongly as text.
const LAST_SECOND: i64 = 253_402_300_799;

/// An event that Stripe signed, or that an authenticated call of Stripe's API gave.
pub struct VerifiedEvent(EventParts);

/// What [`VerifiedEvent::into_parts`] gives. It proves nothing: anybody can make one.
#[non_exhaustive]
pub struct EventParts {
    /// `evt_…`
    pub id: EventId,
    /// For example `customer.subscription.updated`; a thin event's type without its `v1.`.
    pub event_type: String,
    /// Whether the event came as a thin event, without `data`.
    pub thin: bool,
    /// The API version the payload was rendered in.
    pub api_version: Option<String>,
    /// When Stripe made the event, in whole seconds; not before 1970, not after 9999.
    pub created: Option<DateTime<Utc>>,
    /// Whether it is about real money.
    pub livemode: Option<bool>,
    /// The Connect account.
    pub account: Option<String>,
    /// The customer the event is about.
    pub customer: Option<String>,
    /// The event as JSON text that a database can hold, else as received; see [`json_text::storable`].
    pub payload: String,
    /// Size of the payload as received, in bytes.
    pub payload_bytes: usize,
}

impl VerifiedEvent {
    /// Stripe's id, the same in every delivery of the event.
    pub fn id(&self) -> &EventId {
        &self.0.id
    }

    /// For example `customer.subscription.updated`; a thin event's type without its `v1.`. 1 to 255 characters without
    /// control characters.
    pub fn event_type(&self) -> &str {
        &self.0.event_type
    }

    /// Whether the event came as a thin event: it names an object, but has no `data`.
    pub fn is_thin(&self) -> bool {
        self.0.thin
    }

    /// The API version the payload was rendered in.
    pub fn api_version(&self) -> Option<&str> {
        self.0.api_version.as_deref()
    }

    /// When Stripe made the event, in whole seconds. Says nothing about order: Stripe's docs warn against that use.
    pub fn created(&self) -> Option<DateTime<Utc>> {
        self.0.created
    }

    /// Whether it is about real money.
    pub fn livemode(&self) -> Option<bool> {
        self.0.livemode
    }

    /// The Connect account.
    pub fn account(&self) -> Option<&str> {
        self.0.account.as_deref()
    }

    /// The customer the event is about: `data.object` itself, or who it names.
    pub fn customer(&self) -> Option<&str> {
        self.0.customer.as_deref()
    }

    /// The event as JSON text that a database can hold, else as received.
    pub fn payload(&self) -> &str {
        &self.0.payload
    }

    /// Size of the payload as received, in bytes.
    pub fn payload_bytes(&self) -> usize {
        self.0.payload_bytes
    }

    /// Takes the event apart without a copy.
    pub fn into_parts(self) -> EventParts {
        self.0
    }
}

// By hand: no payload and no customer in a log.
impl fmt::Debug for VerifiedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerifiedEvent").field(&self.0).finish()
    }
}

impl fmt::Debug for EventParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventParts")
            .field("id", &self.id)
            .field("event_type", &self.event_type)
            .field("payload_bytes", &self.payload_bytes)
            .finish_non_exhaustive()
    }
}

/// Why a request brings no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It is not known to come from Stripe.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It comes from Stripe, but is no event.
    #[error(transparent)]
    NotAnEvent(#[from] NotAnEvent),
}

impl Rejection {
    /// One of a closed set of words, for a metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Signature(error) => error.reason(),
            Self::NotAnEvent(_) => "not-an-event",
        }
    }
}

/// Why a text is no event. Holds nothing of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnEvent {
    /// JSON is UTF-8.
    #[error("the body is not an event: it is not UTF-8 after byte {valid_bytes}")]
    NotUtf8 {
        /// How many bytes are good.
        valid_bytes: usize,
    },
    /// Broken or cut off.
    #[error("the body is not an event: it is not JSON at line {line}, column {column}")]
    NotJson {
        /// From 1.
        line: usize,
        /// In bytes, from 1; 0 at the very start of a line.
        column: usize,
    },
    /// More levels than a database takes.
    #[error("the body is not an event that can be stored: {0}")]
    Unstorable(#[from] JsonTextError),
    /// A list, a string, …
    #[error("the body is not an event: it is JSON, but not an object")]
    NotAnObject,
    /// No `id` that is a string.
    #[error("the body is not an event: it has no id")]
    NoId,
    /// An `id` that is none.
    #[error("the body is not an event: its id is not one ({0})")]
    BadId(IdError),
    /// No `type` that is a string.
    #[error("the body is not an event: it has no type")]
    NoType,
    /// A `type` that is none.
    #[error("the body is not an event: its type is not one (1 to 255 characters, no control characters)")]
    BadType,
}

impl NotAnEvent {
    fn from_parser(error: &serde_json::Error) -> Self {
        Self::NotJson { line: error.line(), column: error.column() }
    }
}

/// Takes a webhook request as an event, if it is Stripe's and is one.
///
/// `body` is the body as received, `header` the value of `Stripe-Signature`. Nothing of an unsigned body is parsed.
pub fn verify(
    body: &[u8],
    header: Option<&[u8]>,
    secrets: &[WebhookSecret],
    now: DateTime<Utc>,
    tolerance: Tolerance,
) -> Result<VerifiedEvent, Rejection> {
    signature::check(header, body, secrets, now, tolerance)?;
    let text = str::from_utf8(body).map_err(|error| NotAnEvent::NotUtf8 { valid_bytes: error.valid_up_to() })?;
    // Before anything is read: a broken surrogate pair in a field that is read would fail the event.
    let storable = json_text::storable(text).map_err(NotAnEvent::from)?;
    let envelope = parse(&storable).map_err(|error| {
        // The sender knows the text as it was, so the fault's place is looked up there.
        let original = serde_json::from_str::<IgnoredAny>(text).err();
        NotAnEvent::from_parser(original.as_ref().unwrap_or(&error))
    })?;
    Ok(VerifiedEvent::new(envelope, storable.into_owned(), body.len())?)
}

lenient_struct! {
    struct Envelope {
        id: Text,
        object: Text,
        event_type: Text = "type",
        api_version: Text,
        created: Obj<Created>,
        livemode: Flag,
        account: Text,
        data: Data,
    }
}

lenient_struct! {
    struct Data {
        object: DataObject,
    }
}

lenient_struct! {
    struct DataObject {
        object: Text,
        id: Text,
        customer: Id,
    }
}

/// Seconds since 1970 in a snapshot event, RFC 3339 in a thin one.
#[derive(Debug, Clone, Copy)]
struct Created(DateTime<Utc>);

impl Created {
    fn at(seconds: i64) -> Option<Self> {
        let seconds = Some(seconds).filter(|seconds| (0..=LAST_SECOND).contains(seconds))?;
        DateTime::from_timestamp(seconds, 0).map(Self)
    }
}

impl Lenient for Created {
    fn from_text(text: Cow<'_, str>) -> Option<Self> {
        match DateTime::parse_from_rfc3339(&text) {
            Ok(time) => Self::at(time.timestamp()),
            Err(_) => i64::from_text(text).and_then(Self::at),
        }
    }

    fn from_int(int: i128) -> Option<Self> {
        i64::from_int(int).and_then(Self::at)
    }

    fn from_float(float: f64) -> Option<Self> {
        i64::from_float(float).and_then(Self::at)
    }
}

/// Reads the envelope; absent where the text is JSON, but no object.
///
/// Checks the whole text for being JSON on its way. No depth is too deep for the stack: what is read goes three levels
/// down, what is skipped is skipped in a loop.
fn parse(text: &str) -> Result<Obj<Envelope>, serde_json::Error> {
    serde_json::from_str(text)
}

impl VerifiedEvent {
    /// Takes what an authenticated call of Stripe's Events API answered; whoever calls this has made that call.
    pub(crate) fn fetched(object: &str) -> Result<Self, NotAnEvent> {
        let storable = json_text::storable(object)?;
        let envelope = parse(&storable).map_err(|error| NotAnEvent::from_parser(&error))?;
        Self::new(envelope, storable.into_owned(), object.len())
    }

    /// Takes a parsed envelope, whatever it was parsed from; so this stays private.
    fn new(envelope: Obj<Envelope>, payload: String, payload_bytes: usize) -> Result<Self, NotAnEvent> {
        let envelope = envelope.0.ok_or(NotAnEvent::NotAnObject)?;
        let id = envelope.id.0.ok_or(NotAnEvent::NoId)?;
        if id.contains(char::REPLACEMENT_CHARACTER) {
            // It may have been a NUL, and two ids must not become one.
            return Err(NotAnEvent::BadId(IdError::BadCharacter));
        }
        let id = EventId::parse(id).map_err(NotAnEvent::BadId)?;
        let thin = envelope.object.0.as_deref() == Some(THIN);
        let mut event_type = envelope.event_type.0.ok_or(NotAnEvent::NoType)?;
        if thin && event_type.starts_with(THIN_TYPE_PREFIX) {
            event_type.drain(..THIN_TYPE_PREFIX.len());
        }
        if !is_plain(&event_type) || event_type.contains(char::REPLACEMENT_CHARACTER) {
            return Err(NotAnEvent::BadType);
        }
        let object = envelope.data.object;
        let customer = if object.object.0.as_deref() == Some("customer") { object.id.0 } else { object.customer.0 };
        Ok(Self(EventParts {
            id,
            event_type,
            thin,
            api_version: plain(envelope.api_version.0),
            created: envelope.created.0.map(|Created(time)| time),
            livemode: envelope.livemode.0,
            account: plain(envelope.account.0),
            customer: plain(customer),
            payload,
            payload_bytes,
        }))
    }
}

/// Drops what is no word of Stripe's and might not fit a column or an index.
fn plain(text: Option<String>) -> Option<String> {
    text.filter(|text| is_plain(text))
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().nth(MAX_CHARACTERS).is_none() && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::signature::sign;

    const AT: i64 = 1_700_000_000;

    fn verify_bytes(body: &[u8]) -> Result<VerifiedEvent, Rejection> {
        let secret = WebhookSecret::parse("whsec_x").unwrap();
        let header = sign(&secret, AT, body);
        let now = DateTime::from_timestamp(AT, 0).unwrap();
        verify(body, Some(header.as_bytes()), &[secret], now, Tolerance::default())
    }

    fn event(body: &str) -> Result<VerifiedEvent, NotAnEvent> {
        verify_bytes(body.as_bytes()).map_err(|rejection| match rejection {
            Rejection::NotAnEvent(error) => error,
            Rejection::Signature(error) => panic!("{error}"),
        })
    }

    fn refused(body: &str) -> NotAnEvent {
        event(body).expect_err(body)
    }

    fn snapshot() -> Value {
        json!({
            "id": "evt_1", "object": "event", "api_version": "2026-09-30.endive", "created": 1_700_000_001,
            "data": {"object": {"id": "sub_1", "object": "subscription", "customer": "cus_1"}, "previous_attributes": {}},
            "livemode": false, "pending_webhooks": 1, "request": {"id": null, "idempotency_key": null},
            "type": "customer.subscription.updated", "account": "acct_1", "context": "acct_2"
        })
    }

    #[test]
    fn the_envelope_of_a_snapshot_event_is_read() {
        let body = serde_json::to_string_pretty(&snapshot()).unwrap();
        let event = event(&body).unwrap();
        assert_eq!(event.id().as_str(), "evt_1");
        assert_eq!(event.event_type(), "customer.subscription.updated");
        assert!(!event.is_thin());
        assert_eq!(event.api_version(), Some("2026-09-30.endive"));
        assert_eq!(event.created().map(|time| time.timestamp()), Some(1_700_000_001));
        assert_eq!(event.livemode(), Some(false));
        assert_eq!(event.account(), Some("acct_1"));
        assert_eq!(event.customer(), Some("cus_1"));
        assert_eq!(event.payload(), body);
        assert_eq!(event.payload_bytes(), body.len());
        let parts = event.into_parts();
        assert_eq!((parts.id.as_str(), parts.payload), ("evt_1", body));
    }

    #[test]
    fn an_old_and_bare_envelope_is_an_event() {
        let bare = event(r#"{"id": "evt_1", "type": "ping"}"#).unwrap();
        assert_eq!((bare.id().as_str(), bare.event_type(), bare.is_thin()), ("evt_1", "ping", false));
        assert_eq!((bare.api_version(), bare.created(), bare.livemode()), (None, None, None));
        assert_eq!((bare.account(), bare.customer()), (None, None));
        let old = r#"{"created":1326853478,"livemode":false,"id":"evt_00000000000000","type":"invoice.created",
            "object":"event","request":"req_1","pending_webhooks":1,"api_version":"2011-06-28",
            "data":{"object":{"customer":"cus_00000000000000","id":"in_1","lines":{"invoiceitems":[]}}}}"#;
        let old = event(old).unwrap();
        assert_eq!((old.api_version(), old.customer()), (Some("2011-06-28"), Some("cus_00000000000000")));
    }

    #[test]
    fn a_thin_event_loses_its_types_prefix_and_keeps_its_time_in_whole_seconds() {
        let thin = event(
            r#"{"id": "evt_test_65", "object": "v2.core.event", "type": "v1.customer.subscription.updated",
                "created": "2026-10-01T02:00:00.750+02:00", "livemode": true, "context": "acct_1",
                "related_object": {"id": "sub_1", "type": "subscription", "url": "/v1/subscriptions/sub_1"}}"#,
        )
        .unwrap();
        assert!(thin.is_thin());
        assert_eq!(thin.event_type(), "customer.subscription.updated");
        assert_eq!(thin.created().map(|time| time.to_rfc3339()).as_deref(), Some("2026-10-01T00:00:00+00:00"));
        assert_eq!((thin.customer(), thin.account()), (None, None));

        let v2 = event(r#"{"id": "evt_1", "object": "v2.core.event", "type": "v2.core.account.updated"}"#).unwrap();
        assert_eq!((v2.event_type(), v2.is_thin()), ("v2.core.account.updated", true));
        let snapshot = event(r#"{"id": "evt_1", "object": "event", "type": "v1.x"}"#).unwrap();
        assert_eq!((snapshot.event_type(), snapshot.is_thin()), ("v1.x", false));
        assert_eq!(refused(r#"{"id": "evt_1", "object": "v2.core.event", "type": "v1."}"#), NotAnEvent::BadType);
    }

    #[test]
    fn the_customer_is_the_object_itself_or_who_it_names() {
        for (object, expected) in [
            (json!({"object": "customer", "id": "cus_1", "deleted": true}), Some("cus_1")),
            (json!({"object": "customer", "id": "cus_1", "customer": "cus_2"}), Some("cus_1")),
            (json!({"object": "invoice", "id": "in_1", "customer": {"id": "cus_3"}}), Some("cus_3")),
            (json!({"object": "invoice", "id": "in_1", "customer": null}), None),
            (json!({"object": "charge", "id": "ch_1"}), None),
            (json!({"customer": ""}), None),
            (json!({"customer": "x".repeat(256)}), None),
            (json!({"customer": "cus\n"}), None),
            (json!([]), None),
        ] {
            let body = json!({"id": "evt_1", "type": "t", "data": {"object": object}}).to_string();
            assert_eq!(event(&body).unwrap().customer(), expected, "{body}");
        }
    }

    #[test]
    fn an_envelope_field_of_any_wrong_type_never_loses_the_event() {
        let values =
            [json!(null), json!(-1.5), json!(true), json!("x"), json!([[{}]]), json!({"id": {"a": []}, "object": 1})];
        for key in [
            "object",
            "api_version",
            "created",
            "data",
            "livemode",
            "account",
            "context",
            "request",
            "pending_webhooks",
        ] {
            for value in &values {
                let mut body = snapshot();
                body[key] = value.clone();
                assert_eq!(event(&body.to_string()).unwrap().id().as_str(), "evt_1");
                body["data"] = json!({"object": value, "previous_attributes": value});
                assert!(event(&body.to_string()).is_ok());
                body["data"] = json!({"object": {"object": value, "id": value, "customer": value}});
                assert!(event(&body.to_string()).is_ok());
            }
        }
    }

    #[test]
    fn without_an_id_and_a_type_there_is_no_event() {
        for value in [json!(null), json!(1), json!({"id": "evt_1"}), json!(["evt_1"]), json!(true)] {
            let mut body = snapshot();
            body["id"] = value.clone();
            assert_eq!(refused(&body.to_string()), NotAnEvent::NoId);
            let mut body = snapshot();
            body["type"] = value;
            assert_eq!(refused(&body.to_string()), NotAnEvent::NoType);
        }
        assert_eq!(refused("{}"), NotAnEvent::NoId);
        assert_eq!(refused(r#"{"id": "evt_1"}"#), NotAnEvent::NoType);
        for (id, error) in [
            ("", IdError::Empty),
            ("evt 1", IdError::BadCharacter),
            ("evt\u{0}1", IdError::BadCharacter),
            (&"x".repeat(256), IdError::TooLong),
        ] {
            assert_eq!(refused(&json!({"id": id, "type": "t"}).to_string()), NotAnEvent::BadId(error));
        }
        for bad in ["", "a\nb", "a\u{0}b", "a\u{85}b", &"é".repeat(256)] {
            assert_eq!(refused(&json!({"id": "evt_1", "type": bad}).to_string()), NotAnEvent::BadType);
        }
        assert!(event(&json!({"id": "x".repeat(255), "type": "é".repeat(255)}).to_string()).is_ok());
    }

    #[test]
    fn what_is_not_a_json_object_is_not_an_event() {
        for body in ["[]", "null", "1", "\"evt_1\"", "true", "[{\"id\":\"evt_1\",\"type\":\"t\"}]"] {
            assert_eq!(refused(body), NotAnEvent::NotAnObject);
        }
        for (body, line, column) in [
            ("", 1, 0),
            ("{\"id\":\"evt_1\",\n\"type\":\"t\"", 2, 10),
            ("{\"id\":\"evt_1\",\"type\":\"t\"} x", 1, 27),
            ("{\"id\":\"evt_1\",\"type\":\"t\",}", 1, 26),
            ("{\"a\":\"\\u0000\\ud800\",\"n\":1e999,}", 1, 31),
            ("\u{feff}{}", 1, 1),
            ("{\"a\":\"\u{1}\"}", 1, 6),
        ] {
            let error = refused(body);
            assert!(matches!(error, NotAnEvent::NotJson { .. }), "{body:?}: {error}");
            assert_eq!(
                verify_bytes(body.as_bytes()).err(),
                Some(Rejection::NotAnEvent(NotAnEvent::NotJson { line, column })),
                "{body:?}"
            );
        }
        let rejection = verify_bytes(b"{\"id\":\"\xff\"}").unwrap_err();
        assert_eq!(rejection, Rejection::NotAnEvent(NotAnEvent::NotUtf8 { valid_bytes: 7 }));
        assert_eq!(rejection.reason(), "not-an-event");
    }

    #[test]
    fn an_unsigned_body_is_not_looked_at() {
        let secret = WebhookSecret::parse("whsec_x").unwrap();
        let rejection = verify(b"{", None, &[secret], DateTime::default(), Tolerance::default()).unwrap_err();
        assert_eq!(rejection, Rejection::Signature(SignatureError::Missing));
        assert_eq!(rejection.reason(), "signature-missing");
    }

    #[test]
    fn a_nul_or_half_a_surrogate_pair_anywhere_loses_nothing_else() {
        for bad in ["\\u0000", "\\ud83d", "\\ude00"] {
            let body = format!(
                r#"{{"id": "evt_1", "type": "t", "api_version": "v{bad}", "account": "a{bad}", "object": "{bad}",
                    "created": "{bad}", "k{bad}": "{bad}", "data": {{"object": {{"object": "customer", "id": "c{bad}",
                    "name": "Ann{bad}"}}}}}}"#
            );
            let event = event(&body).unwrap();
            assert_eq!(event.api_version(), Some("v\u{fffd}"));
            assert_eq!(event.account(), Some("a\u{fffd}"));
            assert_eq!(event.customer(), Some("c\u{fffd}"));
            assert_eq!(event.payload(), body.replace(bad, "\\ufffd"));
            assert_eq!(event.payload_bytes(), body.len());
        }
    }

    #[test]
    fn huge_numbers_become_null_and_lose_nothing_else() {
        let digits = "9".repeat(5000);
        let event = event(&format!(r#"{{"id":"evt_1","created":1e999,"n":[{digits},1e400],"type":"t"}}"#)).unwrap();
        assert_eq!(event.payload(), r#"{"id":"evt_1","created":null,"n":[null,null],"type":"t"}"#);
        assert_eq!(event.created(), None);
    }

    #[test]
    fn a_time_out_of_range_is_absent() {
        for (created, expected) in [
            ("0", Some(0)),
            ("253402300799", Some(253_402_300_799)),
            ("253402300800", None),
            ("-1", None),
            ("9223372036854775807", None),
            ("1e300", None),
            ("1700000000.0", Some(1_700_000_000)),
            ("\"1700000000\"", Some(1_700_000_000)),
            ("\"2016-12-31T23:59:60Z\"", Some(1_483_228_799)),
            ("\"0000-01-01T00:00:00Z\"", None),
            ("\"yesterday\"", None),
        ] {
            let event = event(&format!(r#"{{"id":"evt_1","type":"t","created":{created}}}"#)).unwrap();
            assert_eq!(event.created().map(|time| time.timestamp()), expected, "{created}");
        }
    }

    #[test]
    fn deep_nesting_is_taken_up_to_a_bound_and_never_overflows_the_stack() {
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            format!(r#"{{"id":"evt_1","type":"t","data":{{"object":{open}{close}}}}}"#)
        };
        assert!(event(&nested(200)).is_ok());
        assert!(event(&nested(510)).is_ok());
        for levels in [511, 100_000] {
            assert_eq!(refused(&nested(levels)), NotAnEvent::Unstorable(JsonTextError::TooDeep));
        }
        assert_eq!(refused(&"{\"a\":".repeat(100_000)), NotAnEvent::Unstorable(JsonTextError::TooDeep));
    }

    #[test]
    fn the_last_of_equal_keys_wins() {
        let body = r#"{"id":"evt_1","type":"a","id":"evt_2","type":"b","data":1,"data":{"object":{"customer":"c"}}}"#;
        let event = event(body).unwrap();
        assert_eq!((event.id().as_str(), event.event_type(), event.customer()), ("evt_2", "b", Some("c")));
        assert_eq!(event.payload(), body);
    }

    #[test]
    fn an_event_shows_no_payload_when_it_is_logged() {
        let event = event(&snapshot().to_string()).unwrap();
        let shown = format!("{event:?} {:?}", verify_bytes(b"{\"secret\"").unwrap_err());
        assert!(shown.contains("evt_1"));
        assert!(!shown.contains("cus_1") && !shown.contains("secret"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_signed_bytes_are_an_event_or_not_an_event(body: Vec<u8>) {
            prop_assert_eq!(verify_bytes(&body).map_err(|rejection| rejection.reason()).err(), Some("not-an-event"));
        }

        #[test]
        fn an_id_and_a_type_among_anything_are_an_event(
            key in "[a-z_]{0,9}",
            value in r#"(null|-?[1-9][0-9]{0,400}(e[0-9]{1,5})?|"(\\u0000|\\ud800|\\udc00|\\n|[a-zé]){0,9}"|\[\{\}\])"#
        ) {
            prop_assume!(!["id", "type"].contains(&key.as_str()));
            let body = format!(r#"{{"id":"evt_1","{key}":{value},"type":"t","data":{{"object":{{"{key}":{value}}}}}}}"#);
            let event = event(&body).unwrap();
            prop_assert_eq!((event.id().as_str(), event.event_type()), ("evt_1", "t"));
            prop_assert!(serde_json::from_str::<Value>(event.payload()).is_ok());
        }
    }
}
