//! The machine's own limit: append and `fdatasync` on the disk that the figures are compared with.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::{
    io::Write,
    path::{Path, PathBuf},
};
use tokio::time::Instant;

/// What the disk does alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Probe {
    /// Where it was measured; unknown in lines of other brokers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) directory: Option<PathBuf>,
    /// Median of one append and its `fdatasync`, milliseconds.
    pub(super) p50_ms: f64,
    /// 99 of 100 are faster.
    pub(super) p99_ms: f64,
}

/// Appends per probe.
const ROUNDS: usize = 300;
/// Bytes of the file, written once before: overwriting needs no new blocks, as in the write-ahead log.
const FILE_BYTES: usize = 4 << 20;

/// Writes `size` bytes and syncs them, again and again, in a file below `directory`.
pub(super) fn run(directory: &Path, size: usize) -> anyhow::Result<Probe> {
    let path = directory.join(".highwater-probe");
    let result = measure(&path, size).with_context(|| format!("could not write {}", path.display()));
    let _ = std::fs::remove_file(&path);
    let (p50_ms, p99_ms) = result?;
    Ok(Probe { directory: directory.canonicalize().ok(), p50_ms, p99_ms })
}

fn measure(path: &Path, size: usize) -> std::io::Result<(f64, f64)> {
    use std::os::unix::fs::FileExt;
    let mut file = std::fs::File::create(path)?;
    file.write_all(&vec![0; FILE_BYTES.max(size * 2)])?;
    file.sync_all()?;
    let block = vec![0xa5; size];
    let mut times = Vec::with_capacity(ROUNDS);
    let mut position = 0;
    for _ in 0..ROUNDS {
        if position + size > FILE_BYTES.max(size * 2) {
            position = 0;
        }
        let start = Instant::now();
        file.write_all_at(&block, position as u64)?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        position += size;
    }
    times.sort_by(f64::total_cmp);
    Ok((times[ROUNDS / 2], times[ROUNDS * 99 / 100]))
}
