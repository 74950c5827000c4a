use super::*;
use crate::{
    env::TaskSet,
    testing::network::{Hub, SimNetwork, Timing},
    transport::Peer,
};

const ECHO: u8 = 100;
const HOLD: u8 = 101;
const DROP: u8 = 102;
const SECOND: Duration = Duration::from_secs(1);

struct Echo;
impl Service for Echo {
    fn call(&self, _from: NodeId, body: Payload, answer: Answer) {
        answer.send(body);
    }
}

/// Keeps requests and their slots.
#[derive(Default)]
struct Hold(Mutex<Vec<(Payload, Answer)>>);
impl Service for Hold {
    fn call(&self, _from: NodeId, body: Payload, answer: Answer) {
        self.0.lock().unwrap().push((body, answer));
    }
}

struct Drops;
impl Service for Drops {
    fn call(&self, _from: NodeId, _body: Payload, _answer: Answer) {}
}

struct Node {
    network: Arc<SimNetwork>,
    rpc: Arc<Rpc>,
    held: Arc<Hold>,
}

fn node(hub: &Hub, id: u32, other: u32) -> Node {
    let env = Env::simulated(u64::from(id), 0, TaskSet::default());
    let network = hub.join(NodeId(id), BootId(1), &env);
    let rpc = Rpc::new(network.clone(), env);
    let held = Arc::<Hold>::default();
    rpc.serve(ECHO, Arc::new(Echo));
    rpc.serve(HOLD, held.clone());
    rpc.serve(DROP, Arc::new(Drops));
    network.set_peers(vec![Peer { node: NodeId(other), address: String::new(), control_address: String::new() }]);
    Node { network, rpc, held }
}

async fn two(hub: &Hub) -> (Node, Node) {
    let nodes = (node(hub, 1, 2), node(hub, 2, 1));
    tokio::time::sleep(Duration::from_millis(100)).await;
    nodes
}

fn ask(node: &Node, service: u8, body: u8) -> impl Future<Output = Result<Payload, CallError>> + use<> {
    node.rpc.call(NodeId(2), Lane::Data, 1, service, Bytes::copy_from_slice(&[body]).into(), SECOND)
}

#[tokio::test(start_paused = true)]
async fn answers_come_back_and_each_failure_has_its_name() {
    let hub = Hub::new(1, Timing::default());
    let (a, _b) = two(&hub).await;
    assert_eq!(ask(&a, ECHO, 7).await.unwrap().contiguous(), [7u8][..]);
    assert_eq!(ask(&a, DROP, 7).await, Err(CallError::Dropped { node: NodeId(2) }));
    assert_eq!(ask(&a, 99, 7).await, Err(CallError::NotServed { node: NodeId(2), service: 99 }));
    assert_eq!(ask(&a, HOLD, 7).await, Err(CallError::TimedOut { node: NodeId(2), after: SECOND }));
    let unknown = a.rpc.call(NodeId(9), Lane::Data, 1, ECHO, Payload::default(), SECOND).await;
    assert_eq!(unknown, Err(CallError::NotSent(SendError::UnknownPeer { node: NodeId(9) })));
    assert_eq!(a.rpc.stats(), Stats::default());
}

#[tokio::test(start_paused = true)]
async fn calls_leave_in_the_order_of_calling_not_of_polling() {
    let hub = Hub::new(1, Timing::default());
    let (a, b) = two(&hub).await;
    let calls: Vec<_> = (0..50).map(|n| ask(&a, HOLD, n)).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let held = std::mem::take(&mut *b.held.0.lock().unwrap());
    let order: Vec<u8> = held.iter().map(|(body, _)| body.contiguous()[0]).collect();
    assert_eq!(order, (0..50).collect::<Vec<u8>>());
    for (body, answer) in held.into_iter().rev() {
        answer.send(body);
    }
    for (n, call) in calls.into_iter().enumerate().rev() {
        assert_eq!(usize::from(call.await.unwrap().contiguous()[0]), n);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_lane_fails_what_waits_on_it_and_nothing_else() {
    let hub = Hub::new(1, Timing::default());
    let (a, b) = two(&hub).await;
    let data = ask(&a, HOLD, 1);
    let control = a.rpc.call(NodeId(2), Lane::Control, 1, HOLD, Payload::default(), SECOND);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(a.rpc.stats().pending, 2);
    hub.break_connection(NodeId(2), NodeId(1), Lane::Data);
    assert_eq!(data.await, Err(CallError::Down { node: NodeId(2), lane: Lane::Data }));
    b.held.0.lock().unwrap().drain(..).for_each(|(body, answer)| answer.send(body));
    assert!(control.await.is_ok());
    let forgotten = ask(&a, HOLD, 1);
    drop(forgotten);
    assert_eq!(a.rpc.stats().pending, 0);
    a.rpc.fail_pending(NodeId(2));
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_answer_found_no_way_ends_when_there_is_one() {
    let hub = Hub::new(1, Timing { jitter: Duration::ZERO, ..Timing::default() });
    let (a, _b) = two(&hub).await;
    // The way back breaks, the way there stands: what is asked now is answered into nothing.
    hub.break_connection(NodeId(2), NodeId(1), Lane::Data);
    let begun = Instant::now();
    assert_eq!(ask(&a, ECHO, 1).await, Err(CallError::Down { node: NodeId(2), lane: Lane::Data }));
    let calls: Vec<_> = (0..3).map(|n| ask(&a, ECHO, n)).collect();
    for call in calls {
        assert_eq!(call.await, Err(CallError::Dropped { node: NodeId(2) }));
    }
    assert!(begun.elapsed() < Duration::from_millis(50), "{:?}", begun.elapsed());
    assert!(ask(&a, ECHO, 7).await.is_ok());
}

/// A network whose lane comes up while the first message is refused.
#[derive(Default)]
struct Rising {
    inbox: std::sync::OnceLock<Arc<dyn Inbox>>,
    is_up: std::sync::atomic::AtomicBool,
    sent: Mutex<Vec<Payload>>,
}

impl Network for Rising {
    fn send(&self, to: NodeId, lane: Lane, _key: u64, message: Payload) -> Result<(), SendError> {
        if !self.is_up.swap(true, Relaxed) {
            self.inbox.get().unwrap().up(to, BootId(1), lane);
            return Err(SendError::NotConnected { node: to });
        }
        self.sent.lock().unwrap().push(message);
        Ok(())
    }
    fn set_peers(&self, _peers: Vec<Peer>) {}
    fn set_inbox(&self, inbox: Arc<dyn Inbox>) {
        let _ = self.inbox.set(inbox);
    }
    fn disconnect(&self, _peer: NodeId, _lane: Lane) {}
}

#[test]
fn a_way_back_that_comes_while_an_answer_is_refused_is_used() {
    let network = Arc::<Rising>::default();
    let rpc = Rpc::new(network.clone(), Env::real());
    rpc.serve(ECHO, Arc::new(Echo));
    let call = Header { kind: Kind::Call, service: ECHO, id: 5, key: 1 };
    let asked = call.before(&Bytes::from_static(b"body").into());
    network.inbox.get().unwrap().message(NodeId(2), BootId(1), Lane::Data, asked);
    let sent = std::mem::take(&mut *network.sent.lock().unwrap());
    let heads: Vec<_> = sent.iter().map(|message| Header::split(message).unwrap().0).collect();
    assert_eq!(heads, [Header { kind: Kind::Dropped, ..call }]);
}

#[tokio::test(start_paused = true)]
async fn broken_frames_are_counted_and_dropped() {
    let hub = Hub::new(1, Timing::default());
    let (a, b) = two(&hub).await;
    for length in 0..HEADER_BYTES + 4 {
        let bytes = Bytes::from(vec![0xff; length]);
        a.network.send(NodeId(2), Lane::Data, 1, bytes.into()).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(b.rpc.stats().broken, 24);
    assert!(ask(&a, ECHO, 1).await.is_ok());
}

#[test]
fn a_header_survives_any_cut_into_parts() {
    let header = Header { kind: Kind::Call, service: 6, id: 0x0102_0304_0506_0708, key: 9 };
    let whole = header.before(&Bytes::from_static(b"body").into()).contiguous();
    for cut in 0..=whole.len() {
        let message = Payload::new([whole.slice(..cut), whole.slice(cut..)]);
        let (read, body) = Header::split(&message).unwrap();
        assert_eq!((read, body.contiguous()), (header, Bytes::from_static(b"body")), "cut at {cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn over_breaking_connections_order_holds_and_every_call_ends() {
    let hub = Hub::new(5, Timing::default());
    let (a, b) = two(&hub).await;
    hub.break_one_in(30);
    let mut calls = Vec::new();
    for n in 0..250u8 {
        calls.push(ask(&a, HOLD, n));
        tokio::time::sleep(Duration::from_millis(1)).await;
        if n % 2 == 0 {
            b.held.0.lock().unwrap().iter_mut().for_each(|(body, answer)| {
                std::mem::replace(answer, Answer::nowhere()).send(body.clone());
            });
        }
    }
    let held = std::mem::take(&mut *b.held.0.lock().unwrap());
    let seen: Vec<u8> = held.iter().map(|(body, _)| body.contiguous()[0]).collect();
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    drop(held);
    let (mut answered, mut down) = (0, 0);
    for (n, call) in (0..250u8).zip(calls) {
        match call.await {
            Ok(body) => {
                assert_eq!(body.contiguous()[0], n);
                assert!(seen.contains(&n));
                answered += 1;
            }
            Err(CallError::Down { .. }) => down += 1,
            Err(CallError::NotSent(_)) => assert!(!seen.contains(&n)),
            Err(CallError::Dropped { .. }) => {}
            // It came after the last answers were given.
            Err(CallError::TimedOut { .. }) => assert!(!seen.contains(&n), "{n}"),
            Err(error) => panic!("call {n}: {error}"),
        }
    }
    assert!(answered > 50 && down > 3, "{answered} answered, {down} down");
    assert_eq!(a.rpc.stats().pending, 0);
}

#[test]
fn headers_are_what_they_were() {
    let message = |kind| {
        let header = Header { kind, service: BROKER, id: 0x1234, key: 1_024 };
        header.before(&Bytes::from_static(b"body").into()).contiguous()
    };
    for kind in [Kind::Call, Kind::Tell, Kind::Answer, Kind::Dropped, Kind::NotServed] {
        crate::testing::golden(&format!("peers/rpc-{}.hex", kind as u8), &message(kind));
    }
    let read = |kind| Header::split(&Bytes::from([&[kind], &message(Kind::Call)[1..]].concat()).into()).is_some();
    assert_eq!((0..=u8::MAX).filter(|kind| read(*kind)).collect::<Vec<_>>(), [1, 2, 3, 4, 5], "each has a file");
    assert_eq!([APPEND, VOTE, SNAPSHOT, ELECT, HEARTBEAT, BROKER], [1, 2, 3, 4, 5, 6]);
}
