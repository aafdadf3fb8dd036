//! Why a database cannot be connected to, where trying again is of no use.

use std::{error::Error as StdError, io};

use rustls::{CertificateError, Error as TlsError};
use sea_orm::{DbErr, RuntimeErr, sqlx};

/// Something that stays as it is until a person mends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The URL, or a file that it names, is not as it must be.
    Configuration,
    /// User, password or database.
    Credentials,
    /// The server offers no encryption, and the URL asks for it.
    NoTls,
    /// Its certificate is of an authority that is not known here.
    UnknownAuthority,
    /// Its certificate is that of another name.
    OtherName,
    /// Its certificate is over, or not valid yet.
    Expired,
    /// Its certificate is wrong in some other way.
    Certificate,
    /// A pooler does not take a setting that the URL has sent along when connecting.
    StartupParameter,
}

impl Refusal {
    /// What the error means, where it means any of these.
    pub fn of(error: &DbErr) -> Option<Self> {
        let DbErr::Conn(RuntimeErr::SqlxError(error)) = error else { return None };
        match &**error {
            sqlx::Error::Configuration(_) => Some(Self::Configuration),
            sqlx::Error::Tls(inner) => Some(tls_error(&**inner).map_or(Self::NoTls, Self::of_tls)),
            // The handshake speaks through the connection's reader and writer.
            sqlx::Error::Io(error) => in_io(error).map(Self::of_tls),
            sqlx::Error::Database(error) => {
                let code = error.code().unwrap_or_default();
                if error.message().contains("startup parameter") {
                    // PgBouncer, code 08P01.
                    Some(Self::StartupParameter)
                } else if code.starts_with("28") || code == "3D000" {
                    Some(Self::Credentials)
                } else {
                    None
                }
            }
            _ => None,
        }
    }

    fn of_tls(error: &TlsError) -> Self {
        match error {
            TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => Self::UnknownAuthority,
            TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => Self::OtherName,
            TlsError::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => Self::Expired,
            _ => Self::Certificate,
        }
    }

    /// What is wrong, as the predicate of "the database", and what would be right.
    pub const fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Configuration => (
                "cannot be connected to as DATABASE_URL says",
                "correct the URL; files that sslrootcert, sslcert and sslkey name must be there and be readable",
            ),
            Self::Credentials => ("refused", "correct user, password and database name in DATABASE_URL"),
            Self::NoTls => (
                "offers no encryption, and sslmode in DATABASE_URL asks for it",
                "switch it on at the server (ssl = on), or, on a network that nobody else is in, write sslmode=disable",
            ),
            Self::UnknownAuthority => (
                "shows a certificate of an authority that is not known here",
                "let sslrootcert in DATABASE_URL name the authority's certificate, a PEM file from whoever runs the server \
                 (Supabase: Database settings, SSL configuration); if you expected a known authority, somebody may stand in between",
            ),
            Self::OtherName => (
                "shows a certificate of another name than the host in DATABASE_URL",
                "write the host as the certificate names it, or have the server's certificate issued for this host; \
                 if neither is wrong, somebody may stand in between",
            ),
            Self::Expired => (
                "shows a certificate that is over or not valid yet",
                "have the server's certificate renewed, or set this machine's clock",
            ),
            Self::Certificate => (
                "and this machine do not agree on encryption",
                "look at the server's certificate and TLS versions; what was found is told below",
            ),
            Self::StartupParameter => (
                "is reached through a pooler that refuses a setting sent along",
                "take `options` out of DATABASE_URL and set it for the role (ALTER ROLE … SET …), or let the pooler's \
                 ignore_startup_parameters name it",
            ),
        }
    }
}

/// The error of TLS within an error of input or output.
fn in_io(error: &io::Error) -> Option<&TlsError> {
    error.get_ref().and_then(|inner| tls_error(inner))
}

fn tls_error<'e>(error: &'e (dyn StdError + Send + Sync + 'static)) -> Option<&'e TlsError> {
    if let Some(error) = error.downcast_ref::<TlsError>() {
        return Some(error);
    }
    error.downcast_ref::<io::Error>().and_then(in_io)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn of(error: sqlx::Error) -> Option<Refusal> {
        Refusal::of(&DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error))))
    }

    #[test]
    fn what_no_second_try_mends_is_told_from_what_passes() {
        let certificate = |error| io::Error::new(io::ErrorKind::InvalidData, TlsError::InvalidCertificate(error));
        assert_eq!(of(sqlx::Error::Io(certificate(CertificateError::UnknownIssuer))), Some(Refusal::UnknownAuthority));
        assert_eq!(of(sqlx::Error::Io(certificate(CertificateError::NotValidForName))), Some(Refusal::OtherName));
        assert_eq!(of(sqlx::Error::Io(certificate(CertificateError::Expired))), Some(Refusal::Expired));
        assert_eq!(of(sqlx::Error::Tls("server does not support TLS".into())), Some(Refusal::NoTls));
        assert_eq!(of(sqlx::Error::Configuration("no file".into())), Some(Refusal::Configuration));
        assert_eq!(of(sqlx::Error::Io(io::ErrorKind::ConnectionRefused.into())), None);
        assert_eq!(of(sqlx::Error::PoolTimedOut), None);
    }
}
