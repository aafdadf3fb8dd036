//! `siege`: a bad neighbour for `scripts/proof.d/flood`. It floods a server with wrongly signed bodies, holds connections as slow clients do, or
//! opens as many idle ones as it can; and tells, as one line of JSON, how it fared.

mod flood;
mod hold;

use std::{io::Write, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Load that a server must not be troubled by.
#[derive(Debug, Parser)]
#[command(name = "siege", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send wrongly signed bodies as fast as they are refused
    Flood {
        /// `host:port`
        #[arg(long)]
        address: String,
        /// At once
        #[arg(long, default_value_t = 64)]
        connections: u32,
        /// Bytes of each body
        #[arg(long, default_value_t = 4600)]
        bytes: usize,
        /// For how long
        #[arg(long, default_value_t = 8)]
        seconds: u64,
    },
    /// Keep so many connections busy with heads and bodies that never end, a byte a second; each that is cut is opened anew
    Slow {
        /// `host:port`
        #[arg(long)]
        address: String,
        /// At once
        #[arg(long, default_value_t = 500)]
        connections: u32,
        /// For how long
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// Open idle connections and hold them; those that are cut stay so
    Idle {
        /// `host:port`
        #[arg(long)]
        address: String,
        /// How many
        #[arg(long)]
        connections: u32,
        /// For how long, once all are open
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        match Cli::parse().command {
            Command::Flood { address, connections, bytes, seconds } => {
                flood::flood(&address, connections, bytes, Duration::from_secs(seconds)).await
            }
            Command::Slow { address, connections, seconds } => {
                hold::slow(&address, connections, Duration::from_secs(seconds)).await
            }
            Command::Idle { address, connections, seconds } => {
                hold::idle(&address, connections, Duration::from_secs(seconds)).await
            }
        }
    })?;
    writeln!(std::io::stdout(), "{report}")?;
    Ok(())
}
