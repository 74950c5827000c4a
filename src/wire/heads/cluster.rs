//! Connections, nodes and the cluster.

use super::TopicMetadata;
use crate::types::{NodeId, TopicName};
use serde::{Deserialize, Serialize};

/// First frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest protocol version that the client speaks.
    #[serde(rename = "a", default)]
    pub version_min: u16,
    /// Newest one.
    #[serde(rename = "b", default)]
    pub version_max: u16,
    /// The client's name for logs.
    #[serde(rename = "n", default)]
    pub client: String,
}

/// Answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that both will use.
    #[serde(rename = "v", default)]
    pub version: u16,
    /// Which node this is.
    #[serde(rename = "n", default)]
    pub node: NodeId,
    /// The cluster's minted id.
    #[serde(rename = "c", default)]
    pub cluster_id: u64,
    /// Largest batch, bytes.
    #[serde(rename = "b", default)]
    pub batch_bytes_max: u32,
}

/// Asks for nodes, topics and leaders.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Metadata {
    /// Which topics; all when absent.
    #[serde(rename = "t", default)]
    pub topics: Option<Vec<TopicName>>,
    /// So long the answer may wait for news, milliseconds.
    #[serde(rename = "w", default)]
    pub wait_ms: u32,
    /// What the asked node's last answer gave as `news`; with another number it answers at once.
    #[serde(rename = "a", default)]
    pub after: u64,
}

/// Answer to [`Metadata`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MetadataAnswer {
    /// Rises with each change of the metadata.
    #[serde(rename = "v", default)]
    pub version: u64,
    /// All nodes.
    #[serde(rename = "n", default)]
    pub nodes: Vec<NodeAddress>,
    /// The topics asked for that exist.
    #[serde(rename = "t", default)]
    pub topics: Vec<TopicMetadata>,
    /// Another number after each change that this node hears of, be it of the metadata or of who leads.
    #[serde(rename = "c", default)]
    pub news: u64,
}

/// Where clients reach a node.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeAddress {
    /// Which node.
    #[serde(rename = "n", default)]
    pub node: NodeId,
    /// Its native listener as advertised, `host:port`; empty when it has none.
    #[serde(rename = "a", default)]
    pub address: String,
}

/// It is done.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Done {}

/// Asks how the cluster is, as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterStatus {}

/// Answer to [`ClusterStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterStatusAnswer {
    /// The cluster's name.
    #[serde(rename = "n", default)]
    pub name: String,
    /// Its minted id.
    #[serde(rename = "c", default)]
    pub cluster_id: u64,
    /// Who leads the controller group.
    #[serde(rename = "l", default)]
    pub controller: Option<NodeId>,
    /// Nodes.
    #[serde(rename = "m", default)]
    pub nodes: Vec<NodeStatus>,
    /// Topics.
    #[serde(rename = "t", default)]
    pub topics: u32,
    /// Partitions of all topics.
    #[serde(rename = "p", default)]
    pub partitions: u32,
    /// Partitions without a known leader.
    #[serde(rename = "u", default)]
    pub leaderless: u32,
    /// Partitions that are damaged on a majority.
    #[serde(rename = "o", default)]
    pub offline: u32,
    /// Replicas that are not, or not yet, sound members of their group.
    #[serde(rename = "r", default)]
    pub replicas: Vec<ReplicaStatus>,
}

/// One replica of a [`ClusterStatusAnswer`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Its Raft group.
    #[serde(rename = "g", default)]
    pub group: u64,
    /// The topic of its partition; absent for a home of consumer groups and for the controller.
    #[serde(rename = "t", default)]
    pub topic: Option<TopicName>,
    /// Which partition of it.
    #[serde(rename = "p", default)]
    pub partition: u32,
    /// Where it is.
    #[serde(rename = "n", default)]
    pub node: NodeId,
    /// Its id; 0 where that is not known.
    #[serde(rename = "r", default)]
    pub replica: u64,
    /// How it is.
    #[serde(rename = "s", default)]
    pub state: ReplicaState,
}

/// How a replica is that is not a sound member of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ReplicaState {
    /// Copies the log of its peers, to take the place of a faulty one.
    #[serde(rename = "l")]
    Learner,
    /// Has the log, and is about to be swapped in.
    #[serde(rename = "r")]
    Ready,
    /// Its data are gone or damaged: it never votes or serves again.
    #[serde(rename = "d")]
    Faulty,
    /// It failed more than once, and stays out for some minutes at most.
    #[serde(rename = "f")]
    Failed,
    /// A damaged segment of it is being fetched from a peer.
    #[serde(rename = "m")]
    Mending,
    /// Something that a later release knows.
    #[default]
    #[serde(other)]
    Other,
}

/// One node of a [`ClusterStatusAnswer`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Which node.
    #[serde(rename = "n", default)]
    pub node: NodeId,
    /// Where clients reach it.
    #[serde(rename = "a", default)]
    pub address: String,
    /// Whether the answering node hears it.
    #[serde(rename = "u", default)]
    pub alive: bool,
    /// Partitions that it leads.
    #[serde(rename = "l", default)]
    pub leaders: u32,
    /// Replicas that it is meant to host.
    #[serde(rename = "r", default)]
    pub replicas: u32,
}
