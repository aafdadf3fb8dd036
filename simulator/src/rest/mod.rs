//! The HTTP API, without HTTP: a request goes in, an answer comes out (docs.stripe.com/api).
//!
//! What is not supported answers as Stripe does for an address that it does not know.

mod expand;
mod lists;
mod params;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::HashMap;

use serde_json::{Value, json};

use self::params::Params;
use crate::{account::Refusal, version::ApiVersion, world::World};

/// A request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    pub(crate) query: String,
    /// A form.
    pub(crate) body: String,
    /// The API key, by `Bearer` or as the user of `Basic`.
    pub(crate) key: Option<String>,
    /// `Stripe-Version`
    pub(crate) version: Option<String>,
    /// `Idempotency-Key`
    pub(crate) idempotency_key: Option<String>,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// `Request-Id`
    pub(crate) request: String,
    /// `Stripe-Version`
    pub(crate) version: String,
    /// For the header `Date`: the second of virtual time.
    pub(crate) at: i64,
    /// `Idempotent-Replayed`
    pub(crate) replayed: bool,
}

/// Answers that are given again under the same key.
#[derive(Debug, Default)]
pub(crate) struct Idempotency(HashMap<String, (String, u16, String)>);

/// The body of an error (docs.stripe.com/api/errors).
pub(crate) fn error_body(refusal: &Refusal, request: &str) -> String {
    let mut error = json!({
        "message": refusal.message,
        "request_log_url": format!("https://dashboard.stripe.com/test/logs/{request}"),
        "type": refusal.kind,
    });
    if let Some(code) = refusal.code {
        error["code"] = code.into();
        error["doc_url"] = format!("https://stripe.com/docs/error-codes/{}", code.replace('_', "-")).into();
    }
    if let Some(param) = &refusal.param {
        error["param"] = param.as_str().into();
    }
    json!({ "error": error }).to_string()
}

/// Answers a request. `key` is the one API key that is right.
pub(crate) fn answer(world: &mut World, idempotency: &mut Idempotency, key: &str, request: &Request) -> Reply {
    let id = world.account.begin_request();
    let named = request.version.clone().unwrap_or_else(|| world.account.version.to_string());
    let fingerprint = format!("{} {} {}", request.method, request.path, request.body);
    let once = request.idempotency_key.as_ref().filter(|_| request.method == "POST");
    let mut replayed = false;
    let result = admit(key, request).and_then(|()| {
        let version = ApiVersion::in_force(&named)
            .ok_or_else(|| Refusal::invalid(format!("Invalid Stripe API version: {named}"), ""))?;
        match once.and_then(|once| idempotency.0.get(once)) {
            Some((before, status, body)) if *before == fingerprint => {
                replayed = true;
                Ok((*status, body.clone()))
            }
            Some(_) => Err(Refusal {
                status: 400,
                kind: "idempotency_error",
                code: None,
                message:
                    "Keys for idempotent requests can only be used with the same parameters they were first used with."
                        .to_owned(),
                param: None,
            }),
            None => Ok(match route(world, request, version) {
                Ok(body) => (200, body),
                Err(refusal) => (refusal.status, error_body(&refusal, &id)),
            }),
        }
    });
    let (status, body) = result.unwrap_or_else(|refusal| (refusal.status, error_body(&refusal, &id)));
    // A request that was not let in has not been executed.
    if let Some(once) = once.filter(|_| !matches!(status, 401 | 429)) {
        idempotency.0.entry(once.clone()).or_insert_with(|| (fingerprint, status, body.clone()));
    }
    Reply { status, body, request: id, version: named, at: world.now(), replayed }
}

fn admit(key: &str, request: &Request) -> Result<(), Refusal> {
    let message = match &request.key {
        Some(given) if given == key => return Ok(()),
        Some(_) => "Invalid API Key provided.".to_owned(),
        None => "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth.".to_owned(),
    };
    Err(Refusal { status: 401, kind: "invalid_request_error", code: None, message, param: None })
}

fn unknown(request: &Request) -> Refusal {
    let message = format!(
        "Unrecognized request URL ({}: {}). If you are trying to list objects, remove the trailing slash. If you are trying to retrieve \
         an object, make sure you passed a valid (non-empty) identifier in your code.",
        request.method, request.path
    );
    Refusal { status: 404, kind: "invalid_request_error", code: None, message, param: None }
}

fn route(world: &mut World, request: &Request, version: ApiVersion) -> Result<String, Refusal> {
    let path: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
    let Some((&"v1", path)) = path.split_first() else { return Err(unknown(request)) };
    // Two words name the collection of checkouts.
    let path: Vec<&str> = match path {
        ["checkout", "sessions", rest @ ..] => {
            std::iter::once("checkout/sessions").chain(rest.iter().copied()).collect()
        }
        other => other.to_vec(),
    };
    let mut params = Params::parse(&request.query);
    let body = match request.method.as_str() {
        "GET" => {
            let expand = params.list("expand");
            match read::get(&world.account, &path, params, version)? {
                Some(mut body) => {
                    expand::expand(&world.account, &mut body, &expand, version)?;
                    body
                }
                // An event is stored as text.
                None => match read::event(&world.account, &path)? {
                    Some(text) => return Ok(text),
                    None => return Err(unknown(request)),
                },
            }
        }
        "POST" | "DELETE" => {
            let mut form = Params::parse(&request.body);
            if request.method == "DELETE" {
                form = params;
            }
            let expand = form.list("expand");
            let mut body = write::change(&mut world.account, &request.method, &path, form, version)?
                .ok_or_else(|| unknown(request))?;
            expand::expand(&world.account, &mut body, &expand, version)?;
            body
        }
        _ => return Err(unknown(request)),
    };
    Ok(Value::to_string(&body))
}
