//! Consumer groups.

use super::Refused;
use crate::types::{Generation, GroupName, MemberId, NodeId, Position, TopicId, TopicName};
use serde::{Deserialize, Serialize};

/// Asks where a group lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindGroup {
    /// Its name.
    #[serde(rename = "g")]
    pub group: GroupName,
}

/// Answer to [`FindGroup`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupFound {
    /// Its home now; absent while the home elects: try again.
    #[serde(rename = "n", default)]
    pub node: Option<NodeId>,
    /// Where clients reach it.
    #[serde(rename = "a", default)]
    pub address: String,
}

/// How a group consumes. Kind `lease` (work queues) is refused in this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum GroupKind {
    /// Offset cursors: partitions are shared out among members.
    #[default]
    #[serde(rename = "o")]
    Offset,
    /// Lease cursors: records are shared out among members.
    #[serde(rename = "l")]
    Lease,
}

/// Joins a group. The group is made when it is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Its name.
    #[serde(rename = "g")]
    pub group: GroupName,
    /// Who asks, when it was a member before (same process); else the home names it.
    #[serde(rename = "m", default)]
    pub member: Option<MemberId>,
    /// Topics wanted.
    #[serde(rename = "t", default)]
    pub topics: Vec<TopicName>,
    /// How long the member may be silent before its partitions go to others, milliseconds; 0: what the
    /// node's config says (`[groups] session_grace_ms`).
    #[serde(rename = "w", default)]
    pub session_ms: u32,
    /// How the group consumes; fixed when it is made.
    #[serde(rename = "k", default)]
    pub kind: GroupKind,
    /// Where a partition without a committed offset starts; fixed when the group is made.
    #[serde(rename = "s", default)]
    pub start: Option<Position>,
}

/// Answer to [`Join`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The member's name from now on.
    #[serde(rename = "m")]
    pub member: MemberId,
    /// How long the member may be silent, milliseconds: what it asked for, or what the node's config says.
    #[serde(rename = "w", default)]
    pub session_ms: u32,
    /// Whether this join made the group.
    #[serde(rename = "n", default)]
    pub created: bool,
    /// Where the group starts in a partition without a committed offset.
    #[serde(rename = "s")]
    pub start: Position,
}

/// A member is alive, says what it holds, and waits (parked) until its assignment differs from `generation` or `wait_ms` passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupName,
    /// Which member.
    #[serde(rename = "m")]
    pub member: MemberId,
    /// The newest generation that the member knows.
    #[serde(rename = "e", default)]
    pub generation: Generation,
    /// Partitions that it consumes now, each with the offset up to which records were given to it.
    #[serde(rename = "o", default)]
    pub owned: Vec<OwnedPartition>,
    /// How long to park, milliseconds (below the session time).
    #[serde(rename = "w", default)]
    pub wait_ms: u32,
}

/// A partition that a member consumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedPartition {
    /// Which topic.
    #[serde(rename = "t")]
    pub topic: TopicId,
    /// Which partition.
    #[serde(rename = "p", default)]
    pub partition: u32,
    /// The next offset that was given neither to the member nor, as far as it knows, to any before it; 0 while it does not know.
    #[serde(rename = "d", default)]
    pub delivered: u64,
}

/// Answer to [`Heartbeat`]: what the member is to consume. It gives up what is not in the list *before* it says so in its next
/// heartbeat; only then others get it. A partition that is kept never pauses.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// The generation of this assignment.
    #[serde(rename = "e", default)]
    pub generation: Generation,
    /// The member's partitions.
    #[serde(rename = "a", default)]
    pub assigned: Vec<AssignedPartition>,
}

/// A partition that a member is to consume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedPartition {
    /// Which topic.
    #[serde(rename = "t")]
    pub topic: TopicId,
    /// Its name.
    #[serde(rename = "n")]
    pub name: TopicName,
    /// Which partition.
    #[serde(rename = "p", default)]
    pub partition: u32,
    /// The committed offset; absent when the group's start applies.
    #[serde(rename = "o", default)]
    pub committed: Option<u64>,
    /// Records below this offset were given to a member before (redelivered, if given again).
    /// [`DELIVERED_UNKNOWN`](crate::types::DELIVERED_UNKNOWN): that member expired; any below the high watermark of now may have been.
    #[serde(rename = "d", default)]
    pub delivered: u64,
    /// How often the records from `committed` to `delivered` were given to members before.
    #[serde(rename = "x", default)]
    pub attempts: u32,
    /// The generation in which the member got it. While it is the same, nobody else had the partition: the member goes on
    /// where it is. Another one: it begins anew at `committed`.
    #[serde(rename = "e", default)]
    pub granted: Generation,
}

/// Leaves a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupName,
    /// Which member.
    #[serde(rename = "m")]
    pub member: MemberId,
}

/// Commits offsets: everything below them was consumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupName,
    /// Which member; absent for a commit from outside (only while the group has no members).
    #[serde(rename = "m", default)]
    pub member: Option<MemberId>,
    /// The newest generation that the member knows.
    #[serde(rename = "e", default)]
    pub generation: Generation,
    /// The member's count of its commits, from 1: one that arrives behind a later one is refused, so that a repeat that was
    /// late moves nothing back. 0: not counted.
    #[serde(rename = "n", default)]
    pub n: u64,
    /// What is committed.
    #[serde(rename = "o", default)]
    pub offsets: Vec<CommitOffset>,
}

/// One offset of a [`Commit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitOffset {
    /// Which topic.
    #[serde(rename = "t")]
    pub topic: TopicId,
    /// Which partition.
    #[serde(rename = "p", default)]
    pub partition: u32,
    /// The next offset to consume.
    #[serde(rename = "o", default)]
    pub offset: u64,
    /// The epoch of the leader that the last record came from.
    #[serde(rename = "l", default)]
    pub leader_epoch: u64,
    /// The client's own words.
    #[serde(rename = "m", default)]
    pub metadata: String,
}

/// Answer to [`Commit`]: a refusal per offset that was not taken, by its place in the request.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Committed {
    /// Refusals.
    #[serde(rename = "x", default)]
    pub refused: Vec<(u32, Refused)>,
}

/// Fixes where partitions start that have no committed offset. A member says it, once it has looked up what the group's start
/// means, and gives nothing of them before the answer: whoever consumes them after it starts there too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupName,
    /// Which member.
    #[serde(rename = "m")]
    pub member: MemberId,
    /// The newest generation that the member knows.
    #[serde(rename = "e", default)]
    pub generation: Generation,
    /// Where it would start.
    #[serde(rename = "o", default)]
    pub offsets: Vec<StartOffset>,
}

/// Answer to [`Start`]: what is committed now. Partitions that the member does not own are left out.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Started {
    /// Where each starts.
    #[serde(rename = "o", default)]
    pub offsets: Vec<StartOffset>,
}

/// Where a group starts in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartOffset {
    /// Which topic.
    #[serde(rename = "t")]
    pub topic: TopicId,
    /// Which partition.
    #[serde(rename = "p", default)]
    pub partition: u32,
    /// The first offset that is given.
    #[serde(rename = "o", default)]
    pub offset: u64,
}

/// Asks for groups: of all homes that the answering node is, or of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListGroups {}

/// Answer to [`ListGroups`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupList {
    /// The groups.
    #[serde(rename = "g", default)]
    pub groups: Vec<GroupSummary>,
    /// Homes with a replica at the answering node that have no leader that answers, numbered from 1: the groups that live
    /// there are not in the list.
    #[serde(rename = "m", default)]
    pub missing: Vec<u64>,
}

/// One line of a [`GroupList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSummary {
    /// Its name.
    #[serde(rename = "g")]
    pub group: GroupName,
    /// How it consumes.
    #[serde(rename = "k", default)]
    pub kind: GroupKind,
    /// Its members now.
    #[serde(rename = "m", default)]
    pub members: u32,
    /// Its generation.
    #[serde(rename = "e", default)]
    pub generation: Generation,
}

/// Asks for one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeGroup {
    /// Its name.
    #[serde(rename = "g")]
    pub group: GroupName,
}

/// Answer to [`DescribeGroup`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDescription {
    /// How it consumes.
    #[serde(rename = "k", default)]
    pub kind: GroupKind,
    /// Where it starts.
    #[serde(rename = "s")]
    pub start: Position,
    /// Its generation.
    #[serde(rename = "e", default)]
    pub generation: Generation,
    /// Its members with their topics.
    #[serde(rename = "m", default)]
    pub members: Vec<(MemberId, Vec<TopicName>)>,
    /// Its partitions.
    #[serde(rename = "p", default)]
    pub partitions: Vec<GroupPartition>,
}

/// One partition of a [`GroupDescription`]. The client adds the watermark from [`ListOffsets`](super::ListOffsets) to make the lag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPartition {
    /// Which topic.
    #[serde(rename = "t")]
    pub topic: TopicId,
    /// Its name; empty when the topic is gone.
    #[serde(rename = "n", default)]
    pub name: String,
    /// Which partition.
    #[serde(rename = "p", default)]
    pub partition: u32,
    /// The committed offset.
    #[serde(rename = "o", default)]
    pub committed: Option<u64>,
    /// Who consumes it.
    #[serde(rename = "m", default)]
    pub member: Option<MemberId>,
}

/// Moves the committed offsets of a group without members. Positions are made offsets by the client first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetGroup {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupName,
    /// The new offsets.
    #[serde(rename = "o", default)]
    pub offsets: Vec<CommitOffset>,
}

/// Removes a group without members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteGroup {
    /// Which group.
    #[serde(rename = "g")]
    pub group: GroupName,
}
