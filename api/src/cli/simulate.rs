//! `trueup simulate`: months of a simulated Stripe against a real server, and what came of it.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use simulator::{
    ApiFaults, ApiVersion, Faults, Plan, Progress, Run, RunOptions, Share, Stripe, Target, World, WorldOptions, replay,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    Usage, output,
    own_server::{Commands, OwnServer, Wanted, stop_on_signal},
    simulate_report::{Bar, print, print_replayed},
};
use crate::{
    config::{Config, development},
    telemetry,
};

/// Seconds of a day.
const DAY: i64 = 86_400;
/// The API key of the simulated Stripe.
pub(super) const KEY: &str = "sk_test_simulated";

/// Options of `simulate`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct Args {
    /// How many people there are
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    customers: u32,
    /// How many days pass; they end now
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Everything that is left to chance follows from it (default: another one each time)
    #[arg(long)]
    seed: Option<u64>,
    /// Share of the events that never arrive
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    drop: Share,
    /// Share of the events that are delivered twice
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    duplicate: Share,
    /// Share of the events that later ones overtake
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    reorder: Share,
    /// Share of the events that come hours or days late
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    delay: Share,
    /// Share of the changes that are told under two event ids
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    twins: Share,
    /// Share of the deliveries that somebody without the secret sends as well, with other content
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    forged: Share,
    /// Share of the quick changes of one subscription that fall into one second
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    bursts: Share,
    /// Roll the signing secret over to a second one half-way
    #[arg(long)]
    rotate: bool,
    /// Share of the API requests that are answered 500
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    api_errors: Share,
    /// Share of the API requests that are answered 429
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    api_limits: Share,
    /// Share of the API requests that are never answered
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    api_hangs: Share,
    /// The API version in which events are written
    #[arg(long, value_name = "VERSION", default_value = "2026-10-28.endive")]
    api_version: ApiVersion,
    /// Days that pass in a second, at most (default: as fast as the server acknowledges)
    #[arg(long, value_name = "DAYS")]
    speed: Option<f64>,
    /// Run against this server, configured as here; without it a server is started on a temporary SQLite
    #[arg(long, value_name = "URL")]
    against: Option<String>,
    /// The database of the server that is started, instead of a temporary SQLite; it must be empty
    #[arg(long, value_name = "URL", conflicts_with = "against")]
    database: Option<String>,
    /// Give the server that is started no API key: webhooks alone
    #[arg(long, conflicts_with = "against")]
    no_key: bool,
    /// Where the simulated Stripe listens; a server to run against needs it as `STRIPE_API_BASE`, with the key `sk_test_simulated`
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    api_listen: String,
    /// Do not ask the server to recover and to reconcile
    #[arg(long)]
    no_repair: bool,
    /// Deliveries at once
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    at_once: u32,
    /// Seconds that the server may take to answer a delivery; then it is tried again
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// Seconds without a change after which a difference counts as left
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    patience: u64,
    /// Write users, deliveries and the truth to a file
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Send a record again instead, and compare
    #[arg(long, value_name = "FILE", conflicts_with = "record")]
    replay: Option<PathBuf>,
    /// Live on in real time until Ctrl-C
    #[arg(long)]
    keep_running: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// `trueup simulate …`
pub(super) async fn run(args: Args) -> Result<ExitCode> {
    let stop = stop_on_signal();
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let (target, plans) = match &args.against {
        Some(url) => {
            let (target, plans) = given(url, args.rotate)?;
            (Some(target), plans)
        }
        None => (None, Plan::defaults()),
    };
    let listener = TcpListener::bind(&args.api_listen)
        .await
        .with_context(|| format!("the simulated Stripe cannot listen on {}", args.api_listen))?;
    let now = chrono::Utc::now().timestamp();
    let days = i64::from(args.days);
    let stripe = Stripe::new(
        World::new(&WorldOptions {
            seed,
            customers: args.customers,
            start: now - days * DAY,
            arrivals: days * DAY * 2 / 3,
            version: args.api_version,
            plans,
            bursts: args.bursts,
        }),
        KEY,
        seed,
    );
    let served = stripe.serve(listener, stop.clone()).context("the simulated Stripe cannot serve")?;
    stripe.set_faults(ApiFaults {
        limited: args.api_limits,
        broken: args.api_errors,
        hanging: args.api_hangs,
        most_per_second: Some(100),
    });
    let url = served.url();
    let (own, target) = if let Some(target) = target {
        (None, target)
    } else {
        let own = OwnServer::start(Wanted {
            database: args.database.as_deref(),
            stripe: (!args.no_key).then_some((url.as_str(), KEY)),
            secrets: if args.rotate { 2 } else { 1 },
            // What never comes is not waited for as long as from the real one.
            settings: if args.api_hangs.is_none() { "" } else { "[stripe]\ntimeout = \"2s\"\n" },
            ..Wanted::default()
        })
        .await?;
        let target = own.target.clone();
        (Some(own), target)
    };
    let commands = own.as_ref().map_or_else(Commands::as_here, |own| own.commands.clone());
    let result = tokio::select! {
        result = execute(&args, seed, &stripe, target, &commands, &stop) => result,
        () = stop.cancelled(), if !args.keep_running => Ok(ExitCode::from(130)),
    };
    if let Some(own) = own {
        own.stop().await;
    }
    stop.cancel();
    result
}

/// A server that runs already, with its secrets and plans as they are configured here.
fn given(url: &str, rotate: bool) -> Result<(Target, Vec<Plan>)> {
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
        bail!(Usage("this configuration serves live mode, and the simulation is of the test mode".to_owned()));
    }
    if config.policy.past_due_grace.is_some() || !config.policy.link_by_email {
        bail!(Usage("`simulate` knows no policy but the default: unset [policy] for the run".to_owned()));
    }
    let (Some(api), Some(admin)) = (&config.api_token, &config.admin_token) else {
        bail!(Usage("TRUEUP_API_TOKEN and TRUEUP_ADMIN_TOKEN must be set, as for the server".to_owned()));
    };
    let secrets = config.webhook_secrets.iter().map(|secret| secret.expose().to_owned());
    let webhook_secrets: Vec<String> = secrets.take(if rotate { 2 } else { 1 }).collect();
    if rotate && webhook_secrets.len() < 2 {
        bail!(Usage("--rotate: STRIPE_WEBHOOK_SECRET must hold two secrets, here and for the server".to_owned()));
    }
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let plans = config.catalog.plans().iter().map(|plan| Plan {
        tier: plan.tier.clone(),
        limit: plan.monthly_limit.map(i64::from),
        prices: plan.prices.clone(),
        lookup_keys: plan.lookup_keys.clone(),
        products: plan.products.clone(),
    });
    let target = Target {
        url: url.trim_end_matches('/').to_owned(),
        api_token: api.expose().to_owned(),
        admin_token: admin.expose().to_owned(),
        webhook_secrets,
    };
    Ok((target, plans.collect()))
}

async fn execute(
    args: &Args,
    seed: u64,
    stripe: &Stripe,
    target: Target,
    commands: &Commands,
    stop: &CancellationToken,
) -> Result<ExitCode> {
    let bar = Bar::new(!args.json);
    let patience = Duration::from_secs(args.patience);
    if let Some(record) = &args.replay {
        let replayed = replay(record, target, patience, &|done, total| bar.count(done, total)).await?;
        bar.end();
        if args.json {
            output::json(&replayed)?;
        } else {
            print_replayed(&replayed)?;
        }
        return Ok(if replayed.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let url = target.url.clone();
    let options = RunOptions {
        seed,
        faults: Faults {
            drop: args.drop,
            duplicate: args.duplicate,
            reorder: args.reorder,
            delay: args.delay,
            twins: args.twins,
            forged: args.forged,
        },
        speed: args.speed.map(|days| days * 86_400.0),
        at_once: usize::try_from(args.at_once).unwrap_or(32),
        timeout: Duration::from_secs(args.timeout),
        give_up_after: Duration::from_mins(2),
        patience,
        repair: !args.no_repair,
        record: args.record.clone(),
    };
    if !args.json {
        output::line(format_args!(
            "seed {seed}: {} people over {} days, events of {}, against {url}",
            args.customers, args.days, args.api_version
        ))?;
    }
    let tell = |progress: &Progress| bar.tell(progress);
    let mut run = Run::new(stripe, target, options, &tell)?;
    let recovering = commands.can_recover(args.no_key);
    let report = async {
        run.past().await?;
        run.finish(recovering.as_deref()).await
    };
    let report = tokio::select! {
        report = report => report?,
        () = stop.cancelled() => return Ok(ExitCode::from(130)),
    };
    bar.end();
    if args.json {
        let mut value = serde_json::to_value(&report)?;
        value["seed"] = json!(seed);
        output::json(&value)?;
    } else {
        print(&report)?;
    }
    if args.keep_running {
        if !args.json {
            output::line(format_args!("the world lives on against {url}; Ctrl-C ends it"))?;
        }
        let bar = Bar::new(!args.json);
        run.live(i64::from(args.customers).saturating_mul(2).max(10), stop).await?;
        bar.end();
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if report.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
