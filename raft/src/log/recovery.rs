//! Reads the write-ahead log at start.
//!
//! ```text
//!  newest file whose first frame is a table ─▶ which older files count, and where each ends
//!  older files, ascending ─▶ replay; what does not verify is damage: all of it was synced
//!  newest file            ─▶ replay; its last frame, if it does not verify, is torn: cut
//!                            if it verifies but nothing is behind it: maybe in memory only: what came of it goes to a new file
//! ```
//! Nothing is appended to an old file, and a frame that was carried over does not count where it stood.
//!
//! * **Invariant:** what lies above the file that is read as the newest, up to the highest name and to the note, is there, and
//!   holds nothing that was acknowledged; one that is missing may have held it.

use super::{
    OpenError,
    frame::{self, Seed},
    record::{NO_GROUP, Record, Table, kind},
    replay::{Known, Replay},
    scan::{Element, Frame, Scan, scan},
    wal::Raw,
    walfiles,
};
use crate::{
    DirectoryId, GroupId,
    disk::{Disk, File},
    env::Env,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

/// What the write-ahead log holds.
pub(super) struct Recovered {
    pub(super) replay: Replay,
    /// Live files: sequence, handle, end.
    pub(super) files: Vec<(u64, Arc<dyn File>, u64)>,
    /// Records of the last frame, which is not proven synced: group, where they stand, and the record.
    pub(super) tail: Vec<(u64, u64, u64, Raw)>,
    /// The file where the tail stands.
    pub(super) tail_file: u64,
    pub(super) next_sequence: u64,
    pub(super) sync_seq: u64,
    pub(super) digest: u32,
    /// Files that are not needed.
    pub(super) junk: Vec<String>,
    pub(super) spares: Vec<String>,
}

/// Names in the WAL's folder.
struct Names {
    sequences: Vec<u64>,
    spares: Vec<String>,
}

async fn names(disk: &dyn Disk) -> io::Result<Names> {
    let mut names = Names { sequences: Vec::new(), spares: Vec::new() };
    for name in disk.list(walfiles::FOLDER).await? {
        match walfiles::sequence(&name) {
            Some(sequence) => names.sequences.push(sequence),
            None if name.starts_with("spare-") => names.spares.push(format!("{}/{name}", walfiles::FOLDER)),
            None => {}
        }
    }
    names.sequences.sort_unstable();
    Ok(names)
}

/// Reads a whole file and scans it.
async fn load(disk: &dyn Disk, id: DirectoryId, sequence: u64) -> Result<(Scan, Arc<dyn File>), OpenError> {
    let file = disk.open(&walfiles::path(sequence), false).await?;
    let len = usize::try_from(file.len().await?).unwrap_or(usize::MAX);
    let bytes = file.read_at(0, len).await?;
    let scan = scan(Seed::new(id, sequence), sequence, &bytes);
    match scan.version {
        Some(found) => Err(OpenError::Version { file: walfiles::path(sequence), found, known: frame::VERSION }),
        None => Ok((scan, file)),
    }
}

/// Replays what is in the folder. `fresh`: the directory was never used.
pub(super) async fn recover(disk: &dyn Disk, id: DirectoryId, fresh: bool, env: &Env) -> Result<Recovered, OpenError> {
    let Names { sequences, spares } = names(disk).await?;
    let mut out = Recovered {
        replay: Replay::default(),
        files: Vec::new(),
        tail: Vec::new(),
        tail_file: 0,
        next_sequence: sequences.last().map_or(1, |s| s + 1),
        sync_seq: 0,
        digest: 0,
        junk: Vec::new(),
        spares,
    };
    if fresh {
        out.junk = sequences.into_iter().map(walfiles::path).collect();
        return Ok(out);
    }
    let Some((mut scan, file, table)) = newest(disk, id, &sequences, &mut out.replay).await? else {
        let why = format!("none of its {} files starts with a table", sequences.len());
        return Err(OpenError::Damaged { file: "the write-ahead log".into(), why });
    };
    out.older_files(disk, id, &sequences, &scan, &table).await?;
    out.newest_file(&mut scan, file);
    // Each had a durable name before the next was made, so from the one that is read up to the newest name none is missing.
    let noted = walfiles::newest(disk, id).await?;
    let top = noted.into_iter().chain(sequences.last().copied()).max().unwrap_or(0);
    if let Some(missing) = (scan.sequence + 1..=top).find(|sequence| sequences.binary_search(sequence).is_err()) {
        out.replay.damaged_directory(missing, 0, "the newest file is missing");
    }
    out.next_sequence = top + 1;
    let live: Vec<u64> = out.files.iter().map(|(sequence, ..)| *sequence).collect();
    out.junk = sequences.iter().filter(|s| !live.contains(s)).map(|s| walfiles::path(*s)).collect();
    out.replay.finish(|| DirectoryId(env.random_u64()));
    Ok(out)
}

/// The newest file that starts with a table. Later ones hold nothing, or their front is damaged.
async fn newest(
    disk: &dyn Disk,
    id: DirectoryId,
    sequences: &[u64],
    replay: &mut Replay,
) -> Result<Option<(Scan, Arc<dyn File>, Table)>, OpenError> {
    for sequence in sequences.iter().rev() {
        let (scan, file) = load(disk, id, *sequence).await?;
        let first = match scan.elements.first() {
            Some(Element::Frame(frame)) if frame.at == 0 => frame.table(),
            _ => None,
        };
        match first {
            Some(Record::Table(table)) => {
                // A first frame that is torn was never part of the log, table or not.
                let torn = scan.elements.len() == 1 && matches!(&scan.elements[0], Element::Frame(f) if !f.is_good());
                if !torn {
                    replay.known_damages.extend(&table.damages);
                    return Ok(Some((scan, file, table)));
                }
            }
            _ if scan.elements.len() > 1 => replay.damaged_directory(*sequence, 0, "its first frame does not verify"),
            _ => {}
        }
    }
    Ok(None)
}

impl Recovered {
    async fn older_files(
        &mut self,
        disk: &dyn Disk,
        id: DirectoryId,
        sequences: &[u64],
        newest: &Scan,
        table: &Table,
    ) -> Result<(), OpenError> {
        let needed_from = retired(newest);
        for (sequence, end) in table.files.iter().filter(|(s, _)| *s >= needed_from) {
            if !sequences.contains(sequence) {
                self.replay.damaged_directory(*sequence, 0, "the file is missing");
                continue;
            }
            let (scan, file) = load(disk, id, *sequence).await?;
            self.replay.file(&scan, Some(*end));
            self.files.push((*sequence, file, *end));
        }
        Ok(())
    }

    fn newest_file(&mut self, scan: &mut Scan, file: Arc<dyn File>) {
        let mut proven = None;
        if let Some(Element::Frame(frame)) = scan.elements.last()
            && !frame.is_good()
        {
            tracing::info!(file = scan.sequence, at = frame.at, "a torn flush is cut: it was never acknowledged");
            self.sync_seq = frame.sync_seq;
            proven = Some(frame.at);
            scan.elements.pop();
        }
        self.replay.file(scan, None);
        let Some(Element::Frame(last)) = scan.elements.last() else { return };
        self.sync_seq = self.sync_seq.max(last.sync_seq);
        self.digest = last.digest;
        let end = proven.unwrap_or(if last.items.is_empty() { last.end } else { last.at });
        if end == last.at {
            self.tail = tail(last);
            self.tail_file = scan.sequence;
        }
        if end > 0 {
            self.files.push((scan.sequence, file, end));
        }
    }

    /// What the next file's first frame says behind its table: not what the tail said, but what came of it and the table does not
    /// know. Said twice, it is the same.
    pub(super) fn take_tail(&mut self) -> (Vec<(u64, u64, u64)>, Vec<Raw>) {
        let tail = std::mem::take(&mut self.tail);
        let Some(tail_at) = tail.iter().map(|(_, start, ..)| *start).min() else { return Default::default() };
        let in_tail = |entry: &Known| entry.file == self.tail_file && entry.position >= tail_at;
        let good = |group| {
            let known = self.replay.groups.get(&GroupId(group)).filter(|known| known.hard.faulty.is_none());
            known.filter(|_| group != NO_GROUP)
        };
        let mut carried: Vec<((u64, u64, u64), Raw)> = Vec::new();
        for group in tail.iter().map(|(group, ..)| *group).collect::<BTreeSet<_>>() {
            let Some(known) = good(group) else { continue };
            let older = known.entries.iter().rev().find(|(_, entry)| !in_tail(entry)).map(|(index, _)| index + 1);
            let next = older.unwrap_or_else(|| known.hard.moved.as_ref().map_or(0, |moved| moved.upto.index + 1));
            let mut records = vec![Record::Truncate { next }];
            let installs = tail.iter().any(|(of, .., raw)| *of == group && raw.kind == kind::INSTALL);
            if let Some(checkpoint) = known.installed.clone().filter(|_| installs) {
                records.push(Record::Install(checkpoint));
                records.extend(known.hard.purged.map(|upto| Record::Purge { upto, skip: false }));
                records.extend(known.hard.moved.clone().map(Record::Moved));
            }
            carried.extend(records.iter().map(|record| ((group, 0, 0), Raw::of(Some(GroupId(group)), record))));
        }
        for (group, start, len, raw) in &tail {
            let (Some(known), kind::APPEND | kind::CARRY) = (good(*group), raw.kind) else { continue };
            let here = |entry: &&Known| in_tail(entry) && (*start..start + len).contains(&entry.position);
            for run in runs(known.entries.values().filter(here)) {
                let (first, last) = (run[0], run[run.len() - 1]);
                let range = first.position..last.position + last.head.size();
                let at = |position: u64| usize::try_from(position - start).expect("within a record in memory");
                let parts = vec![raw.parts[0].slice(at(range.start)..at(range.end))];
                let (first, end) = (first.head.id.index, last.head.id.index + 1);
                let raw = Raw { group: *group, kind: kind::CARRY, first, end, parts };
                carried.push(((*group, range.start, range.end - range.start), raw));
            }
        }
        carried.into_iter().unzip()
    }

    /// The tail's records are at `starts` of file `now`.
    pub(super) fn relocate(&mut self, was: &[(u64, u64, u64)], from: u64, now: u64, starts: &[u64]) {
        for ((group, start, len), to) in was.iter().zip(starts) {
            self.replay.relocate(GroupId(*group), (from, *start, *len), (now, *to));
        }
    }
}

/// Entries that stand behind each other, by index and by place.
fn runs<'k>(entries: impl Iterator<Item = &'k Known>) -> Vec<Vec<&'k Known>> {
    let mut runs: Vec<Vec<&Known>> = Vec::new();
    for entry in entries {
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(|last| last.is_before(entry)) => run.push(entry),
            _ => runs.push(vec![entry]),
        }
    }
    runs
}

fn retired(newest: &Scan) -> u64 {
    let frames = newest.elements.iter().filter_map(|e| if let Element::Frame(frame) = e { Some(frame) } else { None });
    let records = frames.flat_map(|f| f.items.iter().enumerate().map(move |(i, (item, _))| (f, i, item.kind)));
    let retired =
        records.filter(|(_, _, kind)| *kind == kind::RETIRED).filter_map(|(frame, i, _)| {
            match Record::decode(kind::RETIRED, frame.bytes.get(&i)?.clone())? {
                Record::Retired { next } => Some(next),
                _ => None,
            }
        });
    retired.max().unwrap_or(0)
}

fn tail(frame: &Frame) -> Vec<(u64, u64, u64, Raw)> {
    let bytes: BTreeMap<usize, _> = frame.bytes.iter().chain(&frame.entries).map(|(i, b)| (*i, b.clone())).collect();
    let records = frame.items.iter().enumerate().filter(|(_, (item, _))| item.kind != kind::TABLE);
    records
        .filter_map(|(i, (item, start))| {
            let parts = vec![bytes.get(&i)?.clone()];
            let raw = Raw { group: item.group, kind: item.kind, first: item.first, end: item.end, parts };
            Some((item.group, frame.at + start, item.len, raw))
        })
        .collect()
}
