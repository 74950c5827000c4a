//! What the bare replicated log does: durable acks per second, without broker, client or protocol in front of it.
//!
//! ```text
//! cargo run --release -p highwater-raft --example bare -- [--nodes 3] [--groups 1] [--inflight 1,64,1000]
//!     [--size 1024,16384,262144] [--secs 5] [--warm 2]
//! ```
//! Starts `nodes` processes of itself on loopback (QUIC with certificates made for the run; data in a folder below
//! `TMPDIR` that is removed at the end), leads every group on the first and runs a closed loop there: `inflight` requests
//! of `size` bytes in all, each made again when it is acknowledged. Requests are put into entries as the broker does it:
//! at most one proposal per group is not yet handed to the log's writer, and all that waits joins the next. A request is
//! acknowledged in `Committed`: on disk on a majority, and applied.
//!
//! One JSON line per load, with the keys that the comparison with other brokers prints. `raw_p50_us` and `raw_p99_us` are
//! of one write and one `fdatasync` of a frame of that size over a zero-filled file on the same disk, taken right before.
//! `entries_per_s` and `flushes_per_s` (of the leader's disk) tell how requests were gathered.
//!
//! The first process is node 1. The others print `DATA CONTROL` (their addresses), read one line `NODE DATA CONTROL …` of
//! all, print `open`, and end with their standard input.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use bytes::Bytes;
use highwater_raft::{
    BootId, GroupId, NodeId, ReplicaId,
    disk::{Disk, RealDisk},
    env::Env,
    group::{AppliedAnswer, Committed, Event, Group, Host, HostOptions, MachineState, Owner, Refusal},
    log::{Directory, Options, Stamp},
    machine::{self, Command},
    transport::{
        Peer,
        quic::{self, QuicNetwork},
        tls::{Identity, dns_name, uri_name},
    },
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    error::Error,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::LocalSet,
    time::Instant,
};

type Fallible<T = ()> = Result<T, Box<dyn Error>>;

const CLUSTER: &str = "bare";
/// Payload bytes of one entry, unless one request is larger.
const ENTRY_BYTES: usize = 1 << 20;
/// Bytes and number of the raw probe's writes.
const RAW_FILE: u64 = 64 << 20;
const RAW_WRITES: usize = 1000;

fn main() -> Fallible {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    match arguments.follower.clone() {
        Some(folder) => local.block_on(&runtime, follow(&arguments, Path::new(&folder))),
        None => local.block_on(&runtime, measure(&arguments)),
    }
}

struct Arguments {
    nodes: u32,
    groups: u64,
    inflight: Vec<usize>,
    size: Vec<usize>,
    secs: Duration,
    warm: Duration,
    /// This process is node `node` in that folder, started by another.
    follower: Option<String>,
    node: u32,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Fallible<Self> {
        let mut all = Arguments {
            nodes: 3,
            groups: 1,
            inflight: vec![1, 64, 1000],
            size: vec![1024],
            secs: Duration::from_secs(5),
            warm: Duration::from_secs(2),
            follower: None,
            node: 1,
        };
        let numbers = |list: &str| list.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>();
        while let Some(key) = words.next() {
            let value = words.next().ok_or_else(|| format!("{key} needs a value"))?;
            match key.as_str() {
                "--nodes" => all.nodes = value.parse()?,
                "--groups" => all.groups = value.parse()?,
                "--inflight" => all.inflight = numbers(&value)?,
                "--size" => all.size = numbers(&value)?,
                "--secs" => all.secs = Duration::from_secs_f64(value.parse()?),
                "--warm" => all.warm = Duration::from_secs_f64(value.parse()?),
                "--follower" => all.follower = Some(value),
                "--node" => all.node = value.parse()?,
                _ => return Err(format!("unknown argument {key}; see the head of examples/bare.rs").into()),
            }
        }
        Ok(all)
    }
}

// ---- nodes

/// One node: its disk, its network and its host.
struct Node {
    env: Env,
    directory: Directory,
    network: Arc<QuicNetwork>,
    host: Host,
}

impl Node {
    async fn start(folder: &Path, node: u32) -> Fallible<Self> {
        let env = Env::real();
        let boot = BootId(env.random_u64());
        let read = |name: String| std::fs::read(folder.join(name));
        let identity = Identity {
            cluster_name: CLUSTER.into(),
            node: NodeId(node),
            ca_pem: read("ca.pem".into())?,
            cert_pem: read(format!("{node}.pem"))?,
            key_pem: read(format!("{node}.key"))?,
        };
        let disk = Arc::new(RealDisk::new(folder.join(node.to_string()))?);
        let directory = Directory::open(disk, Options::default(), env.clone()).await?;
        let any = "127.0.0.1:0".parse()?;
        let network = QuicNetwork::start(quic::Options::new(identity, boot, any, any), env.clone()).await?;
        let host = Host::start(HostOptions::new(NodeId(node), boot), directory.clone(), network.clone(), env.clone())?;
        Ok(Node { env, directory, network, host })
    }

    fn addresses(&self) -> String {
        let (data, control) = self.network.local_addresses();
        format!("{data} {control}")
    }

    /// Takes the line that names all nodes.
    fn meet(&self, line: &str) -> Fallible {
        let words: Vec<&str> = line.split_whitespace().collect();
        let peer = |peer: &[&str]| match peer {
            [node, data, control] => {
                let node = NodeId(node.parse()?);
                Ok(Peer { node, address: (*data).into(), control_address: (*control).into() })
            }
            _ => Err(format!("not a list of nodes: {line}").into()),
        };
        self.host.set_peers(words.chunks(3).map(peer).collect::<Fallible<_>>()?);
        Ok(())
    }

    async fn open(
        &self,
        arguments: &Arguments,
        node: u32,
        number: u64,
    ) -> Fallible<(Group, mpsc::UnboundedReceiver<Event>)> {
        let (sender, events) = mpsc::unbounded_channel();
        let owner = Arc::new(Mailbox(sender));
        let (group, replica) = (GroupId(1024 + number), ReplicaId(u64::from(node)));
        let voters = (1..=arguments.nodes).map(|n| (ReplicaId(u64::from(n)), NodeId(n))).collect();
        self.host.found(group, replica, &voters).await?;
        let group = self.host.open(group, replica, owner).await?;
        Ok((group, events))
    }
}

struct Mailbox(mpsc::UnboundedSender<Event>);

impl Owner for Mailbox {
    fn event(&self, event: Event) {
        let _ = self.0.send(event);
    }
}

/// The machine: it counts commands.
#[derive(Default)]
struct Tally {
    offset: u64,
}

impl Tally {
    fn apply(&mut self, entries: &[Committed]) -> Fallible<Vec<Stamp>> {
        let mut stamps = Vec::with_capacity(entries.len());
        for entry in entries {
            let offset = self.offset;
            if !entry.payload.is_empty() {
                let (head, commands) = machine::decode(&entry.payload)?;
                assert_eq!(head.term, entry.term, "a proposal is for one term only");
                self.offset += u64::try_from(commands.len())?;
            }
            stamps.push(Stamp { index: entry.index, offset, offset_end: self.offset, ..Stamp::default() });
        }
        Ok(stamps)
    }

    fn state(&self) -> MachineState {
        MachineState { machine: Bytes::copy_from_slice(&self.offset.to_le_bytes()), offset: self.offset }
    }

    fn answer(&self, stamps: Vec<Stamp>, with_state: bool) -> AppliedAnswer {
        AppliedAnswer { stamps, machine: with_state.then(|| self.state()) }
    }
}

/// A node that does not measure.
async fn follow(arguments: &Arguments, folder: &Path) -> Fallible {
    let node = Node::start(folder, arguments.node).await?;
    println!("{}", node.addresses());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    node.meet(&line)?;
    for number in 0..arguments.groups {
        let (_, mut events) = node.open(arguments, arguments.node, number).await?;
        node.env.spawn_local(async move {
            let mut tally = Tally::default();
            while let Some(event) = events.recv().await {
                match event {
                    Event::Committed { entries, checkpoint_after, done } => {
                        let stamps = tally.apply(&entries).expect("the leader proposes what decodes");
                        let _ = done.send(tally.answer(stamps, checkpoint_after));
                    }
                    Event::Checkpoint { reply } => drop(reply.send(tally.state())),
                    _ => {}
                }
            }
        });
    }
    println!("open");
    let (sender, mut ended) = mpsc::unbounded_channel::<()>();
    node.env.spawn_thread("stdin", move || {
        Box::pin(async move {
            let _ = std::io::stdin().read_line(&mut String::new());
            drop(sender);
        })
    })?;
    let _ = ended.recv().await;
    node.host.shutdown().await;
    Ok(())
}

/// A node in a process of its own.
struct Follower {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Follower {
    fn start(arguments: &Arguments, folder: &Path, node: u32) -> Fallible<Self> {
        let mut process = std::process::Command::new(std::env::current_exe()?)
            .arg("--follower")
            .arg(folder)
            .args(["--node", &node.to_string(), "--groups", &arguments.groups.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().ok_or("no pipe")?);
        Ok(Follower { process, stdin, stdout })
    }

    fn read_line(&mut self) -> Fallible<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err("a follower has ended".into());
        }
        Ok(line.trim().into())
    }
}

/// Also when the measurement fails: none outlives it.
impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.process.wait();
    }
}

/// A CA and a certificate per node, in `folder`.
fn make_certificates(folder: &Path, nodes: u32) -> Fallible {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
    let key = || KeyPair::generate_for(&rcgen::PKCS_ED25519);
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = key()?;
    std::fs::write(folder.join("ca.pem"), params.self_signed(&ca_key)?.pem())?;
    let ca = Issuer::new(params, ca_key);
    for node in 1..=nodes {
        let key = key()?;
        let mut params = CertificateParams::new(vec![dns_name(CLUSTER, NodeId(node))])?;
        params.subject_alt_names.push(SanType::URI(uri_name(CLUSTER, NodeId(node)).try_into()?));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        std::fs::write(folder.join(format!("{node}.pem")), params.signed_by(&key, &ca)?.pem())?;
        std::fs::write(folder.join(format!("{node}.key")), key.serialize_pem())?;
    }
    Ok(())
}

// ---- measuring

async fn measure(arguments: &Arguments) -> Fallible {
    let folder = tempfile::Builder::new().prefix("highwater-bare-").tempdir()?;
    make_certificates(folder.path(), arguments.nodes)?;
    let node = Node::start(folder.path(), 1).await?;
    let mut followers = (2..=arguments.nodes)
        .map(|node| Follower::start(arguments, folder.path(), node))
        .collect::<Fallible<Vec<_>>>()?;
    let mut all = format!("1 {}", node.addresses());
    for (number, follower) in (2..).zip(&mut followers) {
        all += &format!(" {number} {}", follower.read_line()?);
    }
    node.meet(&all)?;
    for follower in &mut followers {
        writeln!(follower.stdin.as_mut().ok_or("no pipe")?, "{all}")?;
        follower.read_line()?;
    }
    let mut leaders = Vec::new();
    for number in 0..arguments.groups {
        let (group, events) = node.open(arguments, 1, number).await?;
        group.stand_first();
        let (orders, taken) = mpsc::unbounded_channel();
        let mut role = group.role();
        let leader = Leader::new(group, node.env.clone());
        node.env.spawn_local(leader.run(events, taken));
        role.wait_for(|role| role.ready).await?;
        leaders.push(orders);
    }
    let raw = Raw::new(&node.env, RealDisk::new(folder.path().join("raw"))?)?;
    for &size in &arguments.size {
        for &inflight in &arguments.inflight {
            let raw = raw.probe(size).await?;
            load(arguments, &leaders, &node.directory, inflight, size, &raw).await?;
        }
    }
    drop(followers);
    node.host.shutdown().await;
    node.network.shutdown().await;
    node.directory.close().await;
    Ok(())
}

/// A thread that may wait for the disk.
struct Raw(mpsc::UnboundedSender<(usize, oneshot::Sender<io::Result<Vec<u64>>>)>);

impl Raw {
    fn new(env: &Env, disk: RealDisk) -> Fallible<Self> {
        let (sender, mut asked) = mpsc::unbounded_channel::<(usize, oneshot::Sender<_>)>();
        env.spawn_thread("raw", move || {
            Box::pin(async move {
                while let Some((size, answer)) = asked.recv().await {
                    let _ = answer.send(probe(&disk, size).await);
                }
            })
        })?;
        Ok(Raw(sender))
    }

    async fn probe(&self, size: usize) -> Fallible<Vec<u64>> {
        let (answer, probed) = oneshot::channel();
        self.0.send((size, answer))?;
        Ok(probed.await??)
    }
}

/// Microseconds of writes with `fdatasync`, ascending.
async fn probe(disk: &RealDisk, size: usize) -> io::Result<Vec<u64>> {
    let file = disk.open("raw", true).await?;
    if file.len().await? < RAW_FILE {
        let zeros = Bytes::from(vec![0; 1 << 20]);
        for at in (0..RAW_FILE).step_by(zeros.len()) {
            file.write_at(at, std::slice::from_ref(&zeros)).await?;
        }
        file.sync().await?;
        disk.sync_directory("").await?;
    }
    let frame = size.next_multiple_of(4096);
    let bytes = Bytes::from(vec![0x5a; frame]);
    let mut micros = Vec::new();
    for at in (0..=RAW_FILE - frame as u64).step_by(frame).cycle().take(RAW_WRITES) {
        let begun = Instant::now();
        file.write_at(at, std::slice::from_ref(&bytes)).await?;
        file.sync().await?;
        micros.push(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    micros.sort_unstable();
    Ok(micros)
}

/// A quantile of ascending numbers.
fn at(sorted: &[u64], quantile: (usize, usize)) -> u64 {
    sorted.get(sorted.len().saturating_sub(1) * quantile.0 / quantile.1).copied().unwrap_or(0)
}

async fn load(
    arguments: &Arguments,
    leaders: &[mpsc::UnboundedSender<Order>],
    directory: &Directory,
    inflight: usize,
    size: usize,
    raw: &[u64],
) -> Fallible {
    let begun = Instant::now();
    let (from, until) = (begun + arguments.warm, begun + arguments.warm + arguments.secs);
    let taken = Rc::new(RefCell::new(Taken {
        last: from,
        from,
        until,
        gap: Duration::ZERO,
        micros: Vec::new(),
        entries: 0,
        errors: 0,
    }));
    let mut waiting = Vec::new();
    for (number, leader) in leaders.iter().enumerate() {
        let share = inflight / leaders.len() + usize::from(number < inflight % leaders.len());
        let (done, ended) = oneshot::channel();
        let order = Order { inflight: share, body: Bytes::from(vec![0x61; size]), taken: taken.clone(), done };
        leader.send(order).map_err(|_| "a leader has ended")?;
        waiting.push(ended);
    }
    tokio::time::sleep_until(from).await;
    let flushes = directory.stats().sync_seq;
    tokio::time::sleep_until(until).await;
    let flushes = directory.stats().sync_seq - flushes;
    for ended in waiting {
        ended.await.map_err(|_| "a leader has ended")?;
    }
    let mut taken = taken.borrow_mut();
    taken.micros.sort_unstable();
    let secs = arguments.secs.as_secs_f64();
    let ms = |thousandth| at(&taken.micros, (thousandth, 1000)) as f64 / 1e3;
    let acks = taken.micros.len() as f64 / secs;
    println!(
        "{{\"peer\":\"highwater-raft\",\"inflight\":{inflight},\"size\":{size},\"partitions\":{},\"replicas\":{},\
         \"acks_per_s\":{acks:.0},\"mb_per_s\":{:.1},\"p50_ms\":{:.2},\"p99_ms\":{:.2},\"p999_ms\":{:.2},\
         \"max_ms\":{:.1},\"errors\":{},\"gap_ms\":{},\"entries_per_s\":{:.0},\"flushes_per_s\":{:.0},\
         \"raw_p50_us\":{},\"raw_p99_us\":{}}}",
        leaders.len(),
        arguments.nodes,
        acks * size as f64 / 1e6,
        ms(500),
        ms(990),
        ms(999),
        ms(1000),
        taken.errors,
        taken.gap.as_millis(),
        taken.entries as f64 / secs,
        flushes as f64 / secs,
        at(raw, (50, 100)),
        at(raw, (99, 100)),
    );
    Ok(())
}

/// What a load brought, over all groups; what ends outside of `from..until` is not counted.
struct Taken {
    from: Instant,
    until: Instant,
    last: Instant,
    gap: Duration,
    micros: Vec<u64>,
    entries: u64,
    errors: u64,
}

impl Taken {
    fn acked(&mut self, sent: &[Instant], now: Instant) {
        if !(self.from..self.until).contains(&now) {
            return;
        }
        self.gap = self.gap.max(now - self.last);
        self.last = now;
        self.entries += 1;
        let micros = |sent: &Instant| u64::try_from((now - *sent).as_micros()).unwrap_or(u64::MAX);
        self.micros.extend(sent.iter().map(micros));
    }
}

/// A load for one group.
struct Order {
    inflight: usize,
    body: Bytes,
    taken: Rc<RefCell<Taken>>,
    done: oneshot::Sender<()>,
}

/// What the broker's leader of a partition does, without the broker.
struct Leader {
    group: Group,
    env: Env,
    tally: Tally,
    order: Option<Order>,
    /// When each request that is in no entry yet was made.
    waiting: VecDeque<Instant>,
    /// Proposals without an outcome, with the times of their requests.
    proposed: BTreeMap<u64, Vec<Instant>>,
    last: u64,
    /// A proposal that the log's writer does not have yet.
    on_its_way: bool,
}

impl Leader {
    fn new(group: Group, env: Env) -> Self {
        Leader {
            group,
            env,
            tally: Tally::default(),
            order: None,
            waiting: VecDeque::new(),
            proposed: BTreeMap::new(),
            last: 0,
            on_its_way: false,
        }
    }

    async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                count = events.recv_many(&mut batch, 64) => if count == 0 { return },
                Some(order) = orders.recv() => {
                    self.waiting.extend(std::iter::repeat_n(Instant::now(), order.inflight));
                    self.order = Some(order);
                }
            }
            for event in batch.drain(..) {
                if let Err(why) = self.take(event).await {
                    // At the end of all loads Raft is stopped: no news.
                    if self.order.is_some() {
                        eprintln!("the load cannot go on: {why}");
                    }
                    return;
                }
            }
            self.propose();
            if self.waiting.is_empty()
                && self.proposed.is_empty()
                && let Some(order) = self.order.take()
            {
                let _ = order.done.send(());
            }
        }
    }

    async fn take(&mut self, event: Event) -> Fallible {
        match event {
            Event::Committed { entries, checkpoint_after, done } => {
                let stamps = self.tally.apply(&entries)?;
                let _ = done.send(self.tally.answer(stamps, checkpoint_after));
                entries.iter().filter(|entry| !entry.payload.is_empty()).for_each(|_| self.acknowledge());
            }
            Event::Checkpoint { reply } => drop(reply.send(self.tally.state())),
            Event::HandedOver { .. } => self.on_its_way = false,
            Event::Refused { proposal, why: Refusal::NotNow } => {
                // The lease had run out: again, a little later, as a client would.
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.on_its_way = false;
                let again = self.proposed.remove(&proposal).unwrap_or_default();
                if let Some(order) = &self.order {
                    order.taken.borrow_mut().errors += 1;
                }
                self.waiting.extend(again);
            }
            Event::Refused { why, .. } => return Err(format!("leadership was lost: {why:?}").into()),
            Event::Failed { why } => return Err(format!("the replica failed: {why}").into()),
            Event::Restore { .. } | Event::Flushed { .. } | Event::Role(_) => {}
        }
        Ok(())
    }

    /// The oldest proposal is applied: its requests are made again.
    fn acknowledge(&mut self) {
        let now = Instant::now();
        let (Some((_, sent)), Some(order)) = (self.proposed.pop_first(), &self.order) else { return };
        let mut taken = order.taken.borrow_mut();
        taken.acked(&sent, now);
        if now < taken.until {
            self.waiting.extend(std::iter::repeat_n(now, sent.len()));
        }
    }

    /// All that waits, in one entry.
    fn propose(&mut self) {
        let Some(order) = &self.order else { return };
        if self.on_its_way || self.waiting.is_empty() {
            return;
        }
        let count = (ENTRY_BYTES / order.body.len().max(1)).clamp(1, self.waiting.len());
        let sent: Vec<Instant> = self.waiting.drain(..count).collect();
        let command = Command { kind: 1, body: order.body.clone() };
        let commands = vec![command; count];
        let term = self.group.role().borrow().term;
        self.last += 1;
        let payload = machine::encode(term, self.last, self.env.now_ms(), &commands);
        self.proposed.insert(self.last, sent);
        self.on_its_way = true;
        self.group.propose(self.last, term, payload);
    }
}
