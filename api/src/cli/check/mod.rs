//! `trueup check`: everything that must be right before going live, each with its state and what would mend it.
//!
//! Every part has its own time, and they are looked at side by side; the command ends however silent the world is.
//!
//! - `settings`: what the configuration alone tells
//! - `database`: reachable, schema, indexes, row-level security, what is stored, the jobs
//! - `server`: what a running server says of itself, and its metrics
//! - `sentry`: whether errors can be reported
//! - `disk`: whether there is room

mod database;
mod disk;
mod sentry;
mod server;
mod settings;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use billing::{
    checkup::{self, Asked, Item, State},
    endpoint::Expected,
};
use serde_json::json;
use tokio::time::timeout;

use super::output::{self, Table};
use crate::{
    config::{Config, ConfigErrors, parse_duration},
    stripe,
};

/// Options of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// For programs
    #[arg(long)]
    json: bool,
    /// Fail for warnings too
    #[arg(long)]
    strict: bool,
    /// Where the running server is; by default where `TRUEUP_LISTEN` says
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// How long all of it may take
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    within: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a duration from 1s to 10m, like 30s".to_owned();
    parse_duration(text).filter(|time| (1..=600).contains(&time.as_secs())).ok_or_else(wrong)
}

/// `trueup check`; exit code 1 where something does not work, 2 where the configuration is wrong.
pub(super) async fn run(args: Args, config: Result<Config, ConfigErrors>) -> Result<ExitCode> {
    let config = match config {
        Ok(config) => config,
        Err(errors) => {
            let items = settings::mistakes(&errors);
            tell(&items, args.json)?;
            return Ok(ExitCode::from(2));
        }
    };
    let mut items = settings::settings(&config);
    items.extend(Box::pin(outside(&config, &args)).await);
    tell(&items, args.json)?;
    let worst = items.iter().map(|item| item.state).max().unwrap_or(State::Ok);
    let fails = worst == State::Bad || (args.strict && worst == State::Warn);
    Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Everything that has to be asked, side by side.
async fn outside(config: &Config, args: &Args) -> Vec<Item> {
    let bounded = |area, part| bounded(args.within, area, part);
    let (stored, asked, running, errors, room) = tokio::join!(
        timeout(args.within, database::database(config)),
        timeout(args.within, at_stripe(config, args.within)),
        bounded("server", Box::pin(server::server(config, args.url.as_deref()))),
        bounded("sentry", Box::pin(sentry::sentry(config))),
        async { disk::disk(config) },
    );
    let (mut items, remembered) = stored.unwrap_or_else(|_| (vec![silent("database", args.within)], None));
    match asked {
        Ok(Ok(Asked { items: found, account, works })) => {
            if works {
                items.push(checkup::account(account.as_deref(), remembered.as_deref(), config.intake_rules.livemode));
            }
            items.extend(found);
        }
        Ok(Err(item)) => items.push(item),
        Err(_) => items.push(silent("stripe", args.within)),
    }
    items.extend(running);
    items.extend(errors);
    items.extend(room);
    items
}

type Part<'p> = std::pin::Pin<Box<dyn Future<Output = Vec<Item>> + Send + 'p>>;

async fn bounded(within: Duration, area: &'static str, part: Part<'_>) -> Vec<Item> {
    timeout(within, part).await.unwrap_or_else(|_| vec![silent(area, within)])
}

fn silent(area: &'static str, within: Duration) -> Item {
    let remedy = "look at the network between, or give it longer (--within)";
    Item::bad(area, format!("there was no answer within {} s", within.as_secs()), remedy)
}

/// What Stripe says, within the time: a client with fewer tries than a server's.
async fn at_stripe(config: &Config, within: Duration) -> Result<Asked, Item> {
    let mut config = config.clone();
    config.stripe.retries = config.stripe.retries.min(1);
    config.stripe.timeout = config.stripe.timeout.min(within / 3);
    config.stripe.connect_timeout = config.stripe.connect_timeout.min(config.stripe.timeout);
    config.stripe.live_deadline = within * 4 / 5;
    config.stripe.background_deadline = within * 4 / 5;
    match stripe::client(&config, None) {
        Ok(Some(stripe)) => {
            let expected = Expected { public_url: config.public_url.clone(), livemode: config.intake_rules.livemode };
            Ok(checkup::stripe(&*stripe, &config.catalog, &expected).await)
        }
        Ok(None) => Err(Item::warn(
            "stripe",
            "STRIPE_SECRET_KEY is not set: webhooks alone are believed, and nothing lost is ever found",
            "set it to a restricted key; docs/stripe-setup.md lists what it has to read",
        )),
        Err(error) => Err(Item::bad("stripe", told(&error.into()), "correct STRIPE_SECRET_KEY and STRIPE_API_BASE")),
    }
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

fn tell(items: &[Item], as_json: bool) -> Result<()> {
    let count = |state| items.iter().filter(|item| item.state == state).count();
    let (bad, warn) = (count(State::Bad), count(State::Warn));
    if as_json {
        return Ok(output::json(&json!({ "ok": bad == 0, "bad": bad, "warnings": warn, "items": items }))?);
    }
    let mut table = Table::new(["", "", ""]);
    for Item { area, state, what, remedy } in items {
        let mark = match state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Bad => "BAD",
        };
        table.row([mark.to_owned(), (*area).to_owned(), what.clone()]);
        if let Some(remedy) = remedy {
            table.row([String::new(), String::new(), format!("→ {remedy}")]);
        }
    }
    table.print()?;
    output::line(format_args!("{} ok, {warn} to look at, {bad} bad", count(State::Ok)))?;
    Ok(())
}
