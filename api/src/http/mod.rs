//! The HTTP surface.
//!
//! - [`routes`]: everything under one endpoint
//! - [`openapi_spec`]: its description
//!
//! Inside, from the outside in: `observe` (id, log line, metrics, headers, problems; with `client` and `cors`), `auth` (the gates), one file
//! for each group of routes (`webhook`, `users`, `usage`, `refresh`, `changes`, `admin`, `jobs`, `overrides`, `reconciliations`, `adoption`, `health`,
//! `docs`), `body` and `shapes` (what goes in and out), `problem`.

mod admin;
mod adoption;
mod auth;
mod body;
mod changes;
mod client;
mod cors;
mod docs;
mod health;
mod jobs;
mod observe;
mod overrides;
#[cfg(test)]
mod panics;
mod problem;
mod reconciliations;
mod refresh;
mod shapes;
mod subscriptions;
mod table;
mod usage;
mod users;
mod webhook;

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use poem::{
    Endpoint, EndpointExt, IntoEndpoint, Request, Response, Route,
    endpoint::{BoxEndpoint, make_sync},
    get,
    http::Method,
};
use poem_openapi::{
    OpenApi, OpenApiService, Tags,
    registry::{MetaApi, Registry},
};

use self::{
    admin::AdminApi,
    adoption::AdoptionApi,
    auth::{FailedTries, Gate, Role},
    changes::ChangesApi,
    docs::DocsPage,
    health::HealthApi,
    jobs::JobsApi,
    observe::Around,
    overrides::OverridesApi,
    problem::{DATABASE, Problem, RETRY_AFTER},
    reconciliations::ReconciliationsApi,
    refresh::RefreshApi,
    subscriptions::SubscriptionsApi,
    table::RouteTable,
    usage::UsageApi,
    users::UsersApi,
    webhook::WebhookApi,
};
use crate::{
    app::{App, Figures, Token},
    config::edge::Docs,
};

/// Every group of routes.
type Everything = (
    WebhookApi,
    (UsersApi, UsageApi, RefreshApi),
    ChangesApi,
    (AdminApi, SubscriptionsApi, OverridesApi, JobsApi, ReconciliationsApi, AdoptionApi),
    HealthApi,
);

/// The whole API for its description: it needs no running server, and serves nothing.
struct Document;

impl OpenApi for Document {
    fn meta() -> Vec<MetaApi> {
        <Everything>::meta()
    }

    fn register(registry: &mut Registry) {
        <Everything>::register(registry);
    }

    fn add_routes(self, _: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {}
}

#[derive(Tags)]
enum Tag {
    /// Where Stripe delivers.
    Stripe,
    /// For the host's backend.
    Users,
    /// For operators.
    Admin,
    /// For whatever watches over the server.
    Health,
}

/// How long a request waits for the database before it is told to come again: less than what a proxy in front waits.
const DATABASE_PATIENCE: Duration = Duration::from_millis(4500);

/// Waits for the database, but not for ever.
async fn within<T>(work: impl Future<Output = T>) -> Result<T, Problem> {
    tokio::time::timeout(DATABASE_PATIENCE, work).await.map_err(|_| {
        tracing::warn!("the database did not do in time what a request asked");
        Problem::later(DATABASE, "the database did not answer in time; try again", RETRY_AFTER)
    })
}

fn service<A: OpenApi>(api: A) -> OpenApiService<A, ()> {
    OpenApiService::new(api, "Trueup", env!("CARGO_PKG_VERSION"))
        .description("Keeps every user's tier, status and usage allowance true to Stripe.")
        .license(poem_openapi::LicenseObject::new("MIT"))
}

/// Every route of the server.
pub fn routes(app: App) -> BoxEndpoint<'static, Response> {
    let table = RouteTable::of::<Document>();
    table.announce(&app.metrics);
    let around = Around { table, metrics: Arc::clone(&app.metrics), edge: app.edge.clone() };
    let failed = Arc::new(FailedTries::default());
    let gate = |role, tokens: Vec<Token>| Gate::new(role, tokens, &failed, &app.metrics);
    let hosts = gate(Role::Host, app.api_token.iter().cloned().collect());
    let operators = gate(Role::Operator, app.admin_token.iter().cloned().collect());
    let health = HealthApi::new(app.clone());

    let users = (UsersApi(app.clone()), UsageApi(app.clone()), RefreshApi(app.clone()));
    let admin = (
        AdminApi(app.clone()),
        SubscriptionsApi(app.clone()),
        OverridesApi(app.clone()),
        JobsApi(app.clone()),
        ReconciliationsApi(app.clone()),
        AdoptionApi(app.clone()),
    );

    // Each group is mounted alone and whole behind its own gate, so no address leads past one.
    let mut route = Route::new()
        .nest_no_strip("/api/v1/stripe/webhook", mounted(WebhookApi(app.clone()), None))
        .nest_no_strip("/api/v1/users", mounted(users, Some(hosts.clone())))
        .nest_no_strip("/api/v1/changes", mounted_for(ChangesApi(app.clone()), Some(hosts), changes::PATIENCE))
        .nest_no_strip("/api/v1/admin", mounted(admin, Some(operators)))
        .nest_no_strip("/healthz", mounted(health.clone(), None))
        .nest_no_strip("/readyz", mounted(health.clone(), None));
    route = match &app.edge.figures {
        Figures::Open => route.nest_no_strip(FIGURES, mounted(health, None)),
        Figures::Behind(token) => {
            route.nest_no_strip(FIGURES, mounted(health, Some(gate(Role::Scraper, vec![token.clone()]))))
        }
        Figures::Elsewhere => route,
    };
    let readers = match app.edge.docs {
        Docs::Off => return finished(route, around),
        Docs::Open => None,
        Docs::Token => Some(gate(Role::Reader, app.api_token.iter().chain(app.admin_token.iter()).cloned().collect())),
    };
    let spec = openapi_spec();
    let page = DocsPage::new(&service(Document).swagger_ui_html());
    let document = make_sync(move |_| Response::builder().content_type("application/json").body(spec.clone()));
    let route = route
        .at("/openapi.json", get(gated(document, readers.clone())))
        .at("/docs", get(gated(make_sync(move |_| page.render()), readers)));
    finished(route, around)
}

/// The figures alone, for a listener of their own.
pub fn figures(app: App, token: Option<Token>) -> BoxEndpoint<'static, Response> {
    let around =
        Around { table: RouteTable::of::<HealthApi>(), metrics: Arc::clone(&app.metrics), edge: app.edge.clone() };
    let failed = Arc::new(FailedTries::default());
    let gate = token.map(|token| Gate::new(Role::Scraper, [token], &failed, &app.metrics));
    finished(Route::new().nest_no_strip(FIGURES, mounted(HealthApi::new(app), gate)), around)
}

const FIGURES: &str = "/metrics";

fn finished(route: Route, around: Around) -> BoxEndpoint<'static, Response> {
    let around = Arc::new(around);
    route
        .around(move |endpoint, request| observe::observe(endpoint, request, Arc::clone(&around)))
        .map_to_response()
        .boxed()
}

/// An endpoint behind a gate, where there is one.
fn gated(endpoint: impl Endpoint + 'static, gate: Option<Gate>) -> impl Endpoint<Output = Response> {
    endpoint.map_to_response().before(move |mut request: Request| {
        let admitted = gate.as_ref().map_or(Ok(()), |gate| gate.admit(&mut request));
        async move { admitted.map(|()| request).map_err(Into::into) }
    })
}

/// A group of routes behind its gate, bounded in time.
fn mounted(api: impl OpenApi + 'static, gate: Option<Gate>) -> impl Endpoint<Output = Response> {
    mounted_for(api, gate, observe::PATIENCE)
}

/// The same with a bound of its own.
fn mounted_for(
    api: impl OpenApi + 'static,
    gate: Option<Gate>,
    patience: Duration,
) -> impl Endpoint<Output = Response> {
    gated(service(api).into_endpoint(), gate)
        .around(move |endpoint, request| observe::protect(patience, endpoint, request))
}

/// Every address that is served, with the methods it takes: those of the document, and the pages beside it.
pub fn addresses() -> Vec<(String, Vec<String>)> {
    RouteTable::of::<Document>().addresses()
}

/// The `OpenAPI` document of the whole API, as indented JSON; the same for the same version.
pub fn openapi_spec() -> String {
    service(Document).spec()
}
