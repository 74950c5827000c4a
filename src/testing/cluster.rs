//! The cluster of a test: places with disks that outlive the lives in them, a network, and clients that stand outside.

use super::link::{self, SimDialer};
use crate::{
    client::{Client, Host},
    config::Config,
    node::Node,
    types::{NodeId, TopicName},
    wire::LinkClosed,
};
use futures_util::future::BoxFuture;
use highwater_raft::{
    BootId,
    env::{Env, TaskSet},
    testing::{
        disk::{SimDisk, SimLimits},
        network::{Hub, Timing},
    },
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    rc::{Rc, Weak},
    sync::{self, Arc},
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};

/// Wall-clock time at which clusters begin: 2026-01-01.
const EPOCH_MS: u64 = 1_767_225_600_000;
/// What should become true does so within this, or the test is told what is missing.
const BOUND: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Between a client and its nodes, each way.
const CLIENT_DELAY: Duration = Duration::from_micros(200);

/// How a cluster is made.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    nodes: u16,
    seed: u64,
    log_file_bytes: Option<u64>,
    home_groups: u64,
}

impl Builder {
    /// So many nodes, 1 to 7; an even number survives no more failures than one node less. Default: 3.
    pub fn nodes(mut self, nodes: u16) -> Self {
        self.nodes = nodes;
        self
    }

    /// Everything random comes from it. Default: 1.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Small files: write-ahead log files of so many bytes are recycled, and segments sealed, within a short test.
    pub fn log_file_bytes(mut self, bytes: u64) -> Self {
        self.log_file_bytes = Some(bytes);
        self
    }

    /// So many homes of consumer groups.
    #[cfg(test)]
    pub(crate) fn home_groups(mut self, home_groups: u64) -> Self {
        self.home_groups = home_groups;
        self
    }

    /// Runs a test with a cluster that is ready, in virtual time, and gives what it gave.
    ///
    /// # Panics
    /// When the test does, when the cluster does not come up, and within a runtime: call it from a plain `#[test]`.
    pub fn run<F: Future>(self, test: impl FnOnce(TestCluster) -> F) -> F::Output {
        let runtime = super::runtime(self.seed).expect("the system gives a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, async move {
            eprintln!("{self}");
            let cluster = TestCluster(Rc::new(Inner::new(self)));
            let _end = End(Rc::downgrade(&cluster.0));
            for node in cluster.nodes() {
                cluster.start(node).await;
            }
            cluster.client().await.close();
            test(cluster.clone()).await
        })
    }
}

/// What a test shows when it fails.
impl fmt::Display for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.says(super::REPLAYS))
    }
}

impl Builder {
    /// Which cluster it is, and what a build lacks that does not replay it.
    pub(super) fn says(&self, replays: bool) -> String {
        let cluster = format!("a simulated cluster of {} nodes from seed {}", self.nodes, self.seed);
        match replays {
            true => cluster,
            false => format!("{cluster}, which another run only comes close to: {}", super::HOW_TO_REPLAY),
        }
    }
}

/// Stops all nodes, however the test ended.
struct End(Weak<Inner>);

impl Drop for End {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.nodes().for_each(|node| inner.end(node, Outage::Killed));
        }
    }
}

/// How a node's life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// The process dies; what it wrote is with the operating system.
    Killed,
    /// The machine loses power: what was written and not synced is lost, in part or whole, or torn.
    PowerLost,
}

/// See the [module](super). Clones are the same cluster.
#[derive(Clone)]
pub struct TestCluster(Rc<Inner>);

struct Inner {
    env: Env,
    hub: Hub,
    begun: Instant,
    config: Builder,
    places: RefCell<BTreeMap<NodeId, Place>>,
    /// Of living clients; what is cut is cut for all of them.
    dialers: RefCell<Vec<sync::Weak<SimDialer>>>,
}

struct Place {
    disk: Arc<SimDisk>,
    ended: Option<Outage>,
    starting: Option<Starting>,
    life: Option<Life>,
    /// Why the last life ended by itself.
    stopped: Option<String>,
}

/// A life that has no node yet. Its start goes on for as long as this is there.
struct Starting {
    tasks: TaskSet,
    _goes_on: oneshot::Sender<()>,
}

struct Life {
    tasks: TaskSet,
    node: Rc<Node>,
}

impl TestCluster {
    /// Three nodes, seed 1.
    pub fn builder() -> Builder {
        Builder { nodes: 3, seed: 1, log_file_bytes: None, home_groups: 2 }
    }

    /// All nodes, whether they live or not.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.0.nodes()
    }

    /// A client of its own, outside of the nodes. It finds whichever of them live.
    ///
    /// # Panics
    /// When no node welcomes it within 60 virtual s.
    pub async fn client(&self) -> Client {
        let dialer = self.0.dialer();
        let host = Arc::new(Outside { env: self.0.env.clone() });
        within("a node to welcome a client", async || {
            let builder = Client::builder().dialer(dialer.clone()).host(host.clone()).name("test");
            let builder = self.nodes().fold(builder, |builder, node| builder.bootstrap(format!("node-{node}")));
            builder.connect().await.ok()
        })
        .await
    }

    /// The node, if it lives.
    pub fn node(&self, node: NodeId) -> Option<Rc<Node>> {
        self.0.places.borrow().get(&node)?.life.as_ref().map(|life| life.node.clone())
    }

    /// Who leads a partition, and lives.
    ///
    /// # Panics
    /// When nobody does for 60 virtual s.
    pub async fn leader(&self, topic: &TopicName, partition: u32) -> NodeId {
        let client = self.client().await;
        let leader = within("a partition to have a leader", async || {
            let topic = client.admin().describe_topic(topic).await.ok()?;
            let leader = topic.partitions.get(usize::try_from(partition).ok()?)?.leader?;
            self.node(leader).map(|_| leader)
        })
        .await;
        client.close();
        leader
    }

    /// Ends a node's process.
    pub fn kill(&self, node: NodeId) {
        self.0.end(node, Outage::Killed);
    }

    /// Takes the power from a node's machine: it loses what no `fdatasync` has covered.
    pub fn lose_power(&self, node: NodeId) {
        self.0.end(node, Outage::PowerLost);
    }

    /// Starts a node that is down, with what its disk kept. One that is ended meanwhile stays down.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(&self, node: NodeId) {
        if let Err(why) = self.0.start(node).await {
            panic!("node {node} does not start: {why}");
        }
    }

    /// Cuts the links between two nodes, both ways.
    pub fn partition(&self, a: NodeId, b: NodeId) {
        self.0.hub.partition(a.into(), b.into());
    }

    /// Cuts a node off from all others, those that are down included. Clients reach it still.
    pub fn isolate(&self, node: NodeId) {
        self.nodes().filter(|other| *other != node).for_each(|other| self.partition(node, other));
    }

    /// Cuts all clients off from all nodes for a while.
    pub fn deafen_clients(&self, time: Duration) {
        self.0.dialers().iter().for_each(|dialer| dialer.deafen(time));
    }

    /// Restores all links between nodes.
    pub fn heal(&self) {
        self.0.hub.heal();
    }

    /// The wall clock of nodes and clients, milliseconds since 1970: it begins with the year 2026.
    pub fn now_ms(&self) -> u64 {
        self.0.env.now_ms()
    }

    /// A node's disk: fill it up, stall it, fail it, flip its bits.
    pub fn disk(&self, node: NodeId) -> Arc<SimDisk> {
        self.0.places.borrow()[&node].disk.clone()
    }

    /// Why a node stopped by itself, if it did and was not started again: after a storage error, for example.
    pub fn stopped(&self, node: NodeId) -> Option<String> {
        self.0.places.borrow()[&node].stopped.clone()
    }
}

impl Inner {
    fn new(config: Builder) -> Self {
        let env = Env::simulated(config.seed, EPOCH_MS, TaskSet::default());
        let hub = Hub::new(env.random_u64(), Timing::default());
        let place = |node| {
            let disk =
                SimDisk::new(Env::simulated(env.random_u64(), EPOCH_MS, TaskSet::default()), SimLimits::default());
            (NodeId(node), Place { disk, ended: None, starting: None, life: None, stopped: None })
        };
        let places = RefCell::new((1..=u32::from(config.nodes)).map(place).collect());
        Self { env, hub, begun: Instant::now(), config, places, dialers: RefCell::default() }
    }

    fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=u32::from(self.config.nodes)).map(NodeId)
    }

    async fn start(self: &Rc<Self>, id: NodeId) -> Result<(), String> {
        let tasks = TaskSet::default();
        let now_ms = EPOCH_MS + u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(0);
        let env = Env::simulated(self.env.random_u64(), now_ms, tasks.clone());
        let (goes_on, ended) = oneshot::channel();
        let disk = {
            let mut places = self.places.borrow_mut();
            let place = places.get_mut(&id).ok_or("there is no such node")?;
            if place.life.is_some() {
                return Ok(());
            }
            if place.starting.is_some() {
                return Err("it is being started already".into());
            }
            place.starting = Some(Starting { tasks: tasks.clone(), _goes_on: goes_on });
            place.stopped = None;
            match place.ended {
                Some(Outage::Killed) => place.disk = place.disk.restart_keeping_unsynced(env.clone()),
                Some(Outage::PowerLost) => place.disk = place.disk.restart_losing_unsynced(env.clone()),
                None => {}
            }
            place.disk.clone()
        };
        let boot = BootId(self.env.random_u64());
        let network = self.hub.join(id.into(), boot, &env);
        let builder = Node::builder(self.config.of(id)).env(env).boot(boot).disk(disk).network(network);
        let builder = builder.native_address(format!("node-{id}"));
        let started = tokio::select! {
            biased;
            _ = ended => return Ok(()),
            started = tasks.tag(builder.start()) => started,
        };
        if let Some(place) = self.places.borrow_mut().get_mut(&id) {
            place.starting = None;
        }
        let node = match started {
            Ok(node) => Rc::new(node),
            Err(error) => {
                tasks.crash();
                self.hub.cut(id.into());
                return Err(error.to_string());
            }
        };
        let door = Rc::downgrade(&node);
        let closed = move || LinkClosed(format!("node {id} is down"));
        link::set_door(id.0, Some(Box::new(move || Ok(door.upgrade().ok_or_else(closed)?.local()))));
        let (runs, cluster) = (node.clone(), Rc::downgrade(self));
        tasks.spawn_local(async move {
            if let (Err(error), Some(cluster)) = (runs.run().await, cluster.upgrade()) {
                // Not from within: a task cannot end itself.
                let life = Rc::downgrade(&runs);
                tokio::task::spawn_local(async move { cluster.gave_up(id, &life, error.to_string()) });
            }
        });
        if let Some(place) = self.places.borrow_mut().get_mut(&id) {
            place.life = Some(Life { tasks, node });
        }
        Ok(())
    }

    /// A life ended by itself, unless it was ended meanwhile: then another one may have begun.
    fn gave_up(&self, id: NodeId, life: &Weak<Node>, why: String) {
        let is_it = |known: &Life| std::ptr::eq(Rc::as_ptr(&known.node), life.as_ptr());
        if !self.places.borrow()[&id].life.as_ref().is_some_and(is_it) {
            return;
        }
        self.end(id, Outage::Killed);
        if let Some(place) = self.places.borrow_mut().get_mut(&id) {
            place.stopped = Some(why);
        }
    }

    /// Links first, then the disk, then whatever ran: nothing that was sent after the end arrives.
    fn end(&self, id: NodeId, outage: Outage) {
        let (tasks, ended) = {
            let mut places = self.places.borrow_mut();
            let Some(place) = places.get_mut(&id) else { return };
            let (life, starting) = (place.life.take(), place.starting.take());
            let tasks = life.as_ref().map(|life| &life.tasks).or(starting.as_ref().map(|starting| &starting.tasks));
            let Some(tasks) = tasks.cloned() else { return };
            self.hub.cut(id.into());
            place.disk.crash();
            place.ended = Some(outage);
            (tasks, (life, starting))
        };
        link::set_door(id.0, None);
        tasks.crash();
        drop(ended);
        self.dialers().iter().for_each(|dialer| dialer.cut(id.0));
    }

    /// A new client's way to the nodes; those of clients that are gone are forgotten.
    fn dialer(&self) -> Arc<SimDialer> {
        let dialer = Arc::new(SimDialer::new(CLIENT_DELAY));
        let mut dialers = self.dialers.borrow_mut();
        dialers.retain(|known| known.strong_count() > 0);
        dialers.push(Arc::downgrade(&dialer));
        dialer
    }

    fn dialers(&self) -> Vec<Arc<SimDialer>> {
        self.dialers.borrow().iter().filter_map(sync::Weak::upgrade).collect()
    }
}

impl Builder {
    fn of(&self, id: NodeId) -> Config {
        let mut config = Config::local(u16::try_from(id.0).expect("few nodes"), self.nodes);
        config.cluster.name = "test".into();
        config.cluster.home_groups = self.home_groups;
        // Of a simulated disk, which is small.
        config.log.free_bytes_min = 1 << 20;
        config.listeners.0.clear();
        if let Some(bytes) = self.log_file_bytes {
            (config.log.wal_file_bytes, config.log.segment_bytes) = (bytes, bytes);
        }
        config
    }
}

/// Looks again until there is something.
async fn within<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let found = tokio::time::timeout(BOUND, looking).await;
    found.unwrap_or_else(|_| panic!("waited {} virtual s for {what}", BOUND.as_secs()))
}

/// Clients live outside of the nodes: an outage does not touch them.
struct Outside {
    env: Env,
}

impl Host for Outside {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_gone_is_forgotten() {
        TestCluster::builder().nodes(1).run(|cluster| async move {
            let kept = cluster.client().await;
            for _ in 0..5 {
                cluster.client().await.close();
            }
            // What they had under way ends.
            tokio::time::sleep(BOUND).await;
            let newest = cluster.client().await;
            assert_eq!(cluster.0.dialers.borrow().len(), 2, "of the first and the last");
            assert_eq!(cluster.0.dialers().len(), 2);
            drop((kept, newest));
        });
    }
}
