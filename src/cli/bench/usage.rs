//! What the processes of a local cluster use, as the system counts it. Only on Linux, and only where the cluster file knows
//! the process ids (`dev.toml` does).

use crate::cli::ClusterFile;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Ticks per second of the times in `/proc/<pid>/stat`: fixed for programs, whatever the kernel's own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU and memory of all nodes and of this process, at one time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    cpu_s: f64,
    /// Of the largest node.
    pub(super) node_rss_mb: f64,
}

impl Usage {
    /// `None` where it cannot be known.
    pub(super) fn now(cluster: &ClusterFile) -> Option<Self> {
        let pids: Option<Vec<u32>> = cluster.nodes.iter().map(|node| node.pid).collect();
        let pids = pids.filter(|pids| !pids.is_empty())?;
        let mut cpu_s = cpu_s(Path::new("/proc/self"))?;
        let mut node_rss_mb = 0.0_f64;
        for pid in pids {
            let process = PathBuf::from(format!("/proc/{pid}"));
            cpu_s += self::cpu_s(&process)?;
            node_rss_mb = node_rss_mb.max(rss_mb(&process)?);
        }
        Some(Self { cpu_s, node_rss_mb })
    }

    /// Seconds of CPU since `before`, in all processes together.
    pub(super) fn cpu_s_since(&self, before: &Self) -> f64 {
        self.cpu_s - before.cpu_s
    }
}

fn cpu_s(process: &Path) -> Option<f64> {
    parse_cpu_s(&fs::read_to_string(process.join("stat")).ok()?)
}

/// User and system time: fields 14 and 15 of proc_pid_stat(5). The second may hold spaces and parentheses.
fn parse_cpu_s(stat: &str) -> Option<f64> {
    let (_, behind_name) = stat.rsplit_once(") ")?;
    let mut times = behind_name.split(' ').skip(11).map(str::parse::<f64>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn rss_mb(process: &Path) -> Option<f64> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

/// Size of the file that runs.
pub(super) fn binary_mb() -> Option<f64> {
    let file = fs::metadata(std::env::current_exe().ok()?).ok()?;
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    let megabytes = file.len() as f64 / 1e6;
    Some(megabytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_times() {
        let stat = "17 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 1 0 5";
        assert_eq!(parse_cpu_s(stat), Some(4.0));
        assert_eq!(parse_cpu_s("17 (a) S 1 2"), None);
    }
}
