//! The state that WAL records add up to.

use super::{
    entry::EntryHead,
    record::{Hard, Record, Table, kind},
    scan::{Element, Frame, Parsed, Scan, describe, group_of},
};
use crate::{DirectoryId, GroupId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// The note that tells of damage to the directory as a whole.
pub(super) const DAMAGED: &str = "log.damaged";
/// The note that holds the directory's id since the last damage to it as a whole.
pub(super) const LIFE: &str = "log.life";

/// Groups and notes as of the last record taken.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) groups: BTreeMap<GroupId, Replayed>,
    pub(super) notes: BTreeMap<String, Bytes>,
    /// Damage that an earlier recovery has reported already.
    pub(super) known_damages: BTreeSet<(u64, u64)>,
    /// Damage that is new.
    pub(super) damages: Vec<(u64, u64)>,
    /// Why no group of the directory can be trusted.
    pub(super) all_faulty: Option<String>,
}

/// One group.
#[derive(Default)]
pub(super) struct Replayed {
    pub(super) hard: Hard,
    pub(super) entries: BTreeMap<u64, Known>,
    /// A checkpoint whose install record is still in the WAL.
    pub(super) installed: Option<super::Checkpoint>,
}

/// Where an entry is.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) head: EntryHead,
    pub(super) file: u64,
    pub(super) position: u64,
}

impl Known {
    /// Whether `next` stands right behind it.
    pub(super) fn is_before(&self, next: &Known) -> bool {
        let (here, there) = (self.head.id.index + 1, self.position + self.head.size());
        self.file == next.file && (here, there) == (next.head.id.index, next.position)
    }
}

impl Replay {
    /// Takes a file's frames up to `limit`. Damage is reported to the groups concerned.
    pub(super) fn file(&mut self, scan: &Scan, limit: Option<u64>) {
        let mut end = 0;
        for element in &scan.elements {
            if limit.is_some_and(|limit| element.at() >= limit) {
                break;
            }
            match element {
                Element::Frame(frame) => {
                    self.frame(scan.sequence, frame);
                    end = frame.end;
                }
                Element::Gap { at } => {
                    self.damaged_directory(scan.sequence, *at, "a frame does not verify, and later ones do")
                }
            }
        }
        if let Some(limit) = limit
            && end != limit
        {
            self.damaged_directory(scan.sequence, end, "synced frames are missing");
        }
    }

    fn frame(&mut self, file: u64, frame: &Frame) {
        if !frame.footer {
            tracing::warn!(file, at = frame.at, "a WAL frame's footer does not verify; its directory and records do");
        }
        for i in 0..frame.items.len() {
            self.record(file, frame, i);
        }
    }

    /// Takes record `i` of a frame.
    pub(super) fn record(&mut self, file: u64, frame: &Frame, i: usize) {
        let (item, start) = &frame.items[i];
        // Its own place, not the frame's: of one frame several records may be found damaged, one after the other.
        let at = frame.at + start;
        let group = group_of(item);
        let replica = group.and_then(|g| self.groups.get(&g)).map(|g| g.hard.replica);
        let parsed = if frame.bad.contains(&i) { None } else { frame.parsed(i, replica) };
        if let (Some(group), None, Some(_)) = (group, replica, &self.all_faulty) {
            // Its creation may be in the damaged frame.
            self.groups.entry(group).or_default();
        }
        match (group, parsed) {
            (Some(group), Some(parsed)) => self.apply(group, parsed, file),
            (None, Some(Parsed::Record(record))) => self.apply_directory(record),
            // A record of a group that was removed since by a later table.
            (Some(_), None) if replica.is_none() && item.kind != kind::CREATE => {}
            (Some(_), None) if item.kind == kind::CREATE => {
                self.damaged_directory(file, at, "it is not known which replica was made");
            }
            (Some(group), None) => {
                let why = format!("{} in WAL file {file:016x} at {at} do not verify", describe(item));
                self.damaged_group(group, (file, at), why);
            }
            (None, _) => self.damaged_directory(file, at, "a record of the directory does not verify"),
        }
    }

    fn apply(&mut self, group: GroupId, parsed: Parsed, file: u64) {
        if let Parsed::Record(Record::Create(_)) = &parsed {
            self.groups.insert(group, Replayed::default());
        }
        let Some(known) = self.groups.get_mut(&group) else { return };
        match parsed {
            Parsed::Entries { carry, entries } => known.entries(carry, entries, file),
            Parsed::Record(Record::Remove) => drop(self.groups.remove(&group)),
            Parsed::Record(record) => known.record(record),
        }
    }

    fn apply_directory(&mut self, record: Record) {
        match record {
            Record::Note { key, value } => drop(self.notes.insert(key, value)),
            Record::Table(table) => self.table(table),
            _ => {}
        }
    }

    fn table(&mut self, table: Table) {
        self.notes = table.notes;
        self.known_damages.extend(table.damages);
        self.groups.retain(|group, _| table.groups.contains_key(group));
        for (group, hard) in table.groups {
            let known = self.groups.entry(group).or_default();
            if known.hard.replica != hard.replica {
                *known = Replayed::default();
            }
            let faulty = known.hard.faulty.take();
            known.hard = hard;
            known.hard.faulty = known.hard.faulty.take().or(faulty);
            // Of a replica of the same id that was made anew since.
            known.installed = known.installed.take().filter(|installed| known.hard.purged >= Some(installed.last));
            known.drop_moved();
        }
    }

    fn damaged_group(&mut self, group: GroupId, place: (u64, u64), why: String) {
        if self.known_damages.contains(&place) {
            return;
        }
        tracing::error!(%group, why, "the group is faulty");
        self.damages.push(place);
        let known = self.groups.entry(group).or_default();
        known.hard.faulty.get_or_insert(why);
    }

    /// No group of the directory can be trusted.
    pub(super) fn damaged_directory(&mut self, file: u64, at: u64, what: &str) {
        if !self.known_damages.contains(&(file, at)) {
            tracing::error!(file, at, what, "the directory's write-ahead log is damaged: all its groups are faulty");
            self.damages.push((file, at));
            self.all_faulty.get_or_insert_with(|| format!("WAL file {file:016x} at {at}: {what}"));
        }
    }

    /// Marks what must not be opened. After damage to the directory as a whole nobody knows which replicas were made in
    /// it, so it goes on as another one: `life` gives its id.
    pub(super) fn finish(&mut self, life: impl FnOnce() -> DirectoryId) {
        if let Some(why) = &self.all_faulty {
            self.notes.insert(DAMAGED.into(), why.clone().into());
            self.notes.insert(LIFE.into(), Bytes::copy_from_slice(&life().0.to_be_bytes()));
        }
        for known in self.groups.values_mut() {
            if let Some(why) = &self.all_faulty {
                known.hard.faulty.get_or_insert_with(|| why.clone());
            } else if let Some(index) = known.hole() {
                known.hard.faulty.get_or_insert_with(|| format!("entry {index} is missing from the write-ahead log"));
            }
        }
    }

    /// Entries that stood at `from..from + len` of a file are at `to` of another now.
    pub(super) fn relocate(&mut self, group: GroupId, (file, from, len): (u64, u64, u64), (file_now, to): (u64, u64)) {
        let Some(known) = self.groups.get_mut(&group) else { return };
        for entry in known.entries.values_mut() {
            if entry.file == file && (from..from + len).contains(&entry.position) {
                (entry.file, entry.position) = (file_now, to + (entry.position - from));
            }
        }
    }
}

impl Replayed {
    fn entries(&mut self, carry: bool, entries: Vec<(EntryHead, u64)>, file: u64) {
        if !carry && let Some((head, _)) = entries.first() {
            self.entries.split_off(&head.id.index);
        }
        for (head, position) in entries {
            self.entries.insert(head.id.index, Known { head, file, position });
        }
        self.drop_moved();
    }

    fn record(&mut self, record: Record) {
        self.hard.apply(&record);
        match record {
            Record::Truncate { next } => drop(self.entries.split_off(&next)),
            Record::Install(checkpoint) => self.installed = Some(checkpoint),
            _ => {}
        }
        self.drop_moved();
    }

    fn drop_moved(&mut self) {
        if let Some(moved) = &self.hard.moved {
            self.entries = self.entries.split_off(&(moved.upto.index + 1));
        }
    }

    /// The first entry behind what is in segments that is missing, if one is.
    pub(super) fn hole(&self) -> Option<u64> {
        let first = self.hard.moved.as_ref().map_or(0, |m| m.upto.index + 1);
        (first..).zip(self.entries.keys()).find(|(expected, index)| expected != *index).map(|(expected, _)| expected)
    }
}
