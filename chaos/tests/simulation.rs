//! The command as a whole: equal seeds give equal histories, whoever runs them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

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
