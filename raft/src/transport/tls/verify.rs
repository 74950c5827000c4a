//! The checks of a peer's certificate, with a reason that a person can act on.

use super::{dns_name, named};
use crate::NodeId;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use std::{fmt, sync::Arc};

/// Why a certificate is not trusted.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTrusted {
    /// Another CA signed it.
    #[error(
        "the certificate of {whose} is signed by another CA: all nodes need the same ca.pem and certificates made with it"
    )]
    OtherCa {
        /// Whom it names.
        whose: String,
    },
    /// Its time is over.
    #[error("the certificate of {whose} expired {seconds_ago} s ago: make a new one with `highwater cert`")]
    Expired {
        /// Whom it names.
        whose: String,
        /// Since when.
        seconds_ago: u64,
    },
    /// Its time has not come.
    #[error("the certificate of {whose} is valid in {seconds_ahead} s only: compare the clocks of the two machines")]
    NotYetValid {
        /// Whom it names.
        whose: String,
        /// From when on.
        seconds_ahead: u64,
    },
    /// It is for another cluster.
    #[error(
        "the certificate is for cluster \"{actual}\", this is cluster \"{expected}\": compare cluster.name and certificates"
    )]
    OtherCluster {
        /// This cluster.
        expected: String,
        /// The certificate's.
        actual: String,
    },
    /// It is for another node.
    #[error(
        "the certificate is for node {actual}, not for node {expected}: compare node ids, addresses and certificates"
    )]
    OtherNode {
        /// Who was expected.
        expected: NodeId,
        /// Whom it names.
        actual: NodeId,
    },
    /// It names no node.
    #[error("the certificate names no node of a cluster: make one with `highwater cert`")]
    NoNode,
    /// Anything else.
    #[error("the certificate of {whose} is not accepted: {why}")]
    Other {
        /// Whom it names.
        whose: String,
        /// What TLS says.
        why: String,
    },
}

/// Debug is Display: it is what rustls prints of a foreign error.
impl fmt::Debug for NotTrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<NotTrusted> for Error {
    fn from(error: NotTrusted) -> Self {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

/// The reason of a [`NotTrusted`] within the text that rustls and QUIC wrapped around it, else the text.
pub fn told(text: &str) -> &str {
    match text.split_once("Other(OtherError(") {
        Some((_, inner)) => inner.strip_suffix("))").unwrap_or(inner),
        None => text,
    }
}

fn explain(error: Error, certificate: &CertificateDer<'_>, now: UnixTime) -> NotTrusted {
    let whose = named(certificate).map_or("an unnamed node".into(), |(_, node)| format!("node {node}"));
    let Error::InvalidCertificate(error) = error else {
        return NotTrusted::Other { whose, why: error.to_string() };
    };
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => NotTrusted::OtherCa { whose },
        CertificateError::ExpiredContext { not_after, .. } => {
            NotTrusted::Expired { whose, seconds_ago: now.as_secs().saturating_sub(not_after.as_secs()) }
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            NotTrusted::NotYetValid { whose, seconds_ahead: not_before.as_secs().saturating_sub(now.as_secs()) }
        }
        other => NotTrusted::Other { whose, why: other.to_string() },
    }
}

fn check_cluster(certificate: &CertificateDer<'_>, expected: &str) -> Result<NodeId, NotTrusted> {
    let (cluster, node) = named(certificate).ok_or(NotTrusted::NoNode)?;
    if cluster != expected {
        return Err(NotTrusted::OtherCluster { expected: expected.into(), actual: cluster });
    }
    Ok(node)
}

/// Verifies whom we dial.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) inner: Arc<WebPkiServerVerifier>,
    pub(super) cluster: String,
}

impl Server {
    /// Whether the chain proves that it is `node`.
    pub(super) fn check(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        node: NodeId,
        now: UnixTime,
    ) -> Result<(), NotTrusted> {
        let name = ServerName::try_from(dns_name(&self.cluster, node))
            .map_err(|error| NotTrusted::Other { whose: format!("node {node}"), why: error.to_string() })?;
        let verified = self.inner.verify_server_cert(certificate, chain, &name, &[], now);
        // The chain is judged before the names: what another CA says of names is worth nothing.
        match verified {
            Err(error @ Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })) => {
                let actual = check_cluster(certificate, &self.cluster)?;
                if actual == node {
                    return Err(explain(error, certificate, now));
                }
                Err(NotTrusted::OtherNode { expected: node, actual })
            }
            Err(error) => Err(explain(error, certificate, now)),
            Ok(_) => match check_cluster(certificate, &self.cluster)? {
                actual if actual != node => Err(NotTrusted::OtherNode { expected: node, actual }),
                _ => Ok(()),
            },
        }
    }
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let dialled = server_name.to_str();
        let node = dialled.strip_prefix("node-").and_then(|rest| rest.split_once('.')?.0.parse().ok()).map(NodeId);
        let node = node.ok_or_else(|| Error::General(format!("{dialled} is not the name of a node")))?;
        self.check(end_entity, intermediates, node, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Verifies who dials us. Which node it is, is compared with its HELLO later.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) cluster: String,
}

impl ClientCertVerifier for Client {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Without hints a client with another CA's certificate still shows it, and hears why it is refused.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.inner
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(|error| explain(error, end_entity, now))?;
        check_cluster(end_entity, &self.cluster)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
