//! The newest batches of a partition in memory, readable from any thread without a lock.
//!
//! ```text
//!  chunks: [ c0 (first 100) | c1 (first 412) | c2 (first 790, filling) ]   an ArcSwap of a short list
//!            up to 256 slots each, a slot is set once; readers search by offset and never pass their watermark
//! ```
//! All tails of a node share one [`TailBudget`]: above it the oldest chunk of the node goes, whosever it is. So memory is
//! divided by use, and a thousand quiet partitions hold no more than what was written last.
//!
//! **Invariants**
//! - Slots hold consecutive offsets: `slot[i].offset_end == slot[i+1].base_offset`, over chunks too.
//! - One writer at a time (the partition's actor appends, whoever is over the budget drops), under a lock that readers do
//!   not take. The budget's lock is never taken while a tail's is held.
//! - The tails of a node together hold the budget and one batch at most.

use super::handle::Served;
use arc_swap::ArcSwap;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

const SLOTS: usize = 256;
/// A chunk takes no more batches then: what goes at once is small, also where batches are large.
const CHUNK_BYTES: u64 = 256 << 10;
/// What an empty chunk takes.
const CHUNK_BYTES_MIN: u64 = (SLOTS * size_of::<OnceLock<Served>>()) as u64;

/// Bytes that all tails of a node share. Clones share.
#[derive(Clone)]
pub struct TailBudget(Arc<Budget>);

struct Budget {
    limit: u64,
    used: AtomicU64,
    /// All chunks, oldest first; those that are gone already are passed over.
    order: Mutex<VecDeque<(Weak<Tail>, Weak<Chunk>)>>,
}

impl TailBudget {
    /// For tails of `limit` bytes together.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Budget { limit, used: AtomicU64::new(0), order: Mutex::default() }))
    }

    /// Bytes held now.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Its size in bytes.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    fn order(&self) -> MutexGuard<'_, VecDeque<(Weak<Tail>, Weak<Chunk>)>> {
        self.0.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, tail: &Arc<Tail>, chunk: &Arc<Chunk>) {
        let mut order = self.order();
        while order.front().is_some_and(|(_, chunk)| chunk.strong_count() == 0) {
            order.pop_front();
        }
        order.push_back((Arc::downgrade(tail), Arc::downgrade(chunk)));
    }

    /// Drops the oldest chunks of the node until the rest is within the limit.
    fn shrink(&self) {
        while self.used() > self.0.limit {
            let Some((tail, chunk)) = self.order().pop_front() else { return };
            if let (Some(tail), Some(chunk)) = (tail.upgrade(), chunk.upgrade()) {
                tail.drop_up_to(&chunk);
            }
        }
    }
}

/// The tail of one partition.
pub struct TailLog(Arc<Tail>);

struct Tail {
    chunks: ArcSwap<Vec<Arc<Chunk>>>,
    writing: Mutex<()>,
    budget: TailBudget,
}

struct Chunk {
    first: u64,
    slots: Vec<OnceLock<Served>>,
    filled: AtomicUsize,
    bytes: AtomicU64,
}

impl Chunk {
    fn new(first: u64) -> Self {
        Self {
            first,
            slots: (0..SLOTS).map(|_| OnceLock::new()).collect(),
            filled: AtomicUsize::new(0),
            bytes: AtomicU64::new(CHUNK_BYTES_MIN),
        }
    }

    fn has_room(&self) -> bool {
        self.filled.load(Ordering::Relaxed) < SLOTS
            && self.bytes.load(Ordering::Relaxed) < CHUNK_BYTES + CHUNK_BYTES_MIN
    }

    fn filled(&self) -> impl DoubleEndedIterator<Item = &Served> {
        self.slots[..self.filled.load(Ordering::Acquire)].iter().filter_map(OnceLock::get)
    }

    /// The slot whose batch contains `offset` or begins behind it.
    fn position(&self, offset: u64) -> usize {
        let filled = self.filled.load(Ordering::Acquire);
        self.slots[..filled].partition_point(|slot| slot.get().is_some_and(|served| served.offset_end <= offset))
    }
}

impl Tail {
    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends; gives the chunk that was begun for it, if one was.
    fn append(&self, served: Served) -> Option<Arc<Chunk>> {
        let len = u64::try_from(served.bytes_len()).expect("a batch is bounded");
        let _writing = self.writing();
        let chunks = self.chunks.load();
        let last = chunks.last().and_then(|chunk| Some((chunk, chunk.filled().next_back()?.offset_end)));
        let follows = last.filter(|(_, end)| *end == served.base_offset).map(|(chunk, _)| chunk);
        let (chunk, begun) = match follows.filter(|chunk| chunk.has_room()) {
            Some(chunk) => (chunk.clone(), false),
            None => (Arc::new(Chunk::new(served.base_offset)), true),
        };
        let slot = chunk.filled.load(Ordering::Relaxed);
        assert!(chunk.slots[slot].set(served).is_ok(), "one writer at a time fills each slot once");
        chunk.filled.store(slot + 1, Ordering::Release);
        chunk.bytes.fetch_add(len, Ordering::Relaxed);
        self.budget.0.used.fetch_add(if begun { len + CHUNK_BYTES_MIN } else { len }, Ordering::Relaxed);
        if !begun {
            return None;
        }
        let kept = if follows.is_some() { &chunks[..] } else { self.gone(&chunks) };
        self.chunks.store(Arc::new(kept.iter().chain([&chunk]).cloned().collect()));
        Some(chunk)
    }

    /// Gives the budget back what these held.
    fn gone<'a>(&self, chunks: &'a [Arc<Chunk>]) -> &'a [Arc<Chunk>] {
        let bytes = chunks.iter().map(|chunk| chunk.bytes.load(Ordering::Relaxed)).sum();
        self.budget.0.used.fetch_sub(bytes, Ordering::Relaxed);
        &[]
    }

    /// Drops a chunk with all that are older; nothing when it is gone already.
    fn drop_up_to(&self, chunk: &Arc<Chunk>) {
        let _writing = self.writing();
        let chunks = self.chunks.load();
        if let Some(at) = chunks.iter().position(|known| Arc::ptr_eq(known, chunk)) {
            self.gone(&chunks[..=at]);
            self.chunks.store(Arc::new(chunks[at + 1..].to_vec()));
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.gone(&self.chunks.load());
    }
}

impl TailLog {
    /// An empty tail that shares this budget.
    pub fn new(budget: TailBudget) -> Self {
        Self(Arc::new(Tail { chunks: ArcSwap::default(), writing: Mutex::new(()), budget }))
    }

    /// Appends a batch. What does not follow the last one starts the tail anew.
    pub(super) fn push(&self, served: Served) {
        let budget = &self.0.budget;
        if let Some(chunk) = self.0.append(served) {
            budget.remember(&self.0, &chunk);
        }
        budget.shrink();
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let _writing = self.0.writing();
        self.0.gone(&self.0.chunks.swap(Arc::default()));
    }

    /// Batches from the one that contains `offset` on, below `end`: at least one, then as fit into `bytes_max`.
    /// `None` when the tail does not reach back to `offset`.
    pub fn read(&self, offset: u64, end: u64, bytes_max: usize) -> Option<Vec<Served>> {
        let chunks = self.0.chunks.load();
        let at = chunks.partition_point(|chunk| chunk.first <= offset).checked_sub(1)?;
        let mut out = Vec::new();
        let mut bytes = 0;
        let first = chunks[at].position(offset);
        for (n, chunk) in chunks[at..].iter().enumerate() {
            for served in chunk.filled().skip(if n == 0 { first } else { 0 }) {
                let len = served.bytes_len();
                if served.offset_end > end || (!out.is_empty() && bytes + len > bytes_max) {
                    return (!out.is_empty()).then_some(out);
                }
                bytes += len;
                out.push(served.clone());
            }
        }
        (!out.is_empty()).then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn tail(limit: u64) -> (TailLog, TailBudget) {
        let budget = TailBudget::new(limit);
        (TailLog::new(budget.clone()), budget)
    }

    fn batch(base_offset: u64, records: u64, len: usize) -> Served {
        Served {
            base_offset,
            offset_end: base_offset + records,
            max_timestamp: 0,
            prefix: Bytes::from_static(&[0; 16]),
            rest: vec![0; len - 16].into(),
        }
    }

    #[test]
    fn reads_begin_in_the_batch_that_contains_the_offset_and_stop_at_the_watermark() {
        let (tail, _) = tail(1 << 20);
        for n in 0..1000 {
            tail.push(batch(n * 3, 3, 100));
        }
        let read = tail.read(1000, 1500, 10_000).unwrap();
        assert_eq!((read[0].base_offset, read.len()), (999, 100));
        assert_eq!(tail.read(1000, 1500, 1).unwrap().len(), 1);
        assert_eq!(tail.read(1000, 1500, usize::MAX).unwrap().last().unwrap().offset_end, 1500);
        assert_eq!(tail.read(2999, 3000, 1).unwrap()[0].base_offset, 2997);
        assert!(tail.read(3000, 3000, 1).is_none());
    }

    #[test]
    fn the_oldest_of_all_partitions_goes_and_batches_of_any_size_are_bounded() {
        for len in [20, 100, 16 << 10, 1 << 20] {
            let budget = TailBudget::new(4 << 20);
            let (quiet, busy) = (TailLog::new(budget.clone()), TailLog::new(budget.clone()));
            quiet.push(batch(0, 1, len));
            assert!(quiet.read(0, 1, 1).is_some());
            for n in 0..(16 << 20) / len as u64 {
                busy.push(batch(n, 1, len));
                assert!(budget.used() <= 4 << 20, "{} with batches of {len}", budget.used());
            }
            let end = (16 << 20) / len as u64;
            assert!(quiet.read(0, 1, 1).is_none() && busy.read(0, end, 1).is_none(), "{len}");
            assert!(busy.read(end - 2, end, 1).is_some(), "{len}");
            // A quiet one that comes back takes its part.
            quiet.push(batch(1, 1, len));
            assert!(quiet.read(1, 2, 1).is_some());
            assert!(budget.used() > 2 << 20);
            drop((quiet, busy));
            assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn a_gap_starts_the_tail_anew() {
        let (tail, budget) = tail(1 << 20);
        tail.push(batch(0, 5, 100));
        tail.push(batch(7, 5, 100));
        assert!(tail.read(0, 12, 1).is_none());
        assert_eq!((tail.read(7, 12, 1).unwrap()[0].base_offset, budget.used()), (7, 100 + CHUNK_BYTES_MIN));
        tail.clear();
        assert_eq!((tail.read(7, 12, 1), budget.used()), (None, 0));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "real threads, to race the writer")]
    fn readers_on_other_threads_see_consecutive_batches() {
        let tail = Arc::new(tail(128 << 10).0);
        let end = Arc::new(AtomicU64::new(0));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (tail, end) = (tail.clone(), end.clone());
                std::thread::spawn(move || {
                    let mut at = 0;
                    while at < 20_000 {
                        let mark = end.load(Ordering::Acquire);
                        match tail.read(at, mark, 4_000) {
                            Some(read) => {
                                assert!(read.windows(2).all(|w| w[0].offset_end == w[1].base_offset));
                                at = read.last().unwrap().offset_end;
                            }
                            None => {
                                at = at.max(mark.saturating_sub(50));
                                std::thread::yield_now();
                            }
                        }
                    }
                })
            })
            .collect();
        for n in 0..20_000 {
            tail.push(batch(n, 1, 100));
            end.store(n + 1, Ordering::Release);
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    }
}
