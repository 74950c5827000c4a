use super::*;
use crate::{
    env::TaskSet,
    testing::network::{Hub, Timing as Link},
    transport::Peer,
};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const A: NodeId = NodeId(2);
const MS: Duration = Duration::from_millis(1);

struct Script {
    machine: Machine,
    start: Instant,
}

impl Script {
    fn new() -> Self {
        let (mut machine, start) = (Machine::new(Timing::default()), Instant::now());
        machine.step(start, Input::Peers([A].into()));
        Script { machine, start }
    }

    fn beat(&mut self, at_ms: u32, boot: u64, vouched: Vouched) -> Vec<Output> {
        self.machine.step(self.start + at_ms * MS, Input::Heard { from: A, beat: Beat { boot: BootId(boot), vouched } })
    }

    /// Ticks each 100 ms over a half-open range.
    fn ticks(&mut self, range_ms: std::ops::Range<u32>) -> Vec<(u32, Output)> {
        let mut outputs = Vec::new();
        for at in range_ms.step_by(100) {
            let step = self.machine.step(self.start + at * MS, Input::Tick);
            outputs.extend(step.into_iter().filter(|o| !matches!(o, Output::Beat(_))).map(|o| (at, o)));
        }
        outputs
    }

    fn state(&self) -> State {
        self.machine.lives()[&A].state
    }
}

#[test]
fn silence_makes_suspect_and_a_heartbeat_clears() {
    let mut script = Script::new();
    assert_eq!(script.state(), State::Unknown);
    script.beat(50, 1, Vouched::default());
    assert_eq!(script.state(), State::Alive);
    let silent = Suspicion::Silent;
    let expected = vec![(600, Output::Forsake(A, Ended::Suspected(silent))), (600, Output::Publish)];
    assert_eq!(script.ticks(100..1200), expected);
    assert_eq!(script.state(), State::Suspected(silent));
    assert_eq!(script.beat(1200, 1, Vouched::default()), [Output::Publish]);
    assert_eq!(script.state(), State::Alive);
}

#[test]
fn a_new_life_ends_the_old_one_for_ever() {
    let mut script = Script::new();
    script.beat(0, 1, Vouched::default());
    let replaced = Output::Forsake(A, Ended::Replaced(BootId(2)));
    assert_eq!(script.beat(100, 2, Vouched::default()), [replaced, Output::Publish]);
    assert_eq!(script.beat(101, 1, Vouched::default()), []);
    assert_eq!(script.machine.lives()[&A], Life { boot: Some(BootId(2)), state: State::Alive });
}

#[test]
fn a_wedged_arbiter_or_a_hanging_flush_counts_as_death() {
    let mut script = Script::new();
    script.beat(0, 1, Vouched { arbiters: vec![300 * MS; 3], flush: Some(500 * MS) });
    assert_eq!(script.state(), State::Alive);
    let wedged = Vouched { arbiters: vec![MS, 301 * MS], flush: None };
    let why = Suspicion::Arbiter(1);
    assert_eq!(script.beat(100, 1, wedged), [Output::Forsake(A, Ended::Suspected(why)), Output::Publish]);
    script.beat(200, 1, Vouched { arbiters: vec![], flush: Some(501 * MS) });
    assert_eq!(script.state(), State::Suspected(Suspicion::Disk));
}

#[test]
fn the_detectors_own_sleep_is_not_held_against_others() {
    let mut script = Script::new();
    script.beat(0, 1, Vouched::default());
    script.ticks(0..400);
    assert_eq!(script.ticks(9000..9100), []);
    assert_eq!(script.state(), State::Alive);
    // 300 ms of silence before the sleep, an interval of it and 100 ms after it.
    assert_eq!(script.ticks(9100..9200).len(), 2);
}

#[test]
fn a_detector_that_is_always_late_suspects_the_silent_all_the_same() {
    let mut script = Script::new();
    script.beat(0, 1, Vouched::default());
    let late = (1..=6).flat_map(|n| script.ticks(n * 250..n * 250 + 1)).map(|(at, _)| at).collect::<Vec<_>>();
    assert_eq!(late, [1000, 1000], "suspected once, at the fourth tick");
}

#[test]
fn heartbeats_survive_the_wire_and_broken_ones_are_refused() {
    let vouched = Vouched { arbiters: vec![MS, 70_000 * MS], flush: Some(3 * MS) };
    for beat in [Beat { boot: BootId(u64::MAX), vouched }, Beat { boot: BootId(0), vouched: Vouched::default() }] {
        let wire = beat.encode();
        assert_eq!(Beat::decode(&wire), Some(beat));
        for length in 0..wire.len() {
            assert_eq!(Beat::decode(&wire.slice(0..length).unwrap().into()), None);
        }
    }
}

struct Node {
    detector: Detector,
    arbiter_age_ms: Arc<AtomicU64>,
    rpc: Arc<Rpc>,
}

fn node(hub: &Hub, id: u32, boot: u64) -> Node {
    let env = Env::simulated(u64::from(id), 0, TaskSet::default());
    let rpc = Rpc::new(hub.join(NodeId(id), BootId(boot), &env), env.clone());
    let arbiter_age_ms = Arc::<AtomicU64>::default();
    let age = arbiter_age_ms.clone();
    let vouch: Vouch =
        Arc::new(move || Vouched { arbiters: vec![Duration::from_millis(age.load(Relaxed))], flush: None });
    let options = Options { boot: BootId(boot), timing: Timing::default(), vouch };
    let detector = Detector::start(options, &rpc, &env).unwrap();
    let others = (1..=3).map(NodeId).filter(|other| *other != NodeId(id));
    detector.set_peers(others.clone().collect());
    let peer = |node| Peer { node, address: String::new(), control_address: String::new() };
    rpc.network().set_peers(others.map(peer).collect());
    Node { detector, arbiter_age_ms, rpc }
}

impl Node {
    fn sees(&self, other: u32) -> State {
        self.detector.liveness().borrow()[&NodeId(other)].state
    }

    async fn until(&self, other: u32, state: State) -> Duration {
        let (start, mut lives) = (Instant::now(), self.detector.liveness());
        lives.wait_for(|lives| lives.get(&NodeId(other)).is_some_and(|life| life.state == state)).await.unwrap();
        start.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn three_nodes_watch_each_other() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let hub = Hub::new(3, Link::default());
            let nodes = [node(&hub, 1, 1), node(&hub, 2, 1), node(&hub, 3, 1)];
            assert!(nodes[0].until(2, State::Alive).await < 300 * MS);
            nodes[0].until(3, State::Alive).await;
            // A wedged arbiter.
            nodes[1].arbiter_age_ms.store(400, Relaxed);
            assert!(nodes[0].until(2, State::Suspected(Suspicion::Arbiter(0))).await < 200 * MS);
            nodes[1].arbiter_age_ms.store(0, Relaxed);
            nodes[0].until(2, State::Alive).await;
            // Silence: pending calls end with the suspicion, long before their deadline.
            hub.cut(NodeId(3));
            let call = nodes[0].rpc.call(NodeId(3), Lane::Data, 0, 77, Payload::default(), 60_000 * MS);
            let took = nodes[0].until(3, State::Suspected(Suspicion::Silent)).await;
            assert!((400 * MS..700 * MS).contains(&took), "{took:?}");
            assert!(call.await.is_err());
            assert_eq!(nodes[0].sees(2), State::Alive);
            // A new life is known soon.
            let _again = node(&hub, 3, 2);
            assert!(nodes[0].until(3, State::Alive).await < 500 * MS);
            assert_eq!(nodes[0].detector.liveness().borrow()[&NodeId(3)].boot, Some(BootId(2)));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_deaf_in_one_direction_makes_suspect_in_that_direction() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let hub = Hub::new(3, Link::default());
            let nodes = [node(&hub, 1, 1), node(&hub, 2, 1), node(&hub, 3, 1)];
            nodes[0].until(2, State::Alive).await;
            nodes[1].until(1, State::Alive).await;
            hub.block(NodeId(1), NodeId(2));
            nodes[1].until(1, State::Suspected(Suspicion::Silent)).await;
            assert_eq!(nodes[0].sees(2), State::Alive);
            assert_eq!(nodes[2].sees(1), State::Alive);
            hub.heal();
            nodes[1].until(1, State::Alive).await;
        })
        .await;
}

#[test]
fn heartbeat_v1() {
    let ms = Duration::from_millis;
    let vouched = Vouched { arbiters: vec![ms(3), ms(70_000)], flush: Some(ms(12)) };
    crate::testing::golden("peers/heartbeat-v1.hex", &Beat { boot: BootId(0x1234), vouched }.encode().contiguous());
    assert_eq!(BEAT_VERSION, 1);
}
