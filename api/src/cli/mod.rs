//! `trueup …`: what a person or a script asks for.
//!
//! Exit codes: 0 done, 1 it failed, 2 it was asked wrongly or the configuration is wrong; or a dry run found drift.

mod check;
mod client;
mod database;
mod demo;
#[cfg(test)]
mod deployed;
mod emails;
mod jobs;
mod output;
mod own_server;
mod reconcile;
mod release;
mod schema;
mod serve;
mod simulate;
mod simulate_report;
mod trigger;
mod usage;
mod users;
mod watch;
mod webhooks;

use std::{io, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{
    config::{Config, ConfigErrors},
    http, telemetry,
};

/// Keeps your users' tiers, statuses and allowances true to Stripe.
#[derive(Debug, Parser)]
#[command(
    name = "trueup",
    version,
    propagate_version = true,
    max_term_width = 110,
    after_help = "Settings come from the environment and from ./trueup.toml (or the file that TRUEUP_CONFIG names); without any, \
                  development secrets are made and kept in ./data.\n\n\
                  Try it without a Stripe account:\n  \
                  trueup                                          # in one terminal\n  \
                  trueup trigger checkout.session.completed --email user@example.com --tier pro   # in another\n\n\
                  Exit codes: 0 done, 1 it failed, 2 it was asked wrongly or the configuration is wrong, or a dry run found drift."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Receive webhooks, apply them, answer your backend (the default)
    Serve(serve::Args),
    /// Change the database's schema, or look at it
    #[command(subcommand)]
    Migrate(database::Migrate),
    /// Look whether the database's schema is as it should be, and how its indexes are used
    #[command(subcommand)]
    Db(schema::Schema),
    /// Send signed sample events to a running server and show what they changed; needs no Stripe account
    Trigger(trigger::Args),
    /// Prove that a server ends true to Stripe: months of a simulated Stripe in minutes, with faults, then a comparison
    Simulate(simulate::Args),
    /// See it all live: a server and a simulated Stripe together, until Ctrl-C; needs no Stripe account
    Demo(demo::Args),
    /// Look at the inbox of webhooks, or try some again (works on the database)
    #[command(subcommand)]
    Webhooks(webhooks::Webhooks),
    /// Look at the jobs, run one now, pause or resume one (works on the database)
    #[command(subcommand)]
    Jobs(jobs::Jobs),
    /// Compare every subscription with Stripe and repair what differs (works on the database)
    Reconcile(reconcile::ReconcileArgs),
    /// Fetch the events whose webhooks never arrived (works on the database)
    Recover(reconcile::RecoverArgs),
    /// Look at everything that must be right before going live, and tell how to mend what is not; exit code 1 where something does not work
    Check(check::Args),
    /// Look at the outbox of e-mails, or try some again (works on the database)
    #[command(subcommand)]
    Emails(emails::Emails),
    /// Look at a user and at why they are on their tier, ask Stripe anew, or give them another tier for a while (works on the database)
    #[command(subcommand)]
    Users(users::Users),
    /// Roll the usage windows that are over (works on the database)
    #[command(subcommand)]
    Usage(usage::UsageCommand),
    /// Ask a running server whether it is ready; the exit code tells
    Healthcheck {
        /// Where the server is; by default where `TRUEUP_LISTEN` says
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    /// Print the OpenAPI description of the HTTP interface
    Openapi,
}

/// Something was asked in a way that cannot be answered: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// The command line, for whoever describes it or checks what is written of it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime could be started")?;
    let command = cli.command.unwrap_or_else(|| Command::Serve(serve::Args::default()));
    let result = runtime.block_on(execute(command));
    // Whatever still runs was given its time.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

async fn execute(command: Command) -> Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(args).await,
        Command::Migrate(migrate) => database::migrate(migrate, &config()?).await,
        Command::Db(schema) => schema::run(schema, &config()?).await,
        Command::Trigger(args) => trigger::run(args).await,
        Command::Simulate(args) => simulate::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Webhooks(webhooks) => webhooks::run(webhooks, &config()?).await,
        Command::Users(users) => users::run(users, &config()?).await,
        Command::Jobs(jobs) => jobs::run(jobs, &config()?).await,
        Command::Reconcile(args) => Box::pin(reconcile::reconcile(args, &config()?)).await,
        Command::Recover(args) => reconcile::recover(args, &config()?).await,
        Command::Check(args) => check::run(args, config()).await,
        Command::Emails(emails) => emails::run(emails, &config()?).await,
        Command::Usage(usage) => usage::run(usage, &config()?).await,
        Command::Healthcheck { url } => client::healthcheck(url, &Config::load()?).await,
        Command::Openapi => {
            output::line(http::openapi_spec())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The configuration, for a short command.
fn config() -> Result<Config, ConfigErrors> {
    let config = Config::load()?;
    telemetry::command(&config);
    Ok(config)
}

/// Tells what went wrong, cause by cause, and gives the exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    // Whoever read our output has seen enough.
    if error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
    {
        return ExitCode::SUCCESS;
    }
    let mut told = error.to_string();
    output::complain(format_args!("error: {told}"));
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // Some errors repeat their cause in their own text.
        if !told.contains(&text) {
            output::complain(format_args!("  because: {text}"));
            told = text;
        }
    }
    if error.is::<Usage>() || error.is::<ConfigErrors>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
