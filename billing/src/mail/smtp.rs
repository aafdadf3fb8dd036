//! The mail server: how to reach it, and what its answers mean for one e-mail.
//!
//! The dialogue is led step by step, because the same answer means different things at different steps: `550` to the recipient concerns this
//! e-mail alone, `550` to the sender concerns every e-mail there is (RFC 5321, 4.2 and 4.3).

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lettre::{
    address::Envelope,
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, TlsParameters},
        commands::{Data, Mail, Rcpt, Rset},
        extension::{ClientId, Extension, MailBodyParameter, MailParameter},
    },
};
use reqwest::Url;
use tokio::time::Instant;

/// E-mails over one connection; many servers end one after a hundred.
const MOST_PER_CONNECTION: u32 = 50;
/// A connection that rested for so long is not used again: the server has probably ended it.
const RESTED: Duration = Duration::from_secs(30);
/// How many times longer the answer to the letter itself is waited for: by then the server may be delivering it (RFC 5321, 4.5.3.2.6).
pub(crate) const LETTER_PATIENCE: u32 = 4;
/// Steps before that which each have the whole patience: connection and greeting, STARTTLS, AUTH, MAIL, RCPT, DATA, and a stale connection.
pub(crate) const STEPS: u32 = 7;
/// Longest text kept of a server's answer, in characters.
const LONGEST_ANSWER: usize = 300;

/// Where the mail server is, and how to speak to it. Holds a password, perhaps.
#[derive(Clone)]
pub struct SmtpUrl {
    host: String,
    port: u16,
    tls: Tls,
    hello: Option<String>,
    credentials: Option<Credentials>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    /// In clear.
    None,
    /// STARTTLS where the server offers it.
    Opportunistic,
    /// STARTTLS, or nothing.
    Required,
    /// TLS from the first byte.
    Wrapper,
}

/// Why a URL names no mail server. Does not quote it: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSmtpUrl {
    /// No URL, or without a host.
    #[error("is no URL")]
    NotAUrl,
    /// Neither `smtp` nor `smtps`.
    #[error("has the scheme `{0}`")]
    Scheme(String),
    /// `tls=` what is not known.
    #[error("asks for `tls={0}`, which is neither `required` nor `opportunistic`")]
    Tls(String),
    /// A user without a password, or the other way round; or what cannot be decoded.
    #[error("holds half of a user and password, or what is not percent-encoded as it should be")]
    Credentials,
    /// The host cannot be verified by its name.
    #[error("names a host that TLS cannot verify: {0}")]
    Host(String),
}

impl FromStr for SmtpUrl {
    type Err = BadSmtpUrl;

    /// `smtps://user:password@host:465` speaks TLS from the first byte, `smtp://…?tls=required` and `?tls=opportunistic` by STARTTLS, `smtp://`
    /// not at all. A path is the name to greet the server with.
    fn from_str(text: &str) -> Result<Self, BadSmtpUrl> {
        let url = Url::parse(text).map_err(|_| BadSmtpUrl::NotAUrl)?;
        let wish = url.query_pairs().find(|(key, _)| key == "tls").map(|(_, value)| value.into_owned());
        let (tls, port) = match (url.scheme(), wish.as_deref()) {
            ("smtps", None | Some("required")) => (Tls::Wrapper, 465),
            ("smtp", None) => (Tls::None, 25),
            ("smtp", Some("required")) => (Tls::Required, 587),
            ("smtp", Some("opportunistic")) => (Tls::Opportunistic, 587),
            ("smtp" | "smtps", Some(other)) => return Err(BadSmtpUrl::Tls(other.to_owned())),
            (other, _) => return Err(BadSmtpUrl::Scheme(other.to_owned())),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(BadSmtpUrl::NotAUrl)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            (user, Some(password)) if !user.is_empty() => {
                let decoded = decode(user).zip(decode(password)).ok_or(BadSmtpUrl::Credentials)?;
                Some(Credentials::new(decoded.0, decoded.1))
            }
            _ => return Err(BadSmtpUrl::Credentials),
        };
        let hello = decode(url.path().trim_matches('/')).filter(|name| !name.is_empty());
        if tls != Tls::None {
            TlsParameters::new(host.clone()).map_err(|error| BadSmtpUrl::Host(error.to_string()))?;
        }
        Ok(Self { host, port: url.port().unwrap_or(port), tls, hello, credentials })
    }
}

impl fmt::Debug for SmtpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpUrl").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl SmtpUrl {
    /// True where a password would cross a network in clear, or might.
    pub fn risks_password(&self) -> bool {
        let here = self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        self.credentials.is_some() && matches!(self.tls, Tls::None | Tls::Opportunistic) && !here
    }
}

/// Takes `%41` for `A`; none for what is no UTF-8 then.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let code = after.get(..2).and_then(|code| str::from_utf8(code).ok())?;
            bytes.push(u8::from_str_radix(code, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// Why an e-mail did not go out. The texts hold no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Undelivered {
    /// The server, the way to it or our own settings: no fault of this e-mail.
    Away(String),
    /// The server does not take this e-mail now.
    Later(String),
    /// The server does not take this e-mail, and never will.
    Never(String),
    /// The letter was handed over, and the answer never came: it may have gone out.
    Unknown(String),
}

/// Connections to one mail server.
#[derive(Debug)]
pub(crate) struct Smtp {
    url: SmtpUrl,
    hello: ClientId,
    patience: Duration,
    idle: Mutex<Vec<Open>>,
}

struct Open {
    connection: AsyncSmtpConnection,
    letters: u32,
    since: Instant,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("letters", &self.letters).finish_non_exhaustive()
    }
}

impl Smtp {
    /// `domain` is what it greets with where the URL says nothing; `patience` bounds every step.
    pub(crate) fn new(url: SmtpUrl, domain: &str, patience: Duration) -> Self {
        let hello = ClientId::Domain(url.hello.clone().unwrap_or_else(|| domain.to_owned()));
        Self { url, hello, patience, idle: Mutex::default() }
    }

    /// Hands over one letter.
    pub(crate) async fn deliver(&self, envelope: &Envelope, letter: &[u8]) -> Result<(), Undelivered> {
        let (mut open, mut reused) = self.open().await?;
        let accepted = loop {
            match self.begin(&mut open, envelope, letter).await {
                // The server may have had enough of an old connection.
                Err(Undelivered::Away(_)) if reused => {
                    self.end(open).await;
                    open = self.connect().await?;
                    reused = false;
                }
                outcome => break outcome,
            }
        };
        let outcome = match accepted {
            Ok(()) => self.hand_over(&mut open, letter).await,
            Err(error) => Err(error),
        };
        match &outcome {
            Ok(()) => {
                open.letters += 1;
                self.keep(open).await;
            }
            Err(Undelivered::Later(_) | Undelivered::Never(_)) => {
                if self.step(open.connection.command(Rset)).await.is_ok() {
                    self.keep(open).await;
                } else {
                    self.end(open).await;
                }
            }
            Err(Undelivered::Away(_) | Undelivered::Unknown(_)) => self.end(open).await,
        }
        outcome
    }

    /// Ends what rests, politely but without waiting long.
    pub(crate) async fn close(&self) {
        let resting = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for open in resting {
            self.end(open).await;
        }
    }

    /// A connection on which nothing is under way, and whether it was used before.
    async fn open(&self) -> Result<(Open, bool), Undelivered> {
        loop {
            let resting = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match resting {
                Some(open) if open.since.elapsed() < RESTED => return Ok((open, true)),
                Some(open) => self.end(open).await,
                None => return Ok((self.connect().await?, false)),
            }
        }
    }

    async fn connect(&self) -> Result<Open, Undelivered> {
        let SmtpUrl { host, port, tls, credentials, .. } = &self.url;
        let parameters = || TlsParameters::new(host.clone()).map_err(|error| Undelivered::Away(told("TLS", &error)));
        let wrapper = if *tls == Tls::Wrapper { Some(parameters()?) } else { None };
        let target = (host.as_str(), *port);
        let connecting = AsyncSmtpConnection::connect_tokio1(target, Some(self.patience), &self.hello, wrapper, None);
        let mut connection = self.away("connecting", connecting).await?;
        if *tls == Tls::Required || (*tls == Tls::Opportunistic && connection.can_starttls()) {
            self.away("STARTTLS", connection.starttls(parameters()?, &self.hello)).await?;
        }
        if let Some(credentials) = credentials {
            self.away("signing in", connection.auth(&[Mechanism::Plain, Mechanism::Login], credentials)).await?;
        }
        Ok(Open { connection, letters: 0, since: Instant::now() })
    }

    /// Sender, recipient, and leave to send the letter.
    async fn begin(&self, open: &mut Open, envelope: &Envelope, letter: &[u8]) -> Result<(), Undelivered> {
        let connection = &mut open.connection;
        let mut parameters = Vec::new();
        let addresses = envelope.from().into_iter().chain(envelope.to());
        if addresses.into_iter().any(|address| !AsRef::<str>::as_ref(address).is_ascii()) {
            if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
                return Err(Undelivered::Never("the mail server takes no addresses outside ASCII".to_owned()));
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if !letter.is_ascii() {
            if !connection.server_info().supports_feature(Extension::EightBitMime) {
                return Err(Undelivered::Never("the mail server takes nothing outside ASCII".to_owned()));
            }
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        self.away("the sender (mail.from)", connection.command(Mail::new(envelope.from().cloned(), parameters)))
            .await?;
        for recipient in envelope.to() {
            let answer = self.step(connection.command(Rcpt::new(recipient.clone(), Vec::new()))).await;
            answer.map_err(|failure| failure.of_this_letter("the recipient"))?;
        }
        let answer = self.step(connection.command(Data)).await;
        answer.map_err(|failure| failure.of_this_letter("DATA"))
    }

    async fn hand_over(&self, open: &mut Open, letter: &[u8]) -> Result<(), Undelivered> {
        let patience = self.patience * LETTER_PATIENCE;
        match tokio::time::timeout(patience, open.connection.message(letter)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.status().is_some() => Err(Failure::Answer(error).of_this_letter("the letter")),
            Ok(Err(error)) => Err(Undelivered::Unknown(told("the letter", &error))),
            Err(_) => Err(Undelivered::Unknown(format!("the letter: no answer within {} s", patience.as_secs()))),
        }
    }

    async fn keep(&self, mut open: Open) {
        if open.letters >= MOST_PER_CONNECTION {
            return self.end(open).await;
        }
        open.since = Instant::now();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(open);
    }

    async fn end(&self, mut open: Open) {
        // A farewell is worth no long wait.
        let _ = tokio::time::timeout(self.patience.min(Duration::from_secs(1)), open.connection.abort()).await;
    }

    async fn step<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<(), Failure> {
        match tokio::time::timeout(self.patience, work).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Failure::Answer(error)),
            Err(_) => Err(Failure::Silence(self.patience)),
        }
    }

    /// A step whose failure says nothing of the e-mail.
    async fn away<T>(&self, what: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Undelivered> {
        match tokio::time::timeout(self.patience, work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Undelivered::Away(told(what, &error))),
            Err(_) => Err(Undelivered::Away(Failure::Silence(self.patience).told(what))),
        }
    }
}

enum Failure {
    Answer(Error),
    Silence(Duration),
}

impl Failure {
    fn told(&self, what: &str) -> String {
        match self {
            Self::Answer(error) => told(what, error),
            Self::Silence(patience) => format!("{what}: no answer within {} s", patience.as_secs_f64()),
        }
    }

    /// What it means once the server knows which e-mail this is about.
    fn of_this_letter(&self, what: &str) -> Undelivered {
        let text = self.told(what);
        let Self::Answer(error) = self else { return Undelivered::Away(text) };
        let Some(code) = error.status() else { return Undelivered::Away(text) };
        let answer = error.source().map(ToString::to_string).unwrap_or_default();
        match u16::from(code) {
            // It shuts down, or wants us to sign in first.
            421 | 530 | 535 | 538 => Undelivered::Away(text),
            // Its policy (RFC 3463, 3.8), which may be about us: an operator has a day to mend that.
            500.. if answer.trim_start().starts_with("5.7.") => Undelivered::Later(text),
            500.. => Undelivered::Never(text),
            _ => Undelivered::Later(text),
        }
    }
}

/// What went wrong, in words that hold no address.
fn told(what: &str, error: &Error) -> String {
    let code = error.status().map_or_else(String::new, |code| format!(" {code}"));
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    let words: Vec<&str> = text.split_whitespace().map(|word| if word.contains('@') { "…" } else { word }).collect();
    let text = format!("{what}:{code} {}", words.join(" "));
    text.chars().take(LONGEST_ANSWER).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<SmtpUrl, BadSmtpUrl> {
        text.parse()
    }

    #[test]
    fn the_scheme_and_tls_say_how_the_connection_is_kept_from_others() {
        for (text, tls, port) in [
            ("smtps://mail.example.com", Tls::Wrapper, 465),
            ("smtps://mail.example.com:4650", Tls::Wrapper, 4650),
            ("smtp://mail.example.com?tls=required", Tls::Required, 587),
            ("smtp://mail.example.com:25?tls=opportunistic", Tls::Opportunistic, 25),
            ("smtp://127.0.0.1", Tls::None, 25),
        ] {
            let url = url(text).expect(text);
            assert_eq!((url.tls, url.port), (tls, port), "{text}");
        }
        assert_eq!(url("smtp://h?tls=maybe").expect_err("unknown"), BadSmtpUrl::Tls("maybe".to_owned()));
        assert_eq!(url("http://h").expect_err("unknown"), BadSmtpUrl::Scheme("http".to_owned()));
        assert_eq!(url("smtps://user@h").expect_err("half"), BadSmtpUrl::Credentials);
        assert_eq!(url("mail.example.com").expect_err("no URL"), BadSmtpUrl::NotAUrl);
    }

    #[test]
    fn user_and_password_are_decoded_and_never_shown() {
        let url = url("smtps://me%40example.com:p%2Fw%3A@h").expect("a URL");
        assert_eq!(url.credentials, Some(Credentials::new("me@example.com".to_owned(), "p/w:".to_owned())));
        let shown = format!("{url:?}");
        assert!(!shown.contains("p/w") && !shown.contains("example.com"), "{shown}");
        assert_eq!(decode("%zz"), None);
        assert_eq!(decode("%ff"), None);
        assert_eq!(decode("a%"), None);
    }

    #[test]
    fn a_password_in_clear_is_noticed_unless_it_stays_on_this_machine() {
        for (text, risks) in [
            ("smtp://u:p@mail.example.com", true),
            ("smtp://u:p@mail.example.com?tls=opportunistic", true),
            ("smtp://u:p@mail.example.com?tls=required", false),
            ("smtps://u:p@mail.example.com", false),
            ("smtp://mail.example.com", false),
            ("smtp://u:p@localhost:1025", false),
            ("smtp://u:p@[::1]:1025", false),
        ] {
            assert_eq!(url(text).expect(text).risks_password(), risks, "{text}");
        }
    }
}
