//! The groups of one node.

use super::{Group, OpenError, Owner, RequestError};
use crate::{
    BootId, GroupId, NodeId, Payload, ReplicaId,
    env::Env,
    log,
    transport::{Network, Peer, detector::Life},
};
use std::{collections::BTreeMap, future::Future, io, pin::Pin, sync::Arc, time::Duration};
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
    /// Entry bytes of one append request.
    pub append_bytes: usize,
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
            append_bytes: 1 << 20,
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
pub struct Host(Arc<()>);

impl Host {
    /// Starts serving the network. Call it on the runtime on which the network and the elections are to run.
    pub fn start(
        options: HostOptions,
        directory: log::Directory,
        network: Arc<dyn Network>,
        env: Env,
    ) -> io::Result<Host> {
        let _ = (options, directory, network, env);
        todo!()
    }

    /// Opens a group on the current runtime, where all its tasks then live. Creates the group's log if it is not there.
    /// The owner gets [`super::Event::Restore`] first if there is a checkpoint, and must answer while this waits.
    pub async fn open(&self, group: GroupId, replica: ReplicaId, owner: Arc<dyn Owner>) -> Result<Group, OpenError> {
        let _ = (group, replica, owner);
        todo!()
    }

    /// Closes the group and removes its log for ever.
    pub async fn remove(&self, group: GroupId) -> io::Result<()> {
        let _ = group;
        todo!()
    }

    /// The group, if it is open here.
    pub fn group(&self, group: GroupId) -> Option<Group> {
        let _ = group;
        todo!()
    }

    /// Where the other nodes are.
    pub fn set_peers(&self, peers: Vec<Peer>) {
        let _ = peers;
        todo!()
    }

    /// Which nodes are alive, as this node sees it.
    pub fn liveness(&self) -> watch::Receiver<BTreeMap<NodeId, Life>> {
        todo!()
    }

    /// Registers who answers [`Host::request`]s of other nodes; called once.
    pub fn serve(&self, server: Arc<dyn Server>) {
        let _ = server;
        todo!()
    }

    /// Asks another node's [`Server`]; a request to this node is served here.
    pub async fn request(&self, to: NodeId, body: Payload, deadline: Duration) -> Result<Payload, RequestError> {
        let _ = (to, body, deadline);
        todo!()
    }

    /// Closes all groups.
    pub async fn shutdown(&self) {
        todo!()
    }
}
