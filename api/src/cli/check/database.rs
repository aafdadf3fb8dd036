//! The database: whether it answers and has the schema of this version, what is stored in it, and whether jobs run anywhere.

use std::fmt::Display;

use billing::{
    adoption,
    checkup::{self, Item},
    db::{self, Db},
};
use chrono::{TimeDelta, Utc};
use entity::{Time, enums::RunOutcome};
use migration::{Kind, Problem};
use scheduler::control::{self, JobState};

use super::told;
use crate::{cli::database::connect, config::Config, jobs, serve::target};

const AREA: &str = "database";
/// Leases and due times go by the database's clock, so a little does no harm.
const APART: TimeDelta = TimeDelta::seconds(10);
/// So long after its slot a job has not just been late.
const GRACE: TimeDelta = TimeDelta::minutes(2);
/// Findings of the schema that are told one by one.
const TOLD: usize = 5;

/// What was found, and the account of Stripe against which everything was reconciled last.
pub(super) async fn database(config: &Config) -> (Vec<Item>, Option<String>) {
    if let Some(file) = config.database_file().filter(|file| !file.exists()) {
        let what = format!("there is no database {} yet", file.display());
        return (
            vec![Item::bad(AREA, what, "run `trueup migrate up`, start the server once, or correct DATABASE_URL")],
            None,
        );
    }
    let db = match connect(config).await {
        Ok(db) => db,
        Err(error) => return (vec![Item::bad(AREA, told(&error), "start it, or correct DATABASE_URL")], None),
    };
    let mut items = vec![Item::ok(AREA, format!("{} answers", config.database_shown()))];
    match migration::pending(db.reader()).await {
        Ok(0) => match migration::newer(db.reader()).await {
            Ok(newer) if !newer.is_empty() => {
                let what = format!("the database was migrated by a newer version: {}", newer.join(", "));
                items.push(Item::warn("migrations", what, "replace this version; it would not start again"));
            }
            _ => items.push(Item::ok("migrations", "the schema is that of this version")),
        },
        Ok(n) => {
            items.push(Item::bad("migrations", format!("{n} migrations are pending"), "run `trueup migrate up`"));
            return (items, None);
        }
        Err(error) => {
            let what = format!("the state of the migrations is not known: {error}");
            items.push(Item::bad("migrations", what, "look at the database"));
            return (items, None);
        }
    }
    let registry = jobs::registry(config);
    let with_stripe = config.stripe_secret_key.is_some();
    let (schema, stored, adopted, states, clock, remembered) = tokio::join!(
        schema(&db),
        checkup::stored(&db, &config.catalog, with_stripe),
        adoption::look(&db, &config.catalog),
        control::list(&db, &registry),
        skew(&db),
        checkup::remembered_account(&db),
    );
    items.extend(schema);
    items.extend(clock);
    items.extend(stored.unwrap_or_else(|error| vec![unanswered(error)]));
    items.extend(adopted.unwrap_or_else(|error| vec![unanswered(error)]));
    match states {
        Ok(states) => items.extend(of_jobs(&states, with_stripe, Utc::now())),
        Err(error) => items.push(unanswered(error)),
    }
    (items, remembered.ok().flatten())
}

fn unanswered(error: impl Display) -> Item {
    Item::bad(AREA, format!("it could not be asked: {error}"), "look at the database's log")
}

/// Indexes, row-level security, and the rest of the schema.
async fn schema(db: &Db) -> Vec<Item> {
    let verdict = match migration::verify(target(db)).await {
        Ok(verdict) => verdict,
        Err(error) => {
            let what = format!("whether the schema is as it should be cannot be told: {error}");
            return vec![Item::warn("schema", what, "run `trueup db verify` as the role that migrates")];
        }
    };
    let secures = |kind, problem: &Problem| {
        kind == Kind::Policy
            || matches!(problem, Problem::Different { attribute, .. }
                if matches!(attribute.as_str(), "row-level security" | "open to"))
    };
    let mut items = Vec::new();
    let checked = |kind: Kind| verdict.checked.get(kind.as_str()).copied().unwrap_or_default();
    let postgres = db.backend() == sea_orm::DbBackend::Postgres;
    for (area, well) in [
        ("indexes", Some(format!("all {} indexes are there and valid", checked(Kind::Index)))),
        (
            "row-level security",
            postgres.then(|| format!("on for all {} tables; no browser's role may read them", checked(Kind::Table))),
        ),
        ("schema", None),
    ] {
        let of = |finding: &&migration::Finding| {
            let secures = secures(finding.kind, &finding.problem);
            match area {
                "indexes" => finding.kind == Kind::Index,
                "row-level security" => secures,
                _ => finding.kind != Kind::Index && !secures,
            }
        };
        let found: Vec<_> = verdict.findings.iter().filter(|finding| !finding.note).filter(of).collect();
        for finding in found.iter().take(TOLD) {
            let of = if finding.table.is_empty() { String::new() } else { format!(" of {}", finding.table) };
            let how = match &finding.problem {
                Problem::Missing => "is missing".to_owned(),
                Problem::Unexpected => "is not one of ours".to_owned(),
                Problem::Unused => "is unused".to_owned(),
                Problem::Different { attribute, expected, found } if expected.len() + found.len() < 60 => {
                    format!("is not as it should be: {attribute} {found}, expected {expected}")
                }
                Problem::Different { attribute, .. } => format!("is not as it should be: {attribute}"),
            };
            let what = format!("{} {}{of} {how}", finding.kind.as_str(), finding.name);
            items.push(Item::bad(area, what, finding.remedy.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        if found.len() > TOLD {
            let what = format!("{} more things are not as they should be", found.len() - TOLD);
            items.push(Item::bad(area, what, "`trueup db verify` names them all"));
        }
        items.extend(well.filter(|_| found.is_empty()).map(|well| Item::ok(area, well)));
    }
    items
}

/// How far the database's clock is from ours.
async fn skew(db: &Db) -> Option<Item> {
    const AREA: &str = "clock";
    let before = Utc::now();
    let theirs = db::clock(db.reader()).await.ok()?;
    let after = Utc::now();
    let apart = if theirs < before { before - theirs } else { (theirs - after).max(TimeDelta::zero()) };
    Some(if apart > APART {
        let what = format!("the database's clock and this machine's are {} s apart", apart.num_seconds());
        Item::warn(
            AREA,
            what,
            "let both be set by NTP: usage windows and access end by the one, signatures are judged by the other",
        )
    } else {
        Item::ok(AREA, "the database's clock and this machine's agree")
    })
}

/// Which jobs are not well: by their last run, since nobody lets them run, or since no process runs jobs at all.
fn of_jobs(states: &[JobState], with_stripe: bool, now: Time) -> Vec<Item> {
    const AREA: &str = "jobs";
    let mut items: Vec<Item> = Vec::new();
    for JobState { spec, paused_at, last_run, .. } in states {
        let name = spec.name;
        if paused_at.is_some() {
            items.push(Item::warn(AREA, format!("{name} is paused"), format!("trueup jobs resume {name}")));
        }
        let outcome = last_run.as_ref().and_then(|run| run.outcome);
        if let Some(outcome @ (RunOutcome::Failed | RunOutcome::Refused | RunOutcome::TimedOut)) = outcome {
            let what = format!("the last run of {name} ended {outcome}");
            items.push(Item::warn(AREA, what, format!("trueup jobs history {name} tells why")));
        }
        if matches!(outcome, Some(RunOutcome::NotConfigured)) && with_stripe && name != "send_emails" {
            let what = format!("the last run of {name} was not configured, although there is an API key");
            items.push(Item::warn(
                AREA,
                what,
                "give the server the same environment as this command, and start it anew",
            ));
        }
    }
    if items.is_empty() {
        items.push(Item::ok(AREA, "none is paused, and none failed last"));
    }
    items.push(scheduler(states, now));
    items
}

/// Whether some process runs jobs: as the database tells, wherever it is.
fn scheduler(states: &[JobState], now: Time) -> Item {
    const AREA: &str = "scheduler";
    const REMEDY: &str = "start a server with its scheduler (`trueup serve` without --no-scheduler); its log and /readyz tell what holds it up";
    let scheduled: Vec<&JobState> =
        states.iter().filter(|state| state.settings.enabled && state.paused_at.is_none()).collect();
    if scheduled.is_empty() {
        return Item::warn(
            AREA,
            "every job is switched off or paused",
            "`trueup jobs list` shows them; resume or enable them",
        );
    }
    let newest = scheduled.iter().filter_map(|state| state.last_run.as_ref()).map(|run| run.started_at).max();
    let Some(newest) = newest else {
        return Item::bad(AREA, "no job has ever run", REMEDY);
    };
    let overdue: Vec<String> = scheduled
        .iter()
        .filter(|state| !state.running && is_overdue(state, now))
        .map(|state| state.spec.name.to_owned())
        .collect();
    if overdue.is_empty() {
        return Item::ok(
            AREA,
            format!("jobs run when their time comes; the last began {} s ago", (now - newest).num_seconds().max(0)),
        );
    }
    let what = format!("did not run when their time came: {}", overdue.join(", "));
    if overdue.len() == scheduled.len() { Item::bad(AREA, what, REMEDY) } else { Item::warn(AREA, what, REMEDY) }
}

/// True where the slot after the last run is long past.
fn is_overdue(state: &JobState, now: Time) -> bool {
    let Some(last) = &state.last_run else { return false };
    let jitter = TimeDelta::from_std(state.settings.jitter).unwrap_or_default();
    state.settings.schedule.after(last.slot).is_some_and(|due| now - due > GRACE + jitter)
}
