//! Where replicas go, and who should lead: pure functions of what nodes carry.

use super::machine::{Metadata, ReplicaState};
use crate::types::NodeId;
use highwater_raft::GroupId;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// What a node carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Groups that it is preferred to lead.
    pub leaders: u32,
    /// Replicas that it hosts.
    pub replicas: u32,
    /// Used only where there are not enough others.
    pub avoid: bool,
}

/// Nodes for each of `count` new groups, the preferred leader first. `None` when there are fewer nodes than copies.
///
/// A group takes the nodes with the fewest replicas; the one of them with the fewest leaderships leads. Leaders and
/// replicas of equal nodes differ by at most one after each group, wherever that is possible.
pub fn place(nodes: &BTreeMap<NodeId, Load>, count: u32, replication_factor: u32) -> Option<Vec<Vec<NodeId>>> {
    let copies = usize::try_from(replication_factor).ok()?;
    if copies == 0 || copies > nodes.len() {
        return None;
    }
    let mut nodes = nodes.clone();
    let placed = (0..count).map(|_| {
        let chosen = choose(&nodes, copies);
        for (i, node) in chosen.iter().enumerate() {
            let load = nodes.entry(*node).or_default();
            load.replicas += 1;
            load.leaders += u32::from(i == 0);
        }
        chosen
    });
    Some(placed.collect())
}

/// The leader is chosen first, from all nodes: else a node that is never among those with the fewest replicas would
/// never lead.
fn choose(nodes: &BTreeMap<NodeId, Load>, copies: usize) -> Vec<NodeId> {
    let leader =
        nodes.iter().min_by_key(|(id, load)| (load.avoid, load.leaders, load.replicas, **id)).map(|(id, _)| *id);
    let mut others: Vec<_> = nodes.iter().filter(|(id, _)| Some(**id) != leader).collect();
    others.sort_by_key(|(id, load)| (load.avoid, load.replicas, Reverse(load.leaders), **id));
    leader.into_iter().chain(others.into_iter().map(|(id, _)| *id)).take(copies).collect()
}

/// What each registered node carries, by the placement of all groups but the controller's.
pub fn loads(metadata: &Metadata, avoid: &BTreeSet<NodeId>) -> BTreeMap<NodeId, Load> {
    let empty = |node: &NodeId| Load { avoid: avoid.contains(node), ..Load::default() };
    let mut loads: BTreeMap<_, _> = metadata.nodes.keys().map(|node| (*node, empty(node))).collect();
    for (_, group) in metadata.groups.iter().filter(|(id, _)| id.0 != crate::limits::CONTROLLER_GROUP) {
        for (i, node) in group.nodes().into_iter().enumerate() {
            if let Some(load) = loads.get_mut(&node) {
                load.replicas += 1;
                load.leaders += u32::from(i == 0);
            }
        }
    }
    loads
}

/// A leadership that should go to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderMove {
    /// Of which group.
    pub group: GroupId,
    /// Who leads.
    pub from: NodeId,
    /// Who should.
    pub to: NodeId,
}

/// Leaderships to move home: to preferred nodes that are alive and vote, at most `moves_max`, first those of the nodes
/// that lead the most. Placement spreads preferred leaders evenly, so this does too.
pub fn leader_moves(
    metadata: &Metadata,
    leaders: &BTreeMap<GroupId, NodeId>,
    alive: &BTreeSet<NodeId>,
    moves_max: usize,
) -> Vec<LeaderMove> {
    let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
    for node in leaders.values() {
        *led.entry(*node).or_default() += 1;
    }
    let home = |(group, from): (&GroupId, &NodeId)| {
        let placement = metadata.groups.get(group)?;
        let to = placement.preferred()?;
        let votes = placement.replicas.iter().any(|r| r.node == to && r.state == ReplicaState::Voter);
        (to != *from && votes && alive.contains(&to)).then_some(LeaderMove { group: *group, from: *from, to })
    };
    let mut moves: Vec<_> = leaders.iter().filter_map(home).collect();
    moves.sort_by_key(|m| (Reverse(led.get(&m.from).copied()), m.group));
    moves.truncate(moves_max);
    moves
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spread(counts: impl Iterator<Item = u32> + Clone) -> u32 {
        counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn equal_nodes_carry_equally(nodes in 1u32..9, copies in 1u32..6, topics in prop::collection::vec(1u32..20, 1..6)) {
            let mut loads: BTreeMap<_, _> = (1..=nodes).map(|id| (NodeId(id), Load::default())).collect();
            for count in topics {
                let Some(placed) = place(&loads, count, copies) else {
                    prop_assert!(copies > nodes);
                    return Ok(());
                };
                prop_assert_eq!(&place(&loads, count, copies), &Some(placed.clone()));
                for group in &placed {
                    prop_assert_eq!(group.len(), copies as usize);
                    prop_assert_eq!(group.iter().collect::<BTreeSet<_>>().len(), copies as usize, "distinct nodes");
                    for (i, node) in group.iter().enumerate() {
                        let load = loads.get_mut(node).unwrap();
                        load.replicas += 1;
                        load.leaders += u32::from(i == 0);
                    }
                }
                prop_assert!(spread(loads.values().map(|l| l.leaders)) <= 1, "leaders: {:?}", loads);
                prop_assert!(spread(loads.values().map(|l| l.replicas)) <= 2, "replicas: {:?}", loads);
            }
        }

        #[test]
        fn avoided_nodes_are_used_only_where_needed(nodes in 2u32..8, copies in 1u32..5, avoided in 1u32..4) {
            let load = |id| Load { avoid: id <= avoided, ..Load::default() };
            let nodes: BTreeMap<_, _> = (1..=nodes).map(|id| (NodeId(id), load(id))).collect();
            let others = nodes.values().filter(|l| !l.avoid).count();
            for group in place(&nodes, 12, copies).into_iter().flatten() {
                let bad = group.iter().filter(|n| nodes[n].avoid).count();
                prop_assert_eq!(bad, (copies as usize).saturating_sub(others));
                prop_assert!(others == 0 || !nodes[&group[0]].avoid, "an avoided node is never preferred to lead");
            }
        }
    }
}
