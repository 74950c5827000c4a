//! What all replicated actors share: the value [`Replica`] over a machine, the leader and the follower actor that hold
//! it in turn, the gate in front of Raft, and who waits for which mark.
//!
//! ```text
//!  requests ─▶ mailbox ─┐                         ┌─▶ marks ─▶ acks ─▶ fires ─▶ done
//!  Raft's events ─▶ Queue ─▶ Turn: apply, decide ─┤
//!                                                 └─▶ one proposal (term, n), if none waits for the log
//! ```
//! A [`Domain`] (partition, group home, controller) gives the machine and what is its alone.
//!
//! **Invariants**
//! - A replica is held by exactly one actor: `LeaderActor` for one term, or the follower. A change of role
//!   hands it over on the same arbiter; what lives for a term only dies with the leader.
//! - Everything is decided in apply: an entry counts when its `n` is the next of its own term ([`Fence`]); what is
//!   skipped or refused is proposed again in order, after the outcomes of all others are known.
//! - At most one proposal per group is not yet handed to the log.
//! - Raft's events survive a hand-over: their queue belongs to the replica.

mod domain;
mod fence;
mod follower;
mod gate;
mod leader;
mod leaders;
mod observe;
mod park;
mod post;
mod queue;
#[cfg(test)]
mod tests;
mod turn;

pub use domain::{Domain, Entry, Noted, Outbox, Outcome, Status};
pub use fence::Fence;
pub use leaders::{Leader, Leaders};
pub use park::{Doorman, Fired, Parked, Waiter, WakeAt, Why};
pub use post::{Envelope, Post};
pub use queue::Queue;

use crate::runtime::{Env, Wake};
use follower::FollowerActor;
use highwater_raft::{
    GroupId, Payload, ReplicaId,
    group::{BarrierError, Group},
};
use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{Arc, OnceLock},
};

/// What the gate needs of a Raft group.
pub trait Consensus: Send + Sync + 'static {
    /// See [`Group::propose`].
    fn propose(&self, proposal: u64, term: u64, payload: Payload);
    /// See [`Group::barrier`].
    fn barrier(&self) -> Pin<Box<dyn Future<Output = Result<u64, BarrierError>> + Send>>;
}

impl Consensus for Group {
    fn propose(&self, proposal: u64, term: u64, payload: Payload) {
        Group::propose(self, proposal, term, payload);
    }

    fn barrier(&self) -> Pin<Box<dyn Future<Output = Result<u64, BarrierError>> + Send>> {
        let group = self.clone();
        Box::pin(async move { group.barrier().await })
    }
}

/// Told when a replica has failed: a panic in its turn, or Raft's own failure.
pub type OnFailed = Rc<dyn Fn(String)>;

/// One replica of a group, as the broker sees it.
pub struct Replica<D: Domain> {
    domain: D,
    machine: D::Machine,
    fence: Fence,
    status: Status,
    flushed: Option<u64>,
    proposals: u64,
    queue: Arc<Queue>,
    wake: Wake,
    post: Post<D::Request>,
    consensus: Arc<OnceLock<Arc<dyn Consensus>>>,
    env: Env,
    identity: Identity,
}

/// What a replica is told at its start.
#[derive(Clone)]
pub struct Identity {
    /// Of which group it is.
    pub group: GroupId,
    /// Which of its replicas.
    pub replica: ReplicaId,
    /// Where it notes who leads.
    pub leaders: Leaders,
    /// Whom it tells when it has failed.
    pub on_failed: OnFailed,
}

/// How the node holds a replica.
#[derive(Clone)]
pub struct Keeper {
    queue: Arc<Queue>,
    consensus: Arc<OnceLock<Arc<dyn Consensus>>>,
}

impl Keeper {
    /// Whom Raft tells its events: give it to `Host::open`.
    pub fn owner(&self) -> Arc<Queue> {
        self.queue.clone()
    }

    /// `Host::open` has returned.
    pub fn opened(&self, consensus: Arc<dyn Consensus>) {
        assert!(self.consensus.set(consensus).is_ok(), "a replica is opened once");
        self.queue.push(queue::Note::Opened);
    }

    /// Ends the replica's actor after its current turn; who waits is told.
    pub fn close(&self) {
        self.queue.close();
    }
}

/// Starts the actor of a replica on the current arbiter, as a follower that waits for its checkpoint.
pub fn start<D: Domain>(env: &Env, post: Post<D::Request>, domain: D, identity: Identity) -> Keeper {
    let wake = Wake::default();
    let queue = Arc::new(Queue::new(wake.clone()));
    let consensus = Arc::default();
    let keeper = Keeper { queue: queue.clone(), consensus: Arc::clone(&consensus) };
    let replica = Replica {
        domain,
        machine: D::Machine::default(),
        fence: Fence::default(),
        status: Status::default(),
        flushed: None,
        proposals: 0,
        queue,
        wake,
        post,
        consensus,
        env: env.clone(),
        identity,
    };
    FollowerActor::start(replica);
    keeper
}
