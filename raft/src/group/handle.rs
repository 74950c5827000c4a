//! One replica of a group.

use super::{BarrierError, ChangeError, Role, TransferError};
use crate::{
    GroupId, NodeId, Payload, ReplicaId,
    log::{self, LogId},
    openraft::{Node, Proposed, Replica},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};
use tokio::sync::watch;

/// One replica of a group, hosted here. Clones share; may be used from any thread.
#[derive(Clone)]
pub struct Group {
    pub(super) replica: Arc<Replica>,
    pub(super) node: Arc<Node>,
}

impl Group {
    /// Which group.
    pub fn id(&self) -> GroupId {
        self.replica.shared.group
    }

    /// As which replica.
    pub fn replica(&self) -> ReplicaId {
        self.replica.shared.replica
    }

    /// Proposes an entry for `term`. The outcome comes as events under the caller's number `proposal`.
    pub fn propose(&self, proposal: u64, term: u64, payload: Payload) {
        self.replica.propose(Proposed { proposal, term, payload });
    }

    /// What this replica is now.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.replica.role.subscribe()
    }

    /// Read-index: after a quorum said that this replica still leads, waits until all that was committed before is
    /// applied here, and returns the index of the last of it.
    pub async fn barrier(&self) -> Result<u64, BarrierError> {
        self.replica.barrier().await
    }

    /// Stands in the first election of this life before the others do, who wait for a lease: in a group that was
    /// [founded](super::Host::found) just now, where nobody can have given one.
    pub fn stand_first(&self) {
        self.replica.stand_first();
    }

    /// Adds a replica that gets the log but does not vote.
    pub async fn add_learner(&self, replica: ReplicaId, node: NodeId) -> Result<(), ChangeError> {
        self.replica.add_learner(replica, node).await
    }

    /// Changes who votes; all of them are members already. Former voters leave with `remove_others`, else they stay
    /// as learners.
    pub async fn set_voters(&self, voters: BTreeSet<ReplicaId>, remove_others: bool) -> Result<(), ChangeError> {
        self.replica.set_voters(voters, remove_others).await
    }

    /// Hands leadership to another voter. After the deadline the other voters are asked to elect.
    pub async fn transfer(&self, to: ReplicaId) -> Result<(), TransferError> {
        self.replica.transfer(to).await
    }

    /// Leader only: up to where each replica's log is known to equal ours.
    pub fn progress(&self) -> Option<BTreeMap<ReplicaId, Option<LogId>>> {
        self.replica.progress()
    }

    /// Drops whole segments below `start_offset` and moves Raft's start behind them.
    pub async fn compact(&self, start_offset: u64) -> io::Result<()> {
        self.replica.compact(start_offset).await
    }

    /// Its log, for reads of applied entries.
    pub fn log(&self) -> log::Group {
        self.replica.shared.log.clone()
    }

    /// Leaves Raft until it is opened again.
    pub async fn close(&self) {
        self.node.close(self.replica.shared.group).await;
    }
}
