//! Reads that come from the disk: the system is asked to forget what it keeps in memory of the nodes' files. Only for
//! clusters of `dev`, whose data directories are known and here.

use crate::cli::ClusterFile;
use anyhow::Context as _;
use rustix::fs::{Advice, fadvise};
use std::{
    fs::{self, File},
    path::Path,
};

/// Makes the next read of each file of each node's data directory a read of its disk. What is not written yet is synced first:
/// only clean pages can be forgotten.
pub(super) fn forget(cluster: &ClusterFile) -> anyhow::Result<()> {
    anyhow::ensure!(
        cluster.from_dev,
        "--cold is for a cluster of `highwater dev`: leave it out, or restart the nodes' machines"
    );
    for node in &cluster.nodes {
        let data = super::data_dir(node)?;
        forget_below(&data).with_context(|| format!("could not read {}", data.display()))?;
    }
    Ok(())
}

fn forget_below(directory: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget_below(&entry.path())?;
            continue;
        }
        // A file that is gone meanwhile is as cold as can be.
        let Ok(file) = File::open(entry.path()) else { continue };
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}
