//! Bootstrap, registration of nodes, producer ids.

use super::{
    Bootstrap, ControllerMachine, Node, Placement, Purpose, Refusal, RegisterNode, Replica, ReplicaState, Reply, Seed,
    TakeProducerBlock,
};
use crate::{
    controller::placement::{Load, place},
    limits,
    sabotage::{self, Bug},
    types::{NodeId, ProducerId},
};
use highwater_raft::{GroupId, ReplicaId};
use std::collections::BTreeMap;

pub(super) const CONTROLLER: GroupId = GroupId(limits::CONTROLLER_GROUP);
/// Bits of the cluster id that are in its producer ids.
const CLUSTER_BITS: u64 = (1 << 23) - 1;

impl ControllerMachine {
    pub(super) fn bootstrap(&mut self, command: Bootstrap) -> Result<Reply, Refusal> {
        let Bootstrap { cluster_id, seeds, homes } = command;
        match self.metadata.cluster_id {
            Some(known) if known == cluster_id => return Ok(Reply::Bootstrapped { cluster_id }),
            Some(known) => return Err(Refusal::Bootstrapped { cluster_id: known }),
            None => {}
        }
        let seeds: BTreeMap<NodeId, Seed> = seeds.into_iter().map(|seed| (seed.node, seed)).collect();
        let bad = |why| Err(Refusal::BadBootstrap { why });
        if seeds.is_empty() || seeds.len() > limits::SEEDS_MAX {
            return bad("there are 1 to 7 seeds");
        }
        if homes == 0 || homes > limits::HOME_GROUPS {
            return bad("there are 1 to 16 homes of consumer groups");
        }
        seeds.keys().try_for_each(|node| check_node(*node))?;

        let controller = seeds.keys().map(|node| (ReplicaId(u64::from(node.0)), *node)).collect();
        let nodes: BTreeMap<_, _> = seeds.keys().map(|node| (*node, Load::default())).collect();
        let copies = u32::try_from(seeds.len()).map_or(1, |seeds| seeds.min(limits::REPLICATION_FACTOR_DEFAULT));
        let count = u32::try_from(homes).map_or(0, |homes| homes);
        let placed = place(&nodes, count, copies).expect("as many copies as seeds at most");
        let homes_placed: Vec<_> = placed.iter().map(|nodes| self.found(Purpose::Home, nodes)).collect();

        let metadata = self.change();
        metadata.cluster_id = Some(cluster_id);
        metadata.homes = homes;
        let node = |(id, seed): (NodeId, Seed)| (id, Node { directory: seed.directory, addresses: seed.addresses });
        metadata.nodes = seeds.into_iter().map(node).collect();
        metadata.groups.insert(CONTROLLER, founded(Purpose::Controller, controller));
        metadata.groups.extend((1..).map(GroupId).zip(homes_placed));
        Ok(Reply::Bootstrapped { cluster_id })
    }

    /// A new group on these nodes, the preferred leader first.
    pub(super) fn found(&mut self, purpose: Purpose, nodes: &[NodeId]) -> Placement {
        founded(purpose, nodes.iter().map(|node| (self.new_replica(), *node)).collect())
    }

    pub(super) fn register_node(&mut self, command: RegisterNode) -> Result<Reply, Refusal> {
        let RegisterNode { node, directory, addresses } = command;
        let cluster_id = self.bootstrapped()?;
        check_node(node)?;
        let known = self.metadata.nodes.get(&node);
        let left = known.and_then(|known| known.directory).filter(|left| *left != directory);
        let lost = match left {
            Some(left) if !sabotage::on(Bug::WipedKeepsId) => {
                let lost = self.lose_replicas_of(node, left);
                self.regain_replicas_of(node, directory);
                lost
            }
            _ => 0,
        };
        let record = Node { directory: Some(directory), addresses };
        if self.metadata.nodes.get(&node) != Some(&record) {
            self.change().nodes.insert(node, record);
        }
        let controller = self.controller_replica_of(node);
        Ok(Reply::Registered { cluster_id, controller, lost })
    }

    /// Every node has a replica of the controller group: one that learns, unless it votes.
    fn controller_replica_of(&mut self, node: NodeId) -> ReplicaId {
        let hosted = self.metadata.groups.get(&CONTROLLER).and_then(|group| group.hosted_by(node));
        if let Some(replica) = hosted {
            return replica.id;
        }
        let id = self.new_replica();
        if let Some(group) = self.change().groups.get_mut(&CONTROLLER) {
            group.replicas.push(Replica::new(id, node, ReplicaState::Observer));
        }
        id
    }

    pub(super) fn take_producer_block(&mut self, command: TakeProducerBlock) -> Result<Reply, Refusal> {
        let cluster_id = self.bootstrapped()?;
        if !self.metadata.nodes.contains_key(&command.node) {
            return Err(Refusal::UnknownNode { node: command.node });
        }
        let count = limits::PRODUCER_ID_BLOCK;
        let end = self.next_producer_block.checked_add(1).and_then(|next| next.checked_mul(count));
        if end.is_none_or(|end| end > 1 << limits::PRODUCER_COUNTER_BITS) {
            return Err(Refusal::NoProducerIds);
        }
        let counter = self.next_producer_block * count;
        self.next_producer_block += 1;
        let id = ((cluster_id & CLUSTER_BITS) << limits::PRODUCER_COUNTER_BITS) | counter;
        Ok(Reply::ProducerBlock { first: ProducerId(id.cast_signed()), count })
    }
}

fn founded(purpose: Purpose, founders: Vec<(ReplicaId, NodeId)>) -> Placement {
    let replica = |(id, node): &(ReplicaId, NodeId)| Replica::new(*id, *node, ReplicaState::Voter);
    Placement { purpose, replicas: founders.iter().map(replica).collect(), founders: founders.into_iter().collect() }
}

fn check_node(node: NodeId) -> Result<(), Refusal> {
    if node.0 == 0 || node.0 >= limits::NODE_ID_END { Err(Refusal::BadNode { node }) } else { Ok(()) }
}
