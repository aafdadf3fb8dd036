//! A Stripe on loopback: lists and objects as JSON, paged and filtered as Stripe does it, and every kind of bad luck on request.
//!
//! HTTP is spoken by hand, straight on the socket: a server that cannot misbehave could not hang, drip, or cut a line in the middle.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::sleep,
};

/// One request, as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// For example `GET`.
    pub method: String,
    /// Decoded, without the query.
    pub path: String,
    /// Decoded, in order.
    pub query: Vec<(String, String)>,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Asked {
    /// The first value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// How an answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Whole,
    /// Never: the connection stays open and silent.
    Never,
    /// The connection is closed instead.
    Cut,
    /// The connection is closed in the middle of the body.
    CutInBody,
    /// The second half of the body comes so much later.
    Drip(Duration),
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    after: Duration,
    date: bool,
    manner: Manner,
}

impl Answer {
    /// A status and a JSON body.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::text(status, "application/json", &body.to_string())
    }

    /// A status and any body.
    pub fn text(status: u16, content_type: &str, body: &str) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".to_owned(), content_type.to_owned())],
            body: body.as_bytes().to_vec(),
            after: Duration::ZERO,
            date: true,
            manner: Manner::Whole,
        }
    }

    /// An error as Stripe tells it.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let error = json!({ "type": "invalid_request_error", "code": code, "message": message });
        Self::json(status, &json!({ "error": error }))
    }

    /// 429 for this `Stripe-Rate-Limited-Reason`.
    pub fn limited(reason: &str) -> Self {
        Self::error(429, "rate_limit", "Request rate limit exceeded").with("Stripe-Rate-Limited-Reason", reason)
    }

    /// What a proxy says when Stripe is away.
    pub fn bad_gateway() -> Self {
        Self::text(502, "text/html", "<html><body><h1>502 Bad Gateway</h1></body></html>")
    }

    /// No answer, for ever.
    pub fn never() -> Self {
        Self { manner: Manner::Never, ..Self::text(200, "text/plain", "") }
    }

    /// A closed connection in place of an answer.
    pub fn cut() -> Self {
        Self { manner: Manner::Cut, ..Self::text(200, "text/plain", "") }
    }

    /// The same, with a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same without a `Date`.
    #[must_use]
    pub fn undated(self) -> Self {
        Self { date: false, ..self }
    }

    /// The same, begun so much later.
    #[must_use]
    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    /// The same, with the second half of its body so much later.
    #[must_use]
    pub fn dripping(self, pause: Duration) -> Self {
        Self { manner: Manner::Drip(pause), ..self }
    }

    /// The same, with the connection closed in the middle of its body.
    #[must_use]
    pub fn cut_in_body(self) -> Self {
        Self { manner: Manner::CutInBody, ..self }
    }
}

/// Answers the requests of one path.
type Handler = Arc<dyn Fn(&Asked) -> Answer + Send + Sync>;

#[derive(Default)]
struct State {
    routes: BTreeMap<String, Handler>,
    scripted: VecDeque<Answer>,
    instead: Option<Answer>,
    latency: Duration,
    skew: TimeDelta,
    asked: Vec<Asked>,
    requests: u64,
}

/// The server; gone when dropped.
pub struct FakeStripe {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

impl fmt::Debug for FakeStripe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeStripe").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for FakeStripe {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl FakeStripe {
    /// Starts on a free port. Knows nothing yet: everything is a 404.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(Mutex::new(State::default()));
        let serving = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { address, state, serving }
    }

    /// Its address, as `STRIPE_API_BASE` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Answers `path` by a function, from now on.
    pub fn route(&self, path: &str, handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) {
        self.state().routes.insert(path.to_owned(), Arc::new(handler));
    }

    /// Answers `path` with an object, from now on.
    pub fn object(&self, path: &str, object: &Value) {
        let answer = Answer::json(200, object);
        self.route(path, move |_| answer.clone());
    }

    /// Answers `path` with a list, paged and filtered by the query as Stripe does it, from now on.
    pub fn list(&self, path: &str, objects: Vec<Value>) {
        let url = path.to_owned();
        self.route(path, move |asked| Answer::json(200, &page(&objects, asked, &url)));
    }

    /// Knows nothing of `path` any more.
    pub fn forget(&self, path: &str) {
        self.state().routes.remove(path);
    }

    /// Answers the next requests so, one after the other, whatever they ask for.
    pub fn next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.state().scripted.extend(answers);
    }

    /// Answers every request so, until told otherwise.
    pub fn instead(&self, answer: Option<Answer>) {
        self.state().instead = answer;
    }

    /// How much later every answer begins.
    pub fn latency(&self, latency: Duration) {
        self.state().latency = latency;
    }

    /// How far ahead its clock is; behind where negative.
    pub fn clock_ahead(&self, skew: TimeDelta) {
        self.state().skew = skew;
    }

    /// The first 10,000 requests.
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// How many requests came.
    pub fn requests(&self) -> u64 {
        self.state().requests
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One page: `limit` (10 where it is not said), `starting_after`; filtered by `customer`, `subscription`, `type`, `types[]`, `status` (without
/// it the canceled are left out, as Stripe does for subscriptions) and `created[gte]`, `created[lte]`.
fn page(objects: &[Value], asked: &Asked, url: &str) -> Value {
    let text = |object: &Value, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let types: Vec<&str> = asked.query.iter().filter(|(key, _)| key == "types[]").map(|(_, v)| v.as_str()).collect();
    let bound = |name: &str| asked.parameter(name).and_then(|value| value.parse::<i64>().ok());
    let (from, to) = (bound("created[gte]"), bound("created[lte]"));
    let fits = |object: &&Value| {
        let equal = |key: &str| asked.parameter(key).is_none_or(|wanted| text(object, key).as_deref() == Some(wanted));
        let status = text(object, "status");
        let status_fits = match asked.parameter("status") {
            Some("all") => true,
            Some(wanted) => status.as_deref() == Some(wanted),
            None => status.as_deref() != Some("canceled"),
        };
        let created = object.get("created").and_then(Value::as_i64);
        equal("customer")
            && equal("subscription")
            && equal("type")
            && (types.is_empty() || text(object, "type").is_some_and(|kind| types.contains(&kind.as_str())))
            && status_fits
            && from.is_none_or(|from| created >= Some(from))
            && to.is_none_or(|to| created <= Some(to))
    };
    let mut fitting: Vec<&Value> = objects.iter().filter(fits).collect();
    if let Some(after) = asked.parameter("starting_after") {
        let at = fitting.iter().position(|object| text(object, "id").as_deref() == Some(after));
        fitting.drain(..at.map_or(fitting.len(), |at| at + 1));
    }
    let limit = asked.parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(10);
    let has_more = fitting.len() > limit;
    fitting.truncate(limit);
    json!({ "object": "list", "url": url, "has_more": has_more, "data": fitting })
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            // Whoever hangs up has a reason.
            let _ = converse(stream, &state).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Request after request, until one side hangs up.
async fn converse(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        };
        let asked = parse(&String::from_utf8_lossy(&read[..end]));
        read.drain(..end);
        let (answer, latency, skew) = answer(state, &asked);
        sleep(latency + answer.after).await;
        let head = head(&answer, skew);
        let (first, second) = answer.body.split_at(answer.body.len() / 2);
        match answer.manner {
            Manner::Never => std::future::pending().await,
            Manner::Cut => return Ok(()),
            Manner::Whole => stream.write_all(&[head.as_bytes(), &answer.body].concat()).await?,
            Manner::CutInBody => return stream.write_all(&[head.as_bytes(), first].concat()).await,
            Manner::Drip(pause) => {
                stream.write_all(&[head.as_bytes(), first].concat()).await?;
                sleep(pause).await;
                stream.write_all(second).await?;
            }
        }
    }
}

fn answer(state: &Mutex<State>, asked: &Asked) -> (Answer, Duration, TimeDelta) {
    let mut state = locked(state);
    state.requests += 1;
    if state.asked.len() < 10_000 {
        state.asked.push(asked.clone());
    }
    let (latency, skew) = (state.latency, state.skew);
    let answer = match state.scripted.pop_front().or_else(|| state.instead.clone()) {
        Some(answer) => answer,
        None => match state.routes.get(&asked.path).cloned() {
            Some(handler) => {
                // A handler may be slow, or ask the state itself.
                drop(state);
                handler(asked)
            }
            None => Answer::error(404, "resource_missing", "No such object"),
        },
    };
    (answer, latency, skew)
}

fn head(answer: &Answer, skew: TimeDelta) -> String {
    use fmt::Write as _;
    let mut head = format!("HTTP/1.1 {} Told\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
    if answer.date {
        let _ = write!(head, "Date: {}\r\n", (Utc::now() + skew).format("%a, %d %b %Y %H:%M:%S GMT"));
    }
    let named = answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("request-id"));
    if !named {
        head.push_str("Request-Id: req_fake\r\n");
    }
    for (name, value) in &answer.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head + "\r\n"
}

fn parse(head: &str) -> Asked {
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let method = first.next().unwrap_or_default().to_owned();
    let target = first.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key), decoded(value))
        })
        .collect();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Asked { method, path: decoded(path), query, headers }
}

/// Without percent signs and pluses.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                u8::from_str_radix(&String::from_utf8_lossy(&digits), 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_apart() {
        let asked =
            parse("GET /v1/a%2Fb?types%5B%5D=x&limit=2&q=a+b HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer k\r\n\r\n");
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/v1/a/b"));
        assert_eq!((asked.parameter("types[]"), asked.parameter("q")), (Some("x"), Some("a b")));
        assert_eq!(asked.headers["authorization"], "Bearer k");
    }

    #[test]
    fn a_list_is_paged_and_filtered() {
        let objects: Vec<Value> = (0..5)
            .map(|n| json!({ "id": format!("o_{n}"), "status": if n == 3 { "canceled" } else { "active" }, "created": n }))
            .collect();
        let ids = |query: &str| {
            let page = page(&objects, &parse(&format!("GET /v1/o?{query} HTTP/1.1\r\n\r\n")), "/v1/o");
            let ids: Vec<String> =
                page["data"].as_array().expect("a list").iter().map(|o| o["id"].to_string()).collect();
            (ids.join(" ").replace('"', ""), page["has_more"].as_bool().expect("a flag"))
        };
        assert_eq!(ids("limit=2"), ("o_0 o_1".into(), true));
        assert_eq!(ids("limit=2&starting_after=o_1"), ("o_2 o_4".into(), false), "the canceled are left out");
        assert_eq!(ids("status=all&limit=3&starting_after=o_2"), ("o_3 o_4".into(), false));
        assert_eq!(ids("status=all&created[gte]=1&created[lte]=3"), ("o_1 o_2 o_3".into(), false));
    }
}
