//! What a frame's records say. Appends are in `entry`; everything else is here.
//!
//! Records of a group are applied in WAL order to its [`Hard`] state, by the WAL thread (for the table that starts the
//! next file) and by recovery with the same function.

use super::{Checkpoint, LogId, entry::INDEX_END};
use crate::{GroupId, ReplicaId};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;

/// The group number of records that belong to the directory as a whole.
pub(super) const NO_GROUP: u64 = u64::MAX;

/// Kinds of records, as stored.
pub(super) mod kind {
    pub(crate) const APPEND: u8 = 1;
    /// Entries of an older file, again: that file retires. They replace what stands at their indexes and nothing else.
    pub(crate) const CARRY: u8 = 2;
    pub(crate) const VOTE: u8 = 3;
    pub(crate) const TRUNCATE: u8 = 4;
    pub(crate) const PURGE: u8 = 5;
    pub(crate) const INSTALL: u8 = 6;
    pub(crate) const CREATE: u8 = 7;
    pub(crate) const REMOVE: u8 = 8;
    pub(crate) const NOTE: u8 = 9;
    pub(crate) const MOVED: u8 = 10;
    pub(crate) const RETIRED: u8 = 11;
    pub(crate) const TABLE: u8 = 12;
}

/// A record that is not an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Vote(Bytes),
    /// Entries from `next` on are gone.
    Truncate {
        next: u64,
    },
    /// Raft's start moves. `skip`: what was not applied before it is gone too, and segments restart behind it.
    Purge {
        upto: LogId,
        skip: bool,
    },
    Install(Checkpoint),
    Create(ReplicaId),
    Remove,
    Note {
        key: String,
        value: Bytes,
    },
    Moved(Moved),
    /// WAL files below `next` hold nothing that is needed.
    Retired {
        next: u64,
    },
    Table(Table),
}

/// Applied entries that are in synced segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// The last of them.
    pub(super) upto: LogId,
    /// The next offset after it.
    pub(super) offset: u64,
    /// First index of the segment that is open.
    pub(super) segment: u64,
    /// The synced length of its file.
    pub(super) segment_len: u64,
    /// The next offset before its first entry.
    pub(super) segment_offset: u64,
    /// First entry of each term up to `upto`.
    pub(super) terms: Vec<LogId>,
}

/// What a group must not forget when a WAL file goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hard {
    pub(super) replica: ReplicaId,
    pub(super) vote: Option<Bytes>,
    pub(super) faulty: Option<String>,
    pub(super) purged: Option<LogId>,
    pub(super) moved: Option<Moved>,
}

/// The first record of each WAL file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Older files that are live, and where each ends: what stands behind that is not part of the log.
    pub(super) files: Vec<(u64, u64)>,
    /// Places (file, position of the record, or of the frame whose directory it is) whose damage is known: the groups
    /// concerned are marked below.
    pub(super) damages: Vec<(u64, u64)>,
    pub(super) groups: BTreeMap<GroupId, Hard>,
    pub(super) notes: BTreeMap<String, Bytes>,
}

impl Hard {
    /// Takes a record of this group.
    pub(super) fn apply(&mut self, record: &Record) {
        match record {
            Record::Vote(vote) => self.vote = Some(vote.clone()),
            Record::Purge { upto, skip } => {
                self.purged = self.purged.max(Some(*upto));
                if *skip {
                    let offset = self.moved.as_ref().map_or(0, |m| m.offset);
                    self.moved = Some(Moved::restart(*upto, offset));
                }
            }
            Record::Install(checkpoint) => {
                self.purged = Some(checkpoint.last);
                self.moved = Some(Moved::restart(checkpoint.last, checkpoint.offset));
            }
            Record::Moved(moved) => self.moved = Some(moved.clone()),
            Record::Create(replica) => *self = Hard { replica: *replica, ..Hard::default() },
            Record::Truncate { .. }
            | Record::Remove
            | Record::Note { .. }
            | Record::Retired { .. }
            | Record::Table(_) => {}
        }
    }
}

impl Moved {
    /// Segments begin behind `upto`.
    pub(super) fn restart(upto: LogId, offset: u64) -> Self {
        Self { upto, offset, segment: upto.index + 1, segment_len: 0, segment_offset: offset, terms: vec![upto] }
    }
}

impl Record {
    pub(super) fn kind(&self) -> u8 {
        match self {
            Record::Vote(_) => kind::VOTE,
            Record::Truncate { .. } => kind::TRUNCATE,
            Record::Purge { .. } => kind::PURGE,
            Record::Install(_) => kind::INSTALL,
            Record::Create(_) => kind::CREATE,
            Record::Remove => kind::REMOVE,
            Record::Note { .. } => kind::NOTE,
            Record::Moved(_) => kind::MOVED,
            Record::Retired { .. } => kind::RETIRED,
            Record::Table(_) => kind::TABLE,
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Record::Vote(vote) => out.extend_from_slice(vote),
            Record::Truncate { next } | Record::Retired { next } => out.put_u64_le(*next),
            Record::Purge { upto, skip } => {
                put_id(&mut out, *upto);
                out.put_u8(u8::from(*skip));
            }
            Record::Install(checkpoint) => put_checkpoint(&mut out, checkpoint),
            Record::Create(replica) => out.put_u64_le(replica.0),
            Record::Remove => {}
            Record::Note { key, value } => {
                put_bytes(&mut out, key.as_bytes());
                put_bytes(&mut out, value);
            }
            Record::Moved(moved) => put_moved(&mut out, moved),
            Record::Table(table) => put_table(&mut out, table),
        }
        out.freeze()
    }

    /// `None` when the bytes are not a record of this kind.
    pub(super) fn decode(kind: u8, bytes: Bytes) -> Option<Self> {
        if kind == kind::VOTE {
            return Some(Record::Vote(bytes));
        }
        let mut from = Take(bytes);
        let record = match kind {
            kind::TRUNCATE => Record::Truncate { next: from.u64()? },
            kind::PURGE => Record::Purge { upto: from.id()?, skip: from.u8()? != 0 },
            kind::INSTALL => Record::Install(take_checkpoint(&mut from)?),
            kind::CREATE => Record::Create(ReplicaId(from.u64()?)),
            kind::REMOVE => Record::Remove,
            kind::NOTE => Record::Note { key: from.text()?, value: from.bytes()? },
            kind::MOVED => Record::Moved(take_moved(&mut from)?),
            kind::RETIRED => Record::Retired { next: from.u64()? },
            kind::TABLE => Record::Table(take_table(&mut from)?),
            _ => return None,
        };
        from.0.is_empty().then_some(record)
    }
}

fn put_id(out: &mut BytesMut, id: LogId) {
    out.put_u64_le(id.term);
    out.put_u64_le(id.index);
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("a stored fact is far below 4 GiB"));
    out.extend_from_slice(bytes);
}

fn put_option<T>(out: &mut BytesMut, value: Option<&T>, put: impl FnOnce(&mut BytesMut, &T)) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("counts fit"));
}

fn put_moved(out: &mut BytesMut, moved: &Moved) {
    put_id(out, moved.upto);
    out.put_u64_le(moved.offset);
    out.put_u64_le(moved.segment);
    out.put_u64_le(moved.segment_len);
    out.put_u64_le(moved.segment_offset);
    put_count(out, moved.terms.len());
    moved.terms.iter().for_each(|id| put_id(out, *id));
}

fn take_moved(from: &mut Take) -> Option<Moved> {
    let (upto, offset, segment) = (from.id()?, from.u64()?, from.u64()?);
    let (segment_len, segment_offset, count) = (from.u64()?, from.u64()?, from.u32()?);
    let terms = (0..count).map(|_| from.id()).collect::<Option<_>>()?;
    Some(Moved { upto, offset, segment, segment_len, segment_offset, terms })
}

/// A checkpoint as it lies in install records and in checkpoint files.
pub(super) fn put_checkpoint(out: &mut BytesMut, checkpoint: &Checkpoint) {
    put_id(out, checkpoint.last);
    out.put_u64_le(checkpoint.offset);
    put_bytes(out, &checkpoint.membership);
    put_bytes(out, &checkpoint.machine);
}

pub(super) fn take_checkpoint(from: &mut Take) -> Option<Checkpoint> {
    Some(Checkpoint { last: from.id()?, offset: from.u64()?, membership: from.bytes()?, machine: from.bytes()? })
}

fn put_table(out: &mut BytesMut, table: &Table) {
    for pairs in [&table.files, &table.damages] {
        put_count(out, pairs.len());
        for (file, position) in pairs {
            out.put_u64_le(*file);
            out.put_u64_le(*position);
        }
    }
    put_count(out, table.groups.len());
    for (group, hard) in &table.groups {
        out.put_u64_le(group.0);
        out.put_u64_le(hard.replica.0);
        put_option(out, hard.vote.as_ref(), |out, vote| put_bytes(out, vote));
        put_option(out, hard.faulty.as_ref(), |out, why| put_bytes(out, why.as_bytes()));
        put_option(out, hard.purged.as_ref(), |out, id| put_id(out, *id));
        put_option(out, hard.moved.as_ref(), put_moved);
    }
    put_count(out, table.notes.len());
    for (key, value) in &table.notes {
        put_bytes(out, key.as_bytes());
        put_bytes(out, value);
    }
}

fn take_table(from: &mut Take) -> Option<Table> {
    let (files, damages) = (from.pairs()?, from.pairs()?);
    let mut groups = BTreeMap::new();
    for _ in 0..from.u32()? {
        let (group, replica) = (GroupId(from.u64()?), ReplicaId(from.u64()?));
        let vote = from.option(Take::bytes)?;
        let faulty = from.option(Take::text)?;
        let purged = from.option(Take::id)?;
        let moved = from.option(take_moved)?;
        groups.insert(group, Hard { replica, vote, faulty, purged, moved });
    }
    let mut notes = BTreeMap::new();
    for _ in 0..from.u32()? {
        notes.insert(from.text()?, from.bytes()?);
    }
    Some(Table { files, damages, groups, notes })
}

/// Reads what was put; `None` when it ends too early.
pub(super) struct Take(pub(super) Bytes);

impl Take {
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32_le().ok()
    }
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64_le().ok()
    }
    pub(super) fn id(&mut self) -> Option<LogId> {
        let id = LogId { term: self.u64()?, index: self.u64()? };
        (id.index < INDEX_END).then_some(id)
    }
    pub(super) fn bytes(&mut self) -> Option<Bytes> {
        let len = self.u32()? as usize;
        (len <= self.0.len()).then(|| self.0.split_to(len))
    }
    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.into()).ok()
    }
    fn pairs(&mut self) -> Option<Vec<(u64, u64)>> {
        (0..self.u32()?).map(|_| Some((self.u64()?, self.u64()?))).collect()
    }
    fn option<T>(&mut self, take: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        Some(if self.u8()? == 0 { None } else { Some(take(self)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fuzz::samples, *};

    #[test]
    fn records_read_back_and_refuse_every_cut() {
        for record in samples() {
            let bytes = record.encode();
            assert_eq!(Record::decode(record.kind(), bytes.clone()), Some(record.clone()));
            if matches!(record, Record::Vote(_)) {
                continue;
            }
            for cut in 0..bytes.len() {
                assert_eq!(Record::decode(record.kind(), bytes.slice(..cut)), None, "{record:?} cut at {cut}");
            }
        }
    }
}
