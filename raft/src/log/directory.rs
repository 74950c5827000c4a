//! One data directory: its WAL thread, its retirer, its readers, and the groups in it.

use super::{CreateError, Group, OpenError};
use crate::{DirectoryId, GroupId, ReplicaId, disk::Disk, env::Env};
use bytes::Bytes;
use std::{io, sync::Arc, time::Duration};

/// Sizes and times of a data directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of one WAL file; a larger frame makes its file larger.
    pub wal_file_bytes: u64,
    /// Full WAL files that may wait for the retirer before flushes are slowed.
    pub wal_files_max: usize,
    /// Payload bytes after which the apply loop puts a segment boundary.
    pub segment_bytes: u64,
    /// Payload bytes kept in memory, all groups together.
    pub cache_bytes: usize,
    /// Idle time after which the last flush is sealed.
    pub seal_after: Duration,
    /// Below this many free bytes the directory is low.
    pub free_bytes_min: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            wal_file_bytes: 64 << 20,
            wal_files_max: 4,
            segment_bytes: 128 << 20,
            cache_bytes: 256 << 20,
            seal_after: Duration::from_millis(50),
            free_bytes_min: 1 << 30,
        }
    }
}

/// Whether a group may be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All that was acknowledged is there.
    Good,
    /// Something acknowledged is damaged: no vote, no entries; why.
    Faulty(String),
}

/// Figures of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// WAL files with live records.
    pub wal_files: usize,
    /// Bytes in them.
    pub wal_bytes: u64,
    /// Flushes since the directory was made.
    pub sync_seq: u64,
    /// How long the flush in progress has taken so far, milliseconds; 0 when there is none.
    pub flush_age_ms: u64,
    /// 99th percentile of the last flushes, microseconds.
    pub flush_p99_us: u64,
    /// Free bytes at the last look.
    pub free_bytes: u64,
    /// Flushes that were slowed because the retirer was behind.
    pub stalls: u64,
    /// Payload bytes in memory.
    pub cached_bytes: usize,
}

/// A data directory. Clones share.
#[derive(Clone)]
pub struct Directory;

impl Directory {
    /// Recovers. Damaged groups come back faulty; a damaged directory of a frame makes all faulty.
    pub async fn open(_disk: Arc<dyn Disk>, _options: Options, _env: Env) -> Result<Directory, OpenError> {
        todo!()
    }
    /// Random at first start, stored.
    pub fn id(&self) -> DirectoryId {
        todo!()
    }
    /// All groups, ascending.
    pub fn groups(&self) -> Vec<(GroupId, ReplicaId, Health)> {
        todo!()
    }
    /// Makes a group; durable on return. Data of a faulty or removed predecessor is dropped.
    pub async fn create(&self, _group: GroupId, _replica: ReplicaId) -> Result<Group, CreateError> {
        todo!()
    }
    /// A good group.
    pub fn group(&self, _group: GroupId) -> Option<Group> {
        todo!()
    }
    /// Forgets a group, durably, then deletes its files.
    pub async fn remove(&self, _group: GroupId) -> io::Result<()> {
        todo!()
    }
    /// Stores a small fact of the node.
    pub async fn note(&self, _key: &str, _value: Bytes) -> io::Result<()> {
        todo!()
    }
    /// A stored fact.
    pub fn noted(&self, _key: &str) -> Option<Bytes> {
        todo!()
    }
    /// Resolves when a storage error has stopped the directory.
    pub async fn failed(&self) -> io::Error {
        todo!()
    }
    /// Figures.
    pub fn stats(&self) -> Stats {
        todo!()
    }
    /// Whether free space is below the low-water mark.
    pub fn is_low(&self) -> bool {
        todo!()
    }
    /// Flushes, seals, stops the threads.
    pub async fn close(&self) {
        todo!()
    }
}
