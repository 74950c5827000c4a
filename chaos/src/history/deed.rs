//! What administrators do.

use super::Partition;
use serde::{Deserialize, Serialize};

/// A change that an administrator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Deed {
    /// A topic is to be there.
    Create {
        /// Its name.
        topic: String,
        /// How many partitions it is to have.
        partitions: u32,
    },
    /// A topic is to have more partitions, or other settings.
    Alter {
        /// Its name.
        topic: String,
        /// How many partitions it is to have; 0: as many as it has.
        partitions: u32,
    },
    /// A topic is to go.
    Delete {
        /// Its name.
        topic: String,
    },
    /// What a group has committed is to be another offset.
    Reset {
        /// Which group.
        group: u32,
        /// As nodes call it.
        of: String,
        /// In which partition.
        partition: Partition,
        /// To which offset.
        offset: u64,
    },
}

/// What a refusal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// The topic exists: it did before, or by an attempt whose answer got lost.
    Exists,
    /// There is no such topic.
    Unknown,
    /// It was not even sent.
    NotSent,
}
