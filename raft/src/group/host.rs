//! The groups of one node.

use super::{Group, OpenError, Owner, RequestError};
use crate::{
    BootId, GroupId, NodeId, Payload, ReplicaId,
    env::Env,
    log,
    openraft::Node,
    transport::{
        Lane, Network, Peer,
        detector::Life,
        rpc::{Answer, BROKER, CallError, Service},
    },
};
use std::{
    collections::BTreeMap,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// Time since each arbiter's last progress; asked on the detector's thread, must not wait.
pub type Arbiters = Arc<dyn Fn() -> Vec<Duration> + Send + Sync>;

/// Who this node is and how fast its groups react.
#[derive(Clone)]
pub struct HostOptions {
    /// This node.
    pub node: NodeId,
    /// This life of it.
    pub boot: BootId,
    /// Heartbeats, elections, suspicion.
    pub timing: Timing,
    /// Requests of one append stream that may be unanswered.
    pub append_window: usize,
    /// Bytes of one append stream that may be unanswered.
    pub append_window_bytes: usize,
    /// How long a follower may wait for the news of a commit, if no entry carries it. Zero: not at all.
    pub commit_hold: Duration,
    /// Entry bytes of one append request.
    pub append_bytes: usize,
    /// Bytes per second that this node sends to followers that are so far behind that their entries left its memory, and
    /// in checkpoints: over connections of their own.
    pub catch_up_bytes_per_s: u64,
    /// Payload bytes of one [`super::Event::Committed`].
    pub apply_bytes: usize,
    /// What this node's heartbeats vouch for besides its disk.
    pub arbiters: Option<Arbiters>,
}

impl HostOptions {
    /// The defaults for this life of this node.
    pub fn new(node: NodeId, boot: BootId) -> Self {
        Self {
            node,
            boot,
            timing: Timing::default(),
            append_window: 64,
            append_window_bytes: 4 << 20,
            commit_hold: Duration::from_millis(3),
            append_bytes: 1 << 20,
            catch_up_bytes_per_s: 128 << 20,
            apply_bytes: 1 << 20,
            arbiters: None,
        }
    }
}

/// Periods and deadlines of Raft and of the failure detector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between heartbeats of an active group; also the deadline of small requests.
    pub heartbeat: Duration,
    /// No heartbeat to a follower that answered within this time.
    pub heartbeat_min: Duration,
    /// Least random part of an election timeout.
    pub election_min: Duration,
    /// Greatest random part, and the lease.
    pub election_max: Duration,
    /// Silence after which a node is suspected.
    pub suspicion: Duration,
    /// How much later than the one before it each live voter tries.
    pub rank_step: Duration,
    /// Between tries while no leader is known.
    pub retry: Duration,
    /// After so long without a leader Raft's own timer is switched on for the group.
    pub backstop: Duration,
    /// A group without appends for so long gets no more heartbeats.
    pub idle: Duration,
    /// A transfer of leadership that takes longer has failed.
    pub transfer: Duration,
}

impl Timing {
    /// A node whose arbiter made no progress for so long is not vouched for. One that is overloaded is late; one that is stuck
    /// is later still.
    pub fn arbiter_age_max(&self) -> Duration {
        self.suspicion * 4
    }
}

impl Default for Timing {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            heartbeat: ms(200),
            heartbeat_min: ms(100),
            election_min: ms(500),
            election_max: ms(800),
            suspicion: ms(500),
            rank_step: ms(150),
            retry: ms(25),
            backstop: ms(1_000),
            idle: ms(5_000),
            transfer: ms(500),
        }
    }
}

/// Serves requests of other nodes' brokers.
pub trait Server: Send + Sync + 'static {
    /// Answers one request. Called on the network's thread: the future is spawned there.
    fn request(&self, from: NodeId, body: Payload) -> Pin<Box<dyn Future<Output = Payload> + Send>>;
}

/// The groups of one node: registry, demux, failure detector, election driver. Clones share.
#[derive(Clone)]
pub struct Host {
    node: Arc<Node>,
    server: Arc<Mutex<Option<Arc<dyn Server>>>>,
}

impl Host {
    /// Starts serving the network. Call it on the runtime on which the network is to run; the detector gets a thread.
    pub fn start(
        options: HostOptions,
        directory: log::Directory,
        network: Arc<dyn Network>,
        env: Env,
    ) -> io::Result<Host> {
        Ok(Host { node: Node::start(options, directory, network, env)?, server: Arc::default() })
    }

    /// Writes the first membership of a group into the log of a replica of it that is not open, and that has no entries: it is
    /// on disk when this returns. Each of the voters does so before it opens, all with the same one: then the group needs
    /// no more than a majority of them from the first moment on. Gives whether it was written.
    pub async fn found(
        &self,
        group: GroupId,
        replica: ReplicaId,
        voters: &BTreeMap<ReplicaId, NodeId>,
    ) -> Result<bool, OpenError> {
        self.node.found(group, replica, voters).await
    }

    /// Opens a group on the current runtime, where all its tasks then live. Creates the group's log if it is not there.
    /// The owner gets [`super::Event::Restore`] first if there is a checkpoint, and must answer while this waits.
    pub async fn open(&self, group: GroupId, replica: ReplicaId, owner: Arc<dyn Owner>) -> Result<Group, OpenError> {
        let replica = self.node.open(group, replica, owner).await?;
        Ok(Group { replica, node: self.node.clone() })
    }

    /// Closes the group and removes its log for ever.
    pub async fn remove(&self, group: GroupId) -> io::Result<()> {
        self.node.remove(group).await
    }

    /// The group, if it is open here.
    pub fn group(&self, group: GroupId) -> Option<Group> {
        self.node.replica(group).map(|replica| Group { replica, node: self.node.clone() })
    }

    /// Where the other nodes are.
    pub fn set_peers(&self, peers: Vec<Peer>) {
        self.node.set_peers(peers);
    }

    /// Bytes sent so far to followers that were far behind.
    #[cfg(test)]
    pub(super) fn caught_up_bytes(&self) -> u64 {
        self.node.net.pace.taken()
    }

    /// Which nodes are alive, as this node sees it.
    pub fn liveness(&self) -> watch::Receiver<BTreeMap<NodeId, Life>> {
        self.node.liveness()
    }

    /// Registers who answers [`Host::request`]s, of other nodes and of this one; called once.
    pub fn serve(&self, server: Arc<dyn Server>) {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| server.clone());
        self.node.net.rpc.serve(BROKER, Arc::new(Requests { server, env: self.node.env.clone() }));
    }

    /// Lets go of the server, which may hold this host: of a node that ended without a shutdown nothing stays in memory.
    pub fn let_go(&self) {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.node.net.rpc.close();
    }

    /// Asks another node's [`Server`]; a request to this node is served here.
    pub async fn request(&self, to: NodeId, body: Payload, deadline: Duration) -> Result<Payload, RequestError> {
        if to == self.node.net.node {
            let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Some(server) = server else {
                return Err(RequestError::Lost { node: to, why: "nobody serves requests yet".into() });
            };
            let answer = tokio::time::timeout(deadline, server.request(to, body));
            return answer.await.map_err(|_| RequestError::TimedOut { node: to, after: deadline });
        }
        let answer = self.node.net.rpc.call(to, Lane::Data, REQUESTS, BROKER, body, deadline);
        answer.await.map_err(|error| match error {
            CallError::NotSent(_) => RequestError::Unreachable { node: to },
            CallError::TimedOut { after, .. } => RequestError::TimedOut { node: to, after },
            error => RequestError::Lost { node: to, why: error.to_string() },
        })
    }

    /// Closes all groups and stops serving.
    pub async fn shutdown(&self) {
        self.node.shutdown().await;
    }
}

/// The stream of requests on the data lane: not that of a group.
const REQUESTS: u64 = u64::MAX;

struct Requests {
    server: Arc<dyn Server>,
    env: Env,
}

impl Service for Requests {
    fn call(&self, from: NodeId, body: Payload, answer: Answer) {
        let response = self.server.request(from, body);
        self.env.spawn(async move { answer.send(response.await) });
    }
}
