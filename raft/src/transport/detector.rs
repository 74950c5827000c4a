//! Which nodes live.
//!
//! A pure machine (time is an argument) and the task around it. Each node tells each peer every 100 ms that it lives, in
//! which life ([`BootId`]), and vouches for its arbiters and its disk: a node whose network answers while an arbiter is
//! wedged or a flush hangs is as good as dead.
//!
//! **Invariant:** a boot id that was replaced by another is dead for ever; its late heartbeats change nothing.
//! **Invariant:** a stall of the detector itself is not taken for the silence of its peers.
//! Not here: what follows from a suspicion (elections by rank, the group's business).

use super::{
    Lane,
    rpc::{Answer, HEARTBEAT, Rpc, Service},
};
use crate::{BootId, NodeId, Payload, env::Env};
use bytes::{BufMut, BytesMut};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};

/// How a peer is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The life it said it is in; `None` before its first heartbeat. A changed boot id means that the former life is dead, also
    /// when the state is `Alive` before and after.
    pub boot: Option<BootId>,
    /// Whether it can be counted on.
    pub state: State,
}

/// Whether a peer can be counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not heard of yet, and not for long.
    Unknown,
    /// Heard of, and vouched for in full.
    Alive,
    /// To be treated as dead.
    Suspected(Suspicion),
}

/// Why a peer is suspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// No heartbeat in time.
    Silent,
    /// One of its arbiters made no progress.
    Arbiter(u16),
    /// Its oldest flush takes too long.
    Disk,
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Suspicion::Silent => f.write_str("no heartbeat"),
            Suspicion::Arbiter(n) => write!(f, "its arbiter {n} makes no progress"),
            Suspicion::Disk => f.write_str("its disk does not finish a flush"),
        }
    }
}

/// When a peer is suspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats to each peer.
    pub heartbeat: Duration,
    /// Silence that makes suspect.
    pub suspicion: Duration,
    /// Age of an arbiter's last progress that makes suspect.
    pub arbiter_age_max: Duration,
    /// Age of an unfinished flush that makes suspect.
    pub flush_age_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Timing { heartbeat: ms(100), suspicion: ms(500), arbiter_age_max: ms(300), flush_age_max: ms(500) }
    }
}

/// What a node says of its own parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vouched {
    /// For each arbiter, the time since it last made progress.
    pub arbiters: Vec<Duration>,
    /// How long the flush in progress has taken so far; `None` when the disk is idle.
    pub flush: Option<Duration>,
}

/// Asked before each heartbeat, on the detector's thread; must not wait.
pub type Vouch = Arc<dyn Fn() -> Vouched + Send + Sync>;

/// One heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The sender's life.
    pub boot: BootId,
    /// What it vouches for.
    pub vouched: Vouched,
}

const BEAT_VERSION: u8 = 1;
const IDLE: u32 = u32::MAX;

impl Beat {
    /// `version u8 │ boot u64 │ flush ms u32 │ arbiters u16 │ age ms u32 each`, little-endian.
    fn encode(&self) -> Payload {
        let ms = |age: &Duration| u32::try_from(age.as_millis()).unwrap_or(IDLE - 1).min(IDLE - 1);
        let arbiters = &self.vouched.arbiters[..self.vouched.arbiters.len().min(usize::from(u16::MAX))];
        let mut bytes = BytesMut::with_capacity(15 + 4 * arbiters.len());
        bytes.put_u8(BEAT_VERSION);
        bytes.put_u64_le(self.boot.0);
        bytes.put_u32_le(self.vouched.flush.as_ref().map_or(IDLE, ms));
        bytes.put_u16_le(u16::try_from(arbiters.len()).unwrap_or(u16::MAX));
        arbiters.iter().for_each(|age| bytes.put_u32_le(ms(age)));
        bytes.freeze().into()
    }

    /// Reads a heartbeat; later versions may append to it.
    fn decode(payload: &Payload) -> Option<Beat> {
        let bytes = payload.contiguous();
        let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let age = |at: usize| number(at).map(|ms| Duration::from_millis(u64::from(ms)));
        if *bytes.first()? != BEAT_VERSION {
            return None;
        }
        let boot = BootId(u64::from_le_bytes(bytes.get(1..9)?.try_into().ok()?));
        let flush = if number(9)? == IDLE { None } else { age(9) };
        let count = usize::from(u16::from_le_bytes(bytes.get(13..15)?.try_into().ok()?));
        let arbiters = (0..count).map(|i| age(15 + 4 * i)).collect::<Option<_>>()?;
        Some(Beat { boot, vouched: Vouched { arbiters, flush } })
    }
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The peers are now these.
    Peers(BTreeSet<NodeId>),
    /// A heartbeat came.
    Heard {
        /// From whom.
        from: NodeId,
        /// What it said.
        beat: Beat,
    },
    /// The heartbeat interval has passed.
    Tick,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a heartbeat to this peer.
    Beat(NodeId),
    /// The view of the peers has changed: publish it.
    Publish,
    /// A life ended or is suspected: all that is expected of it fails now.
    Forsake(NodeId, Ended),
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is suspected and may come back.
    Suspected(Suspicion),
    /// Another life of the node said hello.
    Replaced(BootId),
}

/// The detector's rules.
pub struct Machine {
    timing: Timing,
    peers: BTreeMap<NodeId, Seen>,
    ticked: Option<Instant>,
}

struct Seen {
    life: Life,
    heard: Instant,
    /// Lives that were replaced, latest last.
    dead: Vec<BootId>,
}

/// Replaced lives remembered per peer: a heartbeat of a life older than that is long gone from every buffer.
const DEAD_KEPT: usize = 8;

impl Machine {
    /// A machine without peers.
    pub fn new(timing: Timing) -> Self {
        Machine { timing, peers: BTreeMap::new(), ticked: None }
    }

    /// The view of all peers.
    pub fn lives(&self) -> BTreeMap<NodeId, Life> {
        self.peers.iter().map(|(node, seen)| (*node, seen.life)).collect()
    }

    /// Takes one input.
    pub fn step(&mut self, now: Instant, input: Input) -> Vec<Output> {
        match input {
            Input::Peers(peers) => self.replace_peers(now, &peers),
            Input::Heard { from, beat } => self.hear(now, from, &beat),
            Input::Tick => self.tick(now),
        }
    }

    fn replace_peers(&mut self, now: Instant, peers: &BTreeSet<NodeId>) -> Vec<Output> {
        let before = self.peers.len();
        self.peers.retain(|node, _| peers.contains(node));
        let mut changed = self.peers.len() != before;
        for node in peers {
            self.peers.entry(*node).or_insert_with(|| {
                changed = true;
                Seen { life: Life { boot: None, state: State::Unknown }, heard: now, dead: Vec::new() }
            });
        }
        changed.then_some(Output::Publish).into_iter().collect()
    }

    fn hear(&mut self, now: Instant, from: NodeId, beat: &Beat) -> Vec<Output> {
        let Some(seen) = self.peers.get_mut(&from) else { return Vec::new() };
        if seen.dead.contains(&beat.boot) {
            return Vec::new();
        }
        let before = seen.life;
        seen.heard = now;
        seen.life.boot = Some(beat.boot);
        seen.life.state = judge(&self.timing, &beat.vouched).map_or(State::Alive, State::Suspected);
        let mut outputs = Vec::new();
        match (before.boot, seen.life.state) {
            (Some(old), _) if old != beat.boot => {
                seen.dead.push(old);
                if seen.dead.len() > DEAD_KEPT {
                    seen.dead.remove(0);
                }
                outputs.push(Output::Forsake(from, Ended::Replaced(beat.boot)));
            }
            (_, State::Suspected(why)) if !matches!(before.state, State::Suspected(_)) => {
                outputs.push(Output::Forsake(from, Ended::Suspected(why)));
            }
            _ => {}
        }
        if before != seen.life {
            outputs.push(Output::Publish);
        }
        outputs
    }

    fn tick(&mut self, now: Instant) -> Vec<Output> {
        // What we did not hear while we were not running says nothing about the others. Each tick counts as one interval
        // all the same, or a detector that is always late would never suspect anybody.
        let gap = self.ticked.map_or(Duration::ZERO, |last| now - last);
        let slept = if gap > 2 * self.timing.heartbeat { gap - self.timing.heartbeat } else { Duration::ZERO };
        self.ticked = Some(now);
        let mut outputs: Vec<_> = self.peers.keys().map(|node| Output::Beat(*node)).collect();
        let mut changed = false;
        for (node, seen) in &mut self.peers {
            seen.heard = (seen.heard + slept).min(now);
            let silent = now - seen.heard >= self.timing.suspicion;
            if silent && !matches!(seen.life.state, State::Suspected(_)) {
                seen.life.state = State::Suspected(Suspicion::Silent);
                outputs.push(Output::Forsake(*node, Ended::Suspected(Suspicion::Silent)));
                changed = true;
            }
        }
        outputs.extend(changed.then_some(Output::Publish));
        outputs
    }
}

fn judge(timing: &Timing, vouched: &Vouched) -> Option<Suspicion> {
    if let Some(n) = vouched.arbiters.iter().position(|age| *age > timing.arbiter_age_max) {
        return Some(Suspicion::Arbiter(u16::try_from(n).unwrap_or(u16::MAX)));
    }
    vouched.flush.is_some_and(|age| age > timing.flush_age_max).then_some(Suspicion::Disk)
}

/// How a detector is started.
#[derive(Clone)]
pub struct Options {
    /// This node's life.
    pub boot: BootId,
    /// When a peer is suspected.
    pub timing: Timing,
    /// What this node vouches for.
    pub vouch: Vouch,
}

/// A running detector. It stops when the last clone is dropped.
#[derive(Clone)]
pub struct Detector {
    peers: Arc<watch::Sender<BTreeSet<NodeId>>>,
    lives: watch::Receiver<BTreeMap<NodeId, Life>>,
}

/// Heartbeats that may wait for the detector's thread; one too many is lost, as on a network.
const WAITING_MAX: usize = 1024;

impl Detector {
    /// Starts the detector's thread and serves heartbeats on `rpc`.
    pub fn start(options: Options, rpc: &Rpc, env: &Env) -> io::Result<Detector> {
        let (peers, peers_seen) = watch::channel(BTreeSet::new());
        let (publish, lives) = watch::channel(BTreeMap::new());
        let (heard, inputs) = mpsc::channel(WAITING_MAX);
        rpc.serve(HEARTBEAT, Arc::new(Ear { heard }));
        let task = Task { machine: Machine::new(options.timing), options, rpc: rpc.clone(), publish };
        env.spawn_thread("highwater-detector", move || Box::pin(task.run(peers_seen, inputs)))?;
        Ok(Detector { peers: Arc::new(peers), lives })
    }

    /// Whom to watch.
    pub fn set_peers(&self, peers: BTreeSet<NodeId>) {
        self.peers.send_replace(peers);
    }

    /// How all peers are seen.
    pub fn liveness(&self) -> watch::Receiver<BTreeMap<NodeId, Life>> {
        self.lives.clone()
    }
}

/// Takes heartbeats off the network's thread.
struct Ear {
    heard: mpsc::Sender<(NodeId, Beat)>,
}

impl Service for Ear {
    fn call(&self, from: NodeId, body: Payload, _answer: Answer) {
        if let Some(beat) = Beat::decode(&body) {
            let _ = self.heard.try_send((from, beat));
        }
    }
}

struct Task {
    options: Options,
    machine: Machine,
    rpc: Rpc,
    publish: watch::Sender<BTreeMap<NodeId, Life>>,
}

impl Task {
    async fn run(mut self, mut peers: watch::Receiver<BTreeSet<NodeId>>, mut heard: mpsc::Receiver<(NodeId, Beat)>) {
        let mut ticks = tokio::time::interval(self.options.timing.heartbeat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Heartbeats that wait are read before the clock: silence is judged by what came.
            let input = tokio::select! {
                biased;
                changed = peers.changed() => match changed {
                    Ok(()) => Input::Peers(peers.borrow_and_update().clone()),
                    Err(_) => return,
                },
                Some((from, beat)) = heard.recv() => Input::Heard { from, beat },
                _ = ticks.tick() => Input::Tick,
            };
            for output in self.machine.step(Instant::now(), input) {
                self.act(output);
            }
        }
    }

    fn act(&self, output: Output) {
        match output {
            Output::Beat(to) => {
                let beat = Beat { boot: self.options.boot, vouched: (self.options.vouch)() };
                // A peer that is not connected is silent in both directions: nothing to do about it here.
                let _ = self.rpc.tell(to, Lane::Control, 0, HEARTBEAT, beat.encode());
            }
            Output::Publish => drop(self.publish.send_replace(self.machine.lives())),
            Output::Forsake(node, ended) => {
                match ended {
                    Ended::Suspected(why) => tracing::warn!(%node, %why, "node is suspected"),
                    Ended::Replaced(boot) => {
                        if self.publish.borrow().get(&node).is_some_and(|life| life.state == State::Alive) {
                            crate::observe::reached("node back before it was suspected");
                        }
                        tracing::info!(%node, %boot, "node was started anew");
                    }
                }
                self.rpc.fail_pending(node);
                // Connections to a replaced life are ended by the new one's HELLO: here they may be the new one's already.
                if matches!(ended, Ended::Suspected(_)) {
                    self.rpc.network().disconnect(node, Lane::Data);
                    self.rpc.network().disconnect(node, Lane::Bulk);
                }
            }
        }
    }
}

/// The fuzz target of heartbeats. Promises: what decodes encodes to no more bytes, and those decode to the same; the machine takes
/// it, and knows the sender's life by it.
#[cfg(feature = "testing")]
pub(crate) fn fuzz(data: &[u8]) {
    // In two parts: a number may lie across them.
    let (front, rest) = data.split_at(data.len() / 3);
    let payload = Payload::new([front, rest].map(bytes::Bytes::copy_from_slice));
    let Some(mut beat) = Beat::decode(&payload) else { return };
    let again = beat.encode();
    assert!(again.len() <= payload.len(), "{} bytes of {}", again.len(), payload.len());
    // Nobody encodes an age that stands for none.
    let longest = Duration::from_millis(u64::from(IDLE - 1));
    beat.vouched.arbiters.iter_mut().for_each(|age| *age = longest.min(*age));
    assert_eq!(Beat::decode(&again).as_ref(), Some(&beat));
    let (from, now, boot) = (NodeId(2), Instant::now(), beat.boot);
    let mut machine = Machine::new(Timing::default());
    machine.step(now, Input::Peers([from].into()));
    machine.step(now, Input::Heard { from, beat });
    machine.step(now, Input::Tick);
    assert_eq!(machine.lives()[&from].boot, Some(boot));
}

/// Inputs to begin with.
#[cfg(feature = "testing")]
pub(crate) fn fuzz_seeds() -> Vec<Vec<u8>> {
    let ms = Duration::from_millis;
    let vouched = [
        Vouched::default(),
        Vouched { arbiters: vec![ms(1), ms(301)], flush: None },
        Vouched { arbiters: vec![ms(3)], flush: Some(ms(501)) },
    ];
    let beats = vouched.map(|vouched| Beat { boot: BootId(99), vouched }.encode().contiguous().to_vec());
    let appended = [&beats[0][..], b"of a later version"].concat();
    beats.into_iter().chain([appended]).collect()
}

#[cfg(test)]
mod tests;
