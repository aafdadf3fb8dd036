//! A server for one test, in process: every route, no port, and a processor that works when the test says so.

use std::sync::Arc;

use api::{
    app::{App, Edge, Token},
    background::Background,
    http,
};
use billing::{
    catalog::Catalog,
    changes::Feed,
    db::{Db, DbOptions},
    events,
    inbox::{Inbox, InboxOptions, IntakeRules},
    policy::Policy,
    processor::{Pass, Processor, ProcessorOptions},
    samples::{self, Scene},
    signature::{Tolerance, WebhookSecret, sign},
    stripe::Stripe,
};
use chrono::Utc;
use metrics::Metrics;
use poem::{
    Response,
    endpoint::BoxEndpoint,
    http::StatusCode,
    test::{TestClient, TestRequestBuilder, TestResponse},
};
use scheduler::{JobSettings, Registry};
use sea_orm::ConnectionTrait;
use serde_json::Value;
use testkit::{Kind, TestDb};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) const SECRET: &str = "whsec_test";
pub(crate) const API_TOKEN: &str = "host-token";
pub(crate) const ADMIN_TOKEN: &str = "operator-token";
pub(crate) const WEBHOOK: &str = "/api/v1/stripe/webhook";
pub(crate) const PROBLEM: &str = "application/problem+json";

pub(crate) struct Server {
    pub(crate) app: App,
    pub(crate) client: TestClient<BoxEndpoint<'static, Response>>,
    database: TestDb,
}

impl Server {
    pub(crate) async fn new(database: TestDb) -> Self {
        Self::with(database, |_| {}).await
    }

    /// A server whose parts the test changes before it starts.
    pub(crate) async fn with(database: TestDb, change: impl FnOnce(&mut App)) -> Self {
        let db = Db::connect(database.url(), &DbOptions::default()).await.expect("the test's database answers");
        let nudge = Arc::new(Notify::new());
        let (inbox, _writers) = Inbox::start(&db, InboxOptions::default(), &nudge);
        let mut app = App {
            feed: Feed::start(db.clone(), CancellationToken::new()),
            stripe: None,
            db,
            catalog: Arc::new(Catalog::default()),
            policy: Arc::new(Policy::default()),
            inbox,
            intake: Arc::new(IntakeRules { livemode: Some(false), account: None }),
            secrets: [SECRET, "whsec_older"].map(|text| WebhookSecret::parse(text).expect("a secret")).into(),
            tolerance: Tolerance::default(),
            api_token: Some(Token::new(API_TOKEN)),
            admin_token: Some(Token::new(ADMIN_TOKEN)),
            metrics: Arc::new(Metrics::new("test", events::event_types())),
            beat: None,
            nudge,
            background: Background::default(),
            jobs: Registry::new(scheduler::jobs::all(), JobSettings::of),
            scheduler: None,
            refresher: None,
            edge: Edge::default(),
        };
        change(&mut app);
        let client = TestClient::new(http::routes(app.clone()));
        Self { app, client, database }
    }

    /// From now on there is an API of Stripe.
    pub(crate) fn offer_stripe(&mut self, stripe: impl Stripe + 'static) {
        self.app.stripe = Some(Arc::new(stripe));
        self.client = TestClient::new(http::routes(self.app.clone()));
    }

    /// Changes parts of a server that was started already.
    pub(crate) fn restart(&mut self, change: impl FnOnce(&mut App)) {
        change(&mut self.app);
        self.client = TestClient::new(http::routes(self.app.clone()));
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.database.kind() == Kind::Postgres
    }

    /// Applies everything that is due.
    pub(crate) async fn work(&self) -> Pass {
        let App { db, catalog, policy, .. } = self.app.clone();
        let processor = Processor::new(db, catalog, policy, ProcessorOptions::default(), None);
        processor.run_once(&CancellationToken::new()).await.expect("the test's database answers")
    }

    pub(crate) async fn get(&self, path: &str) -> Told {
        tell(self.client.get(path)).await
    }

    pub(crate) async fn host_get(&self, path: &str) -> Told {
        host(self.client.get(path)).await
    }

    pub(crate) async fn operator_get(&self, path: &str) -> Told {
        operator(self.client.get(path)).await
    }

    pub(crate) async fn operator_post(&self, path: &str, body: &str) -> Told {
        operator(self.client.post(path).body(body.to_owned())).await
    }

    pub(crate) async fn put_user(&self, id: &str, body: &str) -> Told {
        host(self.client.put(format!("/api/v1/users/{id}")).body(body.to_owned())).await
    }

    /// Delivers a body as Stripe would: signed now.
    pub(crate) async fn deliver_text(&self, body: &str) -> Told {
        let request = self.client.post(WEBHOOK).header("Stripe-Signature", signature(body)).body(body.to_owned());
        tell(request).await
    }

    pub(crate) async fn deliver(&self, event: &Value) -> Told {
        self.deliver_text(&event.to_string()).await
    }

    /// Delivers all events of a scene.
    pub(crate) async fn play(&self, event_type: &str, scene: &Scene) {
        for event in samples::scene_events(event_type, scene).expect("a scene") {
            let told = self.deliver(&event).await;
            assert_eq!(told.status, StatusCode::OK, "{}", told.text);
        }
    }

    /// Runs SQL beside the server.
    pub(crate) async fn sql(&self, sql: &str) {
        let connection = self.database.connect().await;
        connection.execute_unprepared(sql).await.expect("the test's SQL is right");
        connection.close().await.expect("an idle connection closes");
    }

    /// Takes the database away from the server.
    pub(crate) async fn lose_database(&self) {
        self.app.db.clone().close().await.expect("the pool closes");
    }
}

type Request<'c> = TestRequestBuilder<'c, BoxEndpoint<'static, Response>>;

/// A request with the host's token.
pub(crate) async fn host(request: Request<'_>) -> Told {
    tell(request.header("Authorization", format!("Bearer {API_TOKEN}"))).await
}

/// A request with the operators' token.
pub(crate) async fn operator(request: Request<'_>) -> Told {
    tell(request.header("Authorization", format!("Bearer {ADMIN_TOKEN}"))).await
}

pub(crate) fn signature(body: &str) -> String {
    let secret = WebhookSecret::parse(SECRET).expect("a secret");
    sign(&secret, Utc::now().timestamp(), body.as_bytes())
}

/// An answer, read.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: StatusCode,
    pub(crate) headers: poem::http::HeaderMap,
    pub(crate) text: String,
}

pub(crate) async fn tell(request: Request<'_>) -> Told {
    let TestResponse(response) = request.send().await;
    let (parts, body) = response.into_parts();
    let text = body.into_string().await.expect("a body of UTF-8");
    Told { status: parts.status, headers: parts.headers, text }
}

impl Told {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header of ASCII"))
    }

    /// Asserts that this is a problem of this kind.
    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, slug: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.header("content-type"), Some(PROBLEM), "{}", self.text);
        let problem = self.json();
        assert_eq!(problem["type"], format!("https://trueup.dev/problems/{slug}"), "{}", self.text);
        assert_eq!(problem["status"], status);
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{}", self.text);
        assert!(self.header("x-request-id").is_some());
        problem
    }

    #[track_caller]
    pub(crate) fn assert_ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()
    }
}

/// The value of a series in Prometheus's text format.
#[track_caller]
pub(crate) fn series<'t>(text: &'t str, name: &str) -> &'t str {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no series {name}"))
}
