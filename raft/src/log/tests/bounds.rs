//! Numbers that no log has, behind checksums that are right: refused where they are read, so that whoever adds one to a number
//! that was read cannot overflow.

use super::super::{
    entry::{self, INDEX_END},
    frame::{self, ALIGN, Front, HEADER, ITEM, Piece, Seed},
    fuzz::{DIRECTORY, OWNER, on_disk},
    record::kind,
    segment::{self, Cursor, Segment},
    walfiles,
};
use super::*;

/// A frame of one record, changed behind the writer's back, with its checksum put right.
fn changed(change: impl FnOnce(&mut [u8])) -> Front {
    let seed = Seed::new(DIRECTORY, 3);
    let parts = [Bytes::from_static(b"record")];
    let piece = Piece { group: OWNER.group.0, kind: kind::VOTE, first: 0, end: 0, parts: &parts, len: 6 };
    let mut bytes = frame::encode(seed, 5, 7, &[piece]).parts.concat();
    change(&mut bytes);
    let crc = seed.crc(&bytes[..HEADER + ITEM]).to_le_bytes();
    bytes[HEADER + ITEM..HEADER + ITEM + 4].copy_from_slice(&crc);
    frame::parse(seed, &bytes)
}

fn put(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

#[test]
fn a_frame_of_a_flush_or_a_length_that_cannot_be() {
    const SYNC_SEQ: usize = 8;
    const BODY: usize = 24;
    let flush = |number| changed(|bytes| put(bytes, SYNC_SEQ, number));
    assert!(matches!(flush(6), Front::Good(header) if header.sync_seq == 6));
    assert_eq!((flush(1 << 48), flush(u64::MAX)), (Front::Bad, Front::Bad));
    let long = |number| {
        changed(|bytes| {
            put(bytes, BODY, number);
            put(bytes, HEADER + 24, number);
        })
    };
    assert!(matches!(long(1 << 40), Front::Good(header) if header.size() > 1 << 40 && header.size() % ALIGN == 0));
    assert_eq!((long(1 << 48), long(u64::MAX - 100)), (Front::Bad, Front::Bad));
}

#[test]
fn a_wal_file_behind_which_there_is_none() {
    assert_eq!(walfiles::sequence(&format!("{:016x}.wal", 77)), Some(77));
    for number in [1 << 62, u64::MAX] {
        assert_eq!(walfiles::sequence(&format!("{number:016x}.wal")), None);
        let note = walfiles::encode_newest(DIRECTORY, number).to_vec();
        let noted = on_disk([(walfiles::NEWEST.into(), note)].into(), |disk, _| async move {
            walfiles::newest(&*disk, DIRECTORY).await.unwrap()
        });
        assert_eq!(noted, None);
    }
}

#[test]
fn an_entry_at_the_end_of_all_numbers() {
    let of = |index| Entry { index, ..entry(7, 2, 20) };
    let record = |index| Bytes::from(entry::encode(OWNER, vec![of(index)]).parts.concat());
    assert_eq!(entry::decode(OWNER, &record(INDEX_END - 1)).map(|heads| heads.len()), Some(1));
    assert_eq!((entry::decode(OWNER, &record(INDEX_END)), entry::decode(OWNER, &record(u64::MAX))), (None, None));
    let segment = Segment::behind(Some(LogId { term: 2, index: 6 }), 40);
    let read = |index| {
        let stamp = Stamp { index, offset: 40, offset_end: 43, max_timestamp: -1, note: Bytes::new() };
        let mut parts = vec![segment::header(OWNER, &segment)];
        segment::encode(OWNER, &Applied { entry: of(index), stamp }, &mut parts);
        on_disk([(segment.path(OWNER), parts.concat())].into(), |disk, _| {
            let segment = segment.clone();
            async move { Cursor::open(&*disk, OWNER, &segment, false, 0).await.unwrap().next().await.map(|_| ()) }
        })
    };
    read(INDEX_END - 1).unwrap();
    assert!(read(u64::MAX).unwrap_err().to_string().contains("an index that no log has"));
}
