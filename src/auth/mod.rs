//! Who a client is, and whether it is let in. Now: certificates of the cluster's CA, or anybody where the listener's
//! config says so by name or only this machine can reach it.
//!
//! **Invariant:** no listener is open to the network by accident: [`admission`] is asked before it is bound, whoever
//! made the config.
//!
//! Comes later: SASL, principals with ACLs per topic and group, tokens.

use crate::{
    advice::{Advice, Reaction},
    config::Listener,
};
use std::net::SocketAddr;

/// Whom a listener lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Whoever reaches it.
    Anybody,
    /// Who has a certificate of the cluster's CA.
    Certificate,
}

/// A listener that would let in anybody from the network without having been told to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// Neither loopback, nor certificates, nor anonymous by name.
    #[error("a listener on {bind} would let in anybody who reaches it")]
    OpenToNetwork {
        /// Where it was to listen.
        bind: SocketAddr,
    },
}

impl Advice for AdmissionError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::OpenToNetwork { .. } => Reaction::Reject,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::OpenToNetwork { bind } => format!(
                "bind 127.0.0.1:{}, ask for client_certificates = true, or let everybody in by anonymous = true",
                bind.port()
            ),
        }
    }
}

/// Whom this listener lets in.
pub fn admission(listener: &Listener) -> Result<Admission, AdmissionError> {
    match (listener.client_certificates, listener.anonymous || listener.bind.ip().is_loopback()) {
        (true, _) => Ok(Admission::Certificate),
        (false, true) => Ok(Admission::Anybody),
        (false, false) => Err(AdmissionError::OpenToNetwork { bind: listener.bind }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ListenerKind;

    #[test]
    fn only_loopback_is_open_without_a_word() {
        let listener = |ip: [u8; 4], anonymous, client_certificates| Listener {
            kind: ListenerKind::Native,
            bind: (ip, 7420).into(),
            advertised: None,
            anonymous,
            client_certificates,
        };
        assert_eq!(admission(&listener([127, 0, 0, 1], false, false)), Ok(Admission::Anybody));
        assert_eq!(admission(&listener([127, 0, 0, 1], false, true)), Ok(Admission::Certificate));
        assert_eq!(admission(&listener([0, 0, 0, 0], true, false)), Ok(Admission::Anybody));
        assert_eq!(admission(&listener([10, 0, 0, 1], false, true)), Ok(Admission::Certificate));
        assert!(admission(&listener([10, 0, 0, 1], false, false)).is_err());
    }
}
