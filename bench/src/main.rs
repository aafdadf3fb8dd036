//! `ingest`: sends signed subscription updates to a running server as fast as it takes them, or at a given rate, with as little
//! processor time of its own as can be. `scripts/bench` puts it beside pgbench.
//!
//! - [`events`]: the events, and the users they belong to
//! - [`plan`]: requests made and signed before the clock runs, and who sends which when
//! - [`http`]: one keep-alive connection
//! - [`load`]: all of them at once
//! - [`report`]: what came of it
//! - [`pgbench`]: the same row, as a script for pgbench
//! - [`stripe_fake`]: the other side: Stripe's API, with any number of subscriptions

mod events;
mod http;
mod load;
mod pgbench;
mod plan;
mod report;
mod stripe_fake;

use std::{
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use billing::signature::WebhookSecret;
use clap::{Args, Parser, Subcommand};

use crate::{
    events::Events,
    http::Target,
    plan::{Load, Plan},
};

/// Customers that `run`, `users` and `pgbench` agree on where nothing else is said.
const CUSTOMERS: u32 = 5000;

/// Load generator for Trueup's webhook intake.
#[derive(Debug, Parser)]
#[command(name = "ingest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send signed events; prints one line of JSON to stdout and one for people to stderr
    Run(Run),
    /// Print the SQL (PostgreSQL) that makes the users whom the events name
    Users {
        /// How many; as many as `run` has customers
        #[arg(long, default_value_t = CUSTOMERS)]
        count: u32,
    },
    /// Wait until an address answers 200
    Wait {
        /// Whom to ask: the server's `/readyz`
        #[arg(long)]
        url: Target,
        /// How long
        #[arg(long, default_value_t = 15.0)]
        seconds: f64,
    },
    /// Print the script with which pgbench inserts the same row; it wants `-D payload="$(ingest payload)"`
    Pgbench {
        /// Over how many customers the rows are spread
        #[arg(long, default_value_t = CUSTOMERS)]
        customers: u32,
    },
    /// Print one event's body
    Payload,
    /// Serve as much of Stripe's API as a reconciliation reads, until killed; prints its address
    StripeFake {
        /// How many there are, of one user each, as `users` makes them
        #[arg(long)]
        subscriptions: u32,
        /// Of these, so many with another quantity
        #[arg(long, default_value_t = 0)]
        changed: u32,
        /// From a request to its answer, in milliseconds
        #[arg(long, default_value_t = 40)]
        latency: u64,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Where the webhooks go
    #[arg(long, default_value = "http://127.0.0.1:8000/api/v1/stripe/webhook")]
    url: Target,
    /// The endpoint's signing secret
    #[arg(long, env = "STRIPE_WEBHOOK_SECRET", hide_env_values = true)]
    secret: String,
    /// Keep-alive connections
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Requests to prepare, some 5 KB of memory each; the run ends with the last
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,
    /// Ends the run after this many seconds, even with requests left; not over 240, after which signatures run out
    #[arg(long)]
    duration: Option<f64>,
    /// Requests per second in an open loop, where latency counts from when a request was due; otherwise every connection
    /// sends the next as soon as it has an answer
    #[arg(long)]
    rate: Option<f64>,
    /// How many of 100 requests repeat an earlier one
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    duplicates: u32,
    /// Over how many customers, each with one subscription, the events are spread
    #[arg(long, default_value_t = CUSTOMERS, value_parser = clap::value_parser!(u32).range(1..))]
    customers: u32,
    /// Every connection sends one request, all of them at the same moment: as many `--events` as `--connections`
    #[arg(long, conflicts_with_all = ["duration", "rate"])]
    at_once: bool,
    /// Every event is of the same customer, one for each second until now: for a fresh database, where nothing newer is stored
    #[arg(long)]
    hot: bool,
    /// The period stays as it is, so that no event changes what its user may do; otherwise every event does
    #[arg(long)]
    steady: bool,
}

fn main() -> Result<()> {
    // One thread is enough for many times what a server on the same machine takes, and leaves it the other processors.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Cli::parse().command {
        Command::Run(options) => run(&runtime, &options),
        Command::Users { count } => print(&events::users_sql(count)),
        Command::Wait { url, seconds } => {
            let wait = Duration::try_from_secs_f64(seconds).context("--seconds")?;
            runtime.block_on(http::wait(&url, wait))
        }
        Command::Pgbench { customers } => print(&pgbench::script(customers)),
        Command::Payload => print(&events::sample(now()?)),
        Command::StripeFake { subscriptions, changed, latency } => {
            let latency = Duration::from_millis(latency);
            runtime.block_on(stripe_fake::serve(stripe_fake::World { subscriptions, changed, latency }))
        }
    }
}

fn run(runtime: &tokio::runtime::Runtime, options: &Run) -> Result<()> {
    let duration = options.duration.map(Duration::try_from_secs_f64).transpose().context("--duration")?;
    ensure!(duration.unwrap_or_default() <= Duration::from_mins(4), "--duration: at most 240 seconds");
    ensure!(options.rate.is_none_or(|rate| rate.is_finite() && rate > 0.0), "--rate: more than nothing");
    ensure!(!options.at_once || options.events == options.connections, "--at-once: as many --events as --connections");
    let secret = WebhookSecret::parse(&options.secret).context("--secret")?;
    let customers = if options.hot { 1 } else { options.customers };
    let now = now()?;
    let events = Events::new(now, customers, options.events, options.steady);
    let plan = Plan::prepare(
        &options.url,
        &secret,
        &events,
        Load { requests: options.events, duplicates: options.duplicates, rate: options.rate, duration },
        now,
    );
    let report = runtime.block_on(load::run(&options.url, plan, options.connections, options.at_once))?;
    writeln!(std::io::stderr().lock(), "{report}")?;
    print(&report.to_json().to_string())
}

/// Now, in seconds since 1970, by this machine's clock.
fn now() -> Result<Duration> {
    SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")
}

fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("stdout")
}
