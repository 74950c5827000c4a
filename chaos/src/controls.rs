//! Negative controls: each plants one bug in the product and has the general checker look at histories. What it does not find
//! there counts as not found, whatever panicked on the way; only a livelock is caught by itself.
//!
//! A control runs in a process of its own, since a bug stays planted for good.

use crate::sim::{self, Options};
use anyhow::Context as _;
use highwater::sabotage as broker;
use highwater_raft::sabotage as raft;
use serde::{Deserialize, Serialize};
use std::process::Command;

/// A planted bug, and a seed whose history shows it; `None` while no storm is known that gives it away.
struct Control {
    name: &'static str,
    plant: fn(),
    seed: Option<u64>,
}

const CONTROLS: [Control; 15] = {
    use broker::Bug::*;
    const fn control(name: &'static str, seed: Option<u64>, plant: fn()) -> Control {
        Control { name, plant, seed }
    }
    [
        control("ack-before-fsync", Some(1), || raft::plant(raft::Bug::AckBeforeSync)),
        control("vote-not-synced", None, || raft::plant(raft::Bug::VoteNotSynced)),
        control("leader-restore", Some(2), || raft::plant(raft::Bug::LeaderRestore)),
        control("offsets-at-propose", Some(1), || broker::plant(OffsetsAtPropose)),
        control("unfenced-proposal", None, || broker::plant(Unfenced)),
        control("producers-dropped", Some(1), || broker::plant(ProducersDropped)),
        control("park-without-compare", None, || broker::plant(ParkBlind)),
        control("read-above-watermark", Some(1), || broker::plant(ReadAboveMark)),
        control("stale-leader", Some(2), || broker::plant(StaleLeader)),
        control("crc-ignored", None, || raft::plant(raft::Bug::CrcIgnored)),
        control("wiped-keeps-id", None, || broker::plant(WipedKeepsId)),
        control("checkpoint-ahead", None, || raft::plant(raft::Bug::CheckpointAhead)),
        control("recycled-early", None, || raft::plant(raft::Bug::RecycledEarly)),
        control("generation-unchecked", None, || broker::plant(GenerationUnchecked)),
        control("credit-overshot", Some(1), || broker::plant(CreditOvershot)),
    ]
};

/// Virtual seconds of storm.
const SECONDS: u64 = 20;

/// What a control's process prints.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    /// By which seed's history; absent when none showed it.
    seed: Option<u64>,
    /// Seeds that were run.
    runs: u64,
    /// What the history shows: a line per kind of anomaly.
    evidence: Vec<String>,
    /// What else went wrong, which alone proves nothing.
    beside: usize,
}

/// Runs one control in this process, from `seed` on, until a history shows it or `runs` are over; prints what was found.
///
/// # Errors
/// When there is no such control, or this build cannot replay.
pub fn one(name: &str, seed: u64, runs: u64, mut say: impl FnMut(String)) -> anyhow::Result<bool> {
    let control = CONTROLS.iter().find(|control| control.name == name).context("there is no such control")?;
    (control.plant)();
    let mut found = Found { seed: None, runs: 0, evidence: Vec::new(), beside: 0 };
    for seed in seed..seed + runs {
        let options = Options { seconds: SECONDS, ..Options::new(seed) };
        let outcome = sim::run(&options).map_err(anyhow::Error::msg)?;
        found.runs += 1;
        found.beside += outcome.failures.len();
        let livelock = outcome.stuck.filter(|stuck| stuck.starts_with(sim::LIVELOCK));
        let evidence: Vec<_> = outcome.verdict.lines().chain(livelock).collect();
        if !evidence.is_empty() {
            (found.seed, found.evidence) = (Some(seed), evidence);
            break;
        }
    }
    say(serde_json::to_string(&found)?);
    Ok(found.seed.is_some())
}

/// Runs all of them, or those named: each on its kept seed, or over `search` seeds. Gives whether each was caught.
///
/// # Errors
/// When a process cannot be started or prints no result.
pub fn all(only: &[String], search: Option<u64>, jobs: usize, mut say: impl FnMut(String)) -> anyhow::Result<bool> {
    let begun = tokio::time::Instant::now();
    let named = |control: &&Control| only.is_empty() || only.iter().any(|name| name == control.name);
    let (chosen, open): (Vec<_>, Vec<_>) =
        CONTROLS.iter().filter(named).partition(|control| search.is_some() || control.seed.is_some());
    let program = std::env::current_exe()?;
    let start = |control: &Control| {
        let (seed, runs) = search.map_or((control.seed.unwrap_or(1), 1), |runs| (1, runs));
        Command::new(&program)
            .args(["control", control.name, "--seed", &seed.to_string(), "--runs", &runs.to_string()])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
    };
    let mut caught = Vec::new();
    for some in chosen.chunks(jobs.max(1)) {
        let running = some.iter().map(|control| start(control)).collect::<Result<Vec<_>, _>>()?;
        for (control, child) in some.iter().zip(running) {
            let output = child.wait_with_output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            let found: Found = serde_json::from_str(text.trim())
                .with_context(|| format!("{} ended with {} and said {text:?}", control.name, output.status))?;
            say(match found.seed {
                Some(seed) => {
                    caught.push(found.runs);
                    let (runs, kinds) = (found.runs, found.evidence.len());
                    let first = found.evidence.first().map_or("", String::as_str);
                    format!("caught  {:22} seed {seed:3}, run {runs:3}, {kinds} kinds: {first}", control.name)
                }
                None => format!("MISSED  {:22} in {} runs ({} panics beside)", control.name, found.runs, found.beside),
            });
        }
    }
    caught.sort_unstable();
    let median = caught.get(caught.len() / 2).copied().unwrap_or(0);
    let seconds = begun.elapsed().as_secs();
    if !open.is_empty() {
        let names: Vec<_> = open.iter().map(|control| control.name).collect();
        say(format!("no seed is known yet for: {}", names.join(", ")));
    }
    say(format!("{}/{} caught; median seeds to catch {median}; {seconds} s", caught.len(), chosen.len()));
    Ok(caught.len() == chosen.len())
}
