//! Whole nodes in one thread, in virtual time, from one seed: the product's own code over a simulated network, simulated
//! disks and links in memory. Same seed, same history.
//!
//! ```text
//!  seed ─▶ runtime (paused clock, seeded scheduler)
//!            ├─ nodes 1..n: Env::simulated + SimDisk + network, each life in a TaskSet ─▶ facts ─┐
//!            ├─ clients: producers, readers, a listener, a group, watchers, topics that come and go ─▶ history ─▶ checker
//!            └─ nemesis: faults drawn from the seed, or as a script says
//! ```
//! The network is of frames (transport replaced at its seam), or in full mode of datagrams with quinn and TLS above them.
//!
//! A run has three parts: set up, storm (`seconds` of virtual time), then healing: everything must become available again
//! within a bound, and the final reads are taken.

mod admins;
mod clients;
mod faults;
mod finish;
mod many;
mod nemesis;
mod net;
mod nodes;
mod pipeline;
mod script;
mod sometimes;
mod storm;
mod whole;
mod world;

pub use faults::{Fault, Loss, Role, Step, Who};
pub use many::{Length, Many, Tally, run_many};
pub use script::Script;
pub use sometimes::{Sums, table};
pub use storm::{Card, Storm};

use crate::{
    checker::{self, Verdict},
    history::History,
};
use highwater::testing::link;
use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
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
    /// Records older than this go; none, if absent.
    pub retention_ms: Option<u64>,
    /// What kind of storm the seed draws.
    pub storm: Arc<Storm>,
    /// Faults instead of those that the seed draws.
    pub script: Option<Rc<Vec<Step>>>,
    /// Full mode: QUIC and TLS over simulated UDP, between nodes and to clients. Otherwise whole frames in memory.
    pub full: bool,
    /// What the storm draws.
    pub course: Course,
}

/// How a storm goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Course {
    /// One card of its deck after the other.
    #[default]
    Deck,
    /// Likewise, with pauses, weather, failing reads and writes and several faults at once in the deck, and disks that are lost one
    /// behind the other.
    Wide,
    /// In three of four a disk is lost while all is well; then come one to three faults of any kind, close together, and that was
    /// all. What is weakened is hit before it is whole again: ways to stand still show here that a long storm passes by.
    Brief,
}

/// One of so many seeds is in full mode.
pub const FULL_EVERY: u64 = 7;

impl Options {
    /// 60 virtual seconds. Every fourth seed has five nodes, every third one retention that takes records away, every seventh is
    /// in full mode; those and every fifth have a wide storm.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: if seed.is_multiple_of(4) { 5 } else { 3 },
            partitions: 2,
            seconds: 60,
            retention_ms: seed.is_multiple_of(3).then_some(8_000),
            storm: Arc::default(),
            script: None,
            full: seed.is_multiple_of(FULL_EVERY),
            course: if seed.is_multiple_of(7) || seed.is_multiple_of(5) { Course::Wide } else { Course::Deck },
        }
    }

    /// 12 virtual seconds with a [brief](Course::Brief) storm over a world that the seed varies; the rest as in [`Self::new`].
    pub fn brief(seed: u64) -> Self {
        Self { seconds: 12, course: Course::Brief, storm: Arc::new(Storm::varied(seed)), ..Self::new(seed) }
    }
}

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
    /// The faults that were drawn.
    pub faults: Vec<Step>,
    /// All that clients saw, and what nodes said.
    pub history: History,
}

impl Outcome {
    /// Clean and alive.
    pub fn is_good(&self) -> bool {
        self.verdict.is_clean() && self.stuck.is_none() && self.failures.is_empty()
    }

    /// What gives a planted bug away: the checker's word, or a livelock. A panic, or a run that got stuck, does not.
    pub fn evidence(&self) -> Vec<String> {
        let livelock = self.stuck.iter().filter(|stuck| stuck.starts_with(LIVELOCK));
        self.verdict.lines().chain(livelock.cloned()).collect()
    }
}

thread_local! {
    static BEGUN: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
    static FAILURES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// How a run that was stopped for too many polls, or too much wall time, begins to say so.
pub(crate) const LIVELOCK: &str = "livelock";

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
            if BEGUN.get().is_none() || tracing::enabled!(tracing::Level::DEBUG) {
                before(panic);
            }
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
    crate::observe::install();
    watch_panics();
    let runtime = seeded_runtime(options.seed)?;
    let history = Rc::new(RefCell::new(History::default()));
    let local = tokio::task::LocalSet::new();
    let running = AssertUnwindSafe(|| local.block_on(&runtime, world::run(options.clone(), history.clone())));
    let panicked = |_| (Some("the run panicked".into()), Sums::default(), Vec::new());
    let (stuck, sums, faults) = catch_unwind(running).unwrap_or_else(panicked);
    drop(local);
    drop(runtime);
    crate::observe::listen(None);
    set_begun(None);
    let failures = FAILURES.take();
    let history = history.take();
    Ok(Outcome { verdict: checker::check(&history), stuck, failures, sums, faults, history })
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
mod tests {
    use super::*;
    use crate::history::What;

    #[test]
    fn a_history_or_a_livelock_gives_a_bug_away_and_a_panic_does_not() {
        let (sums, faults, history) = (Sums::default(), Vec::new(), History::default());
        let failures = vec!["panicked at log.rs: a frame went back".into()];
        let stuck = Some("the run panicked".into());
        let mut outcome = Outcome { verdict: checker::check(&history), stuck, failures, sums, faults, history };
        assert!(outcome.verdict.is_clean() && !outcome.is_good());
        assert_eq!(outcome.evidence(), [""; 0]);
        outcome.stuck = Some("waited 90 virtual s for the storm to end".into());
        assert_eq!(outcome.evidence(), [""; 0]);
        outcome.stuck = Some(format!("{LIVELOCK}: more polls than time allows"));
        assert_eq!(outcome.evidence(), ["livelock: more polls than time allows"]);
        outcome.history.push(0, 1, What::SendOk { partition: 0, value: 10, offset: 0, epoch: 2 });
        outcome.history.push(1, 99, What::Final { partition: 0, start: 0, records: Vec::new() });
        outcome.verdict = checker::check(&outcome.history);
        assert!(outcome.evidence().len() > 1, "{:?}", outcome.evidence());
    }
}
