//! `trueup usage …`, directly on the database.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use billing::{
    progress::Progress,
    usage::{Meter, Reset, Watch},
};
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::{
    database,
    output::{self, Table},
};
use crate::config::Config;

/// What can be done with usage.
#[derive(Debug, Subcommand)]
pub(super) enum UsageCommand {
    /// Give every user whose window is over the next one, as the job `reset_monthly_usage` does; safe at any time, and beside it
    Reset {
        /// For programs
        #[arg(long)]
        json: bool,
    },
}

/// `trueup usage …`
pub(super) async fn run(usage: UsageCommand, config: &Config) -> Result<ExitCode> {
    let UsageCommand::Reset { json } = usage;
    let db = database::open_migrated(config).await?;
    let (progress, mut report, stop) = (Progress::default(), Reset::default(), CancellationToken::new());
    let meter = Meter::new(&db, &config.catalog, &config.policy);
    let ended = {
        let watch = Watch::default();
        // Boxed: its future is many kilobytes.
        let mut work = Box::pin(meter.reset(&stop, &progress, &watch, &mut report));
        let mut interrupted = Box::pin(tokio::signal::ctrl_c());
        let bar = (!json && io::stderr().is_terminal()).then(bar);
        let mut looks = tokio::time::interval(Duration::from_millis(100));
        let mut listening = true;
        loop {
            tokio::select! {
                ended = &mut work => break ended,
                // The batch under way is finished first.
                _ = &mut interrupted, if listening => {
                    listening = false;
                    stop.cancel();
                }
                _ = looks.tick(), if bar.is_some() => {
                    if let Some(bar) = &bar {
                        bar.set_length(progress.total().unwrap_or(0));
                        bar.set_position(progress.done());
                    }
                }
            }
        }
    };
    if json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    ended.context("usage windows could not all be rolled; those that were stay so, and running this again goes on")?;
    let whole = report.failed == 0 && !stop.is_cancelled();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} users, {per_sec}, {eta} left");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn print(report: &Reset) -> Result<()> {
    let mut table = Table::new(["", ""]);
    for (name, value) in [
        ("users rolled", report.users),
        ("windows opened", report.windows_opened),
        ("windows closed", report.windows_closed),
        ("ended by date", report.entitlements_ended),
        ("transactions", report.batches),
        ("largest", report.largest_batch),
        ("failed", report.failed),
    ] {
        table.row([name.to_owned(), value.to_string()]);
    }
    table.print()?;
    Ok(())
}
