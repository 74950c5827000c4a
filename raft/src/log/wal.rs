//! The WAL thread: the only writer of WAL files.
//!
//! ```text
//!  wait ─▶ take all that waits ─▶ (rotate) ─▶ one frame ─▶ write ─▶ fdatasync ─▶ places, `Done`s in order ─▶ wait
//!    └─ idle for `seal_after` with an unsealed flush ─▶ empty frame, synced
//! ```
//! The flush in progress is the batching window: there is no timer in front of a lone append.

use super::{
    Done, LogId,
    cache::Cache,
    core::{Append, Body, Common, Job, Op, Running, again, closed},
    frame::{self, Piece, Seed},
    record::{Hard, NO_GROUP, Record, Table, kind},
    walfiles,
};
use crate::{GroupId, disk::File};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// Bytes and records of one frame at most (one record may be larger).
const FRAME_BYTES: u64 = 8 << 20;
const FRAME_RECORDS: usize = 4096;
/// Full files that are kept before the oldest retires: recent ones hold most of what is not applied yet.
const KEEP_FULL: usize = 1;
/// How long a flush waits for each file above the limit.
const SLOW: Duration = Duration::from_millis(5);
/// Flushes between two looks at the free space.
const MEASURE_EACH: u64 = 256;

/// The state of the WAL's writer.
pub(super) struct Wal {
    pub(super) common: Arc<Common>,
    pub(super) jobs: mpsc::UnboundedSender<Job>,
    pub(super) sequence: u64,
    pub(super) file: Arc<dyn File>,
    /// Where the next frame goes.
    pub(super) position: u64,
    pub(super) sync_seq: u64,
    pub(super) digest: u32,
    pub(super) groups: BTreeMap<GroupId, Hard>,
    pub(super) notes: BTreeMap<String, Bytes>,
    pub(super) damages: Vec<(u64, u64)>,
    /// Files below it hold nothing that is needed; the retirer forgets each a little later.
    pub(super) retired: u64,
    pub(super) cache: Cache,
    /// Bytes written since the retirer was last asked, but for what it wrote itself.
    pub(super) fresh: u64,
}

/// A frame's record, encoded.
pub(super) struct Raw {
    pub(super) group: u64,
    pub(super) kind: u8,
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) parts: Vec<Bytes>,
}

impl Raw {
    pub(super) fn of(group: Option<GroupId>, record: &Record) -> Self {
        let (first, end) = range(record);
        Raw { group: group.map_or(NO_GROUP, |g| g.0), kind: record.kind(), first, end, parts: vec![record.encode()] }
    }
    pub(super) fn piece(&self) -> Piece<'_> {
        let len = self.parts.iter().map(|p| p.len() as u64).sum();
        Piece { group: self.group, kind: self.kind, first: self.first, end: self.end, parts: &self.parts, len }
    }
}

/// Indexes that a record names in the frame's directory.
fn range(record: &Record) -> (u64, u64) {
    let upto = |id: &LogId| (id.index, id.index + 1);
    match record {
        Record::Truncate { next } => (*next, u64::MAX),
        Record::Purge { upto: id, .. } => upto(id),
        Record::Install(checkpoint) => upto(&checkpoint.last),
        Record::Moved(moved) => upto(&moved.upto),
        _ => (0, 0),
    }
}

impl Wal {
    /// Serves the queue until it closes, a `Close` comes, or storage fails.
    pub(super) async fn run(mut self, mut ops: mpsc::UnboundedReceiver<Op>) {
        let _running = Running(self.common.clone());
        let mut waiting = VecDeque::new();
        let ended = self.serve(&mut ops, &mut waiting).await;
        let error = ended.err();
        if let Some(error) = &error {
            self.common.fail(error);
        }
        // Whatever waits or still comes is answered.
        loop {
            for op in waiting.drain(..) {
                (op.done)(Err(error.as_ref().map_or_else(closed, again)));
            }
            match ops.recv().await {
                Some(op) => waiting.push_back(op),
                None => return,
            }
            if error.is_none() {
                ops.close();
            }
        }
    }

    async fn serve(&mut self, ops: &mut mpsc::UnboundedReceiver<Op>, waiting: &mut VecDeque<Op>) -> io::Result<()> {
        // The first frame wants its seal like any other.
        let mut seal_at = Some(Instant::now() + self.common.options.seal_after);
        let mut taken = Vec::new();
        loop {
            if waiting.is_empty() {
                let count = tokio::select! {
                    biased;
                    count = ops.recv_many(&mut taken, FRAME_RECORDS) => count,
                    () = sleep_until(seal_at), if seal_at.is_some() => {
                        self.seal().await?;
                        seal_at = None;
                        continue;
                    }
                };
                if count == 0 {
                    return if seal_at.is_some() { self.seal().await } else { Ok(()) };
                }
                waiting.extend(taken.drain(..));
            }
            self.slow_down().await;
            while let Ok(op) = ops.try_recv() {
                waiting.push_back(op);
            }
            let (batch, end) = take_frame(waiting);
            if !batch.is_empty() {
                self.flush(batch).await?;
                seal_at = Some(Instant::now() + self.common.options.seal_after);
            }
            match end {
                None => {}
                Some(Op { body: Body::Fail(error), done }) => {
                    done(Ok(()));
                    return Err(error);
                }
                Some(Op { done, .. }) => {
                    if seal_at.is_some() {
                        self.seal().await?;
                    }
                    done(Ok(()));
                    return Ok(());
                }
            }
        }
    }

    /// The retirer is behind: lets it catch up, a little per flush.
    async fn slow_down(&self) {
        let (files, _) = self.common.files.totals();
        let excess = files.saturating_sub(self.common.options.wal_files_max + 1);
        if excess > 0 {
            self.common.gauges.stalls.fetch_add(1, Relaxed);
            tokio::time::sleep(SLOW * u32::try_from(excess.min(10)).unwrap_or(10)).await;
        }
    }

    async fn flush(&mut self, batch: Vec<Op>) -> io::Result<()> {
        match self.write_batch(&batch).await {
            Ok((starts, rotated)) => {
                self.complete(batch, &starts);
                self.written(rotated);
                Ok(())
            }
            Err(error) => {
                self.common.fail(&error);
                batch.into_iter().for_each(|op| (op.done)(Err(again(&error))));
                Err(error)
            }
        }
    }

    /// Gives where in the file each operation's record starts, and whether that file is new.
    async fn write_batch(&mut self, batch: &[Op]) -> io::Result<(Vec<u64>, bool)> {
        let encode = |op: &Op| if let Body::Record(_, record) = &op.body { Some(record.encode()) } else { None };
        let encoded: Vec<Option<Bytes>> = batch.iter().map(encode).collect();
        let mut pieces: Vec<Piece<'_>> =
            batch.iter().zip(&encoded).filter_map(|(op, bytes)| piece(&op.body, bytes.as_ref())).collect();
        let body: u64 = pieces.iter().map(|p| p.len).sum();
        let full = self.position + frame::size(pieces.len(), body) > self.common.options.wal_file_bytes;
        let rotated = full && self.position > 0;
        let table;
        if rotated {
            table = self.rotate().await?;
            pieces.insert(0, table.piece());
        }
        let mut starts = self.write_frame(&pieces).await?;
        if rotated {
            starts.remove(0);
        }
        Ok((starts, rotated))
    }

    /// Writes and syncs one frame; gives where in the file each record starts.
    pub(super) async fn write_frame(&mut self, pieces: &[Piece<'_>]) -> io::Result<Vec<u64>> {
        self.common.gauges.flush_begins();
        let seed = Seed::new(self.common.id, self.sequence);
        let frame = frame::encode(seed, self.sync_seq + 1, self.digest, pieces);
        self.file.write_blocks(self.position, &frame.parts).await?;
        self.file.sync().await?;
        self.sync_seq += 1;
        self.digest = frame.digest;
        let start = self.position;
        self.position += frame.len;
        self.fresh += self.fresh_in(pieces, frame.len);
        self.common.files.extend(self.sequence, self.position);
        self.common.gauges.flush_ended(self.sync_seq);
        if self.sync_seq.is_multiple_of(MEASURE_EACH) {
            self.common.measure();
        }
        Ok(frame.starts.into_iter().map(|at| start + at).collect())
    }

    /// Writes the first frame of the file: the table, then `raw`.
    pub(super) async fn write_first(&mut self, raw: &[Raw]) -> io::Result<Vec<u64>> {
        let table = self.table();
        let pieces: Vec<_> = std::iter::once(&table).chain(raw).map(Raw::piece).collect();
        let mut starts = self.write_frame(&pieces).await?;
        starts.remove(0);
        Ok(starts)
    }

    async fn seal(&mut self) -> io::Result<()> {
        let full = self.position + frame::size(0, 0) > self.common.options.wal_file_bytes;
        let rotated = full && self.position > 0;
        if rotated {
            let table = self.rotate().await?;
            self.write_frame(&[table.piece()]).await?;
        } else {
            self.write_frame(&[]).await?;
        }
        self.written(rotated);
        self.common.measure();
        Ok(())
    }

    /// Starts the next file; all frames of this one are synced. Gives the record that must come first in it.
    async fn rotate(&mut self) -> io::Result<Raw> {
        let next = self.sequence + 1;
        let file = walfiles::create(&*self.common.disk, self.common.id, &self.common.spares, next).await?;
        let table = self.table();
        self.common.files.insert(next, file.clone(), 0);
        (self.sequence, self.file, self.position) = (next, file, 0);
        Ok(table)
    }

    fn table(&self) -> Raw {
        let files = self.common.files.ends().into_iter();
        let files = files.filter(|(sequence, end)| *sequence >= self.retired && *end > 0).collect();
        let table =
            Table { files, damages: self.damages.clone(), groups: self.groups.clone(), notes: self.notes.clone() };
        Raw::of(None, &Record::Table(table))
    }

    /// Asks for the oldest files to retire, in step with what is written: at each new file, and as soon as there are too
    /// many, as each start leaves one.
    fn written(&mut self, rotated: bool) {
        let is_due = rotated || self.common.files.totals().0 > self.common.options.wal_files_max;
        if is_due && self.fresh >= self.common.options.wal_file_bytes / 2 {
            let files = self.common.files.ends();
            let full = files.len().saturating_sub(1);
            if full > KEEP_FULL {
                self.fresh = 0;
                let _ = self.jobs.send(Job::Retire(files[full - 1 - KEEP_FULL].0));
            }
        }
        if rotated {
            let _ = self.jobs.send(Job::Spare);
        }
    }

    /// How much of a frame counts for the next round of the retirer. What a round writes must not set off another, else a
    /// long tail that is not applied would be copied for ever: neither its records count, nor seals behind nothing else.
    fn fresh_in(&self, pieces: &[Piece<'_>], len: u64) -> u64 {
        if pieces.is_empty() {
            return if self.fresh > 0 { len } else { 0 };
        }
        let own = |piece: &&Piece<'_>| matches!(piece.kind, kind::CARRY | kind::MOVED | kind::RETIRED | kind::TABLE);
        if pieces.iter().all(|piece| own(&piece)) {
            return 0;
        }
        len - pieces.iter().filter(own).map(|piece| piece.len).sum::<u64>()
    }

    /// After the sync: hard state, places, callbacks in order, then the cache's bound.
    fn complete(&mut self, batch: Vec<Op>, starts: &[u64]) {
        for (op, start) in batch.into_iter().zip(starts) {
            match op.body {
                Body::Append(append) => self.placed(append, *start, op.done),
                Body::Record(group, record) => {
                    self.take(group, &record);
                    (op.done)(Ok(()));
                }
                Body::Close | Body::Fail(_) => unreachable!("ends a frame, is not in one"),
            }
        }
        self.cache.shrink();
        self.common.gauges.cached_bytes.store(self.cache.bytes() as u64, Relaxed);
    }

    fn placed(&mut self, append: Append, start: u64, done: Done) {
        let Append { shared, first, end, epoch, carried_from, at, len, .. } = append;
        shared.state().place(first, &at, epoch, carried_from, self.sequence, start);
        done(Ok(()));
        if carried_from.is_none() {
            self.cache.add(shared, first, end, epoch, usize::try_from(len).unwrap_or(usize::MAX));
        }
    }

    fn take(&mut self, group: Option<GroupId>, record: &Record) {
        match (group, record) {
            (Some(group), Record::Remove) => drop(self.groups.remove(&group)),
            (Some(group), Record::Create(_)) => self.groups.entry(group).or_default().apply(record),
            (Some(group), record) => {
                if let Some(hard) = self.groups.get_mut(&group) {
                    hard.apply(record);
                }
            }
            (None, Record::Note { key, value }) => drop(self.notes.insert(key.clone(), value.clone())),
            (None, Record::Retired { next }) => {
                self.retired = *next;
                self.damages.retain(|(file, _)| file >= next);
            }
            (None, _) => {}
        }
    }
}

fn piece<'a>(body: &'a Body, encoded: Option<&'a Bytes>) -> Option<Piece<'a>> {
    match (body, encoded) {
        (Body::Append(append), _) => {
            let Append { first, end, len, carried_from, parts, .. } = append;
            let kind = if carried_from.is_some() { kind::CARRY } else { kind::APPEND };
            Some(Piece { group: append.shared.owner.group.0, kind, first: *first, end: *end, parts, len: *len })
        }
        (Body::Record(group, record), Some(bytes)) => {
            let (first, end) = range(record);
            let (group, parts) = (group.map_or(NO_GROUP, |g| g.0), std::slice::from_ref(bytes));
            Some(Piece { group, kind: record.kind(), first, end, parts, len: bytes.len() as u64 })
        }
        _ => None,
    }
}

/// What goes into one frame, and what ends the service behind it.
fn take_frame(waiting: &mut VecDeque<Op>) -> (Vec<Op>, Option<Op>) {
    let mut batch = Vec::with_capacity(waiting.len().min(FRAME_RECORDS));
    let mut bytes = 0;
    while let Some(op) = waiting.pop_front() {
        if matches!(op.body, Body::Close | Body::Fail(_)) {
            return (batch, Some(op));
        }
        if let Body::Append(append) = &op.body {
            bytes += append.len;
            if bytes > FRAME_BYTES && !batch.is_empty() {
                waiting.push_front(op);
                break;
            }
        }
        batch.push(op);
        if batch.len() == FRAME_RECORDS {
            break;
        }
    }
    (batch, None)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
