//! A node: everything built in order, its failure policy, and its end.
//!
//! ```text
//!  start:  disk → log → network → Raft host → peers → controller, groups, partitions → gateways
//!          → find the cluster → open the controller's replica → register → host what the metadata says
//!  stop:   no new connection → leaderships to others → what is in flight is answered → Raft closed → log sealed → threads
//! ```
//! **Invariants**
//! - A storage error ends the node: [`Node::run`] resolves to it, nothing goes on lying, the host program lives.
//! - A panic in one replica's turn ends that replica alone.
//! - Several nodes live in one process without sharing anything; in simulation all of a node runs on the current thread.

mod around;
mod builder;
mod error;
mod facts;
mod hosting;
mod janitor;
mod life;
mod mender;
mod seeds;
mod solo;
mod steward;
#[cfg(test)]
mod tests;
mod troubles;

pub use builder::Builder;
pub use error::NodeError;
#[cfg(feature = "testing")]
pub(crate) use {
    mender::{Page, Piece, Wanted},
    seeds::{Founding, Seeding},
};

use crate::{
    config::Config,
    controller::Controller,
    gateway::{Gateway, admin::Facts as _},
    group::Groups,
    partition::Partitions,
    quota::Pools,
    runtime::{Arbiters, Courier, Phase, Phases},
    types::NodeId,
    wire::MemoryConnection,
};
use facts::NodeFacts;
use highwater_raft::{group::Host, log::Directory, transport::quic::QuicNetwork};
use hosting::Hosting;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// A running node. Clones share; it runs until [`Node::shutdown`], a failure, or the last clone is dropped.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    config: Config,
    arbiters: Arbiters,
    phases: Phases,
    directory: Directory,
    host: Host,
    quic: Option<Arc<QuicNetwork>>,
    controller: Controller,
    groups: Groups,
    partitions: Partitions,
    hosting: Hosting,
    courier: Arc<dyn Courier>,
    gateway: Gateway,
    facts: Arc<NodeFacts>,
    listeners: Vec<SocketAddr>,
    failure: Failure,
}

/// The first failure that ends a node.
#[derive(Clone)]
struct Failure(Arc<(Mutex<Option<NodeError>>, watch::Sender<bool>)>);

impl Default for Failure {
    fn default() -> Self {
        Self(Arc::new((Mutex::new(None), watch::Sender::new(false))))
    }
}

impl Failure {
    fn set(&self, error: NodeError) {
        tracing::error!(%error, "the node cannot go on");
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.0.1.send_replace(true);
    }

    async fn wait(&self) {
        // The sender is in `self`: it cannot be gone while this waits.
        let _ = self.0.1.subscribe().wait_for(|failed| *failed).await;
    }

    fn take(&self) -> Option<NodeError> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.phases.enter(Phase::Stopped);
        self.host.let_go();
        self.arbiters.stop();
    }
}

impl Node {
    /// A node of this config: see [`Builder`]. It opens the config's listeners, of which [`Config::default`] has none, and
    /// the ports for its peers when the config names some; clients of this process need none ([`Node::local`]).
    pub fn builder(config: Config) -> Builder {
        Builder::new(config)
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.0.config.node.id
    }

    /// What it does now.
    pub fn phases(&self) -> &Phases {
        &self.0.phases
    }

    /// Waits until it serves: it belongs to a cluster and knows the metadata. Check [`Node::run`] beside it.
    pub async fn serving(&self) {
        self.0.phases.reached(Phase::Serving).await;
    }

    /// Resolves when the node has stopped: `Ok` after [`Node::shutdown`], an error when it failed.
    pub async fn run(&self) -> Result<(), NodeError> {
        tokio::select! {
            biased;
            () = self.0.failure.wait() => {}
            () = self.0.phases.reached(Phase::Stopped) => {}
        }
        match self.0.failure.take() {
            Some(error) => {
                // Its end may fail too, of the same.
                let _ = self.close().await;
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// A connection for a client in this process.
    pub fn local(&self) -> MemoryConnection {
        self.0.gateway.connect()
    }

    /// The node's view of the controller.
    pub fn controller(&self) -> &Controller {
        &self.0.controller
    }

    /// The homes of consumer groups here.
    pub fn groups(&self) -> &Groups {
        &self.0.groups
    }

    /// The partitions with a replica here.
    pub fn partitions(&self) -> &Partitions {
        &self.0.partitions
    }

    /// What it counts, as its page `/metrics` shows it.
    pub fn metrics(&self) -> String {
        self.0.facts.metrics()
    }

    /// Bytes in flight.
    pub fn pools(&self) -> &Pools {
        self.0.gateway.pools()
    }

    /// The log's directory.
    pub fn directory(&self) -> &Directory {
        &self.0.directory
    }

    /// Where its listeners are, in the order of the config (ports that the system chose are filled in).
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.0.listeners
    }

    /// Drains, then stops: leaderships go to other nodes, what is in flight is answered, the log is sealed.
    ///
    /// # Errors
    /// When the node failed meanwhile, as [`Node::run`] would say it; it has stopped all the same.
    pub async fn shutdown(&self) -> Result<(), NodeError> {
        let inner = &self.0;
        inner.phases.enter(Phase::Draining);
        let deadline = Instant::now() + Duration::from_millis(inner.config.node.drain_ms);
        steward::hand_over_all(&inner.hosting, &inner.controller, &inner.courier.others(), deadline).await;
        while inner.gateway.pools().produce.taken() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.close().await
    }

    /// Stops without handing anything over: flushes and seals.
    ///
    /// # Errors
    /// As those of [`Node::shutdown`].
    pub async fn stop(&self) -> Result<(), NodeError> {
        self.0.phases.enter(Phase::Draining);
        self.close().await
    }

    /// Who closes it is told of a failure, whoever waits beside is not.
    async fn close(&self) -> Result<(), NodeError> {
        let inner = &self.0;
        if inner.phases.now() >= Phase::Closing {
            inner.phases.reached(Phase::Stopped).await;
            return Ok(());
        }
        inner.phases.enter(Phase::Closing);
        for group in inner.hosting.all().into_keys() {
            inner.hosting.close(group).await;
        }
        inner.host.shutdown().await;
        let storage = inner.directory.close().await.map(NodeError::Storage);
        if let Some(quic) = &inner.quic {
            quic.shutdown().await;
        }
        let failure = inner.failure.take().or(storage);
        inner.phases.enter(Phase::Stopped);
        inner.arbiters.stop();
        failure.map_or(Ok(()), Err)
    }
}
