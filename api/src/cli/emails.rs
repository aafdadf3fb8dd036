//! `trueup emails …`, directly on the database: it works while no server runs.

use std::process::ExitCode;

use anyhow::{Result, bail};
use billing::mail::outbox;
use clap::Subcommand;
use entity::enums::EmailStatus;
use serde_json::json;
use uuid::Uuid;

use super::{
    Usage, database,
    output::{self, Table, moment, or_dash},
};
use crate::config::Config;

/// What can be asked of the outbox.
#[derive(Debug, Subcommand)]
pub(super) enum Emails {
    /// List e-mails, newest first; neither addresses nor texts are shown
    List {
        /// Where they stand: pending, sent, dropped or failed
        #[arg(long)]
        status: Option<EmailStatus>,
        /// At most so many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Send e-mails again that were given up: one by its id, or all
    Retry {
        /// As `trueup emails list --json` shows it
        id: Option<Uuid>,
        /// Every e-mail that was given up
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
}

/// `trueup emails …`
pub(super) async fn run(emails: Emails, config: &Config) -> Result<ExitCode> {
    let db = database::open_migrated(config).await?;
    match emails {
        Emails::List { status, limit, json } => {
            let items = outbox::list(&db, status, limit).await?;
            if json {
                output::json(&json!({ "items": items }))?;
                return Ok(ExitCode::SUCCESS);
            }
            let mut table = Table::new(["queued", "id", "user", "kind", "status", "attempts", "sent", "error"]);
            for item in &items {
                table.row([
                    moment(item.created_at),
                    item.id.to_string(),
                    item.user_id.to_string(),
                    item.kind.to_string(),
                    item.status.to_string(),
                    item.attempts.to_string(),
                    or_dash(item.sent_at.map(moment)),
                    item.error.clone().unwrap_or_default(),
                ]);
            }
            table.print()?;
            if items.is_empty() {
                output::line("no e-mails")?;
            }
        }
        Emails::Retry { id: None, all: false } => {
            bail!(Usage("name an e-mail by its id, or --all for every one that was given up".to_owned()));
        }
        Emails::Retry { id, .. } => {
            let again = outbox::retry(&db, id).await?;
            if let (Some(id), 0) = (id, again) {
                bail!("no e-mail {id} was given up; `trueup emails list --status failed` shows what was");
            }
            output::line(format_args!(
                "{again} e-mails are due now; a running server sends them within a minute or so"
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
