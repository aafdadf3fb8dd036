//! Whether Stripe delivers at all: our webhook endpoint as Stripe has it. Stripe disables an endpoint that fails for days, and tells nobody but by
//! e-mail; there is no event for that, so it has to be looked up.

use entity::Time;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    events::event_types,
    stripe::{Collection, Lane, Stripe, StripeError},
};

/// Where this program takes webhooks.
pub const PATH: &str = "/api/v1/stripe/webhook";

/// The oldest API version whose payloads are read here and tested against. Every later one is read: new fields are passed over, and moved ones are looked
/// for in both places. Versions are dates, so they compare as texts.
pub const OLDEST_API_VERSION: &str = "2017-08-15";

/// Without these nothing is right: who bought, what they have, when it ends, and whether they pay. Of the last two one will do.
const ESSENTIAL: [&str; 5] = [
    "checkout.session.completed",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "invoice.payment_failed",
];
const PAID: [&str; 2] = ["invoice.paid", "invoice.payment_succeeded"];

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It works, and may hurt one day.
    Warn,
    /// It does not work.
    Bad,
}

/// What can be wrong. A closed set: it labels a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Stripe has no endpoint of ours.
    Missing,
    /// Stripe does not deliver to it any more.
    Disabled,
    /// It does not listen to what we cannot do without.
    EssentialEvents,
    /// It does not listen to everything we handle.
    SomeEvents,
    /// It delivers the events of the other mode.
    Mode,
    /// Its payloads are older than what we read.
    ApiVersion,
    /// It listens to `invoice.created`.
    InvoiceCreated,
    /// Every event is delivered to us more than once.
    Duplicate,
}

impl FindingKind {
    /// Every value.
    pub const ALL: [Self; 8] = [
        Self::Missing,
        Self::Disabled,
        Self::EssentialEvents,
        Self::SomeEvents,
        Self::Mode,
        Self::ApiVersion,
        Self::InvoiceCreated,
        Self::Duplicate,
    ];

    /// As a metric's label, and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Disabled => "disabled",
            Self::EssentialEvents => "essential_events",
            Self::SomeEvents => "some_events",
            Self::Mode => "mode",
            Self::ApiVersion => "api_version",
            Self::InvoiceCreated => "invoice_created",
            Self::Duplicate => "duplicate",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// How bad.
    pub severity: Severity,
    /// The endpoint, where it is about one: `we_…`.
    pub endpoint: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub remedy: String,
}

/// What was found at Stripe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// True where nothing is bad.
    pub healthy: bool,
    /// Endpoints of the account.
    pub endpoints: u64,
    /// Ours among them.
    pub ours: Vec<String>,
    /// Their API versions; none is the account's default.
    pub api_versions: Vec<Option<String>>,
    /// True where ours was recognised by the configured address, false where only by the end of its path.
    pub by_address: bool,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
}

/// What an endpoint is compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Where Stripe reaches this server, without the path; none where that is not configured.
    pub public_url: Option<String>,
    /// The mode we serve; none where it is not known.
    pub livemode: Option<bool>,
}

/// Looks our endpoint up at Stripe.
pub async fn check(stripe: &dyn Stripe, expected: &Expected) -> Result<Report, StripeError> {
    let mut endpoints = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = stripe.list(&Collection::WebhookEndpoints, after.as_deref(), Lane::Background).await?;
        let last = page.objects.last().map(|object| object.id.clone());
        endpoints.extend(page.objects.iter().filter_map(|object| Endpoint::read(&object.object)));
        if !page.has_more || last.is_none() || last == after {
            break;
        }
        after = last;
    }
    Ok(judge(&endpoints, expected))
}

/// An endpoint, as far as we look at it (node `WebhookEndpoints.d.ts`).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Endpoint {
    id: String,
    url: String,
    enabled: bool,
    events: Vec<String>,
    api_version: Option<String>,
    livemode: Option<bool>,
}

impl Endpoint {
    fn read(object: &str) -> Option<Self> {
        let object: Value = serde_json::from_str(object).ok()?;
        let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let events = object.get("enabled_events").and_then(Value::as_array).into_iter().flatten();
        Some(Self {
            id: text("id")?,
            url: text("url")?,
            // Open, like every set of Stripe's: only this word says that it is off.
            enabled: text("status").as_deref() != Some("disabled"),
            events: events.filter_map(Value::as_str).map(str::to_owned).collect(),
            api_version: text("api_version"),
            livemode: object.get("livemode").and_then(Value::as_bool),
        })
    }

    fn listens_to(&self, event_type: &str) -> bool {
        self.events.iter().any(|event| event == "*" || event == event_type)
    }
}

/// Scheme, host, port and path, spelled in one way.
fn address(url: &str) -> Option<(String, String, Option<u16>, String)> {
    let url = Url::parse(url).ok()?;
    let host = url.host_str()?.to_ascii_lowercase();
    Some((url.scheme().to_owned(), host, url.port_or_known_default(), url.path().trim_end_matches('/').to_owned()))
}

fn is_ours(endpoint: &Endpoint, expected: &Expected) -> bool {
    let Some(theirs) = address(&endpoint.url) else { return false };
    match &expected.public_url {
        Some(public) => address(&format!("{}{PATH}", public.trim_end_matches('/'))) == Some(theirs),
        None => theirs.3.ends_with(PATH),
    }
}

/// Compares: values in, values out.
fn judge(endpoints: &[Endpoint], expected: &Expected) -> Report {
    let ours: Vec<&Endpoint> = endpoints.iter().filter(|endpoint| is_ours(endpoint, expected)).collect();
    let mut findings = Vec::new();
    if ours.is_empty() {
        findings.push(missing(endpoints, expected));
    }
    for endpoint in &ours {
        findings.extend(look_at(endpoint, expected));
    }
    let delivering = ours.iter().filter(|endpoint| endpoint.enabled);
    if delivering.clone().count() > 1 {
        let ids: Vec<&str> = delivering.map(|endpoint| endpoint.id.as_str()).collect();
        findings.push(Finding {
            kind: FindingKind::Duplicate,
            severity: Severity::Warn,
            endpoint: None,
            what: format!("{} endpoints deliver to this server: {}", ids.len(), ids.join(", ")),
            remedy: "delete all but one at Stripe (Developers, Webhooks); every event is sent once for each, and each signs with its own secret"
                .to_owned(),
        });
    }
    // Of several, one that works is enough: what is bad of the others is told, and is not as bad.
    let works = |endpoint: &&Endpoint| {
        !findings.iter().any(|f| f.severity == Severity::Bad && f.endpoint.as_deref() == Some(endpoint.id.as_str()))
    };
    if ours.iter().copied().filter(|endpoint| endpoint.enabled).any(|endpoint| works(&endpoint)) {
        for finding in &mut findings {
            finding.severity = Severity::Warn;
        }
    }
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.kind.cmp(&b.kind)));
    Report {
        healthy: findings.iter().all(|finding| finding.severity < Severity::Bad),
        endpoints: endpoints.len() as u64,
        ours: ours.iter().map(|endpoint| endpoint.id.clone()).collect(),
        api_versions: ours.iter().map(|endpoint| endpoint.api_version.clone()).collect(),
        by_address: expected.public_url.is_some(),
        findings,
    }
}

fn missing(endpoints: &[Endpoint], expected: &Expected) -> Finding {
    let (what, remedy) = match &expected.public_url {
        Some(public) => (
            format!("none of the {} webhook endpoints at Stripe points to {public}{PATH}", endpoints.len()),
            format!(
                "make one for {public}{PATH} at Stripe (Developers, Webhooks), or correct TRUEUP_PUBLIC_URL. An event destination of thin events \
                 is not listed here"
            ),
        ),
        None => (
            format!("none of the {} webhook endpoints at Stripe ends in {PATH}", endpoints.len()),
            format!(
                "make one for this server's address and {PATH} at Stripe (Developers, Webhooks); behind a proxy that changes the path, set \
                 TRUEUP_PUBLIC_URL. An event destination of thin events is not listed here"
            ),
        ),
    };
    Finding { kind: FindingKind::Missing, severity: Severity::Bad, endpoint: None, what, remedy }
}

fn look_at(endpoint: &Endpoint, expected: &Expected) -> Vec<Finding> {
    let mut findings = Vec::new();
    let id = &endpoint.id;
    let mut add = |kind, severity, what: String, remedy: &str| {
        findings.push(Finding { kind, severity, endpoint: Some(id.clone()), what, remedy: remedy.to_owned() });
    };
    if !endpoint.enabled {
        let remedy = "mend what made it fail, enable it at Stripe (Developers, Webhooks), then run `trueup recover` and `trueup reconcile`: what Stripe \
                      made while it was disabled is never sent again";
        add(
            FindingKind::Disabled,
            Severity::Bad,
            format!("the endpoint {id} is disabled: Stripe delivers nothing"),
            remedy,
        );
    }
    let lacks = |types: &mut dyn Iterator<Item = &'static str>| -> Vec<&'static str> {
        types.filter(|event_type| !endpoint.listens_to(event_type)).collect()
    };
    let mut essential = lacks(&mut ESSENTIAL.into_iter());
    if PAID.iter().all(|event_type| !endpoint.listens_to(event_type)) {
        essential.push(PAID[0]);
    }
    let listen = "let it listen to them as well at Stripe (Developers, Webhooks, Update details), or to every event";
    if !essential.is_empty() {
        let what =
            format!("the endpoint {id} does not listen to {}, without which tiers go wrong", essential.join(", "));
        add(FindingKind::EssentialEvents, Severity::Bad, what, listen);
    }
    // Whoever hears of every payment need not hear of it twice.
    let paid = endpoint.listens_to(PAID[0]);
    let told = |event_type: &&str| ESSENTIAL.contains(event_type) || essential.contains(event_type);
    let covered = |event_type: &&str| paid && *event_type == PAID[1];
    let rest = lacks(&mut event_types().filter(|event_type| !told(event_type) && !covered(event_type)));
    if !rest.is_empty() {
        let what = format!("the endpoint {id} does not listen to {}", rest.join(", "));
        add(FindingKind::SomeEvents, Severity::Warn, what, listen);
    }
    if let (Some(ours), Some(theirs)) = (expected.livemode, endpoint.livemode)
        && ours != theirs
    {
        let mode = |live| if live { "live" } else { "test" };
        let what =
            format!("the endpoint {id} is of the {} mode, and this server serves {} mode", mode(theirs), mode(ours));
        add(
            FindingKind::Mode,
            Severity::Bad,
            what,
            "make one in the right mode, or correct STRIPE_LIVEMODE and STRIPE_SECRET_KEY",
        );
    }
    if let Some(version) = endpoint.api_version.as_deref().filter(|version| *version < OLDEST_API_VERSION) {
        let what = format!(
            "the endpoint {id} sends payloads of the API version {version}; the oldest that is read here is {OLDEST_API_VERSION}"
        );
        let remedy =
            "make a new endpoint with a newer version (an endpoint's version cannot be changed), and delete this one";
        add(FindingKind::ApiVersion, Severity::Warn, what, remedy);
    }
    if endpoint.events.iter().any(|event| event == "invoice.created") {
        let what = format!("the endpoint {id} listens to invoice.created, which is of no use here");
        let remedy = "take it off at Stripe: while it is not acknowledged, Stripe puts off finalising invoices for up to 72 hours";
        add(FindingKind::InvoiceCreated, Severity::Warn, what, remedy);
    }
    findings
}

/// When events were last delivered by Stripe, for whoever wonders whether the endpoint is alive.
pub async fn last_delivery(db: &crate::db::Db) -> Result<Option<Time>, sea_orm::DbErr> {
    use entity::{
        enums::EventSource,
        stripe_webhooks::{Column, Entity},
    };
    use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
    Entity::find()
        .select_only()
        .column(Column::CreatedAt)
        .filter(Column::Source.eq(EventSource::Webhook))
        .order_by_desc(Column::CreatedAt)
        .order_by_desc(Column::Id)
        .limit(1)
        .into_tuple()
        .one(db.reader())
        .await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoint(change: impl Fn(&mut Value)) -> Endpoint {
        let mut object = json!({
            "id": "we_1", "object": "webhook_endpoint", "api_version": "2026-10-28.endive", "enabled_events": ["*"],
            "livemode": true, "status": "enabled", "url": "https://billing.example.com/api/v1/stripe/webhook",
        });
        change(&mut object);
        Endpoint::read(&object.to_string()).unwrap()
    }

    fn expected() -> Expected {
        Expected { public_url: Some("https://Billing.example.com:443/".into()), livemode: Some(true) }
    }

    fn kinds(endpoints: &[Endpoint]) -> Vec<(FindingKind, Severity)> {
        judge(endpoints, &expected()).findings.into_iter().map(|finding| (finding.kind, finding.severity)).collect()
    }

    #[test]
    fn an_endpoint_that_is_as_it_should_be_is_healthy() {
        let report = judge(&[endpoint(|_| {})], &expected());
        assert!(report.healthy && report.findings.is_empty() && report.by_address, "{report:?}");
        assert_eq!(report.ours, ["we_1"]);
        let all: Vec<_> = event_types().collect();
        assert!(kinds(&[endpoint(|e| e["enabled_events"] = json!(all))]).is_empty());
        // The account's default version may be any, and cannot be seen here.
        assert!(kinds(&[endpoint(|e| e["api_version"] = Value::Null)]).is_empty());
    }

    #[test]
    fn an_endpoint_that_is_missing_or_disabled_is_bad() {
        // Known from WeVoteServer#969: disabled after nine days, and nobody noticed.
        assert_eq!(kinds(&[]), [(FindingKind::Missing, Severity::Bad)]);
        let elsewhere = endpoint(|e| e["url"] = json!("https://other.example.com/api/v1/stripe/webhook"));
        assert_eq!(kinds(std::slice::from_ref(&elsewhere)), [(FindingKind::Missing, Severity::Bad)]);
        assert_eq!(kinds(&[endpoint(|e| e["status"] = json!("disabled"))]), [(FindingKind::Disabled, Severity::Bad)]);
        // Without an address of our own any endpoint with our path may be ours.
        let unknown = Expected { public_url: None, livemode: Some(true) };
        assert!(judge(&[elsewhere], &unknown).healthy);
    }

    #[test]
    fn events_that_are_not_listened_to_are_named() {
        let most: Vec<_> = event_types().filter(|t| *t != "invoice.payment_succeeded").collect();
        assert!(kinds(&[endpoint(|e| e["enabled_events"] = json!(most))]).is_empty(), "`paid` covers it");
        let some: Vec<_> = event_types().filter(|t| *t != "charge.refunded").collect();
        let report = judge(&[endpoint(|e| e["enabled_events"] = json!(some))], &expected());
        assert!(report.healthy && report.findings[0].what.contains("charge.refunded"), "{report:?}");
        let few: Vec<_> =
            event_types().filter(|t| *t != "customer.subscription.deleted" && *t != "charge.refunded").collect();
        let found = kinds(&[endpoint(|e| e["enabled_events"] = json!(few))]);
        assert_eq!(found, [(FindingKind::EssentialEvents, Severity::Bad), (FindingKind::SomeEvents, Severity::Warn)]);
        let unpaid: Vec<_> = event_types().filter(|t| !PAID.contains(t)).collect();
        let report = judge(&[endpoint(|e| e["enabled_events"] = json!(unpaid))], &expected());
        assert!(!report.healthy && report.findings[0].what.contains("invoice.paid"), "{report:?}");
    }

    #[test]
    fn what_works_and_may_hurt_one_day_is_a_warning() {
        let listens = endpoint(|e| e["enabled_events"] = json!(["*", "invoice.created"]));
        assert_eq!(kinds(&[listens]), [(FindingKind::InvoiceCreated, Severity::Warn)]);
        let old = endpoint(|e| e["api_version"] = json!("2016-07-06"));
        assert_eq!(kinds(&[old]), [(FindingKind::ApiVersion, Severity::Warn)]);
        assert_eq!(
            kinds(&[endpoint(|_| {}), endpoint(|e| e["id"] = json!("we_2"))]),
            [(FindingKind::Duplicate, Severity::Warn)]
        );
        assert_eq!(kinds(&[endpoint(|e| e["livemode"] = json!(false))]), [(FindingKind::Mode, Severity::Bad)]);
    }

    #[test]
    fn of_two_endpoints_one_that_works_is_enough() {
        let off = endpoint(|e| {
            e["id"] = json!("we_old");
            e["status"] = json!("disabled");
        });
        assert_eq!(kinds(&[endpoint(|_| {}), off]), [(FindingKind::Disabled, Severity::Warn)]);
    }

    #[test]
    fn every_finding_has_a_label_of_its_own_as_in_json() {
        for kind in FindingKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), json!(kind.as_str()));
        }
    }
}
