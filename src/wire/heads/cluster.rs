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
