//! Encryption by the server itself, with a certificate that can be exchanged while connections are open.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
pub const LOOK: Duration = Duration::from_secs(10);

/// Where certificate and key lie, both as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and after it those that lead to a root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What is wrong with certificate or key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("{} cannot be read ({source}); name a file that this user may read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No certificate in its file.
    #[error("{} holds no certificate; write the chain as PEM, the server's own first", path.display())]
    NoCertificate {
        /// Which.
        path: PathBuf,
    },
    /// No key in its file.
    #[error("{} holds no private key; write it as PEM, unencrypted", path.display())]
    NoKey {
        /// Which.
        path: PathBuf,
    },
    /// They do not work together.
    #[error("certificate and key cannot be used ({0}); they must belong together")]
    Unusable(rustls::Error),
}

/// The certificate that new connections are shown.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Encryption. Cheap to clone; all clones show the same certificate.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
    files: Arc<TlsFiles>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads certificate and key.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let shown = Arc::new(Shown(RwLock::new(Arc::new(Content::read(&files)?.parse(&files)?))));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .with_no_client_auth();
        let mut config = config.with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), shown, files: Arc::new(files) })
    }

    pub(super) async fn accept(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(socket).await
    }

    /// Looks at the files every `pause` and whenever the process is told to (SIGHUP), until told to stop. New connections are shown the new
    /// certificate; open ones go on with theirs. What cannot be used is told, and the old one stays.
    pub async fn keep_fresh(self, pause: Duration, mut hangup: Hangup, stop: CancellationToken) {
        let mut last = Content::read(&self.files).map(|content| content.digest()).ok();
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                () = hangup.heard() => true,
                () = tokio::time::sleep(pause) => false,
            };
            let read = Content::read(&self.files);
            let digest = read.as_ref().map(Content::digest).ok();
            // Each state of the files is told once.
            if digest == last && !asked {
                continue;
            }
            last = digest;
            let (certificate, key) = (self.files.certificate.display(), self.files.key.display());
            match read.and_then(|content| content.parse(&self.files)) {
                Ok(fresh) => {
                    *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
                    tracing::info!(%certificate, %key, "new connections are shown the certificate as it is now");
                }
                Err(error) => tracing::error!(
                    %certificate, %key, %error,
                    "the new certificate cannot be used; the old one stays until it is mended"
                ),
            }
        }
    }
}

/// The files as they are at one moment.
struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Content {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source });
        Ok(Self { certificate: read(&files.certificate)?, key: read(&files.key)? })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.certificate.len().to_be_bytes());
        hash.update(&self.certificate);
        hash.update(&self.key);
        hash.finalize().into()
    }

    fn parse(&self, files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| TlsError::NoCertificate { path: files.certificate.clone() })?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| TlsError::NoKey { path: files.key.clone() })?;
        CertifiedKey::from_der(chain, key, &default_provider()).map_err(TlsError::Unusable)
    }
}

/// The signal that asks for the files to be read again.
#[derive(Debug)]
pub struct Hangup {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

impl Hangup {
    /// From now on SIGHUP is heard, and does not end the process any more.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            signal: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?,
        })
    }

    async fn heard(&mut self) {
        #[cfg(unix)]
        if self.signal.recv().await.is_some() {
            return;
        }
        std::future::pending::<()>().await;
    }
}
