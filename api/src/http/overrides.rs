//! Tiers that operators give until a date.

use billing::{
    overrides::{self, OverrideError, OverrideTold},
    users,
};
use chrono::{DateTime, Utc};
use entity::ids::UserId;
use poem_openapi::{Object, OpenApi, param::Path};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Tag,
    auth::AdminToken,
    body::{Answer, Told},
    problem::{INVALID, Problem, USER_UNKNOWN},
    shapes::User,
    within,
};
use crate::app::App;

#[derive(Debug, Clone)]
pub(super) struct OverridesApi(pub(super) App);

/// A tier to be given until a date.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
struct GiveTier {
    /// One of the plans' tiers.
    tier: String,
    /// When it ends; in the future.
    until: DateTime<Utc>,
    /// Why, for people.
    reason: String,
    /// Who gives it; `api` where it is not told.
    #[serde(default)]
    by: Option<String>,
}

/// A tier that an operator gave.
#[derive(Debug, Serialize, Object)]
struct GivenTier {
    /// Which.
    tier: String,
    /// When it ends.
    until: DateTime<Utc>,
    /// Why.
    reason: String,
    /// Who gave it.
    by: String,
    /// When.
    created_at: DateTime<Utc>,
}

/// A user with the override that is stored of them.
#[derive(Debug, Serialize, Object)]
struct Overridden {
    /// The override; null where there is none.
    #[serde(rename = "override")]
    #[oai(rename = "override", nullable)]
    given: Option<GivenTier>,
    /// The user as of now.
    user: User,
}

fn problem(error: OverrideError) -> Problem {
    match error {
        OverrideError::UserUnknown => Problem::new(USER_UNKNOWN, error.to_string()),
        OverrideError::Database(error) => error.into(),
        error => Problem::new(INVALID, error.to_string()),
    }
}

impl OverridesApi {
    async fn answer(&self, user: UserId) -> Result<Answer<Overridden>, Problem> {
        let Self(app) = self;
        let view = within(users::get(&app.db, &app.catalog, &app.policy, user, Utc::now())).await??;
        let view = view.ok_or_else(|| problem(OverrideError::UserUnknown))?;
        app.metrics.usage_rolled(view.rolled.opened, view.rolled.expired);
        let given = view.tier_override.clone().map(|given| GivenTier {
            tier: given.tier,
            until: given.until,
            reason: given.reason,
            by: given.by,
            created_at: given.created_at,
        });
        Ok(Answer(Overridden { given, user: view.into() }))
    }
}

#[OpenApi]
impl OverridesApi {
    /// Gives a user a tier until a date, whatever their subscriptions say
    ///
    /// It replaces an earlier override and keeps the usage window with its count. 422 `invalid` for a tier that no plan has, a date that is
    /// past, or a missing reason.
    #[oai(path = "/api/v1/admin/users/:id/override", method = "put", operation_id = "putOverride", tag = "Tag::Admin")]
    async fn give(
        &self,
        _token: AdminToken,
        id: Path<Uuid>,
        told: Told<GiveTier>,
    ) -> Result<Answer<Overridden>, Problem> {
        let Self(app) = self;
        let (user, GiveTier { tier, until, reason, by }) = (UserId(id.0), told.0);
        let told = OverrideTold { tier, until, reason, by: by.unwrap_or_else(|| "api".to_owned()) };
        let give = Box::pin(overrides::give(&app.db, &app.catalog, &app.policy, user, told));
        let given = within(give).await?.map_err(problem)?;
        tracing::info!(%user, tier = given.tier, until = %given.until, "an operator gave a user a tier");
        self.answer(user).await
    }

    /// Takes a user's override back
    ///
    /// The user falls to what their subscriptions say. The same where there is none.
    #[oai(
        path = "/api/v1/admin/users/:id/override",
        method = "delete",
        operation_id = "deleteOverride",
        tag = "Tag::Admin"
    )]
    async fn take_back(&self, _token: AdminToken, id: Path<Uuid>) -> Result<Answer<Overridden>, Problem> {
        let Self(app) = self;
        let user = UserId(id.0);
        let take_back = Box::pin(overrides::take_back(&app.db, &app.catalog, &app.policy, user));
        if within(take_back).await?.map_err(problem)? {
            tracing::info!(%user, "an operator took a user's override back");
        }
        self.answer(user).await
    }
}
