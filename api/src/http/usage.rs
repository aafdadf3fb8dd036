//! What the host's backend asks before it does one more.

use billing::usage::{Figures, Meter, ReleaseError, UsageError};
use chrono::{DateTime, SecondsFormat, Utc};
use entity::ids::UserId;
use poem_openapi::{Object, OpenApi, param::Path};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::{
    Tag,
    auth::ApiToken,
    body::{Answer, Told},
    problem::{INVALID, KEY_TAKEN, KEY_UNKNOWN, Problem, QUOTA_EXCEEDED, USER_UNKNOWN},
    within,
};
use crate::app::App;

#[derive(Debug, Clone)]
pub(super) struct UsageApi(pub(super) App);

/// So many uses.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
struct Use {
    /// How many, 1 or more.
    #[serde(deserialize_with = "whole")]
    amount: i64,
    /// Your name for this piece of work, 1 to 255 characters: it counts once, however often you ask, and can be released.
    #[serde(default)]
    idempotency_key: Option<String>,
}

/// A whole number; 0, which is no amount, for any other value: those are wrong, and the body is well-formed.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?.as_i64().unwrap_or(0))
}

/// Which use is to be given back.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
struct Release {
    /// The key under which it counted.
    idempotency_key: String,
}

/// How the allowance stands now.
#[derive(Debug, Serialize, Object)]
struct Allowance {
    /// Used in the open window.
    used: i64,
    /// The allowance of the window; null is unlimited.
    #[oai(nullable)]
    limit: Option<i64>,
    /// What is left, never below 0; null is unlimited.
    #[oai(nullable)]
    remaining: Option<i64>,
    /// When the next window begins and the count with it.
    resets_at: DateTime<Utc>,
}

impl From<Figures> for Allowance {
    fn from(figures: Figures) -> Self {
        let remaining = figures.remaining();
        let Figures { used, limit, resets_at, .. } = figures;
        Self { used, limit, remaining, resets_at }
    }
}

/// What was given back, and how the allowance stands now.
#[derive(Debug, Serialize, Object)]
struct GivenBack {
    /// How much was given back: all that the key took, or 0.
    released: i64,
    /// `released`, `already_released`, or `window_over`: the window in which it counted has ended, and there is nothing to give back.
    outcome: String,
    /// Used in the open window.
    used: i64,
    /// The allowance of the window; null is unlimited.
    #[oai(nullable)]
    limit: Option<i64>,
    /// What is left, never below 0; null is unlimited.
    #[oai(nullable)]
    remaining: Option<i64>,
    /// When the next window begins and the count with it.
    resets_at: DateTime<Utc>,
}

fn unknown() -> Problem {
    Problem::new(USER_UNKNOWN, "there is no such user; PUT /api/v1/users/{id} makes one")
}

#[OpenApi]
impl UsageApi {
    /// Uses a part of a user's allowance, if there is as much
    ///
    /// One atomic step: of any number of calls at once as many succeed as the allowance holds. With a key it counts once, and answers the
    /// figures of now again; a refusal leaves the key free. 429 `quota-exceeded`, with `used`, `limit`, `remaining` and `resets_at` beside
    /// the members of every problem; 409 `key-taken` for a key that has counted another amount; 422 `invalid`.
    #[oai(path = "/api/v1/users/:id/usage", method = "post", operation_id = "consumeUsage", tag = "Tag::Users")]
    async fn consume(&self, _token: ApiToken, id: Path<Uuid>, told: Told<Use>) -> Result<Answer<Allowance>, Problem> {
        let Self(app) = self;
        let Use { amount, idempotency_key } = told.0;
        let meter = Meter::new(&app.db, &app.catalog, &app.policy);
        // Boxed: rolling a user takes a future of many kilobytes.
        let consume = Box::pin(meter.consume(UserId(id.0), amount, idempotency_key.as_deref()));
        match within(consume).await? {
            Ok(taken) => {
                app.metrics.usage_rolled(taken.rolled.opened, taken.rolled.expired);
                app.metrics.usage_consumed(taken.counted.unsigned_abs());
                Ok(Answer(taken.figures.into()))
            }
            Err(UsageError::Refused { figures, rolled }) => {
                app.metrics.usage_rolled(rolled.opened, rolled.expired);
                app.metrics.usage_refused();
                let until = figures.resets_at.to_rfc3339_opts(SecondsFormat::Secs, true);
                let detail = format!(
                    "{} of {} are used until {until}, so {amount} more do not fit",
                    figures.used,
                    figures.limit.unwrap_or_default()
                );
                Err(Problem::new(QUOTA_EXCEEDED, detail).extended(&Allowance::from(figures)))
            }
            Err(UsageError::UserUnknown) => Err(unknown()),
            Err(error @ (UsageError::BadAmount | UsageError::BadKey)) => Err(Problem::new(INVALID, error.to_string())),
            Err(error @ UsageError::KeyTaken { .. }) => Err(Problem::new(KEY_TAKEN, error.to_string())),
            Err(UsageError::Database(error)) => Err(error.into()),
        }
    }

    /// Gives back what a key took
    ///
    /// For work that failed: once, to the window in which it counted, while that lasts. The key may then be used again and counts anew.
    /// 404 `key-unknown` for a key under which nothing has counted.
    #[oai(path = "/api/v1/users/:id/usage/release", method = "post", operation_id = "releaseUsage", tag = "Tag::Users")]
    async fn release(
        &self,
        _token: ApiToken,
        id: Path<Uuid>,
        told: Told<Release>,
    ) -> Result<Answer<GivenBack>, Problem> {
        let Self(app) = self;
        let meter = Meter::new(&app.db, &app.catalog, &app.policy);
        let release = Box::pin(meter.release(UserId(id.0), &told.0.idempotency_key));
        let done = within(release).await?.map_err(|error| match error {
            ReleaseError::BadKey => Problem::new(INVALID, error.to_string()),
            ReleaseError::UserUnknown => unknown(),
            ReleaseError::KeyUnknown => Problem::new(KEY_UNKNOWN, error.to_string()),
            ReleaseError::Database(error) => error.into(),
        })?;
        app.metrics.usage_rolled(done.rolled.opened, done.rolled.expired);
        let Allowance { used, limit, remaining, resets_at } = done.figures.into();
        let (released, outcome) = (done.released, done.outcome.as_str().to_owned());
        Ok(Answer(GivenBack { released, outcome, used, limit, remaining, resets_at }))
    }
}
