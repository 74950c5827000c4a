//! How a group consumes: decided once, at its home, when the group is made.

use crate::types::{Position, TopicName};
use serde::{Deserialize, Serialize};

/// Which cursor a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Kind {
    /// An offset per partition; partitions are shared out among members.
    #[default]
    #[serde(rename = "o")]
    Offset,
    /// Leases on records; refused by this version.
    #[serde(rename = "l")]
    Lease,
}

/// How leases are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Mode {
    /// Any record to any member.
    #[default]
    #[serde(rename = "a")]
    Any,
    /// Records of one key to one member at a time.
    #[serde(rename = "k")]
    Keyed,
    /// One member consumes alone.
    #[serde(rename = "e")]
    Exclusive,
    /// One member consumes, the others stand by.
    #[serde(rename = "f")]
    Failover,
}

/// How long a failed record rests before it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Backoff {
    /// After the first failure, milliseconds.
    #[serde(rename = "a", default)]
    pub ms_min: u32,
    /// At most, milliseconds.
    #[serde(rename = "b", default)]
    pub ms_max: u32,
}

/// A group's record at its home. What begins with leases is 0 or absent for kind `offset`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// The group's identity within its home: a group made again under the same name has another.
    #[serde(rename = "i", default)]
    pub id: u64,
    /// Rises with each change of this record.
    #[serde(rename = "e", default)]
    pub epoch: u64,
    /// Which cursor.
    #[serde(rename = "k", default)]
    pub kind: Kind,
    /// How leases are given out.
    #[serde(rename = "o", default)]
    pub mode: Mode,
    /// Where a partition without a committed offset starts.
    #[serde(rename = "s")]
    pub start: Position,
    /// Leases: deliveries of a record before it is dead; 0 is no limit.
    #[serde(rename = "a", default)]
    pub attempts_max: u32,
    /// Leases: how long a member may hold a record, milliseconds.
    #[serde(rename = "l", default)]
    pub lease_ms: u32,
    /// Leases: rest between attempts.
    #[serde(rename = "b", default)]
    pub backoff: Backoff,
    /// Leases: where dead records go.
    #[serde(rename = "d", default)]
    pub dead_letter: Option<TopicName>,
    /// Leases: records of a partition that may be leased at a time.
    #[serde(rename = "w", default)]
    pub window: u32,
}

impl GroupSpec {
    /// A group of offset cursors.
    pub fn offsets(id: u64, start: Position) -> Self {
        Self {
            id,
            epoch: 1,
            kind: Kind::Offset,
            mode: Mode::Any,
            start,
            attempts_max: 0,
            lease_ms: 0,
            backoff: Backoff::default(),
            dead_letter: None,
            window: 0,
        }
    }
}
