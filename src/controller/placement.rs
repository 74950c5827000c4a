//! Where replicas go, and who should lead: pure functions.

use crate::types::NodeId;
use highwater_raft::GroupId;
use std::collections::{BTreeMap, BTreeSet};

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
pub fn place(nodes: &BTreeMap<NodeId, Load>, count: u32, replication_factor: u32) -> Option<Vec<Vec<NodeId>>> {
    let _ = (nodes, count, replication_factor);
    todo!()
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

/// Leaderships to move home to the preferred nodes that are alive, at most `moves_max`.
pub fn leader_moves(
    metadata: &super::machine::Metadata,
    leaders: &BTreeMap<GroupId, NodeId>,
    alive: &BTreeSet<NodeId>,
    moves_max: usize,
) -> Vec<LeaderMove> {
    let _ = (metadata, leaders, alive, moves_max);
    todo!()
}
