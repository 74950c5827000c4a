//! The world of one run: nodes with their disks and lives, the network, the history, and what all tasks ask of them.

use super::{Options, Sums, clients, finish, link, nemesis};
use crate::history::{History, What};
use futures_util::future::BoxFuture;
use highwater::{
    client::{Client, Delivery, Host, NewTopic},
    config::Config,
    node::Node,
    wire::LinkClosed,
};
use highwater_raft::{
    NodeId,
    env::{Env, TaskSet},
    testing::{
        disk::{SimDisk, SimLimits},
        network::{Hub, Timing},
    },
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Wall-clock time at which worlds begin: 2026-01-01.
const EPOCH_MS: u64 = 1_767_225_600_000;
/// Set-up and healing each come to an end within this, or the run is stuck.
const BOUND: Duration = Duration::from_secs(90);

/// A slow disk: at most moments something is written and not synced.
const SYNC_MAX: Duration = Duration::from_millis(8);

/// See the module.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) env: Env,
    pub(super) hub: Hub,
    pub(super) sums: RefCell<Sums>,
    pub(super) dialers: RefCell<Vec<(u32, link::SimDialer)>>,
    history: Rc<RefCell<History>>,
    begun: Instant,
    calm: Cell<bool>,
    over: Cell<bool>,
    /// What the run waits for just now, for reports.
    waits: RefCell<String>,
    nodes: RefCell<BTreeMap<u32, Place>>,
    /// Offsets that the group got, per partition.
    got: RefCell<BTreeMap<u32, std::collections::BTreeSet<u64>>>,
}

/// One node's place: its disk outlives its lives.
struct Place {
    disk: Arc<SimDisk>,
    life: Option<Life>,
}

struct Life {
    tasks: TaskSet,
    env: Env,
    node: Rc<Node>,
}

/// Runs a world; gives what was stuck, if anything, and what was reached.
pub(super) async fn run(options: Options, history: Rc<RefCell<History>>) -> (Option<String>, Sums) {
    let env = Env::simulated(options.seed, EPOCH_MS, TaskSet::default());
    let hub = Hub::new(env.random_u64(), Timing::default());
    let world = Rc::new(World {
        env: env.clone(),
        hub,
        sums: RefCell::default(),
        dialers: RefCell::default(),
        history,
        begun: Instant::now(),
        calm: Cell::new(false),
        over: Cell::new(false),
        waits: RefCell::default(),
        nodes: RefCell::default(),
        got: RefCell::default(),
        options,
    });
    super::set_begun(Some(world.begun));
    let stuck = live(&world).await.err().map(|why| format!("{why}: {}", world.waits.borrow()));
    for node in 1..=world.options.nodes {
        world.crash(node);
        link::set_door(node, None);
    }
    let sums = *world.sums.borrow();
    (stuck, sums)
}

async fn live(world: &Rc<World>) -> Result<(), String> {
    bounded("the nodes to make a cluster with a topic", async {
        for node in 1..=world.options.nodes {
            let limits = SimLimits { sync_max: SYNC_MAX, ..SimLimits::default() };
            let disk = SimDisk::new(world.env_of(TaskSet::default()), limits);
            world.nodes.borrow_mut().insert(node, Place { disk, life: None });
        }
        let starting = (1..=world.options.nodes).map(|node| world.start(node));
        futures_util::future::join_all(starting).await;
        let client = clients::connect(world, 0).await;
        let topic = NewTopic::new(clients::topic()).partitions(world.options.partitions);
        while let Err(error) = client.admin().create_topic(topic.clone()).await {
            if error.code() == Some(highwater::wire::Code::TopicExists) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        client.close();
    })
    .await?;
    let mut tasks = tokio::task::JoinSet::new();
    for process in 1..=3 {
        tasks.spawn_local(clients::produce(world.clone(), process));
    }
    tasks.spawn_local(clients::read(world.clone(), 11));
    tasks.spawn_local(clients::watch(world.clone(), 31));
    let mut members = tokio::task::JoinSet::new();
    for process in 21..=22 {
        members.spawn_local(clients::join(world.clone(), process));
    }
    let storm = tokio::task::spawn_local(nemesis::storm(world.clone()));
    tokio::time::sleep(Duration::from_secs(world.options.seconds)).await;
    world.calm.set(true);
    bounded("the storm to end", async { drop(storm.await) }).await?;
    bounded("producers, readers and watchers to end", async {
        while let Some(ended) = tasks.join_next().await {
            ended.expect("a client's task panicked");
        }
    })
    .await?;
    let ends = bounded("the final reads", finish::read_all(world)).await?;
    let waiting = bounded("the group to see everything", async {
        while !world.group_has(&ends) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let waiting = waiting.await.map_err(|why| format!("{why}: {}", world.group_misses(&ends)));
    world.over.set(true);
    waiting?;
    bounded("members to leave", async { while members.join_next().await.is_some() {} }).await?;
    bounded("replicas to be equal", finish::compare_replicas(world, &ends)).await
}

async fn bounded<T>(what: &str, future: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(BOUND, future).await.map_err(|_| format!("waited {} virtual s for {what}", BOUND.as_secs()))
}

impl World {
    /// Microseconds since the world began.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn note(&self, process: u32, what: What) {
        if matches!(what, What::SendOk { .. }) {
            self.sums.borrow_mut().acked += 1;
        }
        self.history.borrow_mut().push(self.now(), process, what);
    }

    /// Says what the run waits for.
    pub(super) fn waits(&self, what: String) {
        tracing::debug!(what, "waits");
        *self.waits.borrow_mut() = what;
    }

    pub(super) fn fault(&self, text: String) {
        tracing::info!(text, "fault");
        self.note(0, What::Fault { text });
    }

    pub(super) fn given(&self, process: u32, group: u32, record: &Delivery) {
        let (partition, offset, redelivered) = (record.partition, record.offset, record.redelivered);
        self.got.borrow_mut().entry(partition).or_default().insert(offset);
        self.note(process, What::Given { group, partition, offset, value: clients::decode(record), redelivered });
    }

    fn group_has(&self, ends: &BTreeMap<u32, u64>) -> bool {
        let got = self.got.borrow();
        ends.iter().all(|(partition, end)| got.get(partition).map_or(0, |got| got.len() as u64) >= *end)
    }

    fn group_misses(&self, ends: &BTreeMap<u32, u64>) -> String {
        let got = self.got.borrow();
        let line = |(partition, end): (&u32, &u64)| {
            format!("{} of {end} of partition {partition}", got.get(partition).map_or(0, |got| got.len()))
        };
        ends.iter().map(line).collect::<Vec<_>>().join(", ")
    }

    /// The storm is over.
    pub(super) fn is_calm(&self) -> bool {
        self.calm.get()
    }

    /// Everything is over.
    pub(super) fn is_over(&self) -> bool {
        self.over.get()
    }

    pub(super) fn host(&self) -> WorldHost {
        WorldHost { env: self.env.clone() }
    }

    fn env_of(&self, tasks: TaskSet) -> Env {
        Env::simulated(self.env.random_u64(), EPOCH_MS + self.now() / 1000, tasks)
    }

    /// The node, if it lives.
    pub(super) fn node(&self, node: u32) -> Option<Rc<Node>> {
        self.nodes.borrow().get(&node)?.life.as_ref().map(|life| life.node.clone())
    }

    /// Starts a node that is down.
    pub(super) async fn start(&self, id: u32) {
        if self.node(id).is_some() {
            return;
        }
        let tasks = TaskSet::default();
        let env = self.env_of(tasks.clone());
        let disk = {
            let mut nodes = self.nodes.borrow_mut();
            let place = nodes.get_mut(&id).expect("all nodes have a place");
            let lost = place.disk.lost_bytes();
            place.disk = place.disk.restart_losing_unsynced(env.clone());
            let lost = place.disk.lost_bytes() - lost;
            let mut sums = self.sums.borrow_mut();
            sums.lossy_crashes += u64::from(lost > 0);
            sums.bytes_lost += lost;
            place.disk.clone()
        };
        let boot = highwater_raft::BootId(env.random_u64());
        let network = self.hub.join(NodeId(id), boot, &env);
        let builder = Node::builder(config(&self.options, id))
            .env(env.clone())
            .boot(boot)
            .disk(disk)
            .network(network)
            .native_address(format!("node-{id}"))
            .leader_restore(self.options.leader_restore);
        let started = tasks.tag(builder.start()).await;
        let node = match started {
            Ok(node) => Rc::new(node),
            Err(error) => return super::note_failure(format!("node {id} did not start: {error}")),
        };
        let door = Rc::downgrade(&node);
        link::set_door(
            id,
            Some(Box::new(move || match door.upgrade() {
                Some(node) => Ok(node.local()),
                None => Err(LinkClosed(format!("node {id} is down"))),
            })),
        );
        if let Some(place) = self.nodes.borrow_mut().get_mut(&id) {
            place.life = Some(Life { tasks, env, node });
        }
        self.fault(format!("node {id} is up"));
    }

    /// Power is lost: links first, then the disk, then whatever ran.
    pub(super) fn crash(&self, id: u32) {
        let mut nodes = self.nodes.borrow_mut();
        let Some(place) = nodes.get_mut(&id) else { return };
        let Some(life) = place.life.take() else { return };
        self.hub.cut(NodeId(id));
        place.disk.crash();
        link::set_door(id, None);
        life.tasks.crash();
        drop(life);
        drop(nodes);
        self.cut_clients(id);
        self.sums.borrow_mut().crashes += 1;
        self.fault(format!("node {id} loses power"));
    }

    /// Breaks the connections of all clients to a node.
    pub(super) fn cut_clients(&self, node: u32) {
        self.dialers.borrow().iter().for_each(|(_, dialer)| dialer.cut(node));
    }

    pub(super) fn unsynced_bytes(&self, node: u32) -> u64 {
        let nodes = self.nodes.borrow();
        let life = nodes.get(&node).filter(|place| place.life.is_some());
        life.map_or(0, |place| place.disk.unsynced_bytes())
    }

    pub(super) fn stall(&self, node: u32, time: Duration) {
        if let Some(place) = self.nodes.borrow().get(&node) {
            place.disk.stall(time);
        }
    }

    pub(super) fn jump(&self, node: u32, ms: i64) {
        if let Some(life) = self.nodes.borrow().get(&node).and_then(|place| place.life.as_ref()) {
            life.env.jump_clock(ms);
        }
    }
}

/// A node's config: small files, so that they are recycled, and segments, so that they are sealed, within a run.
fn config(options: &Options, id: u32) -> Config {
    let small = |n: u32| u16::try_from(n).expect("few nodes");
    let mut config = Config::local(small(id), small(options.nodes));
    config.cluster.name = "sim".into();
    config.cluster.home_groups = 2;
    config.log.wal_file_bytes = 256 << 10;
    config.log.segment_bytes = 64 << 10;
    config.log.free_bytes_min = 1 << 20;
    config.listeners.0.clear();
    config
}

/// Clients live outside of the nodes: a crash does not touch them.
pub(super) struct WorldHost {
    env: Env,
}

impl Host for WorldHost {
    fn now_ms(&self) -> i64 {
        i64::try_from(self.env.now_ms()).unwrap_or(i64::MAX)
    }
    fn random_u64(&self) -> u64 {
        self.env.random_u64()
    }
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(tokio::task::spawn_local(task));
    }
}

/// A client for the final reads.
pub(super) async fn last_client(world: &World) -> Client {
    clients::connect(world, 99).await
}
