//! `trueup reconcile release`: the go-ahead of an adopted database's first reconciliation.

use std::process::ExitCode;

use anyhow::Result;
use billing::adoption::{self, ReleaseError};
use serde_json::json;
use uuid::Uuid;

use super::{Usage, database, output};
use crate::config::Config;

/// Options of `reconcile release`.
#[derive(Debug, clap::Args)]
pub(super) struct ReleaseArgs {
    /// The dry run that was looked at; by default the last one that came to its end
    #[arg(value_name = "RECONCILIATION")]
    dry_run: Option<Uuid>,
    /// Who gives the go-ahead
    #[arg(long, value_name = "NAME", env = "USER", default_value = "operator", hide_env = true)]
    by: String,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// Gives the go-ahead.
pub(super) async fn run(args: ReleaseArgs, config: &Config) -> Result<ExitCode> {
    let db = database::open_migrated(config).await?;
    let (release, record) = match adoption::release(&db, args.dry_run, &args.by).await {
        Ok(released) => released,
        Err(error @ ReleaseError::BadBy) => return Err(Usage(error.to_string()).into()),
        Err(error) => return Err(error.into()),
    };
    if args.json {
        output::json(&json!({ "released": release }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(format_args!(
        "released by {}, after the dry run {} of {} ({} subscriptions at Stripe, {} drifts)",
        release.by,
        record.id,
        output::moment(record.started_at),
        record.scanned,
        record.drifted
    ))?;
    if let Some(access) = record.report.as_ref().and_then(|report| report.get("access")) {
        let count = |key: &str| access.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
        output::line(format_args!(
            "what it would have done to access: {} gain it, {} lose it, of {} who had it",
            count("gain"),
            count("lose"),
            count("paid")
        ))?;
    }
    output::line("`trueup reconcile` repairs from now on, and so does the job of a running server")?;
    Ok(ExitCode::SUCCESS)
}
