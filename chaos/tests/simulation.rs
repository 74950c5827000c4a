//! The command as a whole: equal seeds give equal histories, whoever runs them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use highwater_chaos::sim::{self, Options, Step};
use std::{collections::BTreeMap, process::Command, rc::Rc};

/// The hash that a process of its own prints for a seed.
fn hash_of(seed: u64, nodes: u32) -> String {
    let (seed, nodes) = (seed.to_string(), nodes.to_string());
    let ran = Command::new(env!("CARGO_BIN_EXE_highwater-chaos"))
        .args(["sim", "--seed", &seed, "--nodes", &nodes, "--seconds", "4"])
        .output()
        .unwrap();
    let text = String::from_utf8(ran.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("seed ")).unwrap_or_else(|| panic!("{text}"));
    line.split_whitespace().skip_while(|word| *word != "hash").nth(1).unwrap().to_owned()
}

#[test]
fn the_same_seed_gives_the_same_history_in_two_processes() {
    // Every seventh is in full mode: with QUIC and TLS.
    let seeds = [(7, 3), (8, 5)];
    let [full, frames] = seeds.map(|(seed, nodes)| {
        let hash = hash_of(seed, nodes);
        assert_eq!(hash, hash_of(seed, nodes), "seed {seed} of {nodes} nodes");
        hash
    });
    assert_ne!(full, frames, "the seed decides");
}

/// What a script reaches.
fn reached(steps: &[&str]) -> sim::Sums {
    let steps = steps.iter().map(|step| serde_json::from_str::<Step>(step).unwrap()).collect();
    let options = Options { nodes: 3, seconds: 3, script: Some(Rc::new(steps)), ..Options::new(1) };
    let outcome = sim::run(&options).unwrap();
    assert!(outcome.is_good(), "{:?} {:?} {:?}", outcome.stuck, outcome.failures, outcome.verdict);
    outcome.sums
}

#[test]
fn only_faults_that_did_something_count() {
    let down = r#"{"pause_ms": 0, "do": "down", "node": 1, "loses": "power"}"#;
    let nothing = [
        down,
        r#"{"pause_ms": 0, "do": "down", "node": 1, "loses": "process"}"#,
        r#"{"pause_ms": 0, "do": "jump", "node": 1, "by_ms": 50}"#,
        r#"{"pause_ms": 0, "do": "stall", "node": 1, "ms": 50}"#,
        r#"{"pause_ms": 0, "do": "pause", "node": 1, "ms": 10}"#,
        r#"{"pause_ms": 0, "do": "full", "node": 1, "ms": 10}"#,
        r#"{"pause_ms": 0, "do": "alone", "node": 1, "clients": true, "ms": 10}"#,
        r#"{"pause_ms": 0, "do": "one_way", "from": 1, "to": 2, "ms": 10}"#,
        r#"{"pause_ms": 0, "do": "break", "from": 2, "to": 1}"#,
        r#"{"pause_ms": 0, "do": "bridge", "node": 2, "ms": 10}"#,
        r#"{"pause_ms": 0, "do": "deaf", "process": 999, "ms": 10}"#,
        r#"{"pause_ms": 0, "do": "slow", "jitter_ms": 0, "break_one_in": 0, "ms": 10}"#,
        r#"{"pause_ms": 0, "do": "weather", "from": 0, "to": 0, "jitter_ms": 0, "lost": 300, "twice": 0, "late": 0, "ms": 10}"#,
        r#"{"pause_ms": 0, "do": "together", "faults": [{"do": "stall", "node": 2, "ms": 10}, {"do": "stall", "node": 1, "ms": 10}]}"#,
        r#"{"pause_ms": 0, "do": "crash", "node": 1, "down_ms": 10}"#,
        down,
        r#"{"pause_ms": 0, "do": "kill", "node": 1, "down_ms": 10}"#,
        down,
        r#"{"pause_ms": 0, "do": "flip", "node": 1, "within": "no such file", "draw": 0, "down_ms": 10}"#,
        down,
        r#"{"pause_ms": 0, "do": "wipe", "node": 1, "down_ms": 10}"#,
    ];
    // The first of each pair took node 1 down; of two at once one hit a node that lived.
    let counted = BTreeMap::from([("down".into(), 4), ("stall".into(), 1)]);
    assert_eq!(reached(&nothing).made, counted);

    let something = [
        r#"{"pause_ms": 0, "do": "jump", "node": 1, "by_ms": 50}"#,
        r#"{"pause_ms": 0, "do": "alone", "node": 1, "clients": true, "ms": 10}"#,
        r#"{"pause_ms": 0, "do": "full", "node": 1, "ms": 400}"#,
        r#"{"pause_ms": 0, "do": "crash", "node": 3, "down_ms": 10}"#,
        r#"{"pause_ms": 500, "do": "sync_error", "node": 2}"#,
        // At the end of a storm what was to fail and did not is forgotten.
        r#"{"pause_ms": 1000, "do": "jump", "node": 3, "by_ms": 0}"#,
    ];
    let counted = ["jump", "alone", "full", "crash", "sync_error"].map(|kind| (kind.to_owned(), 1));
    assert_eq!(reached(&something).made, BTreeMap::from(counted));
}

#[test]
fn a_node_that_is_back_at_once_was_not_suspected() {
    let times = |steps: &[&str]| reached(steps).times("node back before it was suspected");
    let at_once = r#"{"pause_ms": 300, "do": "crash", "node": 1, "down_ms": 20}"#;
    assert_eq!(times(&[at_once]), 2, "the two others were told");
    let late = r#"{"pause_ms": 300, "do": "crash", "node": 1, "down_ms": 1500}"#;
    assert_eq!(times(&[late]), 0);
}
