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
    http::{HeaderName, HeaderValue, header},
};
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    problem::{self, INTERNAL, Problem, RETRY_AFTER, TIMED_OUT},
    table::RouteTable,
};
use crate::quiet::Quiet;

/// How long an answer may take, whatever it waits for; but for routes that are meant to wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What was answered 5xx.
static FAILED: LazyLock<Quiet> = LazyLock::new(Quiet::default);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

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

/// Goes around everything.
pub(super) async fn observe(
    endpoint: Arc<impl Endpoint>,
    request: Request,
    table: Arc<RouteTable>,
    metrics: Arc<Metrics>,
) -> Result<Response> {
    let start = Instant::now();
    let id = Uuid::now_v7();
    let method = HttpMethod::named(request.method().as_str());
    let span = tracing::info_span!("request", %id);
    let result = endpoint.call(request).instrument(span.clone()).await;

    let _inside = span.enter();
    let pattern = match &result {
        Ok(_) => None,
        Err(error) => error.data::<PathPattern>().cloned(),
    };
    let mut response = match result {
        Ok(response) => response.into_response(),
        Err(error) => {
            let allow = pattern.as_ref().and_then(|pattern| table.methods(&pattern.0));
            problem::from_error(error, allow)
        }
    };
    let pattern = pattern.or_else(|| response.data::<PathPattern>().cloned());
    let route = table.label(pattern.as_ref().map(|pattern| &*pattern.0));
    add_headers(&mut response, id);

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

/// For people: milliseconds, to the microsecond.
pub(super) fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

/// Who is at the other end, for the log: a proxy where one stands in front.
pub(super) fn peer(request: &Request) -> String {
    request.remote_addr().as_socket_addr().map_or_else(|| "unknown".to_owned(), ToString::to_string)
}

/// Nothing here is meant for a browser to keep, embed or guess at. What set its own policy keeps it.
fn add_headers(response: &mut Response, id: Uuid) {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
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
        let response = problem::from_error(error, None);
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.content_type(), Some("application/problem+json"));
        let body = response.into_body().into_string().await.expect("a body in memory");
        assert!(body.contains("problems/internal") && !body.contains("secret"), "{body}");
    }

    #[tokio::test]
    async fn an_answer_that_never_comes_is_a_503_in_time() {
        let endpoint = make(|_| async { std::future::pending::<Result<&'static str>>().await });
        let error = protect(Duration::ZERO, Arc::new(endpoint), Request::default()).await.expect_err("it hangs");
        let response = problem::from_error(error, None);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.header("retry-after"), Some("5"));
    }
}
