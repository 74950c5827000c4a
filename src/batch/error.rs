//! Why bytes are not a batch, a batch's records are not readable, or records do not make a batch.

use super::Compression;
use crate::advice::{Advice, Reaction};
use thiserror::Error;

/// Why bytes are not one whole, intact record batch.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("the record batch ends after {actual} bytes, {needed} were announced")]
    Truncated {
        /// Bytes that the header (or its length field) asks for.
        needed: u64,
        /// Bytes that are there.
        actual: u64,
    },
    /// More bytes than one batch.
    #[error("{extra} bytes follow the record batch")]
    Trailing {
        /// Bytes behind its end.
        extra: u64,
    },
    /// A length field that no batch can have.
    #[error("the record batch announces a length of {length}")]
    Length {
        /// The field's value: bytes behind it.
        length: i32,
    },
    /// Larger than a batch may be.
    #[error("the record batch has {bytes} bytes, at most {bytes_max} are accepted")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u32,
    },
    /// A message format that is not served.
    #[error("the record batch has format (magic) {actual}, only 2 is served")]
    Magic {
        /// The format it has.
        actual: i8,
    },
    /// Damaged on the way.
    #[error("the record batch has checksum {actual:08x}, its header says {expected:08x}")]
    Checksum {
        /// CRC-32C in the header.
        expected: u32,
        /// CRC-32C of the bytes.
        actual: u32,
    },
    /// Count and last offset delta disagree, or there is no record.
    #[error("the record batch counts {count} records but its last offset delta is {last_offset_delta}")]
    Count {
        /// Records, as the header says.
        count: i32,
        /// Offset of the last record, relative to the first.
        last_offset_delta: i32,
    },
    /// Compressed with something that is not served.
    #[error("the record batch is compressed with codec {id}, served are none (0), lz4 (3) and zstd (4)")]
    Codec {
        /// The lowest three attribute bits.
        id: u8,
    },
    /// Only the broker writes such a batch.
    #[error("the record batch has attributes {attributes:#06x}, which no producer may set")]
    Attributes {
        /// All attribute bits.
        attributes: u16,
    },
    /// Producer id, epoch and sequence do not fit together.
    #[error(
        "the record batch has producer id {id}, epoch {epoch} and sequence {sequence}: either all or none are given"
    )]
    Producer {
        /// Producer id.
        id: i64,
        /// Producer epoch.
        epoch: i16,
        /// Sequence of the first record.
        sequence: i32,
    },
}

impl Advice for BatchError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Truncated { .. } | Self::Trailing { .. } | Self::Length { .. } | Self::TooLarge { .. } => {
                Reaction::Reject
            }
            Self::Magic { .. } | Self::Count { .. } | Self::Codec { .. } => Reaction::Reject,
            Self::Attributes { .. } | Self::Producer { .. } => Reaction::Reject,
            // Damaged in flight or in the sender's memory: sent again it may be whole.
            Self::Checksum { .. } => Reaction::Retry { after_ms: 0 },
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Truncated { .. } | Self::Trailing { .. } | Self::Length { .. } | Self::Count { .. } => {
                "report this to the makers of the client: it encodes record batches wrongly".into()
            }
            Self::TooLarge { bytes_max, .. } => {
                format!("send smaller records or set the producer's batch size to at most {bytes_max} bytes")
            }
            Self::Magic { .. } => "use a client that writes record batches of format 2 (Kafka 0.11 or later)".into(),
            Self::Checksum { .. } => {
                "send the batch again; if it happens often, check the sender's memory and network".into()
            }
            Self::Codec { .. } => "set the producer's compression to none, lz4 or zstd".into(),
            Self::Attributes { .. } => {
                "turn transactions off in the producer; control batches are the broker's own".into()
            }
            Self::Producer { .. } => "let the client library number its batches, or turn idempotence off".into(),
        }
    }
}

/// Why the records of an intact batch cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecordsError {
    /// The codec cannot read what it should have written.
    #[error("the records do not decompress as {codec}: {why}")]
    Compressed {
        /// The batch's codec.
        codec: Compression,
        /// What the codec says.
        why: String,
    },
    /// More bytes than a batch may decompress to.
    #[error("the records decompress to more than {bytes_max} bytes")]
    TooLarge {
        /// The cap.
        bytes_max: u32,
    },
    /// The bytes of a record are not one.
    #[error("record {index} is malformed at byte {position} ({what})")]
    Malformed {
        /// Which record, from 0.
        index: u32,
        /// Where, in the decompressed records.
        position: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// Bytes behind the last record.
    #[error("{extra} bytes follow the last record")]
    Trailing {
        /// How many.
        extra: u64,
    },
}

impl Advice for RecordsError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Compressed { .. } | Self::TooLarge { .. } | Self::Malformed { .. } | Self::Trailing { .. } => {
                Reaction::Reject
            }
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Compressed { .. } | Self::Malformed { .. } | Self::Trailing { .. } => {
                "find out which producer wrote the batch: it encodes records wrongly; to go on, seek behind it".into()
            }
            Self::TooLarge { bytes_max } => {
                format!("let the producer put fewer records into a batch: at most {bytes_max} bytes before compression")
            }
        }
    }
}

/// Why records do not make a batch.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A batch has at least one record.
    #[error("a batch without records cannot be built")]
    Empty,
    /// Compressed or not, the batch is above the limit.
    #[error("the batch would have {bytes} bytes, at most {bytes_max} are accepted")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u32,
    },
    /// The records are above the limit before compression.
    #[error("the records of the batch have {bytes} bytes before compression, at most {bytes_max} are accepted")]
    RecordsTooLarge {
        /// Their size.
        bytes: u64,
        /// The limit.
        bytes_max: u32,
    },
    /// Too many headers on one record.
    #[error("the record has {count} headers, at most {count_max} are accepted")]
    Headers {
        /// How many it has.
        count: usize,
        /// The limit.
        count_max: u32,
    },
}

impl Advice for BuildError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Empty | Self::TooLarge { .. } | Self::RecordsTooLarge { .. } | Self::Headers { .. } => {
                Reaction::Reject
            }
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Empty => "add a record first".into(),
            Self::TooLarge { bytes_max, .. } | Self::RecordsTooLarge { bytes_max, .. } => {
                format!(
                    "split the value, or store it elsewhere and send a reference; a batch has at most {bytes_max} bytes"
                )
            }
            Self::Headers { count_max, .. } => {
                format!("put the facts into the value, or use at most {count_max} headers")
            }
        }
    }
}
