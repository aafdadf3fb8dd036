//! The server under test, as its host and its operator see it: by HTTP, and by nothing else.

use std::time::Duration;

use chrono::DateTime;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::world::SimulatedUser;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a server may be away.
const AWAY: Duration = Duration::from_mins(1);
/// How long a job may take.
const JOB: Duration = Duration::from_mins(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// A server to run against.
#[derive(Clone)]
pub struct Target {
    /// Without a slash at the end.
    pub url: String,
    /// Opens `/api/v1/users`.
    pub api_token: String,
    /// Opens `/api/v1/admin`.
    pub admin_token: String,
    /// Signs webhooks; where there is a second, the run rolls over to it half-way.
    pub webhook_secrets: Vec<String>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Why the run broke off.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// It did not answer.
    #[error("the server at {url} did not answer ({what}); is it running?")]
    Unreachable {
        /// Where.
        url: String,
        /// What was asked.
        what: String,
        /// What the client says.
        source: reqwest::Error,
    },
    /// It refused.
    #[error("the server answered {status} when {what}: {detail}")]
    Refused {
        /// Its status.
        status: u16,
        /// What was asked.
        what: String,
        /// What it says.
        detail: String,
    },
    /// A job did not come to an end.
    #[error("the job {0} did not end within five minutes; the server's log tells why")]
    Endless(String),
}

/// A client of the server.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) http: Client,
    target: Target,
}

/// How a job went.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct JobRun {
    /// `succeeded`, `failed`, `refused`, …
    pub outcome: String,
    /// What it says it did.
    pub report: Value,
    /// What went wrong.
    pub error: Option<String>,
}

/// How many events stand how in the server's inbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Inbox {
    pub(crate) pending: u64,
    pub(crate) processing: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

/// Seconds of a moment that the server tells.
pub(crate) fn seconds(value: &Value) -> Option<i64> {
    DateTime::parse_from_rfc3339(value.as_str()?).ok().map(|at| at.timestamp())
}

impl Host {
    pub(crate) fn new(target: Target) -> Result<Self, HostError> {
        // Whoever was first has installed the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
        if target.url.starts_with("http:") {
            // A proxy of the environment is for the world outside, and a small image may have no certificates.
            builder = builder.no_proxy().tls_certs_only([]);
        }
        let http = builder.build().map_err(|source| HostError::Unreachable {
            url: target.url.clone(),
            what: "making a client".to_owned(),
            source,
        })?;
        Ok(Self { http, target })
    }

    pub(crate) fn webhook_url(&self) -> String {
        format!("{}/api/v1/stripe/webhook", self.target.url)
    }

    async fn send(&self, what: &str, request: RequestBuilder) -> Result<(StatusCode, Value), HostError> {
        let unreachable = |source: reqwest::Error| HostError::Unreachable {
            url: self.target.url.clone(),
            what: what.to_owned(),
            source: source.without_url(),
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let body = response.bytes().await.map_err(unreachable)?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// The body of a good answer, `None` where there is no such thing. A server that is away, or busy, is asked again for a while: it may
    /// be one that is being killed and started anew on purpose.
    async fn ask(&self, what: &str, request: RequestBuilder) -> Result<Option<Value>, HostError> {
        let deadline = Instant::now() + AWAY;
        loop {
            let Some(again) = request.try_clone() else { return self.ask_once(what, request).await };
            match self.ask_once(what, again).await {
                Err(HostError::Unreachable { .. } | HostError::Refused { status: 500.., .. })
                    if Instant::now() < deadline =>
                {
                    sleep(LOOK).await;
                }
                answer => return answer,
            }
        }
    }

    async fn ask_once(&self, what: &str, request: RequestBuilder) -> Result<Option<Value>, HostError> {
        let (status, body) = self.send(what, request).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if status.is_success() {
            return Ok(Some(body));
        }
        let detail = ["detail", "title"].into_iter().find_map(|key| body[key].as_str()).unwrap_or("no more is told");
        Err(HostError::Refused { status: status.as_u16(), what: what.to_owned(), detail: detail.to_owned() })
    }

    fn host(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.target.url)).bearer_auth(&self.target.api_token)
    }

    fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.target.url)).bearer_auth(&self.target.admin_token)
    }

    pub(crate) async fn make_user(&self, user: &SimulatedUser) -> Result<(), HostError> {
        let path = format!("/api/v1/users/{}", user.id);
        let request = self.host(Method::PUT, &path).json(&json!({ "email": user.email }));
        self.ask("making a user", request).await.map(drop)
    }

    /// Somebody uses what they have; an allowance that is used up is no error.
    pub(crate) async fn use_some(&self, id: &str, amount: i64) -> Result<(), HostError> {
        let request = self.host(Method::POST, &format!("/api/v1/users/{id}/usage")).json(&json!({ "amount": amount }));
        match self.ask("using some", request).await {
            Ok(_) | Err(HostError::Refused { status: 429, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn user(&self, id: &str) -> Result<Option<Value>, HostError> {
        self.ask("reading a user", self.host(Method::GET, &format!("/api/v1/users/{id}"))).await
    }

    /// Every subscription that the server knows; `None` where it has no such route.
    pub(crate) async fn subscriptions(&self) -> Result<Option<Vec<Value>>, HostError> {
        let mut all = Vec::new();
        let mut path = "/api/v1/admin/subscriptions?limit=100".to_owned();
        loop {
            let page = self.ask("listing subscriptions", self.admin(Method::GET, &path)).await?;
            let Some(mut page) = page else { return Ok(None) };
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                all.extend(items);
            }
            let Some(cursor) = page["next_cursor"].as_str() else { return Ok(Some(all)) };
            path = format!("/api/v1/admin/subscriptions?limit=100&cursor={cursor}");
        }
    }

    pub(crate) async fn inbox(&self) -> Result<Inbox, HostError> {
        let request = self.admin(Method::GET, "/api/v1/admin/webhooks/stats?hours=8760");
        let stats = self.ask("looking at the inbox", request).await?.unwrap_or_default();
        let count = |status: &str| stats["by_status"][status].as_u64().unwrap_or(0);
        Ok(Inbox {
            pending: count("pending"),
            processing: count("processing"),
            completed: count("completed"),
            failed: count("failed"),
            skipped: count("skipped"),
        })
    }

    /// A reconciliation that only looks: how it came out, and what it found. `None` where the server cannot.
    pub(crate) async fn dry_run(&self) -> Result<Option<(String, Vec<Value>)>, HostError> {
        const RUNS: &str = "/api/v1/admin/reconciliations";
        let deadline = Instant::now() + JOB;
        // A job's own run may be under way.
        let begun = loop {
            let request = self.admin(Method::POST, RUNS).json(&json!({ "mode": "dry_run" }));
            match self.ask("beginning a dry run", request).await {
                Err(HostError::Refused { status: 409, detail, .. }) => {
                    if !detail.contains("under way") || Instant::now() >= deadline {
                        return Ok(None);
                    }
                    sleep(LOOK).await;
                }
                answer => break answer?,
            }
        };
        let Some(id) = begun.and_then(|begun| begun["id"].as_str().map(str::to_owned)) else { return Ok(None) };
        let mut drifts = Vec::new();
        let mut path = format!("{RUNS}/{id}?limit=100");
        loop {
            let page = self.ask("looking at a dry run", self.admin(Method::GET, &path)).await?.unwrap_or_default();
            if page["reconciliation"]["finished_at"].is_null() {
                if Instant::now() >= deadline {
                    return Err(HostError::Endless("reconcile_subscriptions".to_owned()));
                }
                sleep(LOOK).await;
                continue;
            }
            drifts.extend(page["drifts"]["items"].as_array().cloned().unwrap_or_default());
            let Some(cursor) = page["drifts"]["next_cursor"].as_str() else {
                let outcome = page["reconciliation"]["outcome"].as_str().unwrap_or("unknown");
                return Ok(Some((outcome.to_owned(), drifts)));
            };
            path = format!("{RUNS}/{id}?limit=100&cursor={cursor}");
        }
    }

    /// Runs a job now and waits for its end; `None` where the server has no such job.
    pub(crate) async fn run_job(&self, name: &str) -> Result<Option<JobRun>, HostError> {
        let runs = format!("/api/v1/admin/jobs/{name}/runs");
        let newest = |page: Option<Value>| page.and_then(|page| page["items"].get(0).cloned()).unwrap_or_default();
        let before = newest(self.ask("looking at a job", self.admin(Method::GET, &runs)).await?);
        let run = self.admin(Method::POST, &format!("/api/v1/admin/jobs/{name}/run"));
        if self.ask("running a job", run).await?.is_none() {
            return Ok(None);
        }
        let deadline = Instant::now() + JOB;
        while Instant::now() < deadline {
            let latest = newest(self.ask("looking at a job", self.admin(Method::GET, &runs)).await?);
            if latest["id"] != before["id"] && !latest["finished_at"].is_null() {
                return Ok(Some(JobRun {
                    outcome: latest["outcome"].as_str().unwrap_or("unknown").to_owned(),
                    error: latest["error"].as_str().map(str::to_owned),
                    report: latest["report"].clone(),
                }));
            }
            sleep(LOOK).await;
        }
        Err(HostError::Endless(name.to_owned()))
    }
}
