//! Batches between the log and readers: where they lie in an entry, and how they are given their place.
//!
//! The note that apply leaves beside an entry, one item per batch that is served:
//! ```text
//!  position u32 │ length u32 │ base offset − the entry's offset u32 │ records u32 │ max timestamp i64
//! ```

use super::handle::Served;
use crate::batch;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use highwater_raft::log::Applied;

const ITEM: usize = 4 * 4 + 8;

/// A batch of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) position: u32,
    pub(super) len: u32,
    pub(super) base_offset: u64,
    pub(super) records: u32,
    pub(super) max_timestamp: i64,
}

/// The note of an entry that begins at `offset`.
pub(super) fn note(offset: u64, items: &[Item]) -> Bytes {
    let mut out = BytesMut::with_capacity(items.len() * ITEM);
    for item in items {
        out.put_u32(item.position);
        out.put_u32(item.len);
        out.put_u32(u32::try_from(item.base_offset - offset).expect("an entry has fewer than 2^32 records"));
        out.put_u32(item.records);
        out.put_i64(item.max_timestamp);
    }
    out.freeze()
}

/// The batch of an item.
pub(super) fn place(item: Item, batch: &Bytes, epoch: u64) -> Served {
    let epoch = u32::try_from(epoch).expect("terms above 2^31 are refused");
    let (prefix, rest) = batch::place(batch, item.base_offset, epoch);
    Served {
        base_offset: item.base_offset,
        offset_end: item.base_offset + u64::from(item.records),
        max_timestamp: item.max_timestamp,
        prefix,
        rest,
    }
}

/// The batches of entries that end behind `offset`, below `end`; `Err` names the entry whose note makes no sense.
pub(super) fn batches(entries: &[Applied], offset: u64, end: u64, bytes_max: usize) -> Result<Vec<Served>, u64> {
    let (mut out, mut bytes) = (Vec::new(), 0);
    for Applied { entry, stamp } in entries {
        let mut note = stamp.note.clone();
        if !note.len().is_multiple_of(ITEM) {
            return Err(entry.index);
        }
        while note.has_remaining() {
            let item = Item {
                position: note.get_u32(),
                len: note.get_u32(),
                base_offset: stamp.offset + u64::from(note.get_u32()),
                records: note.get_u32(),
                max_timestamp: note.get_i64(),
            };
            let offset_end = item.base_offset + u64::from(item.records);
            if offset_end <= offset {
                continue;
            }
            if offset_end > end || (!out.is_empty() && bytes + item.len as usize > bytes_max) {
                return Ok(out);
            }
            let from = item.position as usize;
            let batch = entry.payload.slice(from..from + item.len as usize);
            let batch = batch.filter(|batch| batch.len() >= batch::HEADER_LEN).ok_or(entry.index)?;
            bytes += batch.len();
            out.push(place(item, &batch, entry.term));
        }
    }
    Ok(out)
}

/// The fuzz target of notes. Promises of entries whose place and terms are sound: what is served lies in its entry, and reading ends.
#[cfg(feature = "testing")]
pub(crate) fn fuzz(entries: &[Applied]) {
    let place = |applied: &Applied| applied.stamp.offset.max(applied.stamp.offset_end);
    let sound = |applied: &&Applied| applied.entry.term <= crate::limits::TERM_MAX && place(applied) < 1 << 62;
    let entries: Vec<_> = entries.iter().take_while(sound).cloned().collect();
    let Ok(served) = batches(&entries, 0, u64::MAX, usize::MAX) else { return };
    for Served { base_offset, offset_end, prefix, rest, .. } in served {
        assert!(base_offset <= offset_end && prefix.len() + rest.len() >= batch::HEADER_LEN);
        let holds = |applied: &Applied| prefix.len() + rest.len() <= applied.entry.payload.len();
        assert!(entries.iter().any(holds), "a batch that is longer than its entry");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_is_what_it_was() {
        let item = |position, base_offset| Item { position, len: 100, base_offset, records: 3, max_timestamp: -1 };
        highwater_raft::testing::golden("log/partition-note.hex", &note(900, &[item(40, 900), item(140, 905)]));
    }
}
