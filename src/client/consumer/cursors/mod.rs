//! Where a consumer stands in each of its partitions, and what was fetched ahead: a machine without a runtime.
//!
//! ```text
//!  committed ≤ processed ≤ position ≤ fetch_from ≤ (high watermark)
//!              └ given, maybe not done ┘└ buffered ┘
//! ```
//! `fetching` is what comes in, `giving` what goes out, `sharing` what a group has to do with it.
//!
//! **Invariants**
//! - records of a partition are given in order, without a gap, from its position on; what an answer brings is taken only when
//!   it continues at `fetch_from` and belongs to the cursor's present version;
//! - a version ends with each seek, pause, revocation and loss: whatever was under way for it is ignored;
//! - a partition that leaves gives nothing more, and stays until all that was given is processed;
//! - a group's partition gives nothing before its start is in the group's home.

mod fetching;
mod giving;
mod sharing;

use crate::{
    batch::Records,
    types::{Generation, Position, TopicName, TopicPartition},
};
use std::collections::{BTreeMap, VecDeque};
use tokio::time::Instant;

/// Where to go on when the position is not in the log: retention took it, or it is above the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OutOfRange {
    /// At the log start.
    #[default]
    Earliest,
    /// At the high watermark.
    Latest,
    /// Nowhere: the consumer gets [`ConsumeError::OutOfRange`](crate::client::ConsumeError::OutOfRange) and the partition stands still until it is sought.
    Error,
}

/// Credit that becomes free: of which subscription, how much.
pub(super) type Freed = BTreeMap<u64, (u32, u32)>;

/// Something to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) partition: TopicPartition,
    pub(super) version: u64,
    pub(super) offset: u64,
}

/// How far a commit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upto {
    /// What is done.
    Done,
    /// What was given.
    Given,
}

struct Cursor {
    topic: TopicName,
    version: u64,
    stand: Stand,
    fetch_from: u64,
    position: u64,
    processed: u64,
    committed: Option<u64>,
    paused: bool,
    leaving: Option<Instant>,
    not_before: Option<Instant>,
    /// It was said to be offline, and has not answered since.
    offline: bool,
    chunks: VecDeque<Chunk>,
    high_watermark: u64,
    leader_epoch: u64,
    redelivered_below: u64,
    attempts: u32,
    /// Which ownership it is, in a group.
    granted: Option<Generation>,
    /// The program chose where it stands, whatever the group's start.
    chosen: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// The offset is to be asked for.
    Sought(Position),
    /// An earlier owner went without a word. The end is to be asked for, as all before it may have been given; then the offset.
    Unsure(Position),
    /// The group starts here, unless the home knows better: it is to be told.
    Found(u64),
    Known,
    /// As `Known`, but a leader did not know of the offset: one that has shown that it leads is to be asked whether it is there.
    Doubted,
    /// Stands still until it is sought.
    Failed,
}

impl Cursor {
    fn new(topic: TopicName, version: u64, from: Position) -> Self {
        Self {
            topic,
            version,
            stand: Stand::Sought(from),
            fetch_from: 0,
            position: 0,
            processed: 0,
            committed: None,
            paused: false,
            leaving: None,
            not_before: None,
            offline: false,
            chunks: VecDeque::new(),
            high_watermark: 0,
            leader_epoch: 0,
            redelivered_below: 0,
            attempts: 0,
            granted: None,
            chosen: false,
        }
    }

    fn stand_at(&mut self, offset: u64) {
        self.stand = Stand::Known;
        (self.fetch_from, self.position, self.processed) = (offset, offset, offset);
    }

    /// Whether it has a position.
    fn stands(&self) -> bool {
        matches!(self.stand, Stand::Known | Stand::Doubted)
    }

    /// How far records were given, here or before, if that is known.
    fn given(&self) -> Option<u64> {
        match self.stand {
            Stand::Unsure(_) => None,
            Stand::Sought(_) | Stand::Found(_) | Stand::Known | Stand::Doubted | Stand::Failed => {
                Some(self.position.max(self.redelivered_below))
            }
        }
    }
}

struct Chunk {
    records: Records,
    leader_epoch: u64,
    offset_end: u64,
    bytes: usize,
    /// Subscription that it came by, and what of its credit is still held.
    source: u64,
    credit: (u32, u32),
}

pub(super) struct Cursors {
    all: BTreeMap<TopicPartition, Cursor>,
    buffered: usize,
    /// Partitions that may have something to give; the first is next.
    ready: VecDeque<TopicPartition>,
    /// Partitions of which something was given since the last [`settle`](Self::settle).
    unsettled: Vec<TopicPartition>,
    next_version: u64,
    policy: OutOfRange,
    freed: Freed,
    /// Becomes free when what was given is done.
    given: Freed,
    /// How far partitions were given that this consumer does not have any more.
    given_before: BTreeMap<TopicPartition, u64>,
}

impl Cursors {
    pub(super) fn new(policy: OutOfRange) -> Self {
        Self {
            all: BTreeMap::new(),
            buffered: 0,
            ready: VecDeque::new(),
            unsettled: Vec::new(),
            next_version: 0,
            policy,
            freed: Freed::new(),
            given: Freed::new(),
            given_before: BTreeMap::new(),
        }
    }

    fn version(&mut self) -> u64 {
        self.next_version += 1;
        self.next_version
    }

    /// Begins to consume a partition.
    pub(super) fn add(&mut self, partition: TopicPartition, topic: TopicName, from: Position) {
        self.remove(partition);
        let version = self.version();
        self.begin(partition, Cursor::new(topic, version, from));
    }

    fn begin(&mut self, partition: TopicPartition, cursor: Cursor) {
        let (version, stand) = (cursor.version, cursor.stand);
        self.all.insert(partition, cursor);
        if let Stand::Sought(Position::Offset(offset)) = stand {
            self.resolved(partition, version, offset);
        }
    }

    /// Forgets a partition with all that was fetched of it.
    pub(super) fn remove(&mut self, partition: TopicPartition) {
        self.drop_buffer(partition);
        if let Some(given) = self.all.remove(&partition).and_then(|cursor| cursor.given()) {
            self.given_before.insert(partition, given);
        }
    }

    pub(super) fn clear(&mut self) {
        for partition in self.partitions() {
            self.remove(partition);
        }
    }

    pub(super) fn partitions(&self) -> Vec<TopicPartition> {
        self.all.keys().copied().collect()
    }

    /// Name and number of each partition that is consumed.
    pub(super) fn names(&self) -> Vec<(TopicName, u32)> {
        let here = self.all.iter().filter(|(_, cursor)| cursor.leaving.is_none());
        here.map(|(partition, cursor)| (cursor.topic.clone(), partition.partition)).collect()
    }

    pub(super) fn find(&self, topic: &TopicName, partition: u32) -> Option<TopicPartition> {
        let mut all = self.all.iter();
        all.find(|(at, cursor)| at.partition == partition && cursor.topic == *topic).map(|(at, _)| *at)
    }

    fn drop_buffer(&mut self, partition: TopicPartition) {
        let Some(cursor) = self.all.get_mut(&partition) else { return };
        for chunk in cursor.chunks.drain(..) {
            self.buffered -= chunk.bytes;
            free(&mut self.freed, chunk.source, chunk.credit);
        }
        cursor.fetch_from = cursor.position;
    }

    /// The cursor's version ends: nothing under way for it counts any more.
    fn renew(&mut self, partition: TopicPartition) {
        self.drop_buffer(partition);
        let version = self.version();
        if let Some(cursor) = self.all.get_mut(&partition) {
            cursor.version = version;
        }
    }

    /// Drops what was fetched ahead and is under way: it is asked for again, from where records were given.
    pub(super) fn fetch_again(&mut self) {
        for partition in self.partitions() {
            self.renew(partition);
        }
    }

    pub(super) fn pause(&mut self, partition: TopicPartition, paused: bool) {
        if self.all.get(&partition).is_some_and(|cursor| cursor.paused != paused) {
            self.renew(partition);
            if let Some(cursor) = self.all.get_mut(&partition) {
                cursor.paused = paused;
            }
        }
    }

    pub(super) fn seek(&mut self, partition: TopicPartition, to: Position) {
        self.renew(partition);
        let Some(cursor) = self.all.get_mut(&partition) else { return };
        if cursor.granted.is_some() {
            // The group was given what is skipped back over.
            cursor.redelivered_below = cursor.redelivered_below.max(cursor.position);
        }
        cursor.chosen = true;
        cursor.stand = if let Stand::Unsure(_) = cursor.stand { Stand::Unsure(to) } else { Stand::Sought(to) };
        cursor.not_before = None;
        let version = cursor.version;
        if let (Stand::Sought(_), Position::Offset(offset)) = (cursor.stand, to) {
            self.resolved(partition, version, offset);
        }
    }

    /// The next offset that will be given; absent while it is being asked for.
    pub(super) fn position(&self, partition: TopicPartition) -> Option<u64> {
        self.all.get(&partition).filter(|cursor| cursor.stands()).map(|cursor| cursor.position)
    }

    /// The highest watermark that was seen.
    pub(super) fn high_watermark(&self, partition: TopicPartition) -> Option<u64> {
        self.all.get(&partition).map(|cursor| cursor.high_watermark)
    }
}

fn free(freed: &mut Freed, source: u64, (records, bytes): (u32, u32)) {
    if records > 0 || bytes > 0 {
        let entry = freed.entry(source).or_default();
        entry.0 = entry.0.saturating_add(records);
        entry.1 = entry.1.saturating_add(bytes);
    }
}
