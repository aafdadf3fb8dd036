//! E-mails: what the outbox holds goes out over SMTP, once for each dedupe key.
//!
//! - [`Mailer`]: the mail server, the sender and the texts, put together once
//! - [`send_due`]: sends what is due; several may do so at once, on several machines
//! - [`templates`], `letter`, [`money`]: what an e-mail says, from the facts as they are when it is sent
//! - `smtp`: the dialogue with the mail server, and whose fault a failure is
//! - [`outbox`]: what a person asks of the outbox
//!
//! An e-mail is queued in the transaction of the facts that give reason for it (`processor/save.rs`). It is claimed under a lease, sent while
//! no transaction is open, and settled by the token of its claim. Where the process dies between sending and settling, nobody knows whether it
//! went out, and it is sent once more, with the same `Message-ID`; should that happen to it a second time, it is given up. So no e-mail goes out
//! more than twice, and none twice without a crash.

mod letter;
pub mod money;
pub mod outbox;
mod send;
mod smtp;
pub mod templates;

use std::{fmt, fmt::Write as _, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use entity::{Time, enums::EmailKind};
use lettre::{
    Address, Message,
    message::{
        Mailbox, MultiPart,
        header::{Header, HeaderName, HeaderValue},
    },
};
use sha2::{Digest, Sha256};

pub use self::{
    letter::Letter,
    send::{Sendings, send_due},
    smtp::{BadSmtpUrl, SmtpUrl},
    templates::{TemplateError, Templates},
};
use crate::catalog::Catalog;

/// A name and an address, for example `Example <billing@example.com>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Sender(Mailbox);

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no address")]
pub struct BadAddress;

impl FromStr for Sender {
    type Err = BadAddress;
    fn from_str(text: &str) -> Result<Self, BadAddress> {
        text.trim().parse().map(Self).map_err(|_| BadAddress)
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender(…)")
    }
}

impl Sender {
    /// The name, else the domain: what stands for the product where nothing else is said.
    pub fn product(&self) -> String {
        self.0.name.clone().unwrap_or_else(|| self.0.email.domain().to_owned())
    }
}

/// How e-mails are sent.
#[derive(Debug, Clone)]
pub struct MailOptions {
    /// The mail server.
    pub url: SmtpUrl,
    /// From whom.
    pub from: Sender,
    /// To whom answers go, where not to the sender.
    pub reply_to: Option<Sender>,
    /// What the texts call the product.
    pub product: String,
    /// Where texts of the operator's own lie.
    pub templates: Option<PathBuf>,
    /// E-mails under way at once.
    pub concurrency: usize,
    /// How long each step of the dialogue with the server may take; the answer to the letter itself four times as long.
    pub timeout: Duration,
    /// Name under which this instance claims; of two running instances no two may share it.
    pub holder: String,
}

/// What became of one e-mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MailOutcome {
    /// The mail server took it.
    Sent,
    /// Its reason was gone.
    Dropped,
    /// Given up.
    Failed,
    /// It is tried again.
    Retried,
}

/// Told of every e-mail that was settled, for metrics.
pub type MailObserver = Arc<dyn Fn(EmailKind, MailOutcome) + Send + Sync>;

/// Sends e-mails.
pub struct Mailer {
    options: MailOptions,
    templates: Templates,
    smtp: smtp::Smtp,
    catalog: Arc<Catalog>,
    observer: Option<MailObserver>,
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailer").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Mailer {
    /// Puts a mailer together. Connects to nothing yet.
    ///
    /// # Errors
    /// Every text that cannot be used.
    pub fn new(
        options: MailOptions,
        catalog: Arc<Catalog>,
        observer: Option<MailObserver>,
    ) -> Result<Self, Vec<TemplateError>> {
        let templates = Templates::load(options.templates.as_deref())?;
        let smtp = smtp::Smtp::new(options.url.clone(), options.from.0.email.domain(), options.timeout);
        Ok(Self { options, templates, smtp, catalog, observer })
    }

    /// How long one e-mail may be under way, with some time to settle it.
    fn lease(&self) -> Duration {
        self.options.timeout * (smtp::STEPS + smtp::LETTER_PATIENCE) + send::SETTLE_PATIENCE
    }

    fn observe(&self, kind: EmailKind, outcome: MailOutcome) {
        if let Some(observer) = &self.observer {
            observer(kind, outcome);
        }
    }

    /// The whole e-mail. Its `Message-ID` follows from the dedupe key alone, so whoever keeps mail can tell a repeat.
    fn compose(
        &self,
        kind: EmailKind,
        dedupe_key: &str,
        to: Address,
        letter: &Letter,
        now: Time,
    ) -> Result<Message, Uncomposed> {
        let rendered = self.templates.render(kind, letter).map_err(|error| Uncomposed(error.to_string()))?;
        let mut id = String::new();
        for byte in Sha256::digest(dedupe_key).iter().take(16) {
            let _ = write!(id, "{byte:02x}");
        }
        let from = &self.options.from.0;
        let mut message = Message::builder()
            .from(from.clone())
            .to(Mailbox::new(letter.name.clone(), to))
            .subject(rendered.subject)
            .date(now.into())
            .message_id(Some(format!("<{id}@{}>", from.email.domain())))
            .header(AutoSubmitted);
        if let Some(reply_to) = &self.options.reply_to {
            message = message.reply_to(reply_to.0.clone());
        }
        message
            .multipart(MultiPart::alternative_plain_html(rendered.text, rendered.html))
            .map_err(|error| Uncomposed(error.to_string()))
    }
}

/// An e-mail that could not be put together. Every text was tried at the start, so this is a mistake of ours.
#[derive(Debug, thiserror::Error)]
#[error("the e-mail could not be put together: {0}")]
struct Uncomposed(String);

/// Keeps absence notices from answering (RFC 3834).
#[derive(Debug, Clone, Copy)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}
