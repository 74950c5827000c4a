//! Back-pressure in bytes: taken once at admission, held to the answer.

use crate::{
    advice::{Advice, Reaction},
    limits,
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::Notify;

/// A pool of bytes. Clones share.
#[derive(Clone)]
pub struct BytePool(Arc<Pool>);

struct Pool {
    name: &'static str,
    limit: u64,
    taken: AtomicU64,
    refused: AtomicU64,
    freed: Notify,
}

/// The pool has not enough left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} bytes wanted of the {pool} pool, {taken} of {limit} are taken")]
pub struct PoolFull {
    /// Which pool.
    pub pool: &'static str,
    /// Bytes wanted.
    pub wanted: u64,
    /// Bytes taken.
    pub taken: u64,
    /// Its size in bytes.
    pub limit: u64,
}

impl Advice for PoolFull {
    fn reaction(&self) -> Reaction {
        Reaction::Retry { after_ms: 20 }
    }

    fn advice(&self) -> String {
        format!("have fewer bytes in flight, or raise the size of the {} pool in the config", self.pool)
    }
}

impl BytePool {
    /// A pool of `limit` bytes; `name` is for messages and metrics.
    pub fn new(name: &'static str, limit: u64) -> Self {
        Self(Arc::new(Pool { name, limit, taken: AtomicU64::new(0), refused: AtomicU64::new(0), freed: Notify::new() }))
    }

    /// Takes `bytes` (at least [`limits::REQUEST_BYTES_MIN`]) or refuses at once.
    pub fn take(&self, bytes: u64) -> Result<BytePermit, PoolFull> {
        let bytes = bytes.max(u64::from(limits::REQUEST_BYTES_MIN));
        let fits = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= self.0.limit);
        match self.0.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits) {
            Ok(_) => Ok(BytePermit { pool: Some(self.clone()), bytes }),
            Err(taken) => {
                self.0.refused.fetch_add(1, Ordering::Relaxed);
                Err(PoolFull { pool: self.0.name, wanted: bytes, taken, limit: self.0.limit })
            }
        }
    }

    /// Waits until `bytes` can be taken. More than the pool has is cut down to all of it. The caller has the deadline.
    pub async fn wait(&self, bytes: u64) -> BytePermit {
        let bytes = bytes.min(self.0.limit);
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Ok(permit) = self.take(bytes) {
                return permit;
            }
            freed.await;
        }
    }

    /// Bytes taken now.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Its size in bytes.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Requests refused so far.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }
}

/// Bytes of a pool; given back when dropped.
pub struct BytePermit {
    pool: Option<BytePool>,
    bytes: u64,
}

impl BytePermit {
    /// For what the broker asks of itself: bounded by its cause.
    pub fn internal() -> Self {
        Self { pool: None, bytes: 0 }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let back = self.bytes.saturating_sub(bytes);
        self.bytes -= back;
        self.give_back(back);
    }

    /// Joins another permit of the same pool to this one.
    pub fn merge(&mut self, mut other: BytePermit) {
        self.bytes += std::mem::take(&mut other.bytes);
        if self.pool.is_none() {
            self.pool = other.pool.take();
        }
    }

    fn give_back(&self, bytes: u64) {
        if let Some(pool) = &self.pool
            && bytes > 0
        {
            pool.0.taken.fetch_sub(bytes, Ordering::AcqRel);
            pool.0.freed.notify_waiters();
        }
    }
}

impl Drop for BytePermit {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

impl std::fmt::Debug for BytePermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BytePermit({})", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back() {
        let pool = BytePool::new("test", 10_000);
        let mut a = pool.take(6_000).unwrap();
        let refused = pool.take(6_000).unwrap_err();
        assert_eq!((refused.taken, pool.refused()), (6_000, 1));
        a.shrink(2_000);
        let b = pool.take(6_000).unwrap();
        a.merge(b);
        assert_eq!((a.bytes(), pool.taken()), (8_000, 8_000));
        drop(a);
        assert_eq!(pool.taken(), 0);
        assert_eq!(pool.take(1).unwrap().bytes(), u64::from(limits::REQUEST_BYTES_MIN));
    }

    #[tokio::test]
    async fn who_waits_is_let_in() {
        let pool = BytePool::new("test", 10_000);
        let held = pool.take(9_000).unwrap();
        let waiting = pool.wait(1 << 40);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        drop(held);
        assert_eq!(waiting.await.bytes(), 10_000);
    }
}
