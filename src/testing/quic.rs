//! QUIC and TLS for simulated nodes and clients: certificates that are a function of the seed, and dialling from a simulated
//! host.

use crate::{
    client::QuicDialer,
    tls::{self, Authority, Pem, Roots},
    types::NodeId,
    wire::quic::take_large_packets,
};
use highwater_raft::env::{Datagrams, Env};
use quinn::EndpointConfig;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Simulated wall clocks jump: certificates that expired are another test's business.
const FOR_DAYS: u32 = 100 * 365;

/// The certificates of a simulated cluster.
pub struct Certificates {
    ca: String,
    roots: Roots,
    nodes: Vec<(NodeId, Pem)>,
}

impl Certificates {
    /// For nodes at these addresses; the same for the same seed.
    ///
    /// # Panics
    /// When the name is not one of a cluster.
    pub fn new(cluster: &str, seed: u64, nodes: impl IntoIterator<Item = (NodeId, IpAddr)>) -> Self {
        let authority = Authority::seeded(cluster, FOR_DAYS, seed).expect("the name of a cluster");
        let ca = authority.certificate_pem().to_owned();
        let issue = |(node, address): (NodeId, IpAddr)| {
            let issued =
                authority.issue_node(node, &[address.to_string()], FOR_DAYS).expect("an address is a good host");
            (node, Pem { ca: ca.clone(), certificate: issued.certificate_pem, key: issued.key_pem })
        };
        let nodes = nodes.into_iter().map(issue).collect();
        Self { roots: authority.roots().expect("its own certificate is readable"), ca, nodes }
    }

    /// What a node shows and believes.
    ///
    /// # Panics
    /// When there is none for it.
    pub fn of(&self, node: NodeId) -> Pem {
        let found = self.nodes.iter().find(|(of, _)| *of == node);
        found.map(|(_, pem)| pem.clone()).unwrap_or_else(|| panic!("no certificate was made for node {node}"))
    }

    /// The CA's certificate.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// How a client at a simulated host dials. Its tasks belong to `env`, its one socket is from `host`.
    ///
    /// # Panics
    /// When the host has no such address.
    pub fn dialer(&self, env: &Env, host: &dyn Datagrams, address: IpAddr) -> Arc<QuicDialer> {
        let socket = host.bind(SocketAddr::new(address, 0)).expect("the address of the host");
        let mut config = EndpointConfig::default();
        take_large_packets(&mut config);
        let socket = highwater_raft::env::Socket::Simulated(socket);
        let endpoint = env.endpoint(config, None, socket).expect("a simulated socket is taken by any runtime");
        let tls = tls::client_config(&self.roots, None).expect("its own CA is good");
        let prepared = QuicDialer::over(endpoint, tls, |config| env.seed_dialling(config));
        Arc::new(prepared.expect("the provider has what QUIC needs"))
    }
}
