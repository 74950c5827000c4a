//! What a node is to do so that it hosts what the metadata says: a pure comparison.
//!
//! A snapshot may be older than one that this node has acted on before it restarted: the caller compares only snapshots
//! that are at least as new, else a group with data would look deleted. Of the controller's own replica the snapshot may be
//! older all the same, when another one took its place: replica ids only grow, and a lower one never replaces a higher one.

use super::machine::{Metadata, Placement, Purpose, Replica, ReplicaState};
use crate::types::NodeId;
use highwater_raft::{GroupId, ReplicaId};
use std::collections::BTreeMap;

/// One step. Removals come first, so that another replica of the same group can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Close it and drop its data.
    Remove {
        /// Which group.
        group: GroupId,
    },
    /// Open it, or make it when the directory has none.
    Host {
        /// Which group.
        group: GroupId,
        /// As which replica.
        replica: ReplicaId,
        /// What it is for.
        purpose: Purpose,
        /// Of a replica that founded the group.
        initial: Option<InitialMembership>,
    },
}

/// The first membership of a group. All its voters write it, the same one, before they open: whoever is gone before it did
/// anything is missed by nobody but a minority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMembership {
    /// Who votes.
    pub voters: BTreeMap<ReplicaId, NodeId>,
    /// Whether this one tries to lead at once.
    pub is_first: bool,
}

/// What leads from `hosted` to what `metadata` says of `node`.
pub fn plan(metadata: &Metadata, node: NodeId, hosted: &BTreeMap<GroupId, ReplicaId>) -> Vec<Step> {
    let wanted: BTreeMap<GroupId, (&Placement, ReplicaId, ReplicaState)> = metadata
        .hosted_by(node)
        .map(|(group, placement, replica)| (group, (placement, replica.id, replica.state)))
        .collect();
    let is_wanted =
        |(group, replica): &(&GroupId, &ReplicaId)| wanted.get(group).is_some_and(|(_, id, _)| id <= *replica);
    let removals = hosted.iter().filter(|entry| !is_wanted(entry)).map(|(group, _)| Step::Remove { group: *group });
    let additions = wanted
        .iter()
        .filter(|(group, (_, id, state))| {
            hosted.get(group).is_none_or(|here| here < id) && *state != ReplicaState::Dying
        })
        .map(|(group, (placement, id, _))| Step::Host {
            group: *group,
            replica: *id,
            purpose: placement.purpose,
            initial: initial(placement, *id),
        });
    removals.chain(additions).collect()
}

/// The first founder that is there, in the order of the placement, is to lead.
fn initial(placement: &Placement, replica: ReplicaId) -> Option<InitialMembership> {
    let may = |r: &&Replica| r.state == ReplicaState::Voter && placement.founders.contains_key(&r.id);
    let turn = placement.replicas.iter().filter(may).position(|r| r.id == replica)?;
    Some(InitialMembership { voters: placement.founders.clone(), is_first: turn == 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{TopicId, TopicPartition};

    fn metadata() -> Metadata {
        let voter = |id, node| Replica::new(ReplicaId(id), NodeId(node), ReplicaState::Voter);
        let partition = |n, replicas: Vec<Replica>| Placement {
            purpose: Purpose::Partition(TopicPartition { topic: TopicId::default(), partition: n }),
            founders: replicas.iter().map(|r| (r.id, r.node)).collect(),
            replicas,
        };
        let mut metadata = Metadata::default();
        metadata.groups.insert(GroupId(1024), partition(0, vec![voter(70, 1), voter(71, 2)]));
        metadata.groups.insert(GroupId(1025), partition(1, vec![voter(72, 2), voter(73, 1)]));
        metadata
    }

    #[test]
    fn what_is_missing_is_hosted_and_the_first_founder_leads() {
        let steps = plan(&metadata(), NodeId(1), &BTreeMap::from([(GroupId(1030), ReplicaId(80))]));
        let [
            Step::Remove { group: GroupId(1030) },
            Step::Host { replica: ReplicaId(70), initial: Some(InitialMembership { voters, is_first: true }), .. },
            Step::Host { replica: ReplicaId(73), initial: Some(InitialMembership { is_first: false, .. }), .. },
        ] = &steps[..]
        else {
            panic!("{steps:?}")
        };
        assert_eq!(voters.len(), 2);
    }

    #[test]
    fn a_replica_is_never_replaced_by_an_older_one() {
        let hosted = BTreeMap::from([(GroupId(1024), ReplicaId(95)), (GroupId(1025), ReplicaId(73))]);
        assert_eq!(plan(&metadata(), NodeId(1), &hosted), []);
    }

    #[test]
    fn a_successor_takes_the_place_of_a_dead_replica() {
        let mut metadata = metadata();
        let group = metadata.groups.get_mut(&GroupId(1024)).unwrap();
        group.replicas[0].state = ReplicaState::Dying;
        group.replicas.insert(1, Replica::new(ReplicaId(90), NodeId(1), ReplicaState::Learner));
        let hosted = BTreeMap::from([(GroupId(1024), ReplicaId(70)), (GroupId(1025), ReplicaId(73))]);
        let steps = plan(&metadata, NodeId(1), &hosted);
        assert!(
            matches!(&steps[..], [Step::Remove { .. }, Step::Host { replica: ReplicaId(90), initial: None, .. }]),
            "{steps:?}"
        );
        let steps = plan(&metadata, NodeId(2), &BTreeMap::from([(GroupId(1025), ReplicaId(72))]));
        let [Step::Host { replica: ReplicaId(71), initial: Some(initial), .. }] = &steps[..] else {
            panic!("{steps:?}")
        };
        let voters = BTreeMap::from([(ReplicaId(70), NodeId(1)), (ReplicaId(71), NodeId(2))]);
        assert_eq!(
            *initial,
            InitialMembership { voters, is_first: true },
            "the dead one leads nothing, and is a member all the same"
        );
    }
}
