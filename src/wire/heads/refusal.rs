//! Refusals: why, in a number for programs and words for people.

use crate::types::NodeId;
use serde::{Deserialize, Serialize};

/// Why a request was refused. Numbers are never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u16", into = "u16")]
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
    /// The leader lost its role with the batches on their way: they may be in the log, or come to be.
    OutcomeUnknown = 30,
}

impl From<Code> for u16 {
    fn from(code: Code) -> Self {
        code as Self
    }
}

impl From<u16> for Code {
    /// A number of a later version is [`Code::Internal`]: the words beside it say what it means.
    fn from(n: u16) -> Self {
        Self::ALL.iter().copied().find(|code| *code as u16 == n).unwrap_or(Self::Internal)
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
        Self::OutcomeUnknown,
    ];

    /// In snake case, for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::UnsupportedVersion => "unsupported_version",
            Self::NotLeader => "not_leader",
            Self::NotReady => "not_ready",
            Self::UnknownTopic => "unknown_topic",
            Self::UnknownPartition => "unknown_partition",
            Self::TopicExists => "topic_exists",
            Self::BadName => "bad_name",
            Self::OffsetOutOfRange => "offset_out_of_range",
            Self::BatchTooLarge => "batch_too_large",
            Self::BadBatch => "bad_batch",
            Self::OutOfOrderSequence => "out_of_order_sequence",
            Self::ProducerFenced => "producer_fenced",
            Self::UnknownProducer => "unknown_producer",
            Self::Overloaded => "overloaded",
            Self::NoQuorum => "no_quorum",
            Self::TimedOut => "timed_out",
            Self::UnknownGroup => "unknown_group",
            Self::UnknownMember => "unknown_member",
            Self::StaleGeneration => "stale_generation",
            Self::GroupNotEmpty => "group_not_empty",
            Self::Unsupported => "unsupported",
            Self::BadSetting => "bad_setting",
            Self::ShuttingDown => "shutting_down",
            Self::Offline => "offline",
            Self::DiskFull => "disk_full",
            Self::Internal => "internal",
            Self::Denied => "denied",
            Self::NotHome => "not_home",
            Self::OutcomeUnknown => "outcome_unknown",
        }
    }

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
                | Self::OutcomeUnknown
                | Self::UnknownPartition
        )
    }
}

/// A refusal: for a whole request ([`Message::Refused`](super::Message::Refused)) or one part of it.
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

    /// A partition of so many replicas, of which those on these nodes are damaged or lost.
    pub fn offline(damaged: &[NodeId], copies: usize) -> Self {
        let nodes = damaged.iter().map(|node| format!("node {node}")).collect::<Vec<_>>().join(", ");
        let said = format!(
            "the partition is offline, {} of its {copies} replicas are damaged or lost ({nodes})",
            damaged.len()
        );
        Self::new(Code::Offline, said)
    }
}
