//! Real nodes: a load, kills, and a verdict. The nodes are processes that somebody starts again (`highwater dev` does): their
//! process ids stand in the cluster file.

mod gaps;
mod load;

use crate::checker;
use anyhow::{Context as _, bail};
use gaps::Gaps;
use highwater::{
    cli::{ClusterFile, find},
    client::{Client, NewTopic},
    tls::{self, Roots},
    types::{Position, TopicName},
};
use indicatif::{ProgressBar, ProgressStyle};
use load::Load;
use std::{collections::BTreeMap, path::PathBuf, rc::Rc, time::Duration};
use tokio::time::Instant;

/// Which node is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Victim {
    /// The leader of a partition of the load, each time of another one
    Leader,
    /// Any node
    Any,
    /// All nodes at once
    All,
}

/// What is run.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Which cluster [default: $HIGHWATER_CLUSTER, then ./highwater-dev/dev.toml]
    #[arg(long, value_name = "FILE")]
    pub cluster: Option<PathBuf>,
    /// Which node is killed (SIGKILL)
    #[arg(long, value_enum, default_value_t = Victim::Leader)]
    pub kill: Victim,
    /// Time between kills
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub every: Duration,
    /// How long
    #[arg(long = "for", default_value = "1m", value_parser = duration)]
    pub total: Duration,
    /// Partitions of the load's topic
    #[arg(long, default_value_t = 6)]
    pub partitions: u32,
    /// Producers
    #[arg(long, default_value_t = 4)]
    pub producers: u32,
    /// Records per second and producer at most
    #[arg(long, default_value_t = 2_000)]
    pub rate: u32,
    /// Write the history here, one event per line of JSON
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `90s`, `2m`, `1h`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| format!("{text:?} is not a time such as 90s or 2m"))?;
    match &text[digits..] {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(60 * number)),
        "h" => Ok(Duration::from_secs(3600 * number)),
        unit => Err(format!("{unit:?} is not a unit of time: use ms, s, m or h")),
    }
}

/// What came of it.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    /// Records acknowledged.
    pub acked: u64,
    /// Records read at the end.
    pub read: u64,
    /// Acknowledged and not there.
    pub lost: usize,
    /// There twice.
    pub duplicated: usize,
    /// In another order than sent.
    pub reordered: usize,
    /// Other anomalies.
    pub other: usize,
    /// Kills.
    pub kills: u64,
    /// Longest time without an acknowledgement in a partition that the killed node led, per kill: median, milliseconds.
    pub gap_p50_ms: u64,
    /// The worst of them.
    pub gap_max_ms: u64,
    /// Evidence, at most ten.
    pub evidence: Vec<checker::Anomaly>,
}

impl Report {
    /// Nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.other == 0 && self.acked > 0
    }

    /// One line.
    pub fn line(&self) -> String {
        format!(
            "acked {} · read {} · lost {} · duplicated {} · reordered {} · other {} · kills {} · write gap p50 {:.1} s max {:.1} s",
            self.acked,
            self.read,
            self.lost,
            self.duplicated,
            self.reordered,
            self.other,
            self.kills,
            Duration::from_millis(self.gap_p50_ms).as_secs_f64(),
            Duration::from_millis(self.gap_max_ms).as_secs_f64(),
        )
    }
}

/// Loads, kills, counts.
pub async fn run(args: Args) -> anyhow::Result<Report> {
    let cluster = find(args.cluster.as_deref())?;
    let tls = tls::client_config(&Roots::read(&cluster.ca)?, None)?;
    let client = Client::connect(cluster.addresses(), tls).await?;
    let unique = highwater_raft::env::Env::real().random_u64();
    let topic: TopicName = format!("chaos-{unique:016x}").parse()?;
    client.admin().create_topic(NewTopic::new(topic.clone()).partitions(args.partitions)).await?;

    let load = Rc::new(Load::new(client.clone(), topic.clone(), args.partitions));
    let end = Instant::now() + args.total;
    let mut tasks = tokio::task::JoinSet::new();
    for process in 1..=args.producers {
        tasks.spawn_local(load.clone().produce(process, args.rate, end));
    }
    let mut members = tokio::task::JoinSet::new();
    for process in 101..=102 {
        members.spawn_local(load.clone().consume(process, end));
    }
    let gaps = kill(&args, &load, end).await?;
    while let Some(ended) = tasks.join_next().await {
        ended.context("a producer panicked")??;
    }
    load.settle_ends().await?;
    while let Some(ended) = members.join_next().await {
        ended.context("a member of the group panicked")??;
    }
    load.read_all().await?;
    client.admin().delete_topic(&topic).await?;
    client.close();
    let history = load.history();
    if let Some(path) = &args.history {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        history.borrow().write(&mut file)?;
    }
    let verdict = checker::check(&history.borrow());
    let (lost, duplicated, reordered) =
        (verdict.count("lost write"), verdict.count("duplicate"), verdict.count("reordered"));
    let (gap_p50_ms, gap_max_ms) = gaps.summary();
    Ok(Report {
        acked: verdict.acked,
        read: verdict.read,
        lost,
        duplicated,
        reordered,
        other: verdict.anomalies.len() - lost - duplicated - reordered,
        kills: gaps.kills(),
        gap_p50_ms,
        gap_max_ms,
        evidence: verdict.anomalies.into_iter().take(10).collect(),
    })
}

async fn kill(args: &Args, load: &Rc<Load>, end: Instant) -> anyhow::Result<Gaps> {
    let mut gaps = Gaps::new(load.acks());
    let bar = ProgressBar::no_length().with_style(
        ProgressStyle::with_template("{spinner} {elapsed} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    let mut next = Instant::now() + args.every;
    let mut round = 0;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bar.set_message(format!("{} acknowledged, {} kills", load.acked(), gaps.kills()));
        bar.tick();
        // The last kill leaves time to see what it does.
        if Instant::now() < next || next + args.every / 2 > end {
            continue;
        }
        next += args.every;
        let led = load.leaders().await.unwrap_or_default();
        for node in victims(args, &led, round)? {
            let file = find(args.cluster.as_deref())?;
            if let Some(pid) = pid_of(&file, node)? {
                let partitions = led.iter().filter(|(_, leader)| **leader == node).map(|(partition, _)| *partition);
                gaps.killed(partitions.collect());
                rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
                load.note_fault(format!("node {node} is killed"));
            }
        }
        round += 1;
    }
    bar.finish_and_clear();
    Ok(gaps)
}

fn victims(args: &Args, led: &BTreeMap<u32, u32>, round: u32) -> anyhow::Result<Vec<u32>> {
    let nodes: Vec<u32> = find(args.cluster.as_deref())?.nodes.iter().map(|node| node.id).collect();
    let nth = |of: &[u32]| of.get(round as usize % of.len().max(1)).copied();
    Ok(match args.kill {
        Victim::All => nodes,
        Victim::Any => nth(&nodes).into_iter().collect(),
        Victim::Leader => led.get(&(round % args.partitions)).copied().or_else(|| nth(&nodes)).into_iter().collect(),
    })
}

/// `None` while the node is down.
fn pid_of(file: &ClusterFile, node: u32) -> anyhow::Result<Option<rustix::process::Pid>> {
    if file.nodes.iter().all(|node| node.pid.is_none()) {
        bail!("the cluster file has no process ids: chaos kills nodes that `highwater dev` runs, and starts again");
    }
    let pid = file.nodes.iter().find(|n| n.id == node).and_then(|n| n.pid);
    Ok(pid.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw))
}

/// Where everything of the load's topic ends, once every partition answers.
async fn ends(client: &Client, topic: &TopicName) -> anyhow::Result<BTreeMap<u32, u64>> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match client.admin().list_offsets(topic, Position::Latest).await {
            Ok(ends) => return Ok(ends),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("the cluster did not come back within 60 s");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
