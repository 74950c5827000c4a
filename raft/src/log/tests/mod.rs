//! One conformance suite for simulated and real disk, and what only a simulated disk can show.

mod beside;
mod bounds;
mod conformance;
mod crash;
mod damage;
mod golden;
mod model;
mod retiring;
mod sealed;
mod spares;
mod starts;

use super::{core::waiter, *};
use crate::{
    GroupId, ReplicaId,
    env::{Env, TaskSet},
    testing::disk::{SimDisk, SimLimits},
};
use std::{sync::Arc, time::Duration};

pub(super) const G: GroupId = GroupId(1024);
pub(super) const H: GroupId = GroupId(1025);

pub(super) fn small() -> Options {
    Options {
        wal_file_bytes: 128 << 10,
        segment_bytes: 64 << 10,
        cache_bytes: 32 << 10,
        free_bytes_min: 1 << 20,
        ..Options::default()
    }
}

pub(super) fn entry(index: u64, term: u64, len: usize) -> Entry {
    let payload: Vec<u8> = (0..len).map(|i| u8::try_from((index * 7 + term * 31 + i as u64) % 251).unwrap()).collect();
    Entry { index, term, kind: u8::try_from(index % 3).unwrap(), payload: Bytes::from(payload).into() }
}

/// A node's disk over several lives.
pub(super) struct Node {
    pub(super) disk: Arc<SimDisk>,
    pub(super) tasks: TaskSet,
    pub(super) env: Env,
    seed: u64,
}

impl Node {
    pub(super) fn new(seed: u64) -> Self {
        let tasks = TaskSet::default();
        let env = Env::simulated(seed, 1_700_000_000_000, tasks.clone());
        Self { disk: SimDisk::new(env.clone(), SimLimits::default()), tasks, env, seed }
    }

    pub(super) async fn open(&self) -> Directory {
        self.open_with(small()).await
    }

    pub(super) async fn open_with(&self, options: Options) -> Directory {
        Directory::open(self.disk.clone(), options, self.env.clone()).await.expect("opens")
    }

    /// Power is lost, and comes back.
    pub(super) fn power_loss(&mut self) {
        self.next_life(|disk, env| disk.restart_losing_unsynced(env));
    }

    /// The process dies; the system lives on.
    pub(super) fn kill(&mut self) {
        self.next_life(|disk, env| disk.restart_keeping_unsynced(env));
    }

    fn next_life(&mut self, restart: impl FnOnce(&SimDisk, Env) -> Arc<SimDisk>) {
        self.disk.crash();
        self.tasks.crash();
        self.seed += 1_000_003;
        self.tasks = TaskSet::default();
        self.env = Env::simulated(self.seed, 1_700_000_000_000, self.tasks.clone());
        self.disk = restart(&self.disk, self.env.clone());
    }

    /// The WAL files, ascending.
    pub(super) fn wal_files(&self) -> Vec<String> {
        let files = self.disk.files().into_iter().map(|(path, _)| path);
        files.filter(|path| path.starts_with("wal/") && path.ends_with(".wal")).collect()
    }

    /// Position of `needle` in a file.
    pub(super) fn find(&self, path: &str, needle: &[u8]) -> Option<u64> {
        let content = self.disk.content(path)?;
        content.windows(needle.len()).position(|w| w == needle).map(|at| at as u64)
    }
}

/// Runs on the current thread with tasks that need not be `Send`.
pub(super) async fn local<F: Future>(future: F) -> F::Output {
    tokio::task::LocalSet::new().run_until(future).await
}

pub(super) async fn append(group: &Group, entries: Vec<Entry>) -> io::Result<()> {
    let (done, wait) = waiter();
    group.append(entries, done);
    wait.await.expect("answered")
}

pub(super) async fn vote(group: &Group, vote: &'static [u8]) -> io::Result<()> {
    let (done, wait) = waiter();
    group.save_vote(Bytes::from_static(vote), done);
    wait.await.expect("answered")
}

pub(super) async fn truncate(group: &Group, index: u64) -> io::Result<()> {
    let (done, wait) = waiter();
    group.truncate_after(index, done);
    wait.await.expect("answered")
}

pub(super) async fn sealed() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

pub(super) fn health(directory: &Directory, group: GroupId) -> Health {
    directory.groups().into_iter().find(|(g, ..)| *g == group).expect("listed").2
}

pub(super) async fn create(directory: &Directory, group: GroupId) -> Group {
    directory.create(group, ReplicaId(group.0 + 1)).await.expect("created")
}
