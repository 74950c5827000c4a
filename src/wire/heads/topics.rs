//! Topics and their partitions.

use crate::types::{NodeId, TopicId, TopicName};
use serde::{Deserialize, Serialize};

/// A topic as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicMetadata {
    /// Its name.
    #[serde(rename = "n")]
    pub name: TopicName,
    /// Its id.
    #[serde(rename = "i")]
    pub id: TopicId,
    /// Copies of each partition.
    #[serde(rename = "r", default)]
    pub replication_factor: u32,
    /// Settings that differ from the defaults, by name.
    #[serde(rename = "s", default)]
    pub settings: Vec<(String, String)>,
    /// Partitions, in order from 0.
    #[serde(rename = "p", default)]
    pub partitions: Vec<PartitionMetadata>,
}

/// A partition as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartitionMetadata {
    /// Who leads, as far as the answering node knows.
    #[serde(rename = "l", default)]
    pub leader: Option<NodeId>,
    /// The leader's epoch.
    #[serde(rename = "e", default)]
    pub leader_epoch: u64,
    /// Nodes with a replica; the first is the preferred leader.
    #[serde(rename = "r", default)]
    pub replicas: Vec<NodeId>,
    /// Damaged on a majority.
    #[serde(rename = "o", default)]
    pub offline: bool,
    /// Nodes whose replica is damaged or lost, and has not been replaced.
    #[serde(rename = "d", default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<NodeId>,
}

/// Makes a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateTopic {
    /// Its name.
    #[serde(rename = "n")]
    pub name: TopicName,
    /// Its identity, drawn by the client, so that a request whose answer got lost can be repeated; by the node when absent.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub id: Option<TopicId>,
    /// Partitions; the cluster's default when 0.
    #[serde(rename = "p", default)]
    pub partitions: u32,
    /// Copies; the cluster's default when 0.
    #[serde(rename = "r", default)]
    pub replication_factor: u32,
    /// Settings by name, e.g. `retention.ms`.
    #[serde(rename = "s", default)]
    pub settings: Vec<(String, String)>,
}

/// Answer to [`CreateTopic`]: it exists, and a majority of each partition's replicas is up.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TopicCreated {
    /// Its id.
    #[serde(rename = "i", default)]
    pub id: TopicId,
    /// Its partitions.
    #[serde(rename = "p", default)]
    pub partitions: u32,
    /// Copies of each.
    #[serde(rename = "r", default)]
    pub replication_factor: u32,
}

/// Removes a topic with all its records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteTopic {
    /// Its name.
    #[serde(rename = "n")]
    pub name: TopicName,
    /// Only this one: a request that comes late or twice spares a topic that was made under the same name meanwhile.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub id: Option<TopicId>,
}

/// Changes a topic's settings: a value of `None` goes back to the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterTopic {
    /// Its name.
    #[serde(rename = "n")]
    pub name: TopicName,
    /// Settings by name.
    #[serde(rename = "s", default)]
    pub settings: Vec<(String, Option<String>)>,
    /// More partitions; 0 leaves them.
    #[serde(rename = "p", default)]
    pub partitions: u32,
}

/// Asks a partition's leader to hand over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferLeader {
    /// Which topic.
    #[serde(rename = "t")]
    pub topic: TopicId,
    /// Which partition.
    #[serde(rename = "p", default)]
    pub partition: u32,
    /// To which node.
    #[serde(rename = "n")]
    pub to: NodeId,
}
