//! Which payloads are in memory: the newest of the directory, bounded in bytes. Only a cache: what leaves it is on disk.
//! Owned by the WAL thread, which adds what it flushed and drops from the oldest end.

use super::state::Shared;
use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

pub(super) struct Cache {
    limit: usize,
    bytes: usize,
    queue: VecDeque<Held>,
}

/// The entries of one append.
struct Held {
    shared: Weak<Shared>,
    first: u64,
    end: u64,
    epoch: u32,
    bytes: usize,
}

impl Cache {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, queue: VecDeque::new() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn add(&mut self, shared: Arc<Shared>, first: u64, end: u64, epoch: u32, bytes: usize) {
        self.bytes += bytes;
        self.queue.push_back(Held { shared: Arc::downgrade(&shared), first, end, epoch, bytes });
    }

    /// Drops the oldest until the rest is within the limit.
    pub(super) fn shrink(&mut self) {
        while self.bytes > self.limit
            && let Some(held) = self.queue.pop_front()
        {
            self.bytes -= held.bytes;
            if let Some(shared) = held.shared.upgrade() {
                shared.state().evict(held.first, held.end, held.epoch);
            }
        }
    }
}
