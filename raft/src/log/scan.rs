//! What is in one WAL file: frames that verify, records that do not, and places where a frame should be.

use super::{
    LogId,
    entry::{self, EntryHead, Owner},
    frame::{self, ALIGN, Front, Header, Item, Seed},
    record::{NO_GROUP, Record, kind},
};
use crate::{GroupId, ReplicaId};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A file, front to back.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) sequence: u64,
    pub(super) elements: Vec<Element>,
    /// A frame of a later release stops the scan.
    pub(super) version: Option<u16>,
}

#[derive(Debug)]
pub(super) enum Element {
    Frame(Frame),
    /// No frame here, but a later one behind it: this one's directory is damaged.
    Gap {
        at: u64,
    },
}

#[derive(Debug)]
pub(super) struct Frame {
    pub(super) at: u64,
    pub(super) end: u64,
    pub(super) sync_seq: u64,
    pub(super) digest: u32,
    pub(super) items: Vec<(Item, u64)>,
    /// Which records (by position in `items`) do not verify.
    pub(super) bad: Vec<usize>,
    pub(super) footer: bool,
    /// The bytes of records that are no appends, and of the appends of the newest frame.
    pub(super) bytes: BTreeMap<usize, Bytes>,
    /// Entries of each append.
    pub(super) entries: BTreeMap<usize, Bytes>,
}

impl Element {
    pub(super) fn at(&self) -> u64 {
        match self {
            Element::Frame(frame) => frame.at,
            Element::Gap { at } => *at,
        }
    }
}

/// Scans the bytes of a file.
pub(super) fn scan(seed: Seed, sequence: u64, bytes: &Bytes) -> Scan {
    let mut scan = Scan { sequence, ..Scan::default() };
    let mut at = 0usize;
    let mut before: Option<(u64, u32)> = None;
    while at < bytes.len() {
        match frame::parse(seed, &bytes[at..]) {
            Front::Good(header) if continues(before, &header) => {
                before = Some((header.sync_seq, header.digest()));
                let size = usize::try_from(header.size()).unwrap_or(usize::MAX);
                let whole = bytes.slice(at..at.saturating_add(size).min(bytes.len()));
                scan.elements.push(Element::Frame(read(seed, at as u64, &header, &whole)));
                at = at.saturating_add(size);
            }
            Front::Version(version) => {
                scan.version = Some(version);
                return scan;
            }
            Front::Good(_) | Front::Bad => {
                let after = before.map_or(0, |(sync_seq, _)| sync_seq);
                let Some(later) = later_frame(seed, bytes, at, after) else { return scan };
                scan.elements.push(Element::Gap { at: at as u64 });
                before = None;
                at = later;
            }
        }
    }
    scan
}

fn continues(before: Option<(u64, u32)>, header: &Header) -> bool {
    before.is_none_or(|(sync_seq, digest)| header.sync_seq == sync_seq + 1 && header.before == digest)
}

/// The next frame behind `at` that was written after flush `after`.
fn later_frame(seed: Seed, bytes: &Bytes, at: usize, after: u64) -> Option<usize> {
    let step = usize::try_from(ALIGN).expect("a page");
    let mut probe = at + step;
    while probe < bytes.len() {
        match frame::parse(seed, &bytes[probe..]) {
            Front::Good(header) if header.sync_seq > after => return Some(probe),
            _ => probe += step,
        }
    }
    None
}

fn read(seed: Seed, at: u64, header: &Header, whole: &Bytes) -> Frame {
    let mut frame = Frame {
        at,
        end: at + header.size(),
        sync_seq: header.sync_seq,
        digest: header.digest(),
        items: header.records().collect(),
        bad: Vec::new(),
        footer: header.footer_verifies(seed, whole),
        bytes: BTreeMap::new(),
        entries: BTreeMap::new(),
    };
    for (i, (item, start)) in frame.items.iter().enumerate() {
        let range = usize::try_from(*start).ok().zip(usize::try_from(start + item.len).ok());
        let record = range.filter(|(_, end)| *end <= whole.len()).map(|(start, end)| whole.slice(start..end));
        match record {
            Some(record) if frame::record_verifies(seed, item, &record) => {
                if matches!(item.kind, kind::APPEND | kind::CARRY) {
                    frame.entries.insert(i, record);
                } else {
                    // Votes, notes and checkpoints stay: they must not hold the whole file in memory.
                    frame.bytes.insert(i, Bytes::copy_from_slice(&record));
                }
            }
            _ => frame.bad.push(i),
        }
    }
    frame
}

/// A record of the log, taken apart.
#[derive(Debug)]
pub(super) enum Parsed {
    /// Entries, and where in the file each is.
    Entries {
        carry: bool,
        entries: Vec<(EntryHead, u64)>,
    },
    Record(Record),
}

impl Frame {
    /// The file's table, when this frame starts with one.
    pub(super) fn table(&self) -> Option<Record> {
        let (item, _) = self.items.first()?;
        Record::decode(item.kind, self.bytes.get(&0)?.clone()).filter(|r| matches!(r, Record::Table(_)))
    }

    pub(super) fn is_good(&self) -> bool {
        self.bad.is_empty() && self.footer
    }

    /// The record at `i`; `None` when it does not decode. `replica` tells who the group's replica is at this point.
    pub(super) fn parsed(&self, i: usize, replica: Option<ReplicaId>) -> Option<Parsed> {
        let (item, start) = self.items.get(i)?;
        if let Some(bytes) = self.entries.get(&i) {
            let owner = Owner { group: GroupId(item.group), replica: replica? };
            let heads = entry::decode(owner, bytes)?;
            let named = item.first.checked_add(heads.len() as u64) == Some(item.end);
            if !named || !heads.iter().zip(item.first..).all(|((head, _), index)| head.id.index == index) {
                return None;
            }
            let base = self.at + start;
            let entries = heads.into_iter().map(|(head, at)| (head, base + at)).collect();
            return Some(Parsed::Entries { carry: item.kind == kind::CARRY, entries });
        }
        Record::decode(item.kind, self.bytes.get(&i)?.clone()).map(Parsed::Record)
    }
}

/// Which group a directory item is about.
pub(super) fn group_of(item: &Item) -> Option<GroupId> {
    (item.group != NO_GROUP).then_some(GroupId(item.group))
}

/// For messages: which entries an item is about.
pub(super) fn describe(item: &Item) -> String {
    match item.kind {
        kind::APPEND | kind::CARRY => format!("entries {}..{}", item.first, item.end),
        kind::VOTE => "a vote".into(),
        other => format!("a record of kind {other} at {}", LogId { term: 0, index: item.first }.index),
    }
}
