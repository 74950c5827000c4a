//! One data directory: its WAL thread, its retirer, its readers, and the groups in it.

use super::{
    CreateError, Group, OpenError,
    core::{Body, Core, Job, waiter},
    entry::Owner,
    open,
    record::Record,
    replay::{DAMAGED, LIFE},
    state::{Shared, State},
};
use crate::{DirectoryId, GroupId, ReplicaId, disk::Disk, env::Env};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::oneshot;

/// Sizes and times of a data directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of one WAL file; a larger frame makes its file larger.
    pub wal_file_bytes: u64,
    /// Full WAL files that may wait for the retirer before flushes are slowed.
    pub wal_files_max: usize,
    /// Payload bytes after which the apply loop puts a segment boundary.
    pub segment_bytes: u64,
    /// Payload bytes kept in memory, all groups together.
    pub cache_bytes: usize,
    /// Idle time after which the last flush is sealed.
    pub seal_after: Duration,
    /// Below this many free bytes the directory is low.
    pub free_bytes_min: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            wal_file_bytes: 64 << 20,
            wal_files_max: 4,
            segment_bytes: 128 << 20,
            cache_bytes: 256 << 20,
            seal_after: Duration::from_millis(50),
            free_bytes_min: 1 << 30,
        }
    }
}

/// Whether a group may be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All that was acknowledged is there.
    Good,
    /// Something acknowledged is damaged: no vote, no entries; why.
    Faulty(String),
}

/// Figures of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// WAL files with live records.
    pub wal_files: usize,
    /// Bytes in them.
    pub wal_bytes: u64,
    /// Flushes since the directory was made.
    pub sync_seq: u64,
    /// How long the flush in progress has taken so far, milliseconds; 0 when there is none.
    pub flush_age_ms: u64,
    /// 99th percentile of the last flushes, microseconds.
    pub flush_p99_us: u64,
    /// Free bytes at the last look.
    pub free_bytes: u64,
    /// Flushes that were slowed because the retirer was behind.
    pub stalls: u64,
    /// Payload bytes in memory.
    pub cached_bytes: usize,
}

/// A data directory. Clones share; its threads end when the last clone and the last [`Group`] are dropped.
#[derive(Clone)]
pub struct Directory {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) core: Arc<Core>,
    pub(super) faulty: Mutex<BTreeMap<GroupId, (ReplicaId, String)>>,
    pub(super) notes: Mutex<BTreeMap<String, Bytes>>,
    /// One creation or removal of a group at a time; those of others go on beside it and share its flushes.
    pub(super) changes: Changes,
}

/// Groups have these in common, by their numbers.
pub(super) type Changes = [tokio::sync::Mutex<()>; 64];

impl Inner {
    async fn change(&self, group: GroupId) -> tokio::sync::MutexGuard<'_, ()> {
        let at = group.0 % self.changes.len() as u64;
        self.changes[usize::try_from(at).unwrap_or(0)].lock().await
    }
}

impl Directory {
    /// Recovers. Damaged groups come back faulty; a damaged directory of a frame makes all faulty.
    pub async fn open(disk: Arc<dyn Disk>, options: Options, env: Env) -> Result<Directory, OpenError> {
        let inner = Arc::new(open::open(disk, options, env).await?);
        Ok(Directory { inner })
    }

    /// Random at first start, stored; another one since the directory as a whole was found damaged.
    pub fn id(&self) -> DirectoryId {
        let since = self.noted(LIFE).and_then(|bytes| Some(u64::from_be_bytes(bytes[..].try_into().ok()?)));
        since.map_or(self.inner.core.common.id, DirectoryId)
    }

    /// All groups, ascending.
    pub fn groups(&self) -> Vec<(GroupId, ReplicaId, Health)> {
        let mut all: BTreeMap<GroupId, (ReplicaId, Health)> = BTreeMap::new();
        for (group, shared) in self.inner.core.common.groups().iter() {
            all.insert(*group, (shared.owner.replica, Health::Good));
        }
        for (group, (replica, why)) in self.faulty().iter() {
            all.insert(*group, (*replica, Health::Faulty(why.clone())));
        }
        all.into_iter().map(|(group, (replica, health))| (group, replica, health)).collect()
    }

    /// Makes a group; durable on return. Gives the one that is there when it is this replica. Data of a faulty or
    /// removed predecessor is dropped.
    pub async fn create(&self, group: GroupId, replica: ReplicaId) -> Result<Group, CreateError> {
        let _one = self.inner.change(group).await;
        if let Some(known) = self.group(group) {
            let existing = known.replica();
            return if existing == replica {
                Ok(known)
            } else {
                Err(CreateError::Exists { group, existing, wanted: replica })
            };
        }
        let predecessor = self.faulty().get(&group).map(|(replica, _)| *replica);
        if predecessor == Some(replica) {
            return Err(CreateError::Dead { group, replica });
        }
        self.inner.core.write(Some(group), Record::Create(replica)).await?;
        self.faulty().remove(&group);
        if let Some(replica) = predecessor {
            self.job(Job::Forgotten(Owner { group, replica }));
        }
        let shared = Shared::new(Owner { group, replica }, State::empty());
        self.inner.core.common.groups().insert(group, shared.clone());
        Ok(Group::new(shared, self.inner.core.clone()))
    }

    /// A good group.
    pub fn group(&self, group: GroupId) -> Option<Group> {
        let shared = self.inner.core.common.groups().get(&group).cloned()?;
        Some(Group::new(shared, self.inner.core.clone()))
    }

    /// Forgets a group, durably, then deletes its files.
    pub async fn remove(&self, group: GroupId) -> io::Result<()> {
        let _one = self.inner.change(group).await;
        let living = self.inner.core.common.groups().get(&group).cloned();
        let faulty = self.faulty().get(&group).map(|(replica, _)| *replica);
        let Some(replica) = living.as_ref().map(|shared| shared.owner.replica).or(faulty) else { return Ok(()) };
        if let Some(shared) = living {
            shared.state().gone = true;
        }
        self.inner.core.write(Some(group), Record::Remove).await?;
        self.inner.core.common.groups().remove(&group);
        self.faulty().remove(&group);
        self.job(Job::Forgotten(Owner { group, replica }));
        Ok(())
    }

    /// Stores a small fact of the node.
    pub async fn note(&self, key: &str, value: Bytes) -> io::Result<()> {
        self.inner.core.write(None, Record::Note { key: key.into(), value: value.clone() }).await?;
        self.notes().insert(key.into(), value);
        Ok(())
    }

    /// A stored fact.
    pub fn noted(&self, key: &str) -> Option<Bytes> {
        self.notes().get(key).cloned()
    }

    /// Why groups may be missing from [`Directory::groups`]: the write-ahead log as a whole was damaged, in this life or
    /// an earlier one. All replica ids given out for this directory before that are dead.
    pub fn damaged(&self) -> Option<String> {
        self.noted(DAMAGED).map(|why| String::from_utf8_lossy(&why).into_owned())
    }

    /// Resolves when a storage error has stopped the directory.
    pub async fn failed(&self) -> io::Error {
        self.inner.core.common.failed().await
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        self.inner.core.common.gauges.stats(&self.inner.core.common.files)
    }

    /// Looks at the free space now; flushes do so too.
    pub fn measure(&self) {
        self.inner.core.common.measure();
    }

    /// Tells `see` how long each flush took, `fdatasync` included; called once, on the WAL thread's time.
    pub fn observe_flushes(&self, see: impl Fn(Duration) + Send + Sync + 'static) {
        assert!(self.inner.core.common.gauges.observer.set(Box::new(see)).is_ok(), "flushes have one observer");
    }

    /// Whether free space is below the low-water mark. One atomic: asked for every produce.
    pub fn is_low(&self) -> bool {
        self.inner.core.common.gauges.is_low(self.inner.core.common.options.free_bytes_min)
    }

    /// Flushes, seals, stops the WAL thread; waits for the retirer. Gives the storage error that stopped it, before or now.
    pub async fn close(&self) -> Option<io::Error> {
        // An end that fails drops its answer; who asks once more is answered when the failure is known.
        for _ in 0..2 {
            let (done, wait) = waiter();
            self.inner.core.submit(Body::Close, done);
            if wait.await.is_ok() {
                break;
            }
        }
        let (tx, rx) = oneshot::channel();
        self.job(Job::Barrier(tx));
        let _ = rx.await;
        self.inner.core.common.failure()
    }

    fn job(&self, job: Job) {
        let _ = self.inner.core.jobs.send(job);
    }

    fn faulty(&self) -> std::sync::MutexGuard<'_, BTreeMap<GroupId, (ReplicaId, String)>> {
        self.inner.faulty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.inner.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
