//! Where a consumer stands in each of its partitions, and what was fetched ahead: a machine without a runtime.
//!
//! ```text
//!  committed ≤ processed ≤ position ≤ fetch_from ≤ (high watermark)
//!              └ given, maybe not done ┘└ buffered ┘
//! ```
//! **Invariants**
//! - records of a partition are given in order, without a gap, from its position on; what an answer brings is taken only when
//!   it continues at `fetch_from` and belongs to the cursor's present version;
//! - a version ends with each seek, pause, revocation and loss: whatever was under way for it is ignored;
//! - a partition that leaves gives nothing more, and stays until all that was given is processed.

use crate::{
    batch::{Records, split},
    client::{ConsumeError, Delivery},
    types::{DELIVERED_UNKNOWN, Position, TopicName, TopicPartition},
    wire::{AssignedPartition, CommitOffset, FetchedPartition, OwnedPartition},
};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use tokio::time::Instant;

/// Where to go on when the position is no longer in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OutOfRange {
    /// At the log start.
    #[default]
    Earliest,
    /// At the high watermark.
    Latest,
    /// Nowhere: the consumer gets [`ConsumeError::OutOfRange`] and the partition stands still until it is sought.
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
    chunks: VecDeque<Chunk>,
    high_watermark: u64,
    leader_epoch: u64,
    redelivered_below: u64,
    attempts: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// The offset is to be asked for.
    Sought(Position),
    /// An earlier owner went without a word. The end is to be asked for, as all before it may have been given; then the offset.
    Unsure(Position),
    Known,
    /// Stands still until it is sought.
    Failed,
}

impl Cursor {
    /// How far records were given, here or before, if that is known.
    fn given(&self) -> Option<u64> {
        match self.stand {
            Stand::Unsure(_) => None,
            Stand::Sought(_) | Stand::Known | Stand::Failed => Some(self.position.max(self.redelivered_below)),
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
        let cursor = Cursor {
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
            chunks: VecDeque::new(),
            high_watermark: 0,
            leader_epoch: 0,
            redelivered_below: 0,
            attempts: 0,
        };
        self.all.insert(partition, cursor);
        if let Position::Offset(offset) = from {
            self.resolved(partition, version, offset);
        }
    }

    /// Begins to consume a partition that the group gave.
    pub(super) fn add_assigned(&mut self, assigned: &AssignedPartition, start: Position) {
        let partition = TopicPartition { topic: assigned.topic, partition: assigned.partition };
        self.add(partition, assigned.name.clone(), assigned.committed.map_or(start, Position::Offset));
        if let Some(cursor) = self.all.get_mut(&partition) {
            cursor.committed = assigned.committed;
            cursor.attempts = assigned.attempts;
            let before = self.given_before.get(&partition).copied().unwrap_or(0);
            if assigned.delivered == DELIVERED_UNKNOWN {
                cursor.stand = Stand::Unsure(assigned.committed.map_or(start, Position::Offset));
                cursor.redelivered_below = before;
            } else {
                cursor.redelivered_below = assigned.delivered.max(before);
            }
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

    pub(super) fn contains(&self, partition: TopicPartition) -> bool {
        self.all.contains_key(&partition)
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
        cursor.stand = if let Stand::Unsure(_) = cursor.stand { Stand::Unsure(to) } else { Stand::Sought(to) };
        cursor.not_before = None;
        let version = cursor.version;
        if let (Stand::Sought(_), Position::Offset(offset)) = (cursor.stand, to) {
            self.resolved(partition, version, offset);
        }
    }

    /// The next offset that will be given; absent while it is being asked for.
    pub(super) fn position(&self, partition: TopicPartition) -> Option<u64> {
        self.all.get(&partition).filter(|cursor| cursor.stand == Stand::Known).map(|cursor| cursor.position)
    }

    /// The highest watermark that was seen.
    pub(super) fn high_watermark(&self, partition: TopicPartition) -> Option<u64> {
        self.all.get(&partition).map(|cursor| cursor.high_watermark)
    }

    // ---- fetching

    /// What may be fetched now, and when more may.
    pub(super) fn wanted(&self, now: Instant) -> (Vec<Want>, Option<Instant>) {
        self.due(now, |cursor| cursor.stand == Stand::Known && !cursor.paused && cursor.leaving.is_none())
    }

    /// Positions that are to be asked for now, and when more are.
    pub(super) fn sought(&self, now: Instant) -> (Vec<(Want, Position)>, Option<Instant>) {
        let sought =
            |cursor: &Cursor| matches!(cursor.stand, Stand::Sought(_) | Stand::Unsure(_)) && cursor.leaving.is_none();
        let (wants, later) = self.due(now, sought);
        let position = |want: &Want| match self.all[&want.partition].stand {
            Stand::Sought(position) => position,
            Stand::Unsure(_) => Position::Latest,
            Stand::Known | Stand::Failed => unreachable!("it was filtered"),
        };
        (wants.into_iter().map(|want| (want, position(&want))).collect(), later)
    }

    fn due(&self, now: Instant, which: impl Fn(&Cursor) -> bool) -> (Vec<Want>, Option<Instant>) {
        let mut later = None;
        let mut wants = Vec::new();
        for (partition, cursor) in self.all.iter().filter(|(_, cursor)| which(cursor)) {
            match cursor.not_before.filter(|at| *at > now) {
                Some(at) => later = Some(later.map_or(at, |earlier: Instant| earlier.min(at))),
                None => {
                    wants.push(Want { partition: *partition, version: cursor.version, offset: cursor.fetch_from });
                }
            }
        }
        (wants, later)
    }

    fn current(&mut self, partition: TopicPartition, version: u64) -> Option<&mut Cursor> {
        self.all.get_mut(&partition).filter(|cursor| cursor.version == version)
    }

    /// A position was found.
    pub(super) fn resolved(&mut self, partition: TopicPartition, version: u64, offset: u64) {
        if let Some(cursor) = self.current(partition, version) {
            let offset = match cursor.stand {
                Stand::Unsure(then) => {
                    cursor.redelivered_below = cursor.redelivered_below.max(offset);
                    match then {
                        Position::Offset(offset) => offset,
                        then => return cursor.stand = Stand::Sought(then),
                    }
                }
                _ => offset,
            };
            cursor.stand = Stand::Known;
            (cursor.fetch_from, cursor.position, cursor.processed) = (offset, offset, offset);
        }
    }

    /// Leaves the partition alone for a while.
    pub(super) fn postpone(&mut self, partition: TopicPartition, version: u64, until: Instant) {
        if let Some(cursor) = self.current(partition, version) {
            cursor.not_before = Some(until);
        }
    }

    /// Gives up a partition until it is sought; gives its name if that is news.
    pub(super) fn fail(&mut self, partition: TopicPartition, version: u64) -> Option<TopicName> {
        let cursor = self.current(partition, version).filter(|cursor| cursor.stand != Stand::Failed)?;
        cursor.stand = Stand::Failed;
        Some(cursor.topic.clone())
    }

    /// The position is not in the log any more.
    pub(super) fn out_of_range(&mut self, want: Want, log_start: u64) -> Result<(), ConsumeError> {
        let policy = self.policy;
        let Some(cursor) = self.current(want.partition, want.version) else { return Ok(()) };
        // Buffered records are given first; the question comes again when they are gone.
        if cursor.fetch_from != want.offset {
            return Ok(());
        }
        match policy {
            OutOfRange::Earliest => cursor.stand = Stand::Sought(Position::Earliest),
            OutOfRange::Latest => cursor.stand = Stand::Sought(Position::Latest),
            OutOfRange::Error => {
                cursor.stand = Stand::Failed;
                let (topic, offset) = (cursor.topic.clone(), want.offset);
                return Err(ConsumeError::OutOfRange { topic, partition: want.partition.partition, offset, log_start });
            }
        }
        Ok(())
    }

    /// Records arrived for a want. `take` bounds how many records from the wanted offset on count (a subscription's credit).
    pub(super) fn fetched(
        &mut self,
        want: Want,
        said: &FetchedPartition,
        body: Bytes,
        source: u64,
        take: Option<u32>,
    ) -> Result<(), ConsumeError> {
        let credit = (take.unwrap_or(0), said.bytes);
        let Some(cursor) = self.all.get_mut(&want.partition).filter(|c| c.version == want.version) else {
            free(&mut self.freed, source, credit);
            return Ok(());
        };
        cursor.high_watermark = cursor.high_watermark.max(said.high_watermark);
        cursor.not_before = None;
        if cursor.fetch_from != want.offset || cursor.leaving.is_some() {
            free(&mut self.freed, source, credit);
            return Ok(());
        }
        let end_max = take.map_or(u64::MAX, |records| want.offset.saturating_add(records.into()));
        let mut credit = credit;
        for batch in split(body) {
            let failed = |why: String| ConsumeError::Damaged {
                topic: cursor.topic.clone(),
                partition: want.partition.partition,
                offset: cursor.fetch_from,
                why,
            };
            let batch = match batch.map_err(|e| failed(e.to_string())) {
                Ok(batch) => batch,
                Err(error) => {
                    cursor.stand = Stand::Failed;
                    free(&mut self.freed, source, credit);
                    return Err(error);
                }
            };
            let header = batch.header();
            let base = header.base_offset.max(0).unsigned_abs();
            let offset_end = (base + u64::from(header.last_offset_delta.max(0).unsigned_abs()) + 1).min(end_max);
            if offset_end <= cursor.fetch_from {
                continue;
            }
            let records_held = u32::try_from(offset_end - cursor.fetch_from.max(base)).unwrap_or(u32::MAX);
            let held = (records_held.min(credit.0), batch.bytes_len().min(credit.1));
            credit = (credit.0 - held.0, credit.1 - held.1);
            if cursor.chunks.is_empty() {
                self.ready.push_back(want.partition);
            }
            self.buffered += batch.bytes().len();
            cursor.fetch_from = offset_end;
            cursor.chunks.push_back(Chunk {
                bytes: batch.bytes().len(),
                leader_epoch: u64::from(header.partition_leader_epoch.max(0).unsigned_abs()),
                records: batch.records(),
                offset_end,
                source,
                credit: if take.is_some() { held } else { (0, 0) },
            });
        }
        if take.is_some() {
            free(&mut self.freed, source, credit);
        }
        Ok(())
    }

    /// Bytes that wait to be given.
    pub(super) fn buffered(&self) -> usize {
        self.buffered
    }

    // ---- giving

    /// Up to `max` records, partitions in turn. An error leaves the records before it for this call.
    pub(super) fn take(&mut self, max: usize) -> (Vec<Delivery>, Option<ConsumeError>) {
        let mut given = Vec::new();
        while let Some(partition) = self.ready.pop_front() {
            let failed = self.take_from(partition, max, &mut given);
            if given.len() >= max || failed.is_some() {
                if self.all.get(&partition).is_some_and(|cursor| !cursor.chunks.is_empty()) {
                    self.ready.push_back(partition);
                }
                return (given, failed);
            }
        }
        (given, None)
    }

    fn take_from(&mut self, partition: TopicPartition, max: usize, given: &mut Vec<Delivery>) -> Option<ConsumeError> {
        let cursor = self.all.get_mut(&partition)?;
        if cursor.paused || cursor.leaving.is_some() || cursor.chunks.is_empty() {
            return None;
        }
        self.unsettled.push(partition);
        while given.len() < max {
            let chunk = cursor.chunks.front_mut()?;
            let record = if cursor.position >= chunk.offset_end { None } else { chunk.records.next() };
            match record {
                Some(Ok(record)) if record.offset < cursor.position => {}
                Some(Ok(record)) if record.offset < chunk.offset_end => {
                    if chunk.credit.0 > 0 {
                        chunk.credit.0 -= 1;
                        free(&mut self.given, chunk.source, (1, 0));
                    }
                    cursor.position = record.offset + 1;
                    cursor.leader_epoch = chunk.leader_epoch;
                    let redelivered = record.offset < cursor.redelivered_below;
                    given.push(Delivery {
                        topic: cursor.topic.clone(),
                        partition: partition.partition,
                        offset: record.offset,
                        timestamp: record.timestamp,
                        key: record.key,
                        value: record.value,
                        headers: record.headers,
                        leader_epoch: chunk.leader_epoch,
                        attempt: if redelivered { cursor.attempts.max(1) + 1 } else { 1 },
                        redelivered,
                    });
                }
                Some(Err(error)) => {
                    let failed = ConsumeError::damaged(&cursor.topic, partition.partition, cursor.position, &error);
                    self.drop_buffer(partition);
                    if let Some(cursor) = self.all.get_mut(&partition) {
                        cursor.stand = Stand::Failed;
                    }
                    return Some(failed);
                }
                Some(Ok(_)) | None => {
                    // Markers and compacted records leave no gap behind: the chunk's end is the next position.
                    cursor.position = cursor.position.max(chunk.offset_end);
                    self.buffered -= chunk.bytes;
                    free(&mut self.given, chunk.source, chunk.credit);
                    cursor.chunks.pop_front();
                }
            }
        }
        None
    }

    /// Credit that became free since the last call.
    pub(super) fn take_freed(&mut self) -> Freed {
        std::mem::take(&mut self.freed)
    }

    // ---- progress

    /// All that was given is done; gives whether a partition may leave now.
    pub(super) fn settle(&mut self) -> bool {
        for (source, credit) in std::mem::take(&mut self.given) {
            free(&mut self.freed, source, credit);
        }
        let mut leaves = false;
        for partition in self.unsettled.drain(..) {
            if let Some(cursor) = self.all.get_mut(&partition).filter(|cursor| cursor.stand == Stand::Known) {
                cursor.processed = cursor.position;
                leaves |= cursor.leaving.is_some();
            }
        }
        leaves
    }

    /// What is done (or at least given) and not committed.
    pub(super) fn uncommitted(&self, upto: Upto) -> Vec<CommitOffset> {
        let known = self.all.iter().filter(|(_, cursor)| cursor.stand == Stand::Known);
        let offsets = known.map(|(at, cursor)| match upto {
            Upto::Done => (at, cursor, cursor.processed),
            Upto::Given => (at, cursor, cursor.position),
        });
        let due = offsets.filter(|(_, cursor, offset)| cursor.committed != Some(*offset));
        due.map(|(partition, cursor, offset)| CommitOffset {
            topic: partition.topic,
            partition: partition.partition,
            offset,
            leader_epoch: cursor.leader_epoch,
            metadata: String::new(),
        })
        .collect()
    }

    pub(super) fn committed(&mut self, offset: &CommitOffset) {
        let partition = TopicPartition { topic: offset.topic, partition: offset.partition };
        if let Some(cursor) = self.all.get_mut(&partition) {
            cursor.committed = Some(offset.offset);
        }
    }

    // ---- groups

    /// What the home is told.
    pub(super) fn owned(&self) -> Vec<OwnedPartition> {
        let owned = |(partition, cursor): (&TopicPartition, &Cursor)| OwnedPartition {
            topic: partition.topic,
            partition: partition.partition,
            delivered: cursor.given().map_or(0, |given| given.max(cursor.committed.unwrap_or(0))),
        };
        self.all.iter().map(owned).collect()
    }

    /// Takes an assignment: new partitions begin, those that are not in it leave, the others go on as if nothing was.
    pub(super) fn assign(&mut self, assigned: &[AssignedPartition], start: Position, now: Instant) {
        let of = |a: &AssignedPartition| TopicPartition { topic: a.topic, partition: a.partition };
        for partition in self.partitions() {
            let stays = assigned.iter().any(|a| of(a) == partition);
            let left = self.all.get(&partition).is_some_and(|cursor| cursor.leaving.is_some());
            if stays == left {
                self.renew(partition);
                if let Some(cursor) = self.all.get_mut(&partition) {
                    cursor.leaving = (!stays).then_some(now);
                }
            }
        }
        for assigned in assigned {
            if !self.contains(of(assigned)) {
                self.add_assigned(assigned, start);
            }
        }
    }

    /// Partitions that leave and may go: all that was given of them is done, or the program took too long since `patience_end`.
    pub(super) fn releasable(&self, leaving_since_max: Option<Instant>) -> Vec<TopicPartition> {
        let late = |since: Instant| leaving_since_max.is_some_and(|max| since <= max);
        let may = |cursor: &Cursor| {
            cursor
                .leaving
                .is_some_and(|since| cursor.stand != Stand::Known || cursor.processed == cursor.position || late(since))
        };
        self.all.iter().filter(|(_, cursor)| may(cursor)).map(|(partition, _)| *partition).collect()
    }

    /// Whether any partition waits for the program before it can leave.
    pub(super) fn is_leaving(&self) -> bool {
        self.all.values().any(|cursor| cursor.leaving.is_some())
    }
}

fn free(freed: &mut Freed, source: u64, (records, bytes): (u32, u32)) {
    if records > 0 || bytes > 0 {
        let entry = freed.entry(source).or_default();
        entry.0 = entry.0.saturating_add(records);
        entry.1 = entry.1.saturating_add(bytes);
    }
}
