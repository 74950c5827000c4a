//! What the controller can be told. Bodies are rmp-serde maps with one-letter names.

use super::metadata::Addresses;
use crate::types::{NodeId, TopicId, TopicName};
use bytes::Bytes;
use highwater_raft::{DirectoryId, GroupId, ReplicaId, machine::Command as Raw};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeSet;

/// Kind of [`Bootstrap`].
pub const BOOTSTRAP: u8 = 1;
/// Kind of [`RegisterNode`].
pub const REGISTER_NODE: u8 = 2;
/// Kind of [`CreateTopic`].
pub const CREATE_TOPIC: u8 = 3;
/// Kind of [`AlterTopic`].
pub const ALTER_TOPIC: u8 = 4;
/// Kind of [`DeleteTopic`].
pub const DELETE_TOPIC: u8 = 5;
/// Kind of [`ReplicaFaulty`].
pub const REPLICA_FAULTY: u8 = 6;
/// Kind of [`ReplicaCaughtUp`].
pub const REPLICA_CAUGHT_UP: u8 = 7;
/// Kind of [`Swapped`].
pub const SWAPPED: u8 = 8;
/// Kind of [`TakeProducerBlock`].
pub const TAKE_PRODUCER_BLOCK: u8 = 9;

/// A seed, as the cluster's config names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Which node. Its number is also the id of its first replica of the controller group.
    #[serde(rename = "n")]
    pub node: NodeId,
    /// Its data directory, where it has said so.
    #[serde(rename = "d", default)]
    pub directory: Option<DirectoryId>,
    /// Where it is reached.
    #[serde(rename = "a", default)]
    pub addresses: Addresses,
}

/// The first command of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Minted by the lowest seed.
    #[serde(rename = "c")]
    pub cluster_id: u64,
    /// The voters of the controller group.
    #[serde(rename = "s", default)]
    pub seeds: Vec<Seed>,
    /// How many homes consumer groups have, at most [`HOME_GROUPS`](crate::limits::HOME_GROUPS).
    #[serde(rename = "h", default)]
    pub homes: u64,
}

/// A node has started. A changed directory means that all its replicas are lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterNode {
    /// Which node.
    #[serde(rename = "n")]
    pub node: NodeId,
    /// Its data directory's life.
    #[serde(rename = "d")]
    pub directory: DirectoryId,
    /// Where it is reached.
    #[serde(rename = "a", default)]
    pub addresses: Addresses,
}

/// Makes a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateTopic {
    /// Its name.
    #[serde(rename = "n")]
    pub name: TopicName,
    /// Its identity, drawn by the client, or by its node. The same one again is a retry and harmless.
    #[serde(rename = "i")]
    pub id: TopicId,
    /// Partitions; the default when 0.
    #[serde(rename = "p", default)]
    pub partitions: u32,
    /// Copies; the default when 0.
    #[serde(rename = "r", default)]
    pub replication_factor: u32,
    /// Settings by name.
    #[serde(rename = "s", default)]
    pub settings: Vec<(String, String)>,
    /// Nodes that the proposer does not hear: used only where there are not enough others.
    #[serde(rename = "a", default)]
    pub avoid: BTreeSet<NodeId>,
}

/// Changes a topic: all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterTopic {
    /// Its name.
    #[serde(rename = "n")]
    pub name: TopicName,
    /// Settings by name; `None` goes back to the default.
    #[serde(rename = "s", default)]
    pub settings: Vec<(String, Option<String>)>,
    /// Partitions that it is to have in all; 0 leaves them.
    #[serde(rename = "p", default)]
    pub partitions: u32,
    /// Nodes that the proposer does not hear.
    #[serde(rename = "a", default)]
    pub avoid: BTreeSet<NodeId>,
}

/// Removes a topic with all its records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteTopic {
    /// Its name.
    #[serde(rename = "n")]
    pub name: TopicName,
    /// Only this one, not another that was made under the same name since.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub id: Option<TopicId>,
}

/// A node found a replica of its own damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFaulty {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupId,
    /// Which replica of it.
    #[serde(rename = "r")]
    pub replica: ReplicaId,
}

/// A group's leader sees that a learner has the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaCaughtUp {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupId,
    /// Which replica of it.
    #[serde(rename = "r")]
    pub replica: ReplicaId,
}

/// A group's leader reports the voters that Raft has now (committed).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swapped {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupId,
    /// All its voters.
    #[serde(rename = "v", default)]
    pub voters: BTreeSet<ReplicaId>,
}

/// A node wants producer ids to give out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeProducerBlock {
    /// Which node.
    #[serde(rename = "n")]
    pub node: NodeId,
}

/// Any command of the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// See [`Bootstrap`].
    Bootstrap(Bootstrap),
    /// See [`RegisterNode`].
    RegisterNode(RegisterNode),
    /// See [`CreateTopic`].
    CreateTopic(CreateTopic),
    /// See [`AlterTopic`].
    AlterTopic(AlterTopic),
    /// See [`DeleteTopic`].
    DeleteTopic(DeleteTopic),
    /// See [`ReplicaFaulty`].
    ReplicaFaulty(ReplicaFaulty),
    /// See [`ReplicaCaughtUp`].
    ReplicaCaughtUp(ReplicaCaughtUp),
    /// See [`Swapped`].
    Swapped(Swapped),
    /// See [`TakeProducerBlock`].
    TakeProducerBlock(TakeProducerBlock),
}

impl Command {
    /// As the log carries it.
    pub fn encode(&self) -> Raw {
        let (kind, body) = match self {
            Self::Bootstrap(command) => (BOOTSTRAP, bytes(command)),
            Self::RegisterNode(command) => (REGISTER_NODE, bytes(command)),
            Self::CreateTopic(command) => (CREATE_TOPIC, bytes(command)),
            Self::AlterTopic(command) => (ALTER_TOPIC, bytes(command)),
            Self::DeleteTopic(command) => (DELETE_TOPIC, bytes(command)),
            Self::ReplicaFaulty(command) => (REPLICA_FAULTY, bytes(command)),
            Self::ReplicaCaughtUp(command) => (REPLICA_CAUGHT_UP, bytes(command)),
            Self::Swapped(command) => (SWAPPED, bytes(command)),
            Self::TakeProducerBlock(command) => (TAKE_PRODUCER_BLOCK, bytes(command)),
        };
        Raw { kind, body }
    }

    /// Reads one; `None` for a kind that this version does not have.
    pub fn decode(raw: &Raw) -> Option<Result<Self, String>> {
        Some(match raw.kind {
            BOOTSTRAP => read(&raw.body).map(Self::Bootstrap),
            REGISTER_NODE => read(&raw.body).map(Self::RegisterNode),
            CREATE_TOPIC => read(&raw.body).map(Self::CreateTopic),
            ALTER_TOPIC => read(&raw.body).map(Self::AlterTopic),
            DELETE_TOPIC => read(&raw.body).map(Self::DeleteTopic),
            REPLICA_FAULTY => read(&raw.body).map(Self::ReplicaFaulty),
            REPLICA_CAUGHT_UP => read(&raw.body).map(Self::ReplicaCaughtUp),
            SWAPPED => read(&raw.body).map(Self::Swapped),
            TAKE_PRODUCER_BLOCK => read(&raw.body).map(Self::TakeProducerBlock),
            _ => return None,
        })
    }
}

fn bytes(command: &impl Serialize) -> Bytes {
    rmp_serde::to_vec_named(command).expect("plain values in memory always encode").into()
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    crate::types::decode(body).map_err(|e| e.to_string())
}
