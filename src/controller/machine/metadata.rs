//! What the controller knows, as every node reads it: a snapshot that nodes compare with what they host.

use super::settings::Settings;
use crate::types::{NodeId, TopicId, TopicName, TopicPartition};
use highwater_raft::{DirectoryId, GroupId, ReplicaId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where a node is reached; `host:port`, empty when it has no such listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Clients, native protocol, as advertised.
    #[serde(rename = "n", default)]
    pub native: String,
    /// Other nodes: data and bulk.
    #[serde(rename = "p", default)]
    pub peer: String,
    /// Other nodes: control.
    #[serde(rename = "c", default)]
    pub control: String,
    /// Health, metrics, admin.
    #[serde(rename = "h", default)]
    pub http: String,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its data directory's life; absent for a seed that has not registered yet.
    #[serde(rename = "d", default)]
    pub directory: Option<DirectoryId>,
    /// Where it is reached.
    #[serde(rename = "a", default)]
    pub addresses: Addresses,
}

/// How far a replica is in its life.
///
/// ```text
///  founder ───────────────────────────────▶ Voter ──┐ directory changed, or damaged
///  successor: Learner ─ caught up ▶ Ready ─ swapped ▶ Voter      └▶ Dying ─ swapped ▶ (gone; its id is never used again)
///                                             ▲                       │
///                                             └───────────────────────┘ its directory is back, and nothing took its place
///  Observer: stays a learner (controller group on nodes that do not vote)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ReplicaState {
    /// Votes.
    #[serde(rename = "v")]
    Voter,
    /// Is to take the place of a dying one and copies the log.
    #[serde(rename = "l")]
    Learner,
    /// Has the log: may be swapped in.
    #[serde(rename = "r")]
    Ready,
    /// Its data is gone or damaged: to be taken out of the voters.
    #[serde(rename = "d")]
    Dying,
    /// Learns for good.
    #[serde(rename = "o")]
    Observer,
}

/// One replica of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Its id.
    #[serde(rename = "i")]
    pub id: ReplicaId,
    /// Where it lives.
    #[serde(rename = "n")]
    pub node: NodeId,
    /// How far it is.
    #[serde(rename = "s")]
    pub state: ReplicaState,
    /// Of a dying one that its node came back without: the directory that it is in. It is sound if that comes back.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub left_in: Option<DirectoryId>,
}

impl Replica {
    pub(crate) fn new(id: ReplicaId, node: NodeId, state: ReplicaState) -> Self {
        Self { id, node, state, left_in: None }
    }
}

/// What a Raft group is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Purpose {
    /// The controller.
    #[serde(rename = "c")]
    Controller,
    /// A home of consumer groups.
    #[serde(rename = "h")]
    Home,
    /// A partition.
    #[serde(rename = "p")]
    Partition(TopicPartition),
}

/// A Raft group and its replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// What it is for.
    #[serde(rename = "p")]
    pub purpose: Purpose,
    /// Those who initialise the group, all with this membership. Never changes.
    #[serde(rename = "f", default)]
    pub founders: BTreeMap<ReplicaId, NodeId>,
    /// Its replicas, the preferred leader's first. A successor stands right behind the one it replaces.
    #[serde(rename = "r", default)]
    pub replicas: Vec<Replica>,
}

impl Placement {
    /// Replicas that vote and are sound.
    pub fn voters(&self) -> usize {
        self.replicas.iter().filter(|r| r.state == ReplicaState::Voter).count()
    }

    /// Votes that make a decision.
    pub fn quorum(&self) -> usize {
        self.founders.len() / 2 + 1
    }

    /// Damaged or lost on a majority: it cannot elect, and nothing repairs it before a lost directory is back.
    pub fn is_offline(&self) -> bool {
        self.voters() < self.quorum()
    }

    /// Nodes whose replica is damaged or lost, and has not been replaced.
    pub fn damaged(&self) -> Vec<NodeId> {
        self.replicas.iter().filter(|r| r.state == ReplicaState::Dying).map(|r| r.node).collect()
    }

    /// The node that should lead when all is well.
    pub fn preferred(&self) -> Option<NodeId> {
        self.nodes().first().copied()
    }

    /// Nodes with a replica (or its successor), the preferred leader first.
    pub fn nodes(&self) -> Vec<NodeId> {
        let mut nodes = Vec::with_capacity(self.replicas.len());
        for replica in self.replicas.iter().filter(|r| r.state != ReplicaState::Observer) {
            if !nodes.contains(&replica.node) {
                nodes.push(replica.node);
            }
        }
        nodes
    }

    /// A replica by id.
    pub fn replica(&self, id: ReplicaId) -> Option<&Replica> {
        self.replicas.iter().find(|r| r.id == id)
    }

    /// The replica that a node is to host: opened, or created when the node has none of this id. A dying one, which is
    /// named only while nothing replaces it, is never created: what is left of it stays as it is.
    pub fn hosted_by(&self, node: NodeId) -> Option<&Replica> {
        let mut here = self.replicas.iter().filter(|r| r.node == node);
        here.clone().find(|r| r.state != ReplicaState::Dying).or_else(|| here.next())
    }

    /// The voters that the group's leader is to set, given those that Raft has. One change leads from any state to the
    /// next: a dead voter keeps its seat until a successor is ready, so that a quorum never needs fewer replicas.
    pub fn voters_wanted(&self, actual: &BTreeSet<ReplicaId>) -> BTreeSet<ReplicaId> {
        let in_state = |state| self.replicas.iter().filter(move |r| r.state == state).map(|r| r.id);
        let mut wanted: BTreeSet<_> = in_state(ReplicaState::Voter).chain(in_state(ReplicaState::Ready)).collect();
        let dead: Vec<_> = actual.difference(&wanted).copied().collect();
        let seats = self.founders.len().saturating_sub(wanted.len());
        wanted.extend(dead.into_iter().take(seats));
        wanted
    }

    /// Whom the group's leader is to have as members, if only to learn.
    pub fn members_wanted(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|replica| replica.state != ReplicaState::Dying)
    }
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its identity.
    #[serde(rename = "i")]
    pub id: TopicId,
    /// Copies of each partition.
    #[serde(rename = "r", default)]
    pub replication_factor: u32,
    /// What differs from the defaults.
    #[serde(rename = "s", default)]
    pub settings: Settings,
    /// The Raft groups of its partitions, in order from 0.
    #[serde(rename = "p", default)]
    pub partitions: Vec<GroupId>,
}

/// All of it. Nodes publish clones; nothing in it changes without a new `version`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Rises with each change; 0 before the bootstrap.
    #[serde(rename = "v", default)]
    pub version: u64,
    /// Minted at bootstrap.
    #[serde(rename = "c", default)]
    pub cluster_id: Option<u64>,
    /// How many homes consumer groups have: Raft groups 1 to this.
    #[serde(rename = "h", default)]
    pub homes: u64,
    /// Nodes.
    #[serde(rename = "n", default)]
    pub nodes: BTreeMap<NodeId, Node>,
    /// Topics.
    #[serde(rename = "t", default)]
    pub topics: BTreeMap<TopicName, Topic>,
    /// All Raft groups: controller, homes, partitions.
    #[serde(rename = "g", default)]
    pub groups: BTreeMap<GroupId, Placement>,
    /// Derived from `topics`.
    #[serde(skip)]
    pub(super) names: BTreeMap<TopicId, TopicName>,
}

impl Metadata {
    /// The name of a topic.
    pub fn name_of(&self, topic: TopicId) -> Option<&TopicName> {
        self.names.get(&topic)
    }

    /// A topic by id.
    pub fn topic(&self, topic: TopicId) -> Option<&Topic> {
        self.topics.get(self.names.get(&topic)?)
    }

    /// The Raft group of a partition.
    pub fn group_of(&self, partition: TopicPartition) -> Option<GroupId> {
        self.topic(partition.topic)?.partitions.get(usize::try_from(partition.partition).ok()?).copied()
    }

    /// Where a partition lives.
    pub fn placement_of(&self, partition: TopicPartition) -> Option<&Placement> {
        self.groups.get(&self.group_of(partition)?)
    }

    /// The replicas that a node is to host. What it hosts beyond them, it removes.
    pub fn hosted_by(&self, node: NodeId) -> impl Iterator<Item = (GroupId, &Placement, &Replica)> {
        self.groups.iter().filter_map(move |(id, group)| group.hosted_by(node).map(|replica| (*id, group, replica)))
    }
}
