//! Requests and answers over the [`Network`] seam.
//!
//! Owns the calls that wait for an answer and the registered services.
//!
//! **Invariant:** a call's message is handed to the network before `call` returns, so calls with one `(to, lane, key)` keep
//! their order. Answers are matched by id and may overtake each other.
//! **Invariant:** each call ends once: by its answer, by its deadline, or by the loss of the lane; nothing waits for ever.
//! **Invariant:** a call whose answer could not be sent ends as soon as there is a way back, not at its deadline: a lane may have
//! lost the connection in one direction only.
//! **Invariant:** ids begin at a random number per process, so that an answer to a former life never matches a call of this one.
//! Not here: retries (the caller knows what may be repeated) and identity (`from` is the connection's).
//!
//! ```text
//!  kind u8 │ service u8 │ zero u16 │ id u64 │ key u64 │ body …          (little-endian)
//! ```

use super::{Inbox, Lane, Network, SendError};
use crate::{BootId, NodeId, Payload, env::Env};
use arc_swap::ArcSwap;
use bytes::{BufMut, Bytes, BytesMut};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};

/// Appends of Raft entries.
pub const APPEND: u8 = 1;
/// Votes and pre-votes.
pub const VOTE: u8 = 2;
/// Checkpoints to a follower behind the log start.
pub const SNAPSHOT: u8 = 3;
/// Leadership transfer and requests to elect.
pub const ELECT: u8 = 4;
/// Heartbeats of the failure detector.
pub const HEARTBEAT: u8 = 5;
/// Broker-to-broker requests.
pub const BROKER: u8 = 6;

/// Bytes in front of each body.
pub const HEADER_BYTES: usize = 20;
/// Callers of one peer and lane that are told later that there will be no answer.
const OWED_MAX: usize = 4096;

/// What answers the calls of one service. Called on the network's thread: hands over at once and never waits.
pub trait Service: Send + Sync + 'static {
    /// A message from an identified node. For a one-way message `answer` leads nowhere.
    fn call(&self, from: NodeId, body: Payload, answer: Answer);
}

/// Who is told of lanes that come and go. Called on the network's thread.
pub trait Observer: Send + Sync + 'static {
    /// See [`Inbox::up`].
    fn up(&self, peer: NodeId, boot: BootId, lane: Lane);
    /// See [`Inbox::down`].
    fn down(&self, peer: NodeId, lane: Lane);
}

/// Why a call has no answer. All but `NotSent` leave open whether the peer acted on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The network did not take the message: the peer never saw it.
    #[error(transparent)]
    NotSent(#[from] SendError),
    /// The connection broke, or the peer is suspected.
    #[error("the {lane} connection to node {node} broke before the answer")]
    Down {
        /// Who was asked.
        node: NodeId,
        /// On which lane.
        lane: Lane,
    },
    /// No answer in time.
    #[error("node {node} did not answer within {} ms", after.as_millis())]
    TimedOut {
        /// Who was asked.
        node: NodeId,
        /// The call's deadline.
        after: Duration,
    },
    /// The peer's service dropped the request: what it was for is gone there.
    #[error("node {node} dropped the request")]
    Dropped {
        /// Who was asked.
        node: NodeId,
    },
    /// The peer has no such service (yet).
    #[error("node {node} does not serve {service}")]
    NotServed {
        /// Who was asked.
        node: NodeId,
        /// Which service.
        service: u8,
    },
}

/// Counts since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames that could not be read.
    pub broken: u64,
    /// Answers that nobody waited for any more.
    pub late: u64,
    /// Messages for services that nobody registered.
    pub unserved: u64,
    /// Answers that the network did not take.
    pub answers_lost: u64,
    /// Calls that wait now.
    pub pending: u64,
}

/// Calls, one-way messages and services of one node. Clones share.
#[derive(Clone)]
pub struct Rpc {
    shared: Arc<Shared>,
}

struct Shared {
    network: Arc<dyn Network>,
    next_id: AtomicU64,
    pending: Mutex<BTreeMap<(NodeId, Lane), BTreeMap<u64, Outcome>>>,
    /// Calls to us whose answer found no connection, the newest: the callers, whose way to us may stand, would wait for
    /// their deadline. They are told when there is a way back.
    owed: Mutex<BTreeMap<(NodeId, Lane), VecDeque<Header>>>,
    services: ArcSwap<BTreeMap<u8, Arc<dyn Service>>>,
    observers: ArcSwap<Vec<Arc<dyn Observer>>>,
    broken: AtomicU64,
    late: AtomicU64,
    unserved: AtomicU64,
    answers_lost: AtomicU64,
}

type Outcome = oneshot::Sender<Result<Payload, CallError>>;

impl Rpc {
    /// Registers itself as the network's inbox; the network is told its peers afterwards.
    pub fn new(network: Arc<dyn Network>, env: Env) -> Arc<Rpc> {
        let shared = Arc::new(Shared {
            network: network.clone(),
            next_id: AtomicU64::new(env.random_u64()),
            pending: Mutex::default(),
            owed: Mutex::default(),
            services: ArcSwap::default(),
            observers: ArcSwap::default(),
            broken: AtomicU64::default(),
            late: AtomicU64::default(),
            unserved: AtomicU64::default(),
            answers_lost: AtomicU64::default(),
        });
        // The network keeps a weak reference: it outlives us in no cycle.
        network.set_inbox(Arc::new(Receiver(Arc::downgrade(&shared))));
        Arc::new(Rpc { shared })
    }

    /// The network below.
    pub fn network(&self) -> &Arc<dyn Network> {
        &self.shared.network
    }

    /// Asks; the message leaves now, the future waits for the answer. Dropping the future forgets the call.
    pub fn call(
        &self,
        to: NodeId,
        lane: Lane,
        key: u64,
        service: u8,
        body: Payload,
        deadline: Duration,
    ) -> impl Future<Output = Result<Payload, CallError>> + Send + use<> {
        let id = self.shared.next_id.fetch_add(1, Relaxed);
        let (outcome, answer) = oneshot::channel();
        self.shared.pending().entry((to, lane)).or_default().insert(id, outcome);
        let pending = Pending { shared: self.shared.clone(), at: (to, lane), id };
        let header = Header { kind: Kind::Call, service, id, key };
        let sent = self.shared.network.send(to, lane, key, header.before(&body));
        let until = Instant::now() + deadline;
        async move {
            let _pending = pending;
            sent?;
            match tokio::time::timeout_at(until, answer).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(CallError::Down { node: to, lane }),
                Err(_) => Err(CallError::TimedOut { node: to, after: deadline }),
            }
        }
    }

    /// Sends a message that has no answer.
    pub fn tell(&self, to: NodeId, lane: Lane, key: u64, service: u8, body: Payload) -> Result<(), SendError> {
        let header = Header { kind: Kind::Tell, service, id: 0, key };
        self.shared.network.send(to, lane, key, header.before(&body))
    }

    /// Registers the handler of a service, in place of the one before.
    pub fn serve(&self, service: u8, handler: Arc<dyn Service>) {
        self.shared.services.rcu(|services| {
            let mut services = BTreeMap::clone(services);
            services.insert(service, handler.clone());
            services
        });
    }

    /// Adds one who is told of lanes.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        self.shared.observers.rcu(|observers| {
            let mut observers = Vec::clone(observers);
            observers.push(observer.clone());
            observers
        });
    }

    /// Ends all calls to a node, on all lanes, as if its connections had broken.
    pub fn fail_pending(&self, node: NodeId) {
        Lane::ALL.into_iter().for_each(|lane| self.shared.fail(node, lane));
    }

    /// Lets go of services and observers and ends all calls.
    pub fn close(&self) {
        self.shared.services.store(Arc::default());
        self.shared.observers.store(Arc::default());
        let all: Vec<_> = self.shared.pending().keys().copied().collect();
        all.into_iter().for_each(|(node, lane)| self.shared.fail(node, lane));
    }

    /// Counts since start.
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        let pending: usize = shared.pending().values().map(BTreeMap::len).sum();
        Stats {
            broken: shared.broken.load(Relaxed),
            late: shared.late.load(Relaxed),
            unserved: shared.unserved.load(Relaxed),
            answers_lost: shared.answers_lost.load(Relaxed),
            pending: u64::try_from(pending).unwrap_or(u64::MAX),
        }
    }
}

/// A call's place in the table, given back when the caller stops waiting.
struct Pending {
    shared: Arc<Shared>,
    at: (NodeId, Lane),
    id: u64,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(calls) = self.shared.pending().get_mut(&self.at) {
            calls.remove(&self.id);
        }
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, BTreeMap<(NodeId, Lane), BTreeMap<u64, Outcome>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, node: NodeId, lane: Lane) {
        let calls = self.pending().get_mut(&(node, lane)).map(std::mem::take).unwrap_or_default();
        for outcome in calls.into_values() {
            let _ = outcome.send(Err(CallError::Down { node, lane }));
        }
    }

    fn settle(&self, from: NodeId, lane: Lane, id: u64, result: Result<Payload, CallError>) {
        let outcome = self.pending().get_mut(&(from, lane)).and_then(|calls| calls.remove(&id));
        match outcome {
            Some(outcome) => drop(outcome.send(result)),
            None => drop(self.late.fetch_add(1, Relaxed)),
        }
    }

    fn owed(&self) -> MutexGuard<'_, BTreeMap<(NodeId, Lane), VecDeque<Header>>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to `header` was not taken.
    fn owe(&self, to: NodeId, lane: Lane, header: Header) {
        // What says so itself is no other loss.
        self.answers_lost.fetch_add(u64::from(header.kind != Kind::Dropped), Relaxed);
        let mut owed = self.owed();
        // A way back that came since was paid for without this one.
        let dropped = Header { kind: Kind::Dropped, ..header };
        if self.network.send(to, lane, header.key, dropped.before(&Payload::default())).is_ok() {
            return;
        }
        let calls = owed.entry((to, lane)).or_default();
        if calls.len() == OWED_MAX {
            calls.pop_front();
        }
        calls.push_back(header);
    }

    /// Tells callers that their answers were lost; they may have given up since.
    fn pay(&self, to: NodeId, lane: Lane) {
        let Some(calls) = self.owed().remove(&(to, lane)) else { return };
        for header in calls {
            let dropped = Header { kind: Kind::Dropped, ..header };
            match self.network.send(to, lane, header.key, dropped.before(&Payload::default())) {
                Ok(()) => crate::observe::reached("caller told that its answer was lost"),
                Err(_) => self.owe(to, lane, header),
            }
        }
    }

    fn receive(self: &Arc<Self>, (from, boot): (NodeId, BootId), lane: Lane, message: &Payload) {
        let Some((header, body)) = Header::split(message) else {
            self.broken.fetch_add(1, Relaxed);
            return;
        };
        match header.kind {
            Kind::Call | Kind::Tell => {
                let expected = header.kind == Kind::Call;
                let route = expected.then(|| Route { shared: Arc::downgrade(self), to: from, lane, header });
                let service = self.services.load().get(&header.service).cloned();
                match service {
                    Some(service) => service.call(from, body, Answer { route, boot: Some(boot) }),
                    None => {
                        self.unserved.fetch_add(1, Relaxed);
                        if let Some(route) = route {
                            route.send(Kind::NotServed, &Payload::default());
                        }
                    }
                }
            }
            Kind::Answer => self.settle(from, lane, header.id, Ok(body)),
            Kind::Dropped => self.settle(from, lane, header.id, Err(CallError::Dropped { node: from })),
            Kind::NotServed => {
                let error = CallError::NotServed { node: from, service: header.service };
                self.settle(from, lane, header.id, Err(error));
            }
        }
    }
}

/// The network's end: it must not keep the node alive.
struct Receiver(Weak<Shared>);

impl Inbox for Receiver {
    fn message(&self, from: NodeId, boot: BootId, lane: Lane, message: Payload) {
        if let Some(shared) = self.0.upgrade() {
            shared.receive((from, boot), lane, &message);
        }
    }

    fn up(&self, peer: NodeId, boot: BootId, lane: Lane) {
        if let Some(shared) = self.0.upgrade() {
            shared.pay(peer, lane);
            shared.observers.load().iter().for_each(|observer| observer.up(peer, boot, lane));
        }
    }

    fn down(&self, peer: NodeId, lane: Lane) {
        if let Some(shared) = self.0.upgrade() {
            shared.fail(peer, lane);
            shared.observers.load().iter().for_each(|observer| observer.down(peer, lane));
        }
    }

    fn lost(&self, peer: NodeId, lane: Lane, message: &Payload) {
        if let Some(shared) = self.0.upgrade()
            && let Some((header, _)) = Header::split(message)
            && !matches!(header.kind, Kind::Call | Kind::Tell)
        {
            shared.owe(peer, lane, header);
        }
    }
}

/// The slot of one request. Dropped unused, it tells the caller that nobody will answer.
#[derive(Debug)]
pub struct Answer {
    route: Option<Route>,
    boot: Option<BootId>,
}

impl Answer {
    /// An answer that nobody waits for.
    pub fn nowhere() -> Self {
        Answer { route: None, boot: None }
    }

    /// The life of the node that asked, as it said it when it connected.
    pub fn boot(&self) -> Option<BootId> {
        self.boot
    }

    /// Whether the caller waits for an answer.
    pub fn is_expected(&self) -> bool {
        self.route.is_some()
    }

    /// Answers.
    pub fn send(mut self, body: Payload) {
        if let Some(route) = self.route.take() {
            route.send(Kind::Answer, &body);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(route) = self.route.take() {
            route.send(Kind::Dropped, &Payload::default());
        }
    }
}

struct Route {
    shared: Weak<Shared>,
    to: NodeId,
    lane: Lane,
    header: Header,
}

impl Route {
    fn send(self, kind: Kind, body: &Payload) {
        let Some(shared) = self.shared.upgrade() else { return };
        let header = Header { kind, ..self.header };
        if shared.network.send(self.to, self.lane, header.key, header.before(body)).is_err() {
            shared.owe(self.to, self.lane, self.header);
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {} of node {} on {}", self.header.id, self.to, self.lane)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Call = 1,
    Tell = 2,
    Answer = 3,
    Dropped = 4,
    NotServed = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    kind: Kind,
    service: u8,
    id: u64,
    key: u64,
}

impl Header {
    fn before(&self, body: &Payload) -> Payload {
        let mut header = BytesMut::with_capacity(HEADER_BYTES);
        header.put_u8(self.kind as u8);
        header.put_u8(self.service);
        header.put_u16_le(0);
        header.put_u64_le(self.id);
        header.put_u64_le(self.key);
        Payload::new(std::iter::once(header.freeze()).chain(body.parts().iter().cloned()))
    }

    fn split(message: &Payload) -> Option<(Header, Payload)> {
        let head = message.slice(0..HEADER_BYTES)?;
        let kind = match head[0] {
            1 => Kind::Call,
            2 => Kind::Tell,
            3 => Kind::Answer,
            4 => Kind::Dropped,
            5 => Kind::NotServed,
            _ => return None,
        };
        let number = |at: usize| head[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        let header = Header { kind, service: head[1], id: number(4)?, key: number(12)? };
        Some((header, behind(message, HEADER_BYTES)))
    }
}

/// What follows the first `skip` bytes, shared.
fn behind(message: &Payload, mut skip: usize) -> Payload {
    let parts = message.parts().iter().filter_map(|part| {
        let cut = skip.min(part.len());
        skip -= cut;
        (cut < part.len()).then(|| part.slice(cut..))
    });
    Payload::new(parts.collect::<Vec<Bytes>>())
}

/// The fuzz target of headers. Promises: what splits joins to bytes that split to the same.
#[cfg(feature = "testing")]
pub(crate) fn fuzz(data: &[u8]) {
    // In two parts: a header may lie across them.
    let (front, rest) = data.split_at(data.len() / 3);
    let message = Payload::new([front, rest].map(Bytes::copy_from_slice));
    let Some((header, body)) = Header::split(&message) else { return };
    assert_eq!(body.len() + HEADER_BYTES, data.len());
    assert_eq!(Header::split(&header.before(&body)), Some((header, body)));
}

/// Inputs to begin with.
#[cfg(feature = "testing")]
pub(crate) fn fuzz_seeds() -> Vec<Vec<u8>> {
    let kinds = [Kind::Call, Kind::Tell, Kind::Answer, Kind::Dropped, Kind::NotServed];
    let header = |kind| Header { kind, service: 2, id: 77, key: 1024 };
    kinds.map(|kind| header(kind).before(&Bytes::from_static(b"body").into()).contiguous().to_vec()).into()
}

#[cfg(test)]
mod tests;
