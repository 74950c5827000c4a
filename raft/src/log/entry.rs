//! How one entry lies in a record of the write-ahead log.
//!
//! ```text
//!  len u32 | kind u8 | 0 ×3 | term u64 | index u64 | payload crc u32 | head crc u32 | payload
//! ```
//! The head's CRC is seeded with group and replica: the bytes of another group's entry at a recycled position never
//! verify. All numbers of all files are little-endian, all CRCs are CRC-32C.

use super::frame::same_crc;
use super::{Entry, LogId};
use crate::{GroupId, Payload, ReplicaId};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of an entry's head.
pub(super) const HEAD: usize = 32;
/// No log gets there: what names a higher index is not ours, and one may be added to any that is.
pub(super) const INDEX_END: u64 = 1 << 62;
/// Payloads whose parts are this large on average are shared, never copied; others are copied once, so that they pin no
/// receive buffer and so that replication and apply find one part instead of a thousand.
pub(super) const SHARE_FROM: usize = 16 << 10;

/// Whose entries: the seed of their heads' CRCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) group: GroupId,
    pub(super) replica: ReplicaId,
}

impl Owner {
    pub(super) fn seed(self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.group.0.to_le_bytes()), &self.replica.0.to_le_bytes())
    }
}

/// What a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryHead {
    pub(super) len: u32,
    pub(super) kind: u8,
    pub(super) id: LogId,
    pub(super) payload_crc: u32,
}

impl EntryHead {
    /// The head of an entry with this payload.
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            len: u32::try_from(entry.payload.len()).expect("an entry is far below 4 GiB"),
            kind: entry.kind,
            id: LogId { term: entry.term, index: entry.index },
            payload_crc: payload_crc(&entry.payload),
        }
    }

    pub(super) fn put(&self, owner: Owner, into: &mut BytesMut) {
        let start = into.len();
        into.put_u32_le(self.len);
        into.put_u8(self.kind);
        into.put_bytes(0, 3);
        into.put_u64_le(self.id.term);
        into.put_u64_le(self.id.index);
        into.put_u32_le(self.payload_crc);
        let crc = crc32c::crc32c_append(owner.seed(), &into[start..]);
        into.put_u32_le(crc);
    }

    /// Reads and verifies a head; `None` when it is not one of `owner`.
    pub(super) fn parse(bytes: &[u8], owner: Owner) -> Option<Self> {
        let mut head = bytes.get(..HEAD)?;
        let crc = crc32c::crc32c_append(owner.seed(), &head[..HEAD - 4]);
        let len = head.get_u32_le();
        let kind = head.get_u8();
        head.advance(3);
        let id = LogId { term: head.get_u64_le(), index: head.get_u64_le() };
        let payload_crc = head.get_u32_le();
        (head.get_u32_le() == crc && id.index < INDEX_END).then_some(Self { len, kind, id, payload_crc })
    }

    /// Bytes of head and payload.
    pub(super) fn size(&self) -> u64 {
        HEAD as u64 + u64::from(self.len)
    }

    /// The entry, when `payload` verifies.
    pub(super) fn entry(&self, payload: Payload) -> Option<Entry> {
        let good = payload.len() == self.len as usize && same_crc(payload_crc(&payload), self.payload_crc);
        good.then_some(Entry { index: self.id.index, term: self.id.term, kind: self.kind, payload })
    }
}

pub(super) fn payload_crc(payload: &Payload) -> u32 {
    payload.parts().iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part))
}

/// An append record: its parts, and each entry as it is kept in memory.
pub(super) struct Encoded {
    pub(super) parts: Vec<Bytes>,
    pub(super) entries: Vec<EncodedEntry>,
    pub(super) len: u64,
}

/// An entry of a record that is being written.
pub(super) struct EncodedEntry {
    pub(super) head: EntryHead,
    /// Shares memory with the record.
    pub(super) payload: Payload,
    /// Where its head starts in the record.
    pub(super) at: u64,
}

/// Encodes entries into one record. Payloads of small parts are copied into the record's own buffer, others shared.
pub(super) fn encode(owner: Owner, entries: Vec<Entry>) -> Encoded {
    let small = |e: &Entry| if is_small(&e.payload) { e.payload.len() } else { 0 };
    let mut buffer = BytesMut::with_capacity(entries.iter().map(|e| HEAD + small(e)).sum());
    let mut out = Encoded { parts: Vec::new(), entries: Vec::with_capacity(entries.len()), len: 0 };
    // Small payloads: their range in the part that is open; resolved when the part closes.
    let mut open: Vec<(usize, usize, usize)> = Vec::new();
    for entry in entries {
        let head = EntryHead::of(&entry);
        let at = out.len;
        out.len += head.size();
        head.put(owner, &mut buffer);
        if is_small(&entry.payload) {
            open.push((out.entries.len(), buffer.len(), entry.payload.len()));
            entry.payload.parts().iter().for_each(|part| buffer.extend_from_slice(part));
            out.entries.push(EncodedEntry { head, payload: Payload::default(), at });
        } else {
            close(&mut buffer, &mut open, &mut out);
            out.parts.extend(entry.payload.parts().iter().cloned());
            out.entries.push(EncodedEntry { head, payload: entry.payload, at });
        }
    }
    close(&mut buffer, &mut open, &mut out);
    out
}

fn is_small(payload: &Payload) -> bool {
    payload.len() < SHARE_FROM * payload.parts().len().max(1)
}

fn close(buffer: &mut BytesMut, open: &mut Vec<(usize, usize, usize)>, out: &mut Encoded) {
    if buffer.is_empty() {
        return;
    }
    let part = buffer.split().freeze();
    for (entry, start, len) in open.drain(..) {
        out.entries[entry].payload = part.slice(start..start + len).into();
    }
    out.parts.push(part);
}

/// Takes a record apart; `None` when something in it does not verify.
pub(super) fn decode(owner: Owner, record: &Bytes) -> Option<Vec<(EntryHead, u64)>> {
    let mut at = 0usize;
    let mut heads = Vec::new();
    while at < record.len() {
        let head = EntryHead::parse(&record[at..], owner)?;
        let end = at.checked_add(HEAD + head.len as usize)?;
        let payload = record.get(at + HEAD..end)?;
        if !same_crc(crc32c::crc32c(payload), head.payload_crc) {
            return None;
        }
        heads.push((head, at as u64));
        at = end;
    }
    Some(heads)
}
