//! What comes in: which positions and records are asked for, and what is taken of the answers.

use super::{Chunk, Cursor, Cursors, OutOfRange, Stand, Want, free};
use crate::{
    batch::split,
    client::ConsumeError,
    types::{Position, TopicName, TopicPartition},
    wire::FetchedPartition,
};
use bytes::Bytes;
use tokio::time::Instant;

impl Cursors {
    /// What may be fetched now, and when more may.
    pub(in crate::client::consumer) fn wanted(&self, now: Instant) -> (Vec<Want>, Option<Instant>) {
        self.due(now, |cursor| cursor.stand == Stand::Known && !cursor.paused && cursor.leaving.is_none())
    }

    /// Positions that are to be asked for now, and when more are.
    pub(in crate::client::consumer) fn sought(&self, now: Instant) -> (Vec<(Want, Position)>, Option<Instant>) {
        let open = |stand| matches!(stand, Stand::Sought(_) | Stand::Unsure(_) | Stand::Doubted);
        let (wants, later) = self.due(now, |cursor| open(cursor.stand) && cursor.leaving.is_none());
        let position = |want: &Want| match self.all[&want.partition].stand {
            Stand::Sought(position) => position,
            Stand::Unsure(_) => Position::Latest,
            Stand::Doubted => Position::Offset(want.offset),
            Stand::Found(_) | Stand::Known | Stand::Failed => unreachable!("it was filtered"),
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
    pub(in crate::client::consumer) fn resolved(&mut self, partition: TopicPartition, version: u64, offset: u64) {
        if let Some(cursor) = self.current(partition, version) {
            cursor.offline = false;
            let offset = match cursor.stand {
                Stand::Unsure(then) => {
                    cursor.redelivered_below = cursor.redelivered_below.max(offset);
                    match then {
                        Position::Offset(offset) => offset,
                        then => return cursor.stand = Stand::Sought(then),
                    }
                }
                // It goes on as if nothing was: what was given and is not done stays so.
                Stand::Doubted => return cursor.stand = Stand::Known,
                _ => offset,
            };
            if cursor.granted.is_some() && cursor.committed.is_none() {
                cursor.stand = Stand::Found(offset);
            } else {
                cursor.stand_at(offset);
            }
        }
    }

    /// Leaves the partition alone for a while.
    pub(in crate::client::consumer) fn postpone(&mut self, partition: TopicPartition, version: u64, until: Instant) {
        if let Some(cursor) = self.current(partition, version) {
            cursor.not_before = Some(until);
        }
    }

    /// Leaves a partition that is offline alone for a while; gives its name if that is news.
    pub(in crate::client::consumer) fn offline(
        &mut self,
        partition: TopicPartition,
        version: u64,
        until: Instant,
    ) -> Option<TopicName> {
        let cursor = self.current(partition, version)?;
        cursor.not_before = Some(until);
        (!std::mem::replace(&mut cursor.offline, true)).then(|| cursor.topic.clone())
    }

    /// Gives up a partition until it is sought; gives its name if that is news.
    pub(in crate::client::consumer) fn fail(&mut self, partition: TopicPartition, version: u64) -> Option<TopicName> {
        let cursor = self.current(partition, version).filter(|cursor| cursor.stand != Stand::Failed)?;
        cursor.stand = Stand::Failed;
        Some(cursor.topic.clone())
    }

    /// A leader does not know of the offset, and leaves open whether it will: that is asked from `again_at` on. What is
    /// buffered before it is given first.
    pub(in crate::client::consumer) fn doubt(&mut self, want: Want, again_at: Instant) {
        let Some(cursor) = self.current(want.partition, want.version) else { return };
        cursor.not_before = Some(again_at);
        if cursor.stand == Stand::Known && cursor.fetch_from == want.offset && cursor.position == want.offset {
            cursor.stand = Stand::Doubted;
        }
    }

    /// The position is not in the log; `nearest` to it is. What is buffered before it is given first: until then it is asked
    /// for again, not before `again_at`.
    pub(in crate::client::consumer) fn out_of_range(
        &mut self,
        want: Want,
        nearest: u64,
        again_at: Instant,
    ) -> Result<(), ConsumeError> {
        let policy = self.policy;
        let Some(cursor) = self.current(want.partition, want.version) else { return Ok(()) };
        if cursor.fetch_from != want.offset {
            return Ok(());
        }
        if cursor.position < cursor.fetch_from {
            cursor.not_before = Some(again_at);
            return Ok(());
        }
        match policy {
            OutOfRange::Earliest => cursor.stand = Stand::Sought(Position::Earliest),
            OutOfRange::Latest => cursor.stand = Stand::Sought(Position::Latest),
            OutOfRange::Error => {
                cursor.stand = Stand::Failed;
                let (topic, offset) = (cursor.topic.clone(), want.offset);
                return Err(ConsumeError::OutOfRange { topic, partition: want.partition.partition, offset, nearest });
            }
        }
        Ok(())
    }

    /// Records arrived for a want. `take` bounds how many records from the wanted offset on count (a subscription's credit).
    pub(in crate::client::consumer) fn fetched(
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
        cursor.offline = false;
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
    pub(in crate::client::consumer) fn buffered(&self) -> usize {
        self.buffered
    }
}
