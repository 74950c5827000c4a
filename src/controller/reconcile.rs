//! What a node is to do so that it hosts what the metadata says: a pure comparison.
//!
//! A snapshot may be older than one that this node has acted on before it restarted: the caller compares only snapshots
//! that are at least as new, else a group with data would look deleted. Of the controller's own replica the snapshot may be
//! older all the same, when another one took its place: replica ids only grow, and a lower one never replaces a higher one.

use super::machine::{Metadata, Placement, Purpose, ReplicaState};
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
        /// This replica writes the group's first membership.
        founders: Option<BTreeMap<ReplicaId, NodeId>>,
    },
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
            founders: founders(placement, *id),
        });
    removals.chain(additions).collect()
}

/// The first replica of the placement writes the first membership, as long as it is a founder.
fn founders(placement: &Placement, replica: ReplicaId) -> Option<BTreeMap<ReplicaId, NodeId>> {
    let first = placement.replicas.first()?;
    let is_first =
        first.id == replica && first.state == ReplicaState::Voter && placement.founders.contains_key(&replica);
    is_first.then(|| placement.founders.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        controller::machine::Replica,
        types::{TopicId, TopicPartition},
    };

    fn metadata() -> Metadata {
        let voter = |id, node| Replica { id: ReplicaId(id), node: NodeId(node), state: ReplicaState::Voter };
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
    fn what_is_missing_is_hosted_and_the_first_replica_founds() {
        let steps = plan(&metadata(), NodeId(1), &BTreeMap::from([(GroupId(1030), ReplicaId(80))]));
        let [
            Step::Remove { group: GroupId(1030) },
            Step::Host { replica: ReplicaId(70), founders: Some(founders), .. },
            Step::Host { replica: ReplicaId(73), founders: None, .. },
        ] = &steps[..]
        else {
            panic!("{steps:?}")
        };
        assert_eq!(founders.len(), 2);
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
        group.replicas.insert(1, Replica { id: ReplicaId(90), node: NodeId(1), state: ReplicaState::Learner });
        let hosted = BTreeMap::from([(GroupId(1024), ReplicaId(70)), (GroupId(1025), ReplicaId(73))]);
        let steps = plan(&metadata, NodeId(1), &hosted);
        assert!(
            matches!(&steps[..], [Step::Remove { .. }, Step::Host { replica: ReplicaId(90), founders: None, .. }]),
            "{steps:?}"
        );
    }
}
