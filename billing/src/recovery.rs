//! Events that never arrived, fetched from Stripe's Events API into the inbox, where they go the way of every other.
//!
//! The API lists the newest first, is a little behind the truth and forgets after 30 days (node `Events.d.ts`). So what is asked for ends two minutes
//! before now and begins some minutes before the end of what is known to be stored; whatever comes twice is recognised by its id. Time is taken in
//! slices, oldest first: a slice is fetched whole, stored, and only then does the cursor move over it. A webhook that arrives
//! by itself never moves the cursor, so that it hides nothing older.

use std::{cmp::Reverse, collections::BTreeMap, mem};

use chrono::{DurationRound, TimeDelta};
use entity::{Time, enums::EventSource, stripe_cursors};
use sea_orm::{ColumnTrait, Condition, DbErr, EntityTrait, QueryFilter, sea_query::Expr};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    db::{Blame, Db, blame},
    event::VerifiedEvent,
    events::event_types,
    inbox::{IntakeRules, route, row},
    progress::Progress,
    skip::SkipReason,
    store::{
        inbox::{NewEvent, clock, insert, now},
        rowset::{OnConflict, upsert},
    },
    stripe::{Collection, Lane, Stripe, StripeError},
};

/// Name of the cursor.
const CURSOR: &str = "events";

/// Stripe's index of events is behind by up to a minute.
const LAG: TimeDelta = TimeDelta::minutes(2);

/// How far before the cursor is asked for again.
const OVERLAP: TimeDelta = TimeDelta::minutes(10);

/// Stripe forgets events after 30 days; the last hour is left to whoever is slower than that.
const REACH: TimeDelta = TimeDelta::hours(30 * 24 - 1);

/// Types that one call may name (node `EventListParams`).
const TYPES: usize = 20;

/// Slices of time: the first, the longest, the shortest.
const SLICE: TimeDelta = TimeDelta::hours(1);
const LONGEST: TimeDelta = TimeDelta::days(1);
const SHORTEST: TimeDelta = TimeDelta::seconds(1);

/// What a slice may hold; one that holds more is cut in two, down to a second, which is stored in parts.
const SLICE_EVENTS: usize = 1000;
const SLICE_BYTES: usize = 8 << 20;

/// What one statement may hold.
const BATCH_EVENTS: usize = 256;
const BATCH_BYTES: usize = 4 << 20;

/// What a recovery did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// True where there was no cursor: the first one is now, and nothing was asked for.
    pub first: bool,
    /// The second from which on events were asked for.
    pub from: Option<Time>,
    /// The second up to which every event is stored now.
    pub until: Option<Time>,
    /// Pages that came.
    pub pages: u64,
    /// Events that came, those that were known among them.
    pub seen: u64,
    /// Events that the inbox lacked and has now.
    pub stored: u64,
    /// Of these, stored only: not ours to apply.
    pub skipped: u64,
    /// The same by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped_by: BTreeMap<SkipReason, u64>,
    /// What Stripe sent and what is no event, or cannot be held by the database. It is told in the log, and gone over.
    pub refused: u64,
    /// The time of which Stripe has forgotten the events, where there is any: nobody can recover it, and only a reconciliation repairs what they told.
    pub lost: Option<Lost>,
}

/// A time of which Stripe has forgotten the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Since when nothing is known.
    pub from: Time,
    /// Until when.
    pub until: Time,
}

/// Why a recovery did not come to its end. What was stored is stored, and the cursor stands after it.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Stripe.
    #[error(transparent)]
    Stripe(StripeError),
    /// The database.
    #[error("events could not be recovered: {0}")]
    Database(DbErr),
    /// It was told to stop.
    #[error("the recovery was stopped before its end; the next one goes on")]
    Stopped,
    /// Stripe has forgotten some.
    #[error(
        "the events between {} and {} are older than the 30 days for which Stripe keeps them, so that they cannot be recovered any more; run \
         `trueup reconcile`, which repairs what they told",
        .0.from.to_rfc3339(), .0.until.to_rfc3339()
    )]
    Lost(Lost),
}

/// A recovery that did not come to its end, and what it did.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Unfinished {
    /// Why.
    pub error: RecoverError,
    /// What it did.
    pub report: Report,
}

/// What a recovery works with.
#[derive(Debug, Clone, Copy)]
pub struct Recovery<'r> {
    /// The database.
    pub db: &'r Db,
    /// Stripe's API.
    pub stripe: &'r dyn Stripe,
    /// Which events are ours to apply.
    pub intake: &'r IntakeRules,
}

impl From<StripeError> for RecoverError {
    fn from(error: StripeError) -> Self {
        Self::Stripe(error)
    }
}

impl From<DbErr> for RecoverError {
    fn from(error: DbErr) -> Self {
        Self::Database(error)
    }
}

impl Recovery<'_> {
    /// Stores what the inbox lacks of the events since the cursor, or since `since`. Whoever knows the processor wakes it where something was stored.
    pub async fn run(
        self,
        since: Option<Time>,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> Result<Report, Box<Unfinished>> {
        let mut report = Report::default();
        match Box::pin(self.work(since, progress, stop, &mut report)).await {
            Ok(()) => match report.lost {
                None => Ok(report),
                // Once; the cursor stands after it.
                Some(lost) => Err(Box::new(Unfinished { error: RecoverError::Lost(lost), report })),
            },
            Err(error) => Err(Box::new(Unfinished { error, report })),
        }
    }

    async fn work(
        self,
        since: Option<Time>,
        progress: &Progress,
        stop: &CancellationToken,
        report: &mut Report,
    ) -> Result<(), RecoverError> {
        let now = whole_second(clock(self.db.reader()).await?);
        let cursor = stripe_cursors::Entity::find_by_id(CURSOR).one(self.db.reader()).await?;
        let cursor = cursor.and_then(|row| row.last_created);
        let until = now - LAG;
        let wanted = match (since, cursor) {
            (Some(since), _) => whole_second(since),
            (None, Some(cursor)) => cursor - OVERLAP,
            (None, None) => {
                report.first = true;
                report.until = Some(now);
                return Ok(move_cursor(self.db, now, None).await?);
            }
        };
        let reach = now - REACH;
        let from = wanted.max(reach);
        // Of the overlap everything is stored.
        let known = cursor.unwrap_or(wanted).max(wanted);
        if known < reach {
            report.lost = Some(Lost { from: known, until: reach });
        }
        report.from = Some(from);
        // Where what is asked for does not begin within what is known, the cursor must not jump over what lies between.
        let joins = cursor.is_none_or(|cursor| from <= cursor.max(reach));
        progress.expect(u64::try_from((until - from).num_seconds()).unwrap_or(0));
        let (mut begin, mut slice) = (from, SLICE);
        while begin <= until {
            if stop.is_cancelled() {
                return Err(RecoverError::Stopped);
            }
            let end = (begin + slice - SHORTEST).min(until);
            let came = self.fetch(begin, end, report).await?;
            let Some(came) = came else {
                slice = TimeDelta::seconds(slice.num_seconds() / 2).max(SHORTEST);
                continue;
            };
            let last = came.events.first().map(|event| event.event_id.to_string());
            self.store(came.events, report).await?;
            if joins {
                move_cursor(self.db, end, last).await?;
            }
            report.until = Some(end);
            progress.add(u64::try_from((end - begin).num_seconds() + 1).unwrap_or(0));
            if came.pages <= groups().count() as u64 {
                slice = (slice * 2).min(LONGEST);
            }
            begin = end + SHORTEST;
        }
        Ok(())
    }

    /// The events of a slice, newest first; nothing where there are too many to be held.
    async fn fetch(self, begin: Time, end: Time, report: &mut Report) -> Result<Option<Slice>, RecoverError> {
        let mut slice = Slice::default();
        for types in groups() {
            let collection = Collection::Events { types, created_gte: begin, created_lte: end };
            let mut after: Option<String> = None;
            loop {
                let page = self.stripe.list(&collection, after.as_deref(), Lane::Background).await?;
                report.pages += 1;
                slice.pages += 1;
                report.seen += page.objects.len() as u64;
                let last = page.objects.last().map(|object| object.id.clone());
                for object in page.objects {
                    slice.bytes += object.object.len();
                    match VerifiedEvent::fetched(&object.object) {
                        Ok(event) => {
                            let arrival = route(&event, self.intake);
                            slice.events.push(row(event, arrival, EventSource::Recovery).0);
                        }
                        Err(error) => {
                            report.refused += 1;
                            tracing::warn!(%error, "Stripe's list of events held what is none");
                        }
                    }
                }
                if slice.events.len() > SLICE_EVENTS || slice.bytes > SLICE_BYTES {
                    if end > begin {
                        return Ok(None);
                    }
                    // No slice is shorter: what there is goes into the inbox, and the cursor waits for the rest.
                    self.store(mem::take(&mut slice.events), report).await?;
                    slice.bytes = 0;
                }
                if !page.has_more {
                    break;
                }
                if last.is_none() || last == after {
                    let message = "a page of events said that there are more, and began nowhere".to_owned();
                    return Err(StripeError::Protocol { message, request: None }.into());
                }
                after = last;
            }
        }
        slice.events.sort_by(|a, b| Reverse((a.created, &a.event_id)).cmp(&Reverse((b.created, &b.event_id))));
        Ok(Some(slice))
    }

    /// Stores events, the oldest first, a few hundred in a statement.
    async fn store(self, mut newest_first: Vec<NewEvent>, report: &mut Report) -> Result<(), RecoverError> {
        while !newest_first.is_empty() {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while let Some(event) = newest_first.pop() {
                bytes += event.payload.len();
                batch.push(event);
                let next = newest_first.last().map_or(0, |next| next.payload.len());
                if batch.len() == BATCH_EVENTS || bytes + next > BATCH_BYTES {
                    break;
                }
            }
            // As the inbox's own writers do: in the order of their ids, so that two statements never lock each other out.
            batch.sort_by(|a, b| a.event_id.cmp(&b.event_id));
            batch.dedup_by(|a, b| a.event_id == b.event_id);
            match self.insert(&batch).await {
                Ok(stored) => count(report, &batch, &stored),
                Err(error) if blame(&error) == Blame::Data => {
                    for event in batch {
                        match self.insert(std::slice::from_ref(&event)).await {
                            Ok(stored) => count(report, &[event], &stored),
                            Err(error) if blame(&error) == Blame::Data => {
                                report.refused += 1;
                                tracing::warn!(event_id = %event.event_id, "the database cannot hold an event");
                            }
                            Err(error) => return Err(error.into()),
                        }
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn insert(self, batch: &[NewEvent]) -> Result<Vec<String>, DbErr> {
        let tx = self.db.write().await?;
        let stored = insert(&*tx, batch).await?;
        tx.commit().await?;
        Ok(stored)
    }
}

/// What a slice of time holds.
#[derive(Default)]
struct Slice {
    events: Vec<NewEvent>,
    bytes: usize,
    pages: u64,
}

/// All types that change something here, in groups that one call may name.
fn groups() -> impl Iterator<Item = Vec<&'static str>> {
    let types: Vec<_> = event_types().collect();
    types.chunks(TYPES).map(<[_]>::to_vec).collect::<Vec<_>>().into_iter()
}

fn count(report: &mut Report, batch: &[NewEvent], stored: &[String]) {
    report.stored += stored.len() as u64;
    let new = batch.iter().filter(|event| stored.iter().any(|id| id == event.event_id.as_str()));
    for reason in new.filter_map(|event| event.skip_reason) {
        report.skipped += 1;
        *report.skipped_by.entry(reason).or_default() += 1;
    }
}

fn whole_second(at: Time) -> Time {
    at.duration_trunc(SHORTEST).unwrap_or(at)
}

/// Moves the cursor forward, never back: another replica may be further.
async fn move_cursor(db: &Db, to: Time, last_event_id: Option<String>) -> Result<(), DbErr> {
    use stripe_cursors::{Column, Entity, Model};
    let tx = db.write().await?;
    let row =
        Model { name: CURSOR.to_owned(), last_event_id: None, last_created: None, updated_at: clock(&*tx).await? };
    upsert::<Entity>(&*tx, &[row], OnConflict::KeepWhereEqual("name")).await?;
    let mut update = Entity::update_many()
        .col_expr(Column::LastCreated, Expr::val(to))
        .col_expr(Column::UpdatedAt, Expr::cust(now(db.backend())))
        .filter(Column::Name.eq(CURSOR))
        .filter(Condition::any().add(Column::LastCreated.is_null()).add(Column::LastCreated.lt(to)));
    if let Some(id) = last_event_id {
        update = update.col_expr(Column::LastEventId, Expr::val(id));
    }
    update.exec(&*tx).await?;
    tx.commit().await
}

/// The second up to which every event is stored; none before the first recovery.
pub async fn stored_until(db: &Db) -> Result<Option<Time>, DbErr> {
    let row = stripe_cursors::Entity::find_by_id(CURSOR).one(db.reader()).await?;
    Ok(row.and_then(|row| row.last_created))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_names_at_most_twenty_types_and_all_calls_name_all() {
        assert!(groups().all(|group| (1..=20).contains(&group.len())));
        assert!(groups().flatten().eq(event_types()));
    }
}
