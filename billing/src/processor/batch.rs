//! One batch: claim, read, load, apply, save, mark, commit; and what happens when that fails.

use std::time::Duration;

use entity::{
    Time,
    enums::{ChangeSource, EventSource, ProcessingStatus},
    ids::SubscriptionId,
};
use sea_orm::DbErr;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Outcome, Pass, Processor,
    failure::{PARKED_AT_MOST, chain, details, fingerprint, parked_pause, short},
    load::{Access, Needs, load},
    save::save,
};
use crate::{
    apply::{Applied, Cause, Rules, Verdict, apply},
    db::{Blame, blame, is_out_of_locks},
    events::{self, Reading, Told, Unreadable},
    facts::{Merge, Stamp},
    store::inbox::{self, ClaimLimits, ClaimedRow, Mark},
    stripe::{Lane, Resource, StripeError},
};

/// An event that was claimed and read.
struct Ready {
    row: ClaimedRow,
    stamp: Stamp,
    told: Box<Told>,
}

/// Why a group of events could not be applied.
enum Trouble {
    /// The data of one of them.
    Data(DbErr),
    /// The surroundings; nothing is counted.
    Surroundings(DbErr),
    /// Somebody else holds them by now.
    LeaseLost,
}

impl Trouble {
    /// Whether half of the events may fare better.
    fn halves(&self) -> bool {
        match self {
            Self::Data(_) => true,
            Self::Surroundings(error) => is_out_of_locks(error),
            Self::LeaseLost => false,
        }
    }
}

impl From<DbErr> for Trouble {
    fn from(error: DbErr) -> Self {
        match blame(&error) {
            Blame::Data => Self::Data(error),
            Blame::Surroundings => Self::Surroundings(error),
        }
    }
}

impl Processor {
    /// Claims one batch and sees it through. An error means that not even that was possible.
    pub(super) async fn batch(
        &self,
        suspects: bool,
        stop: &CancellationToken,
        more: &Notify,
        pass: &mut Pass,
    ) -> Result<(), DbErr> {
        let begun = Instant::now();
        let token = Uuid::new_v4();
        let rows = self.claim(token, suspects).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let events = rows.len();
        if !suspects && events == self.options.batch_events as usize {
            more.notify_one();
        }
        // What takes long is kept; what is lost meanwhile is noticed when it is marked.
        let renewing = async {
            loop {
                tokio::time::sleep(self.options.lease / 3).await;
                if let Err(error) = self.renew(token).await {
                    tracing::warn!(%error, "a claim could not be renewed");
                }
            }
        };
        tokio::select! {
            () = self.see_through(token, rows, stop, pass) => {}
            () = renewing => {}
        }
        pass.batches.push((events, begun.elapsed().as_secs_f64()));
        Ok(())
    }

    async fn renew(&self, token: Uuid) -> Result<(), DbErr> {
        let tx = self.db.write().await?;
        inbox::renew(&*tx, token, self.options.lease.as_secs_f64()).await?;
        tx.commit().await
    }

    async fn claim(&self, token: Uuid, suspects: bool) -> Result<Vec<ClaimedRow>, DbErr> {
        let options = &self.options;
        let limits = ClaimLimits {
            events: if suspects { 1 } else { options.batch_events },
            bytes: options.batch_bytes,
            lease_seconds: options.lease.as_secs_f64(),
            suspects,
        };
        if self.db.backend() == sea_orm::DbBackend::Postgres {
            return inbox::claim(self.db.reader(), limits, &options.holder, token).await;
        }
        let tx = self.db.write().await?;
        let rows = inbox::claim(&*tx, limits, &options.holder, token).await?;
        tx.commit().await?;
        Ok(rows)
    }

    /// Reads every event, applies them together, and halves the group as long as its data is refused.
    async fn see_through(&self, token: Uuid, rows: Vec<ClaimedRow>, stop: &CancellationToken, pass: &mut Pass) {
        let mut ready = Vec::with_capacity(rows.len());
        for row in rows {
            match self.read(row).await {
                Ok(Read::Ready(event)) => ready.push(event),
                Ok(Read::Nothing(row, reason)) => {
                    let mark = Mark { error: Some(reason.to_owned()), ..mark_of(&row, ProcessingStatus::Skipped) };
                    if self.settle(token, &mark, pass).await {
                        pass.count(Outcome::Skipped);
                    }
                }
                // Given back below, uncounted: the API's troubles are not the event's.
                Err((row, ReadError::Stripe(error))) if error.may_pass() => {
                    tracing::warn!(event_id = %row.event_id, %error, "an object could not be fetched");
                    pass.disturbed = true;
                }
                Err((row, error)) => self.fail(token, &row, error.kind(), &chain(error.as_error()), pass).await,
            }
        }
        // A stack of groups; the front of the batch is on top, so events stay in order as far as they can be applied at all.
        let mut groups = vec![ready];
        while let Some(mut group) = groups.pop() {
            if group.is_empty() {
                continue;
            }
            if stop.is_cancelled() && !groups.is_empty() {
                break;
            }
            match self.apply_group(token, &group, pass).await {
                Ok(()) => {}
                Err(Trouble::Data(error)) if group.len() == 1 => {
                    let row = &group[0].row;
                    self.fail(token, row, "database", &chain(&error), pass).await;
                }
                Err(trouble) if group.len() > 1 && trouble.halves() => {
                    let rest = group.split_off(group.len() / 2);
                    groups.push(rest);
                    groups.push(group);
                }
                Err(Trouble::Data(error) | Trouble::Surroundings(error)) => {
                    tracing::warn!(%error, "events could not be applied for reasons that are not theirs; given back");
                    pass.disturbed = true;
                    break;
                }
                Err(Trouble::LeaseLost) => {
                    tracing::warn!("a claim ran out while its events were applied; nothing of that was kept");
                    pass.disturbed = true;
                    break;
                }
            }
        }
        if !groups.is_empty() || pass.disturbed {
            self.give_back(token).await;
        }
    }

    /// What an event tells, its thin form fetched. No transaction is open here.
    async fn read(&self, row: ClaimedRow) -> Result<Read, (ClaimedRow, ReadError)> {
        let at = row.stripe_created_at.unwrap_or(row.created_at);
        let mut stamp = Stamp { at, event_id: row.event_id.to_string() };
        let reading = match events::read(&row.event_type, &row.payload, &stamp) {
            Ok(reading) => reading,
            Err(error) => return Err((row, error.into())),
        };
        let reading = match (reading, &self.stripe) {
            (Reading::Thin(_), None) => {
                return Ok(Read::Nothing(row, "a thin event, and no STRIPE_SECRET_KEY to fetch its object with"));
            }
            (Reading::Thin(related), Some(stripe)) => {
                let Some(resource) = Resource::of(&related) else {
                    return Ok(Read::Nothing(row, "a thin event about a kind of object that changes nothing here"));
                };
                let fetched = match stripe.get(&resource, Lane::Live).await {
                    Ok(fetched) => fetched,
                    Err(error) => return Err((row, error.into())),
                };
                stamp.at = fetched.at;
                match events::read_fetched(&row.event_type, &fetched.object, &stamp) {
                    Ok(reading) => reading,
                    Err(error) => return Err((row, error.into())),
                }
            }
            (reading, _) => reading,
        };
        Ok(match reading {
            Reading::Told(told) => Read::Ready(Ready { row, stamp, told }),
            Reading::Nothing(reason) => Read::Nothing(row, reason),
            Reading::Thin(_) => Read::Nothing(row, "a thin event whose object is a thin event"),
        })
    }

    /// Applies a group in one transaction: all of it, or nothing.
    async fn apply_group(&self, token: Uuid, group: &[Ready], pass: &mut Pass) -> Result<(), Trouble> {
        let mut needs = Needs::default();
        for event in group {
            needs.add(&event.told);
        }
        let tx = self.db.write().await?;
        inbox::lock_keys(&*tx, needs.lock_keys()).await?;
        let mut world = load(&*tx, &needs, Access::Write).await?;
        let now = group[0].row.db_now;
        let rules = Rules { catalog: &self.catalog, policy: &self.policy, now };
        let mut applied: Vec<Applied> = Vec::with_capacity(group.len());
        for event in group {
            let source = match event.row.source {
                EventSource::Recovery => ChangeSource::Recovery,
                EventSource::Webhook | EventSource::Replay => ChangeSource::Webhook,
            };
            let cause = Cause { event_type: &event.row.event_type, source, stamp: &event.stamp };
            applied.push(apply(&mut world, (*event.told).clone(), cause, rules));
        }
        let changes: Vec<_> = applied.iter().flat_map(|a| a.changes.iter().cloned()).collect();
        let emails = distinct_emails(&applied);
        save(&*tx, &world, &changes, &emails, &self.catalog, now).await?;
        let marks: Vec<Mark> = group
            .iter()
            .zip(&applied)
            .map(|(event, applied)| {
                // What was parked above and freed by a later event of the same batch is due at once.
                let freed = |id: &SubscriptionId| world.subscription(id).is_some_and(|s| s.owner.is_some());
                verdict_mark(&event.row, applied, now, freed)
            })
            .collect();
        if inbox::mark(&*tx, token, &marks).await? != marks.len() as u64 {
            return Err(Trouble::LeaseLost);
        }
        tx.commit().await?;
        pass.emails += emails.len();
        report(group, &applied, &marks, changes.len(), pass);
        Ok(())
    }

    /// Counts a failed attempt of one event.
    async fn fail(&self, token: Uuid, row: &ClaimedRow, kind: &'static str, chain: &[String], pass: &mut Pass) {
        let attempts = row.processing_attempts + 1;
        let tried = u32::try_from(attempts).unwrap_or(u32::MAX);
        let pause = self.options.backoff.pause(tried, rand::random::<f64>());
        let message = chain.last().map(|text| short(text)).unwrap_or_default();
        let status = if pause.is_some() { ProcessingStatus::Pending } else { ProcessingStatus::Failed };
        let mark = Mark {
            attempts,
            details: Some(details(row.processing_error_details.as_ref(), kind, chain, tried, row.db_now)),
            fingerprint: Some(fingerprint(&row.event_type, kind, &message)),
            error: Some(message),
            delay: pause,
            ..mark_of(row, status)
        };
        if !self.settle(token, &mark, pass).await {
            return;
        }
        let (event_id, event_type, fingerprint) = (&row.event_id, &row.event_type, mark.fingerprint.as_deref());
        if status == ProcessingStatus::Failed {
            tracing::error!(%event_id, %event_type, attempts, kind, fingerprint, "an event failed for the last time and waits for a person");
            pass.count(Outcome::Failed);
        } else {
            tracing::warn!(%event_id, %event_type, attempts, kind, fingerprint, "an event failed and is tried again");
            pass.count(Outcome::Retried);
        }
    }

    /// Marks one event in a transaction of its own; false where that was not possible, and the claim will run out.
    async fn settle(&self, token: Uuid, mark: &Mark, pass: &mut Pass) -> bool {
        let settled = async {
            let tx = self.db.write().await?;
            let marked = inbox::mark(&*tx, token, std::slice::from_ref(mark)).await?;
            tx.commit().await?;
            Ok::<_, DbErr>(marked == 1)
        };
        match settled.await {
            Ok(marked) => marked,
            Err(error) => {
                tracing::warn!(%error, "the outcome of an event could not be stored; its claim runs out");
                pass.disturbed = true;
                false
            }
        }
    }

    /// Gives back, uncounted, whatever is still under the claim. If even that fails, the lease runs out.
    async fn give_back(&self, token: Uuid) {
        let release = async {
            let tx = self.db.write().await?;
            let released = inbox::release(&*tx, token).await?;
            tx.commit().await?;
            Ok::<_, DbErr>(released)
        };
        match tokio::time::timeout(Duration::from_secs(5), release).await {
            Ok(Ok(events)) => tracing::debug!(events, "claims given back"),
            Ok(Err(error)) => tracing::warn!(%error, "claims could not be given back; they run out"),
            Err(_) => tracing::warn!("claims could not be given back in time; they run out"),
        }
    }
}

fn report(group: &[Ready], applied: &[Applied], marks: &[Mark], changes: usize, pass: &mut Pass) {
    pass.changes += changes;
    let now = chrono::Utc::now();
    for ((event, applied), mark) in group.iter().zip(applied).zip(marks) {
        let outcome = match (&applied.verdict, mark.status) {
            (_, ProcessingStatus::Failed) => Outcome::Failed,
            (Verdict::Parked(_), _) => Outcome::Parked,
            (Verdict::Completed { merge: Some(Merge::Stale) }, _) => Outcome::Stale,
            (Verdict::Completed { .. }, _) => Outcome::Applied,
        };
        pass.count(outcome);
        if let (Outcome::Applied | Outcome::Stale, Some(created)) = (outcome, event.row.stripe_created_at) {
            pass.lags.push((now - created).as_seconds_f64().max(0.0));
        }
        tracing::debug!(event_id = %event.row.event_id, event_type = %event.row.event_type, ?outcome, note = applied.note, "applied");
    }
}

enum Read {
    Ready(Ready),
    Nothing(ClaimedRow, &'static str),
}

enum ReadError {
    Payload(Unreadable),
    Stripe(StripeError),
}

impl ReadError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Payload(_) => "payload",
            Self::Stripe(_) => "stripe",
        }
    }

    fn as_error(&self) -> &(dyn std::error::Error + 'static) {
        match self {
            Self::Payload(error) => error,
            Self::Stripe(error) => error,
        }
    }
}

impl From<Unreadable> for ReadError {
    fn from(error: Unreadable) -> Self {
        Self::Payload(error)
    }
}

impl From<StripeError> for ReadError {
    fn from(error: StripeError) -> Self {
        Self::Stripe(error)
    }
}

/// The ending of an attempt, with nothing else to say.
fn mark_of(row: &ClaimedRow, status: ProcessingStatus) -> Mark {
    Mark {
        id: row.id,
        status,
        attempts: row.processing_attempts + 1,
        user_id: None,
        error: None,
        details: None,
        fingerprint: None,
        waits_for: None,
        delay: None,
    }
}

fn verdict_mark(row: &ClaimedRow, applied: &Applied, now: Time, freed: impl Fn(&SubscriptionId) -> bool) -> Mark {
    // What earlier attempts left stays to be read.
    let details = row.processing_error_details.clone();
    match &applied.verdict {
        Verdict::Completed { .. } => {
            let details = match (details, applied.note) {
                (None, None) => None,
                (earlier, note) => {
                    // SQL may have put anything there.
                    let mut details =
                        earlier.filter(serde_json::Value::is_object).unwrap_or_else(|| serde_json::json!({}));
                    details["note"] = serde_json::json!(note);
                    Some(details)
                }
            };
            Mark { user_id: applied.user, details, ..mark_of(row, ProcessingStatus::Completed) }
        }
        Verdict::Parked(subscription) if now - row.created_at >= PARKED_AT_MOST => {
            let error =
                format!("unmatched user: {subscription} found no user within {} days", PARKED_AT_MOST.num_days());
            let chain = [error.clone()];
            let attempts = row.processing_attempts;
            let tried = u32::try_from(attempts).unwrap_or(0);
            Mark {
                attempts,
                details: Some(super::failure::details(details.as_ref(), "unmatched", &chain, tried, now)),
                fingerprint: Some(fingerprint(&row.event_type, "unmatched", "unmatched user")),
                error: Some(error),
                ..mark_of(row, ProcessingStatus::Failed)
            }
        }
        Verdict::Parked(subscription) => Mark {
            attempts: row.processing_attempts,
            details,
            error: Some("unmatched user".to_owned()),
            waits_for: Some(subscription.to_string()),
            delay: Some(if freed(subscription) { 0.0 } else { parked_pause(now - row.created_at) }),
            ..mark_of(row, ProcessingStatus::Pending)
        },
    }
}

fn distinct_emails(applied: &[Applied]) -> Vec<crate::apply::QueuedEmail> {
    let mut keys = std::collections::HashSet::new();
    applied.iter().filter_map(|a| a.email.clone()).filter(|email| keys.insert(email.dedupe_key.clone())).collect()
}
