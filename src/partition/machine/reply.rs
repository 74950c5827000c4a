//! What the proposer of a command is told.

use crate::advice::{Advice, Reaction};
use crate::batch::BatchError;
use crate::types::ProducerId;
use thiserror::Error;

/// Outcome of a command. Replicas that do not lead use it too: to know which batches of an entry are served, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The batch is in the log: now, or since before.
    Produced {
        /// Offset of its first record; that of the first time for a duplicate.
        base_offset: u64,
        /// Its records: offsets `base_offset .. base_offset + records` are theirs.
        records: u32,
        /// Highest timestamp of its records, milliseconds since 1970.
        max_timestamp: i64,
        /// It was there already: these bytes are not served.
        duplicate: bool,
    },
    /// The log start, moved or not.
    Trimmed {
        /// The first offset that is still there.
        log_start: u64,
    },
    /// Producers that were forgotten.
    Expired {
        /// How many.
        producers: u32,
    },
    /// Nothing was changed.
    Refused(Refusal),
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The batch does not follow the producer's last one.
    #[error("producer {producer} sent sequence {found}, expected {expected}")]
    OutOfOrder {
        /// Who.
        producer: ProducerId,
        /// The sequence that would follow.
        expected: u32,
        /// The batch's first sequence.
        found: u32,
    },
    /// A newer epoch of the producer has written.
    #[error("producer {producer} has epoch {current} by now, the batch has {found}")]
    Fenced {
        /// Who.
        producer: ProducerId,
        /// The newest epoch.
        current: u16,
        /// The batch's.
        found: u16,
    },
    /// The partition does not know the producer, and the batch is not its first.
    #[error("producer {producer} is not known here (any more), and sequence {found} is not its first")]
    UnknownProducer {
        /// Who.
        producer: ProducerId,
        /// The batch's first sequence.
        found: u32,
    },
    /// The bytes are not a batch that a producer may send.
    #[error(transparent)]
    BadBatch(#[from] BatchError),
    /// There is no offset left.
    #[error("{records} records behind offset {next_offset} would leave the range of offsets")]
    NoOffsets {
        /// The next offset.
        next_offset: u64,
        /// Records of the batch.
        records: u32,
    },
    /// A log start above what there is.
    #[error("the log cannot start at {offset}: it ends at {next_offset}")]
    TrimBeyondEnd {
        /// The start asked for.
        offset: u64,
        /// The next offset.
        next_offset: u64,
    },
    /// The bytes of a command do not decode.
    #[error("command {kind} does not decode: {why}")]
    Malformed {
        /// Its kind.
        kind: u8,
        /// What is wrong.
        why: String,
    },
    /// A kind that this version does not have.
    #[error("command {kind} is not known to this version")]
    UnknownCommand {
        /// Its kind.
        kind: u8,
    },
}

impl Advice for Refusal {
    fn reaction(&self) -> Reaction {
        match self {
            Self::OutOfOrder { .. } | Self::Fenced { .. } | Self::UnknownProducer { .. } => Reaction::Reject,
            Self::BadBatch(error) => error.reaction(),
            Self::NoOffsets { .. } | Self::TrimBeyondEnd { .. } => Reaction::Reject,
            Self::Malformed { .. } | Self::UnknownCommand { .. } => Reaction::Reject,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::OutOfOrder { .. } => {
                "send the batches that come before it first; if all of them are acknowledged, take a new producer id".into()
            }
            Self::Fenced { .. } => "stop this producer: another one with the same id has taken over".into(),
            Self::UnknownProducer { .. } => {
                "send again behind the batches that come before it; if all of them are acknowledged, take a new producer id".into()
            }
            Self::BadBatch(error) => error.advice(),
            Self::NoOffsets { .. } => "make another topic: this partition is full".into(),
            Self::TrimBeyondEnd { next_offset, .. } => format!("trim to {next_offset} at most"),
            Self::Malformed { .. } | Self::UnknownCommand { .. } => "bring all nodes to the same version".into(),
        }
    }
}
