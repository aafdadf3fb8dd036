//! `trueup check`: what is misconfigured or does not work, and how to mend it.

use std::process::ExitCode;

use anyhow::Result;
use billing::{
    adoption,
    checkup::{self, Item, State},
    db::Db,
    endpoint::Expected,
};
use entity::enums::RunOutcome;
use scheduler::control::{self, JobState};
use serde_json::json;

use super::{
    database,
    output::{self, Table},
};
use crate::{config::Config, jobs, stripe};

/// `trueup check`; exit code 1 where something does not work.
pub(super) async fn run(as_json: bool, config: &Config) -> Result<ExitCode> {
    let mut items = configuration(config);
    match database::connect(config).await {
        Ok(db) => items.extend(with_database(&db, config).await),
        Err(error) => items.push(Item::bad("database", told(&error), "start it, or correct DATABASE_URL")),
    }
    let bad = items.iter().any(|item| item.state == State::Bad);
    if as_json {
        output::json(&json!({ "ok": !bad, "items": items }))?;
    } else {
        print(&items)?;
    }
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What went wrong, with its causes, in one line.
fn told(error: &anyhow::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

/// What the configuration alone tells. A mistake in it ends every command before this, with all its mistakes at once.
fn configuration(config: &Config) -> Vec<Item> {
    const AREA: &str = "configuration";
    let mut items: Vec<Item> = config
        .warnings
        .iter()
        .map(|warning| {
            let (what, remedy) = warning.rsplit_once("; ").unwrap_or((warning, "look at it"));
            Item::warn(AREA, what, remedy)
        })
        .collect();
    if items.is_empty() {
        items.push(Item::ok(AREA, "read, and nothing wrong with it"));
    }
    if config.development {
        let remedy = "for anything but trying out, set STRIPE_WEBHOOK_SECRET, TRUEUP_API_TOKEN and TRUEUP_ADMIN_TOKEN";
        items.push(Item::warn(AREA, "development secrets are in use", remedy));
    }
    items.push(match &config.public_url {
        Some(url) => Item::ok(AREA, format!("Stripe reaches this server at {url}")),
        None => Item::warn(
            AREA,
            "TRUEUP_PUBLIC_URL is not set, so that our endpoint at Stripe is recognised by its path only",
            "set it to the address at which Stripe reaches this server, like https://billing.example.com",
        ),
    });
    items.push(if config.mail.is_some() {
        Item::ok("e-mail", "SMTP_URL is set")
    } else {
        Item::ok("e-mail", "SMTP_URL is not set: no e-mails are sent")
    });
    items
}

async fn with_database(db: &Db, config: &Config) -> Vec<Item> {
    const AREA: &str = "database";
    let mut items = vec![Item::ok(AREA, format!("{} answers", config.database_shown()))];
    match migration::pending(db.reader()).await {
        Ok(0) => items.push(Item::ok(AREA, "the schema is that of this version")),
        Ok(n) => {
            items.push(Item::bad(AREA, format!("{n} migrations are pending"), "run `trueup migrate up`"));
            return items;
        }
        Err(error) => {
            items.push(Item::bad(
                AREA,
                format!("the state of the migrations is not known: {error}"),
                "look at the database",
            ));
            return items;
        }
    }
    let stripe = match stripe::client(config, None) {
        Ok(stripe) => stripe,
        Err(error) => {
            items.push(Item::bad("stripe", told(&error.into()), "correct STRIPE_SECRET_KEY and STRIPE_API_BASE"));
            None
        }
    };
    match checkup::stored(db, &config.catalog, stripe.is_some()).await {
        Ok(found) => items.extend(found),
        Err(error) => items.push(Item::bad(AREA, format!("it could not be asked: {error}"), "look at the database")),
    }
    match adoption::look(db, &config.catalog).await {
        Ok(found) => items.extend(found),
        Err(error) => items.push(Item::bad(AREA, format!("it could not be asked: {error}"), "look at the database")),
    }
    match control::list(db, &jobs::registry(config)).await {
        Ok(states) => items.extend(of_jobs(&states)),
        Err(error) => items.push(Item::bad(AREA, format!("it could not be asked: {error}"), "look at the database")),
    }
    match stripe {
        Some(stripe) => {
            let expected = Expected { public_url: config.public_url.clone(), livemode: config.intake_rules.livemode };
            match checkup::stripe(db, &*stripe, &config.catalog, &expected).await {
                Ok(found) => items.extend(found),
                Err(error) => items.push(Item::bad(AREA, format!("it could not be asked: {error}"), "look at the database")),
            }
        }
        None if config.stripe_secret_key.is_none() => items.push(Item::warn(
            "stripe",
            "STRIPE_SECRET_KEY is not set: webhooks alone are believed, and nothing lost is ever found",
            "set it to a restricted key that may read subscriptions, customers, checkout sessions, events and webhook endpoints",
        )),
        None => {}
    }
    items
}

/// Which jobs are not well: by their last run, or since nobody lets them run.
fn of_jobs(states: &[JobState]) -> Vec<Item> {
    const AREA: &str = "jobs";
    let mut items: Vec<Item> = Vec::new();
    for JobState { spec, paused_at, last_run, .. } in states {
        let name = spec.name;
        if paused_at.is_some() {
            items.push(Item::warn(AREA, format!("{name} is paused"), format!("trueup jobs resume {name}")));
        }
        let outcome = last_run.as_ref().and_then(|run| run.outcome);
        if let Some(outcome @ (RunOutcome::Failed | RunOutcome::Refused | RunOutcome::TimedOut)) = outcome {
            let what = format!("the last run of {name} ended {outcome}");
            items.push(Item::warn(AREA, what, format!("trueup jobs history {name} tells why")));
        }
    }
    if items.is_empty() {
        items.push(Item::ok(AREA, "none is paused, and none failed last"));
    }
    items
}

fn print(items: &[Item]) -> Result<()> {
    let mut table = Table::new(["", "", "", ""]);
    for Item { area, state, what, remedy } in items {
        let mark = match state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Bad => "BAD",
        };
        table.row([mark.to_owned(), (*area).to_owned(), what.clone(), String::new()]);
        if let Some(remedy) = remedy {
            table.row([String::new(), String::new(), format!("→ {remedy}"), String::new()]);
        }
    }
    table.print()?;
    let count = |state| items.iter().filter(|item| item.state == state).count();
    output::line(format_args!(
        "{} ok, {} to look at, {} bad",
        count(State::Ok),
        count(State::Warn),
        count(State::Bad)
    ))?;
    Ok(())
}
