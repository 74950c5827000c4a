//! One connection per node, kept and made again with back-off.
//!
//! Invariants:
//! - at most one attempt per node is under way, and the next one waits for its back-off: whoever asks meanwhile is told so at once;
//! - a link is used by one request at a time, but for lanes; a request that is given up takes its link with it;
//! - a connection on which anything broke is never used again.

use super::{dial::Dialer, error::RequestError, host::Host, lane::Lane, stats::Counters};
use crate::{
    types::NodeId,
    wire::{Connection, Frame, Hello, Link, LinkClosed, Message, Welcome},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// Version of the native protocol that this client speaks.
const PROTOCOL: u16 = 1;
/// Idle links kept per connection.
const IDLE_LINKS_MAX: usize = 8;
/// Lanes per connection: partitions are spread over them, so that a slow one holds up few others.
const LANES: usize = 16;
/// First and longest pause after a failed attempt.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Requests in a row without an answer after which a connection counts as broken.
const SILENT_MAX: u32 = 2;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All nodes' connections.
pub(super) struct Pool {
    dialer: Arc<dyn Dialer>,
    host: Arc<dyn Host>,
    name: String,
    dial_timeout: Duration,
    counters: Arc<Counters>,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    closed: AtomicBool,
}

struct Peer {
    node: NodeId,
    address: Mutex<String>,
    live: Mutex<Option<Arc<Live>>>,
    dialing: tokio::sync::Mutex<Backoff>,
}

#[derive(Default)]
struct Backoff {
    failures: u32,
    again_at: Option<Instant>,
    why: String,
}

impl Pool {
    pub(super) fn new(
        dialer: Arc<dyn Dialer>,
        host: Arc<dyn Host>,
        name: String,
        dial_timeout: Duration,
        counters: Arc<Counters>,
    ) -> Self {
        let (peers, closed) = (Mutex::default(), AtomicBool::new(false));
        Self { dialer, host, name, dial_timeout, counters, peers, closed }
    }

    /// Connects to an address of which nobody knows the node yet.
    pub(super) async fn bootstrap(&self, address: &str) -> Result<Arc<Live>, RequestError> {
        let live = self.dial(None, address).await?;
        let peer = self.peer(live.welcome.node, address);
        self.keep(&peer, live)
    }

    /// Takes a connection that was made, unless there is one. Made while the client was closed it is closed too.
    fn keep(&self, peer: &Peer, live: Arc<Live>) -> Result<Arc<Live>, RequestError> {
        let mut current = lock(&peer.live);
        if self.closed.load(Relaxed) {
            live.end();
            return Err(RequestError::Closed);
        }
        if let Some(known) = current.as_ref().filter(|known| !known.is_broken()) {
            return Ok(known.clone());
        }
        *current = Some(live.clone());
        Ok(live)
    }

    /// What the metadata says about addresses.
    pub(super) fn set_addresses(&self, nodes: &BTreeMap<NodeId, String>) {
        for (node, address) in nodes {
            let peer = self.peer(*node, address);
            if !address.is_empty() {
                address.clone_into(&mut lock(&peer.address));
            }
        }
    }

    /// The node's connection, made if there is none.
    pub(super) async fn connection(&self, node: NodeId) -> Result<Arc<Live>, RequestError> {
        let peer = lock(&self.peers).get(&node).cloned();
        let peer = peer.ok_or_else(|| unreachable(&node, "its address is not known"))?;
        if let Some(live) = peer.current() {
            return Ok(live);
        }
        let mut backoff = peer.dialing.lock().await;
        if let Some(live) = peer.current() {
            return Ok(live);
        }
        if backoff.again_at.is_some_and(|at| at > Instant::now()) {
            return Err(unreachable(&node, &backoff.why));
        }
        let address = lock(&peer.address).clone();
        match self.dial(Some(node), &address).await {
            Ok(live) => {
                *backoff = Backoff::default();
                self.keep(&peer, live)
            }
            Err(error) => {
                let pause = BACKOFF_MIN.saturating_mul(1 << backoff.failures.min(8)).min(BACKOFF_MAX);
                let jitter = u8::try_from(self.host.random_u64() % 256).unwrap_or(0);
                backoff.failures += 1;
                backoff.again_at = Some(Instant::now() + pause + pause.mul_f64(f64::from(jitter) / 1024.0));
                backoff.why = error.to_string();
                Err(error)
            }
        }
    }

    /// Nodes, those with a connection first.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        let peers = lock(&self.peers);
        let (connected, others): (Vec<_>, Vec<_>) = peers.values().partition(|peer| peer.current().is_some());
        connected.iter().chain(&others).map(|peer| peer.node).collect()
    }

    /// Ends all connections; none is made any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
        for peer in lock(&self.peers).values() {
            if let Some(live) = lock(&peer.live).take() {
                live.end();
            }
        }
    }

    fn peer(&self, node: NodeId, address: &str) -> Arc<Peer> {
        let make = || {
            let (address, live, dialing) = (Mutex::new(address.to_owned()), Mutex::default(), Default::default());
            Arc::new(Peer { node, address, live, dialing })
        };
        lock(&self.peers).entry(node).or_insert_with(make).clone()
    }

    async fn dial(&self, node: Option<NodeId>, address: &str) -> Result<Arc<Live>, RequestError> {
        if self.closed.load(Relaxed) {
            return Err(RequestError::Closed);
        }
        let label = node.map_or_else(|| address.to_owned(), |node| format!("node {node} ({address})"));
        let made = tokio::time::timeout(self.dial_timeout, self.handshake(node, address, &label)).await;
        let made = made.unwrap_or_else(|_| Err(RequestError::TimedOut { node: label, waited: self.dial_timeout }));
        Counters::one(if made.is_ok() { &self.counters.connections } else { &self.counters.dials_failed });
        made
    }

    async fn handshake(&self, node: Option<NodeId>, address: &str, label: &str) -> Result<Arc<Live>, RequestError> {
        let lost = |LinkClosed(why)| RequestError::Unreachable { node: label.to_owned(), why };
        let connection = self.dialer.dial(node, address).await.map_err(lost)?;
        let mut link = connection.open().await.map_err(lost)?;
        let hello = Hello { version_min: PROTOCOL, version_max: PROTOCOL, client: self.name.clone() };
        link.sender.send(vec![Frame::new(0, hello)]).await.map_err(lost)?;
        let welcome = match link.receiver.receive().await.map_err(lost)?.message {
            Message::Welcome(welcome) => welcome,
            Message::Refused(refused) => return Err(RequestError::Refused { refused }),
            other => return Err(unexpected(label, "Hello", &other)),
        };
        if let Some(expected) = node.filter(|node| *node != welcome.node) {
            let why = format!("node {} answers where node {expected} was expected", welcome.node);
            return Err(RequestError::Unreachable { node: label.to_owned(), why });
        }
        Ok(Arc::new(Live {
            welcome,
            connection,
            host: self.host.clone(),
            counters: self.counters.clone(),
            idle: Mutex::new(vec![link]),
            lanes: Mutex::default(),
            broken: AtomicBool::new(false),
            silent: AtomicU32::new(0),
        }))
    }
}

impl Peer {
    fn current(&self) -> Option<Arc<Live>> {
        lock(&self.live).as_ref().filter(|live| !live.is_broken()).cloned()
    }
}

/// A connection that was welcomed.
pub(super) struct Live {
    pub(super) welcome: Welcome,
    pub(super) connection: Arc<dyn Connection>,
    host: Arc<dyn Host>,
    counters: Arc<Counters>,
    idle: Mutex<Vec<Link>>,
    lanes: Mutex<BTreeMap<usize, Lane>>,
    broken: AtomicBool,
    silent: AtomicU32,
}

impl Live {
    pub(super) fn node(&self) -> NodeId {
        self.welcome.node
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }

    /// The client was closed.
    fn end(&self) {
        self.broken.store(true, Relaxed);
        self.connection.close("the client was closed");
    }

    /// Never used again.
    pub(super) fn break_off(&self, why: &str) {
        if !self.broken.swap(true, Relaxed) {
            Counters::one(&self.counters.connections_lost);
            tracing::debug!(node = %self.node(), why, "connection lost");
            self.connection.close(why);
        }
    }

    /// Asks on a link of its own and waits for the answer. May be dropped at any point.
    pub(super) async fn call(&self, message: impl Into<Message>, wait: Duration) -> Result<Frame, RequestError> {
        let message = message.into();
        let until = Instant::now() + wait;
        let timed_out = || RequestError::TimedOut { node: format!("node {}", self.node()), waited: wait };
        // Where all links are taken by calls that wait, the node is not silent for that.
        let link = timeout_at(until, self.link()).await.map_err(|_| timed_out())?;
        let answer = match link {
            Ok(link) => timeout_at(until, self.exchange(link, message)).await,
            Err(closed) => Ok(Err(closed)),
        };
        match answer {
            Ok(Ok(frame)) => {
                self.silent.store(0, Relaxed);
                match frame.message {
                    Message::Refused(refused) => Err(RequestError::Refused { refused }),
                    _ => Ok(frame),
                }
            }
            Ok(Err(LinkClosed(why))) => {
                self.break_off(&why);
                Err(unreachable(&self.node(), &why))
            }
            Err(_) => {
                if self.silent.fetch_add(1, Relaxed) + 1 >= SILENT_MAX {
                    self.break_off("requests stay without an answer");
                }
                Err(timed_out())
            }
        }
    }

    async fn link(&self) -> Result<Link, LinkClosed> {
        let idle = lock(&self.idle).pop();
        match idle {
            Some(link) => Ok(link),
            None => self.connection.open().await,
        }
    }

    async fn exchange(&self, mut link: Link, message: Message) -> Result<Frame, LinkClosed> {
        link.sender.send(vec![Frame::new(0, message)]).await?;
        let answer = link.receiver.receive().await?;
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_LINKS_MAX {
            idle.push(link);
        }
        Ok(answer)
    }

    /// A link of its own, for a subscription.
    pub(super) async fn open(&self) -> Result<Link, RequestError> {
        self.connection.open().await.map_err(|LinkClosed(why)| {
            self.break_off(&why);
            unreachable(&self.node(), &why)
        })
    }

    /// The lane for produce requests of whatever hashes to `key`.
    pub(super) fn lane(self: &Arc<Self>, key: usize) -> Lane {
        let mut lanes = lock(&self.lanes);
        if let Some(lane) = lanes.get(&(key % LANES)).filter(|lane| !lane.is_closed()) {
            return lane.clone();
        }
        let live = Arc::downgrade(self);
        let ended = move |why: &str| {
            if let Some(live) = live.upgrade() {
                live.break_off(why);
            }
        };
        let (lane, driver) = Lane::new(self.connection.clone(), ended);
        self.host.spawn(Box::pin(driver));
        lanes.insert(key % LANES, lane.clone());
        lane
    }
}

pub(super) fn unreachable(node: &NodeId, why: &str) -> RequestError {
    RequestError::Unreachable { node: format!("node {node}"), why: why.to_owned() }
}

pub(super) fn unexpected(node: &str, asked: &'static str, found: &Message) -> RequestError {
    RequestError::Unexpected { node: node.to_owned(), asked, found: format!("{:?}", found.kind()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::testing::TestHost, wire::Metadata};
    use futures_util::future::BoxFuture;

    /// All of its links are taken.
    struct Full;

    impl Connection for Full {
        fn open(&self) -> BoxFuture<'_, Result<Link, LinkClosed>> {
            Box::pin(std::future::pending())
        }
        fn accept(&self) -> BoxFuture<'_, Result<Link, LinkClosed>> {
            Box::pin(std::future::pending())
        }
        fn close(&self, _: &str) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_links_all_wait_is_not_broken() {
        let live = Live {
            welcome: Welcome::default(),
            connection: Arc::new(Full),
            host: Arc::new(TestHost::new(1)),
            counters: Arc::default(),
            idle: Mutex::default(),
            lanes: Mutex::default(),
            broken: AtomicBool::new(false),
            silent: AtomicU32::new(0),
        };
        for _ in 0..=SILENT_MAX {
            let asked = live.call(Metadata::default(), Duration::from_secs(1)).await;
            assert!(matches!(asked, Err(RequestError::TimedOut { .. })), "{asked:?}");
        }
        assert!(!live.is_broken(), "what waits on its links would be lost");
    }
}
