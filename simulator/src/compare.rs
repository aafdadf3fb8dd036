//! What the server says, beside what is true.

use std::collections::{BTreeSet, HashMap};

use chrono::DateTime;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    host::{Host, HostError, seconds},
    truth::{Standing, TrueSubscription, Truth},
};

/// Users asked for at once.
const AT_ONCE: usize = 16;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `user` or `subscription`.
    pub of: &'static str,
    /// Its id.
    pub id: String,
    /// What differs.
    pub field: &'static str,
    /// What the server says.
    pub here: String,
    /// What is true.
    pub stripe: String,
}

/// What a comparison came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Compared {
    pub(crate) differences: Vec<Difference>,
    pub(crate) users: u64,
    /// None where the server does not list its subscriptions.
    pub(crate) subscriptions: Option<u64>,
    /// Those that the server itself marks as not told unambiguously.
    pub(crate) needs_refresh: BTreeSet<String>,
}

struct Found<'f> {
    of: &'static str,
    id: &'f str,
    differences: &'f mut Vec<Difference>,
}

impl Found<'_> {
    fn check<T: Serialize>(&mut self, field: &'static str, here: T, stripe: T) {
        // Compared as they are told: what reads alike is alike.
        let (here, stripe) = (json!(here), json!(stripe));
        if here != stripe {
            let told = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let (here, stripe) = (told(here), told(stripe));
            self.differences.push(Difference { of: self.of, id: self.id.to_owned(), field, here, stripe });
        }
    }
}

fn moment(at: Option<i64>) -> Option<String> {
    at.and_then(|at| DateTime::from_timestamp(at, 0)).map(|at| at.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

/// Compares everything, as it is in this second. Users that the host has not made yet are left out.
pub(crate) async fn compare(host: &Host, truth: &Truth, now: i64) -> Result<Compared, HostError> {
    let mut compared = Compared::default();
    let standings = truth.standings(now);
    let made: HashMap<&str, &Standing> = truth
        .users
        .iter()
        .zip(&standings)
        .filter(|(user, _)| user.made_at <= now)
        .map(|(user, standing)| (user.id.as_str(), standing))
        .collect();
    let mut asked: JoinSet<Result<(String, Option<Value>), HostError>> = JoinSet::new();
    let mut ids: Vec<&str> = made.keys().copied().collect();
    ids.sort_unstable();
    let mut ids = ids.into_iter();
    let mut views: Vec<(String, Option<Value>)> = Vec::new();
    loop {
        while asked.len() < AT_ONCE
            && let Some(id) = ids.next()
        {
            let (host, id) = (host.clone(), id.to_owned());
            asked.spawn(async move {
                let view = host.user(&id).await?;
                Ok((id, view))
            });
        }
        match asked.join_next().await {
            Some(Ok(answer)) => views.push(answer?),
            // A task that panicked has told so.
            Some(Err(_)) => {}
            None => break,
        }
    }
    views.sort_by(|a, b| a.0.cmp(&b.0));
    for (id, view) in &views {
        if let Some(standing) = made.get(id.as_str()) {
            let mut found = Found { of: "user", id, differences: &mut compared.differences };
            match view {
                Some(view) => user(&mut found, view, standing),
                None => found.check("known", false, true),
            }
        }
    }
    compared.users = made.len() as u64;
    if let Some(rows) = host.subscriptions().await? {
        let rows: HashMap<&str, &Value> = rows.iter().filter_map(|row| Some((text(&row["id"])?, row))).collect();
        for true_one in &truth.subscriptions {
            let mut found = Found { of: "subscription", id: &true_one.id, differences: &mut compared.differences };
            let Some(row) = rows.get(true_one.id.as_str()) else {
                found.check("known", false, true);
                continue;
            };
            // Whose it is can be known only of a user that there is.
            let owner = true_one.owner.as_deref().filter(|owner| made.contains_key(owner));
            subscription(&mut found, row, true_one, owner);
            if row["needs_refresh"] == true {
                compared.needs_refresh.insert(true_one.id.clone());
            }
        }
        // What the server knows beyond that was there before the run.
        compared.subscriptions = Some(truth.subscriptions.len() as u64);
    }
    Ok(compared)
}

fn user(found: &mut Found<'_>, view: &Value, standing: &Standing) {
    let subscription = &view["subscription"];
    found.check("tier", text(&subscription["tier"]), Some(standing.tier.as_str()));
    found.check("status", text(&subscription["status"]), Some(standing.status.as_str()));
    found.check("access", subscription["access"].as_bool(), Some(standing.access));
    found.check("limit", view["usage"]["limit"].as_i64(), standing.limit);
    found.check("period end", moment(seconds(&subscription["current_period_end"])), moment(standing.period_end));
    found.check("scheduled end", moment(seconds(&subscription["cancel_at"])), moment(standing.cancel_at));
    found.check("subscription", text(&subscription["stripe_subscription_id"]), standing.subscription.as_deref());
}

fn subscription(found: &mut Found<'_>, row: &Value, stripe: &TrueSubscription, owner: Option<&str>) {
    found.check("status", text(&row["status"]), Some(stripe.status.as_str()));
    found.check("user", text(&row["user_id"]), owner);
    found.check("customer", text(&row["stripe_customer_id"]), Some(stripe.customer.as_str()));
    for (field, here, stripe) in [
        ("period start", &row["current_period_start"], stripe.period_start),
        ("period end", &row["current_period_end"], stripe.period_end),
        ("anchor", &row["billing_cycle_anchor"], stripe.anchor),
        ("trial start", &row["trial_start"], stripe.trial_start),
        ("trial end", &row["trial_end"], stripe.trial_end),
        ("cancel_at", &row["cancel_at"], stripe.cancel_at),
        ("canceled_at", &row["canceled_at"], stripe.canceled_at),
        ("ended_at", &row["ended_at"], stripe.ended_at),
    ] {
        found.check(field, moment(seconds(here)), moment(stripe));
    }
    found.check("pause", text(&row["pause_collection"]), stripe.pause.as_deref());
    found.check("cancel_at_period_end", row["cancel_at_period_end"].as_bool(), Some(stripe.cancel_at_period_end));
    let none = Vec::new();
    let items = row["items"].as_array().unwrap_or(&none).iter();
    let mut here: Vec<(Option<&str>, Option<&str>, Option<i64>)> =
        items.map(|item| (text(&item["id"]), text(&item["price_id"]), item["quantity"].as_i64())).collect();
    let items = stripe.items.iter();
    let mut there: Vec<(Option<&str>, Option<&str>, Option<i64>)> =
        items.map(|item| (Some(item.id.as_str()), Some(item.price.as_str()), Some(item.quantity))).collect();
    here.sort_unstable();
    there.sort_unstable();
    found.check("items", here, there);
}
