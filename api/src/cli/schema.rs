//! `trueup db …`: whether the schema is as it should be, and how the indexes are used.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Subcommand;
use migration::{Finding, IndexUse, Problem, UsageError, Verdict};

use super::{
    Usage,
    database::open,
    output::{self, Table},
};
use crate::{config::Config, serve::target};

/// What can be asked of the schema.
#[derive(Debug, Subcommand)]
pub(super) enum Schema {
    /// Compare tables, columns, constraints, indexes, functions and policies with what the migrations make; exit code 1 where
    /// something differs
    Verify {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// List the indexes with their size and use (PostgreSQL)
    Indexes {
        /// Only those that no query has ever used
        #[arg(long)]
        unused: bool,
        /// For programs
        #[arg(long)]
        json: bool,
    },
}

/// `trueup db …`
pub(super) async fn run(schema: Schema, config: &Config) -> Result<ExitCode> {
    let db = open(config).await?;
    match schema {
        Schema::Verify { json } => {
            let verdict = migration::verify(target(&db)).await?;
            if json {
                output::json(&verdict)?;
            } else {
                print_verdict(&verdict, config.database_shown())?;
            }
            Ok(if verdict.as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Schema::Indexes { unused, json } => {
            let mut indexes = match migration::usage(db.reader()).await {
                Ok(indexes) => indexes,
                Err(error @ UsageError::NotCounted) => bail!(Usage(error.to_string())),
                Err(error) => return Err(error.into()),
            };
            indexes.retain(|index| !unused || index.is_unused());
            if json {
                output::json(&indexes)?;
            } else {
                print_indexes(&indexes)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn print_verdict(verdict: &Verdict, database: impl std::fmt::Display) -> Result<()> {
    let faults = verdict.findings.iter().filter(|finding| !finding.note).count();
    for finding in &verdict.findings {
        for line in told(finding) {
            output::line(line)?;
        }
    }
    let checked: Vec<String> = verdict.checked.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
    let (checked, notes) = (checked.join(", "), verdict.findings.len() - faults);
    output::line(match faults {
        0 => format!("as expected ({database}): {checked}; {notes} notes"),
        n => format!("{n} differences, {notes} notes ({database}): {checked}"),
    })?;
    Ok(())
}

/// A finding in lines: what, how it differs, what to do.
fn told(finding: &Finding) -> Vec<String> {
    let Finding { kind, table, name, problem, note, remedy } = finding;
    let of = if table.is_empty() { String::new() } else { format!(" of {table}") };
    let what = format!("{} {name}{of}", kind.as_str());
    let mut lines = vec![match problem {
        Problem::Missing => format!("{what}: missing"),
        Problem::Unexpected => format!("{what}: not one of ours"),
        Problem::Unused => format!("{what}: no query has used it yet"),
        Problem::Different { attribute, .. } if attribute.is_empty() => format!("{what}: different"),
        Problem::Different { attribute, .. } => format!("{what}: {attribute}"),
    }];
    if *note {
        lines[0].insert_str(0, "note: ");
    }
    if let Problem::Different { expected, found, .. } = problem {
        lines.push(format!("  expected  {}", on_one_line(expected)));
        lines.push(format!("  found     {}", on_one_line(found)));
    }
    // Whole, so that it can be copied.
    lines.push(format!("  remedy    {}", remedy.trim()));
    lines
}

fn on_one_line(text: &str) -> String {
    const MOST: usize = 160;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST - 1).chain(['…']).collect() }
}

fn print_indexes(indexes: &[IndexUse]) -> Result<()> {
    let mut table = Table::new(["index", "table", "rows", "size", "scans", "read", ""]);
    for index in indexes {
        let remark = match (index.valid, index.is_unused()) {
            (false, _) => "INVALID: run `trueup db verify`",
            (true, true) => "unused",
            (true, false) => "",
        };
        table.row([
            index.name.clone(),
            index.table_name.clone(),
            index.table_rows.to_string(),
            size(index.bytes),
            index.scans.to_string(),
            index.entries_read.to_string(),
            remark.to_owned(),
        ]);
    }
    table.print()?;
    let total: i64 = indexes.iter().map(|index| index.bytes).sum();
    let unused: Vec<&IndexUse> = indexes.iter().filter(|index| index.is_unused()).collect();
    let idle: i64 = unused.iter().map(|index| index.bytes).sum();
    let since = indexes.first().and_then(|index| index.counted_since.clone());
    output::line(format_args!(
        "{} indexes, {}; {} unused, {}; counted {}",
        indexes.len(),
        size(total),
        unused.len(),
        size(idle),
        since.map_or_else(|| "since the database was made".to_owned(), |since| format!("since {since}"))
    ))?;
    Ok(())
}

/// Bytes, for people.
fn size(bytes: i64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes / 1024),
        1_048_576..10_737_418_240 => format!("{} MiB", bytes / 1_048_576),
        _ => format!("{} GiB", bytes / 1_073_741_824),
    }
}
