//! Records: produce, long polls, push, offsets.

use super::Refused;
use crate::types::{AckLevel, Position, ProducerId, TopicId};
use serde::{Deserialize, Serialize};

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
    /// The offset; the high watermark when no record is that late; the nearest one when it is out of range.
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
