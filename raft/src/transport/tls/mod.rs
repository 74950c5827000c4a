//! Who a node is to its peers: the cluster's CA, the node's certificate, and the rustls configs made of them.
//!
//! A certificate names its node twice: as URI `highwater://<cluster>/node/<id>`, which says who the peer is, and as DNS name
//! `node-<id>.<cluster>.highwater`, which is dialled (a URI alone never passes the check of a server's name).
//!
//! **Invariant:** TLS 1.3, mutual, one provider given explicitly; no resumption and no 0-RTT, since both skip the checks here.
//! **Invariant:** what was verified is a certificate of this cluster for exactly one node.
//! Not here: making certificates.

mod verify;

pub use verify::{NotTrusted, told};

use crate::{NodeId, env::Env};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    time_provider::TimeProvider,
    version::TLS13,
};
use std::{fmt, sync::Arc, time::Duration};

/// The protocol that peers speak.
pub const ALPN: &[u8] = b"highwater-peer/1";

/// Bytes of a cluster's name.
pub const CLUSTER_NAME_BYTES_MAX: usize = 40;

/// What a node shows and trusts, as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The cluster's name: lower-case letters, digits and inner hyphens, at most [`CLUSTER_NAME_BYTES_MAX`].
    pub cluster_name: String,
    /// The node that the certificate is for.
    pub node: NodeId,
    /// The CA (or several) that signed the certificates of all nodes.
    pub ca_pem: Vec<u8>,
    /// The node's certificate, then intermediates if there are any.
    pub cert_pem: Vec<u8>,
    /// The certificate's private key.
    pub key_pem: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", uri_name(&self.cluster_name, self.node))
    }
}

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The name does not fit into a certificate's DNS name.
    #[error("cluster name {name:?} must be 1 to {CLUSTER_NAME_BYTES_MAX} lower-case letters, digits or inner hyphens")]
    ClusterName {
        /// As configured.
        name: String,
    },
    /// A file does not hold what it should.
    #[error("the {what} is not usable PEM: {why}")]
    Pem {
        /// Which of the three.
        what: &'static str,
        /// What the parser says.
        why: String,
    },
    /// Certificate and private key do not belong together.
    #[error("certificate and private key do not fit: {0}")]
    Key(rustls::Error),
    /// The node's own certificate would be refused by its peers.
    #[error("peers will refuse this node's own certificate: {0}")]
    Own(NotTrusted),
    /// The provider lacks what QUIC needs.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// The configs of both roles.
#[derive(Clone)]
pub struct Credentials {
    /// For dialling; the name to dial is [`dns_name`].
    pub client: Arc<ClientConfig>,
    /// For accepting.
    pub server: Arc<ServerConfig>,
}

impl Identity {
    /// Checks everything, the own certificate too, and builds the configs. The clock is `env`'s.
    pub fn credentials(&self, env: &Env) -> Result<Credentials, IdentityError> {
        if !is_cluster_name(&self.cluster_name) {
            return Err(IdentityError::ClusterName { name: self.cluster_name.clone() });
        }
        let chain = certificates("node's certificate", &self.cert_pem)?;
        let mut roots = RootCertStore::empty();
        for ca in certificates("CA certificate", &self.ca_pem)? {
            roots.add(ca).map_err(|error| pem("CA certificate", &error))?;
        }
        let key = || PrivateKeyDer::from_pem_slice(&self.key_pem).map_err(|error| pem("private key", &error));
        let (roots, provider) = (Arc::new(roots), Arc::new(rustls::crypto::ring::default_provider()));
        let tls = |error: &dyn fmt::Display| IdentityError::Tls(error.to_string());

        let server_verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| tls(&error))?;
        let client_verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| tls(&error))?;
        let server_verifier = verify::Server { inner: server_verifier, cluster: self.cluster_name.clone() };
        let client_verifier = verify::Client { inner: client_verifier, cluster: self.cluster_name.clone() };
        let clock = Arc::new(Clock(env.clone()));
        server_verifier.check(&chain[0], &chain[1..], self.node, clock.now()).map_err(IdentityError::Own)?;

        let mut client = ClientConfig::builder_with_details(provider.clone(), clock.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| tls(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(server_verifier))
            .with_client_auth_cert(chain.clone(), key()?)
            .map_err(IdentityError::Key)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_early_data = false;

        let mut server = ServerConfig::builder_with_details(provider, clock)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| tls(&error))?
            .with_client_cert_verifier(Arc::new(client_verifier))
            .with_single_cert(chain, key()?)
            .map_err(IdentityError::Key)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;
        Ok(Credentials { client: Arc::new(client), server: Arc::new(server) })
    }
}

/// Whether a name can stand in certificates as a DNS label.
pub fn is_cluster_name(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=CLUSTER_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// The DNS name of a node's certificate, which peers dial.
pub fn dns_name(cluster: &str, node: NodeId) -> String {
    format!("node-{node}.{cluster}.highwater")
}

/// The URI name of a node's certificate, which says who it is.
pub fn uri_name(cluster: &str, node: NodeId) -> String {
    format!("highwater://{cluster}/node/{node}")
}

/// The cluster and node that a certificate's URI name says; the first that is ours.
pub fn named(certificate: &CertificateDer<'_>) -> Option<(String, NodeId)> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_uri_names().find_map(|uri| {
        let (cluster, node) = uri.strip_prefix("highwater://")?.split_once("/node/")?;
        Some((cluster.to_owned(), NodeId(node.parse().ok()?)))
    })
}

fn certificates(what: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|error| pem(what, &error))?;
    if found.is_empty() { Err(pem(what, &"it holds no certificate")) } else { Ok(found) }
}

fn pem(what: &'static str, why: &dyn fmt::Display) -> IdentityError {
    IdentityError::Pem { what, why: why.to_string() }
}

/// The wall clock by which certificates are judged.
struct Clock(Env);

impl Clock {
    fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_millis(self.0.now_ms()))
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
pub(crate) mod tests;
