//! The hub's rules: who is connected, what is under way, what happens next. Takes time as an argument; calls nobody.

use super::Timing;
use crate::{
    BootId, NodeId, Payload,
    env::{Env, TaskSet},
    transport::{Inbox, Lane, SendError},
};
use bytes::{Bytes, BytesMut};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::{sync::Notify, time::Instant};

/// Streams of a connection.
const STREAMS: usize = 4;

/// Number of a life: never used twice.
pub(super) type LifeNumber = u64;
/// A connection that `.0` dialled to `.1`.
type Link = (NodeId, NodeId, Lane);

pub(super) struct State {
    pub(super) timing: Timing,
    pub(super) rng: Env,
    pub(super) lives: BTreeMap<LifeNumber, Life>,
    pub(super) nodes: BTreeMap<NodeId, LifeNumber>,
    pub(super) blocked: BTreeSet<(NodeId, NodeId)>,
    pub(super) break_one_in: u64,
    pub(super) delivered: u64,
    pub(super) fingerprint: u64,
    connections: BTreeMap<Link, Connection>,
    /// The sequence number at which a life was cut.
    cuts: BTreeMap<LifeNumber, u64>,
    next: u64,
}

pub(super) struct Life {
    pub(super) node: NodeId,
    pub(super) boot: BootId,
    pub(super) inbox: Option<Arc<dyn Inbox>>,
    pub(super) wake: Arc<Notify>,
    peers: BTreeSet<NodeId>,
    dialling: BTreeSet<(NodeId, Lane)>,
    agenda: BTreeMap<(Instant, u64), Event>,
}

struct Connection {
    number: u64,
    ends: (LifeNumber, LifeNumber),
    under_way: usize,
    /// When the last message of each stream arrives.
    last: [Option<Instant>; STREAMS],
    held: Vec<Message>,
}

pub(super) struct Message {
    pub(super) from: NodeId,
    pub(super) boot: BootId,
    pub(super) lane: Lane,
    pub(super) bytes: Bytes,
    life: LifeNumber,
    link: Link,
    connection: u64,
    stream: usize,
    sent: u64,
}

enum Event {
    Message(Message),
    Up(NodeId, BootId, Lane),
    Down(NodeId, Lane),
    Dial {
        to: NodeId,
        lane: Lane,
        attempt: u32,
        repeat: bool,
    },
    /// The idle timeout of a connection that could not be used.
    Notice {
        link: Link,
        number: u64,
    },
}

/// What a life's task tells its inbox.
pub(super) enum Due {
    Message(Message),
    Up(NodeId, BootId, Lane),
    Down(NodeId, Lane),
    /// Nothing to tell; look again at once.
    Internal,
    /// Nothing until then.
    Wait(Option<Instant>),
}

impl State {
    pub(super) fn new(seed: u64, timing: Timing) -> Self {
        State {
            timing,
            rng: Env::simulated(seed, 0, TaskSet::default()),
            lives: BTreeMap::new(),
            nodes: BTreeMap::new(),
            blocked: BTreeSet::new(),
            break_one_in: 0,
            delivered: 0,
            fingerprint: 0xcbf2_9ce4_8422_2325,
            connections: BTreeMap::new(),
            cuts: BTreeMap::new(),
            next: 1,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn schedule(&mut self, life: LifeNumber, at: Instant, event: Event) {
        let number = self.number();
        if let Some(life) = self.lives.get_mut(&life) {
            life.agenda.insert((at, number), event);
            life.wake.notify_one();
        }
    }

    pub(super) fn join(&mut self, now: Instant, node: NodeId, boot: BootId) -> (LifeNumber, Arc<Notify>) {
        self.cut(now, node);
        let (number, wake) = (self.number(), Arc::new(Notify::new()));
        let life = Life {
            node,
            boot,
            inbox: None,
            wake: wake.clone(),
            peers: BTreeSet::new(),
            dialling: BTreeSet::new(),
            agenda: BTreeMap::new(),
        };
        self.lives.insert(number, life);
        self.nodes.insert(node, number);
        (number, wake)
    }

    pub(super) fn cut(&mut self, now: Instant, node: NodeId) {
        if let Some(life) = self.nodes.get(&node).copied() {
            self.cut_life(now, life);
        }
    }

    pub(super) fn cut_life(&mut self, now: Instant, number: LifeNumber) {
        let Some(life) = self.lives.remove(&number) else { return };
        life.wake.notify_one();
        self.nodes.remove(&life.node);
        let seq = self.number();
        self.cuts.insert(number, seq);
        self.expect_notice(now, |link| link.0 == life.node || link.1 == life.node);
    }

    /// The ends of these connections find out after the idle timeout.
    pub(super) fn expect_notice(&mut self, now: Instant, concerned: impl Fn(&Link) -> bool) {
        let at = now + self.timing.notice;
        let found: Vec<_> = self.connections.iter().filter(|(link, _)| concerned(link)).map(notice_of).collect();
        for (link, number, ends) in found {
            self.schedule(ends.0, at, Event::Notice { link, number });
            self.schedule(ends.1, at, Event::Notice { link, number });
        }
    }

    /// Messages that a block held back are on their way again.
    pub(super) fn release_held(&mut self, now: Instant) {
        let links: Vec<Link> = self.connections.keys().copied().collect();
        for link in links {
            if self.blocked.contains(&(link.0, link.1)) {
                continue;
            }
            let held = self.connections.get_mut(&link).map(|c| std::mem::take(&mut c.held)).unwrap_or_default();
            for message in held {
                self.send_on(now, message);
            }
        }
    }

    pub(super) fn set_peers(&mut self, now: Instant, number: LifeNumber, peers: BTreeSet<NodeId>) {
        let Some(life) = self.lives.get_mut(&number) else { return };
        let node = life.node;
        let before = std::mem::replace(&mut life.peers, peers.clone());
        for gone in before.difference(&peers) {
            for lane in Lane::ALL {
                self.break_link(now, (node, *gone, lane));
                self.break_link(now, (*gone, node, lane));
            }
        }
        for new in peers.difference(&before).filter(|peer| **peer != node) {
            Lane::ALL.into_iter().for_each(|lane| self.begin_dialling(now, number, *new, lane));
        }
    }

    fn begin_dialling(&mut self, now: Instant, number: LifeNumber, to: NodeId, lane: Lane) {
        let Some(life) = self.lives.get_mut(&number) else { return };
        if life.peers.contains(&to) && life.dialling.insert((to, lane)) {
            let at = now + self.latency() * 3;
            self.schedule(number, at, Event::Dial { to, lane, attempt: 0, repeat: true });
        }
    }

    fn latency(&mut self) -> std::time::Duration {
        let jitter = u64::try_from(self.timing.jitter.as_micros()).unwrap_or(u64::MAX);
        self.timing.delay + std::time::Duration::from_micros(self.rng.random_below(jitter + 1))
    }

    pub(super) fn send(
        &mut self,
        now: Instant,
        number: LifeNumber,
        (to, lane, key): (NodeId, Lane, u64),
        message: &Payload,
    ) -> Result<(), SendError> {
        let Some(life) = self.lives.get(&number) else { return Err(SendError::NotConnected { node: to }) };
        let (from, boot, known) = (life.node, life.boot, life.peers.contains(&to));
        let link = (from, to, lane);
        let limit = self.timing.waiting_max;
        match self.connections.get(&link) {
            Some(c) if c.under_way > 0 && c.under_way + message.len() > limit => {
                return Err(SendError::Full { node: to, waiting: c.under_way, limit });
            }
            Some(_) => {}
            None if known => return Err(SendError::NotConnected { node: to }),
            None => return Err(SendError::UnknownPeer { node: to }),
        }
        if self.break_one_in > 0 && self.rng.random_below(self.break_one_in) == 0 {
            self.break_link(now, link);
            return Ok(());
        }
        let sent = self.number();
        let Some(connection) = self.connections.get_mut(&link) else { return Ok(()) };
        connection.under_way += message.len();
        let stream = if lane == Lane::Data { stream_of(key) } else { 0 };
        let connection = connection.number;
        let bytes = on_the_wire(message);
        self.send_on(now, Message { from, boot, lane, bytes, life: number, link, connection, stream, sent });
        Ok(())
    }

    fn send_on(&mut self, now: Instant, message: Message) {
        let soonest = now + self.latency();
        let Some(connection) = self.connections.get_mut(&message.link) else { return };
        let last = &mut connection.last[message.stream];
        let at = last.map_or(soonest, |last| last.max(soonest));
        *last = Some(at);
        let receiver = connection.ends.1;
        self.schedule(receiver, at, Event::Message(message));
    }

    /// Breaks one connection: what is under way is lost, both ends hear it, the dialler begins anew.
    pub(super) fn break_link(&mut self, now: Instant, link: Link) {
        let Some(connection) = self.connections.remove(&link) else { return };
        let (from, to, lane) = link;
        self.schedule(connection.ends.0, now, Event::Down(to, lane));
        self.schedule(connection.ends.1, now, Event::Down(from, lane));
        self.begin_dialling(now, connection.ends.0, to, lane);
    }

    /// The next thing that is due for a life; `None` when it is over.
    pub(super) fn next_due(&mut self, now: Instant, number: LifeNumber) -> Option<Due> {
        let life = self.lives.get_mut(&number)?;
        let node = life.node;
        match life.agenda.first_entry() {
            None => return Some(Due::Wait(None)),
            Some(entry) if entry.key().0 > now => return Some(Due::Wait(Some(entry.key().0))),
            Some(_) => {}
        }
        let (_, event) = life.agenda.pop_first()?;
        Some(match event {
            Event::Message(message) => self.arrive(message),
            Event::Up(peer, boot, lane) => {
                let stands = |a, b| self.connections.contains_key(&(a, b, lane));
                if stands(node, peer) && stands(peer, node) { Due::Up(peer, boot, lane) } else { Due::Internal }
            }
            Event::Down(peer, lane) => Due::Down(peer, lane),
            Event::Dial { to, lane, attempt, repeat } => {
                self.dial(now, number, (node, to, lane), attempt, repeat);
                Due::Internal
            }
            Event::Notice { link, number } => {
                self.notice(now, link, number);
                Due::Internal
            }
        })
    }

    fn arrive(&mut self, message: Message) -> Due {
        let Some(connection) = self.connections.get_mut(&message.link) else { return Due::Internal };
        if connection.number != message.connection {
            return Due::Internal;
        }
        let blocked = self.blocked.contains(&(message.link.0, message.link.1));
        if blocked || connection.held.iter().any(|held| held.stream == message.stream) {
            connection.held.push(message);
            return Due::Internal;
        }
        connection.under_way -= message.bytes.len();
        let cut = self.cuts.get(&message.life);
        assert!(cut.is_none_or(|cut| message.sent < *cut), "a message of node {} was sent after its cut", message.from);
        self.delivered += 1;
        self.mix(u64::from(message.from.0) << 32 | u64::from(message.link.1.0));
        self.mix(message.sent);
        self.mix(u64::from(crc32c::crc32c(&message.bytes)));
        Due::Message(message)
    }

    fn mix(&mut self, value: u64) {
        self.fingerprint = (self.fingerprint ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    fn dial(&mut self, now: Instant, number: LifeNumber, link: Link, attempt: u32, repeat: bool) {
        let (node, to, lane) = link;
        let open = |a, b| !self.blocked.contains(&(a, b));
        let other = self.nodes.get(&to).copied().filter(|life| self.lives[life].inbox.is_some());
        match other {
            Some(other) if open(node, to) && open(to, node) => self.connect(now, (number, other), link),
            _ if repeat => {
                let wait = (self.timing.redial_min * 2u32.pow(attempt.min(10))).min(self.timing.redial_max);
                let event = Event::Dial { to, lane, attempt: attempt + 1, repeat };
                let wait = wait + self.latency();
                self.schedule(number, now + wait, event);
                return;
            }
            _ => {}
        }
        if let Some(life) = self.lives.get_mut(&number) {
            life.dialling.remove(&(to, lane));
        }
    }

    fn connect(&mut self, now: Instant, ends: (LifeNumber, LifeNumber), link: Link) {
        let (node, to, lane) = link;
        // HELLO says the boot id: connections to and from former lives end here.
        for lane in Lane::ALL {
            for (link, ends) in [((node, to, lane), ends), ((to, node, lane), (ends.1, ends.0))] {
                if self.connections.get(&link).is_some_and(|c| c.ends != ends) {
                    self.break_link(now, link);
                }
            }
        }
        if self.connections.contains_key(&link) {
            return;
        }
        let number = self.number();
        let connection = Connection { number, ends, under_way: 0, last: [None; STREAMS], held: Vec::new() };
        self.connections.insert(link, connection);
        if self.connections.contains_key(&(to, node, lane)) {
            let boots = (self.lives[&ends.0].boot, self.lives[&ends.1].boot);
            self.schedule(ends.0, now, Event::Up(to, boots.1, lane));
            self.schedule(ends.1, now, Event::Up(node, boots.0, lane));
        } else {
            // Whoever is dialled dials back, also when its list of peers does not have the other yet.
            let at = now + self.latency();
            self.schedule(ends.1, at, Event::Dial { to: node, lane, attempt: 0, repeat: false });
        }
    }

    fn notice(&mut self, now: Instant, link: Link, number: u64) {
        let Some(connection) = self.connections.get(&link) else { return };
        let (from, to, _) = link;
        let dead = !self.lives.contains_key(&connection.ends.0) || !self.lives.contains_key(&connection.ends.1);
        let blocked = self.blocked.contains(&(from, to)) || self.blocked.contains(&(to, from));
        if connection.number == number && (dead || blocked) {
            self.break_link(now, link);
        }
    }
}

fn notice_of((link, connection): (&Link, &Connection)) -> (Link, u64, (LifeNumber, LifeNumber)) {
    (*link, connection.number, connection.ends)
}

fn stream_of(key: u64) -> usize {
    usize::try_from(key).map_or(0, |key| key % STREAMS)
}

fn on_the_wire(message: &Payload) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.len());
    message.parts().iter().for_each(|part| bytes.extend_from_slice(part));
    bytes.freeze()
}
