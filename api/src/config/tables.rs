//! The tables of `trueup.toml`, each read into the options of the part it is about.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use billing::{
    catalog::{Catalog, CatalogError, Plan},
    inbox::InboxOptions,
    mail::{MailOptions, Sender, SmtpUrl},
    policy::Policy,
    processor::{ProcessorOptions, failure::Backoff},
    retention::{FEWEST_EVENT_DAYS, Retention},
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

/// How e-mails are sent, where a mail server is set.
pub(super) fn mail(
    root: &mut Section,
    mistakes: &mut Mistakes,
    warnings: &mut Vec<String>,
    set: bool,
    url: Option<SmtpUrl>,
) -> Option<MailOptions> {
    const LIKE: &str = "write one like \"Example <billing@example.com>\"";
    let mut section = root.section(mistakes, "mail");
    let mut address = |section: &mut Section, key| {
        let text = section.text(mistakes, key)?;
        let parsed = text.parse::<Sender>();
        if let Err(error) = &parsed {
            mistakes.add(section.name(key), error, LIKE);
        }
        Some(parsed.ok())
    };
    let from = address(&mut section, "from");
    let reply_to = address(&mut section, "reply_to").flatten();
    let product = section.text(mistakes, "product_name").filter(|name| !name.trim().is_empty());
    let templates = section.text(mistakes, "templates").map(PathBuf::from);
    let concurrency = section.integer(mistakes, "concurrency", &(1..=32)).map(size);
    let timeout = section.duration(mistakes, "timeout", &(seconds(1)..=seconds(300)));
    if !set {
        if from.is_some() {
            warnings.push(format!("{}: SMTP_URL is not set, so no e-mail is queued or sent", section.name("from")));
        }
        section.finish(mistakes);
        return None;
    }
    if from.is_none() {
        let wrong = "is not set although SMTP_URL is, so that nobody would know who writes";
        mistakes.add(section.name("from"), wrong, format_args!("{LIKE}, or unset SMTP_URL to send no e-mails"));
    }
    section.finish(mistakes);
    let (url, from) = (url?, from.flatten()?);
    Some(MailOptions {
        url,
        product: product.unwrap_or_else(|| from.product()),
        from,
        reply_to,
        templates,
        concurrency: concurrency.unwrap_or(4),
        timeout: timeout.unwrap_or(seconds(30)),
        holder: String::new(),
    })
}

pub(super) fn retention(root: &mut Section, mistakes: &mut Mistakes) -> Retention {
    let mut section = root.section(mistakes, "retention");
    let default = Retention::default();
    let mut days = |section: &mut Section, key| section.integer(mistakes, key, &(1..=36_500)).map(number);
    let payload = days(&mut section, "payload_days");
    let event = days(&mut section, "event_days");
    let email = days(&mut section, "email_days");
    let job_run_days = days(&mut section, "job_run_days").unwrap_or(default.job_run_days);
    let usage_record_days = days(&mut section, "usage_record_days").unwrap_or(default.usage_record_days);
    let reconciliation_days = days(&mut section, "reconciliation_days").unwrap_or(default.reconciliation_days);
    let event_days = event.unwrap_or(default.event_days.max(payload.unwrap_or(0)));
    let payload_days = payload.unwrap_or(default.payload_days.min(event_days));
    let email_days = email.unwrap_or(default.email_days.max(event_days));
    if event_days < FEWEST_EVENT_DAYS {
        let wrong = format!(
            "{event_days} is too few: Stripe can send an event again for 30 days, and without its row it would be taken for a new one"
        );
        mistakes.add(section.name("event_days"), wrong, format_args!("write {FEWEST_EVENT_DAYS} or more"));
    }
    if payload_days > event_days {
        let wrong = format!("{payload_days} is more than {} ({event_days})", section.name("event_days"));
        mistakes.add(section.name("payload_days"), wrong, "a payload goes with its event at the latest: lower it");
    }
    if email_days < event_days {
        let wrong = format!(
            "{email_days} is less than {} ({event_days}), so that a replayed event could send an e-mail twice",
            section.name("event_days")
        );
        mistakes.add(section.name("email_days"), wrong, "raise it");
    }
    section.finish(mistakes);
    Retention { payload_days, event_days, email_days, job_run_days, usage_record_days, reconciliation_days }
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
