//! Clusters of processes, and what the tests read off them.

use highwater::{
    client::{Client, Delivery, QuicDialer},
    tls::{self, Roots},
    types::{Position, TopicName},
    wire::{Connection, Frame, Hello, Link, Message},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_highwater");
/// For whatever must happen some time.
pub(crate) const SOON: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(50);

pub(crate) fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Tests of real nodes take turns: two cores are not enough for two clusters.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Waits until `done` gives something.
pub(crate) fn wait<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(done) = done() {
            return done;
        }
        assert!(begun.elapsed() < SOON, "{what}: not within {} s", SOON.as_secs());
        sleep(LOOK);
    }
}

/// The same for a question to the cluster.
pub(crate) async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, mut done: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(done) = done().await {
            return done;
        }
        assert!(begun.elapsed() < SOON, "{what}: not within {} s", SOON.as_secs());
        tokio::time::sleep(LOOK).await;
    }
}

/// `count` runs of four ports that nobody uses now, UDP and TCP, below those that the system gives to sockets without a
/// port: a node that is killed must get its own back.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let end = start.split_whitespace().next().and_then(|n| n.parse::<u16>().ok()).unwrap_or(32_768);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = ((nanos / 1_000) ^ std::process::id().wrapping_mul(7919)) % 10_000;
    let first = end - 12_000 + u16::try_from(seed).unwrap() / 10 * 10;
    let is_free =
        |port: u16| UdpSocket::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok();
    let runs = (0..1_000).map(|i| first - (10_000_u16).min(i * 10)).filter(|port| (0..4).all(|i| is_free(port + i)));
    let ports: Vec<u16> = runs.take(count).collect();
    assert_eq!(ports.len(), count, "no free ports");
    ports
}

/// A program that is killed when it is forgotten.
pub(crate) struct Program(pub(crate) Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn ended(&mut self, what: &str) -> ExitStatus {
        wait(what, || self.0.try_wait().unwrap())
    }
}

/// The processes that a `dev.toml` names.
pub(crate) fn pids(file: &Path) -> Vec<i32> {
    let text = fs::read_to_string(file).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("pid = ")?.parse().ok()).collect()
}

/// Kills a process that is not ours to wait for.
pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// One node.
pub(crate) struct Node {
    pub(crate) id: u32,
    pub(crate) native: SocketAddr,
    pub(crate) http: SocketAddr,
    program: Option<Program>,
}

impl Node {
    pub(crate) fn pid(&self) -> u32 {
        self.program.as_ref().expect("it runs").0.id()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        self.program.as_ref().expect("it runs").signal(signal);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.program = None);
        // For whoever looks into a failure.
        if let Ok(folder) = std::env::var("HIGHWATER_LOGS") {
            let _ = fs::create_dir_all(&folder);
            for node in &self.nodes {
                let name = format!("node-{}.log", node.id);
                let _ = fs::copy(self.dir.path().join(&name), Path::new(&folder).join(&name));
            }
        }
    }
}

/// Nodes in a folder of their own.
pub(crate) struct Cluster {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) nodes: Vec<Node>,
}

impl Cluster {
    /// Three nodes from `config/node-N.toml`, with other ports and `more` at the end of each file.
    pub(crate) fn three(more: &str) -> Self {
        Self::new(3, more)
    }

    /// One node, from `config/node-1.toml`.
    pub(crate) fn one(more: &str) -> Self {
        Self::new(1, more)
    }

    fn new(count: u32, more: &str) -> Self {
        let mut cluster = Self::prepared(count, more);
        let begun = Instant::now();
        for id in 1..=count {
            cluster.start(id);
        }
        cluster.ready();
        eprintln!("start to ready of {count}: {:.1} s", begun.elapsed().as_secs_f64());
        cluster
    }

    /// Config files and certificates; nothing runs yet.
    pub(crate) fn prepared(count: u32, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = free_ports(count as usize);
        let nodes = (1..=count).map(|id| {
            let text = config(id, &ports, count) + &slower() + more;
            fs::write(dir.path().join(format!("node-{id}.toml")), text).unwrap();
            let at = |offset| SocketAddr::from(([127, 0, 0, 1], ports[id as usize - 1] + offset));
            Node { id, native: at(0), http: at(3), program: None }
        });
        let cluster = Self { nodes: nodes.collect(), dir };
        cluster.run(&["cert", "ca"]);
        let ids: Vec<String> = (1..=count).flat_map(|id| ["--node".into(), id.to_string()]).collect();
        let mut words = vec!["cert", "node"];
        words.extend(ids.iter().map(String::as_str));
        cluster.run(&words);
        cluster
    }

    pub(crate) fn node(&self, id: u32) -> &Node {
        &self.nodes[id as usize - 1]
    }

    pub(crate) fn config_of(&self, id: u32) -> PathBuf {
        self.dir.path().join(format!("node-{id}.toml"))
    }

    pub(crate) fn data_of(&self, id: u32) -> PathBuf {
        self.dir.path().join(format!("highwater-data/node-{id}"))
    }

    pub(crate) fn log_of(&self, id: u32) -> String {
        fs::read_to_string(self.dir.path().join(format!("node-{id}.log"))).unwrap_or_default()
    }

    /// Starts a node; its output goes to `node-N.log`.
    pub(crate) fn start(&mut self, id: u32) {
        self.start_by(Command::new(BINARY), id);
    }

    /// The same with another program in front, which ends in the binary and its arguments.
    pub(crate) fn start_by(&mut self, mut command: Command, id: u32) {
        let dir = self.dir.path();
        let log = fs::File::options().create(true).append(true).open(dir.join(format!("node-{id}.log"))).unwrap();
        command.args(["serve", "--config", &format!("node-{id}.toml")]).current_dir(dir);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.nodes[id as usize - 1].program = Some(Program(command.spawn().unwrap()));
    }

    /// Waits until all nodes that run are ready.
    pub(crate) fn ready(&mut self) {
        for node in &mut self.nodes {
            let Some(program) = &mut node.program else { continue };
            let log = self.dir.path().join(format!("node-{}.log", node.id));
            wait(&format!("node {} is ready", node.id), || {
                if let Some(status) = program.0.try_wait().unwrap() {
                    panic!("node {} ended: {status}\n{}", node.id, tail(&log));
                }
                http(node.http, "/health/ready").filter(|answer| answer.0 == 200)
            });
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, id: u32) {
        self.nodes[id as usize - 1].program = None;
    }

    /// SIGKILL to all, before any of them is waited for.
    pub(crate) fn kill_all(&mut self) {
        for node in &mut self.nodes {
            let _ = node.program.as_mut().map(|program| program.0.kill());
        }
        for node in &mut self.nodes {
            node.program = None;
        }
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn stop(&mut self, id: u32, signal: rustix::process::Signal) -> ExitStatus {
        let mut program = self.nodes[id as usize - 1].program.take().expect("it runs");
        program.signal(signal);
        program.ended(&format!("node {id} ends by {signal:?}"))
    }

    /// Waits until a node ends by itself.
    pub(crate) fn ended(&mut self, id: u32) -> ExitStatus {
        let mut program = self.nodes[id as usize - 1].program.take().expect("it runs");
        program.ended(&format!("node {id} ends"))
    }

    /// The command line, with this cluster; what it does must work.
    pub(crate) fn run(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "highwater {words:?}: {}\n{error}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn try_run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// The command line, to be started.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.current_dir(self.dir.path()).env("HIGHWATER_CLUSTER", "node-1.toml").args(words);
        command
    }

    pub(crate) fn tls(&self) -> rustls::ClientConfig {
        let roots = Roots::read(&self.dir.path().join("highwater-certs/ca.pem")).unwrap();
        tls::client_config(&roots, None).unwrap()
    }

    /// A client that knows all nodes.
    pub(crate) async fn client(&self) -> Client {
        let addresses: Vec<String> = self.nodes.iter().map(|node| node.native.to_string()).collect();
        wait_for("a client connects", || async { Client::connect(addresses.clone(), self.tls()).await.ok() }).await
    }

    /// A connection below the client.
    pub(crate) async fn wire(&self, id: u32) -> Wire {
        Wire::connect(self.node(id).native, self.tls()).await
    }
}

/// `config/node-N.toml` with the ports of the cluster, and with its first `count` seeds.
pub(crate) fn config(id: u32, ports: &[u16], count: u32) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/node-{id}.toml"));
    let mut text = fs::read_to_string(path).unwrap();
    for node in (0..3).rev() {
        for offset in 0..4 {
            let before = format!("127.0.0.1:{}", 7420 + 10 * node + offset);
            let after = ports.get(usize::from(node)).map(|port| format!("127.0.0.1:{}", port + offset));
            text = text.replace(&before, after.as_deref().unwrap_or("gone"));
        }
    }
    let kept = |line: &&str| !((count + 1)..=3).any(|id| line.trim_start().starts_with(&format!("{{ id = {id},")));
    text.lines().filter(kept).map(|line| line.to_owned() + "\n").collect()
}

/// `HIGHWATER_SLOWER=3` for a machine that has other work: the defaults take a node that gets no processor for half a
/// second for dead.
fn slower() -> String {
    let times = number("HIGHWATER_SLOWER", 1);
    if times == 1 {
        return String::new();
    }
    let of = |name: &str, ms: u64| format!("{name} = {}\n", ms * times);
    let keys = [("heartbeat_ms", 200), ("suspicion_ms", 500), ("election_ms_min", 500), ("election_ms_max", 800)];
    "\n[raft]\n".to_owned() + &keys.map(|(name, ms)| of(name, ms)).concat() + "rank_step_ms = 150\ntransfer_ms = 2000\n"
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Status and body of a page.
pub(crate) fn http(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

/// Resident memory, KiB.
pub(crate) fn rss_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What a process used so far.
#[derive(Clone, Copy)]
pub(crate) struct Used {
    pub(crate) cpu_ms: u64,
    /// Times that its threads went to sleep.
    pub(crate) voluntary: u64,
    /// Times that other programs took the processor from them, which is no work of theirs.
    pub(crate) involuntary: u64,
}

pub(crate) fn used(pid: u32) -> Used {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in brackets may have spaces; utime and stime are fields 14 and 15, in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let mut used = Used { cpu_ms: ticks * 10, voluntary: 0, involuntary: 0 };
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        let count = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or_default()
        };
        used.voluntary += count("voluntary_ctxt_switches:");
        used.involuntary += count("nonvoluntary_ctxt_switches:");
    }
    used
}

pub(crate) fn topic(name: &str) -> TopicName {
    name.parse().unwrap()
}

/// Who leads which partition, once each has a leader.
pub(crate) async fn leaders(client: &Client, name: &TopicName) -> BTreeMap<u32, u32> {
    wait_for("each partition has a leader", || async {
        let topic = client.admin().describe_topic(name).await.ok()?;
        let leaders = (0..).zip(&topic.partitions).map(|(partition, at)| Some((partition, at.leader?.0)));
        leaders.collect()
    })
    .await
}

/// Reads every partition from its start until each is read to its end.
pub(crate) async fn read_to(
    client: &Client,
    name: &TopicName,
    ends: &BTreeMap<u32, u64>,
    mut put: impl FnMut(Delivery),
) {
    let all = ends.keys().map(|partition| (name.clone(), *partition, Position::Earliest));
    let mut consumer = client.consumer().assign(all).await.unwrap();
    let mut next: BTreeMap<u32, u64> = ends.keys().map(|partition| (*partition, 0)).collect();
    let begun = Instant::now();
    while ends.iter().any(|(partition, end)| next[partition] < *end) {
        assert!(begun.elapsed() < SOON, "read up to {next:?} of {ends:?}");
        for record in consumer.poll(Duration::from_millis(200)).await.unwrap() {
            next.insert(record.partition, record.offset + 1);
            put(record);
        }
    }
    consumer.close().await.unwrap();
}

/// Waits until every node hears every other and nothing is missing.
pub(crate) async fn settled(client: &Client) {
    wait_for("all nodes are alive and lead", || async {
        let status = client.admin().cluster_status().await.ok()?;
        let well = status.leaderless + status.offline == 0 && status.nodes.iter().all(|node| node.alive);
        well.then_some(())
    })
    .await;
}

/// Waits until every replica is a sound member of its group; gives what was seen to be under repair meanwhile.
pub(crate) async fn repaired(client: &Client) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let begun = Instant::now();
    let mut well = 0;
    // What a node says of itself reaches the others within five seconds: it must look well for longer than that.
    while well < 60 {
        assert!(begun.elapsed() < 2 * SOON, "not whole again: {seen:?}");
        if let Ok(status) = client.admin().cluster_status().await {
            let sound = status.leaderless + status.offline == 0 && status.nodes.iter().all(|node| node.alive);
            well = if sound && status.replicas.is_empty() { well + 1 } else { 0 };
            seen.extend(status.replicas.iter().map(|one| {
                let of =
                    one.topic.as_ref().map_or(format!("group {}", one.group), |t| format!("{t}/{}", one.partition));
                format!("{of} at node {}: {:?}", one.node, one.state)
            }));
        }
        tokio::time::sleep(2 * LOOK).await;
    }
    seen
}

/// A topic, made even while leaders are being elected.
pub(crate) async fn create(client: &Client, name: &TopicName, partitions: u32) {
    wait_for("the topic is made", || async {
        let new = highwater::client::NewTopic::new(name.clone()).partitions(partitions);
        match client.admin().create_topic(new).await {
            Ok(_) => Some(()),
            Err(error) if error.code() == Some(highwater::wire::Code::TopicExists) => Some(()),
            Err(_) => None,
        }
    })
    .await;
    leaders(client, name).await;
}

/// Frames by hand.
pub(crate) struct Wire {
    pub(crate) connection: Arc<dyn Connection>,
    pub(crate) first: Link,
}

impl Wire {
    /// Dials and says Hello.
    pub(crate) async fn connect(address: SocketAddr, tls: rustls::ClientConfig) -> Self {
        use highwater::client::Dialer as _;
        let dialer = QuicDialer::new(tls).unwrap();
        let address = address.to_string();
        let connection = wait_for("a connection", || async { dialer.dial(None, &address).await.ok() }).await;
        let mut first = connection.open().await.unwrap();
        let hello = Hello { version_min: 1, version_max: 1, client: "test".into() };
        first.sender.send(vec![Frame::new(0, hello)]).await.unwrap();
        let welcome = first.receiver.receive().await.unwrap();
        assert!(matches!(welcome.message, Message::Welcome(_)), "{:?}", welcome.message);
        Self { connection, first }
    }

    /// One question on the first link.
    pub(crate) async fn ask(&mut self, frame: Frame) -> Frame {
        self.first.sender.send(vec![frame]).await.unwrap();
        tokio::time::timeout(SOON, self.first.receiver.receive()).await.expect("an answer in time").unwrap()
    }
}

/// Numbers as the tests print them.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Members of a set that are missing in another, at most ten.
pub(crate) fn missing<T: Ord + Clone>(of: &BTreeSet<T>, from: &BTreeSet<T>) -> Vec<T> {
    of.difference(from).take(10).cloned().collect()
}
