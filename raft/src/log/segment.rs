//! Segments: files of applied entries of one group, with what apply said of each.
//!
//! ```text
//!  <first index>-<offset>-<term before>.seg, three times 16 hex digits, in groups/<group>-<replica>/
//!  header  magic u32 | version u16 | 0 ×2 | group u64 | replica u64 | first u64 | offset u64 | crc u32 | 0 ×20
//!  entry   len u32 | note len u32 | kind u8 | 0 ×7 | term u64 | index u64 | offset u64 | offset_end u64
//!          | max_timestamp i64 | payload crc u32 | head crc u32 (over head and note, seeded by the owner) | note | payload
//! ```
//! The name tells all that start-up needs, so that sealed data costs nothing then. The index beside it is derived:
//! any doubt, and it is built again from the segment.
//!
//! * **Invariant:** a segment is never truncated; behind its recorded length is nothing that counts.
//! * **Invariant:** boundaries come from the apply loop, so they are equal on all replicas.

use super::{
    Applied, Entry, LogId, Stamp,
    core::damaged,
    entry::{INDEX_END, Owner, payload_crc},
    frame::same_crc,
    index::SparseIndex,
    open::GROUPS,
};
use crate::{
    GroupId, ReplicaId,
    disk::{Disk, File},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::{io, sync::Arc};

/// Where the first entry starts.
pub(super) const HEADER: u64 = 64;
const ENTRY: usize = 64;
const MAGIC: u32 = 0x4753_5748;
/// Version of the segment format.
pub(super) const VERSION: u16 = 1;
/// Bytes of one read while going through a segment.
const CHUNK: usize = 256 << 10;

/// Behind the name of a segment that did not verify.
pub(super) const ASIDE: &str = ".damaged";

/// What is known of a segment without opening it.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Index of its first entry.
    pub(super) first: u64,
    /// The entry before it.
    pub(super) base: Option<LogId>,
    /// The next offset before its first entry.
    pub(super) offset: u64,
    /// Synced bytes, of the one that is open; a sealed one ends with its file.
    pub(super) len: u64,
    /// Of these the ones behind the last whole block, if they are known: then all is written in whole blocks.
    pub(super) tail: Option<Bytes>,
    /// When it was built or read.
    pub(super) index: Option<Arc<SparseIndex>>,
    /// It did not verify and was set aside.
    pub(super) damaged: bool,
}

/// The folder of a group's files.
pub(super) fn folder(owner: Owner) -> String {
    format!("{GROUPS}/{:016x}-{:016x}", owner.group.0, owner.replica.0)
}

/// Whose folder this is.
pub(super) fn owner(path: &str) -> Option<Owner> {
    let (group, replica) = path.strip_prefix(GROUPS)?.strip_prefix('/')?.split_once('-')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    let owner = Owner { group: GroupId(number(group)?), replica: ReplicaId(number(replica)?) };
    (folder(owner) == path).then_some(owner)
}

impl Segment {
    /// The empty segment that begins behind `base`.
    pub(super) fn behind(base: Option<LogId>, offset: u64) -> Self {
        let index = Some(Arc::new(SparseIndex::default()));
        let first = base.map_or(0, |b| b.index + 1);
        Self { first, base, offset, len: 0, tail: Some(Bytes::new()), index, damaged: false }
    }

    pub(super) fn path(&self, owner: Owner) -> String {
        let term = self.base.map_or(0, |b| b.term);
        format!("{}/{:016x}-{:016x}-{term:016x}.seg", folder(owner), self.first, self.offset)
    }

    pub(super) fn index_path(&self, owner: Owner) -> String {
        format!("{}/{:016x}.index", folder(owner), self.first)
    }

    pub(super) fn base_path(&self, owner: Owner) -> String {
        format!("{}/{:016x}.base", folder(owner), self.first)
    }

    /// From a file's name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (name, damaged) = name.strip_suffix(ASIDE).map_or((name, false), |name| (name, true));
        let mut parts = name.strip_suffix(".seg")?.split('-').map(|part| u64::from_str_radix(part, 16).ok());
        let (first, offset, term) = (parts.next()??, parts.next()??, parts.next()??);
        let base = first.checked_sub(1).map(|index| LogId { term, index });
        parts.next().is_none().then_some(Self { first, base, offset, len: 0, tail: None, index: None, damaged })
    }

    /// Whether these are all of its entries, when `next` is the segment behind it: indexes, terms and offsets continue
    /// from its base to that of `next`.
    pub(super) fn is_whole(&self, next: &Segment, entries: &[Applied]) -> bool {
        let (mut last, mut offset) = (self.base, self.offset);
        for Applied { entry, stamp } in entries {
            let index = last.map_or(0, |last| last.index + 1);
            let continues = (entry.index, stamp.index, stamp.offset) == (index, index, offset)
                && last.is_none_or(|last| last.term <= entry.term)
                && stamp.offset <= stamp.offset_end;
            if !continues {
                return false;
            }
            (last, offset) = (Some(LogId { term: entry.term, index }), stamp.offset_end);
        }
        !entries.is_empty() && (last, offset) == (next.base, next.offset)
    }
}

/// A new file's first bytes.
pub(super) fn header(owner: Owner, segment: &Segment) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_u32_le(MAGIC);
    out.put_u16_le(VERSION);
    out.put_u16_le(0);
    out.put_u64_le(owner.group.0);
    out.put_u64_le(owner.replica.0);
    out.put_u64_le(segment.first);
    out.put_u64_le(segment.offset);
    let crc = crc32c::crc32c(&out);
    out.put_u32_le(crc);
    out.put_bytes(0, 20);
    out.freeze()
}

fn check_header(bytes: &[u8], owner: Owner, segment: &Segment, path: &str) -> io::Result<()> {
    if bytes == header(owner, segment) {
        return Ok(());
    }
    let version = bytes.get(4..6).map_or(0, |mut b| b.get_u16_le());
    Err(damaged(format!(
        "{path}: the header (version {version}, this release writes {VERSION}) is not the one that belongs here"
    )))
}

/// Encodes an applied entry: its head with the note, then the payload's parts. Gives their length.
pub(super) fn encode(owner: Owner, applied: &Applied, parts: &mut Vec<Bytes>) -> u64 {
    encode_with(owner, applied, payload_crc(&applied.entry.payload), parts)
}

/// With the CRC that the payload had when it was appended: what memory did to it since will show.
pub(super) fn encode_with(owner: Owner, applied: &Applied, payload_crc: u32, parts: &mut Vec<Bytes>) -> u64 {
    let Applied { entry, stamp } = applied;
    let len = |bytes: usize| u32::try_from(bytes).expect("an entry is far below 4 GiB");
    let mut out = BytesMut::with_capacity(ENTRY + stamp.note.len());
    out.put_u32_le(len(entry.payload.len()));
    out.put_u32_le(len(stamp.note.len()));
    out.put_u8(entry.kind);
    out.put_bytes(0, 7);
    out.put_u64_le(entry.term);
    out.put_u64_le(entry.index);
    out.put_u64_le(stamp.offset);
    out.put_u64_le(stamp.offset_end);
    out.put_i64_le(stamp.max_timestamp);
    out.put_u32_le(payload_crc);
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(owner.seed(), &out), &stamp.note);
    out.put_u32_le(crc);
    out.extend_from_slice(&stamp.note);
    parts.push(out.freeze());
    parts.extend(entry.payload.parts().iter().cloned());
    (ENTRY + stamp.note.len() + entry.payload.len()) as u64
}

/// Goes through a segment entry by entry.
pub(super) struct Cursor {
    file: Arc<dyn File>,
    owner: Owner,
    path: String,
    position: u64,
    end: u64,
    buffer: Bytes,
}

impl Cursor {
    /// Opens a segment at `position` of an entry (or at its start). `open`: only its recorded length counts.
    pub(super) async fn open(
        disk: &dyn Disk,
        owner: Owner,
        segment: &Segment,
        open: bool,
        position: u64,
    ) -> io::Result<Self> {
        let path = segment.path(owner);
        let file = disk.open(&path, false).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged(format!("{path} is missing")),
            _ => error,
        })?;
        let len = file.len().await?;
        if open && len < segment.len {
            return Err(damaged(format!("{path} has {len} bytes, {} were synced", segment.len)));
        }
        let end = if open { segment.len } else { len };
        check_header(&file.read_at(0, 64).await?, owner, segment, &path)?;
        Ok(Self { file, owner, path, position: position.max(HEADER), end, buffer: Bytes::new() })
    }

    async fn fill(&mut self, need: usize) -> io::Result<()> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        if need > left {
            return Err(self.bad("is cut off"));
        }
        if self.buffer.len() < need {
            self.buffer = self.file.read_at(self.position, need.max(CHUNK).min(left)).await?;
        }
        if self.buffer.len() < need { Err(self.bad("is cut off")) } else { Ok(()) }
    }

    fn bad(&self, what: &str) -> io::Error {
        damaged(format!("{}: the entry at {} {what}", self.path, self.position))
    }

    /// The next entry, verified, and where it starts.
    pub(super) async fn next(&mut self) -> io::Result<Option<(Applied, u64)>> {
        if self.position >= self.end {
            return Ok(None);
        }
        self.fill(ENTRY).await?;
        let mut head = self.buffer.slice(..ENTRY);
        let (len, note) = (head.get_u32_le() as usize, head.get_u32_le() as usize);
        self.fill(ENTRY.saturating_add(note)).await?;
        let crc = crc32c::crc32c_append(self.owner.seed(), &self.buffer[..ENTRY - 4]);
        let crc = crc32c::crc32c_append(crc, &self.buffer[ENTRY..ENTRY + note]);
        if (&self.buffer[ENTRY - 4..ENTRY]).get_u32_le() != crc {
            return Err(self.bad("does not verify"));
        }
        self.fill((ENTRY + note).saturating_add(len)).await?;
        let kind = head.get_u8();
        head.advance(7);
        let (term, index, offset, offset_end) =
            (head.get_u64_le(), head.get_u64_le(), head.get_u64_le(), head.get_u64_le());
        let max_timestamp = head.get_i64_le();
        if index >= INDEX_END {
            return Err(self.bad("has an index that no log has"));
        }
        let payload = self.buffer.slice(ENTRY + note..ENTRY + note + len).into();
        if !same_crc(head.get_u32_le(), payload_crc(&payload)) {
            return Err(self.bad("has a payload that does not verify"));
        }
        let note_bytes = self.buffer.slice(ENTRY..ENTRY + note);
        let start = self.position;
        self.position += (ENTRY + note + len) as u64;
        self.buffer.advance(ENTRY + note + len);
        let stamp = Stamp { index, offset, offset_end, max_timestamp, note: note_bytes };
        Ok(Some((Applied { entry: Entry { index, term, kind, payload }, stamp }, start)))
    }
}
