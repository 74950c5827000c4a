//! What frames say. Fields have one-letter names on the wire; a list is never trusted for its length.

use super::FrameError;
use crate::types::{AckLevel, Generation, GroupName, MemberId, NodeId, Position, ProducerId, TopicId, TopicName};
use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

macro_rules! messages {
    ($($(#[$doc:meta])* $kind:ident = $n:literal),* $(,)?) => {
        /// Which message a head is. Numbers are never used again for another.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $kind = $n),* }

        impl Kind {
            /// All kinds.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];
            /// The kind of this number.
            pub fn from_u8(n: u8) -> Option<Self> {
                match n { $($n => Some(Self::$kind),)* _ => None }
            }
        }

        /// A decoded head.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Message { $($(#[$doc])* $kind($kind)),* }

        impl Message {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind),* }
            }
            /// Appends the head's bytes.
            pub fn encode(&self, out: &mut BytesMut) {
                let mut serializer = rmp_serde::Serializer::new(out.writer()).with_struct_map();
                match self { $(Self::$kind(head) => head.serialize(&mut serializer)),* }
                    .expect("plain heads in memory always encode")
            }
            /// Reads the head of a frame of this kind.
            pub fn decode(kind: Kind, head: &[u8]) -> Result<Self, FrameError> {
                let failed = |e: rmp_serde::decode::Error| FrameError::Head { kind, why: e.to_string() };
                match kind { $(Kind::$kind => rmp_serde::from_slice(head).map(Self::$kind).map_err(failed)),* }
            }
        }

        $(impl From<$kind> for Message {
            fn from(head: $kind) -> Self { Self::$kind(head) }
        })*
    };
}

messages! {
    /// Refusal of a request; any request may be answered with it.
    Refused = 1,
    /// First frame of a connection.
    Hello = 2,
    /// Its answer.
    Welcome = 3,
    /// Asks for nodes, topics and leaders.
    Metadata = 4,
    /// Its answer.
    MetadataAnswer = 5,
    /// Pushes batches to one partition.
    Produce = 6,
    /// Its answer.
    Produced = 7,
    /// A long poll.
    Fetch = 8,
    /// Its answer.
    Fetched = 9,
    /// Asks for offsets by meaning.
    ListOffsets = 10,
    /// Its answer.
    ListedOffsets = 11,
    /// Asks for a producer id.
    InitProducer = 12,
    /// Its answer.
    ProducerReady = 13,
    /// Starts a push subscription on this link.
    Subscribe = 14,
    /// Records for a subscription, unasked within its credit.
    Delivery = 15,
    /// Gives credit to a subscription.
    Grant = 16,
    /// Ends a subscription; answered with `Done` behind its last delivery.
    Unsubscribe = 17,
    /// It is done; nothing more to say.
    Done = 18,
    /// Makes a topic.
    CreateTopic = 19,
    /// Its answer.
    TopicCreated = 20,
    /// Removes a topic.
    DeleteTopic = 21,
    /// Changes a topic's settings.
    AlterTopic = 22,
    /// Asks where a group lives.
    FindGroup = 23,
    /// Its answer.
    GroupFound = 24,
    /// Joins a group, or joins it again with another subscription.
    Join = 25,
    /// Its answer.
    Joined = 26,
    /// A member is alive; answered when there is something new for it, or at once.
    Heartbeat = 27,
    /// Its answer.
    HeartbeatAnswer = 28,
    /// Leaves a group.
    Leave = 29,
    /// Commits offsets.
    Commit = 30,
    /// Its answer.
    Committed = 31,
    /// Asks for groups.
    ListGroups = 32,
    /// Its answer.
    GroupList = 33,
    /// Asks for one group.
    DescribeGroup = 34,
    /// Its answer.
    GroupDescription = 35,
    /// Moves the committed offsets of a group without members.
    ResetGroup = 36,
    /// Removes a group without members.
    DeleteGroup = 37,
    /// Asks how the cluster is.
    ClusterStatus = 38,
    /// Its answer.
    ClusterStatusAnswer = 39,
    /// Asks a partition's leader to hand over to another node (operators and tests).
    TransferLeader = 40,
}

/// Why a request was refused. Numbers are never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
#[repr(u16)]
pub enum Code {
    /// The frame or a field of it makes no sense.
    BadRequest = 1,
    /// No version in common.
    UnsupportedVersion = 2,
    /// This node does not lead the partition: find the leader.
    NotLeader = 3,
    /// A leader that is not yet sure of its log, or a group home that just moved: try again.
    NotReady = 4,
    /// No such topic.
    UnknownTopic = 5,
    /// No such partition.
    UnknownPartition = 6,
    /// The topic exists.
    TopicExists = 7,
    /// A name breaks the rules.
    BadName = 8,
    /// Below the log start.
    OffsetOutOfRange = 9,
    /// A batch over the limit.
    BatchTooLarge = 10,
    /// A batch that does not check out: CRC, count, length, magic.
    BadBatch = 11,
    /// A sequence that does not follow the producer's last one.
    OutOfOrderSequence = 12,
    /// An older epoch of a producer.
    ProducerFenced = 13,
    /// The partition does not know the producer any more: take a new id.
    UnknownProducer = 14,
    /// A byte pool is full: try again later.
    Overloaded = 15,
    /// Not enough replicas answer to commit.
    NoQuorum = 16,
    /// The request's time ran out before an answer; the outcome is unknown.
    TimedOut = 17,
    /// No such group.
    UnknownGroup = 18,
    /// No such member: join again.
    UnknownMember = 19,
    /// An older generation: join or heartbeat again.
    StaleGeneration = 20,
    /// The group has members.
    GroupNotEmpty = 21,
    /// This version does not do that (said which).
    Unsupported = 22,
    /// Too few nodes for the replication factor, or another value that cannot be served.
    BadSetting = 23,
    /// The node is shutting down.
    ShuttingDown = 24,
    /// The partition's replicas are damaged on a majority.
    Offline = 25,
    /// Free space is below the low-water mark.
    DiskFull = 26,
    /// A bug or a failed replica; the text says more.
    Internal = 27,
    /// The session is not allowed to.
    Denied = 28,
    /// This node is not the group's home.
    NotHome = 29,
}

impl From<Code> for u16 {
    fn from(code: Code) -> Self {
        code as Self
    }
}

impl TryFrom<u16> for Code {
    type Error = String;
    fn try_from(n: u16) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|code| *code as u16 == n).ok_or_else(|| format!("unknown refusal code {n}"))
    }
}

impl Code {
    /// All codes.
    pub const ALL: &[Code] = &[
        Self::BadRequest,
        Self::UnsupportedVersion,
        Self::NotLeader,
        Self::NotReady,
        Self::UnknownTopic,
        Self::UnknownPartition,
        Self::TopicExists,
        Self::BadName,
        Self::OffsetOutOfRange,
        Self::BatchTooLarge,
        Self::BadBatch,
        Self::OutOfOrderSequence,
        Self::ProducerFenced,
        Self::UnknownProducer,
        Self::Overloaded,
        Self::NoQuorum,
        Self::TimedOut,
        Self::UnknownGroup,
        Self::UnknownMember,
        Self::StaleGeneration,
        Self::GroupNotEmpty,
        Self::Unsupported,
        Self::BadSetting,
        Self::ShuttingDown,
        Self::Offline,
        Self::DiskFull,
        Self::Internal,
        Self::Denied,
        Self::NotHome,
    ];

    /// Whether the same request may succeed later, at the same node or another.
    pub fn is_retriable(self) -> bool {
        matches!(
            self,
            Self::NotLeader
                | Self::NotReady
                | Self::Overloaded
                | Self::NoQuorum
                | Self::TimedOut
                | Self::ShuttingDown
                | Self::DiskFull
                | Self::NotHome
                | Self::UnknownPartition
        )
    }
}

/// A refusal: for a whole request ([`Message::Refused`]) or one part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    #[serde(rename = "c")]
    pub code: Code,
    /// In words, with what to do.
    #[serde(rename = "m", default)]
    pub message: String,
    /// Who leads, where that is known.
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<NodeId>,
    /// The leader's epoch.
    #[serde(rename = "e", default)]
    pub leader_epoch: u64,
}

impl Refused {
    /// A refusal without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), leader: None, leader_epoch: 0 }
    }
}

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
}

/// Pushes batches to one partition; the body holds them one behind the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Produce {
    /// Which topic.
    #[serde(rename = "t")]
    pub topic: TopicId,
    /// Which partition.
    #[serde(rename = "p", default)]
    pub partition: u32,
    /// When to answer.
    #[serde(rename = "a", default)]
    pub ack: AckLevel,
    /// Milliseconds after which the client gives up waiting.
    #[serde(rename = "w", default)]
    pub timeout_ms: u32,
}

/// Answer to [`Produce`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Produced {
    /// Offset of the first record; absent below level `quorum`.
    #[serde(rename = "o", default)]
    pub base_offset: Option<u64>,
    /// The leader's epoch.
    #[serde(rename = "e", default)]
    pub leader_epoch: u64,
    /// What is promised.
    #[serde(rename = "a", default)]
    pub level: AckLevel,
    /// The guarantee: on the disks of so many …
    #[serde(rename = "q", default)]
    pub quorum: u32,
    /// … of so many voters.
    #[serde(rename = "r", default)]
    pub voters: u32,
    /// It was there already; the offset is the original one.
    #[serde(rename = "d", default)]
    pub duplicate: bool,
}

/// A long poll over many partitions.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fetch {
    /// How long to wait for `bytes_min` and `records_min`, milliseconds.
    #[serde(rename = "w", default)]
    pub wait_ms_max: u32,
    /// Answer as soon as this many bytes are there; 0 and 1 mean any.
    #[serde(rename = "b", default)]
    pub bytes_min: u32,
    /// And this many records; 0 and 1 mean any.
    #[serde(rename = "r", default)]
    pub records_min: u32,
    /// Bytes of the whole answer; the first whole batch is returned even above it.
    #[serde(rename = "m", default)]
    pub bytes_max: u32,
    /// Partitions and where to begin.
    #[serde(rename = "p", default)]
    pub partitions: Vec<FetchPartition>,
}

/// One partition of a [`Fetch`] or [`Subscribe`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchPartition {
    /// Which topic.
    #[serde(rename = "t")]
    pub topic: TopicId,
    /// Which partition.
    #[serde(rename = "p", default)]
    pub partition: u32,
    /// First offset wanted. The first batch may begin before it.
    #[serde(rename = "o", default)]
    pub offset: u64,
    /// Bytes of this partition at most; 0 means no limit of its own.
    #[serde(rename = "m", default)]
    pub bytes_max: u32,
    /// May a follower answer (never above its watermark)?
    #[serde(rename = "f", default)]
    pub from_follower: bool,
}

/// Answer to [`Fetch`]; the body holds the batches of all partitions, in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fetched {
    /// Partitions with something to say (data or a refusal).
    #[serde(rename = "p", default)]
    pub partitions: Vec<FetchedPartition>,
}

/// One partition of a [`Fetched`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedPartition {
    /// Which topic.
    #[serde(rename = "t")]
    pub topic: TopicId,
    /// Which partition.
    #[serde(rename = "p", default)]
    pub partition: u32,
    /// Instead of data.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// First offset that is still there.
    #[serde(rename = "s", default)]
    pub log_start: u64,
    /// The next offset that is not yet there.
    #[serde(rename = "h", default)]
    pub high_watermark: u64,
    /// Its bytes in the body.
    #[serde(rename = "n", default)]
    pub bytes: u32,
}

/// Asks for offsets by meaning; answered by leaders after a read-index.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListOffsets {
    /// What is asked.
    #[serde(rename = "p", default)]
    pub partitions: Vec<OffsetQuery>,
}

/// One question of a [`ListOffsets`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetQuery {
    /// Which topic.
    #[serde(rename = "t")]
    pub topic: TopicId,
    /// Which partition.
    #[serde(rename = "p", default)]
    pub partition: u32,
    /// Which offset.
    #[serde(rename = "a")]
    pub at: Position,
}

/// Answer to [`ListOffsets`], in its order.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListedOffsets {
    /// The answers.
    #[serde(rename = "p", default)]
    pub partitions: Vec<OffsetAnswer>,
}

/// One answer of a [`ListedOffsets`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OffsetAnswer {
    /// Instead of an offset.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// The offset; the high watermark when no record is that late.
    #[serde(rename = "o", default)]
    pub offset: u64,
    /// The leader's epoch.
    #[serde(rename = "e", default)]
    pub leader_epoch: u64,
}

/// Asks for a producer id.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InitProducer {}

/// Answer to [`InitProducer`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProducerReady {
    /// Never given out before, by no cluster.
    #[serde(rename = "i", default)]
    pub producer: ProducerId,
    /// Starts at 0.
    #[serde(rename = "e", default)]
    pub epoch: i16,
}

/// Starts a push subscription on this link: partitions that the answering node leads.
/// Credit is empty until [`Grant`]. Answered by deliveries; a refused partition is a [`Delivery`] with `refused`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Subscribe {
    /// Partitions and where to begin.
    #[serde(rename = "p", default)]
    pub partitions: Vec<FetchPartition>,
    /// First credit: records.
    #[serde(rename = "r", default)]
    pub records: u32,
    /// First credit: bytes.
    #[serde(rename = "b", default)]
    pub bytes: u32,
}

/// Records for a subscription; the body holds their batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Where they are from, with marks or a refusal. After a refusal the partition is no longer part of the subscription.
    #[serde(rename = "p")]
    pub partition: FetchedPartition,
    /// Credit that this delivery took: records (from the offset asked on).
    #[serde(rename = "r", default)]
    pub records: u32,
}

/// Gives credit to the link's subscription.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grant {
    /// Records more.
    #[serde(rename = "r", default)]
    pub records: u32,
    /// Bytes more.
    #[serde(rename = "b", default)]
    pub bytes: u32,
}

/// Ends the link's subscription, or takes partitions out of it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Unsubscribe {
    /// Which partitions; all when empty.
    #[serde(rename = "p", default)]
    pub partitions: Vec<(TopicId, u32)>,
}

/// It is done.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Done {}

/// Makes a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateTopic {
    /// Its name.
    #[serde(rename = "n")]
    pub name: TopicName,
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
    /// How long the member may be silent before its partitions go to others, milliseconds; 0 is the default.
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
    /// How often to send [`Heartbeat`], milliseconds.
    #[serde(rename = "h", default)]
    pub heartbeat_ms: u32,
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
    /// The next offset that was not yet given to the member.
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
    #[serde(rename = "d", default)]
    pub delivered: u64,
    /// How often the records from `committed` to `delivered` were given to members before.
    #[serde(rename = "x", default)]
    pub attempts: u32,
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

/// Asks for groups: of all homes that the answering node is, or of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListGroups {}

/// Answer to [`ListGroups`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupList {
    /// The groups.
    #[serde(rename = "g", default)]
    pub groups: Vec<GroupSummary>,
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

/// One partition of a [`GroupDescription`]. The client adds the watermark from [`ListOffsets`] to make the lag.
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
