//! The forms in which the API tells what the domain knows. The domain may change; these are a contract.

use std::{borrow::Cow, collections::BTreeMap};

use billing::{
    inbox::records::{Detail, FailureGroup, Record, Stats, TypeStats},
    users::{TimelineEntry, UserView},
};
use chrono::{DateTime, Utc};
use entity::enums::ProcessingStatus;
use poem_openapi::{
    Enum, Object,
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

/// What a user may do, and by what right.
#[derive(Debug, Serialize, Object)]
pub(super) struct Subscription {
    /// The tier that governs; `free` where no subscription entitles.
    tier: String,
    /// Status of the governing subscription, else of the best one left, else `active`.
    status: String,
    /// True while a subscription entitles.
    access: bool,
    /// The customer of that subscription, else the one linked.
    #[oai(nullable)]
    stripe_customer_id: Option<String>,
    /// That subscription.
    #[oai(nullable)]
    stripe_subscription_id: Option<String>,
    /// End of the paid period.
    #[oai(nullable)]
    current_period_end: Option<DateTime<Utc>>,
    /// When access is scheduled to end.
    #[oai(nullable)]
    cancel_at: Option<DateTime<Utc>>,
}

/// How much of the allowance is used.
#[derive(Debug, Serialize, Object)]
pub(super) struct Usage {
    /// Used in the open window.
    used: i64,
    /// The allowance of a window; null is unlimited.
    #[oai(nullable)]
    limit: Option<i64>,
    /// What is left, never below 0; null is unlimited.
    #[oai(nullable)]
    remaining: Option<i64>,
    /// Start of the open window.
    period_start: DateTime<Utc>,
    /// End of the open window, when the count begins anew.
    resets_at: DateTime<Utc>,
}

/// A user.
#[derive(Debug, Serialize, Object)]
pub(super) struct User {
    /// The host's id.
    id: Uuid,
    /// Unique without regard to case.
    email: String,
    /// For people to read.
    #[oai(nullable)]
    full_name: Option<String>,
    /// What the user may do.
    subscription: Subscription,
    /// How much of it is used.
    usage: Usage,
}

impl From<UserView> for User {
    fn from(view: UserView) -> Self {
        let remaining = view.remaining();
        let UserView { id, email, full_name, projection, used, window, .. } = view;
        let may = projection.entitlement;
        Self {
            id: id.0,
            email,
            full_name,
            usage: Usage { used, limit: may.limit, remaining, period_start: window.start, resets_at: window.end },
            subscription: Subscription {
                tier: may.tier,
                status: may.status,
                access: may.access,
                stripe_customer_id: projection.customer.map(|id| id.to_string()),
                stripe_subscription_id: projection.subscription.map(|id| id.to_string()),
                current_period_end: may.current_period_end,
                cancel_at: may.cancel_at,
            },
        }
    }
}

/// One change of what a user may do.
#[derive(Debug, Serialize, Object)]
pub(super) struct Change {
    /// Time-ordered; the cursor of a timeline.
    id: Uuid,
    /// When.
    changed_at: DateTime<Utc>,
    /// `webhook`, `recovery`, `reconcile`, `schedule`, `operator` or `api`.
    source: String,
    /// The event, where one did it.
    #[oai(nullable)]
    event_id: Option<String>,
    /// Tier, status, access, limit, period end and scheduled end until then.
    before: serde_json::Value,
    /// The same since.
    after: serde_json::Value,
    /// Which rule made it so.
    reason: String,
}

impl From<TimelineEntry> for Change {
    fn from(entry: TimelineEntry) -> Self {
        let TimelineEntry { id, changed_at, source, event_id, before, after, reason } = entry;
        Self { id, changed_at, source: source.to_string(), event_id, before, after, reason }
    }
}

/// A page of a user's timeline, newest first.
#[derive(Debug, Serialize, Object)]
pub(super) struct Timeline {
    /// The changes.
    pub(super) items: Vec<Change>,
    /// Pass it as `before` for the next page.
    #[oai(nullable)]
    pub(super) next_cursor: Option<String>,
}

impl Change {
    pub(super) fn cursor(&self) -> String {
        self.id.to_string()
    }
}

/// Where an event stands.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, Enum)]
#[serde(rename_all = "lowercase")]
#[oai(rename_all = "lowercase")]
pub(super) enum EventStatus {
    /// Waits for its next attempt, or for a user.
    Pending,
    /// Is being applied.
    Processing,
    /// Applied.
    Completed,
    /// Given up; waits for a person.
    Failed,
    /// Stored, and not ours to apply.
    Skipped,
}

impl From<EventStatus> for ProcessingStatus {
    fn from(status: EventStatus) -> Self {
        match status {
            EventStatus::Pending => Self::Pending,
            EventStatus::Processing => Self::Processing,
            EventStatus::Completed => Self::Completed,
            EventStatus::Failed => Self::Failed,
            EventStatus::Skipped => Self::Skipped,
        }
    }
}

impl From<ProcessingStatus> for EventStatus {
    fn from(status: ProcessingStatus) -> Self {
        match status {
            ProcessingStatus::Pending => Self::Pending,
            ProcessingStatus::Processing => Self::Processing,
            ProcessingStatus::Completed => Self::Completed,
            ProcessingStatus::Failed => Self::Failed,
            ProcessingStatus::Skipped => Self::Skipped,
        }
    }
}

/// One event of the inbox.
#[derive(Debug, Serialize, Object)]
pub(super) struct Webhook {
    /// Stripe's id.
    event_id: String,
    /// For example `invoice.paid`.
    event_type: String,
    /// Where it stands.
    status: EventStatus,
    /// Attempts that ended.
    attempts: i32,
    /// The last error, or why it was skipped or waits.
    #[oai(nullable)]
    error: Option<String>,
    /// Whose it is.
    #[oai(nullable)]
    user_id: Option<Uuid>,
    /// The customer it names.
    #[oai(nullable)]
    stripe_customer_id: Option<String>,
    /// `webhook`, `recovery` or `replay`.
    source: String,
    /// The version of its payload.
    #[oai(nullable)]
    api_version: Option<String>,
    /// Whether it is about real money.
    livemode: bool,
    /// When Stripe made it.
    #[oai(nullable)]
    stripe_created_at: Option<DateTime<Utc>>,
    /// When it was stored.
    created_at: DateTime<Utc>,
    /// When it was applied, skipped or given up.
    #[oai(nullable)]
    processed_at: Option<DateTime<Utc>>,
    /// When it is due, while pending.
    #[oai(nullable)]
    next_attempt_at: Option<DateTime<Utc>>,
}

impl From<Record> for Webhook {
    fn from(record: Record) -> Self {
        Self {
            event_id: record.event_id.to_string(),
            event_type: record.event_type,
            status: record.status.into(),
            attempts: record.attempts,
            error: record.error,
            user_id: record.user_id.map(|user| user.0),
            stripe_customer_id: record.stripe_customer_id,
            source: record.source.to_string(),
            api_version: record.api_version,
            livemode: record.livemode,
            stripe_created_at: record.stripe_created_at,
            created_at: record.created_at,
            processed_at: record.processed_at,
            next_attempt_at: record.next_attempt_at,
        }
    }
}

/// A page of events, newest first.
#[derive(Debug, Serialize, Object)]
pub(super) struct Webhooks {
    /// The events.
    pub(super) items: Vec<Webhook>,
    /// Pass it as `cursor` for the next page.
    #[oai(nullable)]
    pub(super) next_cursor: Option<String>,
}

/// One event with everything.
#[derive(Debug, Serialize, Object)]
pub(super) struct WebhookDetail {
    #[serde(flatten)]
    #[oai(flatten)]
    webhook: Webhook,
    /// The event as Stripe sent it, with what a database cannot hold replaced.
    payload: JsonText,
    /// When the payload was emptied, long after the event was done; a retry then fetches it from Stripe again.
    #[oai(nullable)]
    payload_emptied_at: Option<DateTime<Utc>>,
    /// Kind, chain and history of failures; notes.
    #[oai(nullable)]
    error_details: Option<serde_json::Value>,
}

impl From<Detail> for WebhookDetail {
    fn from(detail: Detail) -> Self {
        let Detail { record, payload, payload_emptied_at, error_details } = detail;
        Self { webhook: record.into(), payload: JsonText::of(&payload), payload_emptied_at, error_details }
    }
}

/// JSON text that goes out as it is: it may be nested deeper than parsers like.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct JsonText(Box<RawValue>);

impl JsonText {
    /// What is no JSON (somebody changed it by hand) goes out as a string.
    fn of(text: &str) -> Self {
        let raw = serde_json::from_str(text).or_else(|_| serde_json::value::to_raw_value(text));
        Self(raw.unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

impl Type for JsonText {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "any".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema::new("object")))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

// `Object` asks for both ways; only `Serialize` is ever taken.
impl ToJSON for JsonText {
    fn to_json(&self) -> Option<serde_json::Value> {
        serde_json::from_str(self.0.get()).ok()
    }
}

impl ParseFromJSON for JsonText {
    fn parse_from_json(value: Option<serde_json::Value>) -> ParseResult<Self> {
        serde_json::value::to_raw_value(&value).map(Self).map_err(ParseError::custom)
    }
}

/// Failures of one cause.
#[derive(Debug, Serialize, Object)]
pub(super) struct Failures {
    /// What they have in common; lists and retries take it as a filter.
    #[oai(nullable)]
    fingerprint: Option<String>,
    /// Their type.
    event_type: String,
    /// How many.
    events: i64,
    /// The error of one of them.
    #[oai(nullable)]
    error: Option<String>,
    /// When the first of them was stored.
    first_at: DateTime<Utc>,
    /// When the last of them was stored.
    last_at: DateTime<Utc>,
}

impl From<FailureGroup> for Failures {
    fn from(group: FailureGroup) -> Self {
        let FailureGroup { fingerprint, event_type, events, error, first_at, last_at } = group;
        Self { fingerprint, event_type, events, error, first_at, last_at }
    }
}

/// What failed for good, the largest group first.
#[derive(Debug, Serialize, Object)]
pub(super) struct FailureGroups {
    /// The groups.
    pub(super) items: Vec<Failures>,
    /// Always null: all groups that matter fit one page.
    #[oai(nullable)]
    pub(super) next_cursor: Option<String>,
}

/// How many events were made due again.
#[derive(Debug, Serialize, Object)]
pub(super) struct Retried {
    /// How many.
    pub(super) retried: u64,
    /// How many were left alone, since their payloads were emptied; each can be retried by its id.
    pub(super) emptied: u64,
}

/// Figures of one event type.
#[derive(Debug, Serialize, Object)]
pub(super) struct TypeFigures {
    /// Which.
    event_type: String,
    /// Stored in the time asked for.
    total: i64,
    /// Of these, applied.
    completed: i64,
    /// Given up.
    failed: i64,
    /// Waiting, or being applied.
    pending: i64,
    /// Not ours.
    skipped: i64,
    /// Seconds from being stored to being applied, on average.
    #[oai(nullable)]
    avg_processing_seconds: Option<f64>,
}

impl From<TypeStats> for TypeFigures {
    fn from(stats: TypeStats) -> Self {
        let TypeStats { event_type, total, completed, failed, pending, skipped, avg_processing_seconds } = stats;
        Self { event_type, total, completed, failed, pending, skipped, avg_processing_seconds }
    }
}

/// Figures of the inbox.
#[derive(Debug, Serialize, Object)]
pub(super) struct Figures {
    /// The hours asked for.
    hours: u32,
    /// Events by where they stand; every status is there.
    by_status: BTreeMap<String, i64>,
    /// Figures by type, the most frequent first.
    by_type: Vec<TypeFigures>,
}

impl From<Stats> for Figures {
    fn from(stats: Stats) -> Self {
        let by_status = stats.by_status.into_iter().map(|(status, events)| (status.to_owned(), events)).collect();
        Self { hours: stats.hours, by_status, by_type: stats.by_type.into_iter().map(Into::into).collect() }
    }
}
