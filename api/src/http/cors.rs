//! Pages of other origins: none may call from a browser, but for those that are configured.

use poem::{
    Request, Response,
    http::{HeaderValue, Method, StatusCode, header},
};

/// What such a page may do and see.
const METHODS: &str = "GET, POST, PUT, DELETE";
const HEADERS: &str = "authorization, content-type, x-request-id";
const SHOWN: &str = "x-request-id, retry-after";
/// How long a browser may remember it, in seconds.
const REMEMBERED: &str = "600";

/// The origin that a request names, where its pages may call.
pub(super) fn allowed(request: &Request, origins: &[String]) -> Option<HeaderValue> {
    let origin = request.headers().get(header::ORIGIN)?;
    origins.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

/// A browser that asks beforehand. It has no token to show, and learns nothing but that the origin is allowed.
pub(super) fn asks_beforehand(request: &Request) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to it.
pub(super) fn answer_beforehand() -> Response {
    Response::builder()
        .status(StatusCode::NO_CONTENT)
        .header(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS)
        .header(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS)
        .header(header::ACCESS_CONTROL_MAX_AGE, REMEMBERED)
        .finish()
}

/// Lets the page see the answer. Cookies are never asked for, so none are allowed.
pub(super) fn let_see(response: &mut Response, origin: Option<HeaderValue>) {
    let headers = response.headers_mut();
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(SHOWN));
    }
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}
