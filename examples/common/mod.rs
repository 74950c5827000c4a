//! What the examples share: nodes whose files vanish with them, and a record of what was printed.

#![allow(dead_code, reason = "each example uses a part of it")]
#![allow(clippy::print_stdout, reason = "examples print")]

use anyhow::{Context, Result, ensure};
use highwater::{
    client::Client,
    config::{Config, Listener, ListenerKind},
    node::Node,
    tls,
    types::NodeId,
};
use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

/// The cluster's name, which its certificates carry.
const CLUSTER: &str = "example";

/// Nodes of one cluster in this process.
pub(crate) struct Cluster {
    pub nodes: Vec<Node>,
    roots: Option<tls::Roots>,
    _files: TempDir,
}

impl Cluster {
    /// One node without any port.
    pub(crate) async fn without_port() -> Result<Self> {
        let files = TempDir::new()?;
        let config = config(1, &[(0, 0)], files.path());
        let node = Node::builder(config).start().await?;
        serving(&node).await?;
        Ok(Self { nodes: vec![node], roots: None, _files: files })
    }

    /// One node that listens on a port of the system's choice, with certificates made for it.
    pub(crate) async fn with_listener() -> Result<Self> {
        let files = TempDir::new()?;
        let roots = certificates(1, files.path())?;
        let mut config = config(1, &[free_ports()?], files.path());
        config.listeners.0.push(Listener::new(ListenerKind::Native, loopback(0)));
        let node = Node::builder(config).start().await?;
        serving(&node).await?;
        Ok(Self { nodes: vec![node], roots: Some(roots), _files: files })
    }

    /// Three nodes that replicate over QUIC, and no port for clients.
    pub(crate) async fn of_three() -> Result<Self> {
        let files = TempDir::new()?;
        let roots = certificates(3, files.path())?;
        let ports = [free_ports()?, free_ports()?, free_ports()?];
        let mut nodes = Vec::new();
        for id in 1..=3 {
            nodes.push(Node::builder(config(id, &ports, files.path())).start().await?);
        }
        for node in &nodes {
            serving(node).await?;
        }
        Ok(Self { nodes, roots: Some(roots), _files: files })
    }

    /// A client over the network.
    pub(crate) async fn connect(&self) -> Result<Client> {
        let address = self.nodes[0].listeners().first().context("the node has no listener")?;
        let roots = self.roots.as_ref().context("the cluster has no certificates")?;
        Ok(Client::connect([address.to_string()], tls::client_config(roots, None)?).await?)
    }

    /// A client in the same process.
    pub(crate) async fn in_process(&self) -> Result<Client> {
        Ok(Client::in_process(&self.nodes).await?)
    }

    /// Stops all nodes.
    pub(crate) async fn stop(self) -> Result<()> {
        for node in &self.nodes {
            node.stop().await?;
        }
        Ok(())
    }
}

async fn serving(node: &Node) -> Result<()> {
    tokio::select! {
        ended = node.run() => anyhow::bail!("the node ended before it served: {ended:?}"),
        served = tokio::time::timeout(Duration::from_secs(60), node.serving()) => Ok(served.context("the node does not serve")?),
    }
}

fn config(id: u16, ports: &[(u16, u16)], files: &Path) -> Config {
    let nodes = u16::try_from(ports.len()).expect("an example has few nodes");
    let mut config = Config::local(id, nodes);
    config.listeners.0.clear();
    config.cluster.name = CLUSTER.into();
    for (seed, (peer, control)) in config.cluster.seeds.iter_mut().zip(ports) {
        (seed.peer, seed.control) = (loopback(*peer).into(), loopback(*control).into());
    }
    let (peer, control) = ports[usize::from(id) - 1];
    (config.node.peer_bind, config.node.control_bind) = (loopback(peer), loopback(control));
    config.node.data_dir = files.join(format!("node-{id}"));
    config.tls.ca = files.join("ca.pem");
    config.tls.certificate = files.join(format!("node-{id}.pem"));
    config.tls.key = files.join(format!("node-{id}.key"));
    config.log.wal_file_bytes = 8 << 20;
    config.log.free_bytes_min = 1 << 20;
    config
}

/// Makes a CA and a certificate for each node; gives what clients believe.
fn certificates(nodes: u32, files: &Path) -> Result<tls::Roots> {
    let now_ms = u64::try_from(now()?.as_millis())?;
    let authority = tls::Authority::create(CLUSTER, 1, now_ms)?;
    authority.write(files)?;
    for id in 1..=nodes {
        authority.issue_node(NodeId(id), &[], 1)?.write(files, &format!("node-{id}"))?;
    }
    Ok(authority.roots()?)
}

#[allow(clippy::disallowed_methods, reason = "a certificate begins now")]
fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?)
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Two UDP ports that nobody uses now.
fn free_ports() -> Result<(u16, u16)> {
    let (a, b) = (UdpSocket::bind(loopback(0))?, UdpSocket::bind(loopback(0))?);
    Ok((a.local_addr()?.port(), b.local_addr()?.port()))
}

/// What an example printed.
#[derive(Default)]
pub(crate) struct Printed(Vec<String>);

impl Printed {
    /// Prints a line.
    pub(crate) fn line(&mut self, line: impl Into<String>) {
        let line = line.into();
        println!("{line}");
        self.0.push(line);
    }

    /// Fails unless exactly this was printed.
    pub(crate) fn check(self, expected: &[&str]) -> Result<()> {
        ensure!(self.0 == expected, "expected {expected:#?}, printed {:#?}", self.0);
        Ok(())
    }
}
