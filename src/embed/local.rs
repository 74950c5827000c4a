//! Clients of nodes in the same process.

use crate::{
    client::{Client, ConnectError, Dialer, Host},
    node::Node,
    types::NodeId,
    wire::{Connection, LinkClosed, MemoryConnection},
};
use futures_util::future::BoxFuture;
use highwater_raft::env::Env;
use std::{collections::BTreeMap, sync::Arc};

type Connect = dyn Fn() -> MemoryConnection + Send + Sync;

/// Dials nodes of this process over channels, all others as `elsewhere` does.
#[derive(Default)]
pub struct LocalDialer {
    here: BTreeMap<NodeId, Box<Connect>>,
    elsewhere: Option<Arc<dyn Dialer>>,
}

impl LocalDialer {
    /// Knows no node yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Knows this node. The node lives on while the dialer does.
    pub fn node(self, node: &Node) -> Self {
        let here = node.clone();
        self.reached_by(node.id(), move || here.local())
    }

    /// Reaches a node by this function.
    pub fn reached_by(mut self, node: NodeId, connect: impl Fn() -> MemoryConnection + Send + Sync + 'static) -> Self {
        self.here.insert(node, Box::new(connect));
        self
    }

    /// Reaches nodes of other processes by this dialer.
    pub fn elsewhere(mut self, dialer: Arc<dyn Dialer>) -> Self {
        self.elsewhere = Some(dialer);
        self
    }

    /// The address by which a node of this process is found before it said who it is.
    pub fn address(node: NodeId) -> String {
        format!("local:{node}")
    }
}

impl Dialer for LocalDialer {
    fn dial(&self, node: Option<NodeId>, address: &str) -> BoxFuture<'static, Result<Arc<dyn Connection>, LinkClosed>> {
        let named = || address.strip_prefix("local:").and_then(|id| id.parse().ok()).map(NodeId);
        let here = node.or_else(named).and_then(|node| self.here.get(&node));
        match (here, &self.elsewhere) {
            (Some(connect), _) => {
                let connection: Arc<dyn Connection> = Arc::new(connect());
                Box::pin(std::future::ready(Ok(connection)))
            }
            (None, Some(elsewhere)) if !address.is_empty() => elsewhere.dial(node, address),
            (None, _) => {
                let node = node.map_or_else(|| address.to_owned(), |node| format!("node {node}"));
                Box::pin(std::future::ready(Err(LinkClosed(format!("{node} is not in this process")))))
            }
        }
    }
}

impl Client {
    /// A client of nodes of this process, without a port. Name all nodes of the cluster, or build the client with a
    /// [`LocalDialer`] that knows how to reach the others.
    pub async fn in_process<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Result<Self, ConnectError> {
        let mut dialer = LocalDialer::new();
        let mut builder = Client::builder().name("in-process");
        for node in nodes {
            dialer = dialer.node(node);
            builder = builder.bootstrap(LocalDialer::address(node.id()));
        }
        builder.dialer(Arc::new(dialer)).connect().await
    }
}

/// A client of simulated nodes takes time, randomness and tasks from where they do.
impl Host for Env {
    fn now_ms(&self) -> i64 {
        i64::try_from(Env::now_ms(self)).unwrap_or(i64::MAX)
    }

    fn random_u64(&self) -> u64 {
        Env::random_u64(self)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        Env::spawn(self, task);
    }
}
