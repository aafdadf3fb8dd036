//! Commands that change the schema of the database, and how a command opens the database.

use std::process::ExitCode;

use anyhow::{Result, bail};
use billing::db::{Blame, Db, DbOptions, blame};
use clap::Subcommand;

use super::{
    Usage,
    output::{self, Table},
};
use crate::{
    config::Config,
    serve::{out_of_reach, target},
};

/// What can be done with the schema.
#[derive(Debug, Subcommand)]
pub(super) enum Migrate {
    /// Apply what is pending (the server does so itself when it starts)
    Up {
        /// At most so many migrations
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        steps: Option<u32>,
        /// Only print the SQL that would be run
        #[arg(long)]
        dry_run: bool,
    },
    /// Take back the last migration; its tables are lost with all they hold
    Down {
        /// So many migrations
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        steps: u32,
        /// Every migration: nothing of Trueup is left in the database
        #[arg(long, conflicts_with = "steps")]
        all: bool,
        /// Yes, the data may be lost
        #[arg(long)]
        yes: bool,
    },
    /// List the migrations and whether they are applied; exit code 1 where one is pending
    Status,
}

/// `trueup migrate …`
pub(super) async fn migrate(migrate: Migrate, config: &Config) -> Result<ExitCode> {
    match migrate {
        Migrate::Up { steps, dry_run: true } => {
            let db = if config.database_file().is_some_and(|file| !file.exists()) {
                Db::connect("sqlite::memory:", &DbOptions { max_connections: 1, ..DbOptions::default() }).await?
            } else {
                connect(config).await?
            };
            let plan = migration::plan(target(&db), steps).await?;
            if plan.migrations.is_empty() {
                output::line(format_args!("-- nothing is pending ({})", config.database_shown()))?;
            } else {
                output::line(plan.to_string().trim_end())?;
            }
        }
        Migrate::Up { steps, dry_run: false } => {
            let db = connect(config).await?;
            let before = migration::pending(db.reader()).await?;
            migration::up(target(&db), steps).await?;
            let left = migration::pending(db.reader()).await?;
            // Another process may have migrated at the same time.
            let applied = before.saturating_sub(left);
            output::line(format_args!("{} applied, {} pending ({})", applied, left, config.database_shown()))?;
        }
        Migrate::Down { steps, all, yes } => {
            let db = open(config).await?;
            let states = migration::status(db.reader()).await?;
            let applied: Vec<&str> = states.iter().rev().filter(|s| s.applied).map(|s| s.name.as_str()).collect();
            let count = if all { applied.len() } else { applied.len().min(usize::try_from(steps)?) };
            if count == 0 {
                output::line("nothing is applied, so there is nothing to take back")?;
                return Ok(ExitCode::SUCCESS);
            }
            let names = applied[..count].join(", ");
            if !yes {
                bail!(Usage(format!(
                    "this would take back {names} in {}, and with it every row of their tables; add --yes if that is meant",
                    config.database_shown()
                )));
            }
            migration::down(target(&db), Some(u32::try_from(count)?)).await?;
            output::line(format_args!("took back {names}"))?;
        }
        Migrate::Status => {
            let db = open(config).await?;
            let states = migration::status(db.reader()).await?;
            let mut table = Table::new(["migration", "state"]);
            for state in &states {
                table.row([state.name.clone(), if state.applied { "applied" } else { "pending" }.to_owned()]);
            }
            table.print()?;
            let pending = states.iter().filter(|state| !state.applied).count();
            if pending > 0 {
                output::line(format_args!(
                    "{pending} pending; `trueup migrate up` applies them, with --dry-run it prints their SQL"
                ))?;
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Connects; an embedded database is made where there is none.
pub(super) async fn connect(config: &Config) -> Result<Db> {
    Db::connect(config.database_url.expose(), &config.database).await.map_err(|error| {
        let passing = blame(&error) == Blame::Surroundings && !config.is_sqlite();
        out_of_reach(config.database_shown(), passing, config.is_sqlite(), error).into()
    })
}

/// Connects to a database that is there.
pub(super) async fn open(config: &Config) -> Result<Db> {
    if let Some(file) = config.database_file().filter(|file| !file.exists()) {
        bail!(
            "there is no database {} yet; start the server once (`trueup serve`), run this in its folder, or set DATABASE_URL",
            file.display()
        );
    }
    connect(config).await
}

/// Connects to a database with the schema of this version.
pub(super) async fn open_migrated(config: &Config) -> Result<Db> {
    let db = open(config).await?;
    match migration::pending(db.reader()).await? {
        0 => Ok(db),
        n => bail!("{n} migrations of the database ({}) are pending; run `trueup migrate up`", config.database_shown()),
    }
}
