//! What people see of a simulation: how far it is, and what came of it.

use std::io::IsTerminal as _;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use simulator::{Difference, JobRun, Progress, Replayed, Report};

use super::output::{self, Table};

/// Seconds of a day.
const DAY: i64 = 86_400;
/// Differences that are shown to people; programs get all.
const SHOWN: usize = 20;

/// How far it is, for people at a terminal.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(wanted: bool) -> Self {
        if !wanted || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub(super) fn tell(&self, progress: &Progress) {
        let Progress { phase, start, now, end, events, delivered, under_way } = *progress;
        self.0.set_length(u64::try_from(end - start).unwrap_or(0));
        self.0.set_position(u64::try_from(now - start).unwrap_or(0));
        let day = (now - start) / DAY;
        self.0
            .set_message(format!("{phase}: day {day}, {events} events, {delivered} delivered, {under_way} under way"));
    }

    pub(super) fn count(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// The table of a run.
pub(super) fn print(report: &Report) -> Result<()> {
    let mut table = Table::new(["", "", ""]);
    let mut row = |what: &str, figure: String, note: String| table.row([what.to_owned(), figure, note]);
    let none = String::new;
    row("events made", report.events.to_string(), format!("in {} days", report.virtual_days));
    row("told under two ids", report.twins.to_string(), none());
    row("forged", report.forged.to_string(), format!("{} of them taken", report.forged_taken));
    row("dropped", report.dropped.to_string(), none());
    row("sent twice", report.sent_twice.to_string(), none());
    row("overtaken", report.reordered.to_string(), none());
    row("hours or days late", report.delayed.to_string(), none());
    let attempts = format!("in {} attempts, {} of them failed", report.attempts, report.attempts_failed);
    row("delivered", report.delivered.to_string(), attempts);
    row("given up", report.gave_up.to_string(), none());
    row("stored", report.recorded.to_string(), format!("and {} known already", report.duplicates));
    let others = format!("{} not ours, {} waiting, {} failed", report.skipped, report.pending, report.failed);
    row("applied", report.applied.to_string(), others);
    row("compared", format!("{} users", report.users), none());
    let subscriptions = report.subscriptions.map_or_else(|| "not listed by this server".to_owned(), |n| n.to_string());
    let marked = format!("{} told ambiguously, {} marked so", report.ambiguous.len(), report.needs_refresh.len());
    row("subscriptions", subscriptions, marked);
    row("differences", report.differences_after_webhooks.to_string(), "after webhooks alone".to_owned());
    let repairs = report.dropped + report.gave_up + report.differences_after_webhooks > 0;
    let job = |run: &Option<JobRun>, figure: Option<u64>| match run {
        Some(run) => {
            let error = run.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            (figure.map_or_else(|| "?".to_owned(), |figure| figure.to_string()), format!("{}{error}", run.outcome))
        }
        None if repairs => ("–".to_owned(), "not available, not asked for, or not needed any more".to_owned()),
        None => ("0".to_owned(), "not needed".to_owned()),
    };
    let (figure, mut told) = job(&report.recovery, report.recovered);
    if let Some(left) = report.differences_after_recovery {
        told = format!("{told}; {left} differences after that");
    }
    row("recovered", figure, told);
    if let Some(dry) = &report.dry_run {
        let drifts: u64 = dry.by_kind.values().sum();
        let told =
            format!("{}; {} differences untold, {} unfounded", dry.outcome, dry.untold.len(), dry.unfounded.len());
        row("found by a dry run", drifts.to_string(), told);
    }
    let (figure, told) = job(&report.reconciliation, report.repaired);
    row("repaired", figure, told);
    row("differences left", report.differences.len().to_string(), none());
    let converged = report.converged_after_ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms} ms"));
    let ran = format!("after the last delivery; the run took {} s", report.run_ms / 1000);
    row("converged", converged, ran);
    row("slowest answer", format!("{} ms", report.slowest_ack_ms), none());
    table.print()?;
    show(&report.differences)
}

fn show(differences: &[Difference]) -> Result<()> {
    if differences.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(["OF", "ID", "FIELD", "HERE", "AT STRIPE"]);
    for difference in differences.iter().take(SHOWN) {
        let Difference { of, id, field, here, stripe } = difference.clone();
        table.row([of.to_owned(), id, field.to_owned(), here, stripe]);
    }
    table.print()?;
    if differences.len() > SHOWN {
        output::line(format_args!("… and {} more; --json tells all", differences.len() - SHOWN))?;
    }
    Ok(())
}

/// What came of a record that was sent again.
pub(super) fn print_replayed(replayed: &Replayed) -> Result<()> {
    let mut table = Table::new(["", ""]);
    table.row(["deliveries".to_owned(), replayed.deliveries.to_string()]);
    table.row(["refused".to_owned(), replayed.refused.to_string()]);
    table.row(["differences left".to_owned(), replayed.differences.len().to_string()]);
    table.print()?;
    show(&replayed.differences)
}
