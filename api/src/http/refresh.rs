//! Asking Stripe, now, how a user's subscriptions are.

use std::time::Duration;

use billing::{
    refresh::{RefreshError, UserRefreshed},
    stripe::StripeError,
    users,
};
use chrono::Utc;
use entity::{enums::ChangeSource, ids::UserId};
use poem_openapi::{Object, OpenApi, param::Path};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Tag,
    auth::ApiToken,
    body::Answer,
    problem::{AWAITS_RELEASE, NOT_CONFIGURED, Problem, RETRY_AFTER, STRIPE_REFUSED, STRIPE_UNAVAILABLE, USER_UNKNOWN},
    shapes::User,
    within,
};
use crate::app::App;

/// How long Stripe may take altogether: less than an answer may.
const STRIPE_PATIENCE: Duration = Duration::from_secs(8);

#[derive(Debug, Clone)]
pub(super) struct RefreshApi(pub(super) App);

/// What asking Stripe came to.
#[derive(Debug, Serialize, Object)]
struct Refreshed {
    /// The user as of now.
    user: User,
    /// Every subscription of the user that Stripe shows, whatever its status.
    subscriptions: Vec<String>,
    /// Subscriptions stored as the user's that Stripe does not know; nothing is concluded from that.
    missing: Vec<String>,
    /// What the user might do until now, where that changed.
    #[oai(nullable)]
    before: Option<serde_json::Value>,
    /// What the user may do since, where that changed.
    #[oai(nullable)]
    after: Option<serde_json::Value>,
    /// Which rule made it so, where that changed.
    #[oai(nullable)]
    reason: Option<String>,
}

fn unknown() -> Problem {
    Problem::new(USER_UNKNOWN, "there is no such user; PUT /api/v1/users/{id} makes one")
}

fn from_stripe(error: &StripeError) -> Problem {
    tracing::warn!(%error, "a user could not be refreshed");
    if error.may_pass() {
        let detail = "Stripe's API is not available now; nothing was changed; try again";
        Problem::later(STRIPE_UNAVAILABLE, detail, RETRY_AFTER)
    } else {
        Problem::new(STRIPE_REFUSED, format!("{error}; nothing was changed"))
    }
}

#[OpenApi]
impl RefreshApi {
    /// Asks Stripe how a user's subscriptions are
    ///
    /// Fetches them now and takes them in; what is newer here stays. 409 `not-configured` without an API key, 503 `stripe-unavailable`
    /// where another try may help, 502 `stripe-refused` where none does.
    #[oai(path = "/api/v1/users/:id/refresh", method = "post", operation_id = "refreshUser", tag = "Tag::Users")]
    async fn refresh(&self, _token: ApiToken, id: Path<Uuid>) -> Result<Answer<Refreshed>, Problem> {
        let Self(app) = self;
        let id = UserId(id.0);
        let Some(refresher) = &app.refresher else {
            let detail = "this server has no API key of Stripe; set STRIPE_SECRET_KEY";
            return Err(Problem::new(NOT_CONFIGURED, detail));
        };
        // Boxed: telling the world what was fetched takes a future of many kilobytes.
        let refreshing = Box::pin(refresher.refresh_user(id, ChangeSource::Api));
        let done = tokio::time::timeout(STRIPE_PATIENCE, refreshing).await.map_err(|_| {
            let seconds = STRIPE_PATIENCE.as_secs();
            let reason = format!("there was no answer within {seconds} s");
            from_stripe(&StripeError::Unavailable { reason, request: None })
        })?;
        let UserRefreshed { subscriptions, missing, changes } = done.map_err(|error| match error {
            RefreshError::Unknown(_) => unknown(),
            RefreshError::Stripe(error) => from_stripe(&error),
            error @ RefreshError::AwaitsRelease => Problem::new(AWAITS_RELEASE, error.to_string()),
            RefreshError::Database(error) => error.into(),
        })?;
        if !changes.is_empty() {
            app.metrics.entitlements_changed(changes.len());
        }
        // Events that waited for an owner may be due now.
        app.nudge.notify_one();
        let user = within(users::get(&app.db, &app.catalog, &app.policy, id, Utc::now())).await??;
        let change = changes.into_iter().find(|change| change.user == id);
        let json = |entitlement| serde_json::to_value(entitlement).ok();
        Ok(Answer(Refreshed {
            user: user.ok_or_else(unknown)?.into(),
            subscriptions: subscriptions.iter().map(ToString::to_string).collect(),
            missing: missing.iter().map(ToString::to_string).collect(),
            before: change.as_ref().and_then(|change| json(&change.before)),
            after: change.as_ref().and_then(|change| json(&change.after)),
            reason: change.map(|change| change.reason),
        }))
    }
}
