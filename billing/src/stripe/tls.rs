//! Which certificates are believed.
//!
//! Those of the system, where it has any: an operator may have added or taken away some. Where there are none, as in an image without
//! `ca-certificates`, Mozilla's, which are built in.

use std::sync::Arc;

use rustls::{ClientConfig, Error, RootCertStore, crypto::ring};

/// A configuration; without `verifying`, one for connections that are not encrypted, which believes nobody.
pub fn config(verifying: bool) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    if verifying {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
    }
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
