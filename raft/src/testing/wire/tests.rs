use super::*;
use crate::{
    BootId, NodeId, Payload,
    transport::{
        Inbox, Lane, Network, Peer,
        quic::{Options, QuicNetwork},
        tls::{Identity, tests::Ca},
    },
};
use bytes::Bytes;
use std::net::Ipv4Addr;

/// Rain, and a lot of it.
const BAD: Weather =
    Weather { delay: Duration::from_millis(2), jitter: Duration::from_millis(8), lost: 50, twice: 50, late: 20 };

/// Numbers that came, in order, per lane; and how often a lane broke.
#[derive(Default)]
struct Ear {
    came: Mutex<BTreeMap<Lane, Vec<u32>>>,
    downs: Mutex<u32>,
}

impl Inbox for Ear {
    fn message(&self, _: NodeId, _: BootId, lane: Lane, message: Payload) {
        let number = u32::from_le_bytes(message.contiguous()[..4].try_into().unwrap());
        self.came.lock().unwrap().entry(lane).or_default().push(number);
    }
    fn up(&self, _: NodeId, _: BootId, _: Lane) {}
    fn down(&self, _: NodeId, _: Lane) {
        *self.downs.lock().unwrap() += 1;
    }
}

fn host(node: u32) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, u8::try_from(node).unwrap()).into()
}

struct Node {
    tasks: TaskSet,
    network: Arc<QuicNetwork>,
    ear: Arc<Ear>,
}

async fn start(wire: &Wire, identity: &Identity, boot: u64) -> Node {
    let tasks = TaskSet::default();
    let env = Env::simulated(boot, 1_767_225_600_000, tasks.clone());
    let node = identity.node.0;
    env.take_sockets_from(wire.join(host(node)));
    let options = Options::new(identity.clone(), BootId(boot), (host(node), 7421).into(), (host(node), 7422).into());
    let network = tasks.tag(QuicNetwork::start(options, env)).await.unwrap();
    let ear = Arc::new(Ear::default());
    network.set_inbox(ear.clone());
    let peer = |node| Peer {
        node: NodeId(node),
        address: format!("{}:7421", host(node)),
        control_address: format!("{}:7422", host(node)),
    };
    network.set_peers(vec![peer(3 - node)]);
    Node { tasks, network, ear }
}

fn message(number: u32) -> Payload {
    Payload::new([Bytes::copy_from_slice(&number.to_le_bytes()), Bytes::from(vec![7; 3_000])])
}

async fn send(node: &Node, lane: Lane, number: u32) {
    let to = NodeId(3 - node_of(node));
    while node.network.send(to, lane, 0, message(number)).is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn node_of(node: &Node) -> u32 {
    let IpAddr::V4(address) = node.network.local_addresses().0.ip() else { panic!("bound by host()") };
    u32::from(address.octets()[3])
}

async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("a minute was not enough");
}

fn simulate<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

fn identities() -> [Identity; 2] {
    let ca = Ca::new();
    [1, 2].map(|node| ca.identity("wire", node))
}

async fn rainy_day(identities: &[Identity; 2]) -> (u64, Counts, Instant) {
    let wire = Wire::new(7, BAD);
    let nodes = [start(&wire, &identities[0], 1).await, start(&wire, &identities[1], 2).await];
    for number in 0..200 {
        for lane in Lane::ALL {
            send(&nodes[0], lane, number).await;
            send(&nodes[1], lane, number).await;
        }
    }
    until(|| {
        nodes.iter().all(|node| {
            let came = node.ear.came.lock().unwrap();
            Lane::ALL.iter().all(|lane| came.get(lane).is_some_and(|came| came.len() == 200))
        })
    })
    .await;
    for node in &nodes {
        assert!(node.ear.came.lock().unwrap().values().all(|came| came.iter().copied().eq(0..200)), "in order");
        assert_eq!(*node.ear.downs.lock().unwrap(), 0, "QUIC mends all of it");
        node.tasks.crash();
    }
    (wire.fingerprint(), wire.counts(), Instant::now())
}

#[test]
fn quic_mends_loss_repetition_and_disorder_and_the_same_seed_gives_the_same_packets() {
    let identities = identities();
    let (print, counts, _) = simulate(rainy_day(&identities));
    assert!(counts.lost > 20 && counts.twice > 20 && counts.late > 10, "it rained: {counts:?}");
    let (again, counts_again, _) = simulate(rainy_day(&identities));
    assert_eq!((print, counts), (again, counts_again));
}

#[test]
fn one_way_is_silent_and_a_host_that_was_cut_says_nothing_more() {
    let identities = identities();
    simulate(async {
        let wire = Wire::new(7, Weather::CALM);
        let (a, b) = (start(&wire, &identities[0], 1).await, start(&wire, &identities[1], 2).await);
        send(&a, Lane::Data, 0).await;
        until(|| b.ear.came.lock().unwrap().contains_key(&Lane::Data)).await;
        wire.block(host(1), host(2));
        send(&a, Lane::Data, 1).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(b.ear.came.lock().unwrap()[&Lane::Data], [0]);
        assert!(wire.counts().blocked > 0);
        wire.heal();
        until(|| b.ear.came.lock().unwrap()[&Lane::Data] == [0, 1]).await;

        let before = wire.counts();
        wire.cut(host(1));
        // Its tasks run on, as they do between the cut and their end; nobody hears of it.
        let _ = a.network.send(NodeId(2), Lane::Data, 0, message(2));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(b.ear.came.lock().unwrap()[&Lane::Data], [0, 1]);
        assert!(*b.ear.downs.lock().unwrap() > 0, "the other finds out");
        a.tasks.crash();
        assert!(wire.counts().delivered - before.delivered < 10, "what was under way, at most");

        let again = start(&wire, &identities[0], 3).await;
        send(&again, Lane::Data, 3).await;
        until(|| b.ear.came.lock().unwrap()[&Lane::Data] == [0, 1, 3]).await;
    });
}
