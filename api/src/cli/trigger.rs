//! `trueup trigger`: what Stripe would send, without Stripe.
//!
//! Nothing is remembered between two calls. A user's customer and subscription have ids made of the user's id; where the inbox tells
//! that these have ended, the next ones begin, as at Stripe, where nothing that has ended comes back.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use billing::{
    catalog::{Catalog, FREE},
    samples::{EVENT_TYPES, Scene, scene_events},
    signature::{WebhookSecret, sign},
};
use chrono::{DateTime, Utc};
use entity::ids::UserId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use super::{
    Usage,
    client::Server,
    output::{self, Table, or_dash},
};
use crate::{
    config::{Config, Secret, development, nearest},
    telemetry,
};

/// Who is meant where nobody is named.
const SOMEBODY: &str = "user@example.com";
/// The tier of a sample subscription where none is named.
const TIER: &str = "pro";
/// How long to wait for the events to be applied.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at an event.
const LOOK: Duration = Duration::from_millis(40);
/// Customers that one user may use up.
const MOST_GENERATIONS: u32 = 1000;

/// Options of `trigger`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What happens at Stripe, for example checkout.session.completed; see --list
    #[arg(required_unless_present = "list")]
    event_type: Option<String>,
    /// To which user, by the host's id; made where there is none
    #[arg(long, value_name = "UUID")]
    user: Option<UserId>,
    /// To which user, by e-mail address; made where there is none (default: user@example.com)
    #[arg(long)]
    email: Option<String>,
    /// Which tier the subscription grants (default: the user's own, else pro)
    #[arg(long)]
    tier: Option<String>,
    /// Where the server is; by default where `TRUEUP_LISTEN` says
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// List what can be triggered
    #[arg(long)]
    list: bool,
}

/// `trueup trigger …`
pub(super) async fn run(args: Args) -> Result<ExitCode> {
    if args.list {
        let mut table = Table::new(["", ""]);
        for event_type in EVENT_TYPES {
            table.row([(*event_type).to_owned(), describe(event_type).to_owned()]);
        }
        table.print()?;
        return Ok(ExitCode::SUCCESS);
    }
    let event_type = args.event_type.clone().unwrap_or_default();
    if !EVENT_TYPES.contains(&event_type.as_str()) {
        let near = nearest(&event_type, EVENT_TYPES).map_or(String::new(), |near| format!("; did you mean {near}?"));
        bail!(Usage(format!("`{event_type}` cannot be triggered{near}; `trueup trigger --list` tells what can")));
    }
    let mut config = Config::load()?;
    telemetry::command(&config);
    if config.development {
        let Some(secrets) = development::read(&config.data)? else {
            bail!(
                "there are no development secrets in {} yet; start the server first (`trueup serve`) and run this in the same folder, or \
                 set STRIPE_WEBHOOK_SECRET, TRUEUP_API_TOKEN and TRUEUP_ADMIN_TOKEN as for the server",
                config.data.display()
            );
        };
        config.adopt(&secrets);
    }
    if config.intake_rules.livemode == Some(true) {
        bail!(Usage(
            "this configuration serves live mode, and sample events are of the test mode: the server would skip them"
                .to_owned()
        ));
    }
    let tokens = || Usage("TRUEUP_API_TOKEN and TRUEUP_ADMIN_TOKEN must be set, as for the server".to_owned());
    let host = Host {
        server: Server::at(args.url.as_deref(), &config)?,
        api: config.api_token.clone().ok_or_else(tokens)?,
        admin: config.admin_token.clone().ok_or_else(tokens)?,
    };
    let secret = config.webhook_secrets.first().context("a configuration without mistakes has a webhook secret")?;
    let secret = WebhookSecret::parse(secret.expose())?;
    trigger(&host, &secret, &config.catalog, &event_type, &args).await
}

async fn trigger(
    host: &Host,
    secret: &WebhookSecret,
    catalog: &Catalog,
    event_type: &str,
    args: &Args,
) -> Result<ExitCode> {
    let before = host.user_for(args).await?;
    let current = before.tier();
    let tier = args.tier.as_deref().unwrap_or(if current == FREE { TIER } else { current });
    let Some(plan) = catalog.by_tier(tier).map(|rank| catalog.plan(rank)) else {
        let known: Vec<&str> = catalog.plans().iter().map(|plan| plan.tier.as_str()).collect();
        bail!(Usage(format!("--tier: there is no tier `{tier}`; the plans are {}", known.join(", "))));
    };
    let cast = host.cast(&before.id, event_type).await?;
    let now = Utc::now().timestamp();
    let nonce = Uuid::new_v4().simple().to_string();
    let mut scene = Scene::new(format!("{}{}", cast.stem, &nonce[..12]), before.email(), tier, cast.after(now));
    scene.user_id = Some(before.id.clone());
    scene.customer.clone_from(&cast.customer);
    scene.subscription.clone_from(&cast.subscription);
    scene.price = plan.prices.first().cloned();
    scene.lookup_key = plan.lookup_keys.first().cloned();
    if let Some(product) = plan.products.first() {
        scene.product.clone_from(product);
    }
    scene.period = before.period_of(&cast.subscription);
    let events = scene_events(event_type, &scene).context("every listed event type has a scene")?;

    output::line(format_args!("{event_type} for {} ({})", before.email(), before.id))?;
    let mut sent = Vec::new();
    let mut table = Table::new(["", "", "", ""]);
    let mut refused = None;
    for event in &events {
        let (id, kind) = (text(event, "id"), text(event, "type"));
        let answer = host.deliver(secret, event).await?;
        let outcome = if answer.status.is_success() { text(&answer.body, "outcome") } else { "" };
        table.row([
            "  sent".to_owned(),
            kind.to_owned(),
            id.to_owned(),
            format!("{} {outcome}", answer.status.as_u16()).trim_end().to_owned(),
        ]);
        if !answer.status.is_success() {
            refused = Some(answer);
            break;
        }
        sent.push(id.to_owned());
    }
    table.print()?;
    if let Some(answer) = refused {
        let remedy = if answer.status == StatusCode::BAD_REQUEST {
            "; this command signs with the first secret of STRIPE_WEBHOOK_SECRET as it is configured here: run it with the server's \
             environment, in its folder"
        } else {
            ""
        };
        bail!("the sample event was refused: {}{remedy}", answer.problem());
    }
    let troubles = host.wait(&sent).await?;
    let after = host.user(&before.id).await?.context("the user is gone")?;
    compare(&before, &after)?;
    for trouble in &troubles {
        output::line(trouble)?;
    }
    Ok(if troubles.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A running server and the right to use it.
struct Host {
    server: Server,
    api: Secret,
    admin: Secret,
}

impl Host {
    async fn user(&self, id: &str) -> Result<Option<User>> {
        self.find(&format!("/api/v1/users/{id}"), &[]).await
    }

    async fn find(&self, path: &str, query: &[(&str, &str)]) -> Result<Option<User>> {
        let answer = self.server.get(Some(&self.api), path, query).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        answer.good("the user could not be looked up").map(|view| Some(User::new(view)))
    }

    /// The user that is meant; made where there is none.
    async fn user_for(&self, args: &Args) -> Result<User> {
        let (id, email) = match (args.user, &args.email) {
            (Some(id), email) => {
                let found = self.user(&id.to_string()).await?;
                match (found, email) {
                    (Some(user), None) => return Ok(user),
                    (Some(user), Some(email)) if user.email().eq_ignore_ascii_case(email.trim()) => return Ok(user),
                    (_, Some(email)) => (id, email.clone()),
                    (None, None) => (id, format!("{}@example.com", id.0.simple())),
                }
            }
            (None, email) => {
                let email = email.as_deref().unwrap_or(SOMEBODY).trim();
                if let Some(user) = self.find("/api/v1/users", &[("email", email)]).await? {
                    return Ok(user);
                }
                (UserId(Uuid::new_v4()), email.to_owned())
            }
        };
        let request = self.server.request(Method::PUT, &format!("/api/v1/users/{id}"));
        let request = request.bearer_auth(self.api.expose()).json(&json!({ "email": email }));
        let view = self.server.insist(request).await?.good("the user could not be made")?;
        output::line(format_args!("made the user {email} ({id})"))?;
        Ok(User::new(view))
    }

    /// The newest events of a customer, of a type where one is given.
    async fn events_of(&self, customer: &str, event_type: Option<&str>) -> Result<Vec<Value>> {
        let mut query = vec![("customer", customer), ("limit", "20")];
        query.extend(event_type.map(|event_type| ("type", event_type)));
        let answer = self.server.get(Some(&self.admin), "/api/v1/admin/webhooks", &query).await?;
        let mut page = answer.good("the inbox could not be looked at")?;
        Ok(match page.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        })
    }

    /// Who plays the user's customer and subscription.
    async fn cast(&self, user: &str, event_type: &str) -> Result<Cast> {
        let mut cast = Cast::of(user, 1);
        for generation in 1..=MOST_GENERATIONS {
            cast = Cast::of(user, generation);
            let mut ended = false;
            for end in ["customer.subscription.deleted", "customer.deleted"] {
                ended |= !self.events_of(&cast.customer, Some(end)).await?.is_empty();
            }
            // What ends a subscription once more is about the same one; anything else begins the next.
            let ends = event_type.ends_with(".deleted");
            if !ended || (ends && self.events_of(&Cast::of(user, generation + 1).customer, None).await?.is_empty()) {
                break;
            }
        }
        let events = self.events_of(&cast.customer, None).await?;
        cast.last = events.iter().filter_map(|event| seconds(event, "stripe_created_at")).max();
        Ok(cast)
    }

    async fn deliver(&self, secret: &WebhookSecret, event: &Value) -> Result<super::client::Answer> {
        let body = serde_json::to_vec(event)?;
        let signature = sign(secret, Utc::now().timestamp(), &body);
        let request = self.server.request(Method::POST, "/api/v1/stripe/webhook");
        let request =
            request.header("stripe-signature", signature).header("content-type", "application/json").body(body);
        self.server.insist(request).await
    }

    /// Waits until every event is done; gives what did not go as it should.
    async fn wait(&self, events: &[String]) -> Result<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut troubles = Vec::new();
        for id in events {
            loop {
                looks.tick().await;
                let path = format!("/api/v1/admin/webhooks/{id}");
                let event =
                    self.server.get(Some(&self.admin), &path, &[]).await?.good("the event could not be looked at")?;
                let error = event.get("error").and_then(Value::as_str);
                let waits = match (text(&event, "status"), error) {
                    ("completed", _) => break,
                    // Tried once, and waiting for its next attempt or for its user: that takes longer than anyone watches.
                    (status @ ("pending" | "failed" | "skipped"), Some(error)) => {
                        troubles.push(format!("{id} is {status}: {error}"));
                        break;
                    }
                    (status, _) => status,
                };
                if Instant::now() >= deadline {
                    troubles.push(format!(
                        "{id} is still {waits} after {} s: does the server run with --no-processor? Its log may tell more",
                        PATIENCE.as_secs()
                    ));
                    break;
                }
            }
        }
        Ok(troubles)
    }
}

/// The ids of a user's customer and subscription.
struct Cast {
    stem: String,
    customer: String,
    subscription: String,
    /// The newest second that Stripe is said to have told of them.
    last: Option<i64>,
}

impl Cast {
    fn of(user: &str, generation: u32) -> Self {
        let mut stem = hex::encode(&Sha256::digest(user)[..8]);
        if generation > 1 {
            stem.push('g');
            stem.push_str(&generation.to_string());
        }
        Self { customer: format!("cus_{stem}"), subscription: format!("sub_{stem}"), stem, last: None }
    }

    /// A second that is later than all before it, and not before now.
    fn after(&self, now: i64) -> i64 {
        self.last.map_or(now, |last| now.max(last + 1))
    }
}

/// A user as the server tells it.
struct User {
    id: String,
    view: Value,
}

impl User {
    fn new(view: Value) -> Self {
        Self { id: text(&view, "id").to_owned(), view }
    }

    fn email(&self) -> &str {
        text(&self.view, "email")
    }

    fn tier(&self) -> &str {
        text(&self.view["subscription"], "tier")
    }

    /// The period that this subscription has already, where it governs.
    fn period_of(&self, subscription: &str) -> Option<(i64, i64)> {
        let governing = &self.view["subscription"];
        if text(governing, "stripe_subscription_id") != subscription || governing["access"] != true {
            return None;
        }
        let start = seconds(&self.view["usage"], "period_start")?;
        let end = seconds(governing, "current_period_end")?;
        (start < end).then_some((start, end))
    }

    fn rows(&self) -> [(&'static str, String); 8] {
        let (subscription, usage) = (&self.view["subscription"], &self.view["usage"]);
        let shown = |value: &Value| or_dash(value.as_str());
        let limit = usage["limit"].as_i64().map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        [
            ("tier", shown(&subscription["tier"])),
            ("status", shown(&subscription["status"])),
            ("access", if subscription["access"] == true { "yes" } else { "no" }.to_owned()),
            ("used", format!("{} of {limit}", usage["used"])),
            ("resets at", shown(&usage["resets_at"])),
            ("access ends", shown(&subscription["cancel_at"])),
            ("customer", shown(&subscription["stripe_customer_id"])),
            ("subscription", shown(&subscription["stripe_subscription_id"])),
        ]
    }
}

fn compare(before: &User, after: &User) -> Result<()> {
    let mut table = Table::new(["", "before", "", "after"]);
    for ((name, old), (_, new)) in before.rows().into_iter().zip(after.rows()) {
        let arrow = if old == new { "" } else { "→" };
        table.row([name.to_owned(), old, arrow.to_owned(), new]);
    }
    table.print()?;
    Ok(())
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn seconds(value: &Value, key: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text(value, key)).ok().map(|at| at.timestamp())
}

/// What an event does, in one line.
fn describe(event_type: &str) -> &'static str {
    match event_type {
        "checkout.session.completed" => {
            "a user buys: customer, subscription, first invoice and checkout; the tier rises"
        }
        "checkout.session.async_payment_succeeded" => "a delayed payment of a checkout arrives; the tier rises",
        "checkout.session.async_payment_failed" => "a delayed payment of a checkout fails; the tier stays",
        "checkout.session.expired" => "a checkout is left without paying; nothing changes",
        "customer.subscription.created" => "a subscription is made at Stripe, without a checkout; the tier rises",
        "customer.subscription.updated" => "the subscription changes to --tier",
        "customer.subscription.deleted" => "the subscription ends; back to free",
        "customer.subscription.paused" => {
            "a trial ends without a payment method; the subscription pauses, back to free"
        }
        "customer.subscription.resumed" => "a paused subscription goes on; the tier is back",
        "customer.subscription.pending_update_applied" => "a change that waited for its payment takes effect",
        "customer.subscription.pending_update_expired" => {
            "a change that waited for its payment lapses; the subscription stays"
        }
        "customer.subscription.trial_will_end" => "a trial ends in three days; the tier is granted, an e-mail is due",
        "invoice.paid" => "a new period is paid; its allowance begins",
        "invoice.payment_succeeded" => "as invoice.paid, under its older name",
        "invoice.payment_failed" => "the payment of a new period fails; past due",
        "invoice.payment_action_required" => "a payment needs the customer's confirmation; an e-mail is due",
        "invoice.finalized" => "an invoice is ready to be paid; noted",
        "invoice.voided" => "an invoice is cancelled; noted",
        "invoice.marked_uncollectible" => "an invoice is given up; noted",
        "invoice.updated" => "an invoice changes, here after a failed payment; noted",
        "invoice.upcoming" => "a preview of the next invoice; noted",
        "customer.created" => "a customer is made; linked to the user",
        "customer.updated" => "a customer's name or address changes; noted",
        "customer.deleted" => "a customer is deleted, and its subscriptions end; back to free",
        "charge.refunded" => "money goes back; access stays, noted",
        "charge.dispute.created" => "a payment is disputed; access stays, noted",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_type_that_is_handled_can_be_triggered_and_is_described() {
        for event_type in billing::events::event_types() {
            assert!(EVENT_TYPES.contains(&event_type), "{event_type}");
        }
        for event_type in EVENT_TYPES {
            assert!(!describe(event_type).is_empty(), "{event_type}");
            let scene = Scene::new("1", "user@example.com", "pro", 1_800_000_000);
            let events = scene_events(event_type, &scene).unwrap();
            assert!(events.iter().any(|event| text(event, "type") == *event_type), "{event_type}");
        }
    }

    #[test]
    fn a_user_keeps_their_ids_until_they_have_ended_and_time_goes_on() {
        let cast = Cast::of("user", 1);
        assert_eq!(cast.customer, Cast::of("user", 1).customer);
        assert_ne!(cast.customer, Cast::of("other", 1).customer);
        assert_ne!(cast.subscription, Cast::of("user", 2).subscription);
        assert_eq!(cast.after(100), 100);
        assert_eq!(Cast { last: Some(100), ..cast }.after(100), 101);
    }
}
