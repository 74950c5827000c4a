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
use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

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

    /// What is below the least that a storm of so many seconds has to reach.
    pub fn short_of(&self, seconds: u64) -> Option<String> {
        let reached = [self.acked, self.lossy_crashes, self.partitions];
        let names = ["acknowledged records", "crashes that lose bytes", "partitions"];
        let least = LEAST.map(|least| least * seconds / 60);
        let short = |i: &usize| reached[*i] < least[*i];
        let first = (0..LEAST.len()).find(short)?;
        Some(format!("{} {}, at least {} are needed", reached[first], names[first], least[first]))
    }
}

/// What a storm of 60 s reaches at least, or it was none: acknowledged records, crashes that lose bytes, partitions.
const LEAST: [u64; 3] = [1_000, 5, 3];

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The checker's word.
    pub verdict: Verdict,
    /// Set-up or healing did not come to an end: what was still missing.
    pub stuck: Option<String>,
    /// Panics, each with its place, and nodes that did not start.
    pub failures: Vec<String>,
    /// What was reached.
    pub sums: Sums,
    /// All that clients saw.
    pub history: History,
}

impl Outcome {
    /// Clean and alive.
    pub fn is_good(&self) -> bool {
        self.verdict.is_clean() && self.stuck.is_none() && self.failures.is_empty()
    }
}

thread_local! {
    static BEGUN: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
    static FAILURES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Something that no run may have.
fn note_failure(what: String) {
    FAILURES.with_borrow_mut(|failures| failures.push(what));
}

/// Tasks catch panics; a run must not miss them.
fn watch_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if BEGUN.get().is_some() {
                note_failure(panic.to_string());
            }
            before(panic);
        }));
    });
}

fn set_begun(at: Option<tokio::time::Instant>) {
    BEGUN.set(at);
}

/// Virtual time since the world on this thread began, if there is one: for logs.
pub fn virtual_time() -> Option<std::time::Duration> {
    BEGUN.get().map(|begun| begun.elapsed())
}

/// Runs one seed.
///
/// # Errors
/// When the build cannot replay: tokio must be built with `--cfg tokio_unstable`.
pub fn run(options: &Options) -> Result<Outcome, String> {
    watch_panics();
    let runtime = seeded_runtime(options.seed)?;
    let history = Rc::new(RefCell::new(History::default()));
    let local = tokio::task::LocalSet::new();
    let running = AssertUnwindSafe(|| local.block_on(&runtime, world::run(options.clone(), history.clone())));
    let (stuck, sums) = catch_unwind(running).unwrap_or_else(|_| (Some("the run panicked".into()), Sums::default()));
    drop(local);
    drop(runtime);
    set_begun(None);
    let failures = FAILURES.take();
    let history = history.take();
    Ok(Outcome { verdict: checker::check(&history), stuck, failures, sums, history })
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
