//! The native protocol over QUIC.

use super::{Gateway, ListenError};
use crate::{
    auth::{Admission, admission},
    config::Listener,
    limits,
    runtime::{Env, Phase},
    tls::{self, ClientCertificates, Identity, Roots},
    wire::{
        LinkClosed,
        quic::{self, QuicConnection, Way, server_config},
    },
};
use highwater_raft::env::AnyId;
use quinn::{Endpoint, EndpointConfig, Incoming, ServerConfig};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long a handshake may take.
const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Half as many connections as allowed are there: addresses are validated from here on.
const VALIDATE_FROM: u32 = limits::CONNECTIONS_MAX / 2;

/// A listener.
pub struct Native {
    endpoint: Endpoint,
}

impl Gateway {
    /// Listens until the node drains. Must be called within a tokio runtime, which drives the socket.
    pub fn listen(&self, listener: &Listener, identity: &Identity, roots: &Roots) -> Result<Native, ListenError> {
        let clients = match admission(listener)? {
            Admission::Anybody => ClientCertificates::Ignored,
            Admission::Certificate => ClientCertificates::Required,
        };
        let refused = |error: &dyn std::fmt::Display| ListenError::Bind { bind: listener.bind, why: error.to_string() };
        let tls = tls::server_config(identity, roots, clients)?;
        let config = |way| server_config(tls.clone(), way).map(Arc::new).map_err(|error| refused(&error));
        let (loopback, network) = (config(Way::Loopback)?, config(Way::Network)?);
        let env = &self.0.env;
        let (socket, granted) = env.bind_udp(listener.bind, quic::bind).map_err(|error| refused(&error))?;
        if granted < quic::SOCKET_BUFFER_BYTES {
            tracing::warn!(
                bytes = granted,
                "small UDP receive buffer; allow more by: sysctl -w net.core.rmem_max={wanted} net.core.wmem_max={wanted}",
                wanted = quic::SOCKET_BUFFER_BYTES
            );
        }
        let endpoint = env.endpoint(endpoint_config(identity, env), Some((*network).clone()), socket);
        let endpoint = endpoint.map_err(|error| refused(&error))?;
        let (gateway, listening) = (self.clone(), endpoint.clone());
        self.start(move || gateway.accept(listening, loopback));
        Ok(Native { endpoint })
    }

    async fn accept(self, endpoint: Endpoint, loopback: Arc<ServerConfig>) {
        let mut draining = std::pin::pin!(self.0.phases.reached(Phase::Draining));
        loop {
            tokio::select! {
                biased;
                () = &mut draining => return endpoint.set_server_config(None),
                incoming = endpoint.accept() => match incoming {
                    Some(incoming) => {
                        let from_here = Way::to(incoming.remote_address()) == Way::Loopback;
                        self.admit(incoming, from_here.then(|| loopback.clone()));
                    }
                    None => return,
                },
            }
        }
    }

    /// `config`: another one than the endpoint's.
    fn admit(&self, incoming: Incoming, config: Option<Arc<ServerConfig>>) {
        let connections = self.connections();
        if connections >= limits::CONNECTIONS_MAX {
            tracing::warn!(connections, "connection refused: too many");
            return incoming.refuse();
        }
        if connections >= VALIDATE_FROM && !incoming.remote_address_validated() {
            // An error means that it was validated meanwhile.
            let _ = incoming.retry();
            return;
        }
        let gateway = self.clone();
        // Accepted there, so that the connection's packets are made there.
        self.start(move || async move {
            let from = incoming.remote_address();
            match handshake(incoming, config).await {
                Ok(connection) => gateway.serve(Arc::new(connection), from.to_string()).await,
                Err(why) => tracing::debug!(%from, %why, "handshake failed"),
            }
        });
    }
}

/// Connections of the life before are reset at once, and not only when their clients have waited for an answer in vain:
/// the reset's proof is the same in each life (RFC 9000, 10.3), and no id is taken for somebody else's.
fn endpoint_config(identity: &Identity, env: &Env) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(identity.derived_key("stateless reset")));
    let env = env.clone();
    config.cid_generator(move || Box::new(AnyId(env.clone())));
    quic::take_large_packets(&mut config);
    config
}

async fn handshake(incoming: Incoming, config: Option<Arc<ServerConfig>>) -> Result<QuicConnection, LinkClosed> {
    let failed = |error: quinn::ConnectionError| LinkClosed(error.to_string());
    let connecting = match config {
        Some(config) => incoming.accept_with(config),
        None => incoming.accept(),
    };
    let connecting = connecting.map_err(failed)?;
    match timeout(HANDSHAKE_WAIT_MAX, connecting).await {
        Ok(connection) => Ok(QuicConnection::new(connection.map_err(failed)?)),
        Err(_) => Err(LinkClosed(format!("no handshake within {} s", HANDSHAKE_WAIT_MAX.as_secs()))),
    }
}

impl Native {
    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Closes all connections that are left, and waits until their clients have been told.
    pub async fn close(&self) {
        self.endpoint.close(quinn::VarInt::from_u32(0), b"this node is shutting down");
        let _ = timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}
