//! What the replicas of a node share.

use super::{
    codec::to_log,
    completions::Completions,
    pace::Pace,
    replica::Replica,
    serve::Demux,
    types::{Content, Entry, Membership, log_id},
};
use crate::{
    GroupId, NodeId, ReplicaId,
    env::Env,
    group::{HostOptions, OpenError, Owner},
    log,
    transport::{
        Network, Peer,
        detector::{self, Detector, Life, State, Suspicion, Vouched},
        rpc::{self, Rpc},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};

/// The way to other nodes, and what is known of their lives.
pub(crate) struct Net {
    pub(crate) node: NodeId,
    pub(crate) rpc: Arc<Rpc>,
    pub(super) lives: watch::Receiver<BTreeMap<NodeId, Life>>,
    streams: AtomicU64,
    /// Of what goes over bulk connections.
    pub(crate) pace: Pace,
    /// Timers of all groups beat together from here, so that their messages leave together.
    pub(super) epoch: Instant,
}

impl Net {
    /// A number for an append stream: never used before by this process, nor by an earlier one of this node.
    pub(super) fn next_stream(&self) -> u64 {
        self.streams.fetch_add(1, Relaxed)
    }

    pub(super) fn is_suspected(&self, node: NodeId) -> bool {
        self.lives.borrow().get(&node).is_some_and(|life| matches!(life.state, State::Suspected(_)))
    }

    /// Waits until the node is not suspected.
    pub(super) async fn until_trusted(&self, node: NodeId) {
        let trusted = |lives: &BTreeMap<NodeId, Life>| {
            !lives.get(&node).is_some_and(|life| matches!(life.state, State::Suspected(_)))
        };
        // An error is the detector's end, and this node's.
        let _ = self.lives.clone().wait_for(trusted).await;
    }

    /// Whether the node's own heartbeats say that a flush of it does not end.
    pub(super) fn hangs(&self, node: NodeId) -> bool {
        self.lives.borrow().get(&node).is_some_and(|life| life.state == State::Suspected(Suspicion::Disk))
    }
}

/// The replicas of a node, and what they share.
pub(crate) struct Node {
    options: Arc<HostOptions>,
    directory: log::Directory,
    pub(crate) env: Env,
    pub(crate) net: Arc<Net>,
    detector: Detector,
    demux: Arc<Demux>,
    completions: Completions,
    replicas: Mutex<BTreeMap<GroupId, Slot>>,
    /// A group that was about to be open is, or will not be.
    settled: Notify,
    /// Groups that were open before in this life: what they appended last may not be on disk yet.
    left: Mutex<BTreeSet<GroupId>>,
}

/// A group that is open, or about to be.
enum Slot {
    Opening(ReplicaId),
    Open(Arc<Replica>),
}

impl Node {
    pub(crate) fn start(
        options: HostOptions,
        directory: log::Directory,
        network: Arc<dyn Network>,
        env: Env,
    ) -> io::Result<Arc<Node>> {
        let rpc = Rpc::new(network, env.clone());
        let suspicion = options.timing.suspicion;
        let timing = detector::Timing {
            suspicion,
            flush_age_max: suspicion,
            arbiter_age_max: options.timing.arbiter_age_max(),
            ..detector::Timing::default()
        };
        let vouch = {
            let (directory, arbiters) = (directory.clone(), options.arbiters.clone());
            Arc::new(move || {
                let flush = directory.stats().flush_age_ms;
                Vouched {
                    arbiters: arbiters.as_ref().map(|ages| ages()).unwrap_or_default(),
                    flush: (flush > 0).then(|| Duration::from_millis(flush)),
                }
            })
        };
        let detector = Detector::start(detector::Options { boot: options.boot, timing, vouch }, &rpc, &env)?;
        let demux = Arc::new(Demux::default());
        for service in [rpc::APPEND, rpc::VOTE, rpc::SNAPSHOT, rpc::ELECT] {
            rpc.serve(service, demux.clone());
        }
        let net = Arc::new(Net {
            node: options.node,
            rpc,
            lives: detector.liveness(),
            streams: AtomicU64::new(env.random_u64()),
            pace: Pace::new(options.catch_up_bytes_per_s),
            epoch: Instant::now(),
        });
        let options = Arc::new(options);
        Ok(Arc::new(Node {
            options,
            directory,
            env,
            net,
            detector,
            demux,
            completions: Completions::default(),
            replicas: Mutex::default(),
            settled: Notify::new(),
            left: Mutex::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupId, Slot>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the group's slot. Whatever ends the opening frees it, also when a future is dropped.
    fn begin(&self, group: GroupId, replica: ReplicaId) -> Result<Opening<'_>, OpenError> {
        match self.lock().entry(group) {
            std::collections::btree_map::Entry::Occupied(slot) => {
                let replica = match slot.get() {
                    Slot::Opening(replica) => *replica,
                    Slot::Open(replica) => replica.shared.replica,
                };
                Err(OpenError::AlreadyOpen { group, replica })
            }
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(Slot::Opening(replica));
                Ok(Opening { node: self, group, opened: None })
            }
        }
    }

    /// The log of a replica, made if it is not there.
    async fn log_of(&self, group: GroupId, replica: ReplicaId) -> Result<log::Group, OpenError> {
        match self.directory.group(group).filter(|log| log.replica() == replica) {
            Some(log) => Ok(log),
            None => self.directory.create(group, replica).await.map_err(|source| OpenError::Log { group, source }),
        }
    }

    pub(crate) async fn found(
        &self,
        group: GroupId,
        replica: ReplicaId,
        voters: &BTreeMap<ReplicaId, NodeId>,
    ) -> Result<bool, OpenError> {
        let _opening = self.begin(group, replica)?;
        let log = self.log_of(group, replica).await?;
        if log.last().is_some() {
            return Ok(false);
        }
        let flushed = flushed(&log, vec![first_entry(voters)]).await;
        flushed.map(|()| true).map_err(|source| OpenError::Log { group, source: source.into() })
    }

    pub(crate) async fn open(
        &self,
        group: GroupId,
        replica: ReplicaId,
        owner: Arc<dyn Owner>,
    ) -> Result<Arc<Replica>, OpenError> {
        let mut opening = self.begin(group, replica)?;
        let log = self.log_of(group, replica).await?;
        self.settle(group, &log).await.map_err(|source| OpenError::Log { group, source: source.into() })?;
        let messages = self.demux.add(group, replica);
        let started = Replica::start(
            group,
            replica,
            log,
            owner,
            self.options.clone(),
            self.net.clone(),
            self.env.clone(),
            messages,
            self.completions.here(&self.env),
        );
        let started = started.await.map_err(|why| OpenError::Start { group, why: why.to_string() })?;
        opening.opened = Some(started.clone());
        Ok(started)
    }

    /// A replica that begins takes all of its log for flushed, and would acknowledge it: so it is.
    async fn settle(&self, group: GroupId, log: &log::Group) -> io::Result<()> {
        if self.left().contains(&group) {
            flushed(log, Vec::new()).await?;
            self.left().remove(&group);
        }
        Ok(())
    }

    fn left(&self) -> MutexGuard<'_, BTreeSet<GroupId>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn replica(&self, group: GroupId) -> Option<Arc<Replica>> {
        match self.lock().get(&group) {
            Some(Slot::Open(replica)) => Some(replica.clone()),
            Some(Slot::Opening(_)) | None => None,
        }
    }

    pub(crate) async fn close(&self, group: GroupId) {
        self.opened(group).await;
        self.demux.remove(group);
        if let Some(replica) = self.replica(group) {
            self.left().insert(group);
            replica.stop().await;
            self.lock().remove(&group);
        }
    }

    /// Waits for an opening that is under way: what it starts would outlive the close.
    async fn opened(&self, group: GroupId) {
        loop {
            let settled = self.settled.notified();
            if !matches!(self.lock().get(&group), Some(Slot::Opening(_))) {
                return;
            }
            settled.await;
        }
    }

    pub(crate) async fn remove(&self, group: GroupId) -> io::Result<()> {
        self.close(group).await;
        self.left().remove(&group);
        self.directory.remove(group).await
    }

    pub(crate) fn set_peers(&self, peers: Vec<Peer>) {
        let others = peers.iter().map(|peer| peer.node).filter(|node| *node != self.net.node).collect();
        self.detector.set_peers(others);
        self.net.rpc.network().set_peers(peers);
    }

    pub(crate) fn liveness(&self) -> watch::Receiver<BTreeMap<NodeId, Life>> {
        self.net.lives.clone()
    }

    pub(crate) async fn shutdown(&self) {
        let groups: Vec<GroupId> = self.lock().keys().copied().collect();
        for group in groups {
            self.close(group).await;
        }
        self.net.rpc.close();
    }
}

/// Appends entries and waits until they and all before them are on disk.
async fn flushed(log: &log::Group, entries: Vec<log::Entry>) -> io::Result<()> {
    let (done, flushed) = oneshot::channel();
    log.append(entries, Box::new(move |result| drop(done.send(result))));
    flushed.await.unwrap_or_else(|_| Err(io::Error::other("the log has stopped")))
}

/// The first entry of a group's log, of no leader's term: the same wherever it is written.
fn first_entry(voters: &BTreeMap<ReplicaId, NodeId>) -> log::Entry {
    let membership = Membership::from(voters.clone());
    to_log(Entry { log_id: log_id(log::LogId { term: 0, index: 0 }), payload: Content::Membership(membership) })
}

struct Opening<'n> {
    node: &'n Node,
    group: GroupId,
    opened: Option<Arc<Replica>>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        match self.opened.take() {
            Some(replica) => drop(self.node.lock().insert(self.group, Slot::Open(replica))),
            None => {
                self.node.demux.remove(self.group);
                self.node.lock().remove(&self.group);
            }
        }
        self.node.settled.notify_waiters();
    }
}
