//! `slots`: real processes on one database share a job that runs every second, and are killed in the middle of their runs. Every slot must
//! run exactly once, or show as interrupted and be caught up. `scripts/proof.d/slots` runs the long version.
//!
//! - [`worker`]: one process with an engine and the job
//! - [`prove`]: starts the workers, kills them, and looks at what is left
//! - [`verdict`]: what the history and the effects of the runs say

mod prove;
mod verdict;
mod worker;

use std::{io::Write, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

/// Proves that every slot of a job runs exactly once, whatever dies.
#[derive(Debug, Parser)]
#[command(name = "slots", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let two processes run a job every second, kill one of them in the middle of a run now and then, and judge
    Prove {
        #[command(flatten)]
        on: On,
        /// Slots to be run
        #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
        slots: u32,
        /// Processes to be killed meanwhile, one after the other
        #[arg(long, default_value_t = 1)]
        kills: u32,
    },
    /// One of these processes; ends when its standard input does
    Worker {
        #[command(flatten)]
        on: On,
        /// Its name in the history
        #[arg(long)]
        runner: String,
    },
}

#[derive(Debug, Clone, Args)]
struct On {
    /// An empty database of its own
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// Seconds a lease holds: as long rests the job when a process has died
    #[arg(long, default_value_t = 2.0)]
    lease: f64,
}

impl On {
    fn lease(&self) -> Result<Duration> {
        Duration::try_from_secs_f64(self.lease).context("--lease")
    }
}

fn main() -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match Cli::parse().command {
        Command::Worker { on, runner } => runtime.block_on(worker::run(&on, &runner)).map(|()| ExitCode::SUCCESS),
        Command::Prove { on, slots, kills } => {
            let verdict = runtime.block_on(prove::run(&on, slots, kills))?;
            writeln!(std::io::stdout().lock(), "{verdict}").context("stdout")?;
            Ok(if verdict.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
