//! `trueup users …`, directly on the database.

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result, bail};
use billing::{
    db::Db,
    refresh::{Refresher, UserRefreshed},
    users::{self, TimelineEntry, UserView},
};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;
use entity::{
    enums::ChangeSource,
    ids::{CustomerId, UserId},
};
use serde_json::{Value, json};

use super::{
    Usage, database,
    output::{self, Table, moment, or_dash},
};
use crate::{config::Config, stripe};

/// What can be asked of users.
#[derive(Debug, Subcommand)]
pub(super) enum Users {
    /// Show what a user may do, and how it came to that
    Show {
        /// The user's id, e-mail address, or customer at Stripe (cus_…)
        who: String,
        /// At most so many entries of the timeline
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=1000))]
        limit: u64,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Ask Stripe how a user's subscriptions are, and take that in
    Refresh {
        /// The user's id, e-mail address, or customer at Stripe (cus_…)
        who: String,
        /// For programs
        #[arg(long)]
        json: bool,
    },
}

/// `trueup users …`
pub(super) async fn run(users: Users, config: &Config) -> Result<ExitCode> {
    match users {
        Users::Show { who, limit, json } => show(&who, limit, json, config).await,
        Users::Refresh { who, json } => refresh(&who, json, config).await,
    }
}

/// The user whom `who` names.
pub(super) async fn find(db: &Db, config: &Config, who: &str) -> Result<UserView> {
    let (catalog, policy, now) = (&config.catalog, &config.policy, Utc::now());
    let who = who.trim();
    let found = if let Ok(id) = who.parse::<UserId>() {
        users::get(db, catalog, policy, id, now).await?
    } else if who.contains('@') {
        users::by_email(db, catalog, policy, who, now).await?
    } else {
        let customer = CustomerId::parse(who)
            .map_err(|error| Usage(format!("`{who}` is no user id, e-mail address or customer ({error})")))?;
        users::by_customer(db, catalog, policy, &customer, now).await?
    };
    let Some(user) = found else {
        bail!("no user {who}; the host makes users by PUT /api/v1/users/{{id}}, `trueup trigger` by --email");
    };
    Ok(user)
}

async fn show(who: &str, limit: u64, json: bool, config: &Config) -> Result<ExitCode> {
    let db = database::open_migrated(config).await?;
    let user = find(&db, config, who).await?;
    let timeline = users::timeline(&db, user.id, limit, None).await?;
    if json {
        let mut value = as_json(&user);
        value["timeline"] = serde_json::to_value(&timeline)?;
        output::json(&value)?;
    } else {
        print(&user, &timeline)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn refresh(who: &str, json: bool, config: &Config) -> Result<ExitCode> {
    let Some(stripe) = stripe::client(config, None)? else {
        let text = "there is no API key of Stripe to ask with; set STRIPE_SECRET_KEY to a secret or restricted key (sk_…, rk_…)";
        return Err(Usage(text.to_owned()).into());
    };
    let db = database::open_migrated(config).await?;
    let user = find(&db, config, who).await?;
    let (catalog, policy) = (Arc::new(config.catalog.clone()), Arc::new(config.policy.clone()));
    let refresher = Refresher::new(db.clone(), catalog, policy, stripe);
    let refreshing = refresher.refresh_user(user.id, ChangeSource::Operator);
    let done = refreshing.await.context("the user could not be refreshed; nothing was changed")?;
    let UserRefreshed { subscriptions, missing, changes } = &done;
    let change = changes.iter().find(|change| change.user == user.id);
    if json {
        let now = find(&db, config, &user.id.to_string()).await?;
        let mut value = json!({
            "user": as_json(&now),
            "subscriptions": subscriptions,
            "missing": missing,
            "before": null,
            "after": null,
            "reason": null,
        });
        if let Some(change) = change {
            value["before"] = serde_json::to_value(&change.before)?;
            value["after"] = serde_json::to_value(&change.after)?;
            value["reason"] = json!(change.reason);
        }
        output::json(&value)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(format_args!("Stripe shows {} subscription(s) of {}", subscriptions.len(), user.id))?;
    for id in missing {
        output::line(format_args!(
            "Stripe knows no {id}, which is stored here; nothing is concluded from that: is the key of the right account?"
        ))?;
    }
    match change {
        None => output::line("nothing has changed")?,
        Some(change) => {
            let side = |of: &_| -> Result<String> { Ok(in_short(&serde_json::to_value(of)?)) };
            let (before, after) = (side(&change.before)?, side(&change.after)?);
            output::line(format_args!("{before} -> {after}: {}", change.reason))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(user: &UserView) -> Value {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let entitlement = &user.projection.entitlement;
    json!({
        "id": user.id,
        "email": user.email,
        "full_name": user.full_name,
        "subscription": {
            "tier": entitlement.tier,
            "status": entitlement.status,
            "access": entitlement.access,
            "stripe_customer_id": user.projection.customer,
            "stripe_subscription_id": user.projection.subscription,
            "current_period_end": entitlement.current_period_end.map(time),
            "cancel_at": entitlement.cancel_at.map(time),
        },
        "usage": {
            "used": user.used,
            "limit": entitlement.limit,
            "remaining": user.remaining(),
            "period_start": time(user.window.start),
            "resets_at": time(user.window.end),
        },
    })
}

fn print(user: &UserView, timeline: &[TimelineEntry]) -> Result<()> {
    let entitlement = &user.projection.entitlement;
    let limit = entitlement.limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let mut table = Table::new(["", ""]);
    for (name, value) in [
        ("user", user.id.to_string()),
        ("e-mail", user.email.clone()),
        ("name", or_dash(user.full_name.as_ref())),
        ("tier", entitlement.tier.clone()),
        ("status", entitlement.status.clone()),
        ("access", if entitlement.access { "yes" } else { "no" }.to_owned()),
        ("customer", or_dash(user.projection.customer.as_ref())),
        ("subscription", or_dash(user.projection.subscription.as_ref())),
        ("period ends", or_dash(entitlement.current_period_end.map(moment))),
        ("access ends", or_dash(entitlement.cancel_at.map(moment))),
        ("used", format!("{} of {limit}", user.used)),
        ("resets", moment(user.window.end)),
    ] {
        table.row([name.to_owned(), value]);
    }
    table.print()?;
    if timeline.is_empty() {
        output::line("\nnothing has changed for this user yet")?;
        return Ok(());
    }
    output::line("\nwhy:")?;
    let mut table = Table::new(["when", "before", "after", "by", "reason"]);
    for entry in timeline {
        table.row([
            moment(entry.changed_at),
            in_short(&entry.before),
            in_short(&entry.after),
            entry.event_id.clone().unwrap_or_else(|| entry.source.to_string()),
            entry.reason.clone(),
        ]);
    }
    table.print()?;
    Ok(())
}

/// Tier and status of an entry of the timeline.
fn in_short(side: &Value) -> String {
    let text = |key| side.get(key).and_then(Value::as_str);
    match (text("tier"), text("status")) {
        (Some(tier), Some(status)) => format!("{tier} ({status})"),
        _ => or_dash(text("tier")),
    }
}
