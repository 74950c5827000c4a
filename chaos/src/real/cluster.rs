//! The cluster that faults are done to: one that `highwater dev` runs, or node processes of our own, from config files, with a
//! network in between that can fail.

use super::{Scenario, disks::Disks, facts::Facts, net::Net, processes, spaces};
use anyhow::{Context as _, bail};
use highwater::{
    cli::{ClusterFile, ClusterNode, find, make_certificates},
    client::Client,
    config::{Address, Config},
};
use rustix::process::{Pid, Signal};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    time::Instant,
};

/// How long a node may take to be ready.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long a node whose disk fails may take to end.
const END_MAX: Duration = Duration::from_secs(30);
/// How long a process may take to stand still.
const FREEZES: Duration = Duration::from_secs(1);
/// Ports from node to node; the first seven are used.
const STEP: u16 = 10;

/// Nodes, and what can be done to them.
pub(super) enum Target {
    /// `highwater dev` starts them again.
    Dev(Option<PathBuf>),
    /// They run from config files, on this machine, and something starts them again.
    Listed(RefCell<ClusterFile>),
    /// Ours.
    Own(Own),
}

impl Target {
    pub(super) fn file(&self) -> anyhow::Result<ClusterFile> {
        match self {
            Self::Dev(path) => find(path.as_deref()),
            Self::Own(own) => Ok(own.file()),
            Self::Listed(file) => {
                let mut file = file.borrow().clone();
                file.nodes.iter_mut().for_each(|node| node.pid = port_of(&node.native).and_then(processes::at_port));
                Ok(file)
            }
        }
    }

    /// A cluster that runs, as the user names it.
    pub(super) fn running(path: Option<&Path>) -> anyhow::Result<Self> {
        let file = find(path)?;
        Ok(if file.from_dev { Self::Dev(path.map(Path::to_owned)) } else { Self::Listed(RefCell::new(file)) })
    }

    /// A config file names one node: the cluster names the others.
    pub(super) async fn learn(&self, client: &Client) -> anyhow::Result<()> {
        let Self::Listed(file) = self else { return Ok(()) };
        let known = file.borrow().nodes[0].clone();
        let nodes = client.admin().cluster_status().await?.nodes.into_iter();
        file.borrow_mut().nodes =
            nodes.map(|node| ClusterNode { id: node.node.0, native: node.address, ..known.clone() }).collect();
        match self.file()?.nodes.iter().find(|node| node.pid.is_none()) {
            None => Ok(()),
            Some(ClusterNode { id, native, .. }) => bail!(
                "no process that may be killed from here has port {native} of node {id} open: chaos runs on the machine of the nodes, as their user or root"
            ),
        }
    }

    /// Waits until nodes that were killed run again by whoever runs them.
    pub(super) async fn returned(&self, nodes: &[u32]) -> anyhow::Result<()> {
        if !matches!(self, Self::Listed(_)) {
            return Ok(());
        }
        let begun = Instant::now();
        while self.file()?.nodes.iter().any(|node| nodes.contains(&node.id) && node.pid.is_none()) {
            anyhow::ensure!(
                begun.elapsed() < READY_MAX,
                "nodes {nodes:?} were killed, and nothing started them again within 60 s: chaos needs a supervisor (systemd: Restart=always)"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    pub(super) fn nodes(&self) -> anyhow::Result<Vec<u32>> {
        Ok(self.file()?.nodes.iter().map(|node| node.id).collect())
    }

    /// Sends a signal; `false` when the node is down.
    pub(super) fn signal(&self, node: u32, signal: Signal) -> anyhow::Result<bool> {
        let file = self.file()?;
        if file.nodes.iter().all(|node| node.pid.is_none()) && matches!(self, Self::Dev(_)) {
            bail!("the cluster file has no process ids: `highwater dev` has ended; start it again");
        }
        let pid = file.nodes.iter().find(|n| n.id == node).and_then(|n| n.pid);
        let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) else { return Ok(false) };
        match rustix::process::kill_process(pid, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn own(&self) -> anyhow::Result<&Own> {
        match self {
            Self::Own(own) => Ok(own),
            Self::Dev(_) | Self::Listed(_) => bail!("this fault needs a cluster of the scenario's own"),
        }
    }
}

/// Node processes of one run.
pub(super) struct Own {
    folder: PathBuf,
    configs: Vec<Config>,
    children: RefCell<Vec<Option<Child>>>,
    pub(super) net: Net,
    pub(super) disks: Option<Disks>,
    pub(super) facts: Option<Facts>,
    clocks: Option<PathBuf>,
    /// Until when a disk without room explains that a node ends.
    excused: RefCell<BTreeMap<u32, Instant>>,
}

/// A node ended, and nobody had killed it.
pub(super) struct Ended {
    pub(super) node: u32,
    pub(super) status: ExitStatus,
    /// A storage error ends a node by design, and its disk had been made to fail.
    pub(super) is_explained: bool,
}

/// Where the library is that gives a process another wall clock.
pub(super) fn fake_clock() -> Option<PathBuf> {
    let places = std::fs::read_dir("/usr/lib").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    places.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|path| path.exists())
}

/// The process will see the wall clock of the file.
pub(super) fn with_clock(command: &mut Command, library: &Path, file: &Path) {
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", file);
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_NO_CACHE", "1");
}

/// The file's wall clock is off by so much.
pub(super) fn set_clock(file: &Path, by_s: i64) -> anyhow::Result<()> {
    Ok(std::fs::write(file, format!("{by_s:+}s\n"))?)
}

impl Own {
    /// Makes certificates and configs in the folder, and proxies.
    pub(super) async fn make(
        folder: &Path,
        (scenario, port): (&Scenario, u16),
        net: Net,
        disks: Option<Disks>,
        clocks: bool,
        facts: Option<Facts>,
    ) -> anyhow::Result<Self> {
        let nodes = scenario.nodes;
        let certificates = folder.join("certs");
        let host = |node| (!net.is_proxied()).then(|| spaces::address(node).to_string());
        make_certificates(&certificates, "chaos", nodes, host)?;
        let at = |node: u16, offset: u16| net.at(node, port + STEP * (node - 1) + offset);
        // Where others reach a node: the proxy before it, or itself.
        let (peer, control) = if net.is_proxied() { (4, 5) } else { (1, 2) };
        let mut configs = Vec::new();
        for id in 1..=nodes {
            let mut config = Config::local(id, nodes);
            config.cluster.name = "chaos".into();
            for (seed, id) in config.cluster.seeds.iter_mut().zip(1..) {
                (seed.peer, seed.control) = (Address::from(at(id, peer)), Address::from(at(id, control)));
            }
            (config.node.peer_bind, config.node.control_bind) = (at(id, 1), at(id, 2));
            for (listener, offset) in config.listeners.0.iter_mut().zip([0, 3]) {
                listener.bind = at(id, offset);
                // In a namespace, where nobody else is.
                listener.anonymous = !net.is_proxied();
            }
            let place = disks.as_ref().map_or_else(|| folder.join(format!("node-{id}")), |disks| disks.at(id.into()));
            config.node.data_dir = place.join("data");
            config.tls.ca = certificates.join("ca.pem");
            config.tls.certificate = certificates.join(format!("node-{id}.pem"));
            config.tls.key = certificates.join(format!("node-{id}.key"));
            // Small, so that files are retired and recycled within minutes.
            (config.log.wal_file_bytes, config.log.free_bytes_min) = (8 << 20, 64 << 20);
            config.log.segment_bytes = 4 << 20;
            if let Net::Proxies(proxies) = &net {
                let mut ways = vec![(4, config.node.peer_bind), (5, config.node.control_bind)];
                if scenario.cuts_clients() {
                    let native = &mut config.listeners.0[0];
                    native.advertised = Some(at(id, 6).into());
                    ways.push((6, native.bind));
                }
                for (offset, back) in ways {
                    proxies.open(id.into(), at(id, offset), back).await.with_context(|| busy(at(id, offset)))?;
                }
            }
            std::fs::write(folder.join(format!("node-{id}.toml")), config.to_toml())?;
            configs.push(config);
        }
        let clocks = if clocks { fake_clock() } else { None };
        let children = RefCell::new((0..nodes).map(|_| None).collect());
        let excused = RefCell::default();
        Ok(Self { folder: folder.to_owned(), configs, children, net, disks, facts, clocks, excused })
    }

    /// Starts all nodes.
    pub(super) async fn start(&self) -> anyhow::Result<()> {
        for id in self.ids() {
            self.set_clock(id, 0)?;
            self.spawn(id)?;
        }
        for id in self.ids() {
            self.ready(id).await?;
        }
        Ok(())
    }

    fn ids(&self) -> impl Iterator<Item = u32> + use<> {
        1..=u32::try_from(self.configs.len()).unwrap_or(0)
    }

    fn config(&self, node: u32) -> &Config {
        &self.configs[node as usize - 1]
    }

    fn file(&self) -> ClusterFile {
        let children = self.children.borrow();
        let nodes = self.configs.iter().zip(children.iter()).map(|(config, child)| ClusterNode {
            id: config.node.id.0,
            native: config.listeners.0[0].advertised().to_string(),
            http: config.listeners.0[1].bind.to_string(),
            config: self.folder.join(format!("node-{}.toml", config.node.id.0)),
            pid: child.as_ref().and_then(Child::id),
        });
        let ca = self.configs[0].tls.ca.clone();
        ClusterFile { name: "chaos".into(), ca, nodes: nodes.collect(), from_dev: false }
    }

    /// Starts a node that is down.
    pub(super) fn spawn(&self, node: u32) -> anyhow::Result<()> {
        let name = format!("node-{node}");
        let log = self.folder.join(format!("{name}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg("--config").arg(format!("{name}.toml")).current_dir(&self.folder);
        if let Some(facts) = &self.facts {
            command.arg("--facts").arg(facts.born(node));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        if let Some(library) = &self.clocks {
            with_clock(&mut command, library, &self.clock_of(node));
        }
        // Ctrl-C in the terminal reaches this process alone.
        command.process_group(0);
        if !self.disks.as_ref().is_some_and(|disks| disks.is_full(node)) {
            self.excused.borrow_mut().remove(&node);
        }
        self.children.borrow_mut()[node as usize - 1] = Some(self.net.inside(node, || command.spawn())??);
        Ok(())
    }

    fn clock_of(&self, node: u32) -> PathBuf {
        self.folder.join(format!("clock-{node}"))
    }

    /// The node's wall clock is off by so much from now on.
    pub(super) fn set_clock(&self, node: u32, by_s: i64) -> anyhow::Result<()> {
        set_clock(&self.clock_of(node), by_s)
    }

    /// Waits until a node is ready.
    pub(super) async fn ready(&self, node: u32) -> anyhow::Result<()> {
        let begun = Instant::now();
        let address = self.config(node).listeners.0[1].bind.to_string();
        while !highwater::cli::is_ready(&address).await {
            let log = || self.folder.join(format!("node-{node}.log"));
            if let Some(status) = self.ended(node)? {
                bail!("node {node} ended while it started ({status}); see {}", log().display());
            }
            anyhow::ensure!(begun.elapsed() < READY_MAX, "node {node} is not ready; see {}", log().display());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Its process runs.
    pub(super) fn is_up(&self, node: u32) -> anyhow::Result<bool> {
        let was_started = self.children.borrow()[node as usize - 1].is_some();
        Ok(was_started && self.ended(node)?.is_none())
    }

    fn ended(&self, node: u32) -> anyhow::Result<Option<ExitStatus>> {
        match &mut self.children.borrow_mut()[node as usize - 1] {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// The node's disk has no room for so long: the node may end, also a little later.
    pub(super) fn excuse(&self, node: u32, time: Duration) {
        self.excused.borrow_mut().insert(node, Instant::now() + time + END_MAX);
    }

    fn by_itself(&self, node: u32, status: ExitStatus) -> Ended {
        let is_explained = self.excused.borrow().get(&node).is_some_and(|until| Instant::now() < *until);
        Ended { node, status, is_explained }
    }

    /// A process that does nothing more, also when a call of it that is under way returns.
    pub(super) async fn freeze(&self, node: u32) -> anyhow::Result<()> {
        let pid = self.children.borrow()[node as usize - 1].as_ref().and_then(tokio::process::Child::id);
        let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()) else { return Ok(()) };
        let Some(process) = Pid::from_raw(pid) else { return Ok(()) };
        rustix::process::kill_process(process, Signal::STOP)?;
        let until = Instant::now() + FREEZES;
        while !processes::stand_still(pid) {
            anyhow::ensure!(Instant::now() < until, "node {node} did not stand still within {} s", FREEZES.as_secs());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// SIGKILL, and nothing of it is left; says when it had ended before.
    pub(super) async fn kill(&self, node: u32) -> anyhow::Result<Option<Ended>> {
        let child = self.children.borrow_mut()[node as usize - 1].take();
        let Some(mut child) = child else { return Ok(None) };
        // It may have ended already: its status tells.
        let _ = child.start_kill();
        let status = child.wait().await?;
        let is_killed = status.signal() == Some(Signal::KILL.as_raw());
        Ok((!is_killed).then(|| self.by_itself(node, status)))
    }

    /// SIGKILL for all.
    pub(super) async fn end(&self) -> anyhow::Result<()> {
        for node in self.ids() {
            self.kill(node).await?;
        }
        Ok(())
    }

    /// Waits until a node has ended by itself; says whether it did.
    pub(super) async fn ends(&self, node: u32) -> anyhow::Result<bool> {
        let begun = Instant::now();
        while self.ended(node)?.is_none() {
            if begun.elapsed() > END_MAX {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.children.borrow_mut()[node as usize - 1] = None;
        Ok(true)
    }

    /// Starts what ended by itself.
    pub(super) fn revive(&self) -> anyhow::Result<Vec<Ended>> {
        let mut revived = Vec::new();
        for node in self.ids() {
            if let Some(status) = self.ended(node)? {
                revived.push(self.by_itself(node, status));
                self.spawn(node)?;
            }
        }
        Ok(revived)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        for child in self.children.borrow_mut().iter_mut().flatten() {
            let _ = child.start_kill();
        }
        if let Some(disks) = &self.disks {
            disks.close(u16::try_from(self.configs.len()).unwrap_or(0));
        }
    }
}

fn port_of(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

fn busy(address: SocketAddr) -> String {
    format!("{address} is in use: is another run under way? (choose other ports with --port)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::proxy::Proxies;

    #[tokio::test]
    async fn a_node_that_ends_by_itself_is_told_from_one_that_was_killed() {
        let dir = tempfile::tempdir().unwrap();
        let local = tokio::task::LocalSet::new();
        let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() - 30;
        let net = Net::Proxies(Proxies::new());
        let one = Scenario { nodes: 1, ..Scenario::default() };
        let own = local.run_until(Own::make(dir.path(), (&one, port), net, None, false, None)).await.unwrap();
        assert!(!own.is_up(1).unwrap());
        // This program is no node: it ends at once.
        let again = async || {
            own.spawn(1).unwrap();
            while own.ended(1).unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        again().await;
        let ended = own.revive().unwrap();
        assert!(ended[0].node == 1 && !ended[0].is_explained && !ended[0].status.success());
        again().await;
        assert!(own.kill(1).await.unwrap().is_some_and(|ended| !ended.is_explained));
        assert!(!own.is_up(1).unwrap());
        own.children.borrow_mut()[0] = Some(Command::new("sleep").arg("600").kill_on_drop(true).spawn().unwrap());
        assert!(own.is_up(1).unwrap());
        own.freeze(1).await.unwrap();
        assert!(own.is_up(1).unwrap());
        assert!(own.kill(1).await.unwrap().is_none());
        own.freeze(1).await.unwrap();
        again().await;
        own.excuse(1, Duration::ZERO);
        assert!(own.revive().unwrap()[0].is_explained);
        again().await;
        assert!(!own.revive().unwrap()[0].is_explained, "the excuse is for one life");
    }
}
