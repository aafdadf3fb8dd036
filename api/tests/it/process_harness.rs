//! Runs the real binary, in a folder of its own and with no environment but what a test gives it.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use api::config::development::{self, DevelopmentSecrets};
use billing::{
    samples::{Scene, scene_events},
    signature::{WebhookSecret, sign},
};
use chrono::Utc;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use uuid::Uuid;

/// What nothing here should ever take; the machine may be busy.
pub(crate) const LONG: Duration = Duration::from_mins(1);

/// The program with only these variables.
pub(crate) fn program(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trueup"));
    command.current_dir(folder).env_clear().envs(variables.iter().copied()).args(arguments).stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) async fn run(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let mut command = program(folder, variables, arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    Ran::from(output)
}

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

type Lines = Arc<Mutex<Vec<String>>>;

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pid: u32,
    ended: watch::Receiver<Option<ExitStatus>>,
    news: watch::Receiver<usize>,
    out: Lines,
    err: Lines,
}

fn follow(stream: impl Read + Send + 'static, lines: &Lines, news: &watch::Sender<usize>) {
    let (lines, news) = (Arc::clone(lines), news.clone());
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
            news.send_modify(|count| *count += 1);
        }
        news.send_modify(|count| *count += 1);
    });
}

impl Running {
    /// Starts `trueup` and does not wait for anything. It listens on a free port.
    pub(crate) fn start(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let mut command = program(folder, &[("TRUEUP_LISTEN", "127.0.0.1:0")], arguments);
        command.envs(variables.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, err) = (Lines::default(), Lines::default());
        let (counted, news) = watch::channel(0);
        follow(child.stdout.take().unwrap(), &out, &counted);
        follow(child.stderr.take().unwrap(), &err, &counted);
        let pid = child.id();
        let (tell, ended) = watch::channel(None);
        thread::spawn(move || {
            let status = child.wait().unwrap();
            tell.send_replace(Some(status));
        });
        Self { pid, ended, news, out, err }
    }

    pub(crate) fn out(&self) -> String {
        self.out.lock().unwrap().join("\n")
    }

    pub(crate) fn err(&self) -> String {
        self.err.lock().unwrap().join("\n")
    }

    /// Waits until it has written this to stdout or stderr, and gives the line.
    pub(crate) async fn line_with(&self, part: &str) -> String {
        let mut news = self.news.clone();
        let mut ended = self.ended.clone();
        let found = timeout(LONG, async {
            loop {
                news.mark_unchanged();
                let find = |lines: &Lines| lines.lock().unwrap().iter().find(|line| line.contains(part)).cloned();
                if let Some(line) = find(&self.out).or_else(|| find(&self.err)) {
                    return line;
                }
                tokio::select! {
                    changed = news.changed() => assert!(changed.is_ok(), "it ended without `{part}`:\n{}\n{}", self.out(), self.err()),
                    _ = ended.changed(), if ended.borrow().is_none() => {}
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("`{part}` was never written:\n{}\n{}", self.out(), self.err()))
    }

    /// Waits until it serves, and gives its URL.
    pub(crate) async fn url(&self) -> String {
        let line = self.line_with(" listens on http://").await;
        line.rsplit(' ').next().unwrap().to_owned()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()).status().unwrap();
        assert!(sent.success(), "the process was gone before it was sent SIG{name}:\n{}", self.err());
    }

    /// Waits for its end, at most so long.
    pub(crate) async fn end(&self, within: Duration) -> ExitStatus {
        let mut ended = self.ended.clone();
        let ended = timeout(within, ended.wait_for(Option::is_some)).await;
        let status = ended.unwrap_or_else(|_| panic!("it did not end within {within:?}:\n{}", self.err()));
        (*status.unwrap()).unwrap()
    }

    /// Tells it to stop and waits until it has.
    pub(crate) async fn stop(&self) {
        self.signal("TERM");
        let status = self.end(Duration::from_secs(10)).await;
        assert_eq!(status.code(), Some(0), "{}", self.err());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.borrow().is_none() {
            let _ = Command::new("kill").arg("-KILL").arg(self.pid.to_string()).stderr(Stdio::null()).status();
        }
    }
}

/// A client of a running server, with the development secrets of its folder.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) http: Client,
    pub(crate) url: String,
    pub(crate) secrets: DevelopmentSecrets,
}

impl Caller {
    pub(crate) fn new(url: &str, data: &Path) -> Self {
        Self::with(url, development::read(data).unwrap().expect("the server has made its secrets"))
    }

    pub(crate) fn with(url: &str, secrets: DevelopmentSecrets) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder().no_proxy().tls_certs_only([]).timeout(LONG).build().unwrap();
        Self { http, url: url.to_owned(), secrets }
    }

    pub(crate) fn secret(&self) -> WebhookSecret {
        WebhookSecret::parse(self.secrets.webhook_secret.expose()).unwrap()
    }

    /// A body and the signature that fits it now.
    pub(crate) fn signed(&self, event: &Value) -> (Vec<u8>, String) {
        let body = serde_json::to_vec(event).unwrap();
        let signature = sign(&self.secret(), Utc::now().timestamp(), &body);
        (body, signature)
    }

    pub(crate) async fn deliver(&self, event: &Value) -> StatusCode {
        let (body, signature) = self.signed(event);
        let request = self.http.post(format!("{}/api/v1/stripe/webhook", self.url));
        request.header("stripe-signature", signature).body(body).send().await.unwrap().status()
    }

    pub(crate) async fn make_user(&self, email: &str) -> String {
        let id = Uuid::new_v4().to_string();
        let request = self.http.request(Method::PUT, format!("{}/api/v1/users/{id}", self.url));
        let request = request.bearer_auth(self.secrets.api_token.expose()).json(&json!({ "email": email }));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        id
    }

    pub(crate) async fn user(&self, id: &str) -> Value {
        let request = self.http.get(format!("{}/api/v1/users/{id}", self.url));
        let response = request.bearer_auth(self.secrets.api_token.expose()).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }

    /// Waits until the user has this tier.
    pub(crate) async fn tier_becomes(&self, id: &str, tier: &str) {
        let deadline = Instant::now() + LONG;
        let mut looks = tokio::time::interval(Duration::from_millis(25));
        loop {
            looks.tick().await;
            let user = self.user(id).await;
            if user["subscription"]["tier"] == tier {
                return;
            }
            assert!(Instant::now() < deadline, "the user never came to {tier}: {user}");
        }
    }

    /// The same of a server whose database has just come back: until every connection of its pool is a new one, 503 may be the answer.
    pub(crate) async fn answers_that_tier_is(&self, id: &str, tier: &str) {
        let deadline = Instant::now() + LONG;
        let mut looks = tokio::time::interval(Duration::from_millis(25));
        loop {
            looks.tick().await;
            let request = self.http.get(format!("{}/api/v1/users/{id}", self.url));
            let response = request.bearer_auth(self.secrets.api_token.expose()).send().await.unwrap();
            match response.status() {
                StatusCode::OK if response.json::<Value>().await.unwrap()["subscription"]["tier"] == tier => return,
                StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => {}
                other => panic!("a user is answered {other}"),
            }
            assert!(Instant::now() < deadline, "the user never came to {tier}");
        }
    }
}

/// What Stripe sends when this user subscribes.
pub(crate) fn subscribing(user: &str, tier: &str) -> Vec<Value> {
    let mut scene = Scene::new(Uuid::new_v4().simple().to_string(), "user@example.com", tier, Utc::now().timestamp());
    scene.user_id = Some(user.to_owned());
    scene_events("customer.subscription.created", &scene).unwrap()
}
