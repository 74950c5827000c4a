//! One peer: per lane what waits for it, and which connections to and from it stand.
//!
//! **Invariant:** the inbox hears `down` before any message or `up` of a connection that took a lost one's place: whoever
//! tells the inbox something of a lane holds that lane's gate.
//! **Invariant:** a message of a connection that was replaced or reported lost is never delivered.

use super::{Shared, hello::Close, outbox::Outbox, stream_count};
use crate::{
    BootId, NodeId,
    transport::{Inbox, Lane, Peer},
};
use bytes::Bytes;
use quinn::Connection;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use tokio::sync::{Notify, watch};

pub(super) struct Link {
    pub(super) node: NodeId,
    /// Not in the list of peers: it dialled us, and is dialled so that it can be answered.
    pub(super) guest: AtomicBool,
    peer: Mutex<Peer>,
    lanes: [LaneLink; 3],
    stop: watch::Sender<bool>,
}

pub(super) struct LaneLink {
    pub(super) node: NodeId,
    pub(super) lane: Lane,
    pub(super) outbox: Outbox,
    /// Dial now: the peer is there.
    pub(super) redial: Notify,
    /// The handles by which connections are ended from outside. Never held while the inbox is called.
    handles: Mutex<Handles>,
    gate: Mutex<Gate>,
    /// Why there is no connection.
    trouble: Mutex<Option<String>>,
}

#[derive(Default)]
struct Handles {
    outbound: Option<Connection>,
    inbound: Option<Connection>,
}

#[derive(Default)]
struct Gate {
    outbound: Option<BootId>,
    inbound: Option<(u64, BootId)>,
    arrivals: u64,
    /// Messages were taken for the outbound connection.
    begun: bool,
    up: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(super) fn new(peer: Peer, guest: bool, shared: &Shared) -> Arc<Link> {
        let node = peer.node;
        let lane = |lane| LaneLink {
            node,
            lane,
            outbox: Outbox::new(
                node,
                stream_count(lane),
                shared.options.waiting_max,
                shared.options.message_max(lane),
                lane == Lane::Bulk,
            ),
            redial: Notify::new(),
            handles: Mutex::default(),
            gate: Mutex::default(),
            trouble: Mutex::default(),
        };
        Arc::new(Link {
            node,
            guest: AtomicBool::new(guest),
            peer: Mutex::new(peer),
            lanes: Lane::ALL.map(lane),
            stop: watch::Sender::new(false),
        })
    }

    pub(super) fn lane(&self, lane: Lane) -> &LaneLink {
        &self.lanes[usize::from(super::hello::lane_number(lane))]
    }

    pub(super) fn address(&self, lane: Lane) -> String {
        let peer = lock(&self.peer);
        if lane == Lane::Control { peer.control_address.clone() } else { peer.address.clone() }
    }

    /// The peer as it is listed now; a changed address is dialled anew.
    pub(super) fn list(&self, peer: &Peer) {
        self.guest.store(false, Relaxed);
        let before = std::mem::replace(&mut *lock(&self.peer), peer.clone());
        if before != *peer {
            for lane in &self.lanes {
                lane.end_outbound(&Close::Replaced);
                lane.redial.notify_one();
            }
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    pub(super) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
        self.lanes.iter().for_each(|lane| lane.end(&Close::Bye));
    }

    /// Whether any connection from it stands.
    pub(super) fn is_visited(&self) -> bool {
        self.lanes.iter().any(|lane| lock(&lane.gate).inbound.is_some())
    }

    /// Another life of the peer said HELLO: what leads to the old one is of no use.
    pub(super) fn end_other_lives(&self, boot: BootId) {
        for lane in &self.lanes {
            let outbound = lock(&lane.gate).outbound;
            if outbound.is_some_and(|other| other != boot) {
                lane.end_outbound(&Close::Replaced);
                lane.redial.notify_one();
            }
        }
    }
}

impl LaneLink {
    /// Ends both connections; their tasks report it.
    pub(super) fn end(&self, why: &Close) {
        let handles = std::mem::take(&mut *lock(&self.handles));
        handles.outbound.iter().chain(&handles.inbound).for_each(|connection| why.close(connection));
    }

    fn end_outbound(&self, why: &Close) {
        let outbound = lock(&self.handles).outbound.take();
        outbound.iter().for_each(|connection| why.close(connection));
    }

    pub(super) fn has_outbound(&self) -> bool {
        lock(&self.handles).outbound.is_some()
    }

    pub(super) fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    /// Notes why there is no connection; whether that is news.
    pub(super) fn set_trouble(&self, why: Option<String>) -> bool {
        let before = std::mem::replace(&mut *lock(&self.trouble), why.clone());
        before != why && why.is_some()
    }

    /// HELLO was sent: messages are taken.
    pub(super) fn outbound_begins(&self, connection: &Connection) {
        let mut gate = lock(&self.gate);
        lock(&self.handles).outbound = Some(connection.clone());
        gate.begun = true;
        self.outbox.open();
    }

    /// HELLO was answered.
    pub(super) fn outbound_stands(&self, boot: BootId, inbox: &dyn Inbox) {
        let mut gate = lock(&self.gate);
        gate.outbound = Some(boot);
        self.tell_up(&mut gate, inbox);
    }

    /// The connection is over, or was not to be had: what waited is lost.
    pub(super) fn outbound_lost(&self, inbox: &dyn Inbox) {
        let mut gate = lock(&self.gate);
        lock(&self.handles).outbound = None;
        let (waited, waiting) = self.outbox.close();
        let stood = gate.outbound.take().is_some();
        if waited | std::mem::take(&mut gate.begun) {
            gate.up = false;
            inbox.down(self.node, self.lane);
        }
        if !stood {
            waiting.iter().for_each(|message| inbox.lost(self.node, self.lane, message));
        }
    }

    /// The peer's HELLO was good. Gives the number under which its messages are delivered.
    pub(super) fn inbound_stands(&self, connection: &Connection, boot: BootId, inbox: &dyn Inbox) -> u64 {
        let mut gate = lock(&self.gate);
        let before = lock(&self.handles).inbound.replace(connection.clone());
        before.iter().for_each(|connection| Close::Replaced.close(connection));
        if gate.inbound.is_some() {
            gate.up = false;
            inbox.down(self.node, self.lane);
        }
        gate.arrivals += 1;
        gate.inbound = Some((gate.arrivals, boot));
        let number = gate.arrivals;
        self.tell_up(&mut gate, inbox);
        number
    }

    pub(super) fn inbound_lost(&self, number: u64, inbox: &dyn Inbox) {
        let mut gate = lock(&self.gate);
        if gate.inbound.is_some_and(|(current, _)| current == number) {
            lock(&self.handles).inbound = None;
            gate.inbound = None;
            gate.up = false;
            inbox.down(self.node, self.lane);
        }
    }

    /// Delivers a message unless its connection has been replaced.
    pub(super) fn deliver(&self, number: u64, message: Bytes, inbox: &dyn Inbox) {
        let gate = lock(&self.gate);
        if let Some((current, boot)) = gate.inbound
            && current == number
        {
            inbox.message(self.node, boot, self.lane, message.into());
        }
    }

    fn tell_up(&self, gate: &mut Gate, inbox: &dyn Inbox) {
        let (Some(to), Some((_, from))) = (gate.outbound, gate.inbound) else { return };
        if to == from && !gate.up {
            gate.up = true;
            inbox.up(self.node, to, self.lane);
        }
    }
}
