//! Sends e-mails as soon as they are queued, beside the job that does so every minute. An e-mail is claimed by one sender, so the two never
//! come in each other's way.

use std::{sync::Arc, time::Duration};

use billing::{
    catalog::Catalog,
    db::Db,
    mail::{self, MailOptions, MailOutcome, Mailer, Sendings, TemplateError, outbox},
    progress::Progress,
};
use metrics::{
    Metrics,
    labels::{EmailKind, EmailOutcome},
};
use sea_orm::DbErr;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Between two tries to reach a mail server, or a database, that is away.
const SHORTEST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What sends e-mails, and what wakes it.
#[derive(Debug, Clone)]
pub struct Mailing {
    mailer: Arc<Mailer>,
    nudge: Arc<Notify>,
    holder: String,
}

impl Mailing {
    /// As configured; none without a mail server.
    pub fn of(
        config: &Config,
        catalog: &Arc<Catalog>,
        metrics: &Arc<Metrics>,
        holder: String,
    ) -> Result<Option<Self>, TemplateError> {
        let Some(options) = &config.mail else { return Ok(None) };
        let options = MailOptions { holder: holder.clone(), ..options.clone() };
        let metrics = Arc::clone(metrics);
        let observer: mail::MailObserver =
            Arc::new(move |kind, outcome| metrics.email_done(label(kind), told(outcome)));
        match Mailer::new(options, Arc::clone(catalog), Some(observer)) {
            Ok(mailer) => Ok(Some(Self { mailer: Arc::new(mailer), nudge: Arc::default(), holder })),
            // Every text was read when the configuration was; the first that changed since is enough.
            Err(errors) => errors.into_iter().next().map_or(Ok(None), Err),
        }
    }

    /// The mailer, for the job.
    pub fn mailer(&self) -> Arc<Mailer> {
        Arc::clone(&self.mailer)
    }

    /// Notified, it sends at once.
    pub fn nudge(&self) -> Arc<Notify> {
        Arc::clone(&self.nudge)
    }

    /// What this instance was sending when it died goes on at once, instead of when its lease is over.
    pub async fn end_own_leases(&self, db: &Db) -> Result<(), DbErr> {
        let ended = outbox::end_own_leases(db, &self.holder).await?;
        if ended > 0 {
            tracing::warn!(
                emails = ended,
                "this server died while it sent e-mails; each goes out once more, unless that happened to it before"
            );
        }
        Ok(())
    }

    /// Sends at the start and whenever it is nudged, until told to end.
    pub async fn run(self, db: Db, end: CancellationToken) {
        let (mut pause, progress) = (Duration::ZERO, Progress::default());
        while !end.is_cancelled() {
            let mut report = Sendings::default();
            let sending = mail::send_due(&db, &self.mailer, &end, &progress, &mut report);
            let disturbed = match sending.await {
                Err(error) => {
                    tracing::warn!(%error, "e-mails cannot be taken from the outbox; trying again");
                    true
                }
                Ok(()) => report.away.as_ref().is_some_and(|why| {
                    tracing::warn!(why, "the mail server does not take e-mails now; trying again");
                    true
                }),
            };
            pause = if disturbed { (pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE) } else { Duration::ZERO };
            tokio::select! {
                () = end.cancelled() => {}
                // Whatever comes meanwhile would find the same server away.
                () = tokio::time::sleep(pause), if disturbed => {}
                () = self.nudge.notified(), if !disturbed => {}
            }
        }
    }
}

fn label(kind: entity::enums::EmailKind) -> EmailKind {
    match kind {
        entity::enums::EmailKind::PaymentFailed => EmailKind::PaymentFailed,
        entity::enums::EmailKind::PaymentActionRequired => EmailKind::PaymentActionRequired,
        entity::enums::EmailKind::TrialEnding => EmailKind::TrialEnding,
    }
}

fn told(outcome: MailOutcome) -> EmailOutcome {
    match outcome {
        MailOutcome::Sent => EmailOutcome::Sent,
        MailOutcome::Dropped => EmailOutcome::Dropped,
        MailOutcome::Failed => EmailOutcome::Failed,
        MailOutcome::Retried => EmailOutcome::Retried,
    }
}
