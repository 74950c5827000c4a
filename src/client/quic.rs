//! Connections over QUIC.

use super::{dial::Dialer, error::ConnectError};
use crate::{
    types::NodeId,
    wire::{
        Connection, LinkClosed,
        quic::{self, Way},
    },
};
use futures_util::future::BoxFuture;
use quinn::{ClientConfig, Endpoint, EndpointConfig, TokioRuntime};
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

/// Dials over QUIC with one UDP socket per address family.
pub struct QuicDialer {
    v4: Endpoint,
    v6: Option<Endpoint>,
    loopback: ClientConfig,
    network: ClientConfig,
    server_name: Option<String>,
}

impl QuicDialer {
    /// With these TLS settings (roots that it trusts, and a certificate of its own where the cluster asks for one), on the
    /// current tokio runtime.
    pub fn new(tls: rustls::ClientConfig) -> Result<Self, ConnectError> {
        let setup = |why: String| ConnectError::Setup { why };
        let config = |way| quic::client_config(tls.clone(), way).map_err(|e| setup(e.to_string()));
        let endpoint = |address: SocketAddr| {
            let mut config = EndpointConfig::default();
            quic::take_large_packets(&mut config);
            Endpoint::new(config, None, quic::bind(address)?.0, Arc::new(TokioRuntime))
        };
        let v4 = endpoint((Ipv4Addr::UNSPECIFIED, 0).into()).map_err(|e| setup(format!("no UDP socket: {e}")))?;
        // A machine without IPv6 is no error.
        let v6 = endpoint((Ipv6Addr::UNSPECIFIED, 0).into()).ok();
        Ok(Self { v4, v6, loopback: config(Way::Loopback)?, network: config(Way::Network)?, server_name: None })
    }

    /// Dials from an endpoint that exists already, as a simulation's; `prepare` sees how each kind of address is dialled.
    pub fn over(
        endpoint: Endpoint,
        tls: rustls::ClientConfig,
        prepare: impl Fn(&mut ClientConfig),
    ) -> Result<Self, ConnectError> {
        let config = |way| {
            let config = quic::client_config(tls.clone(), way);
            let mut config = config.map_err(|error| ConnectError::Setup { why: error.to_string() })?;
            prepare(&mut config);
            Ok(config)
        };
        let (loopback, network) = (config(Way::Loopback)?, config(Way::Network)?);
        Ok(Self { v4: endpoint, v6: None, loopback, network, server_name: None })
    }

    /// Expects certificates for this name, whatever host is dialled.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }
}

impl Dialer for QuicDialer {
    fn dial(
        &self,
        _node: Option<NodeId>,
        address: &str,
    ) -> BoxFuture<'static, Result<Arc<dyn Connection>, LinkClosed>> {
        let (v4, v6, server_name) = (self.v4.clone(), self.v6.clone(), self.server_name.clone());
        let (loopback, network) = (self.loopback.clone(), self.network.clone());
        let address = address.to_owned();
        Box::pin(async move {
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            let name = server_name.unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned());
            let found = tokio::net::lookup_host(&address).await.map_err(|e| LinkClosed(format!("{address}: {e}")))?;
            let mut last = LinkClosed(format!("{address} has no address"));
            for socket in found {
                let endpoint = match (socket, &v6) {
                    (SocketAddr::V4(_), _) => &v4,
                    (SocketAddr::V6(_), Some(v6)) => v6,
                    (SocketAddr::V6(_), None) => continue,
                };
                let config = match Way::to(socket) {
                    Way::Loopback => loopback.clone(),
                    Way::Network => network.clone(),
                };
                match quic::connect(endpoint, config, socket, &name).await {
                    Ok(connection) => return Ok(Arc::new(connection) as Arc<dyn Connection>),
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }
}
