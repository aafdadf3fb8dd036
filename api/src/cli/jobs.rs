//! `trueup jobs …`, directly on the database: it works while no server runs.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use billing::{
    db::Db,
    processor::{Processor, ProcessorOptions},
    progress::Progress,
};
use clap::Subcommand;
use entity::enums::RunOutcome;
use indicatif::{ProgressBar, ProgressStyle};
use metrics::Metrics;
use scheduler::{
    EngineOptions, JobRun, Registry,
    control::{self, ControlError, JobState},
    history::{self, Cursor},
    run_here,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Usage, database,
    output::{self, Table, moment, or_dash},
};
use crate::{
    assemble::hostname,
    config::{Config, nearest},
    jobs::{self, Ground},
    mailing::Mailing,
    serve::ServeError,
    stripe,
};

/// What can be asked of jobs.
#[derive(Debug, Subcommand)]
pub(super) enum Jobs {
    /// List every job: when it runs, and how its last run went
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Run a job now, in this process, and show what it did; exit code 1 where it did not succeed
    Run {
        /// The job's name
        name: String,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show a job's runs, newest slot first
    History {
        /// The job's name
        name: String,
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
    /// Let a job's slots pass, on every server, until it is resumed
    Pause {
        /// The job's name
        name: String,
    },
    /// Take a job's slots up again, from the next one on
    Resume {
        /// The job's name
        name: String,
    },
}

/// `trueup jobs …`
pub(super) async fn run(command: Jobs, config: &Config) -> Result<ExitCode> {
    let registry = jobs::registry(config);
    if let Jobs::Run { name, .. } | Jobs::History { name, .. } | Jobs::Pause { name } | Jobs::Resume { name } = &command
    {
        known(&registry, name)?;
    }
    let db = database::open_migrated(config).await?;
    match command {
        Jobs::List { json } => list(&control::list(&db, &registry).await?, json)?,
        Jobs::Run { name, json } => return run_one(&db, &registry, config, &name, json).await,
        Jobs::History { name, limit, cursor, json } => {
            let (items, next) = history::runs(&db, &name, limit, cursor).await?;
            let next = next.map(|cursor| cursor.to_string());
            if json {
                output::json(&json!({ "items": items, "next_cursor": next }))?;
            } else {
                print_history(&items, next)?;
            }
        }
        Jobs::Pause { name } => {
            told(control::pause(&db, &registry, &name).await)?;
            output::line(format_args!("{name} is paused; `trueup jobs resume {name}` lets it go on"))?;
        }
        Jobs::Resume { name } => {
            told(control::resume(&db, &registry, &name).await)?;
            let next = told(control::show(&db, &registry, &name).await)?.next_run;
            output::line(format_args!("{name} goes on; its next run: {}", or_dash(next.map(moment))))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn known(registry: &Registry, name: &str) -> Result<(), Usage> {
    registry.find(name).map(drop).map_err(|error| match nearest(name, &error.known) {
        Some(near) => Usage(format!("there is no job `{name}`; did you mean `{near}`?")),
        None => Usage(error.to_string()),
    })
}

fn told<T>(result: Result<T, ControlError>) -> Result<T> {
    result.map_err(|error| match error {
        ControlError::Unknown(error) => Usage(error.to_string()).into(),
        ControlError::Database(error) => error.into(),
    })
}

fn list(states: &[JobState], as_json: bool) -> Result<()> {
    if as_json {
        let items: Vec<Value> = states.iter().map(value).collect();
        output::json(&json!({ "items": items, "next_cursor": null }))?;
        return Ok(());
    }
    let mut table = Table::new(["job", "schedule (UTC)", "state", "next run", "last run", "outcome", "what it does"]);
    for state in states {
        let standing = match (state.running, state.settings.enabled, state.paused_at) {
            (true, _, _) => "running",
            (_, false, _) => "off",
            (_, _, Some(_)) => "paused",
            _ => "waiting",
        };
        let last = state.last_run.as_ref();
        table.row([
            state.spec.name.to_owned(),
            state.settings.schedule.to_string(),
            standing.to_owned(),
            or_dash(state.next_run.map(moment)),
            or_dash(last.map(|run| moment(run.started_at))),
            or_dash(last.map(outcome)),
            state.spec.about.to_owned(),
        ]);
    }
    table.print()?;
    Ok(())
}

/// As the HTTP interface tells it.
fn value(state: &JobState) -> Value {
    json!({
        "name": state.spec.name,
        "about": state.spec.about,
        "schedule": state.settings.schedule.as_str(),
        "enabled": state.settings.enabled,
        "paused": state.paused_at.is_some(),
        "paused_at": state.paused_at,
        "running": state.running,
        "next_run": state.next_run,
        "last_run": state.last_run,
        "missed": state.settings.missed.as_str(),
        "timeout_seconds": state.settings.timeout.as_secs_f64(),
    })
}

fn outcome(run: &JobRun) -> String {
    run.outcome.map_or_else(|| "running".to_owned(), |outcome| outcome.to_string())
}

fn seconds(run: &JobRun) -> Option<String> {
    run.finished_at.map(|end| format!("{:.2}", (end - run.started_at).as_seconds_f64()))
}

fn print_history(items: &[JobRun], next: Option<String>) -> Result<()> {
    let mut table = Table::new(["slot", "attempt", "by", "started", "seconds", "outcome", "runner", "report or error"]);
    for run in items {
        table.row([
            moment(run.slot),
            run.attempt.to_string(),
            run.trigger.to_string(),
            moment(run.started_at),
            or_dash(seconds(run)),
            outcome(run),
            run.runner.clone(),
            run.error.clone().or_else(|| run.report.as_ref().map(Value::to_string)).unwrap_or_default(),
        ]);
    }
    table.print()?;
    if items.is_empty() {
        output::line("no runs")?;
    }
    if let Some(next) = next {
        output::line(format_args!("more: --cursor {next}"))?;
    }
    Ok(())
}

async fn run_one(db: &Db, registry: &Registry, config: &Config, name: &str, as_json: bool) -> Result<ExitCode> {
    let runner = format!("{}/cli/{}", hostname(), std::process::id());
    let planned = registry.find(name)?;
    let options = ProcessorOptions { holder: runner.clone(), ..config.processor.clone() };
    let (catalog, policy) = (Arc::new(config.catalog.clone()), Arc::new(config.policy.clone()));
    let stripe = stripe::client(config, None)?;
    let processor = Processor::new(db.clone(), Arc::clone(&catalog), policy, options, stripe.clone());
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"), []));
    let mailing = Mailing::of(config, &catalog, &metrics, runner.clone()).map_err(ServeError::Template)?;
    let ground = Ground {
        stripe,
        processor,
        passes: Arc::new(|_| {}),
        nudge: Arc::default(),
        mailer: mailing.map(|mailing| mailing.mailer()),
        metrics,
        feed: None,
    };
    let tools = jobs::tools(config, ground);
    let (stop, progress) = (stop_on_signal(), Progress::default());
    let watching = watch(name.to_owned(), progress.clone());
    let options = EngineOptions { runner, ..EngineOptions::default() };
    let run = run_here(db, planned, tools, &options, &stop, progress).await;
    watching.stop();
    let run = run?;
    if as_json {
        output::json(&run)?;
    } else {
        print_run(&run)?;
    }
    Ok(if run.outcome == Some(RunOutcome::Succeeded) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_run(run: &JobRun) -> Result<()> {
    let took = seconds(run).map(|seconds| format!(" after {seconds} s")).unwrap_or_default();
    output::line(format_args!("{}: {}{took}", run.job, outcome(run)))?;
    if let Some(error) = &run.error {
        output::line(format_args!("  {error}"))?;
    }
    match &run.report {
        Some(Value::Object(fields)) if fields.values().all(|value| !value.is_object() && !value.is_array()) => {
            let mut table = Table::new(["", ""]);
            for (name, value) in fields {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                table.row([format!("  {}", name.replace('_', " ")), text]);
            }
            table.print()?;
        }
        Some(report) => output::json(report)?,
        None => {}
    }
    Ok(())
}

/// Ctrl-C or SIGTERM ends the run in order; it shows as interrupted.
fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        #[cfg(unix)]
        if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return told.cancel();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            told.cancel();
        }
    });
    stop
}

/// A bar on a terminal while the job runs.
struct Watching(Option<(ProgressBar, tokio::task::JoinHandle<()>)>);

impl Watching {
    fn stop(self) {
        if let Some((bar, task)) = self.0 {
            task.abort();
            bar.finish_and_clear();
        }
    }
}

fn watch(name: String, progress: Progress) -> Watching {
    if !io::stderr().is_terminal() {
        return Watching(None);
    }
    let bar = ProgressBar::new_spinner().with_message(name);
    let style =
        |template: &str| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let (counting, filling) = (
        style("{spinner} {msg}  {elapsed}  {pos} done"),
        style("{spinner} {msg}  {elapsed}  {bar:30}  {pos}/{len}  {eta}"),
    );
    bar.set_style(counting);
    bar.enable_steady_tick(Duration::from_millis(100));
    let shown = bar.clone();
    let task = tokio::spawn(async move {
        let mut looks = tokio::time::interval(Duration::from_millis(100));
        loop {
            looks.tick().await;
            if let Some(total) = progress.total()
                && shown.length() != Some(total)
            {
                shown.set_length(total);
                shown.set_style(filling.clone());
            }
            shown.set_position(progress.done());
        }
    });
    Watching(Some((bar, task)))
}
