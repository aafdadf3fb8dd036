//! The client of Stripe's REST API.
//!
//! Only reads. Each call waits for its slot in the shared [`Budget`], is tried again as [`super::retry`] says, and ends at its lane's
//! deadline at the latest. Neither the key nor a URL ever reaches an error, a log line or `Debug`.

use std::{error::Error as StdError, fmt, num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use entity::Time;
use reqwest::{
    Client, Response, Url,
    header::{AUTHORIZATION, DATE, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Collection, Fetched, Lane, Page, Resource, Stripe, StripeError,
    address::{Endpoint, Target},
    answer::{self, Limit, Reply},
    budget::Budget,
    retry::{Ending, pause},
    tls,
};

/// The version of the API that is asked for: the newest that Stripe's own libraries pin (stripe-node 23.1.0).
pub const API_VERSION: &str = "2026-10-28.endive";

/// Longest answer that is read, in bytes. A page of 100 subscriptions has some 300 KB.
const LONGEST_ANSWER: usize = 32 << 20;

/// Further tries of a call in the background, beyond those of a live one.
const MORE_IN_BACKGROUND: u32 = 3;

const STRIPE_ACCOUNT: HeaderName = HeaderName::from_static("stripe-account");
const STRIPE_VERSION: HeaderName = HeaderName::from_static("stripe-version");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("stripe-should-retry");
const LIMITED_REASON: HeaderName = HeaderName::from_static("stripe-rate-limited-reason");
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// A secret or restricted API key. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Takes a key; anything that an HTTP header can hold, since Stripe does not promise what its keys look like.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ClientError::Key);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// How the client works.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// `Stripe-Version` of every call.
    pub api_version: String,
    /// The Connect account that is served, where the key is its platform's: whose objects are asked for.
    pub account: Option<String>,
    /// Calls a second, of everybody in this process together.
    pub requests_per_second: NonZeroU32,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long one try may take, to the last byte of its answer.
    pub timeout: Duration,
    /// Further tries of a live call; one in the background has three more.
    pub retries: u32,
    /// How long a live call may take altogether: waiting for its slot, tries and pauses.
    pub live_deadline: Duration,
    /// The same for a call in the background.
    pub background_deadline: Duration,
    /// Our clock, for a reply without a `Date`.
    pub clock: fn() -> Time,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            account: None,
            requests_per_second: const { NonZeroU32::new(20).expect("not zero") },
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(20),
            retries: 2,
            live_deadline: Duration::from_secs(30),
            background_deadline: Duration::from_mins(3),
            clock: chrono::Utc::now,
        }
    }
}

/// Why there can be no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The key cannot be sent.
    #[error(
        "the API key is empty or holds characters that no HTTP header may hold; set STRIPE_SECRET_KEY to the key as Stripe shows it"
    )]
    Key,
    /// The version cannot be sent.
    #[error("the API version holds characters that no HTTP header may hold; write one like {API_VERSION}")]
    Version,
    /// The account cannot be sent.
    #[error("the Connect account holds characters that no HTTP header may hold; set STRIPE_ACCOUNT to one like acct_…")]
    Account,
    /// The address is none. Not told: it may hold a password.
    #[error("STRIPE_API_BASE is no http:// or https:// URL; write one like https://api.stripe.com")]
    Base,
    /// TLS or the HTTP client cannot be set up.
    #[error("the client of Stripe's API cannot be set up")]
    Setup(#[source] Box<dyn StdError + Send + Sync>),
}

/// What the client did, for metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Observation {
    /// A call waited so many seconds for its slot in the budget.
    Waited {
        /// Whose call.
        lane: Lane,
        /// How long.
        seconds: f64,
    },
    /// One try ended.
    Tried {
        /// What was asked.
        endpoint: Endpoint,
        /// What came of it.
        answer: Answer,
        /// From the sending to the answer's last byte.
        seconds: f64,
    },
    /// A call is tried again.
    Retried {
        /// What is asked.
        endpoint: Endpoint,
    },
    /// An answer told Stripe's time.
    Clock {
        /// How many seconds our clock is ahead of it.
        ahead: f64,
    },
}

/// What came of one try; a closed set, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// 200 to 299.
    Success,
    /// 300 to 399.
    Redirection,
    /// 401: the key was refused.
    KeyRefused,
    /// 429.
    Limited,
    /// Any other from 400 to 499.
    ClientError,
    /// 500 and above.
    ServerError,
    /// Not within its time.
    TimedOut,
    /// No connection, or one that broke.
    Broken,
}

impl Answer {
    fn of(status: u16) -> Self {
        match status {
            0..300 => Self::Success,
            300..400 => Self::Redirection,
            401 => Self::KeyRefused,
            429 => Self::Limited,
            400..500 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

/// Told of everything the client does.
pub type ClientObserver = Arc<dyn Fn(Observation) + Send + Sync>;

/// Stripe's API over HTTP. Cheap to clone; clones share one budget.
#[derive(Clone)]
pub struct StripeClient {
    http: Client,
    base: Url,
    key: ApiKey,
    options: Arc<ClientOptions>,
    budget: Arc<Budget>,
    observer: ClientObserver,
}

impl fmt::Debug for StripeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StripeClient").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Why a try brought no answer.
struct Silence {
    answer: Answer,
    reason: String,
}

impl StripeClient {
    /// A client; nothing is called yet. `base` is the address before `/v1`.
    pub fn new(base: &str, key: ApiKey, options: ClientOptions, observer: ClientObserver) -> Result<Self, ClientError> {
        let base: Url = base.parse().map_err(|_| ClientError::Base)?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none_or(str::is_empty) {
            return Err(ClientError::Base);
        }
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.0)).map_err(|_| ClientError::Key)?;
        authorization.set_sensitive(true);
        let version = HeaderValue::from_str(&options.api_version).map_err(|_| ClientError::Version)?;
        let mut headers = HeaderMap::from_iter([(AUTHORIZATION, authorization), (STRIPE_VERSION, version)]);
        if let Some(account) = &options.account {
            headers.insert(STRIPE_ACCOUNT, HeaderValue::from_str(account).map_err(|_| ClientError::Account)?);
        }
        let encrypted = base.scheme() == "https";
        let setup = |error: Box<dyn StdError + Send + Sync>| ClientError::Setup(error);
        let mut builder = Client::builder()
            .user_agent(concat!("trueup/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            // The key goes to the address it was meant for, and nowhere else.
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout)
            .tls_backend_preconfigured(tls::config(encrypted).map_err(|error| setup(error.into()))?);
        if !encrypted {
            // A proxy of the environment is for the world outside.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| setup(error.without_url().into()))?;
        let budget = Arc::new(Budget::new(options.requests_per_second));
        Ok(Self { http, base, key, options: Arc::new(options), budget, observer })
    }

    /// One call: a slot, a try, and as many more as help. What comes back has a status from 200 to 299.
    async fn call(&self, target: Target<'_>, lane: Lane) -> Result<Reply, StripeError> {
        let Some(url) = target.url(&self.base) else {
            let (kind, id) = target.subject();
            return Err(StripeError::Missing { kind, id, request: None });
        };
        let (allowed, further) = match lane {
            Lane::Live => (self.options.live_deadline, self.options.retries),
            Lane::Background => (self.options.background_deadline, self.options.retries + MORE_IN_BACKGROUND),
        };
        let deadline = Instant::now() + allowed;
        let mut last: Option<StripeError> = None;
        for number in 1.. {
            let tried = timeout_at(deadline, self.attempt(target.endpoint(), url.clone(), lane)).await;
            let (ending, error) = match tried {
                Ok(Ok(reply)) if reply.is_good() => return Ok(reply),
                Ok(Ok(reply)) => (reply.ending(), answer::error(target, &reply, &self.key.0)),
                Ok(Err(silence)) => {
                    (Ending::NoAnswer, StripeError::Unavailable { reason: silence.reason, request: None })
                }
                Err(_) => break,
            };
            let pause = pause(number, rand::random::<f64>());
            if number > further || !ending.deserves_another_try() || Instant::now() + pause >= deadline {
                return Err(error);
            }
            tracing::debug!(endpoint = target.endpoint().as_str(), %error, "a call of Stripe's API is tried again");
            last = Some(error);
            (self.observer)(Observation::Retried { endpoint: target.endpoint() });
            sleep(pause).await;
        }
        Err(last.unwrap_or_else(|| StripeError::Unavailable {
            reason: format!("there was no answer within {} s", allowed.as_secs_f64()),
            request: None,
        }))
    }

    /// One try, from waiting for a slot to the last byte.
    async fn attempt(&self, endpoint: Endpoint, url: Url, lane: Lane) -> Result<Reply, Silence> {
        let seconds = self.budget.take(lane).await.as_secs_f64();
        (self.observer)(Observation::Waited { lane, seconds });
        let mut trying = Trying { observer: &self.observer, endpoint, begun: Instant::now(), told: false };
        let result = self.exchange(url).await;
        trying.tell(match &result {
            Ok(reply) => Answer::of(reply.status),
            Err(silence) => silence.answer,
        });
        result
    }

    async fn exchange(&self, url: Url) -> Result<Reply, Silence> {
        let (sent, begun) = ((self.options.clock)(), Instant::now());
        let silence = |error| self.silence(error);
        let mut response = self.http.get(url).send().await.map_err(silence)?;
        let took = begun.elapsed();
        let header = |name: &HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok());
        let should_retry = match header(&SHOULD_RETRY) {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => None,
        };
        if let Some(ahead) = answer::ahead(header(&DATE), sent, took) {
            (self.observer)(Observation::Clock { ahead });
        }
        let mut reply = Reply {
            status: response.status().as_u16(),
            should_retry,
            limited: header(&LIMITED_REASON).map(Limit::named),
            request: header(&REQUEST_ID).and_then(answer::request_id),
            at: answer::second(header(&DATE), sent, took),
            body: Vec::new(),
        };
        reply.body = self.body(&mut response).await?;
        Ok(reply)
    }

    async fn body(&self, response: &mut Response) -> Result<Vec<u8>, Silence> {
        let expected = usize::try_from(response.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
        let too_long = || Silence {
            answer: Answer::Broken,
            reason: format!("its answer has more than {} MiB", LONGEST_ANSWER >> 20),
        };
        if expected > LONGEST_ANSWER {
            return Err(too_long());
        }
        let mut body = Vec::with_capacity(expected);
        while let Some(chunk) = response.chunk().await.map_err(|error| self.silence(error))? {
            if body.len() + chunk.len() > LONGEST_ANSWER {
                return Err(too_long());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// What an error of the network comes to, without the URL.
    fn silence(&self, error: reqwest::Error) -> Silence {
        let error = error.without_url();
        if error.is_timeout() {
            let (what, time) = if error.is_connect() {
                ("no connection", self.options.connect_timeout)
            } else {
                ("no whole answer", self.options.timeout)
            };
            let reason = format!("there was {what} within {} s", time.as_secs_f64());
            return Silence { answer: Answer::TimedOut, reason };
        }
        let what = if error.is_connect() { "no connection could be made" } else { "the connection broke" };
        let mut cause: &dyn StdError = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let reason = format!("{what} ({})", answer::shown(&cause.to_string(), &self.key.0));
        Silence { answer: Answer::Broken, reason }
    }
}

/// Tells of a try also where it is given up half-way.
struct Trying<'a> {
    observer: &'a ClientObserver,
    endpoint: Endpoint,
    begun: Instant,
    told: bool,
}

impl Trying<'_> {
    fn tell(&mut self, answer: Answer) {
        self.told = true;
        let seconds = self.begun.elapsed().as_secs_f64();
        (self.observer)(Observation::Tried { endpoint: self.endpoint, answer, seconds });
    }
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Answer::TimedOut);
        }
    }
}

#[async_trait]
impl Stripe for StripeClient {
    async fn get(&self, resource: &Resource, lane: Lane) -> Result<Fetched, StripeError> {
        let reply = self.call(Target::Object(resource), lane).await?;
        answer::object(resource, &reply)
    }

    async fn list(&self, collection: &Collection, after: Option<&str>, lane: Lane) -> Result<Page, StripeError> {
        let reply = self.call(Target::List(collection, after), lane).await?;
        answer::page(after, &reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_key_nor_base_is_shown() {
        let key = ApiKey::parse("sk_live_secret").expect("a key");
        let observer: ClientObserver = Arc::new(|_| {});
        let base = "https://user:hidden@stripe.example";
        let client = StripeClient::new(base, key.clone(), ClientOptions::default(), observer).expect("a client");
        let shown = format!("{key:?} {client:?} {client:#?}");
        assert!(!shown.contains("secret") && !shown.contains("hidden"), "{shown}");
    }

    #[test]
    fn what_no_header_can_hold_is_no_key() {
        for text in ["", "  ", "sk_\nlive", "sk_live_é", "sk live"] {
            let error = ApiKey::parse(text).expect_err(text);
            assert!(!error.to_string().contains("sk_"), "{error}");
        }
        assert!(ApiKey::parse(" sk_test_1\n").is_ok(), "white space around it is a slip of the hand");
    }

    #[test]
    fn a_base_that_is_no_address_is_refused_without_being_told() {
        for base in ["", "api.stripe.com", "ftp://x", "https://"] {
            let key = ApiKey::parse("sk_test_1").expect("a key");
            let made = StripeClient::new(base, key, ClientOptions::default(), Arc::new(|_| {}));
            assert!(matches!(made, Err(ClientError::Base)), "{base}");
        }
    }
}
