//! What disks hold, from any bytes: frames, records, segments, checkpoints; a whole directory is in `recovery`.

mod recovery;

pub(crate) use recovery::{recovery, seeds as recovery_seeds};

use super::{
    Applied, Checkpoint, Entry, LogId, Stamp, checkpoint as files,
    entry::{self, EntryHead, HEAD, INDEX_END, Owner},
    frame::{self, ALIGN, Front, HEADER, ITEM, Piece, Seed},
    index::SparseIndex,
    open,
    record::{Hard, Moved, Record, Table, kind},
    replay::Replay,
    scan::{Element, Frame, Parsed, scan},
    segment::{self, Cursor, Segment},
    walfiles,
};
use crate::{
    DirectoryId, GroupId, ReplicaId,
    env::{Env, TaskSet},
    testing::{
        disk::{SimDisk, SimLimits},
        fuzz::Input,
    },
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};

pub(super) const DIRECTORY: DirectoryId = DirectoryId(0x1234);
pub(super) const OWNER: Owner = Owner { group: GroupId(1024), replica: ReplicaId(65_536) };

/// A file of the write-ahead log. Promises: frames do not overlap; records lie within them, and what verifies is what the
/// directory named; entries lie within their records; the replay of a file is a function of it.
pub(crate) fn wal_frame(data: &[u8]) {
    let mut input = Input::new(data);
    let reseals = input.u8() % 2 == 1;
    let seed = Seed::new(DIRECTORY, 3);
    let mut bytes = input.rest().to_vec();
    if reseals {
        reseal(seed, &mut bytes);
    }
    if let Front::Good(header) = frame::parse(seed, &bytes) {
        assert!(header.records().all(|(item, start)| start + item.len <= header.size()));
    }
    let bytes = Bytes::from(bytes);
    let scanned = scan(seed, 3, &bytes);
    let mut end = 0;
    for element in &scanned.elements {
        assert!(element.at() >= end && element.at() < bytes.len() as u64);
        if let Element::Frame(frame) = element {
            end = frame.end;
            check_frame(frame, &bytes);
        }
    }
    let replayed = || {
        let mut replay = Replay::default();
        replay.file(&scanned, Some(end));
        replay.finish(|| DIRECTORY);
        let groups =
            replay.groups.iter().map(|(id, known)| (*id, known.hard.clone(), known.entries.len(), known.hole()));
        (groups.collect::<Vec<_>>(), replay.notes, replay.damages, replay.all_faulty)
    };
    assert_eq!(replayed(), replayed());
}

fn check_frame(frame: &Frame, file: &Bytes) {
    for (i, (item, _)) in frame.items.iter().enumerate() {
        let known = frame.bytes.get(&i).or(frame.entries.get(&i));
        assert_eq!(known.is_none(), frame.bad.contains(&i));
        if let Some(known) = known {
            assert_eq!(known.len() as u64, item.len);
        }
        match frame.parsed(i, Some(OWNER.replica)) {
            Some(Parsed::Entries { entries, .. }) => {
                assert_eq!(entries.len() as u64, item.end - item.first);
                assert!(entries.iter().all(|(head, at)| at + head.size() <= file.len() as u64));
            }
            Some(Parsed::Record(record)) => decodes_again(&record),
            None => {}
        }
    }
}

fn decodes_again(record: &Record) {
    assert_eq!(Record::decode(record.kind(), record.encode()).as_ref(), Some(record));
}

/// Puts the checksums of all frames right, as far as their lengths go.
pub(super) fn reseal(seed: Seed, bytes: &mut [u8]) {
    let page = usize::try_from(ALIGN).expect("a page");
    for at in (0..bytes.len()).step_by(page) {
        reseal_frame(seed, &mut bytes[at..]);
    }
}

fn reseal_frame(seed: Seed, bytes: &mut [u8]) -> Option<()> {
    let count = u32::from_le_bytes(bytes.get(20..24)?.try_into().ok()?) as usize;
    let covered = count.checked_mul(ITEM)?.checked_add(HEADER)?;
    bytes.get(covered..covered + 4)?;
    let mut at = covered + 4;
    for i in 0..count {
        let item = HEADER + i * ITEM;
        let len = usize::try_from(u64::from_le_bytes(bytes[item + 24..item + 32].try_into().ok()?)).ok()?;
        let Some(end) = at.checked_add(len).filter(|end| *end <= bytes.len()) else { break };
        if matches!(bytes[item + 36], kind::APPEND | kind::CARRY) {
            reseal_entries(&mut bytes[at..end]);
        }
        let crc = seed.crc(&bytes[at..end]).to_le_bytes();
        bytes[item + 32..item + 36].copy_from_slice(&crc);
        at = end;
    }
    let sum = seed.crc(&bytes[..covered]).to_le_bytes();
    bytes[covered..covered + 4].copy_from_slice(&sum);
    let Front::Good(header) = frame::parse(seed, bytes) else { return None };
    let (footer, _) = frame::footer(seed, header.sync_seq, header.before, u32::from_le_bytes(sum));
    let footed = bytes.get_mut(at..at + footer.len())?;
    footed.copy_from_slice(&footer);
    Some(())
}

fn reseal_entries(mut record: &mut [u8]) {
    while record.len() >= HEAD {
        let len = u32::from_le_bytes([record[0], record[1], record[2], record[3]]) as usize;
        let Some(payload) = record.get(HEAD..HEAD.saturating_add(len)) else { return };
        let payload = crc32c::crc32c(payload).to_le_bytes();
        record[HEAD - 8..HEAD - 4].copy_from_slice(&payload);
        let head = crc32c::crc32c_append(OWNER.seed(), &record[..HEAD - 4]).to_le_bytes();
        record[HEAD - 4..HEAD].copy_from_slice(&head);
        record = &mut record[HEAD + len..];
    }
}

pub(crate) fn wal_frame_seeds() -> Vec<Vec<u8>> {
    let seed = Seed::new(DIRECTORY, 3);
    let records = samples();
    let encoded: Vec<Bytes> = records.iter().map(Record::encode).collect();
    let appended = entry::encode(OWNER, vec![sample_entry(7, 2, 20), sample_entry(8, 3, 0)]);
    let mut pieces: Vec<Piece<'_>> = records
        .iter()
        .zip(&encoded)
        .map(|(record, bytes)| {
            let group = if matches!(record.kind(), kind::NOTE | kind::RETIRED | kind::TABLE) {
                super::record::NO_GROUP
            } else {
                OWNER.group.0
            };
            let parts = std::slice::from_ref(bytes);
            Piece { group, kind: record.kind(), first: 7, end: 9, parts, len: bytes.len() as u64 }
        })
        .collect();
    let append =
        Piece { group: OWNER.group.0, kind: kind::APPEND, first: 7, end: 9, parts: &appended.parts, len: appended.len };
    pieces.push(append);
    let first = frame::encode(seed, 5, 0xabcd, &pieces);
    let second = frame::encode(seed, 6, first.digest, &pieces[3..5]);
    let last = frame::encode(seed, 7, second.digest, &[]);
    let [first, second, last] = [first, second, last].map(|frame| frame.parts.concat());
    let file = [&[1], &first[..], &second, &last].concat();
    let gap = [&[0], &first[..], &vec![0; second.len()], &last].concat();
    vec![[&[1], &first[..]].concat(), file, gap, vec![1]]
}

/// A record, or the entries of one. Promises: what decodes encodes to bytes that decode to the same.
pub(crate) fn wal_record(data: &[u8]) {
    let mut input = Input::new(data);
    let what = input.u8();
    if !matches!(what, kind::APPEND | kind::CARRY) {
        if let Some(record) = Record::decode(what, Bytes::copy_from_slice(input.rest())) {
            decodes_again(&record);
            let mut hard = Hard::default();
            hard.apply(&record);
            hard.apply(&Record::Purge { upto: LogId { term: 1, index: 5 }, skip: true });
        }
        return;
    }
    let mut bytes = input.rest().to_vec();
    if what == kind::APPEND {
        reseal_entries(&mut bytes);
    }
    let bytes = Bytes::from(bytes);
    let Some(heads) = entry::decode(OWNER, &bytes) else { return };
    let end = heads.iter().fold(0, |end, (head, at)| {
        assert_eq!(end, *at, "one behind the other");
        end + head.size()
    });
    assert_eq!(end, bytes.len() as u64);
    let entry = |(head, at): &(EntryHead, u64)| {
        let start = usize::try_from(*at).expect("within the input") + HEAD;
        head.entry(bytes.slice(start..start + head.len as usize).into()).expect("it verified")
    };
    let entries: Vec<Entry> = heads.iter().map(entry).collect();
    let again = entry::encode(OWNER, entries);
    assert_eq!(entry::decode(OWNER, &again.parts.concat().into()), Some(heads));
}

pub(crate) fn wal_record_seeds() -> Vec<Vec<u8>> {
    let records = samples().into_iter().map(|record| [&[record.kind()], &record.encode()[..]].concat());
    let entries = entry::encode(OWNER, vec![sample_entry(7, 2, 20), sample_entry(8, 3, 0)]).parts.concat();
    records.chain([kind::APPEND, kind::CARRY].map(|what| [&[what], &entries[..]].concat())).collect()
}

/// A segment and its index. Promises: entries come one behind the other, each encodes to bytes that are read as the same;
/// an index that decodes encodes to the same bytes.
pub(crate) fn segment(data: &[u8]) {
    let mut input = Input::new(data);
    let what = input.u8();
    let segment = Segment::behind(Some(LogId { term: 2, index: 6 }), 40);
    if what % 4 == 3 {
        let bytes = sealed(input.rest(), what & 4 != 0);
        if let Some(index) = SparseIndex::decode(&bytes, 7, 152) {
            assert_eq!(index.encode(7, 152), bytes);
            let _ = (index.position_of_index(9), index.position_of_offset(50), index.position_of_time(0));
        }
        let _ = std::str::from_utf8(&bytes).map(Segment::parse);
        return;
    }
    let mut body = input.rest().to_vec();
    if what % 4 == 1 {
        reseal_segment(&mut body);
    }
    let bytes = if what % 4 == 2 { body } else { [&segment::header(OWNER, &segment)[..], &body].concat() };
    let read = read_segment(&segment, bytes.clone());
    let mut end = segment::HEADER;
    for (applied, at) in &read {
        assert_eq!(end, *at, "one behind the other");
        let mut parts = Vec::new();
        end += segment::encode(OWNER, applied, &mut parts);
    }
    assert!(end <= bytes.len().max(64) as u64);
    let mut parts = vec![segment::header(OWNER, &segment)];
    for (applied, _) in &read {
        segment::encode(OWNER, applied, &mut parts);
    }
    assert_eq!(read_segment(&segment, parts.concat()), read);
}

fn read_segment(segment: &Segment, bytes: Vec<u8>) -> Vec<(Applied, u64)> {
    on_disk([(segment.path(OWNER), bytes)].into(), |disk, _| async move {
        let mut read = Vec::new();
        let Ok(mut cursor) = Cursor::open(&*disk, OWNER, segment, false, 0).await else { return read };
        while let Ok(Some(found)) = cursor.next().await {
            read.push(found);
        }
        read
    })
}

/// The segment behind entry 4 and offset 40, from entries of a peer; the next one begins behind the last of them. Promises:
/// what is taken is written as a segment that is read as the same, each entry where the one before it ended. Gives
/// whether it was taken.
pub(crate) fn replacement(entries: &[Applied]) -> bool {
    let segment = Segment::behind(Some(LogId { term: 2, index: 4 }), 40);
    let Some(last) = entries.last().filter(|last| last.entry.index < INDEX_END) else { return false };
    let id = LogId { term: last.entry.term, index: last.entry.index };
    let next = Segment::behind(Some(id), last.stamp.offset_end);
    if !segment.is_whole(&next, entries) {
        return false;
    }
    let mut parts = vec![segment::header(OWNER, &segment)];
    for applied in entries {
        segment::encode(OWNER, applied, &mut parts);
    }
    let read: Vec<Applied> = read_segment(&segment, parts.concat()).into_iter().map(|(applied, _)| applied).collect();
    assert_eq!(read, entries);
    assert!(read.iter().map(|applied| applied.entry.index).eq(segment.first..next.first));
    let end = read.iter().fold(segment.offset, |at, applied| {
        assert!(applied.stamp.offset == at && at <= applied.stamp.offset_end);
        applied.stamp.offset_end
    });
    assert_eq!(end, next.offset);
    true
}

fn reseal_segment(mut bytes: &mut [u8]) {
    const HEAD: usize = 64;
    while bytes.len() >= HEAD {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        let (len, note) = (number(0), number(4));
        let Some(payload) = bytes.get(HEAD + note..(HEAD + note).saturating_add(len)) else { return };
        let crc = crc32c::crc32c(payload).to_le_bytes();
        bytes[HEAD - 8..HEAD - 4].copy_from_slice(&crc);
        let head = crc32c::crc32c_append(OWNER.seed(), &bytes[..HEAD - 4]);
        let head = crc32c::crc32c_append(head, &bytes[HEAD..HEAD + note]).to_le_bytes();
        bytes[HEAD - 4..HEAD].copy_from_slice(&head);
        bytes = &mut bytes[HEAD + note + len..];
    }
}

pub(crate) fn segment_seeds() -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut index = SparseIndex::default();
    for at in 7..10 {
        let note = Bytes::from_static(b"note");
        let stamp = Stamp { index: at, offset: 33 + at, offset_end: 34 + at, max_timestamp: 1_700_000, note };
        index.add(&stamp, 64 + (at - 7) * 40_000);
        segment::encode(OWNER, &Applied { entry: sample_entry(at, 2, 20), stamp }, &mut parts);
    }
    let (entries, index) = (parts.concat(), index.encode(7, 152));
    let name = b"0000000000000007-0000000000000028-0000000000000002.seg";
    let cut = &index[..index.len() - 4];
    vec![[&[1], &entries[..]].concat(), [&[0], &entries[..]].concat(), [&[7], cut].concat(), [&[3], &name[..]].concat()]
}

/// Small files of a directory. Promises: what decodes encodes to the same bytes.
pub(crate) fn checkpoint(data: &[u8]) {
    let mut input = Input::new(data);
    let what = input.u8();
    let bytes = sealed(input.rest(), what & 4 != 0);
    match what % 4 {
        0 | 1 => {
            if let Some(found) = files::decode(OWNER, &bytes) {
                assert_eq!(files::encode(OWNER, &found), bytes);
            }
        }
        2 => {
            if let Ok(id) = open::decode_identity(&bytes) {
                assert_eq!(open::encode_identity(id), bytes);
            }
        }
        _ => {
            let noted = on_disk([(walfiles::NEWEST.into(), bytes.to_vec())].into(), |disk, _| async move {
                walfiles::newest(&*disk, DIRECTORY).await.expect("the disk is sound")
            });
            if let Some(noted) = noted {
                assert_eq!(walfiles::encode_newest(DIRECTORY, noted), bytes);
            }
        }
    }
}

pub(crate) fn checkpoint_seeds() -> Vec<Vec<u8>> {
    let id = LogId { term: 2, index: 6 };
    let (membership, machine) = (Bytes::from_static(b"members"), Bytes::from_static(b"machine"));
    let whole = files::encode(OWNER, &Checkpoint { last: id, offset: 40, membership, machine });
    let cut = |bytes: &Bytes| bytes[..bytes.len() - 4].to_vec();
    let (identity, newest) = (open::encode_identity(DIRECTORY), walfiles::encode_newest(DIRECTORY, 7));
    vec![
        [&[0], &whole[..]].concat(),
        [&[4], &cut(&whole)[..]].concat(),
        [&[6], &cut(&identity)[..]].concat(),
        [&[7], &cut(&newest)[..]].concat(),
    ]
}

/// The bytes, with the checksum that they want behind them.
fn sealed(bytes: &[u8], seals: bool) -> Bytes {
    let crc = crc32c::crc32c(bytes).to_le_bytes();
    if seals { [bytes, &crc].concat().into() } else { Bytes::copy_from_slice(bytes) }
}

/// Runs on a simulated disk with these files, in virtual time.
pub(super) fn on_disk<T, F: Future<Output = T>>(
    files: BTreeMap<String, Vec<u8>>,
    run: impl FnOnce(Arc<SimDisk>, Env) -> F,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let tasks = TaskSet::default();
    let env = Env::simulated(7, 1_700_000_000_000, tasks.clone());
    let disk = SimDisk::holding(env.clone(), SimLimits::instant(), files);
    let out = tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime needs no resource"), run(disk, env));
    tasks.crash();
    out
}

pub(super) fn sample_entry(index: u64, term: u64, len: usize) -> Entry {
    let payload: Vec<u8> =
        (0..len).map(|i| u8::try_from((index * 7 + term * 31 + i as u64) % 251).unwrap_or(0)).collect();
    Entry { index, term, kind: u8::try_from(index % 3).unwrap_or(0), payload: Bytes::from(payload).into() }
}

/// A record of every kind but entries.
pub(super) fn samples() -> Vec<Record> {
    let id = LogId { term: 3, index: 9 };
    let moved = Moved { upto: id, offset: 40, segment: 5, segment_len: 4096, segment_offset: 20, terms: vec![id] };
    let hard = Hard {
        replica: OWNER.replica,
        vote: Some(Bytes::from_static(b"vote")),
        faulty: Some("why".into()),
        purged: Some(id),
        moved: Some(moved.clone()),
    };
    let (membership, machine) = (Bytes::from_static(b"m"), Bytes::from_static(b"state"));
    vec![
        Record::Table(Table {
            files: vec![(1, 8192)],
            damages: vec![(1, 0)],
            groups: [(OWNER.group, hard), (GroupId(1025), Hard::default())].into(),
            notes: [("node".to_string(), Bytes::from_static(b"1"))].into(),
        }),
        Record::Create(OWNER.replica),
        Record::Vote(Bytes::from_static(b"v")),
        Record::Truncate { next: 7 },
        Record::Purge { upto: id, skip: true },
        Record::Install(Checkpoint { last: id, offset: 8, membership, machine }),
        Record::Remove,
        Record::Note { key: "cluster".into(), value: Bytes::from_static(b"id") },
        Record::Moved(moved),
        Record::Retired { next: 3 },
    ]
}
