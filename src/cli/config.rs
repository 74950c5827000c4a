//! `highwater config`: what is wrong with a config file; and what the other commands take from config files.

use super::{
    find::{ClusterFile, ClusterNode},
    output::Output,
};
use crate::{
    config::{Address, Config, ListenerKind, Problems},
    limits,
    types::NodeId,
};
use anyhow::{Context as _, bail};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// `highwater config …`
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Say what is wrong with config files, by line; exit code 1 when anything is
    Check {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// Free bytes below which `dev` refuses to produce.
const DEV_FREE_BYTES_MIN: u64 = 128 << 20;

/// What is said of a file.
#[derive(serde::Serialize)]
struct Checked {
    file: PathBuf,
    node: Option<u32>,
    cluster: Option<String>,
    /// What is wrong, each with its line; nothing when it is good.
    problems: Vec<String>,
}

pub(super) fn run(output: Output, command: Command) -> anyhow::Result<ExitCode> {
    let Command::Check { files } = command;
    if output == Output::Json {
        let checked = files.into_iter().map(|file| match Config::load(&file) {
            Ok(config) => {
                let (node, cluster) = (Some(config.node.id.0), Some(config.cluster.name));
                Checked { file, node, cluster, problems: Vec::new() }
            }
            Err(problems) => {
                let problems = problems.to_string().lines().map(str::to_owned).collect();
                Checked { file, node: None, cluster: None, problems }
            }
        });
        let checked: Vec<_> = checked.collect();
        let clean = checked.iter().all(|one| one.problems.is_empty());
        output.value(&checked, String::new)?;
        return Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let mut clean = true;
    for file in files {
        match load(&file) {
            Ok(config) => super::output::say(format!(
                "{}: node {} of cluster {:?}, no problems",
                file.display(),
                config.node.id,
                config.cluster.name
            ))?,
            Err(error) => {
                clean = false;
                eprintln!("{error:#}");
            }
        }
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads and checks a config file.
pub(super) fn load(path: &Path) -> anyhow::Result<Config> {
    Config::load(path).map_err(|problems: Problems| anyhow::anyhow!("{problems}"))
}

/// What clients need of a cluster, taken from one node's config: the other nodes are asked for.
pub(super) fn cluster_of(path: &Path) -> anyhow::Result<ClusterFile> {
    let config = load(path)?;
    let node = cluster_node(&config, path.to_owned());
    if node.native.is_empty() {
        bail!("{} has no native listener: name the config of a node that has one", path.display());
    }
    Ok(ClusterFile { name: config.cluster.name, ca: config.tls.ca, nodes: vec![node], from_dev: false })
}

fn cluster_node(config: &Config, path: PathBuf) -> ClusterNode {
    let advertised = |kind| {
        let listener = config.listeners.0.iter().find(|listener| listener.kind == kind);
        listener
            .map(|l| l.advertised.as_ref().map_or_else(|| l.bind.to_string(), ToString::to_string))
            .unwrap_or_default()
    };
    ClusterNode {
        id: config.node.id.0,
        native: advertised(ListenerKind::Native),
        http: advertised(ListenerKind::Http),
        config: path,
        pid: None,
    }
}

/// A node of a `dev` cluster, as its clients see it.
pub(super) fn dev_node(config: &Config) -> ClusterNode {
    cluster_node(config, format!("node-{}.toml", config.node.id).into())
}

/// Everything that a node listens on: UDP, then TCP.
pub(super) fn ports(config: &Config) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let of = |http: bool| {
        let listeners = config.listeners.0.iter().filter(move |one| (one.kind == ListenerKind::Http) == http);
        listeners.map(|listener| listener.bind)
    };
    (of(false).chain([config.node.peer_bind, config.node.control_bind]).collect(), of(true).collect())
}

/// Its config file; paths are relative to the data directory of `dev`.
pub(super) fn dev_config(config: &Config) -> String {
    format!("# Written by `highwater dev`. Every key is explained in config/highwater.toml.\n{}", config.to_toml())
}

/// Node `id` of a `dev` cluster whose first port is `port`.
pub(super) fn dev(port: u16, nodes: u16, id: u16) -> anyhow::Result<Config> {
    let last = port.checked_add(nodes * limits::PORT_STEP);
    last.with_context(|| format!("there are not enough ports above {port} for {nodes} nodes"))?;
    let mut config = Config::local(id, nodes);
    let shift = |p: u16| p - limits::PORT_NATIVE + port;
    config.cluster.name = "dev".into();
    for seed in &mut config.cluster.seeds {
        seed.peer = loopback(shift(seed.peer.port()));
        seed.control = loopback(shift(seed.control.port()));
    }
    config.node.id = NodeId(id.into());
    config.node.peer_bind.set_port(shift(config.node.peer_bind.port()));
    config.node.control_bind.set_port(shift(config.node.control_bind.port()));
    for listener in &mut config.listeners.0 {
        listener.bind.set_port(shift(listener.bind.port()));
    }
    config.node.data_dir = format!("node-{id}").into();
    config.tls.ca = "certs/ca.pem".into();
    config.tls.certificate = format!("certs/node-{id}.pem").into();
    config.tls.key = format!("certs/node-{id}.key").into();
    config.log.wal_file_bytes = limits::WAL_FILE_BYTES_DEV;
    config.log.free_bytes_min = DEV_FREE_BYTES_MIN;
    Ok(config)
}

fn loopback(port: u16) -> Address {
    SocketAddr::from(([127, 0, 0, 1], port)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_configs_are_good_and_share_nothing() {
        for id in 1..=3 {
            let made = dev(17420, 3, id).unwrap();
            let config = Config::parse(&dev_config(&made), "dev").unwrap();
            assert_eq!(config.cluster, dev(17420, 3, 1).unwrap().cluster);
            assert_eq!(dev_node(&made).native, format!("127.0.0.1:{}", 17420 + 10 * (id - 1)));
        }
        assert!(dev(65530, 3, 1).is_err());
    }
}
