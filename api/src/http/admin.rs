//! What operators ask of the inbox.

use billing::inbox::records::{self, Cursor, Filter, Requeued, RetryError};
use chrono::{DateTime, Datelike, Utc};
use entity::ids::{EventId, UserId};
use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Tag,
    auth::AdminToken,
    body::{Answer, Told},
    problem::{
        BAD_REQUEST, EVENT_BUSY, EVENT_EMPTIED, EVENT_NOT_OURS, EVENT_UNKNOWN, EVENT_UNVERIFIED, Problem, RETRY_AFTER,
        STRIPE_REFUSED, STRIPE_UNAVAILABLE,
    },
    shapes::{EventStatus, FailureGroups, Figures, Retried, WebhookDetail, Webhooks},
    within,
};
use crate::app::App;

/// Groups of failures in an answer.
const MAX_GROUPS: u64 = 100;

#[derive(Debug, Clone)]
pub(super) struct AdminApi(pub(super) App);

/// Which events; without a status the failed ones. Events that are not ours to apply are left alone.
#[derive(Debug, Default, Deserialize, Object)]
#[serde(deny_unknown_fields, default)]
#[oai(deny_unknown_fields)]
struct Which {
    /// Where they stand.
    status: Option<EventStatus>,
    /// Their type, in full.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    event_type: Option<String>,
    /// Whose they are.
    user_id: Option<Uuid>,
    /// The customer they name.
    customer: Option<String>,
    /// Failures of one cause.
    fingerprint: Option<String>,
    /// Stored at or after.
    since: Option<DateTime<Utc>>,
    /// Stored before.
    until: Option<DateTime<Utc>>,
}

impl Which {
    fn filter(self) -> Result<Filter, Problem> {
        Ok(Filter {
            status: self.status.map(Into::into),
            event_type: text("type", self.event_type)?,
            user_id: self.user_id.map(UserId),
            customer: text("customer", self.customer)?,
            fingerprint: text("fingerprint", self.fingerprint)?,
            since: moment("since", self.since)?,
            until: moment("until", self.until)?,
        })
    }
}

/// A database may refuse to look for control characters, and nothing that is stored has any.
fn text(name: &str, value: Option<String>) -> Result<Option<String>, Problem> {
    match value {
        Some(value) if value.chars().any(char::is_control) => {
            Err(Problem::new(BAD_REQUEST, format!("`{name}` must not hold control characters")))
        }
        value => Ok(value),
    }
}

/// Years that every database can hold.
fn moment(name: &str, value: Option<DateTime<Utc>>) -> Result<Option<DateTime<Utc>>, Problem> {
    match value {
        Some(at) if !(1970..=9999).contains(&at.year()) => {
            Err(Problem::new(BAD_REQUEST, format!("`{name}` must be a time between 1970 and 9999")))
        }
        value => Ok(value),
    }
}

fn no_event(id: &str) -> Problem {
    Problem::new(
        EVENT_UNKNOWN,
        format!("there is no event {id} in the inbox; GET /api/v1/admin/webhooks lists what is"),
    )
}

#[OpenApi]
impl AdminApi {
    /// Events of the inbox, newest first
    #[oai(path = "/api/v1/admin/webhooks", method = "get", operation_id = "listWebhooks", tag = "Tag::Admin")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the query")]
    async fn list(
        &self,
        _token: AdminToken,
        /// Where they stand.
        status: Query<Option<EventStatus>>,
        /// Their type, in full.
        #[oai(name = "type")]
        event_type: Query<Option<String>>,
        /// Whose they are.
        user_id: Query<Option<Uuid>>,
        /// The customer they name.
        customer: Query<Option<String>>,
        /// Failures of one cause.
        fingerprint: Query<Option<String>>,
        /// Stored at or after.
        since: Query<Option<DateTime<Utc>>>,
        /// Stored before.
        until: Query<Option<DateTime<Utc>>>,
        /// Events on a page.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "100")))]
        limit: Query<u32>,
        /// Where the page begins: `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Answer<Webhooks>, Problem> {
        let filter = Which {
            status: status.0,
            event_type: event_type.0,
            user_id: user_id.0,
            customer: customer.0,
            fingerprint: fingerprint.0,
            since: since.0,
            until: until.0,
        };
        let filter = filter.filter()?;
        let cursor: Option<Cursor> = match cursor.0.as_deref() {
            Some(text) => Some(text.parse().map_err(|error| Problem::new(BAD_REQUEST, format!("{error}")))?),
            None => None,
        };
        let (items, next) = records::list(&self.0.db, &filter, u64::from(limit.0), cursor).await?;
        let items = items.into_iter().map(Into::into).collect();
        Ok(Answer(Webhooks { items, next_cursor: next.map(|next| next.to_string()) }))
    }

    /// What failed for good, grouped by cause
    #[oai(path = "/api/v1/admin/webhooks/failures", method = "get", operation_id = "listFailures", tag = "Tag::Admin")]
    async fn failures(&self, _token: AdminToken) -> Result<Answer<FailureGroups>, Problem> {
        let groups = records::failures(&self.0.db, MAX_GROUPS).await?;
        Ok(Answer(FailureGroups { items: groups.into_iter().map(Into::into).collect(), next_cursor: None }))
    }

    /// Figures of the inbox over some hours
    #[oai(path = "/api/v1/admin/webhooks/stats", method = "get", operation_id = "webhookStats", tag = "Tag::Admin")]
    async fn stats(
        &self,
        _token: AdminToken,
        /// How far back, in hours.
        #[oai(default = "default_hours", validator(minimum(value = "1"), maximum(value = "8760")))]
        hours: Query<u32>,
    ) -> Result<Answer<Figures>, Problem> {
        let stats = records::stats(&self.0.db, hours.0, Utc::now()).await?;
        Ok(Answer(stats.into()))
    }

    /// Makes every event of a filter due again
    ///
    /// The body is the filter; `{}` means every failed event. Events whose payloads were emptied are left alone and counted.
    #[oai(path = "/api/v1/admin/webhooks/retry", method = "post", operation_id = "retryWebhooks", tag = "Tag::Admin")]
    async fn retry_all(&self, _token: AdminToken, which: Told<Which>) -> Result<Answer<Retried>, Problem> {
        let Self(app) = self;
        let Requeued { retried, emptied } = records::retry_all(&app.db, &which.0.filter()?, &app.intake).await?;
        app.nudge.notify_one();
        tracing::info!(retried, emptied, "an operator made events due again");
        Ok(Answer(Retried { retried, emptied }))
    }

    /// One event with its payload and the history of its failures
    #[oai(path = "/api/v1/admin/webhooks/:event_id", method = "get", operation_id = "getWebhook", tag = "Tag::Admin")]
    async fn show(&self, _token: AdminToken, event_id: Path<String>) -> Result<Answer<WebhookDetail>, Problem> {
        let id = EventId::parse(&*event_id.0).map_err(|_| no_event("of this id"))?;
        let detail = within(records::show(&self.0.db, &id)).await??;
        Ok(Answer(detail.ok_or_else(|| no_event(id.as_str()))?.into()))
    }

    /// Makes one event due again
    ///
    /// A completed one may be applied again: it ends as it did. 409 where it is being applied (`event-busy`), was never verified
    /// (`event-unverified`), is not ours to apply (`event-not-ours`), or was emptied and cannot be fetched again (`event-emptied`); 503
    /// where it was emptied and Stripe does not answer now (`stripe-unavailable`).
    #[oai(
        path = "/api/v1/admin/webhooks/:event_id/retry",
        method = "post",
        operation_id = "retryWebhook",
        tag = "Tag::Admin"
    )]
    async fn retry(&self, _token: AdminToken, event_id: Path<String>) -> Result<Answer<Retried>, Problem> {
        let Self(app) = self;
        let id = EventId::parse(&*event_id.0).map_err(|_| no_event("of this id"))?;
        // Bounded by the route's own time: Stripe may be asked.
        records::retry(&app.db, &id, &app.intake, app.stripe.as_deref()).await.map_err(|error| match error {
            RetryError::Unknown(id) => no_event(id.as_str()),
            RetryError::Busy(_) => Problem::new(EVENT_BUSY, error.to_string()),
            RetryError::Unverified(_) => Problem::new(EVENT_UNVERIFIED, error.to_string()),
            RetryError::NotOurs { .. } => Problem::new(EVENT_NOT_OURS, error.to_string()),
            RetryError::Emptied { .. } => Problem::new(EVENT_EMPTIED, error.to_string()),
            RetryError::Stripe { ref source, .. } if source.may_pass() => {
                Problem::later(STRIPE_UNAVAILABLE, error.to_string(), RETRY_AFTER)
            }
            RetryError::Stripe { .. } => Problem::new(STRIPE_REFUSED, error.to_string()),
            RetryError::Database(error) => error.into(),
        })?;
        app.nudge.notify_one();
        tracing::info!(event_id = %id, "an operator made an event due again");
        Ok(Answer(Retried { retried: 1, emptied: 0 }))
    }
}

fn default_limit() -> u32 {
    50
}

fn default_hours() -> u32 {
    24
}
