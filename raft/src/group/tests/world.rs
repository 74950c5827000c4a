//! The simulated world of the tests: nodes with a disk, a network and one replica each of one group.

use super::sent::{Counted, Sent};
use crate::{
    BootId, GroupId, NodeId, Payload, ReplicaId,
    disk::Disk,
    env::{Env, TaskSet},
    group::{AppliedAnswer, Event, Group, Host, HostOptions, MachineState, Owner, Refusal, Role},
    log::{self, LogId, Stamp},
    testing::{
        disk::{SimDisk, SimLimits},
        network::{Hub, Timing},
    },
    transport::Peer,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::{
    collections::BTreeMap,
    future::Future,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;

pub(super) const GROUP: GroupId = GroupId(1024);

/// Runs a simulation in virtual time.
pub(super) fn sim<T>(seed: u64, world: impl Future<Output = T>) -> T {
    eprintln!("seed {seed}");
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, world)
}

pub(super) struct World {
    seed: u64,
    pub(super) hub: Hub,
    pub(super) nodes: BTreeMap<u32, SimNode>,
    pub(super) options: log::Options,
    pub(super) began: Instant,
    boots: u64,
    peers: Vec<u32>,
    /// Of hosts that start from now on; who they are is theirs.
    pub(super) host_options: HostOptions,
    /// What nodes sent each other.
    pub(super) sent: Sent,
}

pub(super) struct SimNode {
    pub(super) disk: Arc<SimDisk>,
    pub(super) tasks: TaskSet,
    pub(super) host: Option<Host>,
    pub(super) group: Option<Group>,
    pub(super) directory: Option<log::Directory>,
    pub(super) replica: ReplicaId,
    pub(super) owner: Arc<TestOwner>,
}

impl SimNode {
    pub(super) fn group(&self) -> &Group {
        self.group.as_ref().unwrap()
    }
}

impl World {
    /// Nodes 1..=n, each with the replica of its own number; the first three of them founded the group.
    pub(super) async fn start(seed: u64, n: u32) -> World {
        let options = log::Options { wal_file_bytes: 64 << 10, segment_bytes: 16 << 10, ..log::Options::default() };
        Self::start_with(seed, n, options).await
    }

    pub(super) async fn start_with(seed: u64, n: u32, options: log::Options) -> World {
        Self::start_tuned(seed, n, options, |_| ()).await
    }

    pub(super) async fn start_tuned(
        seed: u64,
        n: u32,
        options: log::Options,
        tune: impl FnOnce(&mut HostOptions),
    ) -> World {
        let mut host_options = HostOptions::new(NodeId(0), BootId(0));
        tune(&mut host_options);
        let hub = Hub::new(seed, Timing::default());
        let began = Instant::now();
        let mut world = World {
            seed,
            hub,
            nodes: BTreeMap::new(),
            options,
            began,
            boots: 0,
            peers: (1..=n).collect(),
            host_options,
            sent: Sent::default(),
        };
        let founders: BTreeMap<_, _> = (1..=n.min(3)).map(|id| (ReplicaId(id.into()), NodeId(id))).collect();
        for id in 1..=n {
            let founders = if id <= 3 { founders.clone() } else { BTreeMap::new() };
            world.start_founding(id, u64::from(id), founders).await;
        }
        world.node(1).group().stand_first();
        world
    }

    /// An empty node with the given replica.
    pub(super) async fn start_empty(&mut self, id: u32, replica: u64) {
        self.start_founding(id, replica, BTreeMap::new()).await;
    }

    async fn start_founding(&mut self, id: u32, replica: u64, founders: BTreeMap<ReplicaId, NodeId>) {
        let tasks = TaskSet::default();
        let env = self.env(&tasks);
        let disk = SimDisk::new(env.clone(), SimLimits::default());
        self.run(id, ReplicaId(replica), (disk, tasks, env), founders).await;
    }

    fn env(&mut self, tasks: &TaskSet) -> Env {
        self.boots += 1;
        Env::simulated(self.seed.wrapping_mul(1_000).wrapping_add(self.boots), 1_000_000, tasks.clone())
    }

    async fn run(
        &mut self,
        id: u32,
        replica: ReplicaId,
        (disk, tasks, env): (Arc<SimDisk>, TaskSet, Env),
        founders: BTreeMap<ReplicaId, NodeId>,
    ) {
        let boot = BootId(self.boots);
        let owner = Arc::new(TestOwner::default());
        let network = Arc::new(Counted::new(NodeId(id), self.hub.join(NodeId(id), boot, &env), &self.sent));
        let peer =
            |node: &u32| Peer { node: NodeId(*node), address: format!("{node}"), control_address: format!("{node}") };
        let peers: Vec<_> = self.peers.iter().filter(|node| **node != id).map(peer).collect();
        let host_options = HostOptions { node: NodeId(id), boot, ..self.host_options.clone() };
        let (options, told, storage) = (self.options.clone(), owner.clone(), disk.clone() as Arc<dyn Disk>);
        let started = tasks.tag(async move {
            let directory = log::Directory::open(storage, options, env.clone()).await.unwrap();
            for (_, _, health) in directory.groups() {
                assert_eq!(health, log::Health::Good, "node {id}");
            }
            let host = Host::start(host_options, directory.clone(), network, env).unwrap();
            host.set_peers(peers);
            if !founders.is_empty() {
                assert!(host.found(GROUP, replica, &founders).await.unwrap());
            }
            let group = host.open(GROUP, replica, told).await.unwrap();
            (host, group, directory)
        });
        let (host, group, directory) = started.await;
        let (host, group, directory) = (Some(host), Some(group), Some(directory));
        let node = SimNode { disk, tasks, host, group, directory, replica, owner };
        self.nodes.insert(id, node);
    }

    pub(super) fn node(&self, id: u32) -> &SimNode {
        &self.nodes[&id]
    }

    pub(super) fn living(&self) -> impl Iterator<Item = (u32, &SimNode)> {
        self.nodes.iter().filter(|(_, node)| node.group.is_some()).map(|(id, node)| (*id, node))
    }

    /// Virtual time passes.
    pub(super) async fn pass(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Who leads in the highest term, once one is ready.
    pub(super) async fn leader(&self) -> u32 {
        for _ in 0..3_000 {
            let term = self.living().map(|(_, node)| node.owner.role().term).max();
            let ready = self.living().find(|(_, node)| node.owner.role().ready && Some(node.owner.role().term) == term);
            if let Some((id, _)) = ready {
                return id;
            }
            self.pass(5).await;
        }
        panic!(
            "no leader within 15 s: {:?}",
            self.living().map(|(id, node)| (id, node.owner.role())).collect::<Vec<_>>()
        );
    }

    pub(super) fn leading(&self) -> Vec<u32> {
        self.living().filter(|(_, node)| node.owner.role().leading).map(|(id, _)| id).collect()
    }

    pub(super) fn propose(&self, id: u32, numbers: Range<u64>) {
        let node = self.node(id);
        let term = node.owner.role().term;
        for number in numbers {
            node.group().propose(number, term, payload(number));
        }
    }

    /// Waits until each living replica has applied `count` commands.
    pub(super) async fn all_applied(&self, count: u64) {
        for _ in 0..6_000 {
            if self.living().all(|(_, node)| node.owner.count() >= count) {
                return;
            }
            self.pass(5).await;
        }
        let counts: Vec<_> = self.living().map(|(id, node)| (id, node.owner.count(), node.owner.role())).collect();
        panic!("{count} not applied within 30 s: {counts:?}");
    }

    /// Waits until one replica has applied `count` commands.
    pub(super) async fn applied(&self, id: u32, count: u64) {
        for _ in 0..1_000 {
            if self.node(id).owner.count() >= count {
                return;
            }
            self.pass(5).await;
        }
        panic!("node {id} has not applied {count} within 5 s but {}", self.node(id).owner.count());
    }

    /// All living replicas have the same history.
    pub(super) fn check_equal(&self) {
        let digests: Vec<_> = self.living().map(|(id, node)| (id, node.owner.count(), node.owner.digest())).collect();
        assert!(digests.windows(2).all(|pair| pair[0].1 == pair[1].1 && pair[0].2 == pair[1].2), "{digests:?}");
        for (id, node) in self.living() {
            assert_eq!(node.owner.failure(), None, "node {id}");
        }
    }

    /// A crash: nothing that the node still wanted to do happens.
    pub(super) fn crash(&mut self, id: u32) {
        self.hub.cut(NodeId(id));
        let node = self.nodes.get_mut(&id).unwrap();
        node.disk.crash();
        node.tasks.crash();
        node.host = None;
        node.group = None;
        node.directory = None;
    }

    /// After a crash, with what the disk kept.
    pub(super) async fn restart(&mut self, id: u32) {
        let tasks = TaskSet::default();
        let env = self.env(&tasks);
        let node = self.nodes.remove(&id).unwrap();
        let disk = node.disk.restart_losing_unsynced(env.clone());
        self.run(id, node.replica, (disk, tasks, env), BTreeMap::new()).await;
    }

    pub(super) async fn restart_all(&mut self) {
        let all: Vec<u32> = self.nodes.keys().copied().collect();
        all.iter().for_each(|id| self.crash(*id));
        self.pass(10).await;
        for id in all {
            self.restart(id).await;
        }
    }
}

pub(super) fn payload(number: u64) -> Payload {
    let mut bytes = BytesMut::with_capacity(64);
    bytes.put_u64(number);
    bytes.resize(64, b'x');
    bytes.freeze().into()
}

/// A machine that counts and digests commands; events are taken at once, unless it holds still.
#[derive(Default)]
pub(super) struct TestOwner(Mutex<State>);

#[derive(Default)]
struct State {
    last: Option<u64>,
    count: u64,
    digest: u64,
    /// Numbers of the commands applied in this life.
    applied: Vec<u64>,
    outcomes: Vec<(u64, Outcome)>,
    role: Role,
    flushed: Option<u64>,
    restored: u32,
    failure: Option<String>,
    /// What is to be applied waits here.
    held: Option<Vec<Event>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    HandedOver,
    Refused(Refusal),
}

impl TestOwner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn role(&self) -> Role {
        self.state().role.clone()
    }

    pub(super) fn count(&self) -> u64 {
        self.state().count
    }

    pub(super) fn digest(&self) -> u64 {
        self.state().digest
    }

    pub(super) fn restored(&self) -> u32 {
        self.state().restored
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    pub(super) fn proposals_applied(&self) -> Vec<u64> {
        self.state().applied.clone()
    }

    pub(super) fn outcomes(&self) -> Vec<(u64, Outcome)> {
        self.state().outcomes.clone()
    }

    /// From now on nothing is applied.
    pub(super) fn hold(&self) {
        self.state().held = Some(Vec::new());
    }

    /// What waits is applied, and what comes from now on.
    pub(super) fn release(&self) {
        let held = self.state().held.take();
        held.into_iter().flatten().for_each(|event| self.event(event));
    }

    pub(super) fn refused(&self) -> usize {
        self.state().outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Refused(_))).count()
    }
}

impl Owner for TestOwner {
    fn event(&self, event: Event) {
        let mut state = self.state();
        if let (Event::Committed { .. } | Event::Checkpoint { .. }, Some(held)) = (&event, &mut state.held) {
            return held.push(event);
        }
        match event {
            Event::Committed { entries, checkpoint_after, done } => {
                let mut stamps = Vec::new();
                for entry in entries {
                    assert!(
                        state.last.is_none_or(|last| entry.index == last + 1),
                        "{} after {:?}",
                        entry.index,
                        state.last
                    );
                    state.last = Some(entry.index);
                    let offset = state.count;
                    if !entry.payload.is_empty() {
                        let number = entry.payload.slice(0..8).unwrap().get_u64();
                        state.count += 1;
                        state.digest = (state.digest.rotate_left(7) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                        state.applied.push(number);
                    }
                    let (offset_end, note) = (state.count, Bytes::new());
                    stamps.push(Stamp { index: entry.index, offset, offset_end, max_timestamp: -1, note });
                }
                let machine = checkpoint_after.then(|| state.machine());
                let _ = done.send(AppliedAnswer { stamps, machine });
            }
            Event::Checkpoint { reply } => {
                let _ = reply.send(state.machine());
            }
            Event::Restore { mut machine, offset, last: LogId { index, .. }, done } => {
                state.last = Some(index);
                state.count = machine.get_u64();
                state.digest = machine.get_u64();
                assert_eq!(state.count, offset);
                state.restored += 1;
                let _ = done.send(Ok(()));
            }
            Event::HandedOver { proposal, .. } => state.outcomes.push((proposal, Outcome::HandedOver)),
            Event::Refused { proposal, why } => state.outcomes.push((proposal, Outcome::Refused(why))),
            Event::Flushed { index } => {
                state.flushed = Some(index);
            }
            Event::Role(role) => state.role = role,
            Event::Failed { why } => state.failure = Some(why),
        }
    }
}

impl State {
    fn machine(&self) -> MachineState {
        let mut bytes = BytesMut::new();
        bytes.put_u64(self.count);
        bytes.put_u64(self.digest);
        MachineState { machine: bytes.freeze(), offset: self.count }
    }
}
