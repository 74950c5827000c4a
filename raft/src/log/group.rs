//! The handle of one group's log.

use super::{
    Checkpoint, Done, Entry, LogId, Stamp,
    applied::first_kept,
    core::{Append, Body, Core, Job, closed},
    entry,
    reader::{self, Cold},
    record::Record,
    state::{Place, Shared, State},
};
use crate::{GroupId, ReplicaId};
use bytes::Bytes;
use std::{io, sync::Arc};
use tokio::sync::oneshot;

/// One group's log. Clones share. What is not async returns at once and never touches the disk.
#[derive(Clone)]
pub struct Group {
    pub(super) shared: Arc<Shared>,
    pub(super) core: Arc<Core>,
}

/// How the log asks for a restart checkpoint.
pub type Checkpointer = Box<dyn Fn(oneshot::Sender<Checkpoint>) + Send + Sync>;

/// How often a read looks up places again because files were recycled under it.
pub(super) const TRIES: usize = 8;

impl Group {
    pub(super) fn new(shared: Arc<Shared>, core: Arc<Core>) -> Self {
        Self { shared, core }
    }

    /// Which group.
    pub fn id(&self) -> GroupId {
        self.shared.owner.group
    }

    /// Which replica of it.
    pub fn replica(&self) -> ReplicaId {
        self.shared.owner.replica
    }

    /// As last saved, the owner's encoding.
    pub fn vote(&self) -> Option<Bytes> {
        self.shared.state().vote.clone()
    }

    /// Saves the vote; `done` after the flush that holds it and all before it.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        self.change(done, |state| {
            state.vote = Some(vote.clone());
            Record::Vote(vote)
        });
    }

    /// The last entry, or the purge or install point when there is none.
    pub fn last(&self) -> Option<LogId> {
        self.shared.state().last
    }

    /// Entries at or before it are gone for Raft.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.state().purged
    }

    /// The purge point, then the first entry of each later term.
    pub fn terms(&self) -> Vec<LogId> {
        self.shared.state().terms.clone()
    }

    /// Appends; readable on return. The indexes must continue `last`.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return self.change(done, |_| Record::Truncate { next: u64::MAX });
        };
        let (first, end) = (first.index, last.index + 1);
        let encoded = entry::encode(self.shared.owner, entries);
        let at = encoded.entries.iter().map(|e| e.at).collect();
        let mut state = self.shared.state();
        if state.gone {
            drop(state);
            return done(Err(closed()));
        }
        state.push(encoded.entries);
        let append = Append {
            shared: self.shared.clone(),
            first,
            end,
            epoch: state.epoch,
            carried_from: None,
            parts: encoded.parts,
            len: encoded.len,
            at,
        };
        // Under the lock, so that the queue has the order of the state.
        let queued = self.core.queue(Body::Append(append), done);
        drop(state);
        if let Err(refused) = queued {
            refused.answer();
        }
    }

    /// Keeps entries up to and with `index`.
    pub fn truncate_after(&self, index: u64, done: Done) {
        self.truncate(index + 1, done);
    }

    /// Keeps no entry behind the purge point.
    pub fn truncate_all(&self, done: Done) {
        let next = self.purged().map_or(0, |p| p.index + 1);
        self.truncate(next, done);
    }

    fn truncate(&self, next: u64, done: Done) {
        self.change(done, |state| {
            state.truncate(next);
            Record::Truncate { next }
        });
    }

    /// Moves Raft's start.
    pub fn purge(&self, upto: LogId, done: Done) {
        self.change(self.and_then(Job::Purged, upto, done), |state| {
            let skip = state.purge(upto);
            Record::Purge { upto, skip }
        });
    }

    /// The log restarts behind `checkpoint`: one durable record; what it covers goes, entries and segments. Entries behind it stay
    /// if they follow from it.
    pub fn install(&self, checkpoint: Checkpoint, done: Done) {
        if self.shared.state().contradicts(checkpoint.last) {
            self.truncate(checkpoint.last.index + 1, Box::new(|_| ()));
        }
        self.change(self.and_then(Job::Installed, checkpoint.last, done), |state| {
            state.install(&checkpoint);
            Record::Install(checkpoint)
        });
    }

    /// `done`, and work for the retirer behind it when it was good.
    fn and_then(&self, job: fn(Arc<Shared>, LogId) -> Job, id: LogId, done: Done) -> Done {
        let (jobs, shared) = (self.core.jobs.clone(), self.shared.clone());
        Box::new(move |result| {
            let good = result.is_ok();
            done(result);
            if good {
                let _ = jobs.send(job(shared, id));
            }
        })
    }

    /// Changes the state and queues the record that says so, as one step.
    fn change(&self, done: Done, change: impl FnOnce(&mut State) -> Record) {
        let mut state = self.shared.state();
        if state.gone {
            drop(state);
            return done(Err(closed()));
        }
        let record = change(&mut state);
        let queued = self.core.queue(Body::Record(Some(self.id()), record), done);
        drop(state);
        if let Err(refused) = queued {
            refused.answer();
        }
    }

    /// Entries `from..to`, at least one, then as many as fit into `bytes_max`; fewer (or none) at the end of the log.
    pub async fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        loop {
            let next = entries.last().map_or(from, |e| e.index + 1);
            if next >= to || (bytes >= bytes_max && !entries.is_empty()) {
                return Ok(entries);
            }
            let more = self.read_some(next, to, bytes_max - bytes).await?;
            if more.is_empty() {
                return Ok(entries);
            }
            for entry in more {
                if bytes + entry.payload.len() > bytes_max && !entries.is_empty() {
                    return Ok(entries);
                }
                bytes += entry.payload.len();
                entries.push(entry);
            }
        }
    }

    /// At least the entry at `from`, and neighbours that are in the same kind of place.
    async fn read_some(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        for _ in 0..TRIES {
            let planned = plan(&self.shared.state(), from, to, bytes_max)?;
            match planned {
                Plan::Ready(entries) => return Ok(entries),
                Plan::Wal(colds) => match self.read_wal(colds).await {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => return other,
                },
                Plan::Segment => return self.read_segment(from, to, bytes_max).await,
            }
        }
        Err(io::Error::other(format!("entry {from} of group {} moves faster than it can be read", self.id())))
    }

    pub(super) async fn read_wal(&self, colds: Vec<Cold>) -> io::Result<Vec<Entry>> {
        let (shared, common) = (self.shared.clone(), self.core.common.clone());
        let read =
            self.core.readers.run(move || async move { reader::read_wal(&common, &shared, &colds).await }).await?;
        read.inspect_err(|error| self.condemn_if_damaged(error))
    }

    /// Why this replica cannot be trusted any more, found in this life: what it needs is damaged, and no peer can mend
    /// it. Its id is dead; another replica takes its place.
    pub fn fault(&self) -> Option<String> {
        self.shared.state().fault.clone()
    }

    /// Something that the replica needs does not verify.
    pub fn condemn(&self, why: impl Into<String>) {
        self.shared.condemn(why.into());
    }

    pub(super) fn condemn_if_damaged(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::InvalidData {
            self.condemn(error.to_string());
        }
    }

    /// The same if all are in memory.
    pub fn cached(&self, from: u64, to: u64) -> Option<Vec<Entry>> {
        let state = self.shared.state();
        (from..to.min(state.next())).map(|index| state.slot(index)?.cached()).collect()
    }

    /// Whether the entry is in memory.
    pub fn is_cached(&self, index: u64) -> bool {
        self.shared.state().slot(index).is_some_and(|slot| slot.payload.is_some())
    }

    /// After apply: ascending, each applied index once (those known already are skipped).
    pub fn note_applied(&self, stamps: Vec<Stamp>) {
        self.shared.state().stamp(stamps);
        self.shared.applied_moved.notify_waiters();
    }

    /// The last entry whose stamp is known: at start, the last one in segments.
    pub fn applied(&self) -> Option<LogId> {
        self.shared.state().applied
    }

    /// A segment boundary: entries up to `base.last` belong to the segment that ends there.
    pub fn seal(&self, base: Checkpoint) {
        let mut state = self.shared.state();
        let open = state.segments.last().map_or(0, |segment| segment.first);
        // After a restart the apply loop passes boundaries again.
        let passed = base.last.index < open || state.moved.is_some_and(|moved| base.last.index < moved.index);
        let known = state.seals.back().is_some_and(|last| base.last.index <= last.last.index);
        if !passed && !known {
            state.seals.push_back(base);
        }
    }

    /// Payload bytes after which the apply loop puts a boundary.
    pub fn boundary_bytes(&self) -> u64 {
        self.core.common.options.segment_bytes
    }

    /// Sets whom to ask for a restart checkpoint when a WAL file retires.
    pub fn set_checkpointer(&self, ask: Checkpointer) {
        self.shared.state().checkpointer = Some(Arc::new(ask));
    }

    /// What recovery found, or what was saved since; `None`: the machine starts empty at index 0.
    pub fn restart_checkpoint(&self) -> Option<Checkpoint> {
        self.shared.state().restart.clone()
    }

    /// The log start moved to `offset`. Gives the point up to which Raft may purge, if any; whole segments below it go
    /// after [`Group::purge`].
    pub fn trim(&self, offset: u64) -> Option<LogId> {
        let mut state = self.shared.state();
        state.start_offset = state.start_offset.max(offset);
        first_kept(&state).and_then(|segment| segment.base).filter(|base| state.purged < Some(*base))
    }

    /// First offset that is there.
    pub fn start_offset(&self) -> u64 {
        self.shared.state().start_offset
    }
}

/// Where the entry at `from` is to be had.
enum Plan {
    Ready(Vec<Entry>),
    Wal(Vec<Cold>),
    Segment,
}

fn plan(state: &State, from: u64, to: u64, bytes_max: usize) -> io::Result<Plan> {
    if state.purged.is_some_and(|p| from <= p.index) {
        let why = format!("entry {from} is purged, the log starts behind {:?}", state.purged);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let to = to.min(state.next());
    if from >= to {
        return Ok(Plan::Ready(Vec::new()));
    }
    let mut bytes = 0;
    let mut fits = |len: u32| {
        let first = bytes == 0;
        bytes += len as usize + 1;
        first || bytes <= bytes_max
    };
    let slots = (from..to).map_while(|index| state.slot(index));
    match state.slot(from) {
        None => Ok(Plan::Segment),
        Some(slot) if slot.payload.is_some() => Ok(Plan::Ready(
            slots.take_while(|s| s.payload.is_some() && fits(s.head.len)).filter_map(|s| s.cached()).collect(),
        )),
        Some(slot) if slot.place == Place::Segment => Ok(Plan::Segment),
        Some(_) => {
            let colds = slots.map_while(|slot| match slot.place {
                Place::Wal { file, position } if slot.payload.is_none() && fits(slot.head.len) => {
                    Some(Cold { head: slot.head, file, position })
                }
                _ => None,
            });
            Ok(Plan::Wal(colds.collect()))
        }
    }
}
