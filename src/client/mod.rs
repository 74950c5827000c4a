//! The client: producer, consumer and admin over the native protocol, in process or over the network.
//!
//! ```text
//!  Producer ─ window per partition ─┐                        ┌ lane: pipelined produce, answers in order
//!  Consumer ─ cursors ─ fetchers ───┼─ Cluster (who leads) ─ Pool (one connection per node) ─┼ link per long poll, heartbeat, question
//!  Admin ───────────────────────────┘                        └ link per push subscription
//! ```
//! The rules are in machines without a runtime ([`producer`]'s window, [`consumer`]'s cursors); tasks only carry out.
//!
//! **Invariants**
//! - A request in flight is refused at most once per change of leader, and after the first refusal nothing new goes to the
//!   old node; [`Stats`] counts what would contradict it.
//! - Records of one producer to one partition are acknowledged in the order in which they were sent, and never twice in the log.
//! - A consumer holds no more than its prefetch budget, a subscription no more than its credit.
//!
//! Deliberately not here: storage, Raft, actors (`embed` has the bridge to those).

mod admin;
mod cluster;
pub mod consumer;
mod dial;
mod error;
mod host;
mod lane;
mod pool;
pub mod producer;
mod quic;
mod record;
mod refresher;
mod stats;

pub use admin::{Admin, AdminError, GroupDetails, GroupLag, GroupListing, NewTopic};
pub use cluster::Topic;
pub use consumer::Consumer;

pub use dial::Dialer;
pub use error::{ConnectError, ConsumeError, LookupError, ProduceError, RequestError, SendError};
pub use host::{Host, TokioHost};
pub use producer::Producer;
pub use quic::QuicDialer;
pub use record::{Acked, Delivery, Record};
pub use stats::Stats;

// What answers are made of, so that programs need not know the protocol.
pub use crate::wire::{
    ClusterStatusAnswer as ClusterStatus, Code, GroupKind, GroupSummary, NodeStatus, PartitionMetadata, Refused,
    ReplicaState, ReplicaStatus, TopicMetadata,
};

use crate::types::{NodeId, TopicName};
use cluster::Cluster;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use pool::Pool;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long one question waits for its answer when nobody says otherwise. Nodes wait less for what they ask on its behalf
/// (asserted in `session/desk.rs`).
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one node may take to say its offsets: the leader may be another one by then, so it is looked for again.
const OFFSETS_WAIT: Duration = Duration::from_secs(2);
/// How long a connection may take to be made.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// A node that has not answered for so long is not waited for alone.
const NEXT_DIAL: Duration = Duration::from_millis(250);

/// A connection to a cluster. Clones share everything.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    cluster: Arc<Cluster>,
    host: Arc<dyn Host>,
    counters: Arc<stats::Counters>,
    request_timeout: Duration,
}

/// Settings of a [`Client`].
pub struct Builder {
    bootstrap: Vec<String>,
    dialer: Option<Arc<dyn Dialer>>,
    tls: Option<rustls::ClientConfig>,
    server_name: Option<String>,
    host: Option<Arc<dyn Host>>,
    name: String,
    request_timeout: Duration,
    dial_timeout: Duration,
}

impl Builder {
    /// One more address (`host:port`) by which the cluster is found.
    pub fn bootstrap(mut self, address: impl Into<String>) -> Self {
        self.bootstrap.push(address.into());
        self
    }

    /// Connects over QUIC with these TLS settings.
    pub fn tls(mut self, tls: rustls::ClientConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Over QUIC: expects the nodes' certificates to be for this name instead of the host that is dialled.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Connects by this dialer instead of QUIC.
    pub fn dialer(mut self, dialer: Arc<dyn Dialer>) -> Self {
        self.dialer = Some(dialer);
        self
    }

    /// Takes clock, randomness and tasks from here instead of the current tokio runtime.
    pub fn host(mut self, host: Arc<dyn Host>) -> Self {
        self.host = Some(host);
        self
    }

    /// The name that nodes log.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long a question waits for its answer, repeats included. Default: 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long a connection may take to be made. Default: 2 s.
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.dial_timeout = timeout;
        self
    }

    /// Connects: returns when one node has answered.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        if self.bootstrap.is_empty() {
            return Err(ConnectError::NoBootstrap);
        }
        let dialer = match (self.dialer, self.tls) {
            (Some(dialer), _) => dialer,
            (None, Some(tls)) => {
                let dialer = QuicDialer::new(tls)?;
                Arc::new(match self.server_name {
                    Some(name) => dialer.server_name(name),
                    None => dialer,
                })
            }
            (None, None) => {
                let why = "over the network a client needs TLS settings: Builder::tls".into();
                return Err(ConnectError::Setup { why });
            }
        };
        let host = self.host.unwrap_or_else(|| Arc::new(TokioHost::current()));
        let counters = Arc::<stats::Counters>::default();
        let pool = Pool::new(dialer, host.clone(), self.name, self.dial_timeout, counters.clone());
        reach(&pool, &self.bootstrap).await?;
        let (cluster, refresher) = Cluster::new(pool, self.bootstrap, self.request_timeout, counters.clone());
        host.spawn(Box::pin(refresher));
        let inner = Inner { cluster, host, counters, request_timeout: self.request_timeout };
        Ok(Client { inner: Arc::new(inner) })
    }
}

/// A connection to any of the nodes. One that does not answer holds up the next one only for a moment.
async fn reach(pool: &Pool, bootstrap: &[String]) -> Result<(), ConnectError> {
    let mut waiting = bootstrap.iter();
    let mut dialling = FuturesUnordered::new();
    let mut attempts = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            dialling.push(async move { (address, pool.bootstrap(address).await) });
        }
        tokio::select! {
            biased;
            answer = dialling.next() => match answer {
                Some((_, Ok(_))) => return Ok(()),
                Some((address, Err(error))) => attempts.push((address.clone(), error.to_string())),
                None => return Err(ConnectError::Unreachable { attempts }),
            },
            () = tokio::time::sleep(NEXT_DIAL), if waiting.len() > 0 => {}
        }
    }
}

impl Client {
    /// Settings, then [`Builder::connect`].
    pub fn builder() -> Builder {
        Builder {
            bootstrap: Vec::new(),
            dialer: None,
            tls: None,
            server_name: None,
            host: None,
            name: concat!("highwater-rust/", env!("CARGO_PKG_VERSION")).into(),
            request_timeout: REQUEST_TIMEOUT,
            dial_timeout: DIAL_TIMEOUT,
        }
    }

    /// Connects over QUIC to the cluster that one of these addresses belongs to.
    pub async fn connect(
        bootstrap: impl IntoIterator<Item = impl Into<String>>,
        tls: rustls::ClientConfig,
    ) -> Result<Self, ConnectError> {
        bootstrap.into_iter().fold(Self::builder().tls(tls), Builder::bootstrap).connect().await
    }

    /// Settings of a producer, then [`producer::Builder::build`].
    pub fn producer(&self) -> producer::Builder {
        producer::Builder::new(self.inner.clone())
    }

    /// Settings of a consumer, then [`consumer::Builder::assign`] or [`consumer::Builder::subscribe`].
    pub fn consumer(&self) -> consumer::Builder {
        consumer::Builder::new(self.inner.clone())
    }

    /// Topics, groups, cluster.
    pub fn admin(&self) -> Admin {
        Admin::new(self.inner.clone())
    }

    /// A topic, as the cluster knows it now or a little earlier.
    pub async fn topic(&self, name: &TopicName) -> Result<Arc<Topic>, LookupError> {
        self.inner.cluster.topic(name).await
    }

    /// Nodes with the addresses at which clients reach them.
    pub async fn nodes(&self) -> Result<BTreeMap<NodeId, String>, RequestError> {
        self.inner.cluster.refresh().await?;
        Ok(self.inner.cluster.nodes())
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        self.inner.counters.snapshot()
    }

    /// Ends all connections. Producers and consumers of this client fail from now on: close them first.
    pub fn close(&self) {
        self.inner.cluster.pool.close();
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
