//! Rolling everybody who is due. What a run does not finish, the next one goes on with; several at once share the work.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use entity::ids::UserId;
use sea_orm::{DbBackend, DbErr};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Meter, Rolled, Watch, roll::roll_plain};
use crate::{
    db::{Blame, blame, is_out_of_locks},
    progress::Progress,
    store::usage::{By, Place, count_due, due, plain_due},
};

/// Users in one transaction, where it is enough to find their window. Their rows are held meanwhile, for about a tenth of a second.
const PLAIN_BATCH: u64 = 4000;

/// Users in one transaction, where everything is derived from the facts.
const FACTS_BATCH: u64 = 500;

/// What a reset did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Reset {
    /// Users who were due.
    pub users: u64,
    /// Windows that began, or were entered again.
    pub windows_opened: u64,
    /// Windows that were left.
    pub windows_closed: u64,
    /// Users whose entitlement ended, or changed, by date.
    pub entitlements_ended: u64,
    /// Transactions.
    pub batches: u64,
    /// Users in the largest of them.
    pub largest_batch: u64,
    /// Users who could not be rolled for what is stored of them; the log tells who, and why.
    pub failed: u64,
}

/// What ending by date did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Expired {
    /// Users whose date had come.
    pub users: u64,
    /// Of these, those for whom it made a difference.
    pub entitlements_ended: u64,
    /// Transactions.
    pub batches: u64,
    /// Users who could not be rolled for what is stored of them; the log tells who, and why.
    pub failed: u64,
}

/// What several workers count together.
#[derive(Debug, Default)]
struct Tally(Mutex<Reset>);

impl Tally {
    fn reset(&self) -> MutexGuard<'_, Reset> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, rolled: Rolled) {
        let mut reset = self.reset();
        reset.users += rolled.users;
        reset.windows_opened += rolled.opened;
        reset.windows_closed += rolled.closed;
        reset.entitlements_ended += rolled.expired;
        reset.batches += 1;
        reset.largest_batch = reset.largest_batch.max(rolled.users);
    }
}

/// One run, with who is told of it.
struct Run<'a> {
    meter: Meter<'a>,
    stop: &'a CancellationToken,
    progress: &'a Progress,
    watch: &'a Watch,
    tally: Tally,
}

impl Meter<'_> {
    /// Rolls everybody who is due: gives each the window of now, and what they may do now. `report` tells what was done by then also where
    /// it ends in an error; once `stop` is cancelled it ends between two batches.
    ///
    /// Mostly windows are over and nothing else: those users go in large batches, two at once on PostgreSQL. Whoever another transaction
    /// holds is passed over then, and comes last, together with those for whom everything has to be derived anew.
    pub async fn reset(
        &self,
        stop: &CancellationToken,
        progress: &Progress,
        watch: &Watch,
        report: &mut Reset,
    ) -> Result<(), DbErr> {
        let run = Run { meter: *self, stop, progress, watch, tally: Tally::default() };
        progress.expect(count_due(self.db.reader(), self.now(self.db.reader()).await?).await?);
        let ended = run.reset().await;
        *report = *run.tally.reset();
        ended
    }

    /// Lets access end that ends by date: scheduled ends, grace, overrides. Ends like [`Meter::reset`].
    pub async fn expire(
        &self,
        stop: &CancellationToken,
        progress: &Progress,
        watch: &Watch,
        report: &mut Expired,
    ) -> Result<(), DbErr> {
        let run = Run { meter: *self, stop, progress, watch, tally: Tally::default() };
        let ended = run.by_facts(By::Entitlement).await;
        let Reset { users, entitlements_ended, batches, failed, .. } = *run.tally.reset();
        *report = Expired { users, entitlements_ended, batches, failed };
        ended
    }
}

impl Run<'_> {
    async fn reset(&self) -> Result<(), DbErr> {
        let place = tokio::sync::Mutex::new(Some(Place::first()));
        if self.meter.db.backend() == DbBackend::Postgres {
            tokio::try_join!(self.plainly(&place), self.plainly(&place))?;
        } else {
            self.plainly(&place).await?;
        }
        self.by_facts(By::Roll).await
    }

    /// Takes batch after batch of those for whom it is enough to find their window, from where the other worker is.
    async fn plainly(&self, place: &tokio::sync::Mutex<Option<Place>>) -> Result<(), DbErr> {
        while !self.stop.is_cancelled() {
            let tx = self.meter.db.write().await?;
            let (now, rows) = {
                let mut place = place.lock().await;
                let Some(after) = *place else { return Ok(()) };
                let now = self.meter.now(&*tx).await?;
                let rows = plain_due(&*tx, now, after, PLAIN_BATCH).await?;
                *place = rows.last().map(|row| Place { at: row.rolls_at, id: row.id });
                (now, rows)
            };
            if rows.is_empty() {
                return Ok(());
            }
            let rolled = roll_plain(&*tx, self.meter.catalog, now, rows).await?;
            tx.commit().await?;
            self.done(rolled);
        }
        Ok(())
    }

    /// Takes batch after batch of those who are due, whatever for.
    async fn by_facts(&self, by: By) -> Result<(), DbErr> {
        let db = self.meter.db;
        let now = self.meter.now(db.reader()).await?;
        let mut after = Place::first();
        while !self.stop.is_cancelled() {
            let places = due(db.reader(), by, now, after, FACTS_BATCH).await?;
            let Some(last) = places.last() else { break };
            after = *last;
            self.roll_group(places.into_iter().map(|place| place.id).collect()).await?;
        }
        Ok(())
    }

    /// Rolls a group, and halves it as long as the data of somebody in it is refused: one user never holds up the others.
    async fn roll_group(&self, users: Vec<UserId>) -> Result<(), DbErr> {
        let mut groups = vec![users];
        while let Some(mut group) = groups.pop() {
            let set: BTreeSet<UserId> = group.iter().copied().collect();
            match self.meter.roll_by_facts(&set).await {
                Ok(rolled) => self.done(rolled),
                Err(error) if blame(&error) == Blame::Data || is_out_of_locks(&error) => {
                    if group.len() > 1 {
                        groups.push(group.split_off(group.len() / 2));
                        groups.push(group);
                        continue;
                    }
                    if blame(&error) == Blame::Surroundings {
                        return Err(error);
                    }
                    for user in group {
                        tracing::error!(%user, %error, "a user cannot be rolled, for what is stored of them; mend it, they stay due");
                    }
                    self.tally.reset().failed += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn done(&self, rolled: Rolled) {
        self.tally.add(rolled);
        self.progress.add(rolled.users);
        self.watch.tell(&rolled);
    }
}
