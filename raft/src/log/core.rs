//! What handles, WAL thread, retirer and readers of one data directory share.

use super::{
    Done, LogId, Options, Stats,
    entry::Owner,
    reader::Readers,
    record::Record,
    state::Shared,
    walfiles::{LiveFiles, Spares},
};
use crate::{DirectoryId, GroupId, disk::Disk, env::Env};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

/// Held by handles. When the last is dropped, the threads end.
pub(super) struct Core {
    pub(super) common: Arc<Common>,
    /// Unbounded: the bytes in it are held by the permits of whoever proposes.
    pub(super) ops: mpsc::UnboundedSender<Op>,
    pub(super) readers: Readers,
    pub(super) jobs: mpsc::UnboundedSender<Job>,
}

/// Held by handles and threads; holds no sender, so that threads can end.
pub(super) struct Common {
    pub(super) id: DirectoryId,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: Options,
    pub(super) env: Env,
    pub(super) files: LiveFiles,
    pub(super) spares: Spares,
    pub(super) gauges: Gauges,
    groups: Mutex<BTreeMap<GroupId, Arc<Shared>>>,
    failure: watch::Sender<Option<Arc<io::Error>>>,
}

/// What is put into the WAL's queue.
pub(super) struct Op {
    pub(super) body: Body,
    pub(super) done: Done,
}

pub(super) enum Body {
    Append(Append),
    /// About `group`, or the directory.
    Record(Option<GroupId>, Record),
    Close,
    Fail(io::Error),
}

/// Entries, encoded.
pub(super) struct Append {
    pub(super) shared: Arc<Shared>,
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) epoch: u32,
    /// They come from this retiring file.
    pub(super) carried_from: Option<u64>,
    pub(super) parts: Vec<Bytes>,
    pub(super) len: u64,
    /// Where in the record each entry starts.
    pub(super) at: Vec<u64>,
}

/// Work of the retirer.
pub(super) enum Job {
    /// Full WAL files up to and with this one are to go.
    Retire(u64),
    /// The checkpoint up to here was installed, durably; a later one may be on its way.
    Installed(Arc<Shared>, LogId),
    /// Raft's start is here, durably: segments below it and the log start may go.
    Purged(Arc<Shared>, LogId),
    /// A group was removed or replaced, durably.
    Forgotten(Owner),
    /// Keep a zero-filled file ready.
    Spare,
    /// All before it is done.
    Barrier(oneshot::Sender<()>),
}

impl Common {
    pub(super) fn new(id: DirectoryId, disk: Arc<dyn Disk>, options: Options, env: Env) -> Self {
        Self {
            id,
            disk,
            options,
            env,
            files: LiveFiles::default(),
            spares: Spares::default(),
            gauges: Gauges::new(),
            groups: Mutex::default(),
            failure: watch::Sender::new(None),
        }
    }

    pub(super) fn groups(&self) -> MutexGuard<'_, BTreeMap<GroupId, Arc<Shared>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A storage error is final. The first one stays.
    pub(super) fn fail(&self, error: &io::Error) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                tracing::error!(directory = %self.id, %error, "storage failed: the directory stops");
                *failure = Some(Arc::new(again(error)));
            }
            first
        });
    }

    pub(super) fn failure(&self) -> Option<io::Error> {
        self.failure.borrow().as_deref().map(again)
    }

    pub(super) async fn failed(&self) -> io::Error {
        let mut watch = self.failure.subscribe();
        match watch.wait_for(Option::is_some).await {
            Ok(failure) => failure.as_deref().map_or_else(closed, again),
            Err(_) => closed(),
        }
    }

    /// Looks at the free space.
    pub(super) fn measure(&self) {
        if let Ok(free) = self.disk.free_bytes() {
            self.gauges.free_bytes.store(free, Relaxed);
        }
    }
}

impl Core {
    /// Queues an operation. After the end of the WAL thread `done` gets an error, at once: so no lock may be held.
    pub(super) fn submit(&self, body: Body, done: Done) {
        if let Err(refused) = self.queue(body, done) {
            refused.answer();
        }
    }

    /// Queues an operation, or gives it back to be answered outside of locks.
    pub(super) fn queue(&self, body: Body, done: Done) -> Result<(), Refused> {
        self.ops.send(Op { body, done }).map_err(|mpsc::error::SendError(op)| Refused {
            done: op.done,
            error: self.common.failure().unwrap_or_else(closed),
        })
    }

    /// Queues a record and waits until it is durable.
    pub(super) async fn write(&self, group: Option<GroupId>, record: Record) -> io::Result<()> {
        let (done, wait) = waiter();
        self.submit(Body::Record(group, record), done);
        wait.await.unwrap_or_else(|_| Err(closed()))
    }
}

/// An operation that came too late.
pub(super) struct Refused {
    done: Done,
    error: io::Error,
}

impl Refused {
    pub(super) fn answer(self) {
        (self.done)(Err(self.error));
    }
}

/// Held by each thread of the log: one that panics fails the directory, for its part of the work is done by nobody else.
pub(super) struct Running(pub(super) Arc<Common>);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(&io::Error::other("a thread of the log has panicked"));
        }
    }
}

/// A `Done` that answers a channel.
pub(super) fn waiter() -> (Done, oneshot::Receiver<io::Result<()>>) {
    let (tx, rx) = oneshot::channel();
    (Box::new(move |result| drop(tx.send(result))), rx)
}

/// The same error once more.
pub(super) fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

pub(super) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed")
}

pub(super) fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Figures, written by the WAL thread.
pub(super) struct Gauges {
    base: Instant,
    pub(super) sync_seq: AtomicU64,
    /// Microseconds since `base`, plus one; 0: no flush in progress.
    flush_began: AtomicU64,
    pub(super) free_bytes: AtomicU64,
    pub(super) stalls: AtomicU64,
    pub(super) cached_bytes: AtomicU64,
    /// Who is told of each flush.
    pub(super) observer: OnceLock<Box<dyn Fn(Duration) + Send + Sync>>,
    times: Mutex<Times>,
}

/// The last flushes, microseconds.
#[derive(Default)]
struct Times {
    ring: Vec<u64>,
    next: usize,
}

const TIMES: usize = 1024;

impl Gauges {
    fn new() -> Self {
        Self {
            base: Instant::now(),
            sync_seq: AtomicU64::new(0),
            flush_began: AtomicU64::new(0),
            free_bytes: AtomicU64::new(u64::MAX),
            stalls: AtomicU64::new(0),
            cached_bytes: AtomicU64::new(0),
            observer: OnceLock::new(),
            times: Mutex::default(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_micros()).unwrap_or(u64::MAX - 1)
    }

    pub(super) fn flush_begins(&self) {
        self.flush_began.store(self.now() + 1, Relaxed);
    }

    pub(super) fn flush_ended(&self, sync_seq: u64) {
        let took = (self.now() + 1).saturating_sub(self.flush_began.swap(0, Relaxed));
        self.sync_seq.store(sync_seq, Relaxed);
        if let Some(observer) = self.observer.get() {
            observer(Duration::from_micros(took));
        }
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if times.ring.len() < TIMES {
            times.ring.push(took);
        } else {
            let at = times.next;
            times.ring[at] = took;
        }
        times.next = (times.next + 1) % TIMES;
    }

    pub(super) fn is_low(&self, free_bytes_min: u64) -> bool {
        self.free_bytes.load(Relaxed) < free_bytes_min
    }

    fn p99(&self) -> u64 {
        let mut sorted = self.times.lock().unwrap_or_else(PoisonError::into_inner).ring.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len() * 99) / 100).or(sorted.last()).copied().unwrap_or(0)
    }

    pub(super) fn stats(&self, files: &LiveFiles) -> Stats {
        let (wal_files, wal_bytes) = files.totals();
        let began = self.flush_began.load(Relaxed);
        Stats {
            wal_files,
            wal_bytes,
            sync_seq: self.sync_seq.load(Relaxed),
            flush_age_ms: if began == 0 { 0 } else { (self.now() + 1).saturating_sub(began) / 1000 },
            flush_p99_us: self.p99(),
            free_bytes: self.free_bytes.load(Relaxed),
            stalls: self.stalls.load(Relaxed),
            cached_bytes: usize::try_from(self.cached_bytes.load(Relaxed)).unwrap_or(usize::MAX),
        }
    }
}
