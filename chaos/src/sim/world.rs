//! The world of one run: nodes with their disks and lives, the network, the history, and what all tasks ask of them.

use super::{
    Options, Step, Sums, admins, clients, finish, link, nemesis,
    net::{self, Net, Way},
    pipeline,
    sometimes::{EXISTS, FAILED, RESET},
};
use crate::{
    history::{Because, Deed, Fact, History, What},
    observe,
};
use futures_util::future::BoxFuture;
use highwater::{
    client::{Client, Delivery, Host},
    config::{Config, Listener, ListenerKind},
    controller::machine::ReplicaState,
    node::Node,
    wire::LinkClosed,
};
use highwater_raft::{
    BootId, GroupId,
    env::{Env, TaskSet},
    testing::disk::{Failures, SimDisk, SimLimits},
};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// Wall-clock time at which worlds begin: 2026-01-01.
const EPOCH_MS: u64 = 1_767_225_600_000;
/// Set-up and healing each come to an end within this, or the run is stuck.
const BOUND: Duration = Duration::from_secs(90);
/// After damage to one node's files no other's are damaged for so long.
const HEALS: Duration = Duration::from_secs(20);
/// Starts of a node in a row that may fail.
const STARTS_MAX: u32 = 12;
/// Polls of all tasks of all nodes per virtual second: a hundred times what a storm needs.
const POLLS_MAX: u64 = 20_000_000;

/// See the module.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) env: Env,
    pub(super) net: Net,
    pub(super) sums: RefCell<Sums>,
    ways: RefCell<Vec<(u32, Way)>>,
    history: Rc<RefCell<History>>,
    begun: Instant,
    calm: Cell<bool>,
    over: Cell<bool>,
    /// What the run waits for just now, for reports.
    waits: RefCell<String>,
    nodes: RefCell<BTreeMap<u32, Place>>,
    lives: Cell<u64>,
    /// Whose files were damaged or taken: no other node's are until its replicas are whole again.
    damaged: Cell<Option<(u32, Instant)>>,
    /// Nodes that stopped by themselves.
    stopped: mpsc::UnboundedSender<(u32, u64, String)>,
    /// Who led each partition of the topic last, and which Raft groups they are.
    leaders: RefCell<BTreeMap<u32, (u64, u32)>>,
    /// Raft groups of the topic's partitions.
    groups: RefCell<BTreeSet<u64>>,
    /// The faults that were drawn.
    pub(super) drawn: RefCell<Vec<Step>>,
    /// Offsets that the group got, per partition.
    got: RefCell<BTreeMap<u32, BTreeSet<u64>>>,
}

/// One node's place: its disk outlives its lives.
struct Place {
    disk: Arc<SimDisk>,
    /// The last life ended without a loss of power.
    keeps: bool,
    starting: bool,
    life: Option<Life>,
}

struct Life {
    number: u64,
    tasks: TaskSet,
    env: Env,
    node: Rc<Node>,
}

/// Runs a world; gives what was stuck, if anything, and what was reached.
pub(super) async fn run(options: Options, history: Rc<RefCell<History>>) -> (Option<String>, Sums, Vec<Step>) {
    let env = Env::simulated(options.seed, EPOCH_MS, TaskSet::default());
    let net = Net::new(&options, env.random_u64());
    let (stopped, stops) = mpsc::unbounded_channel();
    let world = Rc::new(World {
        env: env.clone(),
        net,
        sums: RefCell::default(),
        ways: RefCell::default(),
        history,
        begun: Instant::now(),
        calm: Cell::new(false),
        over: Cell::new(false),
        waits: RefCell::default(),
        nodes: RefCell::default(),
        lives: Cell::new(0),
        damaged: Cell::new(None),
        stopped,
        leaders: RefCell::default(),
        groups: RefCell::default(),
        drawn: RefCell::default(),
        got: RefCell::default(),
        options,
    });
    super::set_begun(Some(world.begun));
    highwater_raft::env::limit_polls(Some(POLLS_MAX));
    let hears = Rc::downgrade(&world);
    observe::listen(Some(Rc::new(move |label, fact| {
        if let Some(world) = hears.upgrade() {
            world.hear(label, fact);
        }
    })));
    let restarts = tokio::task::spawn_local(start_again(Rc::downgrade(&world), stops));
    let stuck = live(&world).await.err().map(|why| format!("{why}: {}", world.waits.borrow()));
    restarts.abort();
    let livelock = highwater_raft::env::limit_polls(None);
    let stuck = if livelock { Some(format!("{}: more polls than time allows", super::LIVELOCK)) } else { stuck };
    observe::listen(None);
    for node in world.everybody() {
        world.crash(node);
        world.count_failures(node);
        link::set_door(node, None);
    }
    let mut sums = world.sums.borrow().clone();
    world.net.reached().into_iter().for_each(|(what, times)| sums.reach(what, times));
    sums.add_time(world.options.full, world.now() / 1_000);
    (stuck, sums, world.drawn.take())
}

/// Starts nodes again that stopped by themselves: as an operator would.
async fn start_again(world: std::rc::Weak<World>, mut stops: mpsc::UnboundedReceiver<(u32, u64, String)>) {
    while let Some((id, number, why)) = stops.recv().await {
        let Some(world) = world.upgrade() else { return };
        if !world.is_life(id, number) {
            continue;
        }
        world.fault(format!("node {id} stopped: {why}"));
        world.end(id, false);
        tokio::time::sleep(Duration::from_millis(500 + world.env.random_below(1_000))).await;
        world.start(id).await;
    }
}

async fn live(world: &Rc<World>) -> Result<(), String> {
    bounded("the nodes to make a cluster with a topic", async {
        for node in world.everybody() {
            let disk = SimDisk::new(world.env_of(TaskSet::default()), limits(&world.options));
            world.nodes.borrow_mut().insert(node, Place { disk, keeps: false, starting: false, life: None });
        }
        let starting = world.everybody().map(|node| world.start(node));
        futures_util::future::join_all(starting).await;
        let client = clients::connect(world, 0).await;
        let Options { partitions, retention_ms, .. } = world.options;
        while let Err(error) = admins::create(world, &client, 0, &clients::topic(), partitions, retention_ms).await {
            if error.code() == Some(highwater::wire::Code::TopicExists) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        world.know_groups(&client).await;
        world.note(0, What::Topic { retention: world.options.retention_ms.is_some() });
        client.close();
    })
    .await?;
    // Tagged, so that a client that spins is caught as a node is.
    let workload = TaskSet::default();
    let mut tasks = tokio::task::JoinSet::new();
    for process in 1..=3 {
        tasks.spawn_local(workload.tag(clients::produce(world.clone(), process)));
    }
    tasks.spawn_local(workload.tag(pipeline::produce(world.clone(), 1_000)));
    tasks.spawn_local(workload.tag(clients::read(world.clone(), 11)));
    tasks.spawn_local(workload.tag(clients::listen(world.clone(), 12)));
    tasks.spawn_local(workload.tag(clients::watch(world.clone(), 31)));
    tasks.spawn_local(workload.tag(admins::churn(world.clone(), 41)));
    tasks.spawn_local(workload.tag(admins::reset(world.clone(), 42)));
    let mut members = tokio::task::JoinSet::new();
    for process in 21..21 + world.options.storm.members {
        members.spawn_local(workload.tag(clients::join(world.clone(), process)));
    }
    let storm = tokio::task::spawn_local(nemesis::storm(world.clone()));
    tokio::time::sleep(Duration::from_secs(world.options.seconds)).await;
    world.calm.set(true);
    bounded("the storm to end", async { drop(storm.await) }).await?;
    world.note(0, What::Healed);
    bounded("all to be served again", workload.tag(clients::ask_all(world.clone(), 61))).await?;
    bounded("producers, readers and watchers to end", async {
        while let Some(ended) = tasks.join_next().await {
            ended.expect("a client's task panicked");
        }
    })
    .await?;
    let logs = bounded("the final reads", finish::read_all(world)).await?;
    bounded("all nodes to know all topics", finish::list_topics(world)).await?;
    let waiting = bounded("the group to see everything", async {
        while !world.group_has(&logs) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let waiting = waiting.await.map_err(|why| format!("{why}: {}", world.group_misses(&logs)));
    world.over.set(true);
    waiting?;
    bounded("members to leave", async { while members.join_next().await.is_some() {} }).await?;
    let compared = bounded("replicas to be equal", finish::compare_replicas(world, &logs)).await;
    compared?;
    bounded("all replicas to be whole", async {
        while let Some(what) = world.unsettled() {
            world.waits(what);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await
}

fn limits(options: &Options) -> SimLimits {
    SimLimits { sync_max: Duration::from_micros(options.storm.sync_us), ..SimLimits::default() }
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
        match &what {
            What::SendOk { .. } => self.sums.borrow_mut().acked += 1,
            What::SendFail { .. } => self.sums.borrow_mut().reach(FAILED, 1),
            What::AdminOk { deed: Deed::Reset { .. } } => self.sums.borrow_mut().reach(RESET, 1),
            What::AdminFail { because: Because::Exists, .. } => self.sums.borrow_mut().reach(EXISTS, 1),
            _ => {}
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
        let (value, epoch) = (clients::decode(record), record.leader_epoch);
        self.got.borrow_mut().entry(partition).or_default().insert(offset);
        self.note(process, What::Given { group, partition, offset, value, epoch, redelivered });
    }

    /// Whether the group got all that is in the logs.
    fn group_has(&self, logs: &finish::Logs) -> bool {
        let got = self.got.borrow();
        let has = |(partition, log): (&u32, &Vec<(u64, u64)>)| {
            got.get(partition).map_or(log.is_empty(), |got| log.iter().all(|(offset, _)| got.contains(offset)))
        };
        logs.iter().all(has)
    }

    fn group_misses(&self, logs: &finish::Logs) -> String {
        let got = self.got.borrow();
        let line = |(partition, log): (&u32, &Vec<(u64, u64)>)| {
            let missing = log.iter().filter(|(offset, _)| got.get(partition).is_none_or(|got| !got.contains(offset)));
            format!("{} of {} of partition {partition}", missing.count(), log.len())
        };
        logs.iter().map(line).collect::<Vec<_>>().join(", ")
    }

    /// All nodes, whether they live or not.
    pub(super) fn everybody(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.options.nodes
    }

    /// What a node's task says of itself.
    fn hear(&self, label: u64, fact: Fact) {
        match &fact {
            Fact::Reached { what } => *self.sums.borrow_mut().reached.entry(what.clone()).or_default() += 1,
            Fact::Marks { group, partition, leads: true, .. } if self.groups.borrow().contains(group) => {
                self.leaders.borrow_mut().insert(*partition, (label >> 8, node_of(label)));
            }
            _ => {}
        }
        self.note(node_of(label), What::Saw { life: label >> 8, fact });
    }

    /// Who leads a partition of the topic, if that node lives.
    pub(super) fn leader_of(&self, partition: u32) -> Option<u32> {
        self.leading(partition).map(|(_, node)| node)
    }

    /// The same, with its life.
    pub(super) fn leading(&self, partition: u32) -> Option<(u64, u32)> {
        self.leaders.borrow().get(&partition).copied().filter(|(life, node)| self.is_life(*node, *life))
    }

    /// The nodes with a voting replica of a partition of the topic.
    pub(super) fn voters_of(&self, partition: u32) -> Vec<u32> {
        let group = usize::try_from(partition).ok().and_then(|nth| self.groups.borrow().iter().nth(nth).copied());
        let known = self.everybody().filter_map(|node| self.node(node)).next();
        let (Some(group), Some(node)) = (group, known) else { return Vec::new() };
        let metadata = node.controller().metadata();
        let Some(placement) = metadata.groups.get(&GroupId(group)) else { return Vec::new() };
        let votes = placement.replicas.iter().filter(|replica| replica.state == ReplicaState::Voter);
        votes.map(|replica| replica.node.0).collect()
    }

    fn is_life(&self, node: u32, number: u64) -> bool {
        self.nodes.borrow().get(&node).and_then(|place| place.life.as_ref()).is_some_and(|life| life.number == number)
    }

    async fn know_groups(&self, client: &Client) {
        let topic = loop {
            if let Ok(topic) = client.topic(&clients::topic()).await {
                break topic.id;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        loop {
            let known = self.everybody().filter_map(|node| self.node(node)).find_map(|node| {
                let metadata = node.controller().metadata();
                metadata.topic(topic).map(|topic| topic.partitions.iter().map(|group| group.0).collect())
            });
            if let Some(groups) = known {
                return *self.groups.borrow_mut() = groups;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A node whose files may be damaged: one at a time, or a majority could be.
    pub(super) fn fragile(&self) -> Option<u32> {
        match self.damaged.get() {
            // It takes a while until anybody knows.
            Some((node, at)) if at.elapsed() < HEALS || !self.is_whole() => Some(node),
            _ => {
                let all_live = self.everybody().all(|node| self.node(node).is_some());
                (all_live && self.is_whole())
                    .then(|| 1 + u32::try_from(self.env.random_below(self.options.nodes.into())).unwrap_or(0))
            }
        }
    }

    /// Whether any node may lose its disk: all live, no replica is being replaced, and no damage is young.
    pub(super) fn is_sound(&self) -> bool {
        let healed = self.damaged.get().is_none_or(|(_, at)| at.elapsed() >= HEALS);
        healed && self.everybody().all(|node| self.node(node).is_some()) && self.is_whole()
    }

    /// Whether no node knows of a replica that is being replaced.
    fn is_whole(&self) -> bool {
        self.unsettled().is_none()
    }

    /// A replica that is being replaced, and who knows of it.
    fn unsettled(&self) -> Option<String> {
        let settled = |state| matches!(state, ReplicaState::Voter | ReplicaState::Observer);
        self.everybody().find_map(|id| {
            let metadata = self.node(id)?.controller().metadata();
            let mut replicas =
                metadata.groups.iter().flat_map(|(group, it)| it.replicas.iter().map(move |r| (group, r)));
            let (group, replica) = replicas.find(|(_, replica)| !settled(replica.state))?;
            Some(format!("node {id} at version {} knows in group {} of {replica:?}", metadata.version, group.0))
        })
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

    pub(super) fn lives(&self, node: u32) -> bool {
        self.node(node).is_some()
    }

    /// The tasks of a node's life, if it lives.
    pub(super) fn tasks_of(&self, node: u32) -> Option<TaskSet> {
        self.nodes.borrow().get(&node)?.life.as_ref().map(|life| life.tasks.clone())
    }

    /// Starts a node that is down; tries again when its disk is full or fails.
    pub(super) async fn start(&self, id: u32) {
        for attempt in 1.. {
            {
                let mut nodes = self.nodes.borrow_mut();
                let place = nodes.get_mut(&id).expect("all nodes have a place");
                if place.life.is_some() || place.starting {
                    return;
                }
                place.starting = true;
            }
            let started = self.try_start(id).await;
            if let Some(place) = self.nodes.borrow_mut().get_mut(&id) {
                place.starting = false;
            }
            let Err(why) = started else { return };
            self.net.cut(id);
            self.fault(format!("node {id} does not start: {why}"));
            if self.damaged.get().is_some_and(|(node, _)| node == id) && attempt > 1 {
                // A disk that was damaged may be of no use at all: then the node gets another.
                self.wipe(id);
            } else if attempt == STARTS_MAX {
                return super::note_failure(format!("node {id} did not start: {why}"));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn try_start(&self, id: u32) -> Result<(), String> {
        let number = self.lives.get() + 1;
        self.lives.set(number);
        let tasks = TaskSet::labelled((number << 8) | u64::from(id));
        let env = self.env_of(tasks.clone());
        env.let_dawdle();
        let disk = {
            let mut nodes = self.nodes.borrow_mut();
            let place = nodes.get_mut(&id).expect("all nodes have a place");
            let lost = place.disk.lost_bytes();
            place.disk = if place.keeps {
                place.disk.restart_keeping_unsynced(env.clone())
            } else {
                place.disk.restart_losing_unsynced(env.clone())
            };
            let lost = place.disk.lost_bytes() - lost;
            let mut sums = self.sums.borrow_mut();
            sums.lossy_crashes += u64::from(lost > 0);
            sums.bytes_lost += lost;
            place.disk.clone()
        };
        let boot = BootId(env.random_u64());
        let builder = Node::builder(config(&self.options, &self.net, id)).env(env.clone()).boot(boot).disk(disk);
        let builder = match (self.net.join(id, boot, &env), self.net.place(id)) {
            (Some(network), _) => builder.network(network).native_address(self.net.bootstrap(id)),
            (None, Some((_, pem))) => builder.certificates(pem),
            (None, None) => unreachable!("frames or an address"),
        };
        let node = match tasks.tag(builder.start()).await {
            Ok(node) => Rc::new(node),
            Err(error) => {
                tasks.crash();
                return Err(error.to_string());
            }
        };
        let door = Rc::downgrade(&node);
        link::set_door(
            id,
            Some(Box::new(move || match door.upgrade() {
                Some(node) => Ok(node.local()),
                None => Err(LinkClosed(format!("node {id} is down"))),
            })),
        );
        let (runs, stopped) = (node.clone(), self.stopped.clone());
        tasks.spawn_local(async move {
            if let Err(error) = runs.run().await {
                let _ = stopped.send((id, number, error.to_string()));
            }
        });
        if let Some(place) = self.nodes.borrow_mut().get_mut(&id) {
            place.life = Some(Life { number, tasks, env, node });
        }
        self.fault(format!("node {id} is up"));
        Ok(())
    }

    /// Power is lost: links first, then the disk, then whatever ran. Gives whether the node lived.
    pub(super) fn crash(&self, id: u32) -> bool {
        let lived = self.end(id, false);
        if lived {
            self.sums.borrow_mut().crashes += 1;
            self.fault(format!("node {id} loses power"));
        }
        lived
    }

    /// The process ends, the machine does not. Gives whether the node lived.
    pub(super) fn kill(&self, id: u32) -> bool {
        let lived = self.end(id, true);
        if lived {
            self.fault(format!("node {id} is killed"));
        }
        lived
    }

    fn end(&self, id: u32, keeps: bool) -> bool {
        let life = {
            let mut nodes = self.nodes.borrow_mut();
            let Some(place) = nodes.get_mut(&id) else { return false };
            let Some(life) = place.life.take() else { return false };
            self.net.cut(id);
            place.disk.crash();
            place.keeps = keeps;
            life
        };
        link::set_door(id, None);
        life.tasks.crash();
        drop(life);
        if !self.options.full {
            // Below QUIC nobody tells them.
            self.cut_clients(id);
        }
        true
    }

    /// A node that is down gets an empty disk.
    pub(super) fn wipe(&self, id: u32) {
        self.damaged.set(Some((id, Instant::now())));
        self.count_failures(id);
        let disk = SimDisk::new(self.env_of(TaskSet::default()), limits(&self.options));
        if let Some(place) = self.nodes.borrow_mut().get_mut(&id) {
            place.disk = disk;
        }
    }

    /// A bit of one of the node's files turns, if it has such a file.
    pub(super) fn flip(&self, id: u32, within: &str, draw: u64) -> bool {
        let mut bit = false;
        self.on_disk(id, |disk| {
            let files: Vec<_> =
                disk.files().into_iter().filter(|(path, len)| *len > 0 && path.contains(within)).collect();
            let Some((path, len)) = usize::try_from(draw).ok().and_then(|draw| files.get(draw % files.len().max(1)))
            else {
                return;
            };
            let byte = (draw >> 8) % len;
            disk.flip_bit(path, byte, u8::try_from(draw >> 40 & 7).unwrap_or(0));
            self.note(id, What::Tampered);
            self.fault(format!("a bit of {path} turns at byte {byte}"));
            bit = true;
        });
        if bit {
            // Nobody knows of damage in a segment before it is read: then no other node's files are damaged in this run.
            let hidden = if within.contains("wal") { Duration::ZERO } else { Duration::from_secs(86_400) };
            let known = self.damaged.get().filter(|(node, _)| *node == id).map(|(_, at)| at);
            self.damaged
                .set(Some((id, known.into_iter().chain([Instant::now() + hidden]).max().unwrap_or(self.begun))));
        }
        bit
    }

    /// Parts all clients from a node.
    pub(super) fn cut_clients(&self, node: u32) {
        self.net.cut_clients(node, self.ways.borrow().iter().map(|(_, way)| way));
    }

    /// A way to the nodes for a process; one that it had before is forgotten.
    pub(super) fn way_of(&self, process: u32, delay: Duration) -> Way {
        let way = self.net.way(&self.env, process, delay);
        let mut ways = self.ways.borrow_mut();
        ways.retain(|(of, _)| *of != process);
        ways.push((process, way.clone()));
        way
    }

    /// Cuts a client off from all nodes for a while, if there is such a client.
    pub(super) async fn deafen(&self, process: u32, time: Duration) -> bool {
        let way = self.ways.borrow().iter().find(|(of, _)| *of == process).map(|(_, way)| way.clone());
        if let Some(way) = &way {
            self.net.deafen(way, time);
        }
        tokio::time::sleep(time).await;
        if let Some(way) = &way {
            self.net.hear(way);
        }
        way.is_some()
    }

    /// A node hears none of the others, nor they it, until healed.
    pub(super) fn isolate(&self, node: u32) {
        self.everybody().filter(|other| *other != node).for_each(|other| self.net.partition(node, other));
    }

    pub(super) fn unsynced_bytes(&self, node: u32) -> u64 {
        let nodes = self.nodes.borrow();
        let life = nodes.get(&node).filter(|place| place.life.is_some());
        life.map_or(0, |place| place.disk.unsynced_bytes())
    }

    /// Does something to a node's disk.
    pub(super) fn on_disk(&self, node: u32, act: impl FnOnce(&SimDisk)) {
        let disk = self.nodes.borrow().get(&node).map(|place| place.disk.clone());
        if let Some(disk) = disk {
            act(&disk);
        }
    }

    /// What a node's disk did wrong so far.
    pub(super) fn failures_of(&self, node: u32) -> Failures {
        self.nodes.borrow().get(&node).map(|place| place.disk.failures()).unwrap_or_default()
    }

    /// Faults that a disk was told to do, and did. For a disk that is not used any more.
    fn count_failures(&self, node: u32) {
        let Failures { syncs, writes, reads, .. } = self.failures_of(node);
        let mut sums = self.sums.borrow_mut();
        for (kind, times) in [("sync_error", syncs), ("write_error", writes), ("read_error", reads)] {
            (0..times).for_each(|_| sums.make(kind));
        }
    }

    pub(super) fn jump(&self, node: u32, ms: i64) -> bool {
        let nodes = self.nodes.borrow();
        let Some(life) = nodes.get(&node).and_then(|place| place.life.as_ref()) else { return false };
        life.env.jump_clock(ms);
        ms != 0
    }
}

fn node_of(label: u64) -> u32 {
    u32::try_from(label & 0xff).unwrap_or(0)
}

/// A node's config: small files, so that they are recycled, and segments, so that they are sealed, within a run.
fn config(options: &Options, net: &Net, id: u32) -> Config {
    let small = |n: u32| u16::try_from(n).expect("few nodes");
    let mut config = Config::local(small(id), small(options.nodes));
    config.cluster.name = "sim".into();
    config.cluster.home_groups = 2;
    config.log.wal_file_bytes = options.storm.wal_file_bytes;
    config.log.segment_bytes = options.storm.segment_bytes;
    config.log.free_bytes_min = 1 << 20;
    config.retention.check_ms = 1_000;
    config.listeners.0.clear();
    if let Some(address) = net.address_of(id) {
        (config.node.peer_bind, config.node.control_bind) =
            ((address, net::PEER).into(), (address, net::CONTROL).into());
        for seed in &mut config.cluster.seeds {
            if let Some(address) = net.address_of(seed.id.0) {
                seed.peer = std::net::SocketAddr::new(address, net::PEER).into();
                seed.control = std::net::SocketAddr::new(address, net::CONTROL).into();
            }
        }
        let bind = (address, net::NATIVE).into();
        let native = Listener {
            kind: ListenerKind::Native,
            bind,
            advertised: None,
            anonymous: true,
            client_certificates: false,
        };
        config.listeners.0.push(native);
    }
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
        self.env.spawn_local(task);
    }
}

/// A client for the final reads.
pub(super) async fn last_client(world: &World) -> Client {
    clients::connect(world, 99).await
}
