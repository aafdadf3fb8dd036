//! `trueup webhooks …`, directly on the database: it works while no server runs.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Result, bail};
use billing::inbox::records::{self, Cursor, Filter, Requeued};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use entity::{
    enums::ProcessingStatus,
    ids::{EventId, UserId},
};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Usage, database,
    output::{self, Table, moment, or_dash},
};
use crate::config::{Config, parse_duration};

/// What can be asked of the inbox.
#[derive(Debug, Subcommand)]
pub(super) enum Webhooks {
    /// List events, newest first
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// At most so many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
        /// Go on where the last page ended
        #[arg(long)]
        cursor: Option<Cursor>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show one event with its payload and its history of attempts
    Show {
        /// Stripe's id of the event, evt_…
        event_id: EventId,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show what failed for good, grouped by cause
    Failures {
        /// At most so many groups
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Apply events again: one by its id, or all that a filter finds (without a status: the failed ones)
    Retry {
        /// Stripe's id of the event, evt_…
        event_id: Option<EventId>,
        #[command(flatten)]
        filter: FilterArgs,
        /// Every failed event, without a filter
        #[arg(long, conflicts_with = "event_id")]
        all: bool,
    },
    /// Show how many events came, and what became of them
    Stats {
        /// Of the last so many hours
        #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=87_600))]
        hours: u32,
        /// For programs
        #[arg(long)]
        json: bool,
    },
}

/// Which events; as in the HTTP interface.
#[derive(Debug, clap::Args)]
pub(super) struct FilterArgs {
    /// Where they stand: pending, processing, completed, failed or skipped
    #[arg(long)]
    status: Option<ProcessingStatus>,
    /// Their type, in full
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Whose they are
    #[arg(long, value_name = "UUID")]
    user: Option<UserId>,
    /// The customer they name, cus_…
    #[arg(long, value_name = "ID")]
    customer: Option<String>,
    /// Failures of one cause, as `webhooks failures` shows it
    #[arg(long, value_name = "TEXT")]
    fingerprint: Option<String>,
    /// Stored at or after this time (2026-11-24T10:00:00Z), or so long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    since: Option<DateTime<Utc>>,
    /// Stored before this time, or so long ago
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    until: Option<DateTime<Utc>>,
}

impl FilterArgs {
    fn is_empty(&self) -> bool {
        Filter::default() == self.filter()
    }

    fn filter(&self) -> Filter {
        Filter {
            status: self.status,
            event_type: self.event_type.clone(),
            user_id: self.user,
            customer: self.customer.clone(),
            fingerprint: self.fingerprint.clone(),
            since: self.since,
            until: self.until,
        }
    }
}

pub(super) fn parse_moment(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.to_utc());
    }
    let ago = parse_duration(text).and_then(|ago| chrono::TimeDelta::from_std(ago).ok());
    ago.and_then(|ago| Utc::now().checked_sub_signed(ago))
        .ok_or_else(|| "neither a time like 2026-11-24T10:00:00Z nor a duration like 2h, 30m or 7d".to_owned())
}

/// `trueup webhooks …`
pub(super) async fn run(webhooks: Webhooks, config: &Config) -> Result<ExitCode> {
    let db = database::open_migrated(config).await?;
    match webhooks {
        Webhooks::List { filter, limit, cursor, json } => {
            let (items, next) = records::list(&db, &filter.filter(), limit, cursor).await?;
            let next = next.map(|cursor| cursor.to_string());
            if json {
                output::json(&json!({ "items": items, "next_cursor": next }))?;
                return Ok(ExitCode::SUCCESS);
            }
            let mut table = Table::new(["stored", "event", "type", "status", "attempts", "error"]);
            for item in &items {
                table.row([
                    moment(item.created_at),
                    item.event_id.to_string(),
                    item.event_type.clone(),
                    item.status.to_string(),
                    item.attempts.to_string(),
                    item.error.as_deref().map_or_else(String::new, short),
                ]);
            }
            table.print()?;
            if items.is_empty() {
                output::line("no events")?;
            }
            if let Some(next) = next {
                output::line(format_args!("more: --cursor {next}"))?;
            }
        }
        Webhooks::Show { event_id, json } => show(&db, &event_id, json).await?,
        Webhooks::Failures { limit, json } => {
            let groups = records::failures(&db, limit).await?;
            if json {
                output::json(&json!({ "items": groups }))?;
                return Ok(ExitCode::SUCCESS);
            }
            let mut table = Table::new(["events", "type", "fingerprint", "first", "last", "error"]);
            for group in &groups {
                table.row([
                    group.events.to_string(),
                    group.event_type.clone(),
                    or_dash(group.fingerprint.as_ref()),
                    moment(group.first_at),
                    moment(group.last_at),
                    group.error.as_deref().map_or_else(String::new, short),
                ]);
            }
            table.print()?;
            let last = if groups.is_empty() {
                "no event failed for good"
            } else {
                "once the cause is mended: trueup webhooks retry --fingerprint …"
            };
            output::line(last)?;
        }
        Webhooks::Retry { event_id, filter, all } => {
            let rules = &config.intake_rules;
            match event_id {
                Some(_) if !filter.is_empty() => {
                    bail!(Usage("name one event, or a filter, not both".to_owned()));
                }
                Some(id) => {
                    records::retry(&db, &id, rules, None).await?;
                    output::line(format_args!("{id} is due now"))?;
                }
                None if filter.is_empty() && !all => {
                    bail!(Usage(
                        "name an event (evt_…), a filter like --type invoice.paid, or --all for every failed event"
                            .to_owned()
                    ));
                }
                None => {
                    let Requeued { retried, emptied } = records::retry_all(&db, &filter.filter(), rules).await?;
                    output::line(format_args!("{retried} events are due now"))?;
                    if emptied > 0 {
                        output::line(format_args!(
                            "{emptied} were left alone: their payloads were emptied; `trueup webhooks retry evt_…` fetches one again"
                        ))?;
                    }
                }
            }
            output::line("a running server takes them up within a second or so")?;
        }
        Webhooks::Stats { hours, json } => {
            let stats = records::stats(&db, hours, Utc::now()).await?;
            if json {
                output::json(&stats)?;
                return Ok(ExitCode::SUCCESS);
            }
            let counts: Vec<String> = stats.by_status.iter().map(|(status, n)| format!("{n} {status}")).collect();
            output::line(format_args!("last {hours} h: {}", counts.join(", ")))?;
            let mut table = Table::new(["type", "total", "completed", "failed", "pending", "skipped", "seconds"]);
            for row in &stats.by_type {
                table.row([
                    row.event_type.clone(),
                    row.total.to_string(),
                    row.completed.to_string(),
                    row.failed.to_string(),
                    row.pending.to_string(),
                    row.skipped.to_string(),
                    or_dash(row.avg_processing_seconds.map(|seconds| format!("{seconds:.3}"))),
                ]);
            }
            if !stats.by_type.is_empty() {
                table.print()?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One event for programs.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    fields: BTreeMap<&'a str, &'a Value>,
    payload: &'a RawValue,
}

async fn show(db: &billing::db::Db, id: &EventId, as_json: bool) -> Result<()> {
    let Some(detail) = records::show(db, id).await? else {
        bail!("no event {id} in the inbox; `trueup webhooks list` shows what there is");
    };
    let record = &detail.record;
    if as_json {
        let mut value = serde_json::to_value(record)?;
        if let Value::Object(fields) = &mut value {
            fields.insert("payload_emptied_at".to_owned(), json!(detail.payload_emptied_at));
            fields.insert("error_details".to_owned(), detail.error_details.unwrap_or_default());
        }
        // The payload goes out as it is stored: numbers and depth as Stripe sent them.
        let payload = RawValue::from_string(detail.payload)?;
        let fields: BTreeMap<&str, &Value> =
            value.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value)).collect();
        output::json(&Shown { fields, payload: &payload })?;
        return Ok(());
    }
    let mut table = Table::new(["", ""]);
    for (name, value) in [
        ("event", record.event_id.to_string()),
        ("type", record.event_type.clone()),
        ("status", record.status.to_string()),
        ("attempts", record.attempts.to_string()),
        ("error", or_dash(record.error.as_ref())),
        ("user", or_dash(record.user_id)),
        ("customer", or_dash(record.stripe_customer_id.as_ref())),
        ("source", record.source.to_string()),
        ("API version", or_dash(record.api_version.as_ref())),
        ("mode", if record.livemode { "live" } else { "test" }.to_owned()),
        ("made by Stripe", or_dash(record.stripe_created_at.map(moment))),
        ("stored", moment(record.created_at)),
        ("done", or_dash(record.processed_at.map(moment))),
        ("next attempt", or_dash(record.next_attempt_at.map(moment))),
    ] {
        table.row([name.to_owned(), value]);
    }
    table.print()?;
    if let Some(details) = &detail.error_details {
        output::line("error details")?;
        output::json(details)?;
    }
    if let Some(at) = detail.payload_emptied_at {
        return output::line(format_args!("the payload was emptied at {}", moment(at))).map_err(Into::into);
    }
    output::line("payload")?;
    match serde_json::from_str::<Value>(&detail.payload) {
        Ok(payload) => output::json(&payload)?,
        // Nested deeper than this reader likes.
        Err(_) => output::line(&detail.payload)?,
    }
    Ok(())
}

/// The beginning of a message, for a table.
fn short(text: &str) -> String {
    const MOST: usize = 80;
    if text.chars().count() <= MOST { text.to_owned() } else { text.chars().take(MOST - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        assert_eq!(parse_moment("2026-11-24T10:00:00+01:00").unwrap().timestamp(), 1_795_510_800);
        assert!(parse_moment("2h").unwrap() < Utc::now());
        assert!(parse_moment("yesterday").is_err());
        assert!(parse_moment("99999999999d").is_err());
    }
}
