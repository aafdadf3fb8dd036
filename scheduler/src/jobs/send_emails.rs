//! Sends what the outbox holds.

use std::time::Duration;

use billing::mail::{self, Sendings};

use crate::{Job, JobContext, JobError, JobSpec, Missed};

/// See [`mail::send_due`].
#[derive(Debug)]
pub(super) struct SendEmails;

/// The mail server was away; the next run tries again.
#[derive(Debug, thiserror::Error)]
#[error("the mail server does not take e-mails now ({0}); they wait, and none of them is given up for that")]
struct MailServerAway(String);

impl Job for SendEmails {
    type Report = Sendings;

    fn spec(&self) -> JobSpec {
        JobSpec {
            name: "send_emails",
            about: "Sends the e-mails that wait, and those that have to be tried again",
            schedule: "15 * * * * *",
            timeout: Duration::from_mins(5),
            missed: Missed::Once,
        }
    }

    async fn run(&self, context: &JobContext) -> Result<Sendings, JobError> {
        let Some(mailer) = &context.tools.mailer else {
            return Err(JobError::NotConfigured(
                "no e-mails are queued or sent; set SMTP_URL, and mail.from in trueup.toml".to_owned(),
            ));
        };
        let mut report = Sendings::default();
        let sending = mail::send_due(&context.db, mailer, &context.stop, &context.progress, &mut report);
        sending.await.map_err(|error| JobError::from(error).with(&report))?;
        match report.away.clone() {
            Some(away) => Err(JobError::failed(MailServerAway(away)).with(&report)),
            None => Ok(report),
        }
    }
}
