//! What the host's backend tells and asks of its users.

use billing::users::{self, PutError, UserTold, UserView};
use chrono::Utc;
use entity::ids::{CustomerId, UserId};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
};
use sea_orm::DbErr;
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Tag,
    auth::ApiToken,
    body::{Answer, Told},
    problem::{BAD_REQUEST, EMAIL_TAKEN, HOST_MAKES_USERS, INVALID, Problem, USER_UNKNOWN},
    shapes::{Change, Timeline, User},
    within,
};
use crate::app::App;

#[derive(Debug, Clone)]
pub(super) struct UsersApi(pub(super) App);

/// A user as the host tells it.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
struct PutUser {
    /// Unique without regard to case.
    email: String,
    /// For people to read; absent leaves it as it is.
    #[serde(default)]
    full_name: Option<String>,
}

#[derive(ApiResponse)]
enum PutAnswer {
    /// The user was changed.
    #[oai(status = 200)]
    Changed(Answer<User>),
    /// The user was made.
    #[oai(status = 201)]
    Created(Answer<User>),
}

fn unknown() -> Problem {
    Problem::new(USER_UNKNOWN, "there is no such user; PUT /api/v1/users/{id} makes one")
}

fn found(app: &App, user: Result<Option<UserView>, DbErr>) -> Result<Answer<User>, Problem> {
    Ok(Answer(shown(app, user?.ok_or_else(unknown)?)))
}

/// A user as told; what had to be rolled to read them is counted.
fn shown(app: &App, user: UserView) -> User {
    app.metrics.usage_rolled(user.rolled.opened, user.rolled.expired);
    user.into()
}

#[OpenApi]
impl UsersApi {
    /// Makes or changes a user
    ///
    /// Whatever Stripe already said of the user counts at once: parked events are freed. 409 `email-taken`, 422 `invalid`;
    /// 409 `host-makes-users` for a new user where the table is the host's and wants more than we know.
    #[oai(path = "/api/v1/users/:id", method = "put", operation_id = "putUser", tag = "Tag::Users")]
    async fn put(&self, _token: ApiToken, id: Path<Uuid>, told: Told<PutUser>) -> Result<PutAnswer, Problem> {
        let Self(app) = self;
        let PutUser { email, full_name } = told.0;
        let told = UserTold { id: UserId(id.0), email, full_name };
        // Boxed: applying what waited for the user takes a future of many kilobytes.
        let put = Box::pin(users::put(&app.db, &app.catalog, &app.policy, told));
        let (user, created) = within(put).await?.map_err(|error| match error {
            PutError::BadEmail | PutError::BadName => Problem::new(INVALID, error.to_string()),
            PutError::EmailTaken => Problem::new(EMAIL_TAKEN, error.to_string()),
            PutError::HostMakesUsers { .. } => Problem::new(HOST_MAKES_USERS, error.to_string()),
            PutError::Database(error) => error.into(),
        })?;
        // Events that waited for this user are due now.
        app.nudge.notify_one();
        app.feed.ring();
        let user = Answer(shown(app, user));
        Ok(if created { PutAnswer::Created(user) } else { PutAnswer::Changed(user) })
    }

    /// A user as of now
    #[oai(path = "/api/v1/users/:id", method = "get", operation_id = "getUser", tag = "Tag::Users")]
    async fn get(&self, _token: ApiToken, id: Path<Uuid>) -> Result<Answer<User>, Problem> {
        let Self(app) = self;
        found(app, within(users::get(&app.db, &app.catalog, &app.policy, UserId(id.0), Utc::now())).await?)
    }

    /// The user with an e-mail address or a Stripe customer
    #[oai(path = "/api/v1/users", method = "get", operation_id = "findUser", tag = "Tag::Users")]
    async fn find(
        &self,
        _token: ApiToken,
        /// The address, without regard to case.
        email: Query<Option<String>>,
        /// The id of the Stripe customer.
        customer: Query<Option<String>>,
    ) -> Result<Answer<User>, Problem> {
        let Self(app) = self;
        let now = Utc::now();
        match (email.0, customer.0) {
            // No address and no id has control characters, and a database may refuse to look for them.
            (Some(email), None) if email.chars().any(char::is_control) => Err(unknown()),
            (Some(email), None) => {
                found(app, within(users::by_email(&app.db, &app.catalog, &app.policy, &email, now)).await?)
            }
            (None, Some(customer)) => match CustomerId::parse(customer) {
                Ok(id) => found(app, within(users::by_customer(&app.db, &app.catalog, &app.policy, &id, now)).await?),
                Err(_) => Err(unknown()),
            },
            _ => Err(Problem::new(BAD_REQUEST, "ask by exactly one of `email` and `customer`")),
        }
    }

    /// Why is this user on this tier?
    ///
    /// Every change of what the user may do, newest first.
    #[oai(path = "/api/v1/users/:id/timeline", method = "get", operation_id = "getTimeline", tag = "Tag::Users")]
    async fn timeline(
        &self,
        _token: ApiToken,
        id: Path<Uuid>,
        /// Changes on a page.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "100")))]
        limit: Query<u32>,
        /// Only changes before this one: `next_cursor` of the page before.
        before: Query<Option<Uuid>>,
    ) -> Result<Answer<Timeline>, Problem> {
        let Self(app) = self;
        let user = UserId(id.0);
        // One more than asked for tells whether there are more.
        let limit = u64::from(limit.0);
        let entries = within(users::timeline(&app.db, user, limit + 1, before.0)).await??;
        if entries.is_empty() {
            found(app, within(users::get(&app.db, &app.catalog, &app.policy, user, Utc::now())).await?)?;
        }
        let more = entries.len() as u64 > limit;
        let mut items: Vec<Change> = entries.into_iter().map(Into::into).collect();
        if more {
            items.pop();
        }
        let next_cursor = items.last().filter(|_| more).map(Change::cursor);
        Ok(Answer(Timeline { items, next_cursor }))
    }
}

fn default_limit() -> u32 {
    50
}
