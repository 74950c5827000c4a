//! Replacement of replicas whose data is gone or damaged.
//!
//! ```text
//!  A voter   A voter              A voter              A voter
//!  B voter   B voter    caught    B voter    swapped   B voter
//!  C voter ▶ C dying      up    ▶ C dying  (one change ▶ D voter
//!            D learner  ───────▶  D ready    of voters)
//! ```
//! Each step is a fact that a node reports; a step that was reported before changes nothing. A successor lives on the
//! node of the one it replaces and stands right behind it, so preferred leaders stay where they are.
//!
//! Of a majority that is lost nothing can be learned: no successor begins, and what is left of the data stays. It may turn
//! out that it is not lost: when a swap was made and not reported yet, successors begin with that report; when a node is back
//! with the directory that it had been without, its replica is what it was. That the controller group has a quorum is shown
//! by each command that it decides.
//!
//! **Invariant:** no node gets back an id whose replica is lost, unless with the very directory that it is in.

use super::{
    ControllerMachine, Placement, Purpose, Refusal, Replica, ReplicaCaughtUp, ReplicaFaulty, ReplicaState, Reply,
    Swapped, nodes::CONTROLLER,
};
use crate::types::NodeId;
use highwater_raft::{DirectoryId, GroupId, ReplicaId};

impl ControllerMachine {
    pub(super) fn replica_faulty(&mut self, command: ReplicaFaulty) -> Result<Reply, Refusal> {
        let ReplicaFaulty { group, replica } = command;
        if self.find(group, replica)?.state != ReplicaState::Dying {
            self.lose(group, replica, None);
        }
        Ok(Reply::Noted)
    }

    pub(super) fn replica_caught_up(&mut self, command: ReplicaCaughtUp) -> Result<Reply, Refusal> {
        let ReplicaCaughtUp { group, replica } = command;
        if self.find(group, replica)?.state == ReplicaState::Learner {
            self.edit(group, |placement| {
                for learner in placement.replicas.iter_mut().filter(|r| r.id == replica) {
                    learner.state = ReplicaState::Ready;
                }
            });
        }
        Ok(Reply::Noted)
    }

    pub(super) fn swapped(&mut self, command: &Swapped) -> Result<Reply, Refusal> {
        let Swapped { group, voters } = command;
        let placement = self.metadata.groups.get(group).ok_or(Refusal::UnknownGroup { group: *group })?;
        let is_in = |r: &Replica| r.state == ReplicaState::Ready && voters.contains(&r.id);
        // A dying one is out only when Raft has voters without it; a report that names none of ours is none.
        let named = placement.replicas.iter().any(|r| voters.contains(&r.id));
        let is_out = |r: &Replica| named && r.state == ReplicaState::Dying && !voters.contains(&r.id);
        if placement.replicas.iter().any(|r| is_in(r) || is_out(r)) {
            self.edit(*group, |placement| {
                placement.replicas.retain(|r| !is_out(r));
                for replica in placement.replicas.iter_mut().filter(|r| is_in(r)) {
                    replica.state = ReplicaState::Voter;
                }
            });
            self.succeed(*group);
        }
        Ok(Reply::Noted)
    }

    /// All replicas of a node are lost with its directory. Returns how many.
    pub(super) fn lose_replicas_of(&mut self, node: NodeId, left_in: DirectoryId) -> u32 {
        let alive = |r: &&Replica| r.node == node && r.state != ReplicaState::Dying;
        let of = |(id, group): (&GroupId, &Placement)| {
            group.replicas.iter().filter(alive).map(|r| (*id, r.id)).collect::<Vec<_>>()
        };
        let lost: Vec<_> = self.metadata.groups.iter().flat_map(of).collect();
        for (group, replica) in &lost {
            self.lose(*group, *replica, Some(left_in));
        }
        u32::try_from(lost.len()).unwrap_or(u32::MAX)
    }

    /// A node has a directory again that it had been without: what is in it goes on in groups that are offline.
    pub(super) fn regain_replicas_of(&mut self, node: NodeId, directory: DirectoryId) {
        let regains = |(id, group): (&GroupId, &Placement)| {
            let here = || group.replicas.iter().filter(|r| r.node == node);
            let replica = here().find(|r| r.left_in == Some(directory))?;
            // Raft may have voters with a successor that was ready, and without this one.
            let votes = here().all(|r| r.id == replica.id || r.state == ReplicaState::Learner);
            (votes && group.is_offline() && *id != CONTROLLER).then_some((*id, replica.id))
        };
        let regained: Vec<_> = self.metadata.groups.iter().filter_map(regains).collect();
        for (group, regained) in regained {
            self.edit(group, |placement| {
                placement.replicas.retain(|r| r.node != node || r.id == regained);
                for replica in placement.replicas.iter_mut().filter(|r| r.id == regained) {
                    (replica.state, replica.left_in) = (ReplicaState::Voter, None);
                }
            });
            self.succeed(group);
        }
    }

    /// A replica is lost: one that may vote is dying until Raft goes without it, one that only learns is replaced at once.
    fn lose(&mut self, group: GroupId, lost: ReplicaId, left_in: Option<DirectoryId>) {
        let Ok(&Replica { state, .. }) = self.find(group, lost) else { return };
        let left_in = left_in.filter(|_| state == ReplicaState::Voter);
        let (id, state) = match state {
            ReplicaState::Learner | ReplicaState::Observer => (self.new_replica(), state),
            ReplicaState::Voter | ReplicaState::Ready | ReplicaState::Dying => (lost, ReplicaState::Dying),
        };
        self.edit(group, |placement| {
            for replica in placement.replicas.iter_mut().filter(|r| r.id == lost) {
                *replica = Replica { id, state, left_in, ..*replica };
            }
        });
        self.succeed(group);
    }

    /// Successors begin for those that are dying without one, unless the majority is lost.
    fn succeed(&mut self, group: GroupId) {
        let Some(placement) = self.metadata.groups.get(&group) else { return };
        if placement.is_offline() && group != CONTROLLER {
            return;
        }
        let alone = |r: &&Replica| placement.hosted_by(r.node) == Some(*r) && r.state == ReplicaState::Dying;
        let alone: Vec<_> = placement.replicas.iter().filter(alone).map(|r| r.node).collect();
        for node in alone {
            let id = self.new_replica();
            self.edit(group, |placement| {
                let last = placement.replicas.iter().rposition(|r| r.node == node).expect("seen above");
                placement.replicas.insert(last + 1, Replica::new(id, node, ReplicaState::Learner));
            });
        }
    }

    fn find(&self, group: GroupId, replica: ReplicaId) -> Result<&Replica, Refusal> {
        let placement = self.metadata.groups.get(&group).ok_or(Refusal::UnknownGroup { group })?;
        placement.replica(replica).ok_or(Refusal::UnknownReplica { group, replica })
    }

    fn edit(&mut self, group: GroupId, edit: impl FnOnce(&mut Placement)) {
        if let Some(placement) = self.change().groups.get_mut(&group) {
            edit(placement);
        }
    }

    /// Partitions whose replicas are damaged or lost on a majority.
    pub fn offline(&self) -> impl Iterator<Item = (GroupId, Purpose)> {
        self.metadata.groups.iter().filter(|(_, group)| group.is_offline()).map(|(id, group)| (*id, group.purpose))
    }
}
