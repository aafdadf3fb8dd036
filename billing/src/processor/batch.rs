//! One batch: claim, read, load, apply, save, mark, commit; and what happens when that fails.
//!
//! Whatever wants something of Stripe leaves the batch and goes its own way (`fetch`), so nobody here waits for Stripe.

use std::{convert::Infallible, time::Duration};

use entity::{
    Time,
    enums::{ChangeSource, EventSource, ProcessingStatus},
    ids::SubscriptionId,
};
use sea_orm::DbErr;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    Outcome, Pass, Processor,
    failure::{NewFailure, PANIC, chain, details, fingerprint, short},
    fetch::{Beside, Want, Wanting},
    load::{Access, Needs, load},
    mark::{mark_of, verdict_mark},
    save::save,
};
use crate::{
    apply::{Applied, Cause, Rules, Verdict, apply, folded},
    db::{Blame, WriteTx, blame, is_out_of_locks},
    events::{self, Reading, Told},
    facts::{Merge, Rank, Stamp},
    panics::{Panicked, caught, survived},
    skip::{Skip, SkipReason},
    store::{
        failures,
        inbox::{self, ClaimLimits, ClaimedRow, Mark},
    },
    stripe::{Resource, objects},
    world::World,
};

/// Log lines of this target tell the steps of the work, for whoever asks how it came to an error.
pub(super) const STEPS: &str = "steps";

/// An event that was claimed and read.
pub(super) struct Ready {
    pub(super) row: ClaimedRow,
    pub(super) stamp: Stamp,
    pub(super) told: Box<Told>,
    /// What was fetched for it, told before it.
    pub(super) fetched: Option<Box<(Told, Stamp)>>,
    /// The subscription that it shows without all its items.
    pub(super) partial: Option<SubscriptionId>,
}

/// Why a group of events could not be applied.
enum Trouble {
    /// The data of one of them.
    Data(DbErr),
    /// The surroundings; nothing is counted.
    Surroundings(DbErr),
    /// Somebody else holds them by now.
    LeaseLost,
    /// A mistake of ours, over one of them.
    Panic,
}

impl Trouble {
    /// Whether half of the events may fare better.
    fn halves(&self) -> bool {
        match self {
            Self::Data(_) | Self::Panic => true,
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
        beside: &mut Beside,
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
        let span = tracing::info_span!("batch", claim = %token, events);
        let work = Box::pin(self.see_through(token, rows, stop, pass)).instrument(span);
        let wanting = self.keeping(token, work).await;
        pass.batches.push((events, begun.elapsed().as_secs_f64()));
        if !wanting.is_empty() {
            beside.fetch(self.clone(), token, wanting, stop.clone());
        }
        Ok(())
    }

    /// Does the work while the claim is renewed: what takes long is kept. What is lost all the same is noticed when it is marked.
    pub(super) async fn keeping<T>(&self, token: Uuid, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            never = self.renew_for_ever(token) => match never {},
        }
    }

    async fn renew_for_ever(&self, token: Uuid) -> Infallible {
        loop {
            tokio::time::sleep(self.options.lease / 3).await;
            if let Err(error) = self.renew(token).await {
                tracing::warn!(%error, "a claim could not be renewed");
            }
        }
    }

    async fn renew(&self, token: Uuid) -> Result<(), DbErr> {
        let tx = self.db.reserved().write().await?;
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

    /// Reads every event, and applies together what can be applied at once. Returns what waits for Stripe, still under the claim.
    async fn see_through(
        &self,
        token: Uuid,
        rows: Vec<ClaimedRow>,
        stop: &CancellationToken,
        pass: &mut Pass,
    ) -> Vec<Wanting> {
        tracing::debug!(target: STEPS, events = rows.len(), "claimed");
        let mut ready = Vec::with_capacity(rows.len());
        let mut wanting = Vec::new();
        for row in rows {
            match self.read(row) {
                Read::Ready(event) => ready.push(event),
                Read::Wants(row, want) => wanting.push((row, want)),
                Read::Nothing(row, skip) => self.skip(token, &row, &skip, pass).await,
                Read::Unreadable(row, error) => self.fail(token, &row, "payload", &chain(&error), pass).await,
                Read::Panicked(row) => self.fail(token, &row, PANIC, &chain(&Panicked), pass).await,
            }
        }
        let wanting =
            if wanting.is_empty() { Vec::new() } else { self.sort_out(token, wanting, &mut ready, pass).await };
        let finished = self.apply_all(token, ready, stop, pass).await;
        if !finished {
            return Vec::new();
        }
        if stop.is_cancelled() && !wanting.is_empty() {
            self.give_back(token).await;
            return Vec::new();
        }
        wanting
    }

    /// Applies events together, and halves the group as long as its data is refused. False where the claim was given back before the end.
    pub(super) async fn apply_all(
        &self,
        token: Uuid,
        ready: Vec<Ready>,
        stop: &CancellationToken,
        pass: &mut Pass,
    ) -> bool {
        // A stack of groups; the front of the batch is on top, so events stay in order as far as they can be applied at all.
        let mut groups = vec![ready];
        while let Some(mut group) = groups.pop() {
            if group.is_empty() {
                continue;
            }
            if stop.is_cancelled() && !groups.is_empty() {
                groups.push(group);
                break;
            }
            // A panic leaves the transaction unfinished, which undoes it.
            let applied = survived(self.apply_group(token, &group, pass)).await;
            match applied.unwrap_or(Err(Trouble::Panic)) {
                Ok(()) => {}
                Err(Trouble::Panic) if group.len() == 1 => {
                    self.fail(token, &group[0].row, PANIC, &chain(&Panicked), pass).await;
                }
                Err(Trouble::Data(error)) if group.len() == 1 => {
                    let row = &group[0].row;
                    self.fail(token, row, "database", &chain(&error), pass).await;
                }
                Err(trouble) if group.len() > 1 && trouble.halves() => {
                    tracing::debug!(target: STEPS, events = group.len(), "the database refused their data; trying halves");
                    let rest = group.split_off(group.len() / 2);
                    groups.push(rest);
                    groups.push(group);
                }
                Err(Trouble::Data(error) | Trouble::Surroundings(error)) => {
                    tracing::warn!(%error, "events could not be applied for reasons that are not theirs; given back");
                    pass.disturbed = true;
                    break;
                }
                // A group of several was halved above.
                Err(Trouble::Panic | Trouble::LeaseLost) => {
                    tracing::warn!("a claim ran out while its events were applied; nothing of that was kept");
                    pass.disturbed = true;
                    break;
                }
            }
        }
        let finished = groups.is_empty() && !pass.disturbed;
        if !finished {
            self.give_back(token).await;
        }
        finished
    }

    /// What an event tells, and whether that is all there is to know.
    fn read(&self, row: ClaimedRow) -> Read {
        let at = row.stripe_created_at.unwrap_or(row.created_at);
        let stamp = Stamp { at, event_id: row.event_id.to_string() };
        let reading = caught(|| {
            #[cfg(test)]
            crate::panics::ordered("read", row.event_id.as_str());
            events::read(&row.event_type, &row.payload, &stamp)
        });
        let reading = match reading {
            Ok(Ok(reading)) => reading,
            Ok(Err(error)) => return Read::Unreadable(row, error),
            Err(Panicked) => return Read::Panicked(row),
        };
        let has_key = self.stripe.is_some();
        match reading {
            Reading::Nothing(reason) => Read::Nothing(row, reason),
            Reading::Thin(_) if !has_key => {
                let text = "a thin event, and no STRIPE_SECRET_KEY to fetch its object with";
                Read::Nothing(row, Skip::new(SkipReason::NoKey, text))
            }
            Reading::Thin(related) => match Resource::of(&related) {
                Some(resource) => Read::Wants(row, Want::Object(resource)),
                None => {
                    Read::Nothing(row, Skip::unhandled("a thin event about a kind of object that changes nothing here"))
                }
            },
            Reading::Told(told) => {
                let partial = if has_key { objects::partial_in_event(&row.event_type, &row.payload) } else { None };
                let sold = if has_key { sold(&told) } else { None };
                let ready = Ready { row, stamp, told, fetched: None, partial };
                match sold {
                    Some(subscription) => {
                        let Ready { row, stamp, told, .. } = ready;
                        Read::Wants(row, Want::Subscription { id: subscription, told, stamp })
                    }
                    None => Read::Ready(ready),
                }
            }
        }
    }

    /// Marks an event as nothing for us.
    pub(super) async fn skip(&self, token: Uuid, row: &ClaimedRow, skip: &Skip, pass: &mut Pass) {
        let mark = Mark { error: Some(skip.to_string()), ..mark_of(row, ProcessingStatus::Skipped) };
        if self.settle(token, std::slice::from_ref(&mark), pass).await {
            pass.count(Outcome::Skipped);
            *pass.skipped.entry(skip.reason).or_default() += 1;
        }
    }

    /// Applies a group in one transaction: all of it, or nothing.
    async fn apply_group(&self, token: Uuid, group: &[Ready], pass: &mut Pass) -> Result<(), Trouble> {
        let mut needs = Needs::default();
        for event in group {
            needs.add(&event.told);
            if let Some(fetched) = &event.fetched {
                needs.add(&fetched.0);
            }
        }
        let tx = self.db.write().await?;
        inbox::lock_keys(&*tx, needs.lock_keys()).await?;
        let mut world = load(&*tx, &needs, Access::Write).await?;
        tracing::debug!(target: STEPS, events = group.len(), "loaded what they touch");
        let now = group[0].row.db_now;
        let rules = Rules { catalog: &self.catalog, policy: &self.policy, now };
        let mut applied: Vec<Applied> = Vec::with_capacity(group.len());
        for event in group {
            #[cfg(test)]
            crate::panics::ordered("applied", event.row.event_id.as_str());
            let source = match event.row.source {
                EventSource::Recovery => ChangeSource::Recovery,
                EventSource::Webhook | EventSource::Replay => ChangeSource::Webhook,
            };
            let cause = Cause { event_type: &event.row.event_type, source, stamp: &event.stamp };
            let first = event
                .fetched
                .as_deref()
                .map(|(told, stamp)| apply(&mut world, told.clone(), Cause { stamp, ..cause }, rules).changes);
            let mut done = apply(&mut world, (*event.told).clone(), cause, rules);
            if let Some(mut changes) = first {
                changes.append(&mut done.changes);
                done.changes = folded(changes);
                for change in &mut done.changes {
                    change.event_id = Some(event.stamp.event_id.clone());
                }
            }
            applied.push(done);
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
        let given_up = failures_among(group.iter().map(|event| &event.row), &marks, "unmatched");
        let new = only_new(&tx, given_up).await?;
        tx.commit().await?;
        tracing::debug!(target: STEPS, events = group.len(), changes = changes.len(), "committed");
        new.into_iter().for_each(NewFailure::tell);
        pass.emails += emails.len();
        report(group, &applied, &marks, changes.len(), pass);
        if self.stripe.is_some() {
            self.flags.add(worth_a_look(&world, group));
        }
        Ok(())
    }

    /// Counts a failed attempt of one event.
    pub(super) async fn fail(
        &self,
        token: Uuid,
        row: &ClaimedRow,
        kind: &'static str,
        chain: &[String],
        pass: &mut Pass,
    ) {
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
        let failures = failures_among([row], std::slice::from_ref(&mark), kind);
        let Some(new) = self.settle_noting(token, std::slice::from_ref(&mark), failures, pass).await else { return };
        new.into_iter().for_each(NewFailure::tell);
        let (event_id, event_type, fingerprint) = (&row.event_id, &row.event_type, mark.fingerprint.as_deref());
        if status == ProcessingStatus::Failed {
            tracing::error!(%event_id, %event_type, attempts, kind, fingerprint, "an event failed for the last time and waits for a person");
            pass.count(Outcome::Failed);
        } else {
            tracing::warn!(%event_id, %event_type, attempts, kind, fingerprint, "an event failed and is tried again");
            pass.count(Outcome::Retried);
        }
    }

    /// Marks events in a transaction of their own; false where that was not possible, and the claim will run out.
    pub(super) async fn settle(&self, token: Uuid, marks: &[Mark], pass: &mut Pass) -> bool {
        self.settle_noting(token, marks, Vec::new(), pass).await.is_some()
    }

    /// The same, where some of them failed; returns those that failed as none did before.
    async fn settle_noting(
        &self,
        token: Uuid,
        marks: &[Mark],
        failures: Vec<NewFailure>,
        pass: &mut Pass,
    ) -> Option<Vec<NewFailure>> {
        let settled = async {
            let tx = self.db.write().await?;
            let all = inbox::mark(&*tx, token, marks).await? == marks.len() as u64;
            let new = if all { only_new(&tx, failures).await? } else { Vec::new() };
            tx.commit().await?;
            Ok::<_, DbErr>(all.then_some(new))
        };
        settled.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the outcome of events could not be stored; their claim runs out");
            pass.disturbed = true;
            None
        })
    }

    /// Gives back, uncounted, whatever is still under the claim. If even that fails, the lease runs out.
    pub(super) async fn give_back(&self, token: Uuid) {
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

/// Those of these events whose marks say that they failed.
fn failures_among<'r>(
    rows: impl IntoIterator<Item = &'r ClaimedRow>,
    marks: &[Mark],
    kind: &'static str,
) -> Vec<NewFailure> {
    let told = |(row, mark): (&ClaimedRow, &Mark)| {
        Some(NewFailure {
            event_id: row.event_id.clone(),
            event_type: row.event_type.clone(),
            attempts: mark.attempts,
            kind,
            fingerprint: mark.fingerprint.clone()?,
            error: mark.error.clone().unwrap_or_default(),
        })
    };
    rows.into_iter().zip(marks).filter_map(told).collect()
}

/// Notes failures, and returns those that are the first of their kind.
async fn only_new(tx: &WriteTx, failures: Vec<NewFailure>) -> Result<Vec<NewFailure>, DbErr> {
    let mut new = Vec::new();
    for failure in failures {
        if failures::is_first(&**tx, &failure.fingerprint, failure.event_id.as_str()).await? {
            new.push(failure);
        }
    }
    Ok(new)
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
    Wants(ClaimedRow, Want),
    Nothing(ClaimedRow, Skip),
    Unreadable(ClaimedRow, events::Unreadable),
    Panicked(ClaimedRow),
}

/// The subscription that a checkout sold, where the checkout would give access.
fn sold(told: &Told) -> Option<SubscriptionId> {
    let subscription = told.subscription.as_ref()?;
    let (rank, _, snapshot) = subscription.snapshot.as_ref()?;
    (*rank == Rank::Provisional && snapshot.status == entity::enums::SubscriptionStatus::Active)
        .then(|| subscription.id.clone())
}

/// Subscriptions of which Stripe alone can tell how they are, and what a fetched one must be newer than.
fn worth_a_look(world: &World, group: &[Ready]) -> Vec<(SubscriptionId, Option<Time>)> {
    let told = world.dirty.subscriptions.iter().filter_map(|id| world.subscription(id));
    let mut ids: Vec<_> = told
        .filter_map(|s| match (s.needs_refresh, s.version.rank <= Rank::Provisional) {
            (true, _) => Some((s.id.clone(), Some(s.version.at))),
            (false, true) => Some((s.id.clone(), None)),
            (false, false) => None,
        })
        .collect();
    ids.extend(group.iter().filter_map(|event| Some((event.partial.clone()?, Some(event.stamp.at)))));
    ids
}

fn distinct_emails(applied: &[Applied]) -> Vec<crate::apply::QueuedEmail> {
    let mut keys = std::collections::HashSet::new();
    applied.iter().filter_map(|a| a.email.clone()).filter(|email| keys.insert(email.dedupe_key.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sea_orm::EntityTrait;
    use testkit::{TestDb, on_each};

    use super::*;
    use crate::{
        catalog::Catalog,
        db::{Db, DbOptions},
        event,
        inbox::{Arrival, Inbox, InboxOptions, Receipt, ReceiveError},
        policy::Policy,
        processor::ProcessorOptions,
        signature::{Tolerance, WebhookSecret, sign},
    };

    async fn receive(inbox: &Inbox, id: &str, second: i64) -> Result<Receipt, ReceiveError> {
        let body = serde_json::json!({
            "id": id, "object": "event", "type": "customer.created", "created": second, "livemode": false, "api_version": "2025-03-31.basil",
            "data": { "object": { "id": format!("cus_{second}"), "object": "customer", "email": null, "created": second } },
        });
        let body = body.to_string();
        let (secret, now) = (WebhookSecret::parse("whsec_test").expect("a secret"), chrono::Utc::now());
        let signature = sign(&secret, now.timestamp(), body.as_bytes());
        let event = event::verify(body.as_bytes(), Some(signature.as_bytes()), &[secret], now, Tolerance::default());
        inbox.receive(event.expect("as signed"), Arrival::Apply).await
    }

    #[test]
    fn a_panic_while_webhooks_are_stored_is_a_503_for_them_and_the_next_are_stored() {
        on_each(|database: TestDb| async move {
            let db = Db::connect(database.url(), &DbOptions::default()).await.expect("the test's database answers");
            let options = InboxOptions { writers: 1, ..InboxOptions::default() };
            let (inbox, _writers) = Inbox::start(&db, options, &Arc::new(Notify::new()));
            for _ in 0..3 {
                let refused = receive(&inbox, "evt_panics_stored", 1_700_000_000).await;
                assert!(matches!(refused, Err(ReceiveError::Unavailable)), "{refused:?}");
            }
            receive(&inbox, "evt_1", 1_700_000_000).await.expect("stored");
            // Whoever waited is told before they are counted as gone.
            let none_waits = async {
                while inbox.waiting() > 0 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), none_waits).await.expect("nobody is counted for ever");
        });
    }

    #[test]
    fn a_panic_costs_its_event_one_attempt_and_its_neighbours_nothing() {
        on_each(|database: TestDb| async move {
            let db = Db::connect(database.url(), &DbOptions::default()).await.expect("the test's database answers");
            let (inbox, _writers) = Inbox::start(&db, InboxOptions::default(), &Arc::new(Notify::new()));
            let ids = ["evt_1", "evt_panics_read", "evt_2", "evt_panics_applied", "evt_3"];
            for (second, id) in (1_700_000_000..).zip(ids) {
                receive(&inbox, id, second).await.expect("stored");
            }
            let (catalog, policy) = (Arc::new(Catalog::default()), Arc::new(Policy::default()));
            let processor = Processor::new(db.clone(), catalog, policy, ProcessorOptions::default(), None);
            let pass = processor.run_once(&CancellationToken::new()).await.expect("the processor lives");
            let count = |outcome| pass.outcomes.get(&outcome).copied().unwrap_or(0);
            assert_eq!((count(Outcome::Applied), count(Outcome::Retried)), (3, 2), "{pass:?}");
            assert!(!pass.disturbed);
            for row in entity::stripe_webhooks::Entity::find().all(db.reader()).await.expect("rows") {
                let panics = row.event_id.as_str().contains("panics");
                assert_eq!(row.processing_attempts, 1, "{}", row.event_id.as_str());
                let wanted = if panics { ProcessingStatus::Pending } else { ProcessingStatus::Completed };
                assert_eq!(row.processing_status, wanted, "{}", row.event_id.as_str());
                assert!(row.claim_token.is_none() && row.crashes == 0, "given back, and nobody has died");
                let told = row.processing_error.unwrap_or_default();
                assert_eq!(told.contains("panicked"), panics, "{told}");
                assert!(!told.contains("secret"), "{told}");
            }
        });
    }
}
