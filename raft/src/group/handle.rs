//! One replica of a group.

use super::{BarrierError, ChangeError, Role, TransferError};
use crate::{
    GroupId, NodeId, Payload, ReplicaId,
    log::{self, LogId},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};
use tokio::sync::watch;

/// One replica of a group, hosted here. Clones share; may be used from any thread.
#[derive(Clone)]
pub struct Group(Arc<()>);

impl Group {
    /// Which group.
    pub fn id(&self) -> GroupId {
        todo!()
    }

    /// As which replica.
    pub fn replica(&self) -> ReplicaId {
        todo!()
    }

    /// Proposes an entry for `term`. The outcome comes as events under the caller's number `proposal`.
    pub fn propose(&self, proposal: u64, term: u64, payload: Payload) {
        let _ = (proposal, term, payload);
        todo!()
    }

    /// What this replica is now.
    pub fn role(&self) -> watch::Receiver<Role> {
        todo!()
    }

    /// Read-index: after a quorum said that this replica still leads, waits until all that was committed before is
    /// applied here, and returns the index of the last of it.
    pub async fn barrier(&self) -> Result<u64, BarrierError> {
        todo!()
    }

    /// Writes the first membership. Only on one replica, only when all are empty.
    pub async fn initialize(&self, voters: BTreeMap<ReplicaId, NodeId>) -> Result<(), ChangeError> {
        let _ = voters;
        todo!()
    }

    /// Adds a replica that gets the log but does not vote.
    pub async fn add_learner(&self, replica: ReplicaId, node: NodeId) -> Result<(), ChangeError> {
        let _ = (replica, node);
        todo!()
    }

    /// Changes who votes; all of them are members already. Former voters leave with `remove_others`, else they stay
    /// as learners.
    pub async fn set_voters(&self, voters: BTreeSet<ReplicaId>, remove_others: bool) -> Result<(), ChangeError> {
        let _ = (voters, remove_others);
        todo!()
    }

    /// Hands leadership to another voter. After the deadline the other voters are asked to elect.
    pub async fn transfer(&self, to: ReplicaId) -> Result<(), TransferError> {
        let _ = to;
        todo!()
    }

    /// Leader only: up to where each replica's log is known to equal ours.
    pub fn progress(&self) -> Option<BTreeMap<ReplicaId, Option<LogId>>> {
        todo!()
    }

    /// Drops whole segments below `start_offset` and moves Raft's start behind them.
    pub async fn compact(&self, start_offset: u64) -> io::Result<()> {
        let _ = start_offset;
        todo!()
    }

    /// Its log, for reads of applied entries.
    pub fn log(&self) -> log::Group {
        todo!()
    }

    /// Leaves Raft until it is opened again.
    pub async fn close(&self) {
        todo!()
    }
}
