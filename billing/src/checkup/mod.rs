//! What is wrong with what is stored and with what Stripe lets us do, for a person: each with what would mend it.
//!
//! - `stored`: what the database tells
//! - `stripe`: whether the key may read what is needed, whose it is, and whether the clocks agree
//! - `delivery`: our endpoint at Stripe
//! - `plans`: whether plans and prices at Stripe lead to each other

mod delivery;
mod plans;
mod stored;
mod stripe;

use chrono::TimeDelta;
use serde::Serialize;

pub use self::{
    stored::{remembered_account, stored},
    stripe::{Asked, account, stripe},
};

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, and should be looked at.
    Warn,
    /// It does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What was looked at, for example `events`.
    pub area: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub what: String,
    /// What would mend it; none where all is well.
    pub remedy: Option<String>,
}

impl Item {
    /// Something that is as it should be.
    pub fn ok(area: &'static str, what: impl Into<String>) -> Self {
        Self { area, state: State::Ok, what: what.into(), remedy: None }
    }

    /// Something that should be looked at.
    pub fn warn(area: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { area, state: State::Warn, what: what.into(), remedy: Some(remedy.into()) }
    }

    /// Something that does not work.
    pub fn bad(area: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { area, state: State::Bad, what: what.into(), remedy: Some(remedy.into()) }
    }
}

/// Things that are named in one line.
const NAMED: usize = 5;

/// A few of them, and how many more there are.
fn listed(all: &[String]) -> String {
    let more = all.len().saturating_sub(NAMED);
    let named = all[..all.len().min(NAMED)].join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

/// A span of time, roughly.
fn spell(span: TimeDelta) -> String {
    match (span.num_days(), span.num_hours(), span.num_minutes()) {
        (days, ..) if days >= 2 => format!("{days} days"),
        (_, hours, _) if hours >= 2 => format!("{hours} hours"),
        (.., minutes) => format!("{} minutes", minutes.max(0)),
    }
}
