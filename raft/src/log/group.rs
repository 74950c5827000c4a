//! The handle of one group's log.

use super::{Applied, Checkpoint, Done, Entry, LogId, ReadError, Stamp};
use crate::{GroupId, ReplicaId};
use bytes::Bytes;
use std::io;
use tokio::sync::oneshot;

/// One group's log. Clones share. What is not async returns at once and never touches the disk.
#[derive(Clone)]
pub struct Group;

/// How the log asks for a restart checkpoint.
pub type Checkpointer = Box<dyn Fn(oneshot::Sender<Checkpoint>) + Send + Sync>;

#[allow(unused_variables, reason = "bodies to come")]
impl Group {
    /// Which group.
    pub fn id(&self) -> GroupId {
        todo!()
    }
    /// Which replica of it.
    pub fn replica(&self) -> ReplicaId {
        todo!()
    }
    /// As last saved, the owner's encoding.
    pub fn vote(&self) -> Option<Bytes> {
        todo!()
    }
    /// Saves the vote; `done` after the flush that holds it and all before it.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        todo!()
    }
    /// The last entry, or the purge or install point when there is none.
    pub fn last(&self) -> Option<LogId> {
        todo!()
    }
    /// Entries at or before it are gone for Raft.
    pub fn purged(&self) -> Option<LogId> {
        todo!()
    }
    /// The purge point, then the first entry of each later term.
    pub fn terms(&self) -> Vec<LogId> {
        todo!()
    }
    /// Appends; readable on return. The indexes must continue `last`.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        todo!()
    }
    /// Keeps entries up to and with `index`.
    pub fn truncate_after(&self, index: u64, done: Done) {
        todo!()
    }
    /// Keeps no entry behind the purge point.
    pub fn truncate_all(&self, done: Done) {
        todo!()
    }
    /// Moves Raft's start.
    pub fn purge(&self, upto: LogId, done: Done) {
        todo!()
    }
    /// Entries `from..to`, at least one, then as many as fit into `bytes_max`; fewer (or none) at the end of the log.
    pub async fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        todo!()
    }
    /// The same if all are in memory.
    pub fn cached(&self, from: u64, to: u64) -> Option<Vec<Entry>> {
        todo!()
    }
    /// After apply: ascending, each applied index once (those known already are skipped).
    pub fn note_applied(&self, stamps: Vec<Stamp>) {
        todo!()
    }
    /// The last entry whose stamp is known.
    pub fn applied(&self) -> Option<LogId> {
        todo!()
    }
    /// A segment boundary: entries up to `base.last` belong to the segment that ends there.
    pub fn seal(&self, base: Checkpoint) {
        todo!()
    }
    /// Payload bytes after which the apply loop puts a boundary.
    pub fn boundary_bytes(&self) -> u64 {
        todo!()
    }
    /// Sets whom to ask for a restart checkpoint when a WAL file retires.
    pub fn set_checkpointer(&self, ask: Checkpointer) {
        todo!()
    }
    /// What recovery found; `None`: the machine starts empty at index 0.
    pub fn restart_checkpoint(&self) -> Option<Checkpoint> {
        todo!()
    }
    /// The state before the first retained segment: what a follower behind the start gets. Reads a file.
    pub async fn base_checkpoint(&self) -> io::Result<Option<Checkpoint>> {
        todo!()
    }
    /// The log restarts behind `checkpoint`: one durable record; old entries and segments go.
    pub fn install(&self, checkpoint: Checkpoint, done: Done) {
        todo!()
    }
    /// The log start moved to `offset`. Gives the point up to which Raft may purge, if it moved; whole segments below it go after [`Group::purge`].
    pub fn trim(&self, offset: u64) -> Option<LogId> {
        todo!()
    }
    /// Applied entries that serve offsets, from the one that holds `offset`; at least one unless `offset` is the next offset or beyond.
    pub async fn read_applied(&self, offset: u64, bytes_max: usize) -> Result<Vec<Applied>, ReadError> {
        todo!()
    }
    /// Offset of the first entry whose `max_timestamp` is at or above `timestamp_ms`.
    pub async fn find_time(&self, timestamp_ms: i64) -> io::Result<Option<u64>> {
        todo!()
    }
    /// First offset that is there.
    pub fn start_offset(&self) -> u64 {
        todo!()
    }
}
