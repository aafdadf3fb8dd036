//! `[database]`: how the program connects, and what it asks of PostgreSQL.

use std::{ops::RangeInclusive, time::Duration};

use billing::db::{DbOptions, Pooler};

use super::read::{self, Mistakes, Section};

/// Connections that are left for requests, jobs and the processor at the least: two batches of the processor, one for whoever asks, one for jobs.
const SHARED: u32 = 4;

pub(super) fn database(root: &mut Section, mistakes: &mut Mistakes, sqlite: bool) -> DbOptions {
    let mut section = root.section(mistakes, "database");
    let default = DbOptions { max_connections: if sqlite { 8 } else { 10 }, ..DbOptions::default() };
    let seconds = Duration::from_secs;
    // Two writers and the renewal of leases, and what is left for others.
    let fewest = if sqlite { 2 } else { 7 };
    let bounds: RangeInclusive<i64> = fewest..=1000;
    let number = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
    let max_connections = section.integer(mistakes, "max_connections", &bounds).map(number);
    let reserved = section.integer(mistakes, "reserved_connections", &(0..=100)).map(number);
    let acquire_timeout = section.duration(mistakes, "acquire_timeout", &(Duration::from_millis(100)..=seconds(60)));
    let statement_timeout = section.duration(mistakes, "statement_timeout", &(seconds(1)..=seconds(3600)));
    let lock_timeout = section.duration(mistakes, "lock_timeout", &(Duration::from_millis(100)..=seconds(3600)));
    let idle = section.duration(mistakes, "idle_in_transaction_timeout", &(seconds(1)..=seconds(3600)));
    let application_name = section.text(mistakes, "application_name").filter(|name| {
        // What PostgreSQL would cut off or replace nobody finds again.
        let fits = !name.is_empty() && name.len() < 64 && name.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !fits {
            let right = "write 1 to 63 letters, digits and signs of ASCII";
            mistakes.add(section.name("application_name"), "is no name that PostgreSQL keeps", right);
        }
        fits
    });
    let slow = section.duration(mistakes, "slow_statement", &(Duration::ZERO..=seconds(3600)));
    let pooler = pooler(&mut section, mistakes);
    let options = DbOptions {
        max_connections: max_connections.unwrap_or(default.max_connections),
        reserved_connections: reserved.unwrap_or(default.reserved_connections),
        acquire_timeout: acquire_timeout.unwrap_or(default.acquire_timeout),
        statement_timeout: statement_timeout.unwrap_or(default.statement_timeout),
        lock_timeout,
        idle_in_transaction_timeout: idle.unwrap_or(default.idle_in_transaction_timeout),
        application_name,
        slow_statement: slow.or(default.slow_statement).filter(|threshold| !threshold.is_zero()),
        pooler,
    };
    if let Some(lock) = lock_timeout
        && lock > options.statement_timeout
    {
        let statement = read::spell(options.statement_timeout);
        let wrong = format!("{} is longer than {} ({statement})", read::spell(lock), section.name("statement_timeout"));
        mistakes.add(section.name("lock_timeout"), wrong, "a wait for a lock is part of a statement: lower it");
    }
    if let Some(reserved) = reserved
        && reserved.saturating_add(SHARED) > options.max_connections
    {
        let all = options.max_connections;
        let wrong = format!("{reserved} of {} ({all}) leave too few", section.name("max_connections"));
        let right = format!("leave {SHARED} or more: write at most {}", all.saturating_sub(SHARED));
        mistakes.add(section.name("reserved_connections"), wrong, right);
    }
    section.finish(mistakes);
    options
}

fn pooler(section: &mut Section, mistakes: &mut Mistakes) -> Pooler {
    let Some(text) = section.text(mistakes, "pooler") else { return Pooler::default() };
    match text.as_str() {
        "auto" => Pooler::Auto,
        "none" => Pooler::None,
        "transaction" => Pooler::Transaction,
        other => {
            let right = "write \"auto\" (look for one), \"none\" (also for one that keeps sessions) or \"transaction\"";
            mistakes.add(section.name("pooler"), format_args!("`{other}` is none of the three"), right);
            Pooler::default()
        }
    }
}
