//! Real nodes: a load, faults, and a verdict.
//!
//! ```text
//!  scenario ─▶ storm ─▶ target: nodes that `highwater dev` runs, or our own: behind proxies or in
//!                       namespaces, on disks that can lose power
//!              load  ─▶ history ─▶ checker ─▶ report: one line, JSON, one HTML file
//! ```

mod cluster;
mod disks;
mod gaps;
mod html;
mod load;
mod net;
mod probe;
mod processes;
mod proxy;
mod scenario;
mod spaces;
mod storm;

pub use scenario::{Ability, Fault, Network, Scenario, Who};

use crate::{checker, history::What};
use anyhow::Context as _;
use cluster::{Own, Target};
use disks::Disks;
use highwater::{
    client::{Client, NewTopic},
    tls::{self, Identity, Roots},
    types::{Position, TopicName},
};
use load::Load;
use net::Net;
use proxy::Proxies;
use spaces::Spaces;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};
use storm::Storm;
use tokio::time::Instant;

/// What is run.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A file of faults, done to a cluster of its own [default: kills, as the options say, of a cluster that runs]
    #[arg(value_name = "SCENARIO")]
    pub scenario: Option<PathBuf>,
    /// How long, in minutes [default: what the scenario says]
    #[arg(long, value_name = "M", requires = "scenario")]
    pub minutes: Option<f64>,
    /// Fail when the machine does not allow these
    #[arg(long, value_enum, value_delimiter = ',', requires = "scenario")]
    pub require: Vec<Ability>,
    /// Where the scenario's nodes keep everything; kept afterwards [default: a folder that goes when all is well]
    #[arg(long, value_name = "DIR", requires = "scenario")]
    pub dir: Option<PathBuf>,
    /// Add a row to chaos/LEDGER.md
    #[arg(long, requires = "scenario")]
    pub ledger: bool,
    /// First port of the scenario's nodes, ten each
    #[arg(long, default_value_t = 7620, requires = "scenario")]
    pub port: u16,
    /// Which cluster: a dev.toml or a node's config file [default: $HIGHWATER_CLUSTER, then ./highwater-dev/dev.toml]
    #[arg(long, value_name = "FILE", conflicts_with = "scenario")]
    pub cluster: Option<PathBuf>,
    /// A client's certificate, for clusters that ask for one
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with = "scenario")]
    pub certificate: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "certificate", conflicts_with = "scenario")]
    pub key: Option<PathBuf>,
    /// Which node is killed (SIGKILL)
    #[arg(long, value_enum, default_value_t = Who::Leader, conflicts_with = "scenario")]
    pub kill: Who,
    /// Time between kills
    #[arg(long, default_value = "5s", value_parser = duration, conflicts_with = "scenario")]
    pub every: Duration,
    /// How long
    #[arg(long = "for", default_value = "1m", value_parser = duration, conflicts_with = "scenario")]
    pub total: Duration,
    /// Partitions of the load's topic
    #[arg(long, default_value_t = 6, conflicts_with = "scenario")]
    pub partitions: u32,
    /// Producers
    #[arg(long, default_value_t = 4, conflicts_with = "scenario")]
    pub producers: u32,
    /// Records per second and producer at most
    #[arg(long, default_value_t = 2_000, conflicts_with = "scenario")]
    pub rate: u32,
    /// Write the history here, one event per line of JSON
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Write plots of throughput and latency with the faults in them here
    #[arg(long, value_name = "FILE", default_value = "highwater-chaos.html")]
    pub html: PathBuf,
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
    /// How often each kind of fault was done.
    pub faults: BTreeMap<&'static str, u64>,
    /// Datagrams between nodes that were lost on purpose.
    pub datagrams_lost: u64,
    /// Faults of the scenario that this machine does not allow: why.
    pub not_applied: Vec<String>,
    /// What went wrong beside the records.
    pub failures: Vec<String>,
    /// Nodes that fell while they led a partition of the load.
    pub failovers: u64,
    /// Longest time without an acknowledgement in a partition that the fallen node led, per fall: median, milliseconds.
    pub gap_p50_ms: u64,
    /// The worst of them.
    pub gap_max_ms: u64,
    /// Evidence, at most ten.
    pub evidence: Vec<checker::Anomaly>,
}

impl Report {
    /// Nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.other == 0 && self.failures.is_empty() && self.acked > 0
    }

    /// One line.
    pub fn line(&self) -> String {
        format!(
            "acked {} · read {} · lost {} · duplicated {} · reordered {} · other {} · failovers {} · write gap p50 {:.1} s max {:.1} s",
            self.acked,
            self.read,
            self.lost,
            self.duplicated,
            self.reordered,
            self.other,
            self.failovers,
            Duration::from_millis(self.gap_p50_ms).as_secs_f64(),
            Duration::from_millis(self.gap_max_ms).as_secs_f64(),
        )
    }

    /// What was done, in words.
    pub fn deeds(&self) -> String {
        let mut deeds: Vec<String> = self.faults.iter().map(|(kind, times)| format!("{kind} {times}")).collect();
        if self.datagrams_lost > 0 {
            deeds.push(format!("{} datagrams lost", self.datagrams_lost));
        }
        deeds.join(" · ")
    }
}

/// Loads, does faults, counts.
///
/// # Errors
/// When there is no such cluster or scenario, the machine does not allow what is required, or the cluster does not come back.
pub async fn run(args: Args) -> anyhow::Result<Report> {
    let Some(path) = &args.scenario else {
        let scenario = Scenario {
            about: "kills".into(),
            partitions: args.partitions,
            producers: args.producers,
            rate: args.rate,
            pause_s: args.every.as_secs_f64(),
            faults: vec![Fault::Kill { who: args.kill, down_s: 0.0 }],
            ..Scenario::default()
        };
        let target = Target::running(args.cluster.as_deref())?;
        return storm(&args, &scenario, &target, args.total, BTreeMap::new()).await;
    };
    let scenario = Scenario::read(path)?;
    let folder = args
        .dir
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("highwater-chaos-{}", std::process::id())));
    std::fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let without = probe::probe(&scenario, &args.require, &folder).await?;
    let report = on_own_nodes(&args, &scenario, &folder, without).await;
    match &report {
        Ok(report) if report.is_good() && args.dir.is_none() => std::fs::remove_dir_all(&folder)?,
        _ => eprintln!("logs and data are in {}", folder.display()),
    }
    report
}

async fn on_own_nodes(
    args: &Args,
    scenario: &Scenario,
    folder: &Path,
    without: BTreeMap<Ability, String>,
) -> anyhow::Result<Report> {
    let needed: BTreeSet<Ability> = scenario.needs().into_iter().filter(|n| !without.contains_key(n)).collect();
    let disks = match needed.iter().any(|ability| ability.is_of_disks()) {
        true => Some(Disks::make(folder, scenario.nodes).await?),
        false => None,
    };
    let clocks = needed.contains(&Ability::Clock);
    let net = match needed.contains(&Ability::Netns) {
        true => Net::Spaces(Spaces::make(scenario.nodes)?),
        false => Net::Proxies(Proxies::new()),
    };
    let target = Target::Own(Own::start(folder, (scenario.nodes, args.port), net, disks, clocks).await?);
    let total = Duration::from_secs_f64(60.0 * args.minutes.unwrap_or(scenario.minutes));
    storm(args, scenario, &target, total, without).await
}

async fn storm(
    args: &Args,
    scenario: &Scenario,
    target: &Target,
    total: Duration,
    without: BTreeMap<Ability, String>,
) -> anyhow::Result<Report> {
    let cluster = target.file()?;
    let shown = args.certificate.as_deref().zip(args.key.as_deref());
    let identity = shown.map(|(certificate, key)| Identity::read(certificate, key)).transpose()?;
    let tls = tls::client_config(&Roots::read(&cluster.ca)?, identity.as_ref())?;
    let client = Client::connect(cluster.addresses(), tls).await?;
    target.learn(&client).await?;
    let unique = highwater_raft::env::Env::real().random_u64();
    let topic: TopicName = format!("chaos-{unique:016x}").parse()?;
    client.admin().create_topic(NewTopic::new(topic.clone()).partitions(scenario.partitions)).await?;

    let load = Rc::new(Load::new(client.clone(), topic.clone(), scenario.partitions));
    let mut storm = Storm::new(scenario, target, &load, without.keys().copied().collect());
    under_load(scenario, &load, &mut storm, total).await?;
    let done = storm.done;
    client.close();
    if let Some(path) = &args.history {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        load.history().write(&mut file)?;
    }
    let verdict = checker::check(&load.history());
    let (lost, duplicated, reordered) =
        (verdict.count("lost write"), verdict.count("duplicate"), verdict.count("reordered"));
    let (gap_p50_ms, gap_max_ms) = done.gaps.summary(&load.acks(), load.end());
    let report = Report {
        acked: verdict.acked,
        read: verdict.read,
        lost,
        duplicated,
        reordered,
        other: verdict.anomalies.len() - lost - duplicated - reordered,
        faults: done.faults,
        datagrams_lost: target.own().map_or(0, |own| own.net.dropped()),
        not_applied: without.iter().map(|(ability, why)| format!("{ability:?}: {why}")).collect(),
        failures: done.failures,
        failovers: done.gaps.count(),
        gap_p50_ms,
        gap_max_ms,
        evidence: verdict.anomalies.into_iter().take(10).collect(),
    };
    let noted = load.history();
    let faults = noted.events.iter().filter_map(|event| match &event.what {
        What::Fault { text } => Some((event.at, text.as_str())),
        _ => None,
    });
    let acked: Vec<_> = load.acks().iter().map(|ack| (ack.at - load.begun(), ack.at - ack.sent)).collect();
    let page = html::page(&scenario.about, &report, &acked, &faults.collect::<Vec<_>>());
    std::fs::write(&args.html, page).with_context(|| format!("could not write {}", args.html.display()))?;
    eprintln!("plots: {}", args.html.display());
    Ok(report)
}

/// Producers and a group at work while the faults are done; then everything is read again.
async fn under_load(
    scenario: &Scenario,
    load: &Rc<Load>,
    storm: &mut Storm<'_>,
    total: Duration,
) -> anyhow::Result<()> {
    let mut producers = tokio::task::JoinSet::new();
    for process in 1..=scenario.producers {
        producers.spawn_local(load.clone().produce(process, scenario.rate));
    }
    let mut members = tokio::task::JoinSet::new();
    for process in 101..=102 {
        members.spawn_local(load.clone().consume(process));
    }
    storm.run(Instant::now() + total).await?;
    load.stop();
    while let Some(ended) = producers.join_next().await {
        ended.context("a producer panicked")??;
    }
    let silent = gaps::silent(&load.acks(), scenario.partitions, storm.done.healed).into_iter();
    let told = |partition| format!("partition {partition} acknowledged nothing of what was sent after the last fault");
    storm.done.failures.extend(silent.map(told));
    storm.done.failures.extend(load.catch_up().await?);
    while let Some(ended) = members.join_next().await {
        ended.context("a member of the group panicked")??;
    }
    load.read_all().await
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
