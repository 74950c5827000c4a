//! What a home of consumer groups can be told. Bodies are rmp-serde maps with one-letter names.

use super::spec::Kind;
use crate::types::{Generation, GroupName, MemberId, Position, TopicId, TopicName, TopicPartition};
use bytes::Bytes;
use highwater_raft::machine::Command as Raw;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Kind of [`Join`].
pub const JOIN: u8 = 1;
/// Kind of [`Leave`].
pub const LEAVE: u8 = 2;
/// Kind of [`Expire`].
pub const EXPIRE: u8 = 3;
/// Kind of [`Reconciled`].
pub const RECONCILED: u8 = 4;
/// Kind of [`Commit`].
pub const COMMIT: u8 = 5;
/// Kind of [`Start`].
pub const START: u8 = 6;
/// Kind of [`Reset`].
pub const RESET: u8 = 7;
/// Kind of [`Delete`].
pub const DELETE: u8 = 8;
/// Kind of [`TopicsChanged`].
pub const TOPICS_CHANGED: u8 = 9;

/// Becomes a member, or is one with another subscription. Makes the group when it is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupName,
    /// Who; the home names the member when absent. A name that is not known (any more) becomes a new member of that name,
    /// which makes a join that is sent twice harmless.
    #[serde(rename = "m", default)]
    pub member: Option<MemberId>,
    /// Topics wanted, known or not.
    #[serde(rename = "t", default)]
    pub topics: Vec<TopicName>,
    /// How long the member may be silent, milliseconds; the default when 0.
    #[serde(rename = "w", default)]
    pub session_ms: u32,
    /// How the group consumes; read when it is made.
    #[serde(rename = "k", default)]
    pub kind: Kind,
    /// Where a partition without a committed offset starts; `latest` when absent; read when the group is made.
    #[serde(rename = "s", default)]
    pub start: Option<Position>,
}

/// Ends a membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupName,
    /// Which member.
    #[serde(rename = "m")]
    pub member: MemberId,
}

/// A member was silent for longer than its session. Proposed by the home's leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expire {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupName,
    /// Which member.
    #[serde(rename = "m")]
    pub member: MemberId,
    /// The session that ran out, as [`Effect::Watch`](super::Effect::Watch) named it: a member that joined since stays.
    #[serde(rename = "i", default)]
    pub session: u64,
}

/// What a member says that it consumes. What it was to give up and does not name any more goes to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupName,
    /// Which member.
    #[serde(rename = "m")]
    pub member: MemberId,
    /// The newest generation that the member knows.
    #[serde(rename = "e", default)]
    pub generation: Generation,
    /// The partitions that it consumes, each with the next offset that was not yet given to it.
    #[serde(rename = "o", default)]
    pub owned: Vec<(TopicPartition, u64)>,
}

/// One offset of a [`Commit`], [`Start`] or [`Reset`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitOffset {
    /// Which partition.
    #[serde(rename = "p")]
    pub partition: TopicPartition,
    /// The next offset to consume.
    #[serde(rename = "o", default)]
    pub offset: u64,
    /// Epoch of the leader that the last record came from.
    #[serde(rename = "l", default)]
    pub leader_epoch: u64,
    /// The client's own words.
    #[serde(rename = "m", default)]
    pub metadata: String,
}

/// Everything below these offsets was consumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Which group; made when it is not there and no member is named.
    #[serde(rename = "g")]
    pub group: GroupName,
    /// Which member; absent for a commit from outside, while the group has no members.
    #[serde(rename = "m", default)]
    pub member: Option<MemberId>,
    /// The newest generation that the member knows.
    #[serde(rename = "e", default)]
    pub generation: Generation,
    /// The member's count of its commits, from 1: one that arrives behind a later one changes nothing. 0: not counted.
    #[serde(rename = "n", default)]
    pub n: u64,
    /// What is committed.
    #[serde(rename = "o", default)]
    pub offsets: Vec<CommitOffset>,
}

/// Fixes where partitions start: commits where nothing is committed yet, else changes nothing. A partition's owner says it,
/// who has looked up what the group's start means, and is given nothing before it is in the log: whoever owns the partition
/// after it starts at the same place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupName,
    /// Who says so: where it does not own a partition, nothing changes.
    #[serde(rename = "m")]
    pub member: MemberId,
    /// The newest generation that the member knows.
    #[serde(rename = "e", default)]
    pub generation: Generation,
    /// Where.
    #[serde(rename = "o", default)]
    pub offsets: Vec<(TopicPartition, u64)>,
}

/// Moves the committed offsets of a group without members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupName,
    /// Where to.
    #[serde(rename = "o", default)]
    pub offsets: Vec<CommitOffset>,
}

/// Removes a group without members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupName,
}

/// A topic as a home knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicFacts {
    /// Its name.
    #[serde(rename = "n")]
    pub name: TopicName,
    /// How many partitions it has.
    #[serde(rename = "p", default)]
    pub partitions: u32,
}

/// The cluster's topics are other ones than the home knows: the differences to [`HomeMachine::topics`](super::HomeMachine::topics).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicsChanged {
    /// Version of the metadata that this comes from; an older one than was applied before changes nothing.
    #[serde(rename = "v", default)]
    pub version: u64,
    /// Topics that are new or have more partitions.
    #[serde(rename = "s", default)]
    pub set: Vec<(TopicId, TopicFacts)>,
    /// Topics that are deleted: what groups know of them is forgotten.
    #[serde(rename = "g", default)]
    pub gone: Vec<TopicId>,
}

/// Any command of a home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// See [`Join`].
    Join(Join),
    /// See [`Leave`].
    Leave(Leave),
    /// See [`Expire`].
    Expire(Expire),
    /// See [`Reconciled`].
    Reconciled(Reconciled),
    /// See [`Commit`].
    Commit(Commit),
    /// See [`Start`].
    Start(Start),
    /// See [`Reset`].
    Reset(Reset),
    /// See [`Delete`].
    Delete(Delete),
    /// See [`TopicsChanged`].
    TopicsChanged(TopicsChanged),
}

impl Command {
    /// As the log carries it.
    pub fn encode(&self) -> Raw {
        let (kind, body) = match self {
            Self::Join(command) => (JOIN, bytes(command)),
            Self::Leave(command) => (LEAVE, bytes(command)),
            Self::Expire(command) => (EXPIRE, bytes(command)),
            Self::Reconciled(command) => (RECONCILED, bytes(command)),
            Self::Commit(command) => (COMMIT, bytes(command)),
            Self::Start(command) => (START, bytes(command)),
            Self::Reset(command) => (RESET, bytes(command)),
            Self::Delete(command) => (DELETE, bytes(command)),
            Self::TopicsChanged(command) => (TOPICS_CHANGED, bytes(command)),
        };
        Raw { kind, body }
    }

    /// Reads one; `None` for a kind that this version does not have.
    pub fn decode(raw: &Raw) -> Option<Result<Self, String>> {
        Some(match raw.kind {
            JOIN => read(&raw.body).map(Self::Join),
            LEAVE => read(&raw.body).map(Self::Leave),
            EXPIRE => read(&raw.body).map(Self::Expire),
            RECONCILED => read(&raw.body).map(Self::Reconciled),
            COMMIT => read(&raw.body).map(Self::Commit),
            START => read(&raw.body).map(Self::Start),
            RESET => read(&raw.body).map(Self::Reset),
            DELETE => read(&raw.body).map(Self::Delete),
            TOPICS_CHANGED => read(&raw.body).map(Self::TopicsChanged),
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
