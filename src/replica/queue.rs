//! Events for a replica, from any thread, kept over changes of role.

use crate::runtime::Wake;
use highwater_raft::group::{BarrierError, Event, Owner};
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// Raft's events, and what the replica's own tasks report.
pub struct Queue {
    notes: Mutex<Option<VecDeque<Note>>>,
    wake: Wake,
}

pub(super) enum Note {
    Raft(Event),
    Barrier { round: u64, result: Result<u64, BarrierError> },
    Opened,
    Close,
}

impl Queue {
    pub(super) fn new(wake: Wake) -> Self {
        Self { notes: Mutex::new(Some(VecDeque::new())), wake }
    }

    pub(super) fn push(&self, note: Note) {
        // A note for a replica that is gone is dropped, outside of the lock: what is in it answers from its own Drop.
        let refused = match &mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(notes) => {
                notes.push_back(note);
                None
            }
            None => Some(note),
        };
        if refused.is_none() {
            self.wake.arm();
        }
    }

    pub(super) fn pop(&self) -> Option<Note> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_none_or(VecDeque::is_empty)
    }

    pub(super) fn close(&self) {
        self.push(Note::Close);
    }

    /// Nothing is taken any more; what was there is dropped.
    pub(super) fn end(&self) {
        let rest = self.notes.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(rest);
    }
}

impl Owner for Queue {
    fn event(&self, event: Event) {
        self.push(Note::Raft(event));
    }
}
