//! Sends what is due.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::TimeDelta;
use entity::{
    enums::{EmailKind, EmailStatus},
    users,
};
use lettre::{Address, address::Envelope};
use sea_orm::{DbErr, EntityTrait, QueryFilter};
use serde::Serialize;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    MailOutcome, Mailer,
    letter::{self, About, Data},
    smtp::Undelivered,
};
use crate::{
    db::Db,
    processor::{
        failure::Backoff,
        load::{Access, Needs, load},
    },
    progress::Progress,
    store::{
        outbox::{self, ClaimedEmail, Settled},
        rowset::uuid_in,
    },
};

/// How long an e-mail that went out may wait for a database to settle it. What is not settled goes out once more, so this is worth some patience.
pub(super) const SETTLE_PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries to settle.
const SETTLE_PAUSE: Duration = Duration::from_millis(250);
/// E-mails in a row for which the mail server was away, after which a run ends: the next one tries again.
const AWAY_AT_MOST: usize = 2;
/// How long an e-mail waits for a mail server that is away before it is given up.
const WAITS_AT_MOST: TimeDelta = TimeDelta::days(7);
/// Tries of which nobody knows what became of them, after which an e-mail is given up.
const UNKNOWN_AT_MOST: i32 = 2;

/// When an e-mail that the server did not take for now is tried again: given up after a day.
fn backoff() -> Backoff {
    let pauses = [60, 5 * 60, 30 * 60, 2 * 3600, 6 * 3600, 8 * 3600, 8 * 3600];
    Backoff { attempts: u32::try_from(pauses.len()).unwrap_or(7) + 1, pauses: pauses.map(Duration::from_secs).to_vec() }
}

/// How long an e-mail rests, by its age, while the server is away: from 5 seconds to 10 minutes.
fn rest(age: TimeDelta) -> f64 {
    (age.as_seconds_f64() / 4.0).clamp(5.0, 600.0)
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sendings {
    /// The mail server took them.
    pub sent: u64,
    /// Their reason was gone.
    pub dropped: u64,
    /// Given up.
    pub failed: u64,
    /// To be tried again: the server did not take them now, or was away.
    pub retried: u64,
    /// Why the run ended before everything due was tried, where the mail server was away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub away: Option<String>,
}

impl Sendings {
    fn count(&mut self, outcome: MailOutcome) {
        *match outcome {
            MailOutcome::Sent => &mut self.sent,
            MailOutcome::Dropped => &mut self.dropped,
            MailOutcome::Failed => &mut self.failed,
            MailOutcome::Retried => &mut self.retried,
        } += 1;
    }
}

/// An e-mail with what becomes of it.
struct Done {
    kind: EmailKind,
    outcome: MailOutcome,
    settled: Settled,
}

/// Sends what is due until nothing is left, the server is away, or `stop` is cancelled; what is under way then is seen through. Several may do so
/// at once: an e-mail is claimed by one.
///
/// # Errors
/// The database, when e-mails could not be claimed; what was under way was seen through all the same, and is told in `report`.
pub async fn send_due(
    db: &Db,
    mailer: &Arc<Mailer>,
    stop: &CancellationToken,
    progress: &Progress,
    report: &mut Sendings,
) -> Result<(), DbErr> {
    let run = Run { db, mailer, token: Uuid::new_v4(), progress };
    let result = run.go(stop, report).await;
    mailer.smtp.close().await;
    result
}

struct Run<'a> {
    db: &'a Db,
    mailer: &'a Arc<Mailer>,
    token: Uuid,
    progress: &'a Progress,
}

impl Run<'_> {
    async fn go(&self, stop: &CancellationToken, report: &mut Sendings) -> Result<(), DbErr> {
        let mut flying: JoinSet<(ClaimedEmail, Result<(), Undelivered>)> = JoinSet::new();
        let mut away_in_a_row = 0;
        let mut trouble = None;
        loop {
            let free = self.mailer.options.concurrency.max(1).saturating_sub(flying.len());
            let more = trouble.is_none() && away_in_a_row < AWAY_AT_MOST && !stop.is_cancelled();
            let mut claimed = 0;
            if free > 0 && more {
                match self.take(free, &mut flying, report).await {
                    Ok(count) => claimed = count,
                    Err(error) => trouble = Some(error),
                }
            }
            let Some(first) = flying.join_next().await else {
                if claimed == 0 {
                    return trouble.map_or(Ok(()), Err);
                }
                continue;
            };
            let mut done = Vec::new();
            let ready = std::iter::once(first).chain(std::iter::from_fn(|| flying.try_join_next()));
            for ended in ready.collect::<Vec<_>>() {
                match ended {
                    Ok((email, outcome)) => {
                        if let Err(Undelivered::Away(text)) = &outcome {
                            away_in_a_row += 1;
                            report.away = Some(text.clone());
                        } else {
                            away_in_a_row = 0;
                            report.away = None;
                        }
                        done.push(conclude(&email, outcome));
                    }
                    // Its lease runs out, and it counts as one of which nobody knows whether it went out.
                    Err(error) => {
                        tracing::error!(%error, after_panic = true, "sending an e-mail panicked, which is a mistake in Trueup");
                    }
                }
            }
            self.settle(done, report).await;
        }
    }

    /// Claims e-mails and begins to send those that have a reason still; returns how many were claimed. Every claimed one is under way at once,
    /// so that a lease that runs out always tells of a try.
    async fn take(
        &self,
        limit: usize,
        flying: &mut JoinSet<(ClaimedEmail, Result<(), Undelivered>)>,
        report: &mut Sendings,
    ) -> Result<usize, DbErr> {
        let mailer = self.mailer;
        let tx = self.db.write().await?;
        let lease = mailer.lease().as_secs_f64();
        let emails = outbox::claim(&*tx, limit, &mailer.options.holder, self.token, lease).await?;
        tx.commit().await?;
        let claimed = emails.len();
        if emails.is_empty() {
            return Ok(0);
        }
        let (letters, done) = match self.prepare(&emails).await {
            Ok(prepared) => prepared,
            Err(error) => {
                // None of them was tried: given back as they were.
                let back = emails.iter().map(|email| Done {
                    kind: email.kind,
                    outcome: MailOutcome::Retried,
                    settled: settled(email, EmailStatus::Pending),
                });
                self.settle(back.collect(), &mut Sendings::default()).await;
                return Err(error);
            }
        };
        self.settle(done, report).await;
        for (email, envelope, letter) in letters {
            let mailer = Arc::clone(mailer);
            flying.spawn(async move {
                let outcome = mailer.smtp.deliver(&envelope, &letter).await;
                (email, outcome)
            });
        }
        Ok(claimed)
    }

    /// Looks each reason up in the facts, for all e-mails together, and writes the letters.
    async fn prepare(
        &self,
        emails: &[ClaimedEmail],
    ) -> Result<(Vec<(ClaimedEmail, Envelope, Vec<u8>)>, Vec<Done>), DbErr> {
        let data: Vec<Data> =
            emails.iter().map(|email| serde_json::from_value(email.data.clone()).unwrap_or_default()).collect();
        let mut needs = Needs::default();
        needs.users.extend(emails.iter().map(|email| email.user_id));
        needs.invoices.extend(data.iter().filter_map(|data| data.invoice_id.clone()));
        needs.subscriptions.extend(data.iter().filter_map(|data| data.subscription_id.clone()));
        let world = load(self.db.reader(), &needs, Access::Read).await?;
        let ids = uuid_in(self.db.backend(), "id", needs.users.iter().map(|id| id.0));
        let users: BTreeMap<_, _> = users::Entity::find()
            .filter(ids)
            .all(self.db.reader())
            .await?
            .into_iter()
            .map(|user| (user.id, user))
            .collect();
        let (mut letters, mut done) = (Vec::new(), Vec::new());
        for (email, data) in emails.iter().zip(&data) {
            // A user who was deleted this moment took the e-mail along.
            let user = users.get(&email.user_id);
            let about = About {
                user: email.user_id,
                kind: email.kind,
                data,
                product: &self.mailer.options.product,
                name: user.and_then(|user| user.full_name.as_deref()),
                now: email.db_now,
            };
            let address = user.and_then(|user| user.email.trim().parse::<Address>().ok());
            let letter = match (letter::write(about, &world, &self.mailer.catalog), address) {
                (Ok(letter), Some(address)) => Ok((letter, address)),
                (Ok(_), None) => Err("the user has no usable address"),
                (Err(gone), _) => Err(gone),
            };
            let done_with = |status, outcome, error: String| {
                let settled = Settled { error: Some(error), ..settled(email, status) };
                Done { kind: email.kind, outcome, settled }
            };
            match letter {
                Err(gone) => done.push(done_with(EmailStatus::Dropped, MailOutcome::Dropped, gone.to_owned())),
                Ok(_) if email.unknown_outcomes >= UNKNOWN_AT_MOST => {
                    let error = "twice nobody knows whether it went out: the process or the connection ended while it was sent; not tried a third time";
                    done.push(done_with(EmailStatus::Failed, MailOutcome::Failed, error.to_owned()));
                }
                Ok((letter, address)) => {
                    let composed = self.mailer.compose(email.kind, &email.dedupe_key, address, &letter, email.db_now);
                    match composed {
                        Ok(message) => {
                            letters.push((email.clone(), message.envelope().clone(), message.formatted()));
                        }
                        Err(error) => {
                            tracing::error!(email = %email.id, %error, "an e-mail waits for a mended text");
                            let mut waits = done_with(EmailStatus::Pending, MailOutcome::Retried, error.to_string());
                            waits.settled.delay = Some(rest(email.db_now - email.created_at).max(60.0));
                            done.push(waits);
                        }
                    }
                }
            }
        }
        Ok((letters, done))
    }

    /// Settles e-mails, at almost any price. The claim's own token guards them, so a job's lost lease does not keep it from telling what went out.
    async fn settle(&self, done: Vec<Done>, report: &mut Sendings) {
        if done.is_empty() {
            return;
        }
        let settled: Vec<Settled> = done.iter().map(|done| done.settled.clone()).collect();
        let db = self.db.unfenced();
        let begun = Instant::now();
        let noted = loop {
            let attempt = async {
                let tx = db.write().await?;
                let noted = outbox::settle(&*tx, self.token, &settled).await?;
                tx.commit().await?;
                Ok::<_, DbErr>(noted)
            };
            match attempt.await {
                Ok(noted) => break noted,
                Err(error) if begun.elapsed() > SETTLE_PATIENCE => {
                    tracing::error!(%error, emails = settled.len(), "what became of e-mails could not be stored; those that went out may go out once more");
                    break 0;
                }
                Err(error) => {
                    tracing::warn!(%error, "what became of e-mails could not be stored; trying again");
                    tokio::time::sleep(SETTLE_PAUSE).await;
                }
            }
        };
        if noted < settled.len() as u64 {
            tracing::warn!(emails = settled.len() as u64 - noted, "the claim on e-mails ran out while they were sent");
        }
        self.progress.add(settled.len() as u64);
        for Done { kind, outcome, settled } in done {
            report.count(outcome);
            self.mailer.observe(kind, outcome);
            let (email, error) = (settled.id, settled.error.as_deref());
            match outcome {
                MailOutcome::Failed => tracing::error!(%email, %kind, error, "an e-mail was given up"),
                MailOutcome::Retried => tracing::warn!(%email, %kind, error, "an e-mail is tried again"),
                MailOutcome::Sent | MailOutcome::Dropped => {
                    tracing::debug!(%email, %kind, ?outcome, error, "an e-mail is done");
                }
            }
        }
    }
}

/// Nothing changed but where it stands.
fn settled(email: &ClaimedEmail, status: EmailStatus) -> Settled {
    Settled {
        id: email.id,
        status,
        attempts: email.attempts,
        unknown: email.unknown_outcomes,
        error: None,
        delay: None,
    }
}

fn conclude(email: &ClaimedEmail, outcome: Result<(), Undelivered>) -> Done {
    let done = |outcome, settled| Done { kind: email.kind, outcome, settled };
    let age = email.db_now - email.created_at;
    let failed = |settled| done(MailOutcome::Failed, Settled { status: EmailStatus::Failed, ..settled });
    match outcome {
        Ok(()) => done(MailOutcome::Sent, settled(email, EmailStatus::Sent)),
        Err(Undelivered::Never(error)) => {
            failed(Settled { attempts: email.attempts + 1, error: Some(error), ..settled(email, EmailStatus::Failed) })
        }
        Err(Undelivered::Later(error)) => {
            let attempts = email.attempts + 1;
            let pause = backoff().pause(u32::try_from(attempts).unwrap_or(u32::MAX), rand::random::<f64>());
            let next = Settled { attempts, error: Some(error), delay: pause, ..settled(email, EmailStatus::Pending) };
            if pause.is_some() { done(MailOutcome::Retried, next) } else { failed(next) }
        }
        Err(Undelivered::Away(error)) => {
            let next = Settled { error: Some(error), delay: Some(rest(age)), ..settled(email, EmailStatus::Pending) };
            if age > WAITS_AT_MOST { failed(next) } else { done(MailOutcome::Retried, next) }
        }
        Err(Undelivered::Unknown(error)) => {
            let unknown = email.unknown_outcomes + 1;
            let next = Settled {
                unknown,
                error: Some(format!("nobody knows whether it went out: {error}")),
                delay: Some(rest(age).max(60.0)),
                ..settled(email, EmailStatus::Pending)
            };
            if unknown >= UNKNOWN_AT_MOST { failed(next) } else { done(MailOutcome::Retried, next) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_the_server_does_not_take_now_is_given_up_after_about_a_day() {
        let backoff = backoff();
        let pauses: Vec<f64> = (1..).map_while(|failed| backoff.pause(failed, 0.5)).collect();
        assert!(pauses.is_sorted(), "{pauses:?}");
        let hours = pauses.iter().sum::<f64>() / 3600.0;
        assert!((20.0..28.0).contains(&hours), "{hours}");
    }
}
