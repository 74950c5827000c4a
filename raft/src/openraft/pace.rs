//! How fast a node sends what followers missed: their normal appends and everybody's heartbeats go on beside it.

#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// A rate for all that a node sends over its bulk connections.
pub(crate) struct Pace {
    bytes_per_s: u64,
    free_at: Mutex<Instant>,
    /// Bytes booked so far.
    #[cfg(test)]
    taken: AtomicU64,
}

impl Pace {
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s: bytes_per_s.max(1),
            free_at: Mutex::new(Instant::now()),
            #[cfg(test)]
            taken: AtomicU64::new(0),
        }
    }

    /// Books `bytes`; they may be sent after the time that it gives.
    pub(super) fn book(&self, bytes: usize) -> Duration {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        #[cfg(test)]
        self.taken.fetch_add(bytes, Relaxed);
        let now = Instant::now();
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let from = (*free_at).max(now);
        *free_at = from + Duration::from_micros(bytes.saturating_mul(1_000_000) / self.bytes_per_s);
        from - now
    }

    /// Bytes booked so far.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }
}
