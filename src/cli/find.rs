//! Finding the cluster: `--cluster FILE`, then `$HIGHWATER_CLUSTER`, then `./highwater-dev/dev.toml`. The file is what `dev`
//! wrote or a node's config.

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where `dev` leaves its cluster file, below the working directory.
pub const DEV_FILE: &str = "highwater-dev/dev.toml";

/// What a client must know of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// The cluster's name.
    pub name: String,
    /// The authority that signed the nodes' certificates; relative to the file.
    pub ca: PathBuf,
    /// Its nodes.
    #[serde(rename = "node")]
    pub nodes: Vec<ClusterNode>,
    /// It was read from a file of `dev`.
    #[serde(skip)]
    pub from_dev: bool,
}

/// One node of a [`ClusterFile`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNode {
    /// Its id.
    pub id: u32,
    /// Its native listener, `host:port`.
    pub native: String,
    /// Its HTTP listener, `host:port`.
    pub http: String,
    /// Its config file; relative to the cluster file.
    pub config: PathBuf,
    /// Its process, while `dev` runs it.
    #[serde(default)]
    pub pid: Option<u32>,
}

impl ClusterFile {
    /// Reads a file that `dev` wrote; `ca` and `config` come back with the file's folder in front.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        let mut file: Self = toml::from_str(&text).with_context(|| format!("{} is no cluster file", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        file.from_dev = true;
        file.ca = folder.join(&file.ca);
        for node in &mut file.nodes {
            node.config = folder.join(&node.config);
        }
        Ok(file)
    }

    /// Writes the file in one step: a reader sees the old one or the new one.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text =
            format!("# Written by `highwater dev`; commands read it to find the cluster.\n{}", toml::to_string(self)?);
        let new = path.with_extension("toml.new");
        std::fs::write(&new, text).with_context(|| format!("could not write {}", new.display()))?;
        std::fs::rename(&new, path).with_context(|| format!("could not write {}", path.display()))
    }

    /// `dev` wrote it and has ended.
    pub fn is_stopped(&self) -> bool {
        self.from_dev && self.nodes.iter().all(|node| node.pid.is_none())
    }

    /// The nodes' native listeners.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.native.clone()).collect()
    }
}

/// The cluster that the user means.
pub fn find(given: Option<&Path>) -> anyhow::Result<ClusterFile> {
    let (path, how) = match given {
        Some(path) => (path.to_owned(), "--cluster"),
        None => match std::env::var_os("HIGHWATER_CLUSTER") {
            Some(path) => (PathBuf::from(path), "$HIGHWATER_CLUSTER"),
            None => (PathBuf::from(DEV_FILE), "default"),
        },
    };
    if !path.exists() {
        if how == "default" {
            bail!(
                "no cluster here: {DEV_FILE} does not exist. Start one with `highwater dev`, or name one with --cluster FILE or $HIGHWATER_CLUSTER"
            );
        }
        bail!(
            "{} (from {how}) does not exist: name the dev.toml of a `highwater dev` or a node's config file",
            path.display()
        );
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("{} is not TOML", path.display()))?;
    if table.contains_key("cluster") { super::config::cluster_of(&path) } else { ClusterFile::read(&path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_file_reads_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dev.toml");
        let node = ClusterNode {
            id: 1,
            native: "127.0.0.1:7420".into(),
            http: "127.0.0.1:7423".into(),
            config: "node-1.toml".into(),
            pid: Some(17),
        };
        ClusterFile { name: "dev".into(), ca: "ca.pem".into(), nodes: vec![node], from_dev: false }
            .write(&path)
            .unwrap();
        let file = find(Some(&path)).unwrap();
        assert_eq!(file.ca, folder.path().join("ca.pem"));
        assert_eq!(file.nodes[0].config, folder.path().join("node-1.toml"));
        assert_eq!(file.addresses(), ["127.0.0.1:7420"]);
    }

    #[test]
    fn a_missing_cluster_says_what_to_do() {
        let error = find(Some(Path::new("/nowhere/x.toml"))).unwrap_err().to_string();
        assert_eq!(
            error,
            "/nowhere/x.toml (from --cluster) does not exist: name the dev.toml of a `highwater dev` or a node's config file"
        );
    }
}
