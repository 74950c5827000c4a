//! Moves applied entries from the WAL's slots into segments, and says so in the WAL.
//!
//! ```text
//!  applied, not moved ─▶ bytes (memory, else WAL) ─▶ segment file, synced ─▶ slots: Segment ─▶ Moved record, synced
//!                                       at a boundary: base checkpoint of the next segment ─┘
//! ```
//! * **Invariant:** a `Moved` record is queued only after what it speaks of is synced.
//! * **Invariant:** no segment goes past a boundary whose base checkpoint is not written.

use super::{
    Applied, Checkpoint, LogId, Stamp, checkpoint,
    core::{Body, Common, Core, waiter},
    index::SparseIndex,
    open::{GROUPS, write_whole},
    reader::{self, Cold},
    record::{Moved, Record},
    segment::{self, HEADER, Segment},
    state::{Place, Shared, State},
};
use crate::disk::BLOCK;
use bytes::Bytes;
use std::{io, sync::Arc};
use tokio::time::Instant;

/// Payload bytes that are written and synced at once: small enough not to stand in the WAL's way. With 4 MiB and no
/// pause behind it, 64 records in flight had a p99 of 15 ms; so it is 5.
const BATCH_BYTES: usize = 512 << 10;

/// What the next write to a segment holds.
struct Batch {
    restarts: u32,
    segment: Segment,
    items: Vec<Item>,
    /// The boundary at its end.
    seal: Option<Checkpoint>,
}

struct Item {
    cold: Option<Cold>,
    applied: Applied,
    payload_crc: u32,
}

/// Moves all that is applied. Durable on return, but for what was installed or removed meanwhile.
pub(super) async fn move_applied(common: &Common, core: &Core, shared: &Shared) -> io::Result<()> {
    let mut any = false;
    loop {
        let batch = next_batch(&shared.state());
        let Some(mut batch) = batch else { break };
        match fill(common, shared, &mut batch).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        }
        let begun = Instant::now();
        write(common, shared, batch).await?;
        // The disk is the WAL's for as long again, unless files are about to run out.
        if common.files.totals().0 < common.options.wal_files_max {
            tokio::time::sleep(begun.elapsed()).await;
        }
        any = true;
    }
    if any { record(core, shared).await } else { Ok(()) }
}

fn next_batch(state: &State) -> Option<Batch> {
    if state.gone {
        return None;
    }
    let from = state.moved.map_or(0, |m| m.index + 1);
    let applied = state.applied.map_or(0, |a| a.index + 1);
    let boundary = state.seals.front();
    let end = boundary.map_or(applied, |b| applied.min(b.last.index + 1));
    let mut items = Vec::new();
    let mut bytes = 0;
    let slots = (from..end).map_while(|index| state.slot(index));
    for slot in slots {
        let (Some(stamp), Place::Wal { file, position }) = (slot.stamp.clone(), slot.place) else { break };
        bytes += slot.head.len as usize;
        if bytes > BATCH_BYTES && !items.is_empty() {
            break;
        }
        items.push(item(slot, stamp, file, position));
    }
    let upto = from + items.len() as u64;
    let seal = boundary.filter(|b| b.last.index + 1 == upto).cloned();
    let segment = state.segments.last().cloned()?;
    (!items.is_empty() || seal.is_some()).then_some(Batch { restarts: state.restarts, segment, items, seal })
}

fn item(slot: &super::state::Slot, stamp: Stamp, file: u64, position: u64) -> Item {
    let LogId { term, index } = slot.head.id;
    let cold = slot.payload.is_none().then_some(Cold { head: slot.head, file, position });
    let payload = slot.payload.clone().unwrap_or_default();
    let applied = Applied { entry: super::Entry { index, term, kind: slot.head.kind, payload }, stamp };
    Item { cold, applied, payload_crc: slot.head.payload_crc }
}

/// Reads what is not in memory.
async fn fill(common: &Common, shared: &Shared, batch: &mut Batch) -> io::Result<()> {
    let colds: Vec<Cold> = batch.items.iter().filter_map(|item| item.cold).collect();
    let mut read = reader::read_wal(common, shared, &colds).await?.into_iter();
    for item in batch.items.iter_mut().filter(|item| item.cold.is_some()) {
        item.applied.entry = read.next().expect("one entry for each place");
    }
    Ok(())
}

/// Writes a batch to its segment, syncs, and publishes it.
async fn write(common: &Common, shared: &Shared, batch: Batch) -> io::Result<()> {
    let Batch { restarts, segment, items, seal } = batch;
    let path = segment.path(shared.owner);
    let new = segment.len == 0;
    if new {
        let folder = segment::folder(shared.owner);
        common.disk.create_directory(&folder).await?;
        common.disk.sync_directory(GROUPS).await?;
    }
    let file = common.disk.open(&path, true).await?;
    let mut parts = Vec::from_iter(segment.tail.clone());
    let mut position = segment.len;
    if new {
        parts.push(segment::header(shared.owner, &segment));
        position = HEADER;
    }
    let mut added = Vec::with_capacity(items.len());
    for item in &items {
        added.push((item.applied.stamp.clone(), position));
        position += segment::encode_with(shared.owner, &item.applied, item.payload_crc, &mut parts);
    }
    let tail = last_bytes(&parts, position % BLOCK);
    match &segment.tail {
        // Past the page cache: what is read soon is in the tail cache.
        Some(tail) => {
            parts.push(padding(position));
            file.write_blocks(segment.len - tail.len() as u64, &parts).await?;
        }
        None => file.write_at(segment.len, &parts).await?,
    }
    if seal.is_some() {
        file.set_len(position).await?;
    }
    file.sync().await?;
    if new {
        common.disk.sync_directory(&segment::folder(shared.owner)).await?;
    }
    publish(shared, restarts, (position, tail), &added);
    match seal {
        Some(base) => close(common, shared, restarts, base).await,
        None => Ok(()),
    }
}

/// The last `len` bytes of `parts`, if they have as many.
fn last_bytes(parts: &[Bytes], len: u64) -> Option<Bytes> {
    let mut left = usize::try_from(len).ok()?;
    let mut ends = Vec::new();
    for part in parts.iter().rev() {
        let take = left.min(part.len());
        ends.push(&part[part.len() - take..]);
        left -= take;
    }
    ends.reverse();
    (left == 0).then(|| ends.concat().into())
}

/// Zeros from `position` to the end of its block.
fn padding(position: u64) -> Bytes {
    let len = position.next_multiple_of(BLOCK) - position;
    vec![0; usize::try_from(len).expect("below a block")].into()
}

fn publish(shared: &Shared, restarts: u32, (len, tail): (u64, Option<Bytes>), added: &[(Stamp, u64)]) {
    let mut state = shared.state();
    if state.restarts != restarts {
        return;
    }
    let open = state.segments.last_mut().expect("one is open");
    (open.len, open.tail) = (len, tail);
    if let Some(index) = &mut open.index {
        let index: &mut SparseIndex = Arc::make_mut(index);
        added.iter().for_each(|(stamp, position)| index.add(stamp, *position));
    }
    for (stamp, _) in added {
        if let Some(slot) = state.slot_mut(stamp.index) {
            slot.place = Place::Segment;
            let id = slot.head.id;
            state.moved = Some(id);
            state.moved_offset = stamp.offset_end;
        }
    }
    state.drop_moved();
}

/// The open segment has reached its boundary: writes what stands before the next one.
async fn close(common: &Common, shared: &Shared, restarts: u32, base: Checkpoint) -> io::Result<()> {
    let next = Segment::behind(Some(base.last), base.offset);
    checkpoint::write(&*common.disk, shared.owner, &next.base_path(shared.owner), &base).await?;
    let closed = {
        let state = shared.state();
        if state.restarts != restarts {
            return Ok(());
        }
        state.segments.last().cloned().expect("one is open")
    };
    if let Some(index) = &closed.index {
        // Derived: it need not be there, so it may fail to be durable, not to be whole.
        let bytes = index.encode(closed.first, closed.len);
        write_whole(&*common.disk, &segment::folder(shared.owner), &closed.index_path(shared.owner), bytes).await?;
    }
    let mut state = shared.state();
    if state.restarts == restarts {
        state.seals.pop_front();
        if let Some(closed) = state.segments.last_mut() {
            (closed.index, closed.tail) = (None, None);
        }
        state.segments.push(next);
    }
    Ok(())
}

/// Says in the WAL what is in segments now, and waits until that is durable.
async fn record(core: &Core, shared: &Shared) -> io::Result<()> {
    let (done, wait) = waiter();
    let recorded;
    let queued = {
        let state = shared.state();
        let (Some(upto), false) = (state.moved, state.gone) else { return Ok(()) };
        recorded = upto;
        let open = state.segments.last().expect("one is open");
        let moved = Moved {
            upto,
            offset: state.moved_offset,
            segment: open.first,
            segment_len: open.len,
            segment_offset: open.offset,
            terms: state.terms_upto(upto.index),
        };
        core.queue(Body::Record(Some(shared.owner.group), Record::Moved(moved)), done)
    };
    match queued {
        Ok(()) => {
            wait.await.unwrap_or_else(|_| Err(super::core::closed()))?;
            let mut state = shared.state();
            state.recorded = state.recorded.max(Some(recorded));
            Ok(())
        }
        Err(refused) => {
            refused.answer();
            Err(super::core::closed())
        }
    }
}
