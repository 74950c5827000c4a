//! What can go wrong with certificates and their files.

use crate::{
    advice::{Advice, Reaction},
    limits,
};
use thiserror::Error;

/// Why certificates cannot be read, made or used. A handshake that fails is the connection's error, not this one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {file}: {why}")]
    Read {
        /// Its path.
        file: String,
        /// What the operating system says.
        why: String,
    },
    /// A file cannot be written.
    #[error("cannot write {file}: {why}")]
    Write {
        /// Its path.
        file: String,
        /// What the operating system says.
        why: String,
    },
    /// A file does not hold what it should.
    #[error("{file} holds no usable {what}: {why}")]
    Pem {
        /// Its path, or what it is.
        file: String,
        /// What was looked for.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The TLS library refuses certificate or key.
    #[error("certificate or private key is refused: {why}")]
    Refused {
        /// What it says.
        why: String,
    },
    /// There is a CA already.
    #[error("{file} is there already")]
    AuthorityExists {
        /// The file of the certificate or the key.
        file: String,
    },
    /// A CA was made for another cluster, or elsewhere, or its two files do not belong together.
    #[error("{file} was not made by `highwater cert` for a cluster named {cluster:?}, or its key is another's")]
    OtherAuthority {
        /// The CA's certificate.
        file: String,
        /// The cluster that was asked for.
        cluster: String,
    },
    /// A cluster's or client's name that no certificate can carry.
    #[error("{name:?} cannot be a {what} name in a certificate")]
    Name {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A host that no certificate can carry.
    #[error("{host:?} is neither a host name nor an IP address")]
    Host {
        /// The host.
        host: String,
    },
}

impl TlsError {
    pub(super) fn refused(error: rustls::Error) -> Self {
        Self::Refused { why: error.to_string() }
    }
}

impl Advice for TlsError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Read { .. } | Self::Write { .. } | Self::Pem { .. } | Self::Refused { .. } => Reaction::Stop,
            Self::AuthorityExists { .. } | Self::OtherAuthority { .. } => Reaction::Reject,
            Self::Name { .. } | Self::Host { .. } => Reaction::Reject,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Read { file, .. } => format!("check that {file} exists and may be read; `highwater cert` makes it"),
            Self::Write { file, .. } => format!("check that the directory of {file} may be written and has room"),
            Self::Pem { file, .. } => format!("make {file} anew with `highwater cert`, or name another PEM file"),
            Self::Refused { .. } => {
                "name the certificate and the key that were made together by `highwater cert`".into()
            }
            Self::AuthorityExists { .. } => {
                "use the CA that is there to make more certificates, or choose another directory for a new cluster"
                    .into()
            }
            Self::OtherAuthority { .. } => {
                "give the cluster's name as in [cluster] of its config, and the directory of its own CA".into()
            }
            Self::Name { what, .. } => format!(
                "choose a {what} name of 1 to {} of a-z, 0-9 and '-' (not at its ends)",
                limits::CERTIFIED_NAME_BYTES_MAX
            ),
            Self::Host { .. } => "give a host name or an IP address, without port and brackets".into(),
        }
    }
}
