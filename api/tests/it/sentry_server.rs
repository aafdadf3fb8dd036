//! A Sentry on loopback: takes envelopes, or does not.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::sync::{Arc, Mutex};

use poem::{Endpoint, Request, Response, Route, Server, listener::TcpAcceptor, post};
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::process_harness::LONG;

/// Gone when dropped.
pub(crate) struct Sentry {
    pub(crate) dsn: String,
    envelopes: watch::Receiver<Vec<String>>,
    task: JoinHandle<()>,
}

struct Taking {
    envelopes: Arc<Mutex<watch::Sender<Vec<String>>>>,
    answers: bool,
}

impl Endpoint for Taking {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let authorized = request.header("x-sentry-auth").is_some_and(|auth| auth.contains("sentry_key=key"));
        let body = request.into_body().into_string().await?;
        assert!(authorized, "an envelope without the key");
        self.envelopes.lock().unwrap().send_modify(|all| all.push(body));
        if !self.answers {
            std::future::pending::<()>().await;
        }
        Ok(Response::builder().content_type("application/json").body("{}"))
    }
}

impl Sentry {
    /// One that takes everything.
    pub(crate) async fn start() -> Self {
        Self::with(true).await
    }

    /// One that takes a connection and never answers.
    pub(crate) async fn silent() -> Self {
        Self::with(false).await
    }

    async fn with(answers: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dsn = format!("http://key@{}/42", listener.local_addr().unwrap());
        let (tell, envelopes) = watch::channel(Vec::new());
        let taking = Taking { envelopes: Arc::new(Mutex::new(tell)), answers };
        let routes = Route::new().at("/api/42/envelope/", post(taking));
        let acceptor = TcpAcceptor::from_tokio(listener).unwrap();
        let task = tokio::spawn(async move {
            let _ = Server::new_with_acceptor(acceptor).run(routes).await;
        });
        Self { dsn, envelopes, task }
    }

    /// The events among what came so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.envelopes.borrow().iter().flat_map(|envelope| events_of(envelope)).collect()
    }

    /// Everything that came, as it came.
    pub(crate) fn text(&self) -> String {
        self.envelopes.borrow().join("\n")
    }

    /// Waits until so many envelopes have come.
    pub(crate) async fn envelopes(&self, number: usize) {
        let mut envelopes = self.envelopes.clone();
        let come = tokio::time::timeout(LONG, envelopes.wait_for(|all| all.len() >= number)).await;
        assert!(come.is_ok(), "{} envelopes instead of {number}: {}", self.envelopes.borrow().len(), self.text());
    }
}

impl Drop for Sentry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An envelope is lines of JSON: its header, then for each item a header and a payload (develop.sentry.dev/sdk/data-model/envelopes).
fn events_of(envelope: &str) -> Vec<Value> {
    let mut lines = envelope.lines().skip(1);
    let mut events = Vec::new();
    while let (Some(header), Some(payload)) = (lines.next(), lines.next()) {
        let header: Value = serde_json::from_str(header).unwrap();
        if header["type"] == "event" {
            events.push(serde_json::from_str(payload).unwrap());
        }
    }
    events
}
