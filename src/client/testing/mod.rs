//! A cluster in memory for the client's tests: it does what a broker is to do, and what a test scripts it to do wrong.
//!
//! It asserts what no client may do: more than five batches of a partition in flight, fetches from who does not lead after a
//! refusal, deliveries beyond the credit.

mod groups;
mod serve;
mod state;

pub(super) use groups::Assignments;
pub(super) use state::{Fault, State};

use super::{
    Client,
    dial::Dialer,
    host::{Host, splitmix},
    pool::lock,
};
use crate::{
    types::{NodeId, TopicName},
    wire::{Connection, LinkClosed, MemoryConnection, memory_connection},
};
use futures_util::future::BoxFuture;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// The cluster. Clones share.
#[derive(Clone)]
pub(super) struct World {
    pub(super) state: Arc<Mutex<State>>,
    /// Rises with whatever a parked request may wait for.
    pub(super) moved: Arc<watch::Sender<u64>>,
    connections: Arc<Mutex<BTreeMap<NodeId, Vec<Arc<MemoryConnection>>>>>,
}

impl World {
    /// Nodes 1 to `nodes`, no topics.
    pub(super) fn new(nodes: u32) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::new(nodes))),
            moved: Arc::new(watch::Sender::new(0)),
            connections: Arc::default(),
        }
    }

    /// Makes a topic whose partitions are led by the nodes in turn.
    pub(super) fn topic(&self, name: &str, partitions: u32) -> TopicName {
        let name: TopicName = name.parse().unwrap();
        self.with(|state| state.make_topic(name.clone(), partitions));
        name
    }

    /// Looks at or changes the state, and wakes what is parked.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let out = change(&mut lock(&self.state));
        self.moved.send_modify(|n| *n += 1);
        out
    }

    /// Closes all connections of a node.
    pub(super) fn cut(&self, node: u32) {
        for connection in lock(&self.connections).remove(&NodeId(node)).unwrap_or_default() {
            connection.close("cut by the test");
        }
    }

    /// Cuts a node off: nothing new reaches it, nothing under way gets an answer, and nobody is told.
    pub(super) fn silence(&self, node: u32) {
        self.with(|state| state.silent.insert(NodeId(node)));
    }

    /// The node answers again, on new connections.
    pub(super) fn restore(&self, node: u32) {
        self.with(|state| state.silent.remove(&NodeId(node)));
        self.cut(node);
    }

    pub(super) async fn client(&self) -> Client {
        let builder = Client::builder().dialer(Arc::new(self.clone())).host(Arc::new(TestHost::new(7)));
        builder.bootstrap("node-1").bootstrap("node-2").connect().await.unwrap()
    }
}

impl Dialer for World {
    fn dial(&self, _: Option<NodeId>, address: &str) -> BoxFuture<'static, Result<Arc<dyn Connection>, LinkClosed>> {
        let world = self.clone();
        let node = NodeId(address.trim_start_matches("node-").parse().unwrap());
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if lock(&world.state).silent.contains(&node) {
                return std::future::pending().await;
            }
            if lock(&world.state).down.contains(&node) {
                return Err(LinkClosed("connection refused".into()));
            }
            let (ours, theirs) = memory_connection();
            let theirs = Arc::new(theirs);
            lock(&world.connections).entry(node).or_default().push(theirs.clone());
            drop(tokio::spawn(serve::serve(world, node, theirs)));
            Ok(Arc::new(ours) as Arc<dyn Connection>)
        })
    }
}

/// Virtual time and seeded randomness.
pub(super) struct TestHost {
    begun: Instant,
    random: Mutex<u64>,
}

impl TestHost {
    pub(super) fn new(seed: u64) -> Self {
        Self { begun: Instant::now(), random: Mutex::new(seed) }
    }
}

impl Host for TestHost {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000 + i64::try_from(self.begun.elapsed().as_millis()).unwrap()
    }

    fn random_u64(&self) -> u64 {
        splitmix(&mut lock(&self.random))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(tokio::spawn(task));
    }
}
