//! What the proposer of a command is told.

use super::settings::SettingError;
use crate::{
    advice::{Advice, Reaction},
    limits,
    types::{NodeId, ProducerId, TopicId, TopicName},
};
use highwater_raft::{GroupId, ReplicaId};
use thiserror::Error;

/// Outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The cluster exists.
    Bootstrapped {
        /// Its id.
        cluster_id: u64,
    },
    /// The node is known.
    Registered {
        /// The cluster's id.
        cluster_id: u64,
        /// The node's replica of the controller group.
        controller: ReplicaId,
        /// Replicas of the node that are dead because its directory is another one.
        lost: u32,
    },
    /// The topic is there.
    TopicCreated {
        /// Its id.
        id: TopicId,
        /// Its partitions.
        partitions: u32,
        /// Copies of each.
        replication_factor: u32,
    },
    /// The topic is as asked.
    TopicAltered,
    /// The topic is gone.
    TopicDeleted {
        /// Which it was.
        id: TopicId,
    },
    /// What was said of a replica or group is noted, or was known before.
    Noted,
    /// Producer ids: `first .. first + count`.
    ProducerBlock {
        /// The first one.
        first: ProducerId,
        /// How many.
        count: u64,
    },
    /// Nothing was changed.
    Refused(Refusal),
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Nothing goes before the bootstrap.
    #[error("the cluster is not bootstrapped yet")]
    NotBootstrapped,
    /// A cluster is bootstrapped once.
    #[error("the cluster is bootstrapped with id {cluster_id:016x}")]
    Bootstrapped {
        /// Its id.
        cluster_id: u64,
    },
    /// A bootstrap that makes no cluster.
    #[error("the bootstrap makes no sense: {why}")]
    BadBootstrap {
        /// What is wrong.
        why: &'static str,
    },
    /// A node id outside `1..2^16`.
    #[error("{node} is not a node id: they are 1 to {}", limits::NODE_ID_END - 1)]
    BadNode {
        /// Which.
        node: NodeId,
    },
    /// A node that never registered.
    #[error("node {node} is not known")]
    UnknownNode {
        /// Which.
        node: NodeId,
    },
    /// The name is taken.
    #[error("topic {name} exists")]
    TopicExists {
        /// Which.
        name: TopicName,
    },
    /// The id is taken.
    #[error("a topic with id {id} exists")]
    TopicIdExists {
        /// Which.
        id: TopicId,
    },
    /// No such topic.
    #[error("topic {name} does not exist")]
    UnknownTopic {
        /// Which.
        name: TopicName,
    },
    /// A partition cannot have two copies on a node.
    #[error("replication factor {replication_factor} needs as many nodes, there are {nodes}")]
    TooFewNodes {
        /// Copies asked for.
        replication_factor: u32,
        /// Nodes there are.
        nodes: usize,
    },
    /// More copies than are served.
    #[error("replication factor {replication_factor} is above the limit of {}", limits::REPLICATION_FACTOR_MAX)]
    TooManyCopies {
        /// Copies asked for.
        replication_factor: u32,
    },
    /// More partitions than a topic may have.
    #[error("{partitions} partitions are above the limit of {} per topic", limits::PARTITIONS_PER_TOPIC_MAX)]
    TooManyPartitions {
        /// How many it would have.
        partitions: u32,
    },
    /// Partitions are never taken away.
    #[error("topic {name} has {partitions} partitions and cannot have {wanted}")]
    FewerPartitions {
        /// Which topic.
        name: TopicName,
        /// What it has.
        partitions: u32,
        /// What was asked for.
        wanted: u32,
    },
    /// A node would host more replicas than it can hold in memory.
    #[error("node {node} would host more than {} replicas", limits::REPLICAS_PER_NODE_MAX)]
    NodesFull {
        /// The first such node.
        node: NodeId,
    },
    /// A setting that is none, or a value that it cannot have.
    #[error(transparent)]
    BadSetting(#[from] SettingError),
    /// No such group.
    #[error("group {group} does not exist (any more)")]
    UnknownGroup {
        /// Which.
        group: GroupId,
    },
    /// No such replica.
    #[error("group {group} has no replica {replica} (any more)")]
    UnknownReplica {
        /// Which group.
        group: GroupId,
        /// Which replica.
        replica: ReplicaId,
    },
    /// All producer ids of the cluster are given out.
    #[error("no producer ids are left")]
    NoProducerIds,
    /// The bytes of a command do not decode.
    #[error("command {kind} does not decode: {why}")]
    Malformed {
        /// Its kind.
        kind: u8,
        /// What is wrong.
        why: String,
    },
    /// A kind that this version does not have.
    #[error("command {kind} is not known to this version")]
    UnknownCommand {
        /// Its kind.
        kind: u8,
    },
}

impl Advice for Refusal {
    fn reaction(&self) -> Reaction {
        match self {
            Self::NotBootstrapped => Reaction::Retry { after_ms: 200 },
            Self::Bootstrapped { .. } | Self::BadBootstrap { .. } => Reaction::Reject,
            Self::BadNode { .. } | Self::UnknownNode { .. } => Reaction::Reject,
            Self::TopicExists { .. } | Self::TopicIdExists { .. } | Self::UnknownTopic { .. } => Reaction::Reject,
            Self::TooFewNodes { .. } | Self::TooManyCopies { .. } | Self::TooManyPartitions { .. } => Reaction::Reject,
            Self::FewerPartitions { .. } | Self::NodesFull { .. } | Self::NoProducerIds => Reaction::Reject,
            Self::BadSetting(error) => error.reaction(),
            Self::UnknownGroup { .. } | Self::UnknownReplica { .. } => Reaction::Reject,
            Self::Malformed { .. } | Self::UnknownCommand { .. } => Reaction::Reject,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::NotBootstrapped => "wait until all seeds of the config are up".into(),
            Self::Bootstrapped { .. } => "start the node with an empty data directory to join this cluster".into(),
            Self::BadBootstrap { .. } => "correct the [cluster] section of the config".into(),
            Self::BadNode { .. } => "correct the id in the [node] section of the config".into(),
            Self::UnknownNode { .. } => "start the node: it registers itself".into(),
            Self::TopicExists { .. } => "choose another name, or alter the topic".into(),
            Self::TopicIdExists { .. } => "draw another id".into(),
            Self::UnknownTopic { .. } => "check the name, or create the topic".into(),
            Self::TooFewNodes { nodes, .. } => {
                format!("ask for a replication factor of {nodes} or less, or start more nodes")
            }
            Self::TooManyCopies { .. } => {
                format!("ask for a replication factor of {} or less", limits::REPLICATION_FACTOR_MAX)
            }
            Self::TooManyPartitions { .. } => {
                format!("ask for {} partitions or fewer", limits::PARTITIONS_PER_TOPIC_MAX)
            }
            Self::FewerPartitions { .. } => "make another topic with fewer partitions and copy the records".into(),
            Self::NodesFull { .. } => "add nodes, or delete topics that nobody uses".into(),
            Self::BadSetting(error) => error.advice(),
            Self::UnknownGroup { .. } | Self::UnknownReplica { .. } => "read the metadata again: it has changed".into(),
            Self::NoProducerIds => "make a new cluster: ids are never used twice".into(),
            Self::Malformed { .. } | Self::UnknownCommand { .. } => "bring all nodes to the same version".into(),
        }
    }
}
