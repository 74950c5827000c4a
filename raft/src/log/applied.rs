//! Reads of what is applied: by offset, by time, and whatever is in segments only.

use super::{
    Applied, Checkpoint, Entry, Group, ReadError, Stamp, checkpoint,
    core::Common,
    entry::{EntryHead, Owner},
    index::{self, SparseIndex},
    open::write_whole,
    reader::Cold,
    segment::{self, ASIDE, Cursor, Segment},
    state::{Place, Shared, State},
};
use crate::observe;
use std::{io, sync::Arc};

/// A segment as a reader needs it.
#[derive(Clone)]
struct Found {
    segment: Segment,
    open: bool,
    /// Index behind its last entry.
    end: u64,
}

/// Where applied entries are to be had.
enum Plan {
    Ready(Vec<Applied>),
    /// From the WAL, with the stamps that are known.
    Wal(Vec<(Cold, Stamp)>),
    Segments(Vec<Found>),
}

fn found(state: &State, at: usize) -> Found {
    let open = at + 1 == state.segments.len();
    let end = state.segments.get(at + 1).map_or_else(|| state.moved.map_or(0, |m| m.index + 1), |next| next.first);
    Found { segment: state.segments[at].clone(), open, end }
}

impl Group {
    /// Applied entries that serve offsets, from the one that holds `offset`; at least one unless `offset` is the next
    /// offset or beyond.
    pub async fn read_applied(&self, offset: u64, bytes_max: usize) -> Result<Vec<Applied>, ReadError> {
        for _ in 0..super::group::TRIES {
            let planned = plan(&self.shared.state(), offset, bytes_max)?;
            match planned {
                Plan::Ready(entries) => return Ok(entries),
                Plan::Wal(colds) => match self.read_stamped(colds).await {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => return Ok(other?),
                },
                Plan::Segments(segments) => {
                    for found in segments {
                        let entries = self
                            .in_segment(
                                found,
                                move |index| index.position_of_offset(offset),
                                move |a| a.stamp.offset_end > offset && a.stamp.offset_end > a.stamp.offset,
                                bytes_max,
                            )
                            .await?;
                        if !entries.is_empty() {
                            return Ok(entries);
                        }
                    }
                }
            }
        }
        Err(ReadError::Io(io::Error::other("entries move faster than they can be read")))
    }

    async fn read_stamped(&self, colds: Vec<(Cold, Stamp)>) -> io::Result<Vec<Applied>> {
        let (places, stamps): (Vec<_>, Vec<_>) = colds.into_iter().unzip();
        let entries = self.read_wal(places).await?;
        Ok(entries.into_iter().zip(stamps).map(|(entry, stamp)| Applied { entry, stamp }).collect())
    }

    /// Entries from one segment that `wanted` takes.
    async fn in_segment(
        &self,
        found: Found,
        start: impl FnOnce(&SparseIndex) -> u64 + Send + 'static,
        wanted: impl Fn(&Applied) -> bool + Send + Sync + 'static,
        bytes_max: usize,
    ) -> Result<Vec<Applied>, ReadError> {
        let (first, end) = (found.segment.first, found.end);
        if found.segment.damaged {
            return Err(ReadError::Damaged { first, end });
        }
        if first >= end {
            return Ok(Vec::new());
        }
        let (common, shared) = (self.core.common.clone(), self.shared.clone());
        let work = move || async move {
            let index = index_of(&common, &shared, &found).await?;
            collect(&common, shared.owner, &found, start(&index), wanted, bytes_max).await
        };
        match self.core.readers.run(work).await? {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => self.quarantine(first, end, &error).await,
            other => Ok(other?),
        }
    }

    /// Sets a damaged segment aside; its neighbours are read on.
    async fn quarantine(&self, first: u64, end: u64, error: &io::Error) -> Result<Vec<Applied>, ReadError> {
        let (group, path) = {
            let mut state = self.shared.state();
            let Some(segment) = state.segments.iter_mut().find(|s| s.first == first) else {
                // Trimmed while it was read.
                return Err(ReadError::BelowStart { start: state.start_offset });
            };
            segment.damaged = true;
            let path = segment.path(self.shared.owner);
            if state.segments.last().is_some_and(|open| open.first == first) {
                drop(state);
                // It is written on: there is no whole to fetch from a peer.
                self.condemn(format!("the open segment from entry {first}: {error}"));
                return Err(ReadError::Damaged { first, end });
            }
            (self.id(), path)
        };
        tracing::error!(%group, first, end, %error, "a segment is damaged: set aside, to be fetched from a peer");
        let common = self.core.common.clone();
        let aside = format!("{path}{ASIDE}");
        self.core
            .readers
            .run(move || async move { common.disk.rename(&path, &aside).await })
            .await?
            .or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
        Err(ReadError::Damaged { first, end })
    }

    /// Index ranges of segments that were set aside.
    pub fn damaged(&self) -> Vec<(u64, u64)> {
        let state = self.shared.state();
        let all = (0..state.segments.len()).map(|at| found(&state, at));
        all.filter(|f| f.segment.damaged).map(|f| (f.segment.first, f.end)).collect()
    }

    /// Applied entries `from..to` with their stamps, for a peer whose segment is damaged: the first ones, `bytes_max` of
    /// payload at most but at least one entry.
    pub async fn read_range(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Applied>, ReadError> {
        for _ in 0..super::group::TRIES {
            let (in_slots, segment) = {
                let state = self.shared.state();
                let to = to.min(state.applied.map_or(0, |applied| applied.index + 1));
                let slots = (from..to).map_while(|index| Some((state.slot(index)?, state.slot(index)?.stamp.clone()?)));
                let slots: Vec<_> =
                    slots.map(|(slot, stamp)| (slot.head, slot.place, slot.cached(), stamp)).take(1_024).collect();
                let at = state.segments.partition_point(|s| s.first <= from).checked_sub(1);
                (slots, at.map(|at| found(&state, at)))
            };
            if let Some((head, place, cached, stamp)) = in_slots.first().cloned() {
                match (cached, place) {
                    (Some(_), _) => return Ok(whole(in_slots, bytes_max)),
                    (None, Place::Wal { file, position }) => {
                        match self.read_stamped(vec![(Cold { head, file, position }, stamp)]).await {
                            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                            other => return Ok(other?),
                        }
                    }
                    (None, Place::Segment | Place::Queued) => {}
                }
            }
            let Some(found) = segment.filter(|found| from < found.end) else {
                return Ok(Vec::new());
            };
            let wanted = move |a: &Applied| (from..to).contains(&a.entry.index);
            return self.in_segment(found, move |index| index.position_of_index(from), wanted, bytes_max).await;
        }
        Err(ReadError::Io(io::Error::other("entries move faster than they can be read")))
    }

    /// Puts entries that a peer had in the place of a segment that was set aside: all of its range, as it gave them.
    pub async fn replace_segment(&self, entries: Vec<Applied>) -> io::Result<()> {
        let first = entries.first().map_or(0, |a| a.entry.index);
        let found = {
            let state = self.shared.state();
            let mut sealed = state.segments.iter().zip(state.segments.iter().skip(1));
            let found = sealed.find(|(segment, _)| segment.damaged && segment.first == first);
            found.map(|(segment, next)| (segment.clone(), next.clone()))
        };
        let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let (segment, next) =
            found.ok_or_else(|| wrong(format!("no sealed segment from entry {first} was set aside")))?;
        if !segment.is_whole(&next, &entries) {
            return Err(wrong(format!(
                "these are not the entries {first}..{} with the offsets {}..{}",
                next.first, segment.offset, next.offset
            )));
        }
        let (common, owner) = (self.core.common.clone(), self.shared.owner);
        self.core.readers.run(move || async move { replace(&common, owner, &segment, &entries).await }).await??;
        if let Some(known) = self.shared.state().segments.iter_mut().find(|s| s.first == first) {
            (known.damaged, known.index) = (false, None);
            observe::reached("damaged segment replaced");
        }
        Ok(())
    }

    /// Entries from `from` on that are in a segment.
    pub(super) async fn read_segment(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let found = {
            let state = self.shared.state();
            let at = state.segments.partition_point(|s| s.first <= from).checked_sub(1);
            let at =
                at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("entry {from} was trimmed")))?;
            found(&state, at)
        };
        let wanted = move |a: &Applied| (from..to).contains(&a.entry.index);
        match self.in_segment(found, move |index| index.position_of_index(from), wanted, bytes_max).await {
            Ok(applied) => Ok(applied.into_iter().map(|a| a.entry).collect()),
            Err(ReadError::Io(error)) => Err(error),
            Err(other) => Err(super::core::damaged(other.to_string())),
        }
    }

    /// Offset of the first entry, not wholly below the log start, whose `max_timestamp` is at or above `timestamp_ms`.
    pub async fn find_time(&self, timestamp_ms: i64) -> io::Result<Option<u64>> {
        for _ in 0..super::group::TRIES {
            if let Some(found) = self.search_time(timestamp_ms).await? {
                return Ok(found);
            }
        }
        Err(io::Error::other("entries move faster than they can be searched"))
    }

    /// `None` when entries moved, or went, while others were searched.
    async fn search_time(&self, timestamp_ms: i64) -> io::Result<Option<Option<u64>>> {
        let (segments, log_start): (Vec<Found>, u64) = {
            let state = self.shared.state();
            let first = state.segments.partition_point(|s| s.offset <= state.start_offset).saturating_sub(1);
            ((first..state.segments.len()).map(|at| found(&state, at)).collect(), state.start_offset)
        };
        let searched = segments.last().map_or(0, |open| open.end);
        let hit = move |stamp: &Stamp| {
            let serves = stamp.offset_end > stamp.offset.max(log_start);
            serves && stamp.max_timestamp >= timestamp_ms
        };
        let wanted = move |a: &Applied| hit(&a.stamp);
        for segment in segments {
            let start = move |index: &SparseIndex| index.position_of_time(timestamp_ms).unwrap_or(u64::MAX);
            match self.in_segment(segment, start, wanted, 0).await {
                Ok(entries) => {
                    if let Some(entry) = entries.first() {
                        return Ok(Some(Some(entry.stamp.offset)));
                    }
                }
                Err(ReadError::BelowStart { .. }) => return Ok(None),
                Err(ReadError::Io(error)) => return Err(error),
                Err(other) => return Err(super::core::damaged(other.to_string())),
            }
        }
        let state = self.shared.state();
        if state.first > searched {
            return Ok(None);
        }
        let mut stamps = state.slots.iter().filter_map(|slot| slot.stamp.as_ref());
        Ok(Some(stamps.find(|stamp| hit(stamp)).map(|stamp| stamp.offset)))
    }

    /// The state before the first retained segment: what a follower behind the start gets. Reads a file.
    pub async fn base_checkpoint(&self) -> io::Result<Option<Checkpoint>> {
        let mut missing = None;
        loop {
            let path = {
                let state = self.shared.state();
                if let Some(installed) = state.installed.clone() {
                    return Ok(Some(installed));
                }
                let Some(segment) = first_kept(&state).filter(|s| s.first > 0) else { return Ok(None) };
                segment.base_path(self.shared.owner)
            };
            if missing.as_ref() == Some(&path) {
                return Ok(None);
            }
            let (common, owner, file) = (self.core.common.clone(), self.shared.owner, path.clone());
            let read = move || async move { checkpoint::read(&*common.disk, owner, &file).await };
            match self.core.readers.run(read).await? {
                // With its segment, if another is the first one by now.
                Ok(None) => missing = Some(path),
                other => return other.inspect_err(|error| self.condemn_if_damaged(error)),
            }
        }
    }
}

/// Cached entries from the front, as many as fit.
fn whole(slots: Vec<(EntryHead, Place, Option<Entry>, Stamp)>, bytes_max: usize) -> Vec<Applied> {
    let mut bytes = 0;
    let cached = slots.into_iter().map_while(|(_, _, entry, stamp)| Some(Applied { entry: entry?, stamp }));
    let fits = |applied: &Applied| {
        let first = bytes == 0;
        bytes += applied.entry.payload.len() + 1;
        first || bytes <= bytes_max
    };
    cached.take_while(fits).collect()
}

/// The first segment that the log start leaves.
pub(super) fn first_kept(state: &State) -> Option<&Segment> {
    let start = state.start_offset;
    let known = |segment: &&Segment| segment.offset <= start && segment.base <= state.recorded;
    state.segments.iter().rev().find(known).or(state.segments.first())
}

fn plan(state: &State, offset: u64, bytes_max: usize) -> Result<Plan, ReadError> {
    if offset < state.start_offset {
        return Err(ReadError::BelowStart { start: state.start_offset });
    }
    if offset >= state.offset {
        return Ok(Plan::Ready(Vec::new()));
    }
    let in_slots = state.slots.front().and_then(|slot| slot.stamp.as_ref()).is_some_and(|stamp| stamp.offset <= offset);
    if !in_slots {
        let last = state.segments.partition_point(|s| s.offset <= offset).saturating_sub(1);
        return Ok(Plan::Segments((last..state.segments.len()).map(|at| found(state, at)).collect()));
    }
    let stamped = state.slots.partition_point(|slot| slot.stamp.as_ref().is_some_and(|s| s.offset_end <= offset));
    let serving = state.slots.range(stamped..).map_while(|slot| Some((slot, slot.stamp.clone()?)));
    let mut serving = serving.filter(|(_, stamp)| stamp.offset_end > stamp.offset).peekable();
    let (mut ready, mut colds, mut bytes) = (Vec::new(), Vec::new(), 0usize);
    let cached = serving.peek().is_some_and(|(slot, _)| slot.payload.is_some());
    for (slot, stamp) in serving {
        if bytes > 0 && bytes + slot.head.len as usize > bytes_max {
            break;
        }
        bytes += (slot.head.len as usize).max(1);
        match (slot.cached(), slot.place) {
            (Some(entry), _) if cached => ready.push(Applied { entry, stamp }),
            (None, Place::Wal { file, position }) if !cached => {
                colds.push((Cold { head: slot.head, file, position }, stamp))
            }
            (None, Place::Segment) if colds.is_empty() && ready.is_empty() => {
                let last = state.segments.partition_point(|s| s.offset <= offset).saturating_sub(1);
                return Ok(Plan::Segments((last..state.segments.len()).map(|at| found(state, at)).collect()));
            }
            _ => break,
        }
    }
    Ok(if colds.is_empty() { Plan::Ready(ready) } else { Plan::Wal(colds) })
}

async fn replace(common: &Common, owner: Owner, segment: &Segment, entries: &[Applied]) -> io::Result<()> {
    let mut parts = vec![segment::header(owner, segment)];
    for applied in entries {
        segment::encode(owner, applied, &mut parts);
    }
    let path = segment.path(owner);
    write_whole(&*common.disk, &segment::folder(owner), &path, parts.concat().into()).await?;
    common.disk.remove(&segment.index_path(owner)).await?;
    common.disk.remove(&format!("{path}{ASIDE}")).await
}

/// The segment's index, which is remembered.
async fn index_of(common: &Common, shared: &Shared, found: &Found) -> io::Result<Arc<SparseIndex>> {
    let index = index::load(&*common.disk, shared.owner, &found.segment, found.open).await?;
    let mut state = shared.state();
    if let Some(known) =
        state.segments.iter_mut().find(|s| s.first == found.segment.first && s.len == found.segment.len)
    {
        known.index.get_or_insert_with(|| index.clone());
    }
    Ok(index)
}

async fn collect(
    common: &Common,
    owner: Owner,
    found: &Found,
    start: u64,
    wanted: impl Fn(&Applied) -> bool,
    bytes_max: usize,
) -> io::Result<Vec<Applied>> {
    let mut entries: Vec<Applied> = Vec::new();
    if start == u64::MAX {
        return Ok(entries);
    }
    let mut cursor = Cursor::open(&*common.disk, owner, &found.segment, found.open, start).await?;
    let (mut bytes, mut next) = (0, None);
    while let Some((applied, _)) = cursor.next().await? {
        let index = applied.entry.index;
        if next.is_some_and(|next| next != index) || index >= found.end {
            return Err(super::core::damaged(format!("entry {index} stands where {next:?} should")));
        }
        next = Some(index + 1);
        if !wanted(&applied) {
            continue;
        }
        bytes += applied.entry.payload.len();
        if bytes > bytes_max && !entries.is_empty() {
            return Ok(entries);
        }
        entries.push(applied);
        if bytes >= bytes_max {
            return Ok(entries);
        }
    }
    let next = next.unwrap_or(found.segment.first);
    if next < found.end && !found.open {
        Err(super::core::damaged(format!("it ends at entry {next}, {} are due", found.end)))
    } else {
        Ok(entries)
    }
}
