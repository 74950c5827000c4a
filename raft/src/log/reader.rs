//! Cold reads: on threads of their own, so that whoever asks never waits for a disk with its own thread.

use super::{
    Entry, LogId,
    core::{Common, Running, closed, damaged},
    entry::{EntryHead, HEAD},
    state::{Place, Shared},
};
use crate::env::LocalFuture;
use futures_util::future::BoxFuture;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::sync::{mpsc, oneshot};

/// Threads per data directory.
const READERS: usize = 2;
/// Bytes of one read from a WAL file at most, but for a larger entry.
const RUN_BYTES: u64 = 1 << 20;

type Work = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// The pool. Ends when dropped.
pub(super) struct Readers {
    threads: Vec<mpsc::UnboundedSender<Work>>,
    next: AtomicUsize,
}

impl Readers {
    pub(super) fn start(common: &Arc<Common>) -> io::Result<Self> {
        let mut threads = Vec::new();
        for i in 0..READERS {
            let (tx, mut rx) = mpsc::unbounded_channel::<Work>();
            let running = Running(common.clone());
            common.env.spawn_thread(&format!("log-reader-{i}"), move || -> LocalFuture {
                Box::pin(async move {
                    let _running = running;
                    while let Some(work) = rx.recv().await {
                        work().await;
                    }
                })
            })?;
            threads.push(tx);
        }
        Ok(Self { threads, next: AtomicUsize::new(0) })
    }

    /// Runs `work` on a reader's thread.
    pub(super) async fn run<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> io::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        let thread = self.next.fetch_add(1, Relaxed) % self.threads.len();
        let work: Work = Box::new(move || Box::pin(async move { drop(tx.send(work().await)) }));
        self.threads[thread].send(work).map_err(|_| closed())?;
        rx.await.map_err(|_| closed())
    }
}

/// An entry in a WAL file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cold {
    pub(super) head: EntryHead,
    pub(super) file: u64,
    pub(super) position: u64,
}

/// Neighbours in one file that one read fetches.
fn run(colds: &[Cold]) -> (usize, u64) {
    let first = colds[0];
    let (mut count, mut end) = (1, first.position + first.head.size());
    for cold in &colds[1..] {
        let next_end = cold.position + cold.head.size();
        let near = cold.file == first.file && cold.position >= end && next_end - first.position <= RUN_BYTES;
        if !near {
            break;
        }
        (count, end) = (count + 1, next_end);
    }
    (count, end - first.position)
}

/// Reads entries from WAL files. `NotFound`: a file was recycled meanwhile (look up the place again).
pub(super) async fn read_wal(common: &Common, shared: &Shared, colds: &[Cold]) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(colds.len());
    let mut rest = colds;
    while let Some(first) = rest.first().copied() {
        let (count, len) = run(rest);
        let file = common.files.file(first.file).ok_or_else(|| moved_or_damaged(shared, &first, "is gone with it"))?;
        let bytes = file.read_at(first.position, usize::try_from(len).map_err(io::Error::other)?).await?;
        for cold in &rest[..count] {
            let at = usize::try_from(cold.position - first.position).map_err(io::Error::other)?;
            let end = at + HEAD + cold.head.len as usize;
            let head = bytes.get(at..).and_then(|b| EntryHead::parse(b, shared.owner));
            let entry = match head {
                Some(head) if head == cold.head && end <= bytes.len() => head.entry(bytes.slice(at + HEAD..end).into()),
                _ => None,
            };
            entries.push(entry.ok_or_else(|| moved_or_damaged(shared, cold, "does not verify"))?);
        }
        rest = &rest[count..];
    }
    Ok(entries)
}

/// An entry that does not verify, or is gone with its file: either that was recycled since the place was looked up, or the entry is
/// lost. So whoever is told to look again finds another place: nobody tries one for ever.
fn moved_or_damaged(shared: &Shared, cold: &Cold, what: &str) -> io::Error {
    let LogId { term, index } = cold.head.id;
    let state = shared.state();
    let place = Place::Wal { file: cold.file, position: cold.position };
    let still = state.slot(index).is_some_and(|slot| slot.head == cold.head && slot.place == place);
    // No file is kept for a replica that was removed.
    if still && !state.gone {
        damaged(format!("entry {term}.{index} of group {} in WAL file {:016x} {what}", shared.owner.group, cold.file))
    } else {
        io::ErrorKind::NotFound.into()
    }
}
