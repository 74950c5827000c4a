//! What a client sends to whom, and what it does about a node that shuts down: with a tap between client and world.

use crate::{
    client::{
        Client, Consumer,
        dial::Dialer,
        testing::{TestHost, World},
    },
    types::{GroupName, NodeId, Position, TopicName},
    wire::{Code, Connection, Frame, Gate, Kind, Link, LinkClosed, LinkReceiver, LinkSender, Message, Refused},
};
use futures_util::future::BoxFuture;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// Notes what goes to the nodes, and refuses fetches as a whole for those that are to shut down. Clones share.
#[derive(Clone, Default)]
struct Tap {
    sent: Arc<Mutex<Vec<(NodeId, Kind)>>>,
    closing: Arc<Mutex<BTreeSet<NodeId>>>,
}

impl Tap {
    async fn client(&self, world: &World) -> Client {
        let dialer = TappedDialer { world: world.clone(), tap: self.clone() };
        let builder = Client::builder().dialer(Arc::new(dialer)).host(Arc::new(TestHost::new(7)));
        builder.bootstrap("node-1").connect().await.unwrap()
    }

    fn close(&self, node: u32) {
        self.closing.lock().unwrap().insert(NodeId(node));
    }

    fn count(&self, kind: Kind) -> usize {
        self.sent.lock().unwrap().iter().filter(|(_, sent)| *sent == kind).count()
    }

    /// Whether the node takes the frame.
    fn admits(&self, node: NodeId, frame: &Frame) -> bool {
        self.sent.lock().unwrap().push((node, frame.message.kind()));
        !(matches!(frame.message, Message::Fetch(_)) && self.closing.lock().unwrap().contains(&node))
    }
}

struct TappedDialer {
    world: World,
    tap: Tap,
}

impl Dialer for TappedDialer {
    fn dial(&self, node: Option<NodeId>, address: &str) -> BoxFuture<'static, Result<Arc<dyn Connection>, LinkClosed>> {
        let to = NodeId(address.trim_start_matches("node-").parse().unwrap());
        let (dialled, tap) = (self.world.dial(node, address), self.tap.clone());
        Box::pin(async move {
            let inner = dialled.await?;
            Ok(Arc::new(TappedConnection { inner, node: to, tap }) as Arc<dyn Connection>)
        })
    }
}

struct TappedConnection {
    inner: Arc<dyn Connection>,
    node: NodeId,
    tap: Tap,
}

impl Connection for TappedConnection {
    fn open(&self) -> BoxFuture<'_, Result<Link, LinkClosed>> {
        Box::pin(async move {
            let Link { sender, receiver } = self.inner.open().await?;
            // Unbounded: one answer per request.
            let (refusals, refused) = mpsc::unbounded_channel();
            Ok(Link {
                sender: Box::new(TappedSender { inner: sender, node: self.node, tap: self.tap.clone(), refusals }),
                receiver: Box::new(TappedReceiver { inner: receiver, refused }),
            })
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<Link, LinkClosed>> {
        self.inner.accept()
    }

    fn close(&self, reason: &str) {
        self.inner.close(reason);
    }
}

struct TappedSender {
    inner: Box<dyn LinkSender>,
    node: NodeId,
    tap: Tap,
    refusals: mpsc::UnboundedSender<Frame>,
}

impl LinkSender for TappedSender {
    fn send(&mut self, frames: Vec<Frame>) -> BoxFuture<'_, Result<(), LinkClosed>> {
        let (admitted, refused): (Vec<_>, Vec<_>) =
            frames.into_iter().partition(|frame| self.tap.admits(self.node, frame));
        for frame in refused {
            let refused = Refused::new(Code::ShuttingDown, "this node shuts down");
            // Whoever waits no more needs no answer.
            let _ = self.refusals.send(Frame::new(frame.correlation, refused));
        }
        self.inner.send(admitted)
    }
}

struct TappedReceiver {
    inner: Box<dyn LinkReceiver>,
    refused: mpsc::UnboundedReceiver<Frame>,
}

impl LinkReceiver for TappedReceiver {
    fn receive(&mut self) -> BoxFuture<'_, Result<Frame, LinkClosed>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                Some(refused) = self.refused.recv() => Ok(refused),
                frame = self.inner.receive() => frame,
            }
        })
    }

    fn set_gate(&mut self, gate: Gate) {
        self.inner.set_gate(gate);
    }
}

fn group() -> GroupName {
    "g".parse().unwrap()
}

/// The group's only member, with partition 0.
async fn member(world: &World, client: &Client, topic: &TopicName) -> Consumer {
    let builder = client.consumer().start(Position::Earliest);
    let consumer = builder.subscribe(group(), [topic.clone()]).await.unwrap();
    world.with(|state| {
        let at = (topic.clone(), state.at(topic, 0));
        let group = state.groups.get_mut(&group()).unwrap();
        let assignments = [(group.members[0].clone(), vec![at])].into();
        group.assign(assignments);
    });
    consumer
}

#[tokio::test(start_paused = true)]
async fn a_member_that_hears_of_its_home_in_time_asks_nobody_where_it_is() {
    let world = World::new(3);
    let topic = world.topic("t", 1);
    let tap = Tap::default();
    let client = tap.client(&world).await;
    let mut consumer = member(&world, &client, &topic).await;
    assert_eq!(consumer.poll(Duration::from_secs(60)).await.unwrap(), []);
    assert!(tap.count(Kind::Heartbeat) > 20, "{}", tap.count(Kind::Heartbeat));
    assert_eq!(tap.count(Kind::FindGroup), 1);
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_home_is_late_asks_others_before_it_gives_up() {
    let world = World::new(3);
    let topic = world.topic("t", 1);
    let tap = Tap::default();
    let client = tap.client(&world).await;
    let mut consumer = member(&world, &client, &topic).await;
    assert_eq!(consumer.poll(Duration::from_secs(5)).await.unwrap(), []);
    let heartbeats = tap.count(Kind::Heartbeat);
    while tap.count(Kind::Heartbeat) == heartbeats {
        assert_eq!(consumer.poll(Duration::from_millis(10)).await.unwrap(), []);
    }
    // It has just been parked, for a fifth of a session. Another node is the home from now on.
    world.silence(1);
    world.with(|state| state.home = NodeId(2));
    assert_eq!(consumer.poll(Duration::from_millis(2_100)).await.unwrap(), []);
    assert_eq!(tap.count(Kind::FindGroup), 1, "it is not late yet");
    assert_eq!(consumer.poll(Duration::from_millis(500)).await.unwrap(), []);
    assert!(tap.count(Kind::FindGroup) > 1, "an answer may take a second more before it is given up");
}

/// Its partitions move: nobody goes back there until it is known whereto.
#[tokio::test(start_paused = true)]
async fn a_consumer_leaves_a_node_that_shuts_down_at_once() {
    let world = World::new(2);
    let topic = world.topic("t", 1);
    let tap = Tap::default();
    let client = tap.client(&world).await;
    let mut consumer = client.consumer().assign([(topic.clone(), 0, Position::Earliest)]).await.unwrap();
    world.with(|state| state.append(&topic, 0, &["a"]));
    assert_eq!(consumer.poll(Duration::from_secs(20)).await.unwrap().len(), 1);
    tap.close(1);
    let before = tap.count(Kind::Fetch);
    assert_eq!(consumer.poll(Duration::from_millis(2_500)).await.unwrap(), []);
    let fetches = tap.count(Kind::Fetch) - before;
    assert_eq!(fetches, 1, "the one behind the fetch that was parked there");
    world.with(|state| {
        state.lead(&topic, 0, 2);
        state.append(&topic, 0, &["b"]);
    });
    let begun = Instant::now();
    assert_eq!(consumer.poll(Duration::from_secs(20)).await.unwrap().len(), 1);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(client.stats().fetch_refused_not_leader, 1);
}
