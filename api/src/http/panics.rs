//! Panics of every kind of work, in a process of their own: log lines, figures and reports are of the whole process.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::{
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use billing::{
    event,
    inbox::{Arrival, Inbox, InboxOptions},
    processor::{Outcome, Processor, ProcessorOptions},
    progress::Progress,
    samples,
    signature::{Tolerance, WebhookSecret, sign},
    stripe::{Collection, Fetched, Lane, Page, Resource, Stripe, StripeError},
};
use chrono::Utc;
use metrics::Metrics;
use poem::{
    Endpoint as _, EndpointExt as _, Request, Response, Route, Server, endpoint::make, handler, listener::TcpAcceptor,
    post, web::Data,
};
use scheduler::{EngineOptions, Job, JobContext, JobError, JobSettings, JobSpec, Missed, Registry, run_here};
use serde_json::Value;
use testkit::{Kind, TestDb};
use tokio_util::sync::CancellationToken;

use super::{Document, RouteTable, observe};
use crate::{
    app::Edge,
    config::Config,
    jobs::{self, Ground},
    telemetry,
};

const DSN: &str = "TRUEUP_TEST_PANICS_DSN";
const NOBODYS: &str = "ann.lee@example.com";

type Envelopes = Arc<Mutex<Vec<String>>>;

#[handler]
async fn take(Data(envelopes): Data<&Envelopes>, body: String) -> &'static str {
    envelopes.lock().unwrap_or_else(PoisonError::into_inner).push(body);
    "{}"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_a_request_a_job_and_the_processor_is_one_report_each_with_what_is_known_of_it_and_no_data() {
    let envelopes = Envelopes::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dsn = format!("http://key@{}/42", listener.local_addr().unwrap());
    let routes = Route::new().at("/api/42/envelope/", post(take)).data(Arc::clone(&envelopes));
    let server = tokio::spawn(Server::new_with_acceptor(TcpAcceptor::from_tokio(listener).unwrap()).run(routes));

    let child = move || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "http::panics::panicking", "--ignored", "--nocapture"])
            .env_clear()
            .env(DSN, &dsn)
            .output()
            .unwrap()
    };
    let output = tokio::task::spawn_blocking(child).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
    server.abort();

    let envelopes = envelopes.lock().unwrap().clone();
    let events: Vec<Value> = envelopes
        .iter()
        .flat_map(|envelope| envelope.lines().filter_map(|line| serde_json::from_str(line).ok()))
        .filter(|item: &Value| item["exception"].is_object())
        .collect();
    let tag = |event: &Value, name: &str| event["tags"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!(events.len(), 3, "{envelopes:#?}\n{said}");
    let with = |name: &str, value: &str| events.iter().filter(|event| tag(event, name) == value).count();
    assert_eq!(with("route", "/api/v1/users/{id}"), 1, "{envelopes:#?}");
    assert_eq!(with("job", "stumble"), 1, "{envelopes:#?}");
    for event in &events {
        let panic = &event["exception"]["values"][0];
        assert_eq!(panic["type"], "panic");
        assert!(panic["value"].as_str().unwrap().contains("panics.rs"), "{panic}");
        assert!(panic["stacktrace"]["frames"].as_array().is_some_and(|frames| !frames.is_empty()), "{panic}");
        assert_eq!(event["fingerprint"][0], "panic");
    }
    let processor = events.iter().find(|event| event["extra"]["claim"].is_string()).expect("the processor's");
    let steps = processor["breadcrumbs"]["values"].as_array().map_or(0, Vec::len);
    assert!(tag(processor, "job").is_empty() && steps > 0, "{processor}");
    assert!(envelopes.iter().all(|envelope| !envelope.contains(NOBODYS)), "{envelopes:#?}");
    assert!(!said.contains(NOBODYS), "{said}");
    assert!(said.contains("panics 3"), "{said}");
}

struct Stumble;

impl Job for Stumble {
    type Report = ();

    fn spec(&self) -> JobSpec {
        let (schedule, timeout) = ("0 0 0 1 1 *", Duration::from_mins(1));
        JobSpec { name: "stumble", about: "Panics.", schedule, timeout, missed: Missed::Skip }
    }

    async fn run(&self, _: &JobContext) -> Result<(), JobError> {
        panic!("over {NOBODYS}");
    }
}

#[derive(Debug)]
struct Stumbling;

#[async_trait]
impl Stripe for Stumbling {
    async fn get(&self, _: &Resource, _: Lane) -> Result<Fetched, StripeError> {
        panic!("over {NOBODYS}");
    }

    async fn list(&self, _: &Collection, _: Option<&str>, _: Lane) -> Result<Page, StripeError> {
        panic!("over {NOBODYS}");
    }
}

#[tokio::test]
#[ignore = "the test above runs it as a process of its own"]
async fn panicking() {
    let Ok(dsn) = std::env::var(DSN) else { return };
    let env = |name: &str| (name == "SENTRY_DSN").then(|| dsn.clone());
    let config = Config::from(&env, None).unwrap();
    let metrics = Arc::new(Metrics::new("test", []));
    let reports = telemetry::server(&config, &metrics).unwrap().expect("there is a DSN");

    // A request.
    let table = RouteTable::of::<Document>();
    let around = Arc::new(observe::Around { table, metrics: Arc::clone(&metrics), edge: Edge::default() });
    let endpoint = make(|_| async {
        if Utc::now().timestamp() > 0 { panic!("over {NOBODYS}") } else { Ok::<_, poem::Error>(Response::default()) }
    })
    .around(|endpoint, request| observe::protect(observe::PATIENCE, endpoint, request))
    .around(move |endpoint, request| observe::observe(endpoint, request, Arc::clone(&around)));
    let request = Request::builder().uri_str("/api/v1/users/7").finish();
    let response = endpoint.get_response(request).await;
    assert_eq!(response.status().as_u16(), 500);

    // A job.
    let database = TestDb::migrated(Kind::Sqlite).await;
    let db = billing::db::Db::connect(database.url(), &billing::db::DbOptions::default()).await.unwrap();
    let (catalog, policy) = (Arc::new(config.catalog.clone()), Arc::new(config.policy.clone()));
    let stripe: Arc<dyn Stripe> = Arc::new(Stumbling);
    let processor = Processor::new(db.clone(), catalog, policy, ProcessorOptions::default(), Some(stripe));
    let tools = jobs::tools(
        &config,
        Ground {
            stripe: None,
            processor: processor.clone(),
            passes: Arc::new(|_| {}),
            nudge: Arc::default(),
            mailer: None,
            metrics: Arc::clone(&metrics),
            feed: None,
        },
    );
    let registry = Registry::new(vec![Box::new(Stumble)], JobSettings::of);
    let (stop, planned) = (CancellationToken::new(), registry.find("stumble").unwrap());
    let run = run_here(&db, planned, tools, &EngineOptions::default(), &stop, Progress::default()).await.unwrap();
    assert_eq!(run.outcome.map(|outcome| outcome.as_str()), Some("failed"));

    // The processor.
    let (inbox, _writers) = Inbox::start(&db, InboxOptions::default(), &Arc::default());
    let at = Utc::now().timestamp();
    let thin = samples::thin_event("evt_1", "customer.subscription.updated", at, "sub_1", "subscription").to_string();
    let secret = WebhookSecret::parse("whsec_test").unwrap();
    let signature = sign(&secret, Utc::now().timestamp(), thin.as_bytes());
    let verified =
        event::verify(thin.as_bytes(), Some(signature.as_bytes()), &[secret], Utc::now(), Tolerance::default())
            .unwrap();
    inbox.receive(verified, Arrival::Apply).await.unwrap();
    // It costs the event an attempt, and nobody else anything.
    let pass = processor.run_once(&CancellationToken::new()).await.unwrap();
    assert_eq!(pass.outcomes.get(&Outcome::Retried), Some(&1), "{pass:?}");

    let panics = metrics.render().lines().find(|line| line.starts_with("trueup_panics_total")).unwrap().to_owned();
    #[expect(clippy::print_stderr, reason = "the parent reads it")]
    {
        eprintln!("panics {}", panics.rsplit(' ').next().unwrap());
    }
    assert!(tokio::task::spawn_blocking(move || reports.close(Duration::from_secs(20))).await.unwrap());
}
