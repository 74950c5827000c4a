//! The world of one run: nodes with their disks and lives, the network, the history, and what all tasks ask of them.

use super::{
    Options, Step, Sums, admins, clients, finish, link, nemesis,
    net::{Net, Way},
    nodes::{EPOCH_MS, Place, start_again},
    pipeline,
    sometimes::{EXISTS, FAILED, RESET},
    whole::{Damage, Votes},
};
use crate::{
    history::{Because, Deed, Fact, History, What},
    observe,
};
use futures_util::future::BoxFuture;
use highwater::{
    client::{Client, Delivery, Host},
    controller::machine::ReplicaState,
};
use highwater_raft::{
    GroupId,
    env::{Env, TaskSet},
};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// Set-up and healing each come to an end within this, or the run is stuck.
const BOUND: Duration = Duration::from_secs(90);
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
    pub(super) nodes: RefCell<BTreeMap<u32, Place>>,
    pub(super) lives: Cell<u64>,
    pub(super) damaged: Cell<Option<Damage>>,
    /// Of the newest metadata that a node had when it ended.
    pub(super) known: Cell<u64>,
    pub(super) votes: RefCell<Votes>,
    /// Of each node's disk: how often it had failed when that was last noted.
    pub(super) failed: RefCell<BTreeMap<u32, u64>>,
    /// Nodes that stopped by themselves.
    pub(super) stopped: mpsc::UnboundedSender<(u32, u64, String)>,
    /// Who led each partition of the topic last, and which Raft groups they are.
    leaders: RefCell<BTreeMap<u32, (u64, u32)>>,
    /// Raft groups of the topic's partitions.
    groups: RefCell<BTreeSet<u64>>,
    /// The faults that were drawn.
    pub(super) drawn: RefCell<Vec<Step>>,
    /// Offsets that the group got, per partition.
    got: RefCell<BTreeMap<u32, BTreeSet<u64>>>,
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
        known: Cell::new(0),
        votes: RefCell::default(),
        failed: RefCell::default(),
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

async fn live(world: &Rc<World>) -> Result<(), String> {
    bounded("the nodes to make a cluster with a topic", async {
        for node in world.everybody() {
            world.nodes.borrow_mut().insert(node, Place::new(world));
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
        let (value, epoch) = (crate::workload::decode(record), record.leader_epoch);
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
        self.votes.borrow_mut().hear(node_of(label), &fact);
        if matches!(fact, Fact::Faulty { .. }) {
            self.note_failures(node_of(label));
        }
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
}

fn node_of(label: u64) -> u32 {
    u32::try_from(label & 0xff).unwrap_or(0)
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
