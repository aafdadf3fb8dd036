//! `trueup users …`, directly on the database.

use std::process::ExitCode;

use anyhow::{Result, bail};
use billing::users::{self, TimelineEntry, UserView};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;
use entity::ids::{CustomerId, UserId};
use serde_json::{Value, json};

use super::{
    Usage, database,
    output::{self, Table, moment, or_dash},
};
use crate::config::Config;

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
}

/// `trueup users …`
pub(super) async fn run(users: Users, config: &Config) -> Result<ExitCode> {
    let Users::Show { who, limit, json } = users;
    let (catalog, policy, now) = (&config.catalog, &config.policy, Utc::now());
    let db = database::open_migrated(config).await?;
    let who = who.trim();
    let found = if let Ok(id) = who.parse::<UserId>() {
        users::get(&db, catalog, policy, id, now).await?
    } else if who.contains('@') {
        users::by_email(&db, catalog, policy, who, now).await?
    } else {
        let customer = CustomerId::parse(who)
            .map_err(|error| Usage(format!("`{who}` is no user id, e-mail address or customer ({error})")))?;
        users::by_customer(&db, catalog, policy, &customer, now).await?
    };
    let Some(user) = found else {
        bail!("no user {who}; the host makes users by PUT /api/v1/users/{{id}}, `trueup trigger` by --email");
    };
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
