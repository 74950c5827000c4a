//! One group in memory: where each entry is, what is known of it, and what of it is cached.
//!
//! ```text
//!   segments (on disk)      slots (one per entry)
//!  ├──────── moved ───────┤
//!            ├─ kept while cached ─┤─ in the WAL ─┤─ queued ─┤
//!                                           applied ▲    last ▲
//! ```
//! * **Invariant:** slots are dense and end with `last`; behind `moved` none is missing.
//! * **Invariant:** a queued slot has its payload; any other slot can be read from disk.
//! * **Invariant:** slots up to `applied` carry stamps (those up to `moved` have them in segments too).

use super::{
    Checkpoint, Checkpointer, Entry, LogId, Stamp,
    entry::{EncodedEntry, EntryHead, Owner},
    segment::Segment,
};
use crate::{Payload, observe};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// A group as its handle, the WAL thread, the retirer and readers share it.
pub(super) struct Shared {
    pub(super) owner: Owner,
    state: Mutex<State>,
    /// `applied` moved.
    pub(super) applied_moved: Notify,
}

impl Shared {
    pub(super) fn new(owner: Owner, state: State) -> Arc<Self> {
        Arc::new(Self { owner, state: Mutex::new(state), applied_moved: Notify::new() })
    }
    /// Held for moments only, never across an await.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Something that the replica needs does not verify; the first finding stays.
    pub(super) fn condemn(&self, why: String) {
        let mut state = self.state();
        if state.fault.is_none() {
            let Owner { group, replica } = self.owner;
            tracing::error!(%group, %replica, why, "the replica is faulty");
            observe::faulty(group, replica, &why);
            state.fault = Some(why);
        }
    }
}

/// Where an entry's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On its way to the WAL.
    Queued,
    /// In a WAL file, its head at `position`.
    Wal { file: u64, position: u64 },
    /// In a synced segment.
    Segment,
}

/// One entry.
pub(super) struct Slot {
    pub(super) head: EntryHead,
    pub(super) epoch: u32,
    pub(super) place: Place,
    pub(super) payload: Option<Payload>,
    pub(super) stamp: Option<Stamp>,
}

impl Slot {
    pub(super) fn cached(&self) -> Option<Entry> {
        let payload = self.payload.clone()?;
        Some(Entry { index: self.head.id.index, term: self.head.id.term, kind: self.head.kind, payload })
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) vote: Option<Bytes>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    /// First entry of each term that is known, the purge point first.
    pub(super) terms: Vec<LogId>,
    pub(super) applied: Option<LogId>,
    /// The next offset after `applied`.
    pub(super) offset: u64,
    /// Index of the first slot (or of the next entry).
    pub(super) first: u64,
    pub(super) slots: VecDeque<Slot>,
    pub(super) moved: Option<LogId>,
    /// The next offset after `moved`.
    pub(super) moved_offset: u64,
    /// The part of `moved` that the WAL knows of, durably: only boundaries up to here may become Raft's start.
    pub(super) recorded: Option<LogId>,
    /// Ascending; the last one is open. Never empty.
    pub(super) segments: Vec<Segment>,
    /// Boundaries that the retirer has not reached.
    pub(super) seals: VecDeque<Checkpoint>,
    pub(super) restart: Option<Checkpoint>,
    /// An installed checkpoint that is in no file yet.
    pub(super) installed: Option<Checkpoint>,
    pub(super) start_offset: u64,
    /// Counts truncations and installs: tells entries of one index apart.
    pub(super) epoch: u32,
    /// Counts how often segments began anew.
    pub(super) restarts: u32,
    pub(super) checkpointer: Option<Arc<Checkpointer>>,
    /// Removed, or replaced by another replica.
    pub(super) gone: bool,
    /// Something that the replica needs was found damaged in this life: why.
    pub(super) fault: Option<String>,
}

impl State {
    /// A log without entries.
    pub(super) fn empty() -> Self {
        Self { segments: vec![Segment::behind(None, 0)], ..Self::default() }
    }

    pub(super) fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(super) fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    pub(super) fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// The term of an entry that is known: by its slot, else by the list of terms.
    pub(super) fn term_of(&self, index: u64) -> Option<u64> {
        if let Some(slot) = self.slot(index) {
            return Some(slot.head.id.term);
        }
        self.terms.iter().rev().find(|id| id.index <= index).map(|id| id.term)
    }

    fn id_of(&self, index: u64) -> Option<LogId> {
        self.term_of(index).map(|term| LogId { term, index })
    }

    /// Takes entries that were encoded for the WAL.
    pub(super) fn push(&mut self, entries: Vec<EncodedEntry>) {
        for entry in entries {
            let id = entry.head.id;
            assert_eq!(id.index, self.next(), "entries continue the log");
            assert!(
                self.last.is_none_or(|last| last.term <= id.term),
                "terms never fall: {id:?} behind {:?}",
                self.last
            );
            if self.terms.last().is_none_or(|t| t.term < id.term) {
                self.terms.push(id);
            }
            self.last = Some(id);
            let payload = Some(entry.payload);
            self.slots.push_back(Slot {
                head: entry.head,
                epoch: self.epoch,
                place: Place::Queued,
                payload,
                stamp: None,
            });
        }
    }

    /// Drops entries from `next` on.
    pub(super) fn truncate(&mut self, next: u64) {
        assert!(
            self.applied.is_none_or(|a| a.index < next),
            "what is applied is never truncated: {next}, {:?}",
            self.applied
        );
        if next >= self.next() {
            return;
        }
        self.epoch += 1;
        self.slots.truncate(usize::try_from(next.saturating_sub(self.first)).expect("as many as there are slots"));
        self.terms.retain(|id| id.index < next || self.purged == Some(*id));
        self.last = next.checked_sub(1).and_then(|index| self.id_of(index)).or(self.purged);
    }

    /// Moves Raft's start. Whether entries that were not applied went with it.
    pub(super) fn purge(&mut self, upto: LogId) -> bool {
        if self.purged >= Some(upto) {
            return false;
        }
        self.purged = Some(upto);
        self.terms.retain(|id| id.index > upto.index);
        self.terms.insert(0, upto);
        let skip = self.applied.is_none_or(|a| a.index < upto.index);
        if skip {
            self.epoch += 1;
            let gone = upto.index + 1 - self.first.min(upto.index + 1);
            let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(self.slots.len());
            self.slots.drain(..gone);
            self.restart_behind(upto, self.offset);
            if self.slots.is_empty() {
                self.last = Some(upto);
            }
        }
        skip
    }

    /// Whether entries behind `last` are there that do not follow from it.
    pub(super) fn contradicts(&self, last: LogId) -> bool {
        self.next() > last.index + 1 && self.slot(last.index).is_none_or(|slot| slot.head.id != last)
    }

    /// The log restarts behind a checkpoint, with the entries behind it.
    pub(super) fn install(&mut self, checkpoint: &Checkpoint) {
        self.epoch += 1;
        let gone = usize::try_from((checkpoint.last.index + 1).saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.slots.drain(..gone.min(self.slots.len()));
        self.purged = Some(checkpoint.last);
        self.last = self.slots.back().map(|slot| slot.head.id).or(Some(checkpoint.last));
        self.terms.retain(|id| id.index > checkpoint.last.index && !self.slots.is_empty());
        self.terms.insert(0, checkpoint.last);
        self.restart_behind(checkpoint.last, checkpoint.offset);
        self.start_offset = checkpoint.offset;
        self.restart = Some(checkpoint.clone());
        self.installed = Some(checkpoint.clone());
    }

    fn restart_behind(&mut self, last: LogId, offset: u64) {
        self.first = last.index + 1;
        self.applied = Some(last);
        self.moved = Some(last);
        self.moved_offset = offset;
        self.recorded = Some(last);
        self.restarts += 1;
        self.offset = offset;
        self.seals.clear();
        self.segments = vec![Segment::behind(Some(last), offset)];
    }

    /// The flush that holds these entries is done. `carried_from`: they were in that file before.
    pub(super) fn place(
        &mut self,
        first: u64,
        at: &[u64],
        epoch: u32,
        carried_from: Option<u64>,
        file: u64,
        base: u64,
    ) {
        for (index, at) in (first..).zip(at) {
            let Some(slot) = self.slot_mut(index) else { continue };
            let ours = match carried_from {
                None => slot.epoch == epoch && slot.place == Place::Queued,
                Some(from) => matches!(slot.place, Place::Wal { file, .. } if file == from),
            };
            if ours {
                slot.place = Place::Wal { file, position: base + at };
            }
        }
    }

    /// Drops payloads from memory.
    pub(super) fn evict(&mut self, first: u64, end: u64, epoch: u32) {
        for index in first..end {
            if let Some(slot) = self.slot_mut(index)
                && slot.epoch == epoch
                && slot.place != Place::Queued
            {
                slot.payload = None;
            }
        }
        self.drop_moved();
    }

    /// Slots at the front that are in segments and not cached have nothing more to say.
    pub(super) fn drop_moved(&mut self) {
        while self.slots.front().is_some_and(|s| s.place == Place::Segment && s.payload.is_none()) {
            self.slots.pop_front();
            self.first += 1;
        }
    }

    /// Takes what apply said.
    pub(super) fn stamp(&mut self, stamps: Vec<Stamp>) {
        for stamp in stamps {
            if self.applied.is_some_and(|a| stamp.index <= a.index) {
                continue;
            }
            let expected = self.applied.map_or(0, |a| a.index + 1);
            assert_eq!(stamp.index, expected, "each applied index is noted once, ascending");
            assert!(
                stamp.offset <= stamp.offset_end && stamp.offset == self.offset,
                "offsets continue: {stamp:?}, {}",
                self.offset
            );
            self.offset = stamp.offset_end;
            let slot = self.slot_mut(stamp.index).expect("what is applied is in the log");
            let id = slot.head.id;
            slot.stamp = Some(stamp);
            self.applied = Some(id);
        }
    }

    /// The terms of what is in segments up to `upto`.
    pub(super) fn terms_upto(&self, upto: u64) -> Vec<LogId> {
        self.terms.iter().copied().filter(|id| id.index <= upto).collect()
    }
}
