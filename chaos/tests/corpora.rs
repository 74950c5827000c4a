//! Replays the inputs that fuzzing kept, on the stable toolchain: `chaos/fuzz/corpus/<target>/`.
//!
//! `HIGHWATER_CORPUS=seed` adds the inputs that each target begins with, made by the encoders of this release and from the
//! golden files.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking")]

use highwater::testing::fuzz::{self, Target};
use peak_alloc::PeakAlloc;
use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// All corpora together: they are read by everybody who runs the tests.
const CORPORA_BYTES_MAX: u64 = 768 << 10;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Names and contents of the files in a folder, sorted.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

/// Panics, or allocates too much: then this says so.
fn fails(target: &Target, input: &[u8]) -> Option<String> {
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    let run = target.run;
    if catch_unwind(|| run(input)).is_err() {
        return Some("panics".into());
    }
    let most = target.allocates_max + 64 * input.len();
    let allocated = ALLOCATED.peak_usage().saturating_sub(before);
    (allocated > most).then(|| format!("allocates {allocated} bytes, at most {most} are allowed"))
}

// One test: what it measures is the whole process's.
#[test]
fn every_input_that_was_kept_holds() {
    if std::env::var_os("HIGHWATER_CORPUS").is_some_and(|v| v == "seed") {
        seed();
    }
    let mut failed = Vec::new();
    let (mut inputs, mut bytes) = (0, 0);
    for target in fuzz::targets() {
        let corpus = files(&folder().join("corpus").join(target.name));
        assert!(corpus.len() >= 4, "{}: {} inputs", target.name, corpus.len());
        // What is loaded or made once is not an input's.
        (target.run)(&corpus[0].1);
        for (path, input) in corpus {
            inputs += 1;
            bytes += input.len() as u64;
            failed.extend(fails(&target, &input).map(|why| format!("{}: {why}", path.display())));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(bytes <= CORPORA_BYTES_MAX, "{bytes} bytes in {inputs} inputs: minimize the corpora");
}

#[test]
fn every_body_has_its_shell() {
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    let mut shells: Vec<_> =
        manifest.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    shells.retain(|name| *name != "highwater-fuzz");
    shells.sort_unstable();
    let targets = fuzz::targets();
    let mut bodies: Vec<_> = targets.iter().map(|target| target.name).collect();
    bodies.sort_unstable();
    assert_eq!(shells, bodies);
    for name in bodies {
        let shell = fs::read_to_string(folder().join("targets").join(name).with_extension("rs")).unwrap();
        assert!(shell.contains(&format!("run(\"{name}\", data)")), "{shell}");
    }
}

fn seed() {
    for target in fuzz::targets() {
        let corpus = folder().join("corpus").join(target.name);
        fs::create_dir_all(&corpus).unwrap();
        let golden = golden(target.name);
        for (n, input) in (target.seeds)().into_iter().chain(golden).enumerate() {
            fs::write(corpus.join(format!("seed-{n:02}")), input).unwrap();
        }
    }
}

/// What the golden files hold for a target, each with the choice that makes the body read it as it is.
fn golden(target: &str) -> Vec<Vec<u8>> {
    let root = folder().join("../../tests/golden");
    let unhex = |text: &[u8]| {
        let digits: Vec<_> = text.iter().copied().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect::<Vec<u8>>()
    };
    let hex = |path: &str| unhex(&fs::read(root.join(path)).unwrap());
    let chosen = |choice: &[u8], bytes: Vec<u8>| [choice, &bytes].concat();
    match target {
        "wire_frame" => files(&root.join("wire")).into_iter().map(|(_, text)| unhex(&text)).collect(),
        "record_batch" => files(&root.join("batch")).into_iter().map(|(_, bytes)| chosen(&[0], bytes)).collect(),
        "wal_frame" => vec![chosen(&[1], hex("log/wal-frame-v1.hex"))],
        "segment" => vec![
            chosen(&[2], hex("log/segment-v1.hex")),
            chosen(&[0], hex("log/segment-v1.hex")[64..].to_vec()),
            chosen(&[3], hex("log/segment-index-v1.hex")),
        ],
        "log_checkpoint" => vec![
            chosen(&[0], hex("log/checkpoint-v1.hex")),
            chosen(&[2], hex("log/identity-v1.hex")),
            chosen(&[3], hex("log/newest-v1.hex")),
        ],
        "peer_message" => vec![chosen(&[8], hex("peers/heartbeat-v1.hex"))],
        "peer_service" => vec![
            chosen(&[1], hex("peers/gossip.hex")),
            chosen(&[2], hex("peers/seeding.hex")),
            chosen(&[3], hex("peers/executed.hex")),
            chosen(&[4], hex("peers/entries-wanted.hex")),
            chosen(&[5, 0], hex("peers/entries-page.hex")),
        ],
        "partition_checkpoint" => vec![chosen(&[1], hex("machines/partition-checkpoint-v1.hex"))],
        "controller_checkpoint" => vec![chosen(&[1], hex("machines/controller-checkpoint-v1.hex"))],
        _ => Vec::new(),
    }
}
