//! The newest batches of a partition in memory, readable from any thread without a lock.
//!
//! ```text
//!  chunks: [ c0 (first 100) | c1 (first 412) | c2 (first 790, filling) ]   an ArcSwap of a short list
//!            256 slots each, a slot is set once; readers search by offset and never pass their watermark
//! ```
//! One writer (the partition's actor). Whole chunks are dropped from the front when the tail holds more than its bytes.
//!
//! **Invariant:** slots hold consecutive offsets: `slot[i].offset_end == slot[i+1].base_offset`, over chunks too.

use super::handle::Served;
use arc_swap::ArcSwap;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

const SLOTS: usize = 256;

/// The tail of one partition.
pub struct TailLog {
    chunks: ArcSwap<Vec<Arc<Chunk>>>,
    bytes: AtomicU64,
    bytes_max: u64,
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
            bytes: AtomicU64::new(0),
        }
    }

    fn filled(&self) -> impl Iterator<Item = &Served> {
        self.slots[..self.filled.load(Ordering::Acquire)].iter().filter_map(OnceLock::get)
    }

    /// The slot whose batch contains `offset` or begins behind it.
    fn position(&self, offset: u64) -> usize {
        let filled = self.filled.load(Ordering::Acquire);
        self.slots[..filled].partition_point(|slot| slot.get().is_some_and(|served| served.offset_end <= offset))
    }
}

impl TailLog {
    /// A tail of about `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self { chunks: ArcSwap::default(), bytes: AtomicU64::new(0), bytes_max }
    }

    /// Appends a batch. What does not follow the last one starts the tail anew.
    pub(super) fn push(&self, served: Served) {
        let len = u64::try_from(served.bytes_len()).expect("a batch is bounded");
        let chunks = self.chunks.load();
        let last = chunks
            .last()
            .filter(|chunk| chunk.filled().last().is_none_or(|before| before.offset_end == served.base_offset));
        let (chunk, list) = match last {
            Some(chunk) if chunk.filled.load(Ordering::Relaxed) < SLOTS => (chunk.clone(), None),
            follows => {
                let chunk = Arc::new(Chunk::new(served.base_offset));
                let kept = if follows.is_some() { chunks.to_vec() } else { self.forget(&chunks) };
                (chunk.clone(), Some(kept.into_iter().chain([chunk]).collect::<Vec<_>>()))
            }
        };
        let slot = chunk.filled.load(Ordering::Relaxed);
        assert!(chunk.slots[slot].set(served).is_ok(), "one writer fills each slot once");
        chunk.filled.store(slot + 1, Ordering::Release);
        chunk.bytes.fetch_add(len, Ordering::Relaxed);
        let total = self.bytes.fetch_add(len, Ordering::Relaxed) + len;
        if list.is_some() || (total > self.bytes_max && chunks.len() > 1) {
            self.evict(list.unwrap_or_else(|| chunks.to_vec()), total);
        }
    }

    fn forget(&self, chunks: &[Arc<Chunk>]) -> Vec<Arc<Chunk>> {
        let gone: u64 = chunks.iter().map(|chunk| chunk.bytes.load(Ordering::Relaxed)).sum();
        self.bytes.fetch_sub(gone, Ordering::Relaxed);
        Vec::new()
    }

    fn evict(&self, mut list: Vec<Arc<Chunk>>, mut total: u64) {
        let mut gone = 0;
        while total > self.bytes_max && gone + 1 < list.len() {
            let bytes = list[gone].bytes.load(Ordering::Relaxed);
            total -= bytes;
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            gone += 1;
        }
        list.drain(..gone);
        self.chunks.store(Arc::new(list));
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.chunks.store(Arc::default());
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// Batches from the one that contains `offset` on, below `end`: at least one, then as fit into `bytes_max`.
    /// `None` when the tail does not reach back to `offset`.
    pub fn read(&self, offset: u64, end: u64, bytes_max: usize) -> Option<Vec<Served>> {
        let chunks = self.chunks.load();
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

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

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
        let tail = TailLog::new(1 << 20);
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
    fn bytes_are_bounded_by_dropping_the_front() {
        let tail = TailLog::new(100_000);
        for n in 0..10_000 {
            tail.push(batch(n, 1, 100));
            assert!(tail.bytes() <= 100_000 + 256 * 100);
        }
        assert!(tail.read(0, 10_000, 1).is_none());
        assert!(tail.read(9_500, 10_000, 1).is_some());
    }

    #[test]
    fn a_gap_starts_the_tail_anew() {
        let tail = TailLog::new(1 << 20);
        tail.push(batch(0, 5, 100));
        tail.push(batch(7, 5, 100));
        assert!(tail.read(0, 12, 1).is_none());
        assert_eq!((tail.read(7, 12, 1).unwrap()[0].base_offset, tail.bytes()), (7, 100));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "real threads, to race the writer")]
    fn readers_on_other_threads_see_consecutive_batches() {
        let tail = Arc::new(TailLog::new(64 << 10));
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
