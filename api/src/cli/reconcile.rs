//! `trueup reconcile` and `trueup recover`: they call Stripe and work on the database, whether or not a server runs.

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result, bail};
use billing::{
    progress::Progress,
    reconcile::{Broken, Drift, Options, Reconciler, Report},
    recovery::{self, Recovery, Unfinished},
    stripe::Stripe,
};
use chrono::{DateTime, Utc};
use entity::enums::{ReconcileMode, ReconcileOutcome, Requester};
use tokio_util::sync::CancellationToken;

use super::{
    database,
    output::{self, Table, moment, or_dash},
    release, users,
    watch::watched,
    webhooks::parse_moment,
};
use crate::{config::Config, serve::target, stripe};

/// Options of `reconcile`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct ReconcileArgs {
    #[command(subcommand)]
    command: Option<ReconcileCommand>,
    /// Only tell what differs; exit code 2 where something does
    #[arg(long)]
    dry_run: bool,
    /// Only this user: the id, e-mail address, or customer at Stripe (cus_…)
    #[arg(long, value_name = "WHO")]
    user: Option<String>,
    /// Repair even where more than a tenth of the users with paid access would lose it
    #[arg(long)]
    force: bool,
    /// The API key may be of another account than last time
    #[arg(long)]
    accept_account: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// What goes with reconciling.
#[derive(Debug, clap::Subcommand)]
enum ReconcileCommand {
    /// Give the first reconciliation of an adopted database the go-ahead, after its dry run was looked at
    Release(release::ReleaseArgs),
}

/// Options of `recover`.
#[derive(Debug, clap::Args)]
pub(super) struct RecoverArgs {
    /// Everything since this time (2026-11-24T10:00:00Z), or since so long ago (2h); at most 30 days, for which Stripe keeps events
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    since: Option<DateTime<Utc>>,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// Drift found by a dry run.
const DRIFT: u8 = 2;

fn client(config: &Config) -> Result<Arc<dyn Stripe>> {
    match stripe::client(config, None)? {
        Some(client) => Ok(client),
        None => {
            bail!("there is no API key of Stripe; set STRIPE_SECRET_KEY to a secret or restricted key (sk_…, rk_…)")
        }
    }
}

/// `trueup reconcile`
pub(super) async fn reconcile(args: ReconcileArgs, config: &Config) -> Result<ExitCode> {
    let ReconcileArgs { command, dry_run, user, force, accept_account, json } = args;
    if let Some(ReconcileCommand::Release(args)) = command {
        return release::run(args, config).await;
    }
    let stripe = client(config)?;
    let db = database::open_migrated(config).await?;
    // Whoever came to pay while the host still did its own billing counts as well.
    migration::carry_over_again(target(&db), false).await?;
    let user = match user {
        Some(who) => Some(users::find(&db, config, &who).await?.id),
        None => None,
    };
    let mode = if dry_run { ReconcileMode::DryRun } else { ReconcileMode::Apply };
    let reconciler = Reconciler {
        db: db.clone(),
        stripe,
        catalog: Arc::new(config.catalog.clone()),
        policy: Arc::new(config.policy.clone()),
        livemode: config.intake_rules.livemode,
    };
    let run = reconciler.begin(Options { mode, user, force, accept_account, requested_by: Requester::Cli }).await?;
    let (progress, stop) = (Progress::default(), CancellationToken::new());
    let ended = watched("reconciling", "subscriptions", &progress, &stop, run.run(&progress, &stop)).await;
    let (report, broken) = match ended {
        Ok(report) => (report, None),
        Err(Broken { source, report }) => (*report, Some(source)),
    };
    if json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    if let Some(source) = broken {
        return Err(source).context("the database broke off the reconciliation; the next one begins anew");
    }
    Ok(match report.outcome {
        ReconcileOutcome::Succeeded if dry_run && report.drifted > 0 => ExitCode::from(DRIFT),
        ReconcileOutcome::Succeeded => ExitCode::SUCCESS,
        _ => {
            output::complain(format_args!(
                "error: {}: {}",
                report.outcome,
                report.error.as_deref().unwrap_or("no more is known")
            ));
            ExitCode::FAILURE
        }
    })
}

fn print(report: &Report) -> Result<()> {
    let found = match (report.drifted, report.mode) {
        (0, _) => "no drift".to_owned(),
        (n, ReconcileMode::DryRun) => format!("{n} drifts, nothing changed (a dry run)"),
        (n, ReconcileMode::Apply) => format!("{n} drifts, {} repaired", report.repaired),
    };
    output::line(format_args!("{} subscriptions at Stripe, {} users here: {found}", report.scanned, report.users))?;
    if report.drifted > 0 {
        let mut table = Table::new(["drifts", "kind", ""]);
        for (kind, count) in report.by_kind.iter().filter(|(_, count)| **count > 0) {
            table.row([count.to_string(), kind.to_string(), meaning(*kind).to_owned()]);
        }
        output::line("")?;
        table.print()?;
        output::line("")?;
        let mut table = Table::new(["kind", "user", "subscription", "what", "here", "Stripe"]);
        for drift in &report.first {
            rows(&mut table, drift);
        }
        table.print()?;
        if report.drifted > report.first.len() as u64 {
            output::line(format_args!("… and {} more", report.drifted - report.first.len() as u64))?;
        }
    }
    let mut lines = Vec::new();
    let access = report.access;
    if access.gain + access.lose > 0 {
        let verb = if report.repaired > 0 { "gained" } else { "would gain" };
        let lost = if report.repaired > 0 { "lost" } else { "would lose" };
        lines.push(format!(
            "access: {} {verb} it, {} {lost} it, of {} who had paid access",
            access.gain, access.lose, access.paid
        ));
    }
    for (count, what) in [
        (report.other_mode, "of the other mode: ignored"),
        (report.unreadable, "not readable: ignored"),
        (report.newer_here, "newer here than the page: a webhook came meanwhile"),
        (
            report.absence.unchecked,
            "not over here and not in Stripe's list, and not asked about yet; the next run goes on there",
        ),
        (report.overridden, "drifts of users under an override: left alone"),
        (report.unrepairable, "drifts that the database would not let be repaired; the log tells why"),
    ] {
        if count > 0 {
            lines.push(format!("{count} {what}"));
        }
    }
    lines.extend(report.notes.iter().cloned());
    if !lines.is_empty() {
        output::line("")?;
    }
    for text in lines {
        output::line(text)?;
    }
    output::line(format_args!("reconciliation {}", report.reconciliation))?;
    Ok(())
}

fn meaning(kind: entity::enums::DriftKind) -> &'static str {
    use entity::enums::DriftKind;
    match kind {
        DriftKind::Missing => "at Stripe, and not stored here",
        DriftKind::Differs => "different at Stripe",
        DriftKind::Ahead => "ended here, and not at Stripe: by Stripe's rules that cannot be; look at it",
        DriftKind::UnknownUser => "belongs to no user here; make the user, or name one in the subscription's metadata",
        DriftKind::UnmappedPrice => "a price that no plan names; add it to [[plans]]",
        DriftKind::Absent => "not over here, and unknown to Stripe; nothing is concluded from that",
        DriftKind::Projection => "a user's row is not what the stored facts say",
        DriftKind::Unconfirmed => {
            "what the host had before the adoption, and nothing at Stripe bears out; repairing ends it"
        }
    }
}

fn rows(table: &mut Table, drift: &Drift) {
    let who = or_dash(drift.user_id);
    let subscription = or_dash(drift.subscription_id.as_ref());
    if drift.differences.is_empty() {
        let side = |side: &Option<serde_json::Value>| {
            let status = side.as_ref().and_then(|value| {
                let status = value.pointer("/snapshot/status").or_else(|| value.get("status"))?;
                Some(status.as_str()?.to_owned())
            });
            or_dash(status)
        };
        let told = drift.stripe.as_ref().and_then(|stripe| {
            let named = |key: &str| stripe.get(key).and_then(serde_json::Value::as_str).map(str::to_owned);
            let price = stripe.pointer("/items/0/price").and_then(serde_json::Value::as_str);
            price
                .map(|price| format!("price {price}"))
                .or_else(|| named("user_id").map(|user| format!("names {user}")))
                .or_else(|| named("customer").filter(|_| drift.user_id.is_none()))
        });
        let cells = [
            drift.kind.to_string(),
            who,
            subscription,
            told.unwrap_or_default(),
            side(&drift.local),
            side(&drift.stripe),
        ];
        table.row(cells);
        return;
    }
    for (index, difference) in drift.differences.iter().enumerate() {
        let once = |text: &str| if index == 0 { text.to_owned() } else { String::new() };
        table.row([
            once(drift.kind.as_str()),
            once(&who),
            once(&subscription),
            difference.field.clone(),
            difference.here.clone(),
            difference.stripe.clone(),
        ]);
    }
}

/// `trueup recover`
pub(super) async fn recover(args: RecoverArgs, config: &Config) -> Result<ExitCode> {
    let stripe = client(config)?;
    let db = database::open_migrated(config).await?;
    let (progress, stop) = (Progress::default(), CancellationToken::new());
    let recovery = Recovery { db: &db, stripe: &*stripe, intake: &config.intake_rules };
    let ended = watched("recovering", "seconds", &progress, &stop, recovery.run(args.since, &progress, &stop)).await;
    let (report, error) = match ended {
        Ok(report) => (report, None),
        Err(unfinished) => {
            let Unfinished { error, report } = *unfinished;
            (report, Some(error))
        }
    };
    if args.json {
        output::json(&report)?;
    } else {
        print_recovered(&report)?;
    }
    match error {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => Err(error.into()),
    }
}

fn print_recovered(report: &recovery::Report) -> Result<()> {
    if report.first {
        output::line(
            "there was no cursor yet: from now on every event is accounted for; for older ones name a time, like --since 2h",
        )?;
        return Ok(());
    }
    let until = or_dash(report.until.map(moment));
    output::line(format_args!(
        "{} events at Stripe from {} to {until}: {} were lacking and are stored now, {} of them to be applied",
        report.seen,
        or_dash(report.from.map(moment)),
        report.stored,
        report.stored - report.skipped
    ))?;
    if report.refused > 0 {
        output::line(format_args!("{} are no events, or cannot be stored; the log tells more", report.refused))?;
    }
    if report.stored > 0 {
        output::line("a running server takes them up within a second or so")?;
    }
    Ok(())
}
