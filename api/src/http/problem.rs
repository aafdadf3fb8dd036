//! What a caller is told when something is wrong: RFC 9457, one form for everything.

use std::{borrow::Cow, error::Error as StdError, fmt, sync::LazyLock};

use poem::{
    Response,
    error::{MethodNotAllowedError, NotFoundError, ResponseError},
    http::{HeaderName, HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse, Object,
    error::ContentTypeError,
    registry::{MetaMediaType, MetaResponse, MetaResponses, Registry},
    types::Type,
};
use sea_orm::DbErr;
use serde::Serialize;

use crate::quiet::Quiet;

const CONTENT_TYPE: &str = "application/problem+json";
const TYPE_PREFIX: &str = "https://trueup.dev/problems/";

/// When a caller may try again what the database did not take, in seconds.
pub(super) const RETRY_AFTER: u32 = 5;

/// One kind of problem. Its slug is part of the contract: programs may branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    slug: &'static str,
    status: StatusCode,
    title: &'static str,
}

impl Kind {
    pub(super) const fn new(slug: &'static str, status: StatusCode, title: &'static str) -> Self {
        Self { slug, status, title }
    }
}

pub(super) const BAD_REQUEST: Kind = Kind::new("bad-request", StatusCode::BAD_REQUEST, "Bad request");
pub(super) const UNAUTHORIZED: Kind = Kind::new("unauthorized", StatusCode::UNAUTHORIZED, "A token is needed");
pub(super) const CLOSED: Kind = Kind::new("closed", StatusCode::FORBIDDEN, "These routes are closed");
pub(super) const NOT_FOUND: Kind = Kind::new("not-found", StatusCode::NOT_FOUND, "No such address");
pub(super) const USER_UNKNOWN: Kind = Kind::new("user-unknown", StatusCode::NOT_FOUND, "No such user");
pub(super) const EVENT_UNKNOWN: Kind = Kind::new("event-unknown", StatusCode::NOT_FOUND, "No such event");
pub(super) const JOB_UNKNOWN: Kind = Kind::new("job-unknown", StatusCode::NOT_FOUND, "No such job");
pub(super) const NOT_ALLOWED: Kind =
    Kind::new("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "The method does not fit the address");
pub(super) const TOO_SLOW: Kind = Kind::new("too-slow", StatusCode::REQUEST_TIMEOUT, "The body came too slowly");
pub(super) const EMAIL_TAKEN: Kind = Kind::new("email-taken", StatusCode::CONFLICT, "The e-mail address is taken");
pub(super) const HOST_MAKES_USERS: Kind =
    Kind::new("host-makes-users", StatusCode::CONFLICT, "Only the host application can make this user");
pub(super) const AWAITS_RELEASE: Kind =
    Kind::new("awaits-release", StatusCode::CONFLICT, "An adopted database waits for its go-ahead");
pub(super) const NOT_ADOPTED: Kind = Kind::new("not-adopted", StatusCode::CONFLICT, "This database was not adopted");
pub(super) const NOT_RELEASABLE: Kind =
    Kind::new("not-releasable", StatusCode::CONFLICT, "The go-ahead cannot be given so");
pub(super) const EVENT_BUSY: Kind = Kind::new("event-busy", StatusCode::CONFLICT, "The event is being applied");
pub(super) const EVENT_UNVERIFIED: Kind =
    Kind::new("event-unverified", StatusCode::CONFLICT, "Nobody vouches for the event");
pub(super) const EVENT_NOT_OURS: Kind = Kind::new("event-not-ours", StatusCode::CONFLICT, "The event is not ours");
pub(super) const RECONCILIATION_UNKNOWN: Kind =
    Kind::new("reconciliation-unknown", StatusCode::NOT_FOUND, "No such reconciliation");
pub(super) const RECONCILIATION_RUNNING: Kind =
    Kind::new("reconciliation-running", StatusCode::CONFLICT, "A reconciliation is under way");
pub(super) const NOT_CONFIGURED: Kind =
    Kind::new("not-configured", StatusCode::CONFLICT, "Something that this needs is not set up");
pub(super) const JOB_RUNNING: Kind = Kind::new("job-running", StatusCode::CONFLICT, "The job is running");
pub(super) const SCHEDULER_OFF: Kind = Kind::new("scheduler-off", StatusCode::CONFLICT, "This server runs no jobs");
pub(super) const EVENT_EMPTIED: Kind =
    Kind::new("event-emptied", StatusCode::CONFLICT, "The event's payload was emptied");
pub(super) const CURSOR_UNKNOWN: Kind =
    Kind::new("cursor-unknown", StatusCode::CONFLICT, "The cursor lies beyond the feed's end");
pub(super) const KEY_TAKEN: Kind =
    Kind::new("key-taken", StatusCode::CONFLICT, "The idempotency key stands for something else");
pub(super) const KEY_UNKNOWN: Kind = Kind::new("key-unknown", StatusCode::NOT_FOUND, "No such idempotency key");
pub(super) const TOO_LARGE: Kind = Kind::new("too-large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large");
pub(super) const MEDIA_TYPE: Kind =
    Kind::new("unsupported-media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body's type does not fit");
pub(super) const INVALID: Kind = Kind::new("invalid", StatusCode::UNPROCESSABLE_ENTITY, "A value is not acceptable");
pub(super) const QUOTA_EXCEEDED: Kind =
    Kind::new("quota-exceeded", StatusCode::TOO_MANY_REQUESTS, "The allowance is used up");
pub(super) const TOO_MANY_TRIES: Kind =
    Kind::new("too-many-failed-tries", StatusCode::TOO_MANY_REQUESTS, "Too many wrong tokens");
pub(super) const INTERNAL: Kind =
    Kind::new("internal", StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong in this server");
pub(super) const DATABASE: Kind =
    Kind::new("database-unavailable", StatusCode::SERVICE_UNAVAILABLE, "The database is not available");
pub(super) const NOT_STORED: Kind =
    Kind::new("not-stored", StatusCode::SERVICE_UNAVAILABLE, "The event could not be stored now");
pub(super) const NOT_STORABLE: Kind =
    Kind::new("not-storable", StatusCode::BAD_REQUEST, "The event cannot be stored at all");
pub(super) const STOPPING: Kind =
    Kind::new("stopping", StatusCode::SERVICE_UNAVAILABLE, "This server is about to stop");
pub(super) const STRIPE_REFUSED: Kind =
    Kind::new("stripe-refused", StatusCode::BAD_GATEWAY, "Stripe does not give what was asked for");
pub(super) const STRIPE_UNAVAILABLE: Kind =
    Kind::new("stripe-unavailable", StatusCode::SERVICE_UNAVAILABLE, "Stripe's API is not available");
pub(super) const TIMED_OUT: Kind = Kind::new("timed-out", StatusCode::SERVICE_UNAVAILABLE, "The answer took too long");

/// A problem, ready to be told.
#[derive(Debug)]
pub(super) struct Problem {
    kind: Kind,
    detail: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Members beside those of every problem.
    extension: serde_json::Value,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), headers: Vec::new(), extension: serde_json::Value::Null }
    }

    /// A problem that goes away by itself.
    pub(super) fn later(kind: Kind, detail: impl Into<Cow<'static, str>>, seconds: u32) -> Self {
        Self::new(kind, detail).with(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// With members of its own (RFC 9457, section 3.2).
    pub(super) fn extended(mut self, members: &impl Serialize) -> Self {
        self.extension = serde_json::to_value(members).unwrap_or_default();
        self
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }
}

/// A database that is away fails every request.
static FAILED: LazyLock<Quiet> = LazyLock::new(Quiet::default);

/// What the database said goes to the log, never to the caller.
impl From<DbErr> for Problem {
    fn from(error: DbErr) -> Self {
        if let Some(unsaid) = FAILED.may_say() {
            tracing::error!(%error, unsaid, "the database failed a request");
        }
        Self::later(DATABASE, "the database did not do what was asked; try again", RETRY_AFTER)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl StdError for Problem {}

/// The body of a problem (RFC 9457).
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Problem")]
struct ProblemBody {
    /// A URI that names the kind of problem; its last part never changes.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    kind: String,
    /// The kind of problem, for people.
    title: String,
    /// The status code of the answer.
    status: u16,
    /// What is wrong here, and where it helps: what would be right.
    detail: String,
    /// The request's id, as in the header `X-Request-Id` and in every line of the server's log about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        self.kind.status
    }

    fn as_response(&self) -> Response {
        self.render(None)
    }
}

impl Problem {
    fn render(&self, request_id: Option<&str>) -> Response {
        let body = ProblemBody {
            kind: format!("{TYPE_PREFIX}{}", self.kind.slug),
            title: self.kind.title.to_owned(),
            status: self.kind.status.as_u16(),
            detail: self.detail.clone().into_owned(),
            request_id: request_id.map(str::to_owned),
        };
        let mut body = serde_json::to_value(&body).expect("plain fields become JSON");
        if let (Some(body), Some(members)) = (body.as_object_mut(), self.extension.as_object()) {
            body.extend(members.clone());
        }
        let body = body.to_string();
        let mut response = Response::builder().status(self.kind.status).content_type(CONTENT_TYPE).body(body);
        response.headers_mut().extend(self.headers.iter().cloned());
        response
    }
}

/// In the document: whatever an operation answers beside its own, it answers this.
impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "What is wrong (RFC 9457).",
                status: None,
                status_range: None,
                content: vec![MetaMediaType { content_type: CONTENT_TYPE, schema: ProblemBody::schema_ref() }],
                headers: Vec::new(),
            }],
        }
    }

    fn register(registry: &mut Registry) {
        ProblemBody::register(registry);
    }
}

/// Any error of poem's or ours as a problem of the request with this id. `allow` is what the address takes, where there is one.
pub(super) fn from_error(error: poem::Error, allow: Option<&str>, request_id: &str) -> Response {
    if let Some(problem) = error.downcast_ref::<Problem>() {
        return problem.render(Some(request_id));
    }
    let detail = error.to_string();
    let problem = if error.is::<NotFoundError>() {
        Problem::new(NOT_FOUND, "there is nothing at this address; GET /openapi.json tells what there is")
    } else if error.is::<MethodNotAllowedError>() {
        let allow = allow.and_then(|allow| HeaderValue::from_str(allow).ok());
        let problem = Problem::new(NOT_ALLOWED, "this address takes other methods; the header Allow names them");
        allow.into_iter().fold(problem, |problem, allow| problem.with(header::ALLOW, allow))
    } else if error.is::<ContentTypeError>() {
        Problem::new(MEDIA_TYPE, detail)
    } else if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Problem::new(TOO_LARGE, detail)
    } else if error.status().is_client_error() {
        Problem::new(BAD_REQUEST, detail)
    } else {
        tracing::error!(error = %detail, "a request failed");
        Problem::new(INTERNAL, "the request failed; the server's log tells why")
    };
    problem.render(Some(request_id))
}
