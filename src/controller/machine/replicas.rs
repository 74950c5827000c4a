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

use super::{
    ControllerMachine, Placement, Purpose, Refusal, Replica, ReplicaCaughtUp, ReplicaFaulty, ReplicaState, Reply,
    Swapped,
};
use crate::types::NodeId;
use highwater_raft::{GroupId, ReplicaId};

impl ControllerMachine {
    pub(super) fn replica_faulty(&mut self, command: ReplicaFaulty) -> Result<Reply, Refusal> {
        let ReplicaFaulty { group, replica } = command;
        if self.find(group, replica)?.state != ReplicaState::Dying {
            self.lose(group, replica);
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
        }
        Ok(Reply::Noted)
    }

    /// All replicas of a node are lost. Returns how many.
    pub(super) fn lose_replicas_of(&mut self, node: NodeId) -> u32 {
        let alive = |r: &&Replica| r.node == node && r.state != ReplicaState::Dying;
        let of = |(id, group): (&GroupId, &Placement)| {
            group.replicas.iter().filter(alive).map(|r| (*id, r.id)).collect::<Vec<_>>()
        };
        let lost: Vec<_> = self.metadata.groups.iter().flat_map(of).collect();
        for (group, replica) in &lost {
            self.lose(*group, *replica);
        }
        u32::try_from(lost.len()).unwrap_or(u32::MAX)
    }

    /// A replica is lost: one that may vote is dying until Raft goes without it, one that only learns is forgotten.
    /// A successor begins, unless the majority is lost: it could never learn all, and what is left of the data must stay.
    fn lose(&mut self, group: GroupId, lost: ReplicaId) {
        let successor = self.new_replica();
        self.edit(group, |placement| {
            let Some(place) = placement.replicas.iter().position(|r| r.id == lost) else { return };
            let Replica { node, state, .. } = placement.replicas[place];
            let next = match state {
                ReplicaState::Observer => ReplicaState::Observer,
                _ => ReplicaState::Learner,
            };
            let begins = Replica { id: successor, node, state: next };
            match state {
                ReplicaState::Learner | ReplicaState::Observer => placement.replicas[place] = begins,
                ReplicaState::Voter | ReplicaState::Ready | ReplicaState::Dying => {
                    placement.replicas[place].state = ReplicaState::Dying;
                    if !placement.is_offline() {
                        placement.replicas.insert(place + 1, begins);
                    }
                }
            }
        });
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
