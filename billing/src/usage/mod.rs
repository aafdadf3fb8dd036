//! Usage: how much of an allowance is used, in which window, and what happens by date.
//!
//! - `window`: the windows themselves, pure
//! - `roll`: whoever is due gets the window, and the entitlement, of now
//! - `take`: consume, once per key; release
//! - `jobs`: rolling everybody who is due, in bounded batches
//!
//! Each window is a row of the ledger (`usage_periods`), and the open one is mirrored in `users`. Nothing is ever set back to zero: the
//! next window is another row. What a moment changes is derived from facts and that moment alone, so it does not matter who comes by,
//! how late, or how often.

mod jobs;
mod roll;
mod take;
mod window;

use std::{fmt, sync::Arc};

use entity::Time;
use sea_orm::{ConnectionTrait, DbErr};

pub use self::{
    jobs::{Expired, Reset},
    roll::Rolled,
    take::{Figures, MAX_AMOUNT, MAX_KEY_LENGTH, ReleaseError, ReleaseOutcome, Released, Taken, UsageError},
    window::{OpenWindow, Source, Window},
};
use crate::{
    catalog::Catalog,
    db::Db,
    policy::Policy,
    store::{inbox::clock, usage},
};

/// Counts usage by a catalogue and a policy.
#[derive(Debug, Clone, Copy)]
pub struct Meter<'a> {
    db: &'a Db,
    catalog: &'a Catalog,
    policy: &'a Policy,
    now: Option<Time>,
}

impl<'a> Meter<'a> {
    /// A meter that goes by the database's clock.
    pub fn new(db: &'a Db, catalog: &'a Catalog, policy: &'a Policy) -> Self {
        Self { db, catalog, policy, now: None }
    }

    /// The same meter, for which it is always `now`.
    #[must_use]
    pub fn at(self, now: Time) -> Self {
        Self { now: Some(now), ..self }
    }

    /// The moment that counts.
    async fn now(&self, db: &impl ConnectionTrait) -> Result<Time, DbErr> {
        match self.now {
            Some(now) => Ok(now),
            None => clock(db).await,
        }
    }
}

/// Users for whom a moment has passed at which their window rolls or their entitlement changes by date, and whom nobody has rolled since.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Overdue {
    /// How many.
    pub users: i64,
    /// How long ago the oldest of these moments was, in seconds; 0 where there is none.
    pub oldest_seconds: f64,
}

/// Who is overdue at this moment.
pub async fn overdue(db: &Db) -> Result<Overdue, DbErr> {
    let Some(row) = usage::overdue(db.reader()).await? else { return Ok(Overdue::default()) };
    let age = |since: Time| (row.now - since).as_seconds_f64().max(0.0);
    Ok(Overdue { users: row.users, oldest_seconds: row.since.map_or(0.0, age) })
}

type Watcher = dyn Fn(&Rolled) + Send + Sync;

/// Told of every batch that rolled somebody, for metrics; the default tells nobody.
#[derive(Clone, Default)]
pub struct Watch(Option<Arc<Watcher>>);

impl Watch {
    /// Tells `watcher`.
    pub fn new(watcher: impl Fn(&Rolled) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watcher)))
    }

    fn tell(&self, rolled: &Rolled) {
        if let Some(watcher) = &self.0 {
            watcher(rolled);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch(…)")
    }
}
