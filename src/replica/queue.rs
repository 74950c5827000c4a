//! Events for a replica, from any thread, kept over changes of role.
//!
//! **Invariant:** what only opens the gate or answers who waits for a flush makes no turn of its own unless somebody waits
//! for it: such news is *calm*, and taken by the next turn, whatever that one is for.

use crate::runtime::Wake;
use highwater_raft::group::{BarrierError, Event, Owner};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Raft's events, and what the replica's own tasks report.
pub struct Queue {
    notes: Mutex<Option<Notes>>,
    wake: Wake,
}

#[derive(Default)]
struct Notes {
    queue: VecDeque<Note>,
    /// Last entry on this replica's disk, if no turn has taken it yet.
    flushed: Option<u64>,
    /// Calm news is waited for.
    eager: bool,
}

pub(super) enum Note {
    Raft(Event),
    Barrier { round: u64, result: Result<u64, BarrierError> },
    Opened,
    Close,
}

impl Queue {
    pub(super) fn new(wake: Wake) -> Self {
        Self { notes: Mutex::new(Some(Notes::default())), wake }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Notes>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, note: Note) {
        // A note for a replica that is gone is dropped, outside of the lock: what is in it answers from its own Drop.
        let (refused, wanted) = match (&mut *self.lock(), note) {
            (Some(notes), Note::Raft(Event::Flushed { index })) => {
                notes.flushed = notes.flushed.max(Some(index));
                (None, notes.eager)
            }
            (Some(notes), note) => {
                let calm = matches!(note, Note::Raft(Event::HandedOver { .. }));
                notes.queue.push_back(note);
                (None, notes.eager || !calm)
            }
            (None, note) => (Some(note), false),
        };
        drop(refused);
        if wanted {
            self.wake.arm();
        }
    }

    /// Whether calm news that comes from now on, or came meanwhile, wants a turn.
    pub(super) fn be_eager(&self, eager: bool) {
        let missed = match &mut *self.lock() {
            Some(notes) => {
                notes.eager = eager;
                eager && (notes.flushed.is_some() || !notes.queue.is_empty())
            }
            None => false,
        };
        if missed {
            self.wake.arm();
        }
    }

    pub(super) fn pop(&self) -> Option<Note> {
        self.lock().as_mut()?.queue.pop_front()
    }

    /// Up to where entries came to this replica's disk since it was last asked.
    pub(super) fn flushed(&self) -> Option<u64> {
        self.lock().as_mut()?.flushed.take()
    }

    /// Whether no note waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().as_ref().is_none_or(|notes| notes.queue.is_empty())
    }

    pub(super) fn close(&self) {
        self.push(Note::Close);
    }

    /// Nothing is taken any more; what was there is dropped.
    pub(super) fn end(&self) {
        let rest = self.lock().take();
        drop(rest);
    }
}

impl Owner for Queue {
    fn event(&self, event: Event) {
        self.push(Note::Raft(event));
    }
}
