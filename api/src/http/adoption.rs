//! The go-ahead of an adopted database's first reconciliation.

use billing::adoption::{self, Adoption as State, Release, ReleaseError};
use chrono::{DateTime, Utc};
use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Tag,
    auth::AdminToken,
    body::{Answer, Told},
    problem::{INVALID, NOT_ADOPTED, NOT_RELEASABLE, Problem},
    within,
};
use crate::app::App;

#[derive(Debug, Clone)]
pub(super) struct AdoptionApi(pub(super) App);

/// Who gave the go-ahead, when, and after which dry run.
#[derive(Debug, Serialize, Object)]
struct AdoptionRelease {
    /// Who.
    by: String,
    /// When.
    at: DateTime<Utc>,
    /// The dry run that was looked at.
    reconciliation: Uuid,
}

impl From<Release> for AdoptionRelease {
    fn from(Release { by, at, reconciliation }: Release) -> Self {
        Self { by, at, reconciliation }
    }
}

/// How the adoption of this database stands.
#[derive(Debug, Serialize, Object)]
struct Adoption {
    /// When the database was adopted; null where it was never a host's before.
    #[oai(nullable)]
    adopted_at: Option<DateTime<Utc>>,
    /// True while reconciliations repair nothing, since the go-ahead is waited for.
    awaiting_release: bool,
    /// The go-ahead.
    #[oai(nullable)]
    released: Option<AdoptionRelease>,
}

impl From<Option<State>> for Adoption {
    fn from(state: Option<State>) -> Self {
        let adopted_at = state.as_ref().map(|state| state.adopted_at);
        let released = state.and_then(|state| state.released);
        Self {
            adopted_at,
            awaiting_release: adopted_at.is_some() && released.is_none(),
            released: released.map(Into::into),
        }
    }
}

/// The go-ahead.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
struct NewRelease {
    /// Who gives it.
    by: String,
    /// The dry run that was looked at, about everybody.
    reconciliation: Uuid,
}

#[OpenApi]
impl AdoptionApi {
    /// Whether this database was adopted, and its first reconciliation given the go-ahead
    #[oai(path = "/api/v1/admin/adoption", method = "get", operation_id = "getAdoption", tag = "Tag::Admin")]
    async fn show(&self, _token: AdminToken) -> Result<Answer<Adoption>, Problem> {
        Ok(Answer(within(adoption::state(self.0.db.reader())).await??.into()))
    }

    /// Gives the first reconciliation of an adopted database the go-ahead
    ///
    /// 409 `not-adopted`, and `not-releasable` where it was given already, or the reconciliation named is no dry run about everybody that came to
    /// its end after the adoption.
    #[oai(
        path = "/api/v1/admin/adoption/release",
        method = "post",
        operation_id = "releaseAdoption",
        tag = "Tag::Admin"
    )]
    async fn release(&self, _token: AdminToken, told: Told<NewRelease>) -> Result<Answer<Adoption>, Problem> {
        let Self(app) = self;
        let NewRelease { by, reconciliation } = told.0;
        within(adoption::release(&app.db, Some(reconciliation), &by)).await?.map_err(|error| match error {
            ReleaseError::NotAdopted => Problem::new(NOT_ADOPTED, error.to_string()),
            ReleaseError::Already(_) | ReleaseError::NoDryRun | ReleaseError::NotSuitable { .. } => {
                Problem::new(NOT_RELEASABLE, error.to_string())
            }
            ReleaseError::BadBy => Problem::new(INVALID, error.to_string()),
            ReleaseError::Database(error) => error.into(),
        })?;
        app.metrics.reconcile_awaiting_release(false);
        Ok(Answer(within(adoption::state(app.db.reader())).await??.into()))
    }
}
