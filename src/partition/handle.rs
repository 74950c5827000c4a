//! What sessions see of a partition: marks and the tail without a message, everything else by one.

use super::{
    error::{FetchError, ProduceError, Unavailable},
    marks::{Marks, MarkCells},
    tail::TailLog,
};
use crate::{
    batch::Batch,
    replica::{Post, Waiter, WakeAt},
    runtime::{BytePermit, ReplySlot},
    types::{AckLevel, Position, TopicPartition},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use highwater_raft::{GroupId, ReplicaId};
use std::sync::{Arc, OnceLock};

/// One hosted replica of a partition. Clones share; may be used from any thread.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

/// What handle and actor share.
pub(super) struct Shared {
    pub(super) partition: TopicPartition,
    pub(super) group: GroupId,
    pub(super) replica: ReplicaId,
    pub(super) marks: MarkCells,
    pub(super) tail: TailLog,
    pub(super) post: Post<Request>,
    pub(super) raft: OnceLock<highwater_raft::group::Group>,
}

/// Batches pushed to the leader.
#[derive(Debug)]
pub struct Produce {
    /// When to answer.
    pub ack: AckLevel,
    /// What to append, in order: they go into one entry.
    pub batches: Vec<Batch>,
    /// Their bytes in the produce pool; held to the answer.
    pub permit: BytePermit,
    /// Answered once for all batches: the first refusal, else where the first batch went.
    pub slot: ReplySlot<Result<Produced, ProduceError>>,
}

/// Batches are in the log as the level says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// Offset of the first record; absent below level `quorum`.
    pub base_offset: Option<u64>,
    /// The leader's epoch.
    pub leader_epoch: u64,
    /// What is promised.
    pub level: AckLevel,
    /// On the disks of so many …
    pub quorum: u32,
    /// … of so many voters.
    pub voters: u32,
    /// All batches were there already.
    pub duplicate: bool,
}

/// A wish to be woken.
#[derive(Debug)]
pub struct Park {
    /// At which mark.
    pub wake_at: WakeAt,
    /// The epoch that the session saw in the marks: with another one waiting makes no sense.
    pub epoch: u64,
    /// Whom to wake.
    pub waiter: Waiter,
}

/// A batch ready to be sent: `prefix` then `rest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Offset of its first record.
    pub base_offset: u64,
    /// The offset behind its last record.
    pub offset_end: u64,
    /// Highest timestamp in it, milliseconds since 1970.
    pub max_timestamp: i64,
    /// Base offset, length and leader epoch.
    pub prefix: Bytes,
    /// Everything behind them, shared with the log.
    pub rest: Bytes,
}

impl Served {
    /// Bytes of the batch.
    pub fn bytes_len(&self) -> usize {
        self.prefix.len() + self.rest.len()
    }

    /// Records in it.
    pub fn records(&self) -> u64 {
        self.offset_end - self.base_offset
    }
}

/// What a read gives.
pub enum Read {
    /// From memory. Never empty.
    Hot(Vec<Served>),
    /// From disk; resolves to at least one batch.
    Cold(BoxFuture<'static, Result<Vec<Served>, FetchError>>),
    /// The offset is the high watermark: park.
    Empty,
    /// There is nothing to read at this offset.
    Refused(FetchError),
}

/// An offset found by meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The offset; the high watermark when no record is that late.
    pub offset: u64,
    /// The leader's epoch.
    pub leader_epoch: u64,
}

/// Messages to the partition's actor.
#[derive(Debug)]
pub(super) enum Request {
    Produce(Produce),
    Park(Park),
    Unpark { token: u64 },
    Barrier(ReplySlot<Result<(), Unavailable>>),
}

impl Handle {
    /// Which partition.
    pub fn partition(&self) -> TopicPartition {
        self.0.partition
    }

    /// Its Raft group.
    pub fn group(&self) -> GroupId {
        self.0.group
    }

    /// The replica hosted here.
    pub fn replica(&self) -> ReplicaId {
        self.0.replica
    }

    /// Marks and role now; never waits.
    pub fn marks(&self) -> Marks {
        self.0.marks.read()
    }

    /// Appends; a replica that does not lead refuses.
    pub fn produce(&self, produce: Produce) {
        self.0.post.send(Request::Produce(produce));
    }

    /// Asks to be woken once. Fired in the actor's next turn when the mark is reached already.
    pub fn park(&self, park: Park) {
        self.0.post.send(Request::Park(park));
    }

    /// Forgets a waiter. It may have fired already.
    pub fn unpark(&self, token: u64) {
        self.0.post.send(Request::Unpark { token });
    }
}

impl Handle {
    /// Batches from the one that contains `offset` on: at least one, then as many as fit into `bytes_max`.
    pub fn read(&self, offset: u64, bytes_max: usize) -> Read {
        let _ = (offset, bytes_max);
        todo!()
    }

    /// Waits until this replica has shown, after now, that it leads, and has applied all that was committed before.
    /// One round of messages is shared by all that ask in a turn.
    pub async fn barrier(&self) -> Result<(), Unavailable> {
        let (slot, answer) = ReplySlot::channel();
        self.0.post.send(Request::Barrier(slot));
        answer.await
    }

    /// Finds an offset by meaning. Ask [`Handle::barrier`] first where it must not be stale.
    pub async fn offset_at(&self, position: Position) -> Result<Found, FetchError> {
        let _ = position;
        todo!()
    }
}
