//! What can go wrong, one enum per operation.

use crate::{GroupId, ReplicaId};
use std::io;

/// Why a data directory does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk said no.
    #[error("data directory: {0}")]
    Io(#[from] io::Error),
    /// Something that all groups depend on cannot be read: the directory's identity or its whole write-ahead log.
    #[error("data directory: {file} is damaged: {why}")]
    Damaged {
        /// Which file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// Written by a later release.
    #[error("data directory: {file} has format version {found}, this release reads up to {known}")]
    Version {
        /// Which file.
        file: String,
        /// Its version.
        found: u16,
        /// The highest that is understood.
        known: u16,
    },
}

/// Why a group is not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A living replica of the group is here already.
    #[error("group {group} is hosted here as replica {existing}, and replica {wanted} was to come")]
    Exists {
        /// The group.
        group: GroupId,
        /// Who is here.
        existing: ReplicaId,
        /// Who was to come.
        wanted: ReplicaId,
    },
    /// Replica ids are used once.
    #[error("replica {replica} of group {group} had its life here and is faulty or gone")]
    Dead {
        /// The group.
        group: GroupId,
        /// Its dead replica.
        replica: ReplicaId,
    },
    /// The disk failed.
    #[error("creating a group: {0}")]
    Io(#[from] io::Error),
}

/// Why applied entries cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Retention took it.
    #[error("below the log start {start}")]
    BelowStart {
        /// First offset that is there.
        start: u64,
    },
    /// A sealed segment does not verify and was set aside; its entries are to be fetched from a peer.
    #[error("entries {first}..{end} are damaged on this disk")]
    Damaged {
        /// First index of the segment.
        first: u64,
        /// Index behind its last.
        end: u64,
    },
    /// The disk failed.
    #[error("reading the log: {0}")]
    Io(#[from] io::Error),
}
