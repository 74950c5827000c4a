use super::*;
use crate::{
    BootId, NodeId, Payload,
    env::{Env, TaskSet},
    transport::{Inbox, Lane, Network, Peer, SendError},
};
use bytes::Bytes;
use std::sync::{Arc, Mutex};

/// Writes down what it hears.
#[derive(Default)]
struct Diary(Mutex<Vec<String>>);

impl Diary {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Inbox for Diary {
    fn message(&self, from: NodeId, _: BootId, lane: Lane, message: Payload) {
        let text = String::from_utf8_lossy(&message.contiguous()).into_owned();
        self.0.lock().unwrap().push(format!("{from} {lane} {text}"));
    }
    fn up(&self, peer: NodeId, boot: BootId, lane: Lane) {
        self.0.lock().unwrap().push(format!("up {peer} {boot} {lane}"));
    }
    fn down(&self, peer: NodeId, lane: Lane) {
        self.0.lock().unwrap().push(format!("down {peer} {lane}"));
    }
}

fn peers(nodes: &[u32]) -> Vec<Peer> {
    let peer = |n: &u32| Peer { node: NodeId(*n), address: String::new(), control_address: String::new() };
    nodes.iter().map(peer).collect()
}

fn text(s: &str) -> Payload {
    Bytes::copy_from_slice(s.as_bytes()).into()
}

struct Node {
    network: Arc<SimNetwork>,
    diary: Arc<Diary>,
}

fn node(hub: &Hub, id: u32, boot: u64, others: &[u32]) -> Node {
    let env = Env::simulated(u64::from(id), 0, TaskSet::default());
    let network = hub.join(NodeId(id), BootId(boot), &env);
    let diary = Arc::<Diary>::default();
    network.set_inbox(diary.clone());
    network.set_peers(peers(others));
    Node { network, diary }
}

async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn one_stream_keeps_its_order() {
    let hub = Hub::new(7, Timing::default());
    let (a, b) = (node(&hub, 1, 1, &[2]), node(&hub, 2, 1, &[1]));
    pass(100).await;
    let ups: Vec<_> = a.diary.take();
    assert_eq!(ups.len(), 3, "{ups:?}");
    b.diary.take();
    for n in 0..100 {
        a.network.send(NodeId(2), Lane::Data, 9, text(&n.to_string())).unwrap();
    }
    pass(100).await;
    let expected: Vec<_> = (0..100).map(|n| format!("1 data {n}")).collect();
    assert_eq!(b.diary.take(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_link_holds_messages_and_then_breaks() {
    let hub = Hub::new(7, Timing::default());
    let (a, b) = (node(&hub, 1, 1, &[2]), node(&hub, 2, 1, &[1]));
    pass(100).await;
    drop((a.diary.take(), b.diary.take()));
    hub.block(NodeId(1), NodeId(2));
    a.network.send(NodeId(2), Lane::Data, 1, text("late")).unwrap();
    b.network.send(NodeId(1), Lane::Data, 1, text("through")).unwrap();
    pass(1000).await;
    assert_eq!((a.diary.take(), b.diary.take()), (vec!["2 data through".into()], vec![]));
    hub.heal();
    pass(100).await;
    assert_eq!(b.diary.take(), ["1 data late"]);
    hub.block(NodeId(1), NodeId(2));
    a.network.send(NodeId(2), Lane::Data, 1, text("lost")).unwrap();
    pass(6000).await;
    assert!(a.diary.take().contains(&"down 2 data".into()));
    assert_eq!(a.network.send(NodeId(2), Lane::Data, 1, text("no")), Err(SendError::NotConnected { node: NodeId(2) }));
    hub.heal();
    pass(2000).await;
    a.network.send(NodeId(2), Lane::Data, 1, text("again")).unwrap();
    pass(100).await;
    let heard = b.diary.take();
    assert_eq!(heard.last().unwrap(), "1 data again");
    assert!(!heard.iter().any(|line| line.contains("lost")), "{heard:?}");
    let down = heard.iter().position(|line| line == "down 1 data").unwrap();
    let up = heard.iter().position(|line| line.starts_with("up 1") && line.ends_with("data")).unwrap();
    assert!(down < up, "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cut_node_is_silent_and_its_next_life_is_known_at_once() {
    let hub = Hub::new(7, Timing::default());
    let (a, b) = (node(&hub, 1, 1, &[2]), node(&hub, 2, 1, &[1]));
    pass(100).await;
    drop((a.diary.take(), b.diary.take()));
    hub.cut(NodeId(1));
    assert!(a.network.send(NodeId(2), Lane::Data, 1, text("after the cut")).is_err());
    pass(100).await;
    assert_eq!(b.diary.take(), [""; 0]);
    let again = node(&hub, 1, 2, &[2]);
    pass(200).await;
    let heard = b.diary.take();
    assert!(heard.contains(&"down 1 data".into()), "{heard:?}");
    assert!(heard.contains(&"up 1 0000000000000002 data".into()), "{heard:?}");
    b.network.send(NodeId(1), Lane::Control, 1, text("hello")).unwrap();
    pass(100).await;
    assert_eq!(again.diary.take().last().unwrap(), "2 control hello");
}

#[tokio::test(start_paused = true)]
async fn bytes_under_way_are_bounded() {
    let hub = Hub::new(7, Timing { waiting_max: 10, ..Timing::default() });
    let (a, _b) = (node(&hub, 1, 1, &[2]), node(&hub, 2, 1, &[1]));
    pass(100).await;
    a.network.send(NodeId(2), Lane::Data, 1, text("123456")).unwrap();
    let refused = a.network.send(NodeId(2), Lane::Data, 1, text("12345"));
    assert_eq!(refused, Err(SendError::Full { node: NodeId(2), waiting: 6, limit: 10 }));
    pass(100).await;
    a.network.send(NodeId(2), Lane::Data, 1, text("12345")).unwrap();
}

async fn history(seed: u64) -> (u64, u64) {
    let hub = Hub::new(seed, Timing::default());
    hub.break_one_in(50);
    let nodes = [node(&hub, 1, 1, &[2, 3]), node(&hub, 2, 1, &[1, 3]), node(&hub, 3, 1, &[1, 2])];
    for n in 0..500u64 {
        for (i, node) in nodes.iter().enumerate() {
            let to = NodeId(u32::try_from((i + 1) % 3 + 1).unwrap());
            let _ = node.network.send(to, Lane::Data, n, text(&n.to_string()));
        }
        pass(1).await;
    }
    (hub.delivered(), hub.fingerprint())
}

#[tokio::test(start_paused = true)]
async fn a_seed_decides_the_history() {
    let (first, second, other) = (history(1).await, history(1).await, history(2).await);
    assert_eq!(first, second);
    assert_ne!(first.1, other.1);
    assert!(first.0 > 500, "{first:?}");
}
