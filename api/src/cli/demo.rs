//! `trueup demo`: everything at once, alive, without an account.

use std::{fmt::Write as _, io::IsTerminal as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use simulator::{ApiFaults, ApiVersion, Faults, Plan, Progress, Run, RunOptions, Share, Stripe, World, WorldOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    output,
    own_server::{OwnServer, Wanted, stop_on_signal},
    simulate::KEY,
    simulate_report::Bar,
};

/// Seconds of a day.
const DAY: i64 = 86_400;

/// Every job every minute, so that a newcomer, and whoever looks at dashboards, need not wait for hours.
const JOBS: [&str; 8] = [
    "retry_pending_webhooks",
    "reconcile_subscriptions",
    "recover_missed_events",
    "reset_monthly_usage",
    "expire_entitlements",
    "check_webhook_endpoint",
    "send_emails",
    "prune_webhooks",
];

/// The settings of the demo's server.
fn settings() -> String {
    JOBS.iter().fold(String::new(), |mut text, name| {
        let _ = writeln!(text, "[jobs.{name}]\nschedule = \"0 * * * * *\"\njitter = \"1s\"\n");
        text
    })
}

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the server listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: String,
    /// Where the simulated Stripe listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    api_listen: String,
    /// How many people there are
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    customers: u32,
    /// How many days have passed when the demo begins
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=365))]
    days: u32,
    /// Keep the database in this folder; without it everything is gone in the end
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Everything that is left to chance follows from it (default: another one each time)
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds between two acts of anybody
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(i64).range(1..=3600))]
    pace: i64,
}

/// `trueup demo …`
pub(super) async fn run(args: Args) -> Result<ExitCode> {
    let stop = stop_on_signal();
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let listener = TcpListener::bind(&args.api_listen)
        .await
        .with_context(|| format!("the simulated Stripe cannot listen on {}", args.api_listen))?;
    let days = i64::from(args.days);
    let stripe = Stripe::new(
        World::new(&WorldOptions {
            seed,
            customers: args.customers,
            start: chrono::Utc::now().timestamp() - days * DAY,
            arrivals: days * DAY * 2 / 3,
            version: ApiVersion::Endive,
            plans: Plan::defaults(),
            bursts: Share::percent(2),
        }),
        KEY,
        seed,
    );
    let fake = stripe.serve(listener, stop.clone()).context("the simulated Stripe cannot serve")?;
    stripe.set_faults(ApiFaults { most_per_second: Some(100), ..ApiFaults::default() });
    let api = fake.url();
    let settings = settings();
    let server = OwnServer::start(Wanted {
        data: args.data.as_deref(),
        listen: Some(&args.listen),
        stripe: Some((&api, KEY)),
        secrets: 1,
        settings: &settings,
        ..Wanted::default()
    })
    .await?;
    let result = live(&args, seed, &stripe, &server, &api, &stop).await;
    server.stop().await;
    result
}

async fn live(
    args: &Args,
    seed: u64,
    stripe: &Stripe,
    server: &OwnServer,
    api: &str,
    stop: &CancellationToken,
) -> Result<ExitCode> {
    output::line(format_args!("{} people live through {} days (seed {seed}) …", args.customers, args.days))?;
    let bar = Bar::new(true);
    let tell = |progress: &Progress| bar.tell(progress);
    let options = RunOptions {
        seed,
        faults: Faults {
            duplicate: Share::percent(5),
            reorder: Share::percent(10),
            twins: Share::percent(1),
            ..Faults::default()
        },
        speed: None,
        at_once: 16,
        timeout: Duration::from_secs(30),
        give_up_after: Duration::from_mins(2),
        patience: Duration::from_secs(3),
        repair: true,
        record: None,
    };
    let mut run = Run::new(stripe, server.target.clone(), options, &tell)?;
    let past = async {
        run.past().await?;
        run.finish(None).await
    };
    let report = tokio::select! {
        report = past => report?,
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    bar.end();
    output::line(format_args!(
        "{} events, {} delivered, {} applied; {} users compared with the simulated Stripe, {} differences",
        report.events,
        report.delivered,
        report.applied,
        report.users,
        report.differences.len()
    ))?;
    let someone = stripe.world().users().first().map(|user| user.email.clone()).unwrap_or_default();
    output::line(welcome(server, api, &someone, std::io::stdout().is_terminal()))?;
    // Something goes wrong all the time, so that there is something to see: what is lost is recovered or repaired within minutes.
    run.set_faults(Faults {
        drop: Share::percent(3),
        duplicate: Share::percent(5),
        twins: Share::percent(1),
        forged: Share::percent(2),
        ..Faults::default()
    });
    stripe.set_faults(ApiFaults {
        limited: Share::percent(2),
        broken: Share::percent(1),
        most_per_second: Some(100),
        ..ApiFaults::default()
    });
    run.live(i64::from(args.customers).saturating_mul(args.pace), stop).await?;
    output::line("stopped")?;
    Ok(ExitCode::SUCCESS)
}

/// Where to look.
fn welcome(server: &OwnServer, api: &str, someone: &str, terminal: bool) -> String {
    let (url, target) = (&server.target.url, &server.target);
    let mut text = format!(
        "Everything lives on now; somebody does something every few seconds. Ctrl-C ends it.\n  \
         documentation    {url}/docs\n  \
         metrics          {url}/metrics\n  \
         readiness        {url}/readyz\n  \
         simulated Stripe {api}/v1/subscriptions?status=all   (curl -u {KEY}:)\n  \
         the server's log {}",
        server.log.display()
    );
    if terminal {
        let (api_token, admin_token) = (&target.api_token, &target.admin_token);
        let _ = write!(
            text,
            "\nFrom another terminal:\n  \
             curl -H 'Authorization: Bearer {api_token}' '{url}/api/v1/users?email={someone}'\n  \
             curl -H 'Authorization: Bearer {admin_token}' '{url}/api/v1/admin/webhooks?limit=5'\n  \
             curl -H 'Authorization: Bearer {admin_token}' '{url}/api/v1/admin/subscriptions?limit=5'\n  \
             DATABASE_URL={} trueup users show {someone}",
            server.database
        );
    }
    text
}
