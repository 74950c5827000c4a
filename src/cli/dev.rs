//! `highwater dev`: a cluster of real node processes on this machine. Makes certificates and config files, starts and
//! supervises `highwater serve` for each node, and says what to type next. Ctrl-C stops all cleanly; however the supervisor
//! ends, its nodes end with it.
//!
//! ```text
//! highwater-dev/
//!   dev.toml               where clients find the cluster
//!   certs/                 the authority and one certificate per node
//!   node-1.toml …          each node's config
//!   node-1/ …              each node's data; node-1.log its log
//! ```

use super::{
    find::{ClusterFile, ClusterNode},
    output,
};
use crate::{config::Config, limits};
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};
use std::{
    io::ErrorKind,
    net::{TcpListener, UdpSocket},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
    time::Instant,
};

/// How `dev` starts.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Nodes in the cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=7))]
    nodes: u16,
    /// Where certificates, configs, data and logs go
    #[arg(long, default_value = "highwater-dev", value_name = "DIR")]
    data_dir: PathBuf,
    /// First port of a new cluster; each node takes four, ten apart from the next node's [default: 7420]
    #[arg(long)]
    port: Option<u16>,
    /// Leave a node that died dead
    #[arg(long)]
    no_restart: bool,
}

/// How long nodes may take to become ready.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long nodes may take to stop before they are killed.
const STOP_MAX: Duration = Duration::from_secs(15);
/// A node that died is started again after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How often the supervisor looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often it asks nodes that were just started.
const ASK_EVERY: Duration = Duration::from_millis(10);

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let cluster = prepare(&args)?;
    let path = args.data_dir.join("dev.toml");
    let mut nodes: Vec<Node> = Vec::new();
    let ended = tokio::select! {
        biased;
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        failed = keep(&args, &cluster, &path, &mut nodes) => failed,
    };
    // However it ended: no node outlives its supervisor.
    eprintln!("stopping {}", output::counted(nodes.len() as u64, "node"));
    let clean = stop(nodes).await;
    let written = write(&path, &cluster, &[]);
    ended.and(written)?;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts the nodes and looks after them; ends only with an error. Those that were started are in `nodes`.
async fn keep(args: &Args, cluster: &ClusterFile, path: &Path, nodes: &mut Vec<Node>) -> anyhow::Result<()> {
    let begun = Instant::now();
    for node in &cluster.nodes {
        nodes.push(Node { child: Some(start(&args.data_dir, node)?), died: None, node: node.clone() });
    }
    write(path, cluster, nodes)?;
    wait_ready(&args.data_dir, nodes).await?;
    // Nobody may read this: the cluster runs all the same.
    let _ = say_hello(args, cluster, begun.elapsed());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if supervise(args, nodes)? {
            write(path, cluster, nodes)?;
        }
    }
}

struct Node {
    node: ClusterNode,
    child: Option<Child>,
    died: Option<Instant>,
}

/// Makes what is not there yet: folder, certificates, configs. Writes nothing before all ports are free, and `dev.toml` last:
/// a folder without it is made anew.
fn prepare(args: &Args) -> anyhow::Result<ClusterFile> {
    let dir = &args.data_dir;
    let path = dir.join("dev.toml");
    if path.exists() {
        let before = ClusterFile::read(&path)?;
        if before.nodes.len() != usize::from(args.nodes) {
            bail!(
                "{} holds a cluster of {} nodes; start it with --nodes {}, or choose another --data-dir",
                dir.display(),
                before.nodes.len(),
                before.nodes.len()
            );
        }
        let configs: Vec<Config> =
            before.nodes.iter().map(|node| super::config::load(&node.config)).collect::<Result<_, _>>()?;
        let first = configs.first().and_then(|config| config.listeners.0.first()).map(|listener| listener.bind.port());
        if let Some((port, first)) = args.port.zip(first).filter(|(port, first)| port != first) {
            // The nodes know each other by these ports.
            bail!(
                "the cluster in {} has the ports from {first} on, which stay: leave out --port {port}, or make another \
                 cluster there with --data-dir",
                dir.display()
            );
        }
        are_free(&configs, &in_use(&before))?;
        return toml::from_str(&std::fs::read_to_string(&path)?).with_context(|| format!("in {}", path.display()));
    }
    let port = args.port.unwrap_or(limits::PORT_NATIVE);
    let configs: Vec<Config> =
        (1..=args.nodes).map(|id| super::config::dev(port, args.nodes, id)).collect::<Result<_, _>>()?;
    if let Some(data) = configs.iter().map(|config| dir.join(&config.node.data_dir)).find(|data| data.exists()) {
        bail!(
            "{} is there, but {} that belongs to it is not: remove the data, or choose another --data-dir",
            data.display(),
            path.display()
        );
    }
    are_free(&configs, "choose other ports with --port")?;
    std::fs::create_dir_all(dir).with_context(|| format!("could not make {}", dir.display()))?;
    let nodes = configs.iter().map(super::config::dev_node).collect();
    let cluster = ClusterFile { name: "dev".into(), ca: "certs/ca.pem".into(), nodes, from_dev: true };
    super::cert::make_certificates(&dir.join("certs"), &cluster.name, args.nodes, |_| None)?;
    for (config, node) in configs.iter().zip(&cluster.nodes) {
        let path = dir.join(&node.config);
        let written = std::fs::write(&path, super::config::dev_config(config));
        written.with_context(|| format!("could not write {}", path.display()))?;
    }
    cluster.write(&path)?;
    Ok(cluster)
}

/// What to do when others listen where the cluster's nodes would: another `dev` may run them, and nodes that are paused outlive
/// one that was killed.
fn in_use(before: &ClusterFile) -> String {
    let running = before.nodes.iter().filter_map(|node| node.pid).filter(|pid| pid_of(*pid).is_some_and(is_there));
    let running: Vec<_> = running.map(|pid| pid.to_string()).collect();
    let other = "make another cluster with --data-dir and --port";
    match running.is_empty() {
        true => format!("stop what uses it, or {other}"),
        false => format!(
            "its own nodes may run still, of another `highwater dev` or left behind by one that was killed: stop that one, or \
             kill {}; or {other}",
            running.join(" ")
        ),
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Somebody else's process is one, too.
fn is_there(pid: Pid) -> bool {
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

/// Whether nobody listens where the nodes will.
fn are_free(configs: &[Config], advice: &str) -> anyhow::Result<()> {
    for config in configs {
        let (udp, tcp) = super::config::ports(config);
        let udp = udp.into_iter().map(|address| (address, "UDP", UdpSocket::bind(address).err()));
        let tcp = tcp.into_iter().map(|address| (address, "TCP", TcpListener::bind(address).err()));
        for (address, protocol, refused) in udp.chain(tcp) {
            match refused {
                Some(error) if error.kind() == ErrorKind::AddrInUse => {
                    bail!("{address} ({protocol}) is in use: is another cluster running? ({advice})")
                }
                Some(error) => bail!("cannot listen on {address} ({protocol}): {error} ({advice})"),
                None => {}
            }
        }
    }
    Ok(())
}

fn start(dir: &Path, node: &ClusterNode) -> anyhow::Result<Child> {
    let path = dir.join(format!("node-{}.log", node.id));
    let log = std::fs::File::options().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("could not write {}", path.display()))?;
    let config = node.config.file_name().context("a config file has a name")?;
    // A process group of its own: Ctrl-C in the terminal reaches the supervisor alone. The pipe to its stdin ends with the
    // supervisor, also by SIGKILL, and the node with the pipe.
    Command::new(std::env::current_exe()?)
        .arg("serve")
        .arg("--config")
        .arg(config)
        .arg("--supervised")
        .current_dir(dir)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("could not start node {}", node.id))
}

/// Starts dead nodes again. Says whether a process id changed.
fn supervise(args: &Args, nodes: &mut [Node]) -> anyhow::Result<bool> {
    let mut changed = false;
    for node in nodes {
        if let Some(child) = &mut node.child
            && let Some(status) = child.try_wait()?
        {
            eprintln!("node {} died ({status})", node.node.id);
            node.child = None;
            node.died = Some(Instant::now());
            changed = true;
        }
        if node.child.is_none() && !args.no_restart && node.died.is_some_and(|died| died.elapsed() >= RESTART_AFTER) {
            node.child = Some(start(&args.data_dir, &node.node)?);
            node.died = None;
            eprintln!("node {} started again", node.node.id);
            changed = true;
        }
    }
    Ok(changed)
}

fn write(path: &Path, cluster: &ClusterFile, nodes: &[Node]) -> anyhow::Result<()> {
    let mut file = cluster.clone();
    for node in &mut file.nodes {
        node.pid = nodes.iter().find(|n| n.node.id == node.id).and_then(|n| n.child.as_ref()).map(Child::id);
    }
    file.write(path)
}

async fn wait_ready(dir: &Path, nodes: &mut [Node]) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let mut waiting = Vec::new();
        for node in nodes.iter_mut() {
            if let Some(child) = &mut node.child
                && let Some(status) = child.try_wait()?
            {
                let id = node.node.id;
                let log = dir.join(format!("node-{id}.log"));
                bail!("node {id} stopped at once ({status}); the end of {}:\n{}", log.display(), tail(&log));
            }
            if !is_ready(&node.node.http).await {
                waiting.push(node.node.id.to_string());
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        if start.elapsed() > READY_MAX {
            bail!(
                "node {} is not ready after {} s; see {}",
                waiting.join(" and "),
                READY_MAX.as_secs(),
                dir.join("node-*.log").display()
            );
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// Asks a node's health endpoint, `host:port`.
pub async fn is_ready(address: &str) -> bool {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream
            .write_all(format!("GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.starts_with(b"HTTP/1.1 200"))
    };
    matches!(tokio::time::timeout(Duration::from_secs(1), ask).await, Ok(Ok(true)))
}

/// Stops all at once: no leaderships are moved, since nobody stays to take them. Says whether all ended by themselves.
async fn stop(nodes: Vec<Node>) -> bool {
    let mut children: Vec<(u32, Child)> =
        nodes.into_iter().filter_map(|n| n.child.map(|child| (n.node.id, child))).collect();
    for (_, child) in &children {
        send(child.id(), Signal::INT);
    }
    let start = Instant::now();
    let mut clean = true;
    while !children.is_empty() && start.elapsed() < STOP_MAX {
        children.retain_mut(|(_, child)| matches!(child.try_wait(), Ok(None)));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (id, mut child) in children {
        eprintln!("node {id} did not stop within {} s and was killed", STOP_MAX.as_secs());
        clean = child.kill().is_err() && clean;
        let _ = child.wait();
    }
    clean
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = pid_of(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn say_hello(args: &Args, cluster: &ClusterFile, took: Duration) -> anyhow::Result<()> {
    let rows = cluster
        .nodes
        .iter()
        .map(|node| vec![format!("node {}", node.id), node.native.clone(), format!("http://{}/metrics", node.http)]);
    let table = output::table(&["", "CLIENTS", "METRICS"], rows);
    let flag = if args.data_dir == Path::new("highwater-dev") {
        String::new()
    } else {
        format!(" --cluster {}", output::quoted(&args.data_dir.join("dev.toml").display().to_string()))
    };
    output::say(format!(
        "A cluster of {} is ready after {:.2} s.

{table}

Try, in another terminal:
  highwater{flag} topic create orders --partitions 3
  seq 1000 | highwater{flag} produce orders
  highwater{flag} consume orders -g billing --count 1000
  highwater{flag} cluster status

Ctrl-C stops it; the data stays in {}.",
        output::counted(cluster.nodes.len() as u64, "node"),
        took.as_secs_f64(),
        args.data_dir.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

    fn args(dir: &Path, port: Option<u16>) -> Args {
        Args { nodes: 1, data_dir: dir.join("dev"), port, no_restart: false }
    }

    /// The first of four ports that nobody uses now.
    fn free() -> u16 {
        let is_free = |port: &u16| {
            let at = |n: u16| ("127.0.0.1", port + n);
            (0..4).all(|n| UdpSocket::bind(at(n)).is_ok() && TcpListener::bind(at(n)).is_ok())
        };
        // Tests run side by side: each looks elsewhere.
        static CALLS: AtomicU16 = AtomicU16::new(0);
        let from = 14_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
        let from = from + CALLS.fetch_add(1, Relaxed) * 2_000;
        (from..from + 2_000).step_by(10).find(is_free).unwrap()
    }

    fn refused(args: &Args) -> String {
        prepare(args).unwrap_err().to_string()
    }

    #[test]
    fn a_port_in_use_leaves_nothing_behind() {
        let (folder, port) = (tempfile::tempdir().unwrap(), free());
        let args = args(folder.path(), Some(port));
        for n in 0..3 {
            let taken = UdpSocket::bind(("127.0.0.1", port + n)).unwrap();
            let said = refused(&args);
            assert!(
                said.contains(&format!("127.0.0.1:{} (UDP) is in use", port + n)) && said.contains("--port"),
                "{said}"
            );
            drop(taken);
        }
        let taken = TcpListener::bind(("127.0.0.1", port + 3)).unwrap();
        assert!(refused(&args).contains("(TCP) is in use"));
        drop(taken);
        assert!(!args.data_dir.exists());
        assert_eq!(prepare(&args).unwrap().nodes.len(), 1);
    }

    #[test]
    fn a_half_made_folder_is_made_anew() {
        let (folder, port) = (tempfile::tempdir().unwrap(), free());
        let args = args(folder.path(), Some(port));
        super::super::cert::make_certificates(&args.data_dir.join("certs"), "dev", 1, |_| None).unwrap();
        std::fs::write(args.data_dir.join("node-1.toml"), "half").unwrap();
        prepare(&args).unwrap();
        let config = super::super::config::load(&args.data_dir.join("node-1.toml")).unwrap();
        assert_eq!(config.node.peer_bind.port(), port + 1);
        // With data, and without the file that says where the cluster is, nothing is made.
        std::fs::remove_file(args.data_dir.join("dev.toml")).unwrap();
        std::fs::create_dir(args.data_dir.join("node-1")).unwrap();
        assert!(refused(&args).contains("remove the data"));
    }

    #[test]
    fn a_cluster_keeps_its_ports() {
        let (folder, port) = (tempfile::tempdir().unwrap(), free());
        prepare(&args(folder.path(), Some(port))).unwrap();
        let said = refused(&args(folder.path(), Some(port + 100)));
        assert!(said.contains(&format!("ports from {port} on")) && said.contains("--data-dir"), "{said}");
        assert_eq!(prepare(&args(folder.path(), Some(port))).unwrap(), prepare(&args(folder.path(), None)).unwrap());
        let _taken = TcpListener::bind(("127.0.0.1", port + 3)).unwrap();
        assert!(refused(&args(folder.path(), None)).contains("stop what uses it"));
        // A supervisor that was killed left its node behind.
        let path = folder.path().join("dev/dev.toml");
        let mut left = ClusterFile::read(&path).unwrap();
        left.nodes[0].pid = Some(std::process::id());
        left.write(&path).unwrap();
        let said = refused(&args(folder.path(), None));
        assert!(said.contains(&format!("or kill {};", std::process::id())), "{said}");
    }
}
