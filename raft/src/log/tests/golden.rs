//! The bytes of each file, as they are on disks out there. A change here is a new format version.
//!
//! `HIGHWATER_GOLDEN=write` writes those that are missing.

use super::super::{
    checkpoint, entry, frame,
    fuzz::{OWNER, samples},
    index::SparseIndex,
    open,
    record::{self, Record, kind},
    replay::Replay,
    segment, walfiles,
};
use super::*;
use crate::DirectoryId;
use std::collections::BTreeSet;

fn golden(name: &str, bytes: &[u8]) {
    crate::testing::golden(&format!("log/{name}"), bytes);
}

fn state() -> Checkpoint {
    let (membership, machine) = (Bytes::from_static(b"members"), Bytes::from_static(b"machine"));
    Checkpoint { last: LogId { term: 2, index: 6 }, offset: 40, membership, machine }
}

#[test]
fn identity_v1() {
    golden("identity-v1.hex", &open::encode_identity(DirectoryId(0x1234)));
}

#[test]
fn newest_v1() {
    golden("newest-v1.hex", &walfiles::encode_newest(DirectoryId(0x1234), 7));
    assert_eq!(walfiles::VERSION, 1);
}

#[test]
fn checkpoint_v1() {
    golden("checkpoint-v1.hex", &checkpoint::encode(OWNER, &state()));
    assert_eq!(checkpoint::VERSION, 1);
}

#[test]
fn wal_frame_v1() {
    let hard = record::Hard { replica: OWNER.replica, vote: Some(Bytes::from_static(b"vote")), ..Default::default() };
    let table = record::Table { files: vec![(1, 8192)], groups: [(G, hard)].into(), ..Default::default() };
    let records =
        [record::Record::Table(table), record::Record::Install(state()), record::Record::Truncate { next: 9 }];
    let encoded: Vec<Bytes> = records.iter().map(record::Record::encode).collect();
    let appended = appended();
    let piece = |kind, parts| frame::Piece { group: G.0, kind, first: 7, end: 9, parts, len: 0 };
    let sized = |piece: frame::Piece<'_>| piece.parts.iter().map(|p| p.len() as u64).sum();
    let mut pieces: Vec<_> =
        records.iter().zip(&encoded).map(|(r, bytes)| piece(r.kind(), std::slice::from_ref(bytes))).collect();
    pieces.push(piece(record::kind::APPEND, &appended.parts));
    for piece in &mut pieces {
        piece.len = sized(frame::Piece { ..*piece });
    }
    let frame = frame::encode(frame::Seed::new(DirectoryId(0x1234), 2), 5, 0xabcd, &pieces);
    golden("wal-frame-v1.hex", &frame.parts.concat());
    let seal = frame::encode(frame::Seed::new(DirectoryId(0x1234), 2), 6, frame.digest, &[]);
    golden("wal-seal-v1.hex", &seal.parts.concat());
    assert_eq!((frame::VERSION, walfiles::path(2)), (1, "wal/0000000000000002.wal".into()));
}

fn appended() -> entry::Encoded {
    entry::encode(OWNER, vec![entry(7, 2, 20), entry(8, 3, 0)])
}

/// How a kind's file is called. Whoever adds a kind comes by here: it wants a sample too.
fn name(record: &Record) -> &'static str {
    match record {
        Record::Vote(_) => "vote",
        Record::Truncate { .. } => "truncate",
        Record::Purge { .. } => "purge",
        Record::Install(_) => "install",
        Record::Create(_) => "create",
        Record::Remove => "remove",
        Record::Note { .. } => "note",
        Record::Moved(_) => "moved",
        Record::Retired { .. } => "retired",
        Record::Table(_) => "table",
    }
}

/// `kind u8 │ body`: every kind, every field set, and a group in the table of which nothing is known but its replica.
#[test]
fn records_v1() {
    let mut held = BTreeSet::new();
    let mut hold = |kind: u8, name: &str, body: &[u8]| {
        golden(&format!("record-{kind:02}-{name}-v{}.hex", frame::VERSION), &[&[kind], body].concat());
        held.insert(kind);
    };
    hold(kind::APPEND, "append", &appended().parts.concat());
    hold(kind::CARRY, "carry", &appended().parts.concat());
    for record in samples() {
        hold(record.kind(), name(&record), &record.encode());
    }
    // Of each kind that is read some length of zeros makes a record.
    let read = |kind: u8| (0..=64).any(|len| Record::decode(kind, vec![0; len].into()).is_some());
    let read: BTreeSet<u8> = (0..=u8::MAX).filter(|kind| read(*kind)).chain([kind::APPEND, kind::CARRY]).collect();
    assert_eq!(read, held, "kinds that are read, and those that have a file");
}

/// What the log itself notes of a directory that is damaged as a whole.
#[test]
fn notes_of_damage() {
    let mut replay = Replay { all_faulty: Some("why".into()), ..Replay::default() };
    replay.finish(|| DirectoryId(0x1234));
    let lines = replay.notes.iter().map(|(key, value)| format!("{key} {}", crate::testing::hex(value)));
    crate::testing::golden_text("log/damage-notes.txt", &lines.collect::<String>());
}

#[test]
fn segment_and_index_v1() {
    let segment = segment::Segment::behind(Some(LogId { term: 2, index: 6 }), 40);
    let mut parts = vec![segment::header(OWNER, &segment)];
    let stamp =
        Stamp { index: 7, offset: 40, offset_end: 43, max_timestamp: 1_700_000, note: Bytes::from_static(b"note") };
    segment::encode(OWNER, &Applied { entry: entry(7, 2, 20), stamp: stamp.clone() }, &mut parts);
    golden("segment-v1.hex", &parts.concat());
    let mut index = SparseIndex::default();
    index.add(&stamp, 64);
    golden("segment-index-v1.hex", &index.encode(7, 152));
    assert_eq!(segment::VERSION, 1);
    let path = "groups/0000000000000400-0000000000010000/0000000000000007-0000000000000028-0000000000000002.seg";
    assert_eq!(segment.path(OWNER), path);
    let parsed = segment::Segment::parse(path.rsplit('/').next().unwrap()).unwrap();
    assert_eq!((parsed.first, parsed.base, parsed.offset), (7, segment.base, 40));
}
