//! A whole directory, written by a program of choices and then damaged: what recovery makes of it.

use super::{DIRECTORY, OWNER, on_disk, reseal, sample_entry};
use crate::{
    GroupId,
    env::{Env, TaskSet},
    log::{
        Checkpoint, Directory, Entry, Group, Health, LogId, Options, checkpoint as files,
        entry::{self, Owner},
        frame::{self, Piece, Seed},
        open,
        record::{Hard, Moved, Record, Table, kind},
        wal::Raw,
        walfiles,
    },
    testing::{disk::SimDisk, fuzz::Input},
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};

const OTHER: GroupId = GroupId(1025);
/// Things that happen to one disk at most: with hundreds of them nothing is left to recover, and it takes a second.
const DAMAGES_MAX: usize = 8;

/// Promises: nothing that was never written is read back as an entry (unless it was put under a right checksum); what is good
/// stays good, with the same content, over the next start; what is faulty stays faulty.
pub(crate) fn recovery(data: &[u8]) {
    let mut input = Input::new(data);
    let (files, written) = Writer::default().run(&mut input);
    on_disk(files, |disk, env| async move {
        let Some(first) = life(&disk, env, &written).await else { return };
        // The process dies; what it wrote is there.
        let tasks = TaskSet::default();
        let env = Env::simulated(8, 1_700_000_000_000, tasks.clone());
        let second = life(&disk.restart_keeping_unsynced(env.clone()), env, &written).await;
        assert_eq!(second.as_ref(), Some(&first), "recovered twice, differently");
        tasks.crash();
    });
}

/// What a good group holds: replica, vote, purge point, last, entries with their bytes.
type Held = (u64, Option<Bytes>, Option<LogId>, Option<LogId>, Vec<Entry>);
/// `None` for a faulty one.
type Found = BTreeMap<GroupId, Option<Held>>;

async fn life(disk: &Arc<SimDisk>, env: Env, written: &Written) -> Option<Found> {
    let options = Options { wal_file_bytes: 16 << 10, cache_bytes: 8 << 10, ..Options::default() };
    let directory = Directory::open(disk.clone(), options, env).await.ok()?;
    let mut found = Found::new();
    for (id, replica, health) in directory.groups() {
        let held = match (health, directory.group(id)) {
            (Health::Good, Some(group)) => {
                let entries = entries(&group).await;
                let known = |entry: &Entry| written.forged || written.entries.contains(entry);
                assert!(entries.iter().all(known), "an entry that was never written");
                Some((replica.0, group.vote(), group.purged(), group.last(), entries))
            }
            _ => None,
        };
        found.insert(id, held);
    }
    directory.close().await;
    Some(found)
}

/// Entries that Raft may ask for. Those in segments are not there: nothing here writes segments.
async fn entries(group: &Group) -> Vec<Entry> {
    let from = group.purged().max(group.applied()).map_or(0, |id| id.index + 1);
    group.read(from, u64::MAX, usize::MAX).await.unwrap_or_default()
}

#[derive(Default)]
struct Writer {
    files: BTreeMap<String, Vec<u8>>,
    /// Sequence and end of each WAL file.
    ends: Vec<(u64, u64)>,
    groups: BTreeMap<GroupId, Hard>,
    next: BTreeMap<GroupId, u64>,
    sync_seq: u64,
    digest: u32,
    written: Written,
}

/// What may be read back.
#[derive(Default)]
struct Written {
    entries: Vec<Entry>,
    /// Bytes were changed under checksums that are right.
    forged: bool,
}

impl Writer {
    fn run(mut self, input: &mut Input<'_>) -> (BTreeMap<String, Vec<u8>>, Written) {
        let choices = input.u8();
        self.files.insert("directory".into(), open::encode_identity(DIRECTORY).to_vec());
        for sequence in 1..=1 + u64::from(choices & 3) {
            self.file(sequence, input);
        }
        let newest = self.ends.last().map_or(0, |(sequence, _)| *sequence) + u64::from(choices >> 7);
        self.files.insert(walfiles::NEWEST.into(), walfiles::encode_newest(DIRECTORY, newest).to_vec());
        if choices & 16 != 0 {
            let path = files::restart_path(OWNER);
            self.files.insert(path, files::encode(OWNER, &checkpoint(input)).to_vec());
        }
        for _ in 0..DAMAGES_MAX {
            if input.is_empty() {
                break;
            }
            self.damage(input);
        }
        (self.files, self.written)
    }

    fn file(&mut self, sequence: u64, input: &mut Input<'_>) {
        let seed = Seed::new(DIRECTORY, sequence);
        let mut bytes = Vec::new();
        for at in 0..=input.below(5) {
            let mut raws = Vec::new();
            if at == 0 {
                let table = Table { files: self.ends.clone(), groups: self.groups.clone(), ..Table::default() };
                raws.push(Raw::of(None, &Record::Table(table)));
            }
            for _ in 0..input.below(5) {
                let raw = self.record(input);
                raws.push(raw);
            }
            let pieces: Vec<Piece<'_>> = raws.iter().map(Raw::piece).collect();
            let frame = frame::encode(seed, self.sync_seq + 1, self.digest, &pieces);
            (self.sync_seq, self.digest) = (self.sync_seq + 1, frame.digest);
            bytes.extend(frame.parts.concat());
        }
        self.ends.push((sequence, bytes.len() as u64));
        self.files.insert(walfiles::path(sequence), bytes);
    }

    fn record(&mut self, input: &mut Input<'_>) -> Raw {
        let choice = input.u8();
        let group = if choice & 128 == 0 { OWNER.group } else { OTHER };
        let record = match choice & 15 {
            0..5 => return self.append(group, choice, input),
            5 => Record::Vote(Bytes::copy_from_slice(input.bytes(2))),
            6 | 7 => {
                let next = input.u64();
                self.next.insert(group, next);
                Record::Truncate { next }
            }
            8 => Record::Purge { upto: id(input), skip: input.u8() % 2 == 1 },
            9 => Record::Install(checkpoint(input)),
            10 => Record::Create(OWNER.replica),
            11 => Record::Remove,
            12 => {
                Record::Moved(Moved { upto: id(input), offset: input.u64(), ..Moved::restart(id(input), input.u64()) })
            }
            13 => Record::Note { key: "k".into(), value: Bytes::copy_from_slice(input.bytes(1)) },
            14 => Record::Retired { next: input.u64() },
            // Bytes that may be no record of their kind.
            _ => {
                let kind = input.u8();
                let parts = vec![Bytes::copy_from_slice(input.bytes(40))];
                return Raw { group: group.0, kind, first: 0, end: input.u64(), parts };
            }
        };
        let group = if matches!(record, Record::Note { .. } | Record::Retired { .. }) { None } else { Some(group) };
        match (group, &record) {
            (Some(group), Record::Create(_)) => self.groups.entry(group).or_default().apply(&record),
            (Some(group), Record::Remove) => drop(self.groups.remove(&group)),
            (Some(group), _) => {
                if let Some(hard) = self.groups.get_mut(&group) {
                    hard.apply(&record);
                }
            }
            (None, _) => {}
        }
        Raw::of(group, &record)
    }

    fn append(&mut self, group: GroupId, choice: u8, input: &mut Input<'_>) -> Raw {
        let shape = input.u8();
        let next = self.next.entry(group).or_default();
        // Mostly the next one; sometimes one that leaves a hole or replaces what is there.
        let first = if choice & 64 == 0 { *next } else { input.u64() };
        let count = u64::from(shape & 3) + 1;
        let indexes = first..first.saturating_add(count);
        let entry = |index| sample_entry(index % (1 << 40), u64::from(shape >> 4), usize::from(shape & 12) * 3);
        let entries: Vec<Entry> = indexes.map(|index| Entry { index, ..entry(index) }).collect();
        *next = entries.last().map_or(first, |last| last.index.saturating_add(1));
        let end = if choice & 32 == 0 { *next } else { input.u64() };
        self.written.entries.extend(entries.iter().cloned());
        let kind = if choice & 16 == 0 { kind::APPEND } else { kind::CARRY };
        let owner = Owner { group, replica: OWNER.replica };
        Raw { group: group.0, kind, first, end, parts: entry::encode(owner, entries).parts }
    }

    /// One thing that happens to a disk; also a later life's zeros, and (rarely in life) damage under a right checksum.
    fn damage(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let names: Vec<String> = self.files.keys().cloned().collect();
        let Some(name) = names.get(input.below(names.len())) else { return };
        let at = usize::from(input.u16());
        let Some(file) = self.files.get_mut(name) else { return };
        match what % 8 {
            0 => drop(self.files.remove(name)),
            1 => file.truncate(at),
            2 => file.extend(std::iter::repeat_n(0, at.min(8192))),
            3 => {
                let start = (at / 512 * 512).min(file.len());
                let end = (start + 512).min(file.len());
                file[start..end].fill(0);
            }
            4 => {
                let byte = input.u8();
                if let (Some(place), Some(sequence)) = (file.get_mut(at), sequence(name)) {
                    *place = byte;
                    self.written.forged = true;
                    reseal(Seed::new(DIRECTORY, sequence), file);
                }
            }
            _ => {
                let mask = input.u8();
                if let Some(place) = file.get_mut(at) {
                    *place ^= mask;
                }
            }
        }
    }
}

fn sequence(path: &str) -> Option<u64> {
    walfiles::sequence(path.strip_prefix("wal/")?)
}

fn id(input: &mut Input<'_>) -> LogId {
    // Up to what no log has, and what is read is refused; one more could not be written.
    LogId { term: u64::from(input.u8() % 8), index: input.u64().min(u64::MAX - 1) }
}

fn checkpoint(input: &mut Input<'_>) -> Checkpoint {
    let (last, offset) = (id(input), input.u64());
    let machine = Bytes::copy_from_slice(input.bytes(3));
    Checkpoint { last, offset, membership: Bytes::from_static(b"members"), machine }
}

/// Programs as above.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // One file, one frame: create, vote, two appends.
    let plain = vec![0, 0, 4, 10, 5, b'a', b'b', 0, 0x11, 0, 0x12];
    // Two files, frames with appends of two groups, a truncation, a seal.
    let two = vec![1, 2, 3, 10, 138, 0, 0x13, 2, 0, 0x12, 128, 0x15, 0, 1, 2, 6, 2, 0, 0x21, 1, 5, b'v', b'w'];
    let install =
        vec![16, 1, 3, 10, 0, 0x13, 9, 1, 40, 80, b'm', b'm', b'm', 1, 64, 0x11, 41, 1, 40, 80, b'm', b'm', b'm'];
    let purge = vec![2, 1, 3, 10, 0, 0x13, 8, 1, 1, 0, 0, 0, 0, 2, 12, 1, 1, 7, 1, 1, 7, 14, 1, 0, 2, 13, b'n', 11];
    let damaged = |base: &[u8], what: &[u8]| [base, what].concat();
    vec![
        damaged(&plain, &[5, 2, 0x40, 0, 1]),
        damaged(&two, &[3, 2, 0, 16]),
        damaged(&two, &[0, 2, 0, 0]),
        damaged(&two, &[1, 3, 0, 16]),
        damaged(&plain, &[4, 2, 0x50, 0, 9]),
        plain,
        two,
        install,
        purge,
    ]
}
