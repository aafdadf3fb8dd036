//! Calls of a running server.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url, header::RETRY_AFTER};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Usage, output};
use crate::config::{Config, Secret};

/// How long a server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Before a server that is busy is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    http: Client,
    base: Url,
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
    /// True where it says that it may be asked again.
    busy: bool,
}

impl Answer {
    /// The body of a good answer; of a bad one, what the server says.
    pub(super) fn good(self, what: &str) -> Result<Value> {
        if self.status.is_success() { Ok(self.body) } else { bail!("{what}: {}", self.problem()) }
    }

    /// What is wrong, in one line.
    pub(super) fn problem(&self) -> String {
        let told = |key| self.body.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let text = told("detail").or_else(|| told("title")).unwrap_or("no more is told");
        let remedy = match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "; this command and the server must be configured alike (TRUEUP_API_TOKEN, TRUEUP_ADMIN_TOKEN, TRUEUP_DATA): run it in the \
                 server's folder, with the server's environment"
            }
            _ => "",
        };
        format!("the server answered {}: {text}{remedy}", self.status.as_u16())
    }
}

impl Server {
    /// The server at `url`, else where the configuration lets it listen.
    pub(super) fn at(url: Option<&str>, config: &Config) -> Result<Self> {
        match url {
            Some(url) if url.contains("://") => Self::new(url, false),
            Some(host) => Self::new(&format!("http://{host}"), false),
            None => Self::own(&config.listen, config),
        }
    }

    /// The configured server at an address where it listens.
    fn own(listen: &str, config: &Config) -> Result<Self> {
        Self::new(&configured(listen, config.edge.tls.is_some()), true)
    }

    fn new(url: &str, own: bool) -> Result<Self> {
        let base = Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some())
            .ok_or_else(|| {
                Usage(format!("--url: `{url}` is no URL of a server; write one like http://127.0.0.1:8000"))
            })?;
        // Whoever was first has installed the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder().timeout(PATIENCE).connect_timeout(Duration::from_secs(5));
        if base.scheme() == "http" || own {
            // A proxy of the environment is for the world outside, and a small image may have no certificates.
            builder = builder.no_proxy().tls_certs_only([]);
        }
        if own && base.scheme() == "https" {
            // The certificate is for the name under which others come. From here it is an address of this machine, and nobody stands between.
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        Ok(Self { http: builder.build().context("no HTTP client could be made")?, base })
    }

    /// Where the figures of the configured server are: at an address of their own, or beside everything else.
    pub(super) fn figures(self, config: &Config) -> Result<Self> {
        match &config.edge.metrics_listen {
            Some(listen) => Self::own(listen, config),
            None => Ok(self),
        }
    }

    /// Where it is.
    pub(super) fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url()))
    }

    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Answer> {
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let busy = status == StatusCode::SERVICE_UNAVAILABLE && response.headers().contains_key(RETRY_AFTER);
        let bytes = response.bytes().await.map_err(|error| self.unreachable(error))?;
        Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or_default(), busy })
    }

    /// Sends a request that does no harm when it comes twice, and sends it again for a while as long as the server is busy: one that a slow
    /// disk holds up says so, and Stripe would come again as well.
    pub(super) async fn insist(&self, request: RequestBuilder) -> Result<Answer> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(again) = request.try_clone() else { return self.send(request).await };
            let answer = self.send(again).await?;
            if !answer.busy || Instant::now() + PAUSE > deadline {
                return Ok(answer);
            }
            sleep(PAUSE).await;
        }
    }

    pub(super) async fn get(&self, token: Option<&Secret>, path: &str, query: &[(&str, &str)]) -> Result<Answer> {
        let mut url = Url::parse(&format!("{}{path}", self.url())).context("the path is part of a URL")?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.get(url);
        if let Some(token) = token {
            request = request.bearer_auth(token.expose());
        }
        self.insist(request).await
    }

    /// An answer that is no JSON.
    pub(super) async fn text(&self, token: Option<&Secret>, path: &str) -> Result<(StatusCode, String)> {
        let mut request = self.request(Method::GET, path);
        if let Some(token) = token {
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        Ok((status, response.text().await.map_err(|error| self.unreachable(error))?))
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        let url = self.url();
        let error = error.without_url();
        if error.is_connect() {
            anyhow!(
                "no server answers at {url}; start it with `trueup serve` in another terminal, or name it with --url"
            )
        } else if error.is_timeout() {
            anyhow!("the server at {url} did not answer within {} s; its log tells why", PATIENCE.as_secs())
        } else {
            anyhow!(error).context(format!("the server at {url} broke off; its log tells why"))
        }
    }
}

/// Where a server of this configuration is, seen from its own machine.
fn configured(listen: &str, encrypted: bool) -> String {
    let (host, port) = listen.rsplit_once(':').unwrap_or((listen, "8000"));
    let host = match host {
        "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        other => other,
    };
    let port = if port == "0" { "8000" } else { port };
    let scheme = if encrypted { "https" } else { "http" };
    format!("{scheme}://{host}:{port}")
}

/// `trueup healthcheck`
pub(super) async fn healthcheck(url: Option<String>, config: &Config) -> Result<ExitCode> {
    let server = Server::at(url.as_deref(), config)?;
    let answer = server.get(None, "/readyz", &[]).await?;
    if !answer.body.is_null() {
        output::json(&answer.body)?;
    }
    if answer.status.is_success() {
        Ok(ExitCode::SUCCESS)
    } else {
        bail!("the server at {} is not ready (it answered {})", server.url(), answer.status.as_u16())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_looked_for_where_it_listens() {
        assert_eq!(configured("127.0.0.1:8000", false), "http://127.0.0.1:8000");
        assert_eq!(configured("0.0.0.0:80", false), "http://127.0.0.1:80");
        assert_eq!(configured("[::]:8080", false), "http://[::1]:8080");
        assert_eq!(configured("localhost:0", false), "http://localhost:8000");
        assert_eq!(configured("0.0.0.0:8443", true), "https://127.0.0.1:8443");
    }
}
