//! What sessions see of a partition: marks and the tail without a message, everything else by one.

use super::{
    actor::PartitionDomain,
    error::{FetchError, ProduceError, Unavailable},
    machine,
    marks::{MarkCells, Marks, Role},
    serve,
    tail::{TailBudget, TailLog},
};
use crate::{
    batch::Batch,
    metrics::Metrics,
    replica::{self, Identity, Keeper, Post, Waiter, WakeAt},
    runtime::{BytePermit, Env, ReplySlot},
    types::{AckLevel, Position, TopicPartition},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use highwater_raft::{
    GroupId, ReplicaId,
    group::TransferError,
    log::{Directory, ReadError},
    machine::Command,
};
use std::sync::{Arc, OnceLock};

/// One hosted replica of a partition. Clones share; may be used from any thread.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

/// What a node gives to each of its replicas. Clones share.
#[derive(Clone)]
pub struct Around {
    /// Time, tasks, randomness.
    pub env: Env,
    /// Where the logs are.
    pub directory: Directory,
    /// What the node counts.
    pub metrics: Metrics,
    /// Memory for the newest batches.
    pub tails: TailBudget,
}

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
    Unpark {
        token: u64,
    },
    Barrier(ReplySlot<Result<(), Unavailable>>),
    /// Whether it leads without a majority that could ever answer.
    Strand(bool),
    /// A command of retention.
    Propose(Command),
    /// Forget producers that were silent for long, if there are any.
    Tidy(machine::ExpireProducers),
    /// For tests of what follows.
    #[cfg(feature = "testing")]
    Panic,
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
        let marks = self.marks();
        match marks.role {
            Role::Gone => return Read::Refused(FetchError::NotLeader { leader: marks.leader, epoch: marks.epoch }),
            Role::Leader | Role::Follower if !marks.ready => {
                return Read::Refused(FetchError::NotReady { epoch: marks.epoch });
            }
            Role::Leader | Role::Follower => {}
        }
        let (start, end) = (marks.log_start, marks.high_watermark);
        if offset < start {
            return Read::Refused(FetchError::OutOfRange { offset, log_start: start });
        }
        if offset > end {
            return Read::Refused(FetchError::NotYet { offset, high_watermark: end });
        }
        if offset == end {
            return Read::Empty;
        }
        match (self.0.tail.read(offset, end, bytes_max), self.0.raft.get()) {
            (Some(served), _) => Read::Hot(served),
            (None, Some(raft)) => Read::Cold(Box::pin(cold(raft.log(), offset, end, bytes_max))),
            (None, None) => Read::Refused(FetchError::NotReady { epoch: marks.epoch }),
        }
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
        let marks = self.marks();
        let offset = match position {
            Position::Earliest => marks.log_start,
            Position::Latest => marks.high_watermark,
            Position::Offset(offset) if offset < marks.log_start => {
                return Err(FetchError::OutOfRange { offset, log_start: marks.log_start });
            }
            Position::Offset(offset) if offset > marks.high_watermark => {
                return Err(FetchError::NotYet { offset, high_watermark: marks.high_watermark });
            }
            Position::Offset(offset) => offset,
            Position::Time(timestamp) => self.first_at(timestamp, &marks).await?.unwrap_or(marks.high_watermark),
        };
        Ok(Found { offset, leader_epoch: marks.epoch })
    }

    /// The first record with this timestamp or a later one: Kafka's rule.
    async fn first_at(&self, timestamp: i64, marks: &Marks) -> Result<Option<u64>, FetchError> {
        let raft = self.0.raft.get().ok_or(FetchError::NotReady { epoch: marks.epoch })?;
        let io = |error: std::io::Error| FetchError::Io { why: error.to_string() };
        let Some(entry) = raft.log().find_time(timestamp).await.map_err(io)? else { return Ok(None) };
        let mut offset = entry.max(marks.log_start);
        while offset < marks.high_watermark {
            let served = match self.read(offset, ENTRY_BYTES) {
                Read::Hot(served) => served,
                Read::Cold(served) => served.await?,
                Read::Empty => return Ok(None),
                Read::Refused(error) => return Err(error),
            };
            for served in served {
                offset = served.offset_end;
                if served.max_timestamp >= timestamp
                    && let Some(found) = first_record_at(&served, timestamp)
                {
                    return Ok(Some(found.max(marks.log_start)));
                }
            }
        }
        Ok(None)
    }

    /// Starts this node's replica on the current arbiter. `served` are its marks when it failed in this boot, if it did.
    pub(crate) fn host(
        around: &Around,
        partition: TopicPartition,
        replica: ReplicaId,
        identity: Identity,
        served: Option<Marks>,
    ) -> (Self, Keeper) {
        let shared = Arc::new(Shared {
            partition,
            group: identity.group,
            replica,
            marks: MarkCells::default(),
            tail: TailLog::new(around.tails.clone()),
            post: Post::default(),
            raft: OnceLock::new(),
        });
        let domain = PartitionDomain::new(shared.clone(), around, served);
        let keeper = replica::start(&around.env, shared.post.clone(), domain, identity);
        (Self(shared), keeper)
    }

    /// Its log is open: cold reads may begin.
    pub(crate) fn opened(&self, raft: highwater_raft::group::Group) {
        assert!(self.0.raft.set(raft).is_ok(), "a replica is opened once");
    }

    /// Has silent producers forgotten, if there are any and this replica leads.
    pub(crate) fn tidy(&self, expire: machine::ExpireProducers) {
        self.0.post.send(Request::Tidy(expire));
    }

    /// Makes the replica's next turn panic: only for tests of what follows.
    #[cfg(feature = "testing")]
    pub fn panic(&self) {
        self.0.post.send(Request::Panic);
    }

    /// Hands the lead over to another replica, if this one leads.
    pub(crate) async fn transfer(&self, to: ReplicaId) -> Result<(), TransferError> {
        match self.0.raft.get() {
            Some(raft) => raft.transfer(to).await,
            None => Err(TransferError::NotLeader { hint: None }),
        }
    }

    /// Tells a leader whether it is stranded: most replicas are damaged, and no majority answers. It is not ready then.
    pub(crate) fn strand(&self, stranded: bool) {
        self.0.post.send(Request::Strand(stranded));
    }

    /// Proposes a command of retention, if this replica leads.
    pub(crate) fn propose(&self, command: Command) {
        self.0.post.send(Request::Propose(command));
    }
}

/// Bytes that one step of a search by time looks at.
const ENTRY_BYTES: usize = 256 << 10;

async fn cold(
    log: highwater_raft::log::Group,
    offset: u64,
    end: u64,
    bytes_max: usize,
) -> Result<Vec<Served>, FetchError> {
    let entries = log.read_applied(offset, bytes_max).await.map_err(|error| match error {
        ReadError::BelowStart { start } => FetchError::OutOfRange { offset, log_start: start },
        ReadError::Io(error) => FetchError::Io { why: error.to_string() },
        other => FetchError::Damaged { offset, why: other.to_string() },
    })?;
    let damaged = |index| FetchError::Damaged { offset, why: format!("the note beside entry {index} does not fit it") };
    let served = serve::batches(&entries, offset, end, bytes_max).map_err(damaged)?;
    match served.first() {
        Some(first) if first.base_offset <= offset => Ok(served),
        _ => Err(FetchError::Damaged { offset, why: "no entry holds it".into() }),
    }
}

fn first_record_at(served: &Served, timestamp: i64) -> Option<u64> {
    let whole = [&served.prefix[..], &served.rest[..]].concat();
    let records = Batch::trusted(whole.into()).ok()?.records();
    let found = records.filter_map(Result::ok).find(|record| record.timestamp >= timestamp);
    found.map(|record| record.offset)
}
