//! Certificates: who a node is, and whom a client believes.
//!
//! ```text
//!  ca.pem, ca.key ── signs ──┬─ node-<id>.pem, .key    URI  highwater://<cluster>/node/<id>
//!                            │                          DNS  node-<id>.<cluster>.highwater, localhost, given hosts
//!                            └─ client-<name>.pem, .key  URI  highwater://<cluster>/client/<name>
//! ```
//!
//! Peers of the cluster check the URI and dial the first DNS name; clients dial a host and check that.
//!
//! **Invariants**
//! - Only TLS 1.3, only `ring`; no resumption (it would skip the check of certificates), no early data.
//! - A private key's file is readable by its owner alone, from its first byte.
//! - A CA is never overwritten: all certificates that it signed would be worthless.
//!
//! Not here: what peers check of each other (`highwater-raft`), who may do what (`auth`).

mod error;
#[cfg(feature = "node")]
mod make;
#[cfg(all(test, feature = "node"))]
mod tests;

pub use error::TlsError;
#[cfg(feature = "node")]
pub use make::{Authority, FOR_DAYS_DEFAULT, Issued, Names};

use crate::limits;
use ring::hmac;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use std::{path::Path, sync::Arc};

/// What the native protocol calls itself in the TLS handshake; the number is its major version.
pub const ALPN_NATIVE: &[u8] = b"highwater/1";

/// Whether a gateway asks its clients for certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Does not ask.
    Ignored,
    /// Refuses who has none of the cluster's CA.
    Required,
}

/// What a node shows and believes, as texts instead of files.
#[derive(Clone)]
pub struct Pem {
    /// The CA's certificate.
    pub ca: String,
    /// The node's certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pem(…)")
    }
}

/// A certificate with what leads to its CA, and its private key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads two PEM files.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::parse(&read(certificate)?, &certificate.display().to_string(), &read(key)?, &key.display().to_string())
    }

    /// Parses two PEM texts.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, TlsError> {
        Self::parse(certificate.as_bytes(), "the certificate", key.as_bytes(), "the private key")
    }

    fn parse(certificate: &[u8], certificate_name: &str, key: &[u8], key_name: &str) -> Result<Self, TlsError> {
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Pem {
            file: key_name.into(),
            what: "private key",
            why: error.to_string(),
        })?;
        Ok(Self { chain: certificates(certificate, certificate_name)?, key })
    }

    /// A key for something else than TLS: the same after each restart, and known to nobody without the private key.
    pub fn derived_key(&self, purpose: &str) -> hmac::Key {
        let of = hmac::Key::new(hmac::HMAC_SHA256, self.key.secret_der());
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&of, purpose.as_bytes()).as_ref())
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} certificates)", self.chain.len())
    }
}

/// The authorities that are believed. Clones share.
#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// Reads a PEM file of one or more CA certificates.
    pub fn read(ca: &Path) -> Result<Self, TlsError> {
        Self::parse(&read(ca)?, &ca.display().to_string())
    }

    /// Parses a PEM text of one or more CA certificates.
    pub fn from_pem(ca: &str) -> Result<Self, TlsError> {
        Self::parse(ca.as_bytes(), "the CA")
    }

    fn parse(ca: &[u8], name: &str) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca, name)? {
            roots.add(certificate).map_err(|error| TlsError::Pem {
                file: name.into(),
                what: "CA certificate",
                why: error.to_string(),
            })?;
        }
        Ok(Self(Arc::new(roots)))
    }
}

/// How a gateway of the native protocol answers. `roots` are asked only when certificates are required.
pub fn server_config(
    identity: &Identity,
    roots: &Roots,
    clients: ClientCertificates,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::refused)?;
    let builder = match clients {
        ClientCertificates::Ignored => builder.with_no_client_auth(),
        ClientCertificates::Required => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.0.clone(), provider()).build();
            let why = |error: rustls::client::VerifierBuilderError| TlsError::Refused { why: error.to_string() };
            builder.with_client_cert_verifier(verifier.map_err(why)?)
        }
    };
    let mut config =
        builder.with_single_cert(identity.chain.clone(), identity.key.clone_key()).map_err(TlsError::refused)?;
    config.alpn_protocols = vec![ALPN_NATIVE.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// How a client of the native protocol dials; `identity` for gateways that ask for certificates.
pub fn client_config(roots: &Roots, identity: Option<&Identity>) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::refused)?
        .with_root_certificates(roots.0.clone());
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(TlsError::refused)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_NATIVE.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Whether certificates can carry this as a cluster's or client's name: a label of a DNS name in lower case.
pub fn is_cluster_name(name: &str) -> bool {
    let letters = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    letters
        && (1..=limits::CERTIFIED_NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Read { file: path.display().to_string(), why: error.to_string() })
}

fn certificates(pem: &[u8], file: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refuse = |why: String| TlsError::Pem { file: file.into(), what: "certificate", why };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(refuse("there is none in it".into())),
        Ok(found) => Ok(found),
        Err(error) => Err(refuse(error.to_string())),
    }
}
