//! The handles of a simulated network: the world's [`Hub`] and each life's [`SimNetwork`].

use super::{
    Timing,
    state::{Due, LifeNumber, State},
};
use crate::{
    BootId, NodeId, Payload,
    env::Env,
    transport::{Inbox, Lane, Network, Peer, SendError},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::{sync::Notify, time::Instant};

/// The network of a simulated world. Clones share.
#[derive(Clone)]
pub struct Hub(Arc<Mutex<State>>);

impl Hub {
    /// A network without nodes; delays and breaks are drawn from `seed`.
    pub fn new(seed: u64, timing: Timing) -> Hub {
        Hub(Arc::new(Mutex::new(State::new(seed, timing))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new life of a node; the one before, if it still lives, is cut. Dropping the result cuts it as well.
    pub fn join(&self, node: NodeId, boot: BootId, env: &Env) -> Arc<SimNetwork> {
        let (life, wake) = self.state().join(Instant::now(), node, boot);
        env.spawn(deliver(self.clone(), life, wake));
        Arc::new(SimNetwork { hub: self.clone(), life })
    }

    /// Ends a node's life on the network: nothing that it sends from now on is delivered, nothing more is delivered to it.
    /// Others find out after [`Timing::notice`], or when its next life connects.
    pub fn cut(&self, node: NodeId) {
        self.state().cut(Instant::now(), node);
    }

    /// Nothing from `from` reaches `to` until healed.
    pub fn block(&self, from: NodeId, to: NodeId) {
        let mut state = self.state();
        state.blocked.insert((from, to));
        let between = [(from, to), (to, from)];
        state.expect_notice(Instant::now(), |link| between.contains(&(link.0, link.1)));
    }

    /// Nothing between `a` and `b` until healed.
    pub fn partition(&self, a: NodeId, b: NodeId) {
        self.block(a, b);
        self.block(b, a);
    }

    /// Nothing between `node` and all others that are there now, until healed.
    pub fn isolate(&self, node: NodeId) {
        let others: Vec<_> = self.state().nodes.keys().copied().filter(|other| *other != node).collect();
        others.into_iter().for_each(|other| self.partition(node, other));
    }

    /// Removes all blocks; what they held back is on its way again.
    pub fn heal(&self) {
        let mut state = self.state();
        state.blocked.clear();
        state.release_held(Instant::now());
    }

    /// Removes the blocks between two nodes.
    pub fn heal_between(&self, a: NodeId, b: NodeId) {
        let mut state = self.state();
        state.blocked.remove(&(a, b));
        state.blocked.remove(&(b, a));
        state.release_held(Instant::now());
    }

    /// Breaks the connection that `from` dialled to `to`; it is dialled again.
    pub fn break_connection(&self, from: NodeId, to: NodeId, lane: Lane) {
        self.state().break_link(Instant::now(), (from, to, lane));
    }

    /// From now on each send breaks its connection with a chance of 1 in `n`; 0 = never.
    pub fn break_one_in(&self, n: u64) {
        self.state().break_one_in = n;
    }

    /// Changes delays and limits from now on.
    pub fn set_timing(&self, timing: Timing) {
        self.state().timing = timing;
    }

    /// Messages delivered so far.
    pub fn delivered(&self) -> u64 {
        self.state().delivered
    }

    /// A digest of all deliveries in their order: equal for equal histories.
    pub fn fingerprint(&self) -> u64 {
        self.state().fingerprint
    }
}

/// One life of a node on a [`Hub`].
pub struct SimNetwork {
    hub: Hub,
    life: LifeNumber,
}

impl Network for SimNetwork {
    fn send(&self, to: NodeId, lane: Lane, key: u64, message: Payload) -> Result<(), SendError> {
        self.hub.state().send(Instant::now(), self.life, (to, lane, key), &message)
    }

    fn set_peers(&self, peers: Vec<Peer>) {
        let peers = peers.into_iter().map(|peer| peer.node).collect();
        self.hub.state().set_peers(Instant::now(), self.life, peers);
    }

    fn set_inbox(&self, inbox: Arc<dyn Inbox>) {
        if let Some(life) = self.hub.state().lives.get_mut(&self.life) {
            life.inbox = Some(inbox);
        }
    }

    fn disconnect(&self, peer: NodeId, lane: Lane) {
        let mut state = self.hub.state();
        let Some(node) = state.lives.get(&self.life).map(|life| life.node) else { return };
        state.break_link(Instant::now(), (node, peer, lane));
        state.break_link(Instant::now(), (peer, node, lane));
    }
}

impl Drop for SimNetwork {
    fn drop(&mut self) {
        self.hub.state().cut_life(Instant::now(), self.life);
    }
}

/// A life's task: what is due, one thing at a time, each told without the lock.
async fn deliver(hub: Hub, life: LifeNumber, wake: Arc<Notify>) {
    loop {
        let (due, inbox) = {
            let mut state = hub.state();
            let Some(due) = state.next_due(Instant::now(), life) else { return };
            (due, state.lives.get(&life).and_then(|life| life.inbox.clone()))
        };
        match (due, inbox) {
            (Due::Wait(None), _) => wake.notified().await,
            (Due::Wait(Some(at)), _) => tokio::select! {
                biased;
                () = wake.notified() => {}
                () = tokio::time::sleep_until(at) => {}
            },
            (Due::Message(message), Some(inbox)) => {
                inbox.message(message.from, message.boot, message.lane, message.bytes.into());
                // Turns of other tasks come between deliveries, as they would between packets.
                tokio::task::yield_now().await;
            }
            (Due::Up(peer, boot, lane), Some(inbox)) => inbox.up(peer, boot, lane),
            (Due::Down(peer, lane), Some(inbox)) => inbox.down(peer, lane),
            (Due::Internal | Due::Message(_) | Due::Up(..) | Due::Down(..), _) => {}
        }
    }
}
