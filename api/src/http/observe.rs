//! What every request goes through: an id, a bound on its time, a catch for panics, security headers, one log line, metrics.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, LazyLock},
    time::Duration,
};

use futures::FutureExt;
use metrics::{Metrics, labels::HttpMethod};
use poem::{
    Endpoint, IntoResponse, PathPattern, Request, Response, Result,
    http::{HeaderName, HeaderValue, header, uri::Scheme},
};
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    client, cors,
    problem::{self, INTERNAL, Problem, RETRY_AFTER, TIMED_OUT},
    table::RouteTable,
};
use crate::{app::Edge, quiet::Quiet};

/// How long an answer may take, whatever it waits for; but for routes that are meant to wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What was answered 5xx.
static FAILED: LazyLock<Quiet> = LazyLock::new(Quiet::default);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken from a caller.
const LONGEST_ID: usize = 128;

/// Bounds the time of what is mounted here, and turns its panics into answers.
pub(super) async fn protect(patience: Duration, endpoint: Arc<impl Endpoint>, request: Request) -> Result<Response> {
    let answer = AssertUnwindSafe(endpoint.call(request)).catch_unwind();
    match tokio::time::timeout(patience, answer).await {
        Ok(Ok(answer)) => answer.map(IntoResponse::into_response),
        Ok(Err(_panic)) => {
            // What it says may hold anything; the panic hook has told where it came from.
            tracing::error!(after_panic = true, "a request made this server panic; that is a bug, please report it");
            Err(Problem::new(INTERNAL, "the request failed; the server's log tells where").into())
        }
        Err(_) => {
            let detail = format!("there was no answer within {} s; try again", patience.as_secs());
            Err(Problem::later(TIMED_OUT, detail, RETRY_AFTER).into())
        }
    }
}

/// What goes around everything needs to know.
#[derive(Debug)]
pub(super) struct Around {
    pub(super) table: RouteTable,
    pub(super) metrics: Arc<Metrics>,
    pub(super) edge: Edge,
}

/// Goes around everything.
pub(super) async fn observe(
    endpoint: Arc<impl Endpoint>,
    mut request: Request,
    around: Arc<Around>,
) -> Result<Response> {
    let Around { table, metrics, edge } = &*around;
    let start = Instant::now();
    let id = request_id(&request);
    let method = HttpMethod::named(request.method().as_str());
    let secure = *request.scheme() == Scheme::HTTPS;
    client::mark(&mut request, &edge.trusted_proxies);
    let origin = cors::allowed(&request, &edge.cors_origins);
    let expected = table.expected(request.uri().path());
    // Whatever is logged at all is logged with the id.
    let span = tracing::error_span!("request", %id, route = expected);
    let result = if origin.is_some() && cors::asks_beforehand(&request) {
        Ok(cors::answer_beforehand())
    } else {
        endpoint.call(request).instrument(span.clone()).await.map(IntoResponse::into_response)
    };

    let _inside = span.enter();
    let pattern = match &result {
        Ok(_) => None,
        Err(error) => error.data::<PathPattern>().cloned(),
    };
    let mut response = result.unwrap_or_else(|error| {
        let allow = pattern.as_ref().and_then(|pattern| table.methods(&pattern.0));
        problem::from_error(&error, allow, &id)
    });
    let pattern = pattern.or_else(|| response.data::<PathPattern>().cloned());
    let route = table.label(pattern.as_ref().map(|pattern| &*pattern.0));
    add_headers(&mut response, &id, secure);
    if !edge.cors_origins.is_empty() {
        cors::let_see(&mut response, origin);
    }

    let (status, took) = (response.status().as_u16(), start.elapsed());
    metrics.http_answered(route, method, status, took.as_secs_f64());
    let milliseconds = milliseconds(took);
    let method = method.as_str();
    if status >= 500 {
        if let Some(unsaid) = FAILED.may_say() {
            tracing::warn!(method, route, status, milliseconds, unsaid, "answered");
        }
    } else {
        tracing::debug!(method, route, status, milliseconds, "answered");
    }
    Ok(response)
}

/// The id that the caller, or a proxy, gave the request, where it is one; else a new one.
fn request_id(request: &Request) -> String {
    let sane = |id: &&str| {
        (1..=LONGEST_ID).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(&byte))
    };
    request.header(REQUEST_ID).filter(sane).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// For people: milliseconds, to the microsecond.
pub(super) fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

/// Nothing here is meant for a browser to keep, embed or guess at. What set its own policy keeps it.
fn add_headers(response: &mut Response, id: &str, secure: bool) {
    let headers = response.headers_mut();
    if secure {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use poem::{
        EndpointExt,
        endpoint::{make, make_sync},
        http::StatusCode,
    };

    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_answer_that_tells_nothing_of_it() {
        let endpoint = make_sync(|_| -> &'static str { panic!("secret") })
            .around(|endpoint, request| protect(PATIENCE, endpoint, request));
        let error = endpoint.call(Request::default()).await.expect_err("it panicked");
        let response = problem::from_error(&error, None, "req-1");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.content_type(), Some("application/problem+json"));
        let body = response.into_body().into_string().await.expect("a body in memory");
        assert!(body.contains("problems/internal") && !body.contains("secret"), "{body}");
        assert!(body.contains("\"request_id\":\"req-1\""), "{body}");
    }

    #[test]
    fn an_id_is_taken_over_only_where_it_can_harm_no_log_and_no_header() {
        let of = |id: &str| request_id(&Request::builder().header("x-request-id", id).finish());
        for sane in ["a", "0f8fad5b-d9cb-469f-a165-70867728950e", "Root=1:ab/c+d_e.f", &"x".repeat(LONGEST_ID)] {
            assert_eq!(of(sane), sane);
        }
        for wrong in ["", " ", "a b", "a\"b", "a{b}", "ä", "a@example.com", &"x".repeat(LONGEST_ID + 1)] {
            let made = of(wrong);
            assert!(made != wrong && made.len() == 36, "{made}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_never_comes_is_a_503_in_time() {
        let endpoint = make(|_| async { std::future::pending::<Result<&'static str>>().await });
        let error = protect(Duration::ZERO, Arc::new(endpoint), Request::default()).await.expect_err("it hangs");
        let response = problem::from_error(&error, None, "req-1");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.header("retry-after"), Some("5"));
    }
}
