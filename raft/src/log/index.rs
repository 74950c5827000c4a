//! The sparse index of a segment: one line per 32 KiB. Derived data: a file that does not verify is built again.
//!
//! ```text
//!  magic u32 | version u16 | 0 ×2 | first u64 | bytes u64 | count u32 | 0 ×4
//!  | count × ( index u64 | offset u64 | max_timestamp i64 | position u64 ) | crc u32
//! ```

use super::{
    Stamp,
    entry::Owner,
    segment::{Cursor, HEADER, Segment},
};
use crate::disk::Disk;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::{io, sync::Arc};

/// Distance of lines.
const EACH: u64 = 32 << 10;
const MAGIC: u32 = 0x4953_5748;
const VERSION: u16 = 1;
const HEAD: usize = 32;
const LINE: usize = 32;

/// One line: the first entry of a block, and the highest timestamp in the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) index: u64,
    pub(super) offset: u64,
    pub(super) max_timestamp: i64,
    pub(super) position: u64,
}

/// The lines of a segment, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SparseIndex {
    pub(super) lines: Vec<Line>,
}

impl SparseIndex {
    /// Takes the next entry.
    pub(super) fn add(&mut self, stamp: &Stamp, position: u64) {
        match self.lines.last_mut() {
            Some(last) if position - last.position < EACH => {
                last.max_timestamp = last.max_timestamp.max(stamp.max_timestamp)
            }
            _ => self.lines.push(Line {
                index: stamp.index,
                offset: stamp.offset,
                max_timestamp: stamp.max_timestamp,
                position,
            }),
        }
    }

    /// Where to start looking for an entry.
    pub(super) fn position_of_index(&self, index: u64) -> u64 {
        self.before(self.lines.partition_point(|line| line.index <= index))
    }

    /// Where to start looking for an offset. Lines of entries that take no offset may share one: the first counts.
    pub(super) fn position_of_offset(&self, offset: u64) -> u64 {
        self.before(self.lines.partition_point(|line| line.offset <= offset))
    }

    fn before(&self, after: usize) -> u64 {
        after.checked_sub(1).map_or(HEADER, |i| self.lines[i].position)
    }

    /// The first block that holds a timestamp at or above `timestamp`.
    pub(super) fn position_of_time(&self, timestamp: i64) -> Option<u64> {
        self.lines.iter().find(|line| line.max_timestamp >= timestamp).map(|line| line.position)
    }

    /// As a file; `bytes` is the length of the segment.
    pub(super) fn encode(&self, first: u64, bytes: u64) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD + self.lines.len() * LINE + 4);
        out.put_u32_le(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.put_u64_le(first);
        out.put_u64_le(bytes);
        out.put_u32_le(u32::try_from(self.lines.len()).expect("a line per 32 KiB"));
        out.put_u32_le(0);
        for line in &self.lines {
            out.put_u64_le(line.index);
            out.put_u64_le(line.offset);
            out.put_i64_le(line.max_timestamp);
            out.put_u64_le(line.position);
        }
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    /// `None` when it is not the index of a segment of `bytes` bytes that starts at `first`.
    pub(super) fn decode(bytes: &Bytes, first: u64, segment_bytes: u64) -> Option<Self> {
        let body = bytes.len().checked_sub(4)?;
        if (&bytes[body..]).get_u32_le() != crc32c::crc32c(&bytes[..body]) {
            return None;
        }
        let mut from = bytes.slice(..body);
        let known = from.try_get_u32_le().ok()? == MAGIC && from.try_get_u32_le().ok()? == u32::from(VERSION);
        let ours = from.try_get_u64_le().ok()? == first && from.try_get_u64_le().ok()? == segment_bytes;
        let count = from.try_get_u64_le().ok()?;
        if !known || !ours || Some(from.len() as u64) != count.checked_mul(LINE as u64) {
            return None;
        }
        let lines = (0..count).map(|_| Line {
            index: from.get_u64_le(),
            offset: from.get_u64_le(),
            max_timestamp: from.get_i64_le(),
            position: from.get_u64_le(),
        });
        Some(Self { lines: lines.collect() })
    }
}

/// The index of a segment: as known, from its file, or built from the segment.
pub(super) async fn load(disk: &dyn Disk, owner: Owner, segment: &Segment, open: bool) -> io::Result<Arc<SparseIndex>> {
    if let Some(index) = &segment.index {
        return Ok(index.clone());
    }
    if !open && let Some(index) = read(disk, owner, segment).await {
        return Ok(Arc::new(index));
    }
    let mut index = SparseIndex::default();
    let mut cursor = Cursor::open(disk, owner, segment, open, HEADER).await?;
    while let Some((applied, position)) = cursor.next().await? {
        index.add(&applied.stamp, position);
    }
    Ok(Arc::new(index))
}

async fn read(disk: &dyn Disk, owner: Owner, segment: &Segment) -> Option<SparseIndex> {
    let segment_bytes = disk.open(&segment.path(owner), false).await.ok()?.len().await.ok()?;
    let file = disk.open(&segment.index_path(owner), false).await.ok()?;
    let bytes = file.read_at(0, usize::try_from(file.len().await.ok()?).ok()?).await.ok()?;
    SparseIndex::decode(&bytes, segment.first, segment_bytes)
}
