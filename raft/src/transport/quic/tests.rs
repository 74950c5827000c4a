use super::*;
use crate::{
    env::TaskSet,
    transport::{
        rpc::{Answer, CallError, Rpc, Service},
        tls::tests::Ca,
    },
};
use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant as Wall;

#[derive(Debug, PartialEq)]
enum Heard {
    Message(NodeId, BootId, Lane, Bytes),
    Up(NodeId, BootId, Lane),
    Down(NodeId, Lane),
}

struct Ear(mpsc::UnboundedSender<Heard>);

impl Inbox for Ear {
    fn message(&self, from: NodeId, boot: BootId, lane: Lane, message: Payload) {
        let _ = self.0.send(Heard::Message(from, boot, lane, message.contiguous()));
    }
    fn up(&self, peer: NodeId, boot: BootId, lane: Lane) {
        let _ = self.0.send(Heard::Up(peer, boot, lane));
    }
    fn down(&self, peer: NodeId, lane: Lane) {
        let _ = self.0.send(Heard::Down(peer, lane));
    }
}

struct Node {
    network: Arc<QuicNetwork>,
    heard: UnboundedReceiver<Heard>,
}

fn options(identity: Identity, boot: u64) -> Options {
    let any = "127.0.0.1:0".parse().unwrap();
    Options::new(identity, BootId(boot), any, any)
}

async fn node_with(options: Options, env: Env) -> Node {
    let network = QuicNetwork::start(options, env).await.unwrap();
    let (ear, heard) = mpsc::unbounded_channel();
    network.set_inbox(Arc::new(Ear(ear)));
    Node { network, heard }
}

async fn node(identity: Identity, boot: u64) -> Node {
    node_with(options(identity, boot), Env::real()).await
}

impl Node {
    fn peer(&self) -> Peer {
        self.network.shared.advertised.clone()
    }

    async fn next(&mut self) -> Heard {
        timeout(Duration::from_secs(20), self.heard.recv()).await.expect("nothing was heard").unwrap()
    }

    async fn until(&mut self, expected: &Heard) {
        while self.next().await != *expected {}
    }

    /// The first trouble with a lane that says `part`.
    async fn trouble(&self, lane: Lane, part: &str) -> String {
        let begun = Wall::now();
        loop {
            let troubles = self.network.troubles();
            if let Some(trouble) = troubles.iter().find(|t| t.lane == lane && t.why.contains(part)) {
                return trouble.why.clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{troubles:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn connected(a: &mut Node, b: &mut Node) {
    a.network.set_peers(vec![b.peer()]);
    b.network.set_peers(vec![a.peer()]);
    let mut missing = vec![Lane::Control, Lane::Data];
    while !missing.is_empty() {
        if let Heard::Up(_, _, lane) = a.next().await {
            missing.retain(|other| *other != lane);
        }
    }
    for lane in [Lane::Control, Lane::Data] {
        while a.network.send(NodeId(2), lane, 0, Bytes::new().into()).is_err()
            || b.network.send(NodeId(1), lane, 0, Bytes::new().into()).is_err()
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn all_lanes_carry_messages_in_order_and_whole() {
    let ca = Ca::new();
    let (mut a, mut b) = (node(ca.identity("prod", 1), 11).await, node(ca.identity("prod", 2), 22).await);
    connected(&mut a, &mut b).await;
    for lane in Lane::ALL {
        for n in 0..300u32 {
            let size = if n % 100 == 99 { 1 << 20 } else { 100 };
            let parts = [Bytes::copy_from_slice(&n.to_le_bytes()), Bytes::from(vec![7; size])];
            while a.network.send(NodeId(2), lane, 5, Payload::new(parts.clone())).is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    let mut next = BTreeMap::from(Lane::ALL.map(|lane| (lane, 0u32)));
    while next.values().any(|n| *n < 300) {
        match b.next().await {
            Heard::Message(from, boot, lane, bytes) if !bytes.is_empty() => {
                assert_eq!((from, boot), (NodeId(1), BootId(11)));
                let expected = next.get_mut(&lane).unwrap();
                assert_eq!(u32::from_le_bytes(bytes[..4].try_into().unwrap()), *expected, "{lane}");
                let size = if *expected % 100 == 99 { 1 << 20 } else { 100 };
                assert!(bytes.len() == 4 + size && bytes[4..].iter().all(|b| *b == 7));
                *expected += 1;
            }
            Heard::Down(..) => panic!("a lane broke"),
            _ => {}
        }
    }
    a.network.shutdown().await;
    b.until(&Heard::Down(NodeId(1), Lane::Data)).await;
}

struct Echo;
impl Service for Echo {
    fn call(&self, from: NodeId, body: Payload, answer: Answer) {
        assert_eq!(from, NodeId(1));
        answer.send(body);
    }
}

#[tokio::test]
async fn calls_are_answered_and_an_unlisted_node_of_the_cluster_is_answered_too() {
    let ca = Ca::new();
    let start = async |id| QuicNetwork::start(options(ca.identity("prod", id), 1), Env::real()).await.unwrap();
    let (a, b) = (start(1).await, start(2).await);
    let (asks, serves) = (Rpc::new(a.clone(), Env::real()), Rpc::new(b.clone(), Env::real()));
    serves.serve(9, Arc::new(Echo));
    // b knows nobody.
    b.set_peers(Vec::new());
    a.set_peers(vec![b.shared.advertised.clone()]);
    for lane in Lane::ALL {
        let body = Payload::from(Bytes::from(vec![1; 100_000]));
        let begun = Wall::now();
        loop {
            let answer = asks.call(NodeId(2), lane, 1, 9, body.clone(), Duration::from_secs(1)).await;
            match answer {
                Ok(answer) => break assert_eq!(answer, body),
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(b.shared.links.load().contains_key(&NodeId(1)));
    a.shutdown().await;
    let begun = Wall::now();
    while b.shared.links.load().contains_key(&NodeId(1)) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the guest stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_answer_that_found_no_connection_is_reported_lost_once_there_is_one() {
    let (ca, other) = (Ca::new(), Ca::new());
    let start = async |id| QuicNetwork::start(options(ca.identity("prod", id), 1), Env::real()).await.unwrap();
    let (a, b) = (start(1).await, start(2).await);
    let (asks, serves) = (Rpc::new(a.clone(), Env::real()), Rpc::new(b.clone(), Env::real()));
    serves.serve(9, Arc::new(Echo));
    let peer = a.shared.advertised.clone();
    // Who stands at the address refuses at once.
    let stranger = node(other.identity("prod", 1), 1).await;
    b.set_peers(vec![Peer { address: stranger.peer().address, ..peer.clone() }]);
    a.set_peers(vec![b.shared.advertised.clone()]);
    let b = Node { network: b, heard: mpsc::unbounded_channel().1 };
    let call = asks.call(NodeId(2), Lane::Bulk, 1, 9, Bytes::from_static(b"?").into(), Duration::from_secs(10));
    let mend = async {
        b.trouble(Lane::Bulk, "signed by another CA").await;
        b.network.set_peers(vec![peer]);
    };
    let (answer, ()) = tokio::join!(call, mend);
    assert_eq!(answer, Err(CallError::Dropped { node: NodeId(2) }));
    assert_eq!(serves.stats().answers_lost, 1);
}

#[tokio::test]
async fn what_one_lane_takes_is_too_large_for_another() {
    let ca = Ca::new();
    let small = |id| Options { message_max: 1_000, bulk_message_max: 100_000, ..options(ca.identity("prod", id), 1) };
    let (mut a, mut b) = (node_with(small(1), Env::real()).await, node_with(small(2), Env::real()).await);
    connected(&mut a, &mut b).await;
    let message = |bytes: usize| Bytes::from(vec![7; bytes]);
    let send = |lane, bytes| a.network.send(NodeId(2), lane, 0, message(bytes).into());
    let too_large = |bytes, limit| Err(SendError::TooLarge { node: NodeId(2), bytes, limit });
    assert_eq!(send(Lane::Data, 1_001), too_large(1_001, 1_000));
    assert_eq!(send(Lane::Bulk, 100_001), too_large(100_001, 100_000));
    send(Lane::Bulk, 100_000).unwrap();
    b.until(&Heard::Message(NodeId(1), BootId(1), Lane::Bulk, message(100_000))).await;
}

#[tokio::test]
async fn whoever_is_not_of_the_cluster_is_refused_with_the_reason() {
    let (ca, other) = (Ca::new(), Ca::new());
    let a = node(ca.identity("prod", 1), 1).await;
    // Another CA.
    let stranger = node(other.identity("prod", 2), 1).await;
    a.network.set_peers(vec![stranger.peer()]);
    stranger.network.set_peers(vec![a.peer()]);
    a.trouble(Lane::Data, "the certificate of node 2 is signed by another CA").await;
    a.trouble(Lane::Control, "the certificate of node 2 is signed by another CA").await;
    stranger.trouble(Lane::Data, "the certificate of node 1 is signed by another CA").await;
    // Another cluster's certificate by the same CA.
    let test = node(ca.identity("test", 2), 1).await;
    a.network.set_peers(vec![test.peer()]);
    a.trouble(Lane::Data, "the certificate is for cluster \"test\", this is cluster \"prod\"").await;
    // Another node at the address.
    let third = node(ca.identity("prod", 3), 1).await;
    a.network.set_peers(vec![Peer { node: NodeId(2), ..third.peer() }]);
    a.trouble(Lane::Data, "the certificate is for node 3, not for node 2").await;
    // Control and data addresses mixed up.
    let peer = third.peer();
    a.network.set_peers(vec![Peer {
        address: peer.control_address.clone(),
        control_address: peer.address.clone(),
        ..peer
    }]);
    a.trouble(Lane::Data, "this port does not serve the data lane").await;
}

#[tokio::test]
async fn a_cluster_id_and_an_expired_certificate_are_compared_too() {
    let ca = Ca::new();
    let with_id = |node, id| Options { cluster_id: id, ..options(ca.identity("prod", node), 1) };
    let a = node_with(with_id(1, Some([1; 16])), Env::real()).await;
    let b = node_with(with_id(2, Some([2; 16])), Env::real()).await;
    let empty = node_with(with_id(3, None), Env::real()).await;
    a.network.set_peers(vec![b.peer(), empty.peer()]);
    a.trouble(Lane::Data, "both clusters have this name but not the same id").await;
    assert!(a.network.troubles().iter().all(|trouble| trouble.node != NodeId(3)));
    // A node whose clock stands in 2019 thinks well of its certificate; the others do not.
    tokio::task::LocalSet::new()
        .run_until(async {
            let in_2019 = Env::simulated(1, 1_560_000_000_000, TaskSet::default());
            let late = node_with(options(ca.identity_until("prod", 4, 2019), 1), in_2019).await;
            a.network.set_peers(vec![late.peer()]);
            a.trouble(Lane::Data, "the certificate of node 4 expired ").await;
            late.network.set_peers(vec![a.peer()]);
            late.trouble(Lane::Data, "it refused this node: the certificate of node 4 expired ").await;
        })
        .await;
}

#[tokio::test]
async fn a_killed_peer_is_down_and_its_next_life_is_up() {
    let ca = Ca::new();
    tokio::task::LocalSet::new()
        .run_until(async {
            let tasks = TaskSet::default();
            let mut a = node(ca.identity("prod", 1), 1).await;
            let doomed = Env::simulated(1, Env::real().now_ms(), tasks.clone());
            let mut b = node_with(options(ca.identity("prod", 2), 1), doomed).await;
            connected(&mut a, &mut b).await;
            let (address, control_address) = b.network.local_addresses();
            tasks.crash();
            drop(b);
            // Nobody said goodbye.
            a.until(&Heard::Down(NodeId(2), Lane::Control)).await;
            let again = Options { address, control_address, ..options(ca.identity("prod", 2), 2) };
            let begun = Wall::now();
            let mut b = loop {
                match QuicNetwork::start(again.clone(), Env::real()).await {
                    Ok(network) => {
                        let (ear, heard) = mpsc::unbounded_channel();
                        network.set_inbox(Arc::new(Ear(ear)));
                        break Node { network, heard };
                    }
                    Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            b.network.set_peers(vec![a.peer()]);
            a.until(&Heard::Up(NodeId(2), BootId(2), Lane::Control)).await;
            a.network.send(NodeId(2), Lane::Control, 0, Bytes::from_static(b"hello").into()).unwrap();
            b.until(&Heard::Message(NodeId(1), BootId(1), Lane::Control, Bytes::from_static(b"hello"))).await;
        })
        .await;
}

#[tokio::test]
async fn what_waits_is_bounded_and_a_disconnect_drops_it() {
    let ca = Ca::new();
    let small = Options { waiting_max: 1 << 20, ..options(ca.identity("prod", 1), 1) };
    let (mut a, mut b) = (node_with(small, Env::real()).await, node(ca.identity("prod", 2), 1).await);
    connected(&mut a, &mut b).await;
    let message = || Payload::from(Bytes::from(vec![0; 100_000]));
    // No turn for the writer within this loop: the bound is met exactly.
    let mut taken = 0;
    let full = loop {
        match a.network.send(NodeId(2), Lane::Data, 1, message()) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(taken, 10);
    assert!(matches!(full, SendError::Full { limit, .. } if limit == 1 << 20), "{full}");
    a.network.disconnect(NodeId(2), Lane::Data);
    a.until(&Heard::Down(NodeId(2), Lane::Data)).await;
    b.until(&Heard::Down(NodeId(1), Lane::Data)).await;
    a.until(&Heard::Up(NodeId(2), BootId(1), Lane::Data)).await;
    // A peer that is left out.
    a.network.set_peers(Vec::new());
    a.until(&Heard::Down(NodeId(2), Lane::Control)).await;
}

/// What a node that does not keep to the protocol is told.
async fn told(node: &Node, liar: &Identity, lie: impl FnOnce(&mut hello::Hello), frame: &[u8]) -> (u64, String) {
    let (env, remote) = (Env::real(), node.network.local_addresses().0);
    let profile = Profile::new(&options(liar.clone(), 1), config::SOCKET_BYTES).unwrap();
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let tls = liar.credentials(&env).unwrap();
    let config = profile.client(&tls, Lane::Data, remote).unwrap();
    let connection = endpoint.connect_with(config, remote, "node-1.prod.highwater").unwrap().await.unwrap();
    let mut said = hello::Hello {
        version: hello::VERSION,
        cluster: "prod".into(),
        cluster_id: None,
        node: liar.node,
        boot: BootId(1),
        lane: 1,
        address: "127.0.0.1:1".into(),
        control_address: "127.0.0.1:1".into(),
    };
    lie(&mut said);
    let (mut stream, _answer) = connection.open_bi().await.unwrap();
    hello::write(&mut stream, &said).await.unwrap();
    let mut messages = connection.open_uni().await.unwrap();
    let _ = messages.write_all(frame).await;
    match timeout(Duration::from_secs(20), connection.closed()).await.unwrap() {
        quinn::ConnectionError::ApplicationClosed(close) => {
            (close.error_code.into_inner(), String::from_utf8(close.reason.to_vec()).unwrap())
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn who_lies_in_hello_or_breaks_the_frame_is_shown_the_door() {
    let ca = Ca::new();
    let mut a = node(ca.identity("prod", 1), 1).await;
    let liar = ca.identity("prod", 2);
    let (code, why) = told(&a, &liar, |hello| hello.node = NodeId(9), &[]).await;
    assert_eq!(
        (code, why.as_str()),
        (4, "HELLO says node 9, the certificate node 2: compare node.id and the node's certificate")
    );
    let (code, why) = told(&a, &liar, |hello| hello.cluster = "test".into(), &[]).await;
    assert_eq!((code, why.as_str()), (2, "this is cluster \"prod\", HELLO says \"test\": compare cluster.name"));
    let (code, why) = told(&a, &liar, |hello| hello.version = 7, &[]).await;
    assert_eq!(
        (code, why.as_str()),
        (1, "this node speaks version 1 between nodes, the other 7: upgrade one release at a time")
    );
    let (code, _) = told(&a, &liar, |hello| hello.lane = 77, &[]).await;
    assert_eq!(code, 9);
    let twin = ca.identity("prod", 1);
    let (code, _) = told(&a, &twin, |_| {}, &[]).await;
    assert_eq!(code, 5);
    // Good words, then a message of 4 GiB.
    let (code, why) = told(&a, &liar, |_| {}, &[0xff; 100]).await;
    assert_eq!((code, why.as_str()), (9, "what came cannot be read: a message's length"));
    a.until(&Heard::Down(NodeId(2), Lane::Data)).await;
    // Nothing of it stopped the node.
    let mut b = node(ca.identity("prod", 2), 2).await;
    connected(&mut a, &mut b).await;
}
