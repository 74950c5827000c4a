//! Whole nodes in one thread, in virtual time, from one seed: the product's own code over a simulated network, simulated
//! disks and links in memory. Same seed, same history.
//!
//! ```text
//!  seed ─▶ runtime (paused clock, seeded scheduler)
//!            ├─ nodes 1..n: Env::simulated + SimDisk + SimNetwork, each life in a TaskSet
//!            ├─ clients: producers, readers, a group, watchers of the watermark ─▶ history ─▶ checker
//!            └─ nemesis: crashes that lose unsynced bytes, partitions, broken connections, slow disks
//! ```
//! A run has three parts: set up, storm (`seconds` of virtual time), then healing: everything must become available again
//! within a bound, and the final reads are taken.

mod clients;
mod finish;
mod link;
mod nemesis;
mod world;

use crate::{
    checker::{self, Verdict},
    history::History,
};
use std::{cell::RefCell, rc::Rc};

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything random comes from it.
    pub seed: u64,
    /// Nodes.
    pub nodes: u32,
    /// Partitions of the one topic, replicated on three nodes (or all, if there are fewer).
    pub partitions: u32,
    /// Virtual seconds of storm.
    pub seconds: u64,
    /// Leaders resume after a restart without an election: the planted bug that the checker has to find.
    pub leader_restore: bool,
}

impl Options {
    /// Three nodes for 60 virtual seconds.
    pub fn new(seed: u64) -> Self {
        Self { seed, nodes: 3, partitions: 2, seconds: 60, leader_restore: false }
    }
}

/// What a run reached: a storm that reached nothing proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Sums {
    /// Acknowledged records.
    pub acked: u64,
    /// Nodes that crashed.
    pub crashes: u64,
    /// Crashes that lost bytes which were written and not synced.
    pub lossy_crashes: u64,
    /// Those bytes.
    pub bytes_lost: u64,
    /// Partitions of the network.
    pub partitions: u64,
    /// Crashes of all nodes at once.
    pub blackouts: u64,
}

impl Sums {
    /// Adds another run's.
    pub fn add(&mut self, other: Sums) {
        self.acked += other.acked;
        self.crashes += other.crashes;
        self.lossy_crashes += other.lossy_crashes;
        self.bytes_lost += other.bytes_lost;
        self.partitions += other.partitions;
        self.blackouts += other.blackouts;
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The checker's word.
    pub verdict: Verdict,
    /// Set-up or healing did not come to an end: what was still missing.
    pub stuck: Option<String>,
    /// What was reached.
    pub sums: Sums,
    /// All that clients saw.
    pub history: History,
}

impl Outcome {
    /// Clean and alive.
    pub fn is_good(&self) -> bool {
        self.verdict.is_clean() && self.stuck.is_none()
    }
}

/// Runs one seed.
///
/// # Errors
/// When the build cannot replay: tokio must be built with `--cfg tokio_unstable`.
pub fn run(options: &Options) -> Result<Outcome, String> {
    let runtime = seeded_runtime(options.seed)?;
    let history = Rc::new(RefCell::new(History::default()));
    let local = tokio::task::LocalSet::new();
    let (stuck, sums) = local.block_on(&runtime, world::run(options.clone(), history.clone()));
    drop(local);
    drop(runtime);
    let history = history.take();
    Ok(Outcome { verdict: checker::check(&history), stuck, sums, history })
}

#[cfg(tokio_unstable)]
fn seeded_runtime(seed: u64) -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_be_bytes()))
        .build()
        .map_err(|error| format!("no runtime: {error}"))
}

#[cfg(not(tokio_unstable))]
fn seeded_runtime(_: u64) -> Result<tokio::runtime::Runtime, String> {
    Err("this build cannot replay a seed: build with `--cfg tokio_unstable` in RUSTFLAGS or .cargo/config.toml".into())
}

#[cfg(test)]
mod tests;
