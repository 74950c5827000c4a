//! One flush: a frame.
//!
//! ```text
//!  header   magic u32 | version u16 | flags u16 | sync_seq u64 | digest of the frame before u32 | count u32 | body len u64
//!  directory  count × ( group u64 | first u64 | end u64 | len u64 | crc u32 | kind u8 | 0 ×3 )
//!           crc u32 over header and directory
//!  body     the records, one behind the other
//!  footer   sync_seq u64 | digest of the frame before u32 | crc of the header u32 | crc u32
//!  zeros to the next 4 KiB boundary
//! ```
//! Every CRC is seeded with the directory's id and the file's sequence *from its name*: what a recycled file held
//! before never verifies. The footer's CRC is the frame's digest.

use crate::{
    DirectoryId,
    disk::BLOCK,
    sabotage::{self, Bug},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Frames start and end here, so that no page of a synced frame is written again.
pub(super) const ALIGN: u64 = BLOCK;
pub(super) const HEADER: usize = 32;
pub(super) const ITEM: usize = 40;
const FOOTER: usize = 20;
const MAGIC: u32 = 0x4657_5748;
/// Version of the frame format.
pub(super) const VERSION: u16 = 1;
/// The frame holds nothing: it only proves that the one before was synced.
const SEAL: u16 = 1;
/// No frame has so many bytes, and no directory so many flushes: beyond it sums could overflow.
const END: u64 = 1 << 48;

/// The seed of a file's CRCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn new(directory: DirectoryId, file: u64) -> Self {
        let crc = crc32c::crc32c_append(0x4857_4157, &directory.0.to_le_bytes());
        Self(crc32c::crc32c_append(crc, &file.to_le_bytes()))
    }
    pub(super) fn crc(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// One record in a frame's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) group: u64,
    pub(super) kind: u8,
    /// Indexes, half-open; equal when the record is about none.
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) len: u64,
    pub(super) crc: u32,
}

/// A record that is to be written.
pub(super) struct Piece<'a> {
    pub(super) group: u64,
    pub(super) kind: u8,
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) parts: &'a [Bytes],
    pub(super) len: u64,
}

/// An encoded frame.
pub(super) struct Encoded {
    pub(super) parts: Vec<Bytes>,
    /// Where in the frame each record starts.
    pub(super) starts: Vec<u64>,
    /// Bytes, a multiple of [`ALIGN`].
    pub(super) len: u64,
    pub(super) digest: u32,
}

/// Bytes of a frame with `count` records and `body` bytes.
pub(super) fn size(count: usize, body: u64) -> u64 {
    ((HEADER + count * ITEM + 4 + FOOTER) as u64 + body).next_multiple_of(ALIGN)
}

/// Encodes a frame. No pieces make a seal.
pub(super) fn encode(seed: Seed, sync_seq: u64, before: u32, pieces: &[Piece<'_>]) -> Encoded {
    let body: u64 = pieces.iter().map(|p| p.len).sum();
    let front = HEADER + pieces.len() * ITEM + 4;
    let mut head = BytesMut::with_capacity(front);
    head.put_u32_le(MAGIC);
    head.put_u16_le(VERSION);
    head.put_u16_le(if pieces.is_empty() { SEAL } else { 0 });
    head.put_u64_le(sync_seq);
    head.put_u32_le(before);
    head.put_u32_le(u32::try_from(pieces.len()).expect("a flush takes some thousand records"));
    head.put_u64_le(body);
    let mut starts = Vec::with_capacity(pieces.len());
    let mut at = front as u64;
    for piece in pieces {
        starts.push(at);
        at += piece.len;
        let crc = piece.parts.iter().fold(seed.0, |crc, part| crc32c::crc32c_append(crc, part));
        put_item(
            &mut head,
            &Item { group: piece.group, kind: piece.kind, first: piece.first, end: piece.end, len: piece.len, crc },
        );
    }
    let header_crc = seed.crc(&head);
    head.put_u32_le(header_crc);
    let (mut end, digest) = footer(seed, sync_seq, before, header_crc);
    let len = size(pieces.len(), body);
    // With the padding.
    end.resize(usize::try_from(len - at).expect("less than a page and a footer"), 0);
    let mut parts = vec![head.freeze()];
    parts.extend(pieces.iter().flat_map(|piece| piece.parts).cloned());
    parts.push(end.into());
    Encoded { parts, starts, len, digest }
}

fn put_item(into: &mut BytesMut, item: &Item) {
    into.put_u64_le(item.group);
    into.put_u64_le(item.first);
    into.put_u64_le(item.end);
    into.put_u64_le(item.len);
    into.put_u32_le(item.crc);
    into.put_u8(item.kind);
    into.put_bytes(0, 3);
}

pub(super) fn footer(seed: Seed, sync_seq: u64, before: u32, header_crc: u32) -> (Vec<u8>, u32) {
    let mut footer = Vec::with_capacity(FOOTER);
    footer.put_u64_le(sync_seq);
    footer.put_u32_le(before);
    footer.put_u32_le(header_crc);
    let crc = seed.crc(&footer);
    footer.put_u32_le(crc);
    (footer, crc)
}

/// The verified front of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sync_seq: u64,
    pub(super) before: u32,
    pub(super) items: Vec<Item>,
    /// Bytes before the body.
    pub(super) front: usize,
    body: u64,
    crc: u32,
    digest: u32,
}

/// What stands at a position of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// A frame's header and directory, verified.
    Good(Header),
    /// Nothing that verifies.
    Bad,
    /// A frame of a later release (its fixed part; the CRC's place is unknown).
    Version(u16),
}

/// Reads header and directory at the start of `bytes`.
pub(super) fn parse(seed: Seed, bytes: &[u8]) -> Front {
    let Some(mut head) = bytes.get(..HEADER) else { return Front::Bad };
    if head.get_u32_le() != MAGIC {
        return Front::Bad;
    }
    let version = head.get_u16_le();
    let _flags = head.get_u16_le();
    let (sync_seq, before) = (head.get_u64_le(), head.get_u32_le());
    let (count, body) = (head.get_u32_le() as usize, head.get_u64_le());
    let covered = count.saturating_mul(ITEM).saturating_add(HEADER);
    let Some(mut crc) = bytes.get(covered..covered.saturating_add(4)) else { return Front::Bad };
    let crc = crc.get_u32_le();
    if crc != seed.crc(&bytes[..covered]) {
        return Front::Bad;
    }
    if version != VERSION {
        return Front::Version(version);
    }
    let items: Vec<Item> = bytes[HEADER..covered].chunks_exact(ITEM).map(item).collect();
    let sum = items.iter().try_fold(0u64, |sum, i| sum.checked_add(i.len));
    if sum != Some(body) || body >= END || sync_seq >= END {
        return Front::Bad;
    }
    let (_, digest) = footer(seed, sync_seq, before, crc);
    Front::Good(Header { sync_seq, before, items, front: covered + 4, body, crc, digest })
}

fn item(mut bytes: &[u8]) -> Item {
    let (group, first, end, len) = (bytes.get_u64_le(), bytes.get_u64_le(), bytes.get_u64_le(), bytes.get_u64_le());
    Item { group, first, end, len, crc: bytes.get_u32_le(), kind: bytes.get_u8() }
}

impl Header {
    /// Bytes of the whole frame.
    pub(super) fn size(&self) -> u64 {
        size(self.items.len(), self.body)
    }
    /// What the next frame must name as the one before.
    pub(super) fn digest(&self) -> u32 {
        self.digest
    }
    /// Records with where in the frame they start.
    pub(super) fn records(&self) -> impl Iterator<Item = (Item, u64)> {
        let mut at = self.front as u64;
        self.items.iter().map(move |item| {
            let start = at;
            at += item.len;
            (*item, start)
        })
    }
    /// Whether the footer in `frame` (all bytes of the frame) is the one that belongs here.
    pub(super) fn footer_verifies(&self, seed: Seed, frame: &[u8]) -> bool {
        let Ok(body) = usize::try_from(self.body) else { return false };
        let start = self.front + body;
        let (expected, _) = footer(seed, self.sync_seq, self.before, self.crc);
        frame.get(start..start + FOOTER) == Some(&expected[..])
    }
}

/// Whether a record's bytes are those its directory names.
pub(super) fn record_verifies(seed: Seed, item: &Item, bytes: &[u8]) -> bool {
    bytes.len() as u64 == item.len && same_crc(seed.crc(bytes), item.crc)
}

/// Whether a checksum is the one that was written.
pub(super) fn same_crc(found: u32, written: u32) -> bool {
    found == written || sabotage::on(Bug::CrcIgnored)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: (DirectoryId, u64) = (DirectoryId(7), 3);

    fn bytes_of(encoded: &Encoded) -> Vec<u8> {
        encoded.parts.concat()
    }

    fn sample() -> (Encoded, Vec<Bytes>) {
        let bodies = [Bytes::from_static(b"small"), Bytes::from(vec![9; 40_000]), Bytes::from_static(b"tail")];
        let pieces: Vec<_> = bodies
            .iter()
            .enumerate()
            .map(|(i, b)| Piece {
                group: i as u64,
                kind: 1,
                first: 10,
                end: 11,
                parts: std::slice::from_ref(b),
                len: b.len() as u64,
            })
            .collect();
        (encode(Seed::new(SEED.0, SEED.1), 5, 77, &pieces), bodies.to_vec())
    }

    #[test]
    fn a_frame_reads_back_and_copies_no_record() {
        let (encoded, bodies) = sample();
        let bytes = bytes_of(&encoded);
        assert_eq!(bytes.len() as u64, encoded.len);
        assert_eq!(encoded.len % ALIGN, 0);
        let shared = |body: &Bytes| encoded.parts.iter().any(|part| part.as_ptr() == body.as_ptr());
        assert!(bodies.iter().all(shared), "the disk gathers them, once");
        let seed = Seed::new(SEED.0, SEED.1);
        let Front::Good(header) = parse(seed, &bytes) else { panic!("verifies") };
        assert_eq!((header.sync_seq, header.before, header.digest()), (5, 77, encoded.digest));
        assert!(header.footer_verifies(seed, &bytes));
        for ((item, start), body) in header.records().zip(&bodies) {
            let start = usize::try_from(start).unwrap();
            let record = &bytes[start..start + body.len()];
            assert!(record_verifies(seed, &item, record));
            assert_eq!(record, &body[..]);
        }
    }

    #[test]
    fn another_file_name_or_directory_never_verifies() {
        let bytes = bytes_of(&sample().0);
        assert_eq!(parse(Seed::new(SEED.0, SEED.1 + 1), &bytes), Front::Bad);
        assert_eq!(parse(Seed::new(DirectoryId(8), SEED.1), &bytes), Front::Bad);
        assert_eq!(parse(Seed::new(SEED.0, SEED.1), &[0; 4096]), Front::Bad);
    }

    #[test]
    fn each_flipped_bit_of_the_front_shows() {
        let bytes = bytes_of(&sample().0);
        let seed = Seed::new(SEED.0, SEED.1);
        let Front::Good(header) = parse(seed, &bytes) else { panic!("verifies") };
        for bit in 0..header.front * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(seed, &flipped), Front::Bad, "bit {bit}");
        }
    }
}
