//! The tables of `trueup.toml`, each read into the options of the part it is about.

use std::{num::NonZeroU32, ops::RangeInclusive, time::Duration};

use billing::{
    catalog::{Catalog, CatalogError, Plan},
    db::DbOptions,
    inbox::InboxOptions,
    policy::Policy,
    processor::{ProcessorOptions, failure::Backoff},
    stripe::ClientOptions,
};
use chrono::TimeDelta;

use super::read::{self, Mistakes, Section};

/// For bounds in tables.
const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn policy(root: &mut Section, mistakes: &mut Mistakes, mail: bool) -> Policy {
    let mut section = root.section(mistakes, "policy");
    let default = Policy::default();
    let grace = section.integer(mistakes, "past_due_grace_days", &(0..=365));
    let link_by_email = section.boolean(mistakes, "link_by_email").unwrap_or(default.link_by_email);
    section.finish(mistakes);
    Policy { past_due_grace: grace.map(TimeDelta::days).or(default.past_due_grace), link_by_email, queue_emails: mail }
}

pub(super) fn backoff(root: &mut Section, mistakes: &mut Mistakes) -> Backoff {
    let mut section = root.section(mistakes, "retry");
    let default = Backoff::default();
    let pauses = section.durations(mistakes, "pauses", &(Duration::from_millis(10)..=seconds(30 * 86_400)));
    let attempts = section.integer(mistakes, "attempts", &(1..=100));
    if let Some(pauses) = &pauses
        && !pauses.is_sorted()
    {
        let name = section.name("pauses");
        mistakes.add(name, "a later pause is shorter than one before it", "write them in rising order");
    }
    if let (Some(pauses), Some(attempts)) = (&pauses, attempts)
        && pauses.len() > usize::try_from(attempts).unwrap_or(usize::MAX).saturating_sub(1).max(1)
    {
        let wrong = format!("holds {} pauses, more than {attempts} attempts have between them", pauses.len());
        let right = format!("leave some out, or raise {}", section.name("attempts"));
        mistakes.add(section.name("pauses"), wrong, right);
    }
    section.finish(mistakes);
    Backoff { pauses: pauses.unwrap_or(default.pauses), attempts: attempts.map_or(default.attempts, number) }
}

pub(super) fn database(root: &mut Section, mistakes: &mut Mistakes, sqlite: bool) -> DbOptions {
    let mut section = root.section(mistakes, "database");
    let default = DbOptions::default();
    // Two writers; two batches of the processor, each with its lease; one for whoever asks.
    let fewest = if sqlite { 2 } else { 7 };
    let bounds: RangeInclusive<i64> = fewest..=1000;
    let max_connections = section.integer(mistakes, "max_connections", &bounds).map(number);
    let acquire_timeout = section.duration(mistakes, "acquire_timeout", &(Duration::from_millis(100)..=seconds(60)));
    let statement_timeout = section.duration(mistakes, "statement_timeout", &(seconds(1)..=seconds(3600)));
    section.finish(mistakes);
    DbOptions {
        max_connections: max_connections.unwrap_or(if sqlite { 8 } else { default.max_connections }),
        acquire_timeout: acquire_timeout.unwrap_or(default.acquire_timeout),
        statement_timeout: statement_timeout.unwrap_or(default.statement_timeout),
    }
}

pub(super) fn inbox(
    root: &mut Section,
    mistakes: &mut Mistakes,
    sqlite: bool,
    acquire_timeout: Duration,
) -> InboxOptions {
    let mut section = root.section(mistakes, "intake");
    let default = InboxOptions { writers: if sqlite { 1 } else { 2 }, ..InboxOptions::default() };
    let queue_events = section.integer(mistakes, "queue_events", &(1..=1_000_000)).map(size);
    // The largest event must fit.
    let queue_bytes = section.integer(mistakes, "queue_bytes", &((1 << 20)..=(4 << 30) - 1)).map(size);
    let batch_events = section.integer(mistakes, "batch_events", &(1..=5000)).map(size);
    let bounds = Duration::from_millis(100)..=seconds(30);
    let deadline = section.duration(mistakes, "deadline", &bounds);
    let options = InboxOptions {
        queue_events: queue_events.unwrap_or(default.queue_events),
        queue_bytes: queue_bytes.unwrap_or(default.queue_bytes),
        batch_events: batch_events.unwrap_or(default.batch_events),
        deadline: deadline.unwrap_or(default.deadline),
        ..default
    };
    if let Some(batch) = batch_events
        && batch > options.queue_events
    {
        let wrong = format!("{batch} is more than {} ({})", section.name("queue_events"), options.queue_events);
        mistakes.add(section.name("batch_events"), wrong, "a batch cannot be larger than the queue: lower it");
    }
    if options.deadline < acquire_timeout {
        let wrong = format!(
            "{} is shorter than database.acquire_timeout ({}), so that no request would outlive a wait for a connection",
            read::spell(options.deadline),
            read::spell(acquire_timeout)
        );
        mistakes.add(section.name("deadline"), wrong, "raise it, or lower database.acquire_timeout");
    }
    section.finish(mistakes);
    options
}

pub(super) fn processor(
    root: &mut Section,
    mistakes: &mut Mistakes,
    sqlite: bool,
    backoff: Backoff,
) -> ProcessorOptions {
    let mut section = root.section(mistakes, "processor");
    let default = ProcessorOptions::default();
    let batch_events = section.integer(mistakes, "batch_events", &(1..=10_000)).map(number);
    let lease = section.duration(mistakes, "lease", &(seconds(1)..=seconds(600)));
    let poll = section.duration(mistakes, "poll", &(Duration::from_millis(10)..=seconds(60)));
    section.finish(mistakes);
    ProcessorOptions {
        batch_events: batch_events.unwrap_or(default.batch_events),
        lease: lease.unwrap_or(default.lease),
        poll: poll.unwrap_or(default.poll),
        workers: if sqlite { 1 } else { 2 },
        backoff,
        ..default
    }
}

pub(super) fn stripe(root: &mut Section, mistakes: &mut Mistakes) -> ClientOptions {
    let mut section = root.section(mistakes, "stripe");
    let default = ClientOptions::default();
    let api_version = section.text(mistakes, "api_version").filter(|text| {
        let fits = is_api_version(text);
        if !fits {
            let right = format!("write one like {}", default.api_version);
            mistakes.add(section.name("api_version"), "is no version of Stripe's API", right);
        }
        fits
    });
    let per_second = section.integer(mistakes, "requests_per_second", &(1..=100)).map(number).and_then(NonZeroU32::new);
    let connect_timeout = section.duration(mistakes, "connect_timeout", &(Duration::from_millis(100)..=seconds(30)));
    let timeout = section.duration(mistakes, "timeout", &(Duration::from_millis(100)..=seconds(120)));
    let retries = section.integer(mistakes, "retries", &(0..=10)).map(number);
    let timeout = timeout.unwrap_or(default.timeout);
    let retries = retries.unwrap_or(default.retries);
    if let Some(connect_timeout) = connect_timeout
        && connect_timeout > timeout
    {
        let wrong = format!("{} is longer than {}", read::spell(connect_timeout), section.name("timeout"));
        let right = format!("a connection is part of a try: write at most {}", read::spell(timeout));
        mistakes.add(section.name("connect_timeout"), wrong, right);
    }
    section.finish(mistakes);
    ClientOptions {
        api_version: api_version.unwrap_or(default.api_version),
        requests_per_second: per_second.unwrap_or(default.requests_per_second),
        connect_timeout: connect_timeout.unwrap_or(default.connect_timeout.min(timeout)),
        timeout,
        retries,
        // A whole try must fit, and a job's every try.
        live_deadline: default.live_deadline.max(timeout + seconds(10)),
        background_deadline: default.background_deadline.max((timeout + seconds(5)) * (retries + 4)),
        ..default
    }
}

/// `2024-06-20`, or with the name of its train, `2026-10-28.endive` (docs.stripe.com/upgrades).
fn is_api_version(text: &str) -> bool {
    let (date, train) = text.split_once('.').unwrap_or((text, "train"));
    let named = !train.is_empty() && train.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    named && chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d").is_ok() && date.len() == 10
}

pub(super) fn catalog(root: &mut Section, mistakes: &mut Mistakes, warnings: &mut Vec<String>) -> Catalog {
    let Some(sections) = root.sections(mistakes, "plans") else { return Catalog::default() };
    let before = mistakes.0.len();
    let mut nameless = false;
    let plans: Vec<Plan> = sections
        .into_iter()
        .enumerate()
        .map(|(index, mut section)| {
            let had = mistakes.0.len();
            let tier = section.text(mistakes, "tier").unwrap_or_default();
            // Told once, by its type; the catalogue would tell it again as empty.
            let mistyped = mistakes.0.len() > had;
            nameless |= mistyped;
            let tier = if mistyped { format!("?{index}") } else { tier };
            let monthly_limit = section.integer(mistakes, "monthly_limit", &(0..=i64::from(i32::MAX))).map(number);
            let mut texts = |key| section.texts(mistakes, key).unwrap_or_default();
            let (prices, lookup_keys, products) = (texts("prices"), texts("lookup_keys"), texts("products"));
            if prices.is_empty() && lookup_keys.is_empty() && products.is_empty() && tier != billing::catalog::FREE {
                let name = section.name("prices");
                warnings.push(format!(
                    "{name}: no price, lookup key or product leads to the tier `{tier}`; only metadata.tier at Stripe does"
                ));
            }
            section.finish(mistakes);
            Plan { tier, monthly_limit, prices, lookup_keys, products }
        })
        .collect();
    let known = plans.len();
    Catalog::new(plans).unwrap_or_else(|errors| {
        // Of a list that could not be read in full, nobody knows what is missing.
        let partial = nameless || (known == 0 && mistakes.0.len() > before);
        mistakes.0.extend(
            errors
                .iter()
                .filter(|error| !(partial && matches!(error, CatalogError::NoFree | CatalogError::Empty)))
                .map(ToString::to_string),
        );
        Catalog::default()
    })
}

/// A number whose bounds were checked.
fn number(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A number whose bounds were checked.
fn size(number: i64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
