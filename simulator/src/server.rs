//! The simulated Stripe on an address of this machine.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::DateTime;
use poem::{
    Body, IntoResponse, Response, Server,
    endpoint::make,
    http::{HeaderMap, StatusCode, header},
    listener::TcpAcceptor,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    account::Refusal,
    rest::{self, Idempotency, Reply, Request, error_body},
    rng::{Rng, Share},
    world::World,
};

/// Longest request that is read, in bytes.
const LONGEST: usize = 1 << 20;
/// How long a request hangs that is to hang: longer than any client waits.
const HANG: Duration = Duration::from_mins(5);

/// What is wrong with the API.
#[derive(Debug, Clone, Copy, Default)]
pub struct ApiFaults {
    /// Answered 429, with the reason, as if others had used up the limit.
    pub limited: Share,
    /// Answered 500.
    pub broken: Share,
    /// Never answered.
    pub hanging: Share,
    /// Most requests in a second; more are answered 429. None: as many as come.
    pub most_per_second: Option<u32>,
}

/// A simulated Stripe that several hold: whoever moves the world, whoever delivers, and the HTTP API.
#[derive(Debug, Clone)]
pub struct Stripe(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    world: Mutex<World>,
    idempotency: Mutex<Idempotency>,
    faults: Mutex<ApiFaults>,
    chance: Mutex<Rng>,
    bucket: Mutex<(f64, Instant)>,
    key: String,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of another holder is told where it happened; the data is still whole, or the run ends anyway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stripe {
    /// One whose API answers to this key.
    pub fn new(world: World, key: impl Into<String>, seed: u64) -> Self {
        Self(Arc::new(Inner {
            world: Mutex::new(world),
            idempotency: Mutex::default(),
            faults: Mutex::default(),
            chance: Mutex::new(Rng::new(seed, "api")),
            bucket: Mutex::new((0.0, Instant::now())),
            key: key.into(),
        }))
    }

    /// The world, for as long as nobody else needs it.
    pub fn world(&self) -> MutexGuard<'_, World> {
        locked(&self.0.world)
    }

    /// From now on the API has these faults.
    pub fn set_faults(&self, faults: ApiFaults) {
        *locked(&self.0.faults) = faults;
    }

    /// Serves the API until told to stop.
    pub fn serve(&self, listener: TcpListener, stop: CancellationToken) -> io::Result<Served> {
        let address = listener.local_addr()?;
        let acceptor = TcpAcceptor::from_tokio(listener)?;
        let stripe = self.clone();
        let endpoint = make(move |request| {
            let stripe = stripe.clone();
            async move { Ok::<_, poem::Error>(stripe.respond(request).await) }
        });
        let server = Server::new_with_acceptor(acceptor);
        let running = tokio::spawn(async move {
            // What still hangs is not waited for.
            let _ = server.run_with_graceful_shutdown(endpoint, stop.cancelled_owned(), Some(Duration::ZERO)).await;
        });
        Ok(Served { address, running })
    }

    async fn respond(&self, request: poem::Request) -> Response {
        let (parts, body) = request.into_parts();
        let Some(body) = text(body).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
        let value = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let request = Request {
            method: parts.method.as_str().to_owned(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            body,
            key: key(&parts.headers),
            version: value("stripe-version"),
            idempotency_key: value("idempotency-key"),
        };
        match self.fault() {
            Some(Fault::Hang) => {
                tokio::time::sleep(HANG).await;
                StatusCode::GATEWAY_TIMEOUT.into_response()
            }
            Some(Fault::Limited) => {
                let mut response = response(self.refuse(&Refusal {
                    status: 429,
                    kind: "invalid_request_error",
                    code: Some("rate_limit"),
                    message: "Request rate limit exceeded. You can learn more about rate limits here https://stripe.com/docs/rate-limits.".to_owned(),
                    param: None,
                }));
                let reason = header::HeaderValue::from_static("global-rate");
                response.headers_mut().insert("stripe-rate-limited-reason", reason);
                response
            }
            Some(Fault::Broken) => response(self.refuse(&Refusal {
                status: 500,
                kind: "api_error",
                code: None,
                message: "An unknown error occurred.".to_owned(),
                param: None,
            })),
            None => response(self.answer(&request)),
        }
    }

    /// Answers a request at once, without faults.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        rest::answer(&mut self.world(), &mut locked(&self.0.idempotency), &self.0.key, request)
    }

    fn refuse(&self, refusal: &Refusal) -> Reply {
        let mut world = self.world();
        let request = world.account.begin_request();
        let body = error_body(refusal, &request);
        let version = world.account.version.to_string();
        Reply { status: refusal.status, body, request, version, at: world.now(), replayed: false }
    }

    fn fault(&self) -> Option<Fault> {
        let faults = *locked(&self.0.faults);
        if faults.most_per_second.is_some_and(|most| !self.within(f64::from(most))) {
            return Some(Fault::Limited);
        }
        let mut chance = locked(&self.0.chance);
        [(faults.hanging, Fault::Hang), (faults.limited, Fault::Limited), (faults.broken, Fault::Broken)]
            .into_iter()
            .find_map(|(share, fault)| chance.chance(share).then_some(fault))
    }

    /// A bucket that holds what may come in one second.
    fn within(&self, most: f64) -> bool {
        let mut bucket = locked(&self.0.bucket);
        let (level, since) = *bucket;
        let level = (level - since.elapsed().as_secs_f64() * most).max(0.0);
        let fits = level + 1.0 <= most;
        *bucket = (if fits { level + 1.0 } else { level }, Instant::now());
        fits
    }
}

/// Where the API is.
#[derive(Debug)]
pub struct Served {
    /// As bound.
    pub address: SocketAddr,
    /// Ends when it was told to stop.
    pub running: JoinHandle<()>,
}

impl Served {
    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Hang,
    Limited,
    Broken,
}

async fn text(body: Body) -> Option<String> {
    let bytes = body.into_bytes_limit(LONGEST).await.ok()?;
    String::from_utf8(bytes.to_vec()).ok()
}

/// The API key: `Bearer`, or the user of `Basic`, as with `curl -u sk_test_…:`.
fn key(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    if let Some(key) = value.strip_prefix("Bearer ") {
        return Some(key.trim().to_owned());
    }
    let encoded = value.strip_prefix("Basic ")?;
    String::from_utf8(base64(encoded.trim())?).ok()?.split(':').next().map(str::to_owned)
}

/// Standard base64; `None` for anything else.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bits = 0_u32;
    let mut count = 0;
    let mut bytes = Vec::new();
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

fn response(reply: Reply) -> Response {
    let date =
        DateTime::from_timestamp(reply.at, 0).unwrap_or_default().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::builder()
        .status(status)
        .content_type("application/json")
        .header("Date", date)
        .header("Request-Id", reply.request)
        .header("Stripe-Version", reply.version);
    if reply.replayed {
        response = response.header("Idempotent-Replayed", "true");
    }
    if let 409 | 429 | 500.. = reply.status {
        response = response.header("Stripe-Should-Retry", "true");
    }
    response.body(reply.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_read_from_either_scheme() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            key(&headers)
        };
        assert_eq!(of("Bearer sk_test_1").as_deref(), Some("sk_test_1"));
        assert_eq!(of("Basic c2tfdGVzdF8xOg==").as_deref(), Some("sk_test_1"));
        assert_eq!(of("Digest x"), None);
        assert_eq!(of("Basic %%%"), None);
    }
}
