//! A disk in memory that loses what was not synced.
//!
//! Each file has what programs read (`current`) and what survives a loss of power (`synced`, and of each write since
//! then some sectors, none or all: by the seed). Names survive once their folder was synced; of the name changes since
//! then a prefix survives. A folder is a name in the folder above: where that is lost, all in it is gone, synced or not.
//! A failed sync behaves as Linux does: the pages are clean afterwards and never get written.
//! After [`SimDisk::crash`] nothing of that life completes any more.

mod names;
#[cfg(test)]
mod tests;

pub use names::{NameChange, Names};

use crate::{
    disk::{Disk, File},
    env::Env,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use names::{folder, is_below, upwards};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// What a device writes or does not write as a whole.
const SECTOR: usize = 512;

/// How large and how slow.
#[derive(Clone, Debug)]
pub struct SimLimits {
    /// Size of the disk.
    pub bytes: u64,
    /// Longest usual time of a sync; one in 64 takes ten times as long.
    pub sync_max: Duration,
    /// Longest time of a read or write.
    pub access_max: Duration,
}

impl SimLimits {
    /// Large enough, and nothing takes time.
    pub fn instant() -> Self {
        Self { sync_max: Duration::ZERO, access_max: Duration::ZERO, ..Self::default() }
    }
}

impl Default for SimLimits {
    fn default() -> Self {
        Self { bytes: 1 << 30, sync_max: Duration::from_micros(800), access_max: Duration::from_micros(60) }
    }
}

/// A simulated disk in one life of its node. Clones share.
#[derive(Clone)]
pub struct SimDisk {
    env: Env,
    limits: SimLimits,
    world: Arc<Mutex<World>>,
    life: u64,
}

/// Something that happened to a disk, at the moment it took effect.
#[derive(Clone, Debug)]
pub enum Step {
    /// Bytes came into the page cache.
    Wrote {
        /// The file.
        inode: u64,
        /// Where.
        position: u64,
        /// What.
        bytes: Bytes,
    },
    /// A file was cut or extended, in the page cache.
    Length {
        /// The file.
        inode: u64,
        /// Its length now.
        len: u64,
    },
    /// The first changes of a file since its last sync are on the medium.
    Synced {
        /// The file.
        inode: u64,
        /// How many.
        changes: usize,
    },
    /// A name was given, taken or changed, in memory.
    Named(NameChange),
    /// Names in a folder are on the medium.
    FolderSynced(String),
}

#[derive(Default)]
struct World {
    life: u64,
    journal: Option<Vec<Step>>,
    frozen: bool,
    inodes: BTreeMap<u64, Inode>,
    inode_next: u64,
    names: Names,
    /// What is on the medium, also below folders that are not.
    durable: Names,
    pending_names: Vec<NameChange>,
    syncs_to_fail: u32,
    writes_to_fail: u32,
    reads_to_fail: u32,
    full: bool,
    stall_until: Option<tokio::time::Instant>,
    drag: Option<(String, u32)>,
    lost: u64,
    torn: u64,
    failures: Failures,
}

/// How often a disk did what it was told to do wrong, in all lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Syncs that failed.
    pub syncs: u64,
    /// Writes that failed.
    pub writes: u64,
    /// Reads that failed.
    pub reads: u64,
    /// Times that somebody was told that it is full.
    pub full: u64,
}

#[derive(Default)]
struct Inode {
    current: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<Change>,
}

enum Change {
    Write(u64, Vec<u8>),
    Length(usize),
}

impl World {
    fn used(&self) -> u64 {
        self.names.files.values().filter_map(|i| self.inodes.get(i)).map(|i| i.current.len() as u64).sum()
    }
    fn inode(&mut self, id: u64) -> &mut Inode {
        self.inodes.get_mut(&id).expect("an open file has an inode")
    }
    fn note(&mut self, step: impl FnOnce() -> Step) {
        if let Some(journal) = &mut self.journal {
            journal.push(step());
        }
    }
}

/// Writes into a file's bytes; a gap before them is zeros.
pub(crate) fn put(into: &mut Vec<u8>, position: u64, bytes: &[u8]) {
    let start = usize::try_from(position).expect("simulated files are small");
    if into.len() == start {
        return into.extend_from_slice(bytes);
    }
    if into.len() < start + bytes.len() {
        into.resize(start + bytes.len(), 0);
    }
    into[start..start + bytes.len()].copy_from_slice(bytes);
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("simulated disk: no {path}"))
}

impl SimDisk {
    /// An empty disk.
    pub fn new(env: Env, limits: SimLimits) -> Arc<Self> {
        Arc::new(Self { env, limits, world: Arc::default(), life: 0 })
    }

    /// A disk on which these files are, synced.
    pub fn holding(env: Env, limits: SimLimits, files: BTreeMap<String, Vec<u8>>) -> Arc<Self> {
        let disk = Self::new(env, limits);
        let mut guard = disk.world();
        let world = &mut *guard;
        let mut names = BTreeMap::new();
        for (inode, (path, content)) in (1..).zip(files) {
            let synced = Inode { current: content.clone(), synced: content, pending: Vec::new() };
            world.inodes.insert(inode, synced);
            names.insert(path, inode);
            world.inode_next = inode;
        }
        world.names = Names::of(names);
        world.durable = world.names.clone();
        drop(guard);
        disk
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on all that happens is noted.
    pub fn keep_journal(&self) {
        self.world().journal = Some(Vec::new());
    }

    /// How much was noted.
    pub fn journal_len(&self) -> usize {
        self.world().journal.as_ref().map_or(0, Vec::len)
    }

    /// All that was noted.
    pub fn journal(&self) -> Vec<Step> {
        self.world().journal.clone().unwrap_or_default()
    }

    /// Freezes: nothing asked of this life completes from now on, and nothing more becomes durable.
    pub fn crash(&self) {
        self.world().frozen = true;
    }

    /// The disk as the next life finds it after a loss of power. Implies [`SimDisk::crash`].
    pub fn restart_losing_unsynced(&self, env: Env) -> Arc<SimDisk> {
        self.restart(env, true)
    }

    /// The disk as the next life finds it when only the process died: all that was written is there, synced or not.
    pub fn restart_keeping_unsynced(&self, env: Env) -> Arc<SimDisk> {
        self.restart(env, false)
    }

    fn restart(&self, env: Env, lose: bool) -> Arc<SimDisk> {
        let mut world = self.world();
        world.life += 1;
        world.frozen = false;
        world.stall_until = None;
        if lose {
            let kept = usize::try_from(env.random_below(world.pending_names.len() as u64 + 1)).expect("small");
            let changes = std::mem::take(&mut world.pending_names);
            for change in &changes[..kept] {
                world.durable.apply(change);
            }
            world.durable.forget_unreachable();
            world.names = world.durable.clone();
            let left: Vec<(u64, u64)> = world.inodes.values_mut().map(|inode| tear(inode, &env)).collect();
            for (lost, torn) in left {
                world.lost += lost;
                world.torn += torn;
            }
            let named: BTreeSet<u64> = world.names.files.values().copied().collect();
            world.inodes.retain(|id, _| named.contains(id));
        }
        let life = world.life;
        drop(world);
        Arc::new(SimDisk { env, limits: self.limits.clone(), world: self.world.clone(), life })
    }

    /// Flips one bit of a file, on the medium and in what is read.
    pub fn flip_bit(&self, path: &str, byte: u64, bit: u8) {
        let mut world = self.world();
        let id = *world.names.files.get(path).unwrap_or_else(|| panic!("no file {path}"));
        let at = usize::try_from(byte).expect("small");
        let inode = world.inode(id);
        for bytes in [&mut inode.current, &mut inode.synced] {
            if let Some(b) = bytes.get_mut(at) {
                *b ^= 1 << bit;
            }
        }
    }

    /// The next sync of a file fails, and what it was to make durable is lost for good.
    pub fn fail_next_sync(&self) {
        self.world().syncs_to_fail += 1;
    }

    /// The next write fails when some of its sectors are written.
    pub fn fail_next_write(&self) {
        self.world().writes_to_fail += 1;
    }

    /// The next read fails.
    pub fn fail_next_read(&self) {
        self.world().reads_to_fail += 1;
    }

    /// What was to fail and was not asked for does not fail any more.
    pub fn fail_nothing(&self) {
        let mut world = self.world();
        (world.syncs_to_fail, world.writes_to_fail, world.reads_to_fail) = (0, 0, 0);
    }

    /// From now on no file grows (`true`), or may again (`false`).
    pub fn fill_up(&self, full: bool) {
        self.world().full = full;
    }

    /// Every access waits until `time` has passed.
    pub fn stall(&self, time: Duration) {
        self.world().stall_until = Some(tokio::time::Instant::now() + time);
    }

    /// From now on, in later lives too, syncs of files whose path contains `within` take so many times as long.
    pub fn drag(&self, within: &str, times: u32) {
        self.world().drag = (times > 1).then(|| (within.to_owned(), times));
    }

    /// Bytes that a loss of power could take now.
    pub fn unsynced_bytes(&self) -> u64 {
        let world = self.world();
        let pending = world.inodes.values().flat_map(|i| &i.pending);
        pending.map(|c| if let Change::Write(_, b) = c { b.len() as u64 } else { 0 }).sum()
    }

    /// Bytes that losses of power took so far, in all lives.
    pub fn lost_bytes(&self) -> u64 {
        self.world().lost
    }

    /// Writes of which losses of power left a part, in all lives.
    pub fn torn_writes(&self) -> u64 {
        self.world().torn
    }

    /// What it did wrong so far.
    pub fn failures(&self) -> Failures {
        self.world().failures
    }

    /// Paths and lengths of all files, sorted.
    pub fn files(&self) -> Vec<(String, u64)> {
        let world = self.world();
        world.names.files.iter().map(|(path, id)| (path.clone(), world.inodes[id].current.len() as u64)).collect()
    }

    /// Content of a file.
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let world = self.world();
        world.names.files.get(path).map(|id| world.inodes[id].current.clone())
    }

    /// Waits as a device would; a future of a life that is over never ends.
    async fn wait(&self, most: Duration) {
        if self.limits.sync_max.is_zero() {
            return self.unless_over().await;
        }
        let us = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        let until = tokio::time::Instant::now() + Duration::from_micros(1 + self.env.random_below(us));
        let stall = self.world().stall_until;
        tokio::time::sleep_until(stall.map_or(until, |s| s.max(until))).await;
        self.unless_over().await;
    }

    async fn unless_over(&self) {
        let over = {
            let world = self.world();
            world.frozen || world.life != self.life
        };
        if over {
            std::future::pending::<()>().await;
        }
    }

    async fn sync_wait(&self, path: &str) {
        let rare = if self.env.random_below(64) == 0 { 10 } else { 1 };
        let drag =
            self.world().drag.as_ref().map_or(1, |(within, times)| if path.contains(within) { *times } else { 1 });
        self.wait(self.limits.sync_max * rare * drag).await;
    }

    fn change_names(&self, change: NameChange) {
        let mut world = self.world();
        world.names.apply(&change);
        world.note(|| Step::Named(change.clone()));
        world.pending_names.push(change);
    }
}

/// What power loss leaves of the writes since the last sync: each is lost, whole, or a subset of its sectors.
/// Decides what of the unsynced writes reached the medium; gives the bytes that did not, and of how many writes a part did.
fn tear(inode: &mut Inode, env: &Env) -> (u64, u64) {
    let (mut lost, mut torn) = (0, 0);
    for change in inode.pending.drain(..) {
        match change {
            Change::Length(len) if env.random_below(2) == 0 => inode.synced.resize(len, 0),
            Change::Length(_) => {}
            Change::Write(position, bytes) => {
                let kept = keep(&mut inode.synced, position, &bytes, env);
                lost += bytes.len() as u64 - kept;
                torn += u64::from(kept > 0 && kept < bytes.len() as u64);
            }
        }
    }
    inode.current = inode.synced.clone();
    (lost, torn)
}

/// Puts nothing, all, the first sectors or any sectors of a write; gives the bytes put.
fn keep(into: &mut Vec<u8>, position: u64, bytes: &[u8], env: &Env) -> u64 {
    let mut kept = 0;
    match env.random_below(4) {
        0 => {}
        1 => {
            put(into, position, bytes);
            kept = bytes.len();
        }
        2 => {
            let cut = usize::try_from(env.random_below(bytes.len() as u64 + 1)).expect("small") / SECTOR * SECTOR;
            put(into, position, &bytes[..cut]);
            kept = cut;
        }
        _ => {
            for (i, sector) in bytes.chunks(SECTOR).enumerate() {
                if env.random_below(2) == 0 {
                    put(into, position + (i * SECTOR) as u64, sector);
                    kept += sector.len();
                }
            }
        }
    }
    kept as u64
}

impl Disk for SimDisk {
    fn open<'a>(&'a self, path: &'a str, create: bool) -> BoxFuture<'a, io::Result<Arc<dyn File>>> {
        Box::pin(async move {
            self.wait(self.limits.access_max).await;
            let known = self.world().names.files.get(path).copied();
            let inode = match known {
                Some(inode) => inode,
                None if !create => return Err(not_found(path)),
                None => {
                    if !self.world().names.has_folder(folder(path)) {
                        return Err(not_found(folder(path)));
                    }
                    let mut world = self.world();
                    world.inode_next += 1;
                    let id = world.inode_next;
                    world.inodes.insert(id, Inode::default());
                    drop(world);
                    self.change_names(NameChange::Link(path.into(), id));
                    id
                }
            };
            Ok(Arc::new(SimFile { disk: self.clone(), inode, path: path.into() }) as Arc<dyn File>)
        })
    }

    fn list<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Vec<String>>> {
        Box::pin(async move {
            self.wait(self.limits.access_max).await;
            let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
            let world = self.world();
            let all = world.names.files.keys().chain(world.names.folders.iter());
            let below = all.filter_map(|name| name.strip_prefix(&prefix));
            let names: BTreeSet<String> =
                below.filter_map(|rest| rest.split('/').next()).filter(|n| !n.is_empty()).map(String::from).collect();
            Ok(names.into_iter().collect())
        })
    }

    fn create_directory<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.wait(self.limits.access_max).await;
            let missing: Vec<&str> = {
                let world = self.world();
                upwards(path).filter(|at| !world.names.has_folder(at)).collect()
            };
            missing.into_iter().rev().for_each(|at| self.change_names(NameChange::MakeFolder(at.into())));
            Ok(())
        })
    }

    fn sync_directory<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.sync_wait(path).await;
            let mut world = self.world();
            let (done, left): (Vec<_>, Vec<_>) =
                std::mem::take(&mut world.pending_names).into_iter().partition(|change| change.is_in(path));
            world.pending_names = left;
            for change in &done {
                world.durable.apply(change);
            }
            world.note(|| Step::FolderSynced(path.into()));
            Ok(())
        })
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.wait(self.limits.access_max).await;
            if self.world().names.files.contains_key(from) {
                self.change_names(NameChange::Rename(from.into(), to.into()));
                return Ok(());
            }
            Err(not_found(from))
        })
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.wait(self.limits.access_max).await;
            let gone: Vec<NameChange> = {
                let world = self.world();
                let goes = |name: &&String| name.as_str() == path || is_below(name, path);
                let files = world.names.files.keys().filter(goes).cloned().map(NameChange::Unlink);
                // What is in a folder goes before it.
                let folders = world.names.folders.iter().rev().filter(goes).cloned().map(NameChange::RemoveFolder);
                files.chain(folders).collect()
            };
            gone.into_iter().for_each(|change| self.change_names(change));
            Ok(())
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let mut world = self.world();
        if world.full {
            world.failures.full += 1;
            return Ok(0);
        }
        Ok(self.limits.bytes.saturating_sub(world.used()))
    }
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
    path: String,
}

impl SimFile {
    fn may_grow(&self, to: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        let len = world.inode(self.inode).current.len() as u64;
        let more = to.saturating_sub(len);
        if more > 0 && (world.full || world.used() + more > self.disk.limits.bytes) {
            world.failures.full += 1;
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("simulated disk full: {}", self.path)));
        }
        Ok(())
    }
}

impl File for SimFile {
    fn write_at<'a>(&'a self, position: u64, parts: &'a [Bytes]) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let mut bytes = parts.concat();
            self.disk.unless_over().await;
            let fails = std::mem::replace(&mut self.disk.world().writes_to_fail, 0) > 0;
            if fails {
                let sectors = self.disk.env.random_below((bytes.len() / SECTOR) as u64 + 1);
                bytes.truncate(usize::try_from(sectors).expect("small") * SECTOR);
            }
            // In the page cache at once: a crash while the call waits may keep it or not.
            self.may_grow(position + bytes.len() as u64)?;
            {
                let mut world = self.disk.world();
                world.note(|| Step::Wrote { inode: self.inode, position, bytes: bytes.clone().into() });
                let inode = world.inode(self.inode);
                put(&mut inode.current, position, &bytes);
                inode.pending.push(Change::Write(position, bytes));
            }
            self.disk.wait(self.disk.limits.access_max).await;
            match fails {
                true => {
                    self.disk.world().failures.writes += 1;
                    Err(io::Error::other(format!("simulated write failure of {}", self.path)))
                }
                false => Ok(()),
            }
        })
    }

    fn read_at<'a>(&'a self, position: u64, len: usize) -> BoxFuture<'a, io::Result<Bytes>> {
        Box::pin(async move {
            self.disk.wait(self.disk.limits.access_max).await;
            let mut world = self.disk.world();
            if world.reads_to_fail > 0 {
                world.reads_to_fail = 0;
                world.failures.reads += 1;
                return Err(io::Error::other(format!("simulated read failure of {}", self.path)));
            }
            let current = &world.inode(self.inode).current;
            let start = usize::try_from(position).unwrap_or(usize::MAX).min(current.len());
            let end = start.saturating_add(len).min(current.len());
            Ok(Bytes::copy_from_slice(&current[start..end]))
        })
    }

    fn sync<'a>(&'a self) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.disk.unless_over().await;
            let upto = self.disk.world().inode(self.inode).pending.len();
            self.disk.sync_wait(&self.path).await;
            let mut world = self.disk.world();
            let upto = upto.min(world.inode(self.inode).pending.len());
            if world.syncs_to_fail > 0 {
                world.syncs_to_fail -= 1;
                world.failures.syncs += 1;
                world.inode(self.inode).pending.drain(..upto);
                return Err(io::Error::other(format!("simulated sync failure of {}", self.path)));
            }
            world.note(|| Step::Synced { inode: self.inode, changes: upto });
            let inode = world.inode(self.inode);
            for change in inode.pending.drain(..upto) {
                match change {
                    Change::Write(position, bytes) => put(&mut inode.synced, position, &bytes),
                    Change::Length(len) => inode.synced.resize(len, 0),
                }
            }
            Ok(())
        })
    }

    fn len<'a>(&'a self) -> BoxFuture<'a, io::Result<u64>> {
        Box::pin(async move {
            self.disk.wait(self.disk.limits.access_max).await;
            Ok(self.disk.world().inode(self.inode).current.len() as u64)
        })
    }

    fn set_len<'a>(&'a self, len: u64) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.disk.wait(self.disk.limits.access_max).await;
            self.may_grow(len)?;
            let mut world = self.disk.world();
            world.note(|| Step::Length { inode: self.inode, len });
            let inode = world.inode(self.inode);
            let len = usize::try_from(len).expect("simulated files are small");
            inode.current.resize(len, 0);
            inode.pending.push(Change::Length(len));
            Ok(())
        })
    }
}
