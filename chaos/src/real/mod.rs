//! Real nodes: a load, faults, and a verdict.
//!
//! ```text
//!  scenario ─▶ storm ─▶ target: nodes that `highwater dev` runs, or our own: behind proxies or in
//!                       namespaces, on disks that can lose power
//!              load  ─▶ history ─▶ checker ─▶ report: one line, JSON, one HTML file
//!              nodes ─▶ facts ─┘
//! ```

mod cluster;
mod disks;
mod facts;
mod gaps;
mod html;
mod load;
mod net;
mod probe;
mod processes;
mod proxy;
mod report;
mod scenario;
mod spaces;
mod stop;
mod storm;

pub use report::Report;
pub use scenario::{Ability, Fault, Network, Scenario, Who};
pub use stop::Stopped;

use crate::{checker, history::History};
use anyhow::Context as _;
use clap::ValueEnum as _;
use cluster::{Own, Target};
use disks::Disks;
use facts::Facts;
use highwater::{
    client::{Builder, Client, Dialer, QuicDialer},
    tls::{self, Identity, Roots},
    types::{Position, TopicName},
};
use html::Course;
use load::Load;
use net::Net;
use proxy::Proxies;
use spaces::Spaces;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use stop::stopped;
use storm::{Done, Storm};
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
    /// Fail when the machine does not allow these, or the run did not come to them
    #[arg(long, value_enum, value_delimiter = ',', requires = "scenario")]
    pub require: Vec<Ability>,
    /// Where the scenario's nodes keep everything; kept afterwards [default: a folder that goes when all is well]
    #[arg(long, value_name = "DIR", requires = "scenario")]
    pub dir: Option<PathBuf>,
    /// Have the scenario's nodes write down what clients cannot see (entries, marks, leaders, what is on disk, who owns what), and judge it too
    #[arg(long)]
    pub facts: bool,
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
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "scenario")]
    pub partitions: u32,
    /// Producers
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "scenario")]
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

impl Args {
    /// What is typed to run a scenario, without what changes nothing: folders, ports, and how results are given.
    pub fn command(&self) -> String {
        let name = self.scenario.as_deref().and_then(Path::file_name).unwrap_or_default();
        let mut words = format!("run {}", name.to_string_lossy());
        if let Some(minutes) = self.minutes {
            let _ = write!(words, " --minutes {minutes}");
        }
        if self.facts {
            words += " --facts";
        }
        let required = self.require.iter().filter_map(Ability::to_possible_value);
        let required: Vec<_> = required.map(|ability| ability.get_name().to_owned()).collect();
        if !required.is_empty() {
            let _ = write!(words, " --require {}", required.join(","));
        }
        words
    }
}

/// `90s`, `2m`, `1h`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| format!("{text:?} is not a time such as 90s or 2m"))?;
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        unit => return Err(format!("{unit:?} is not a unit of time: use ms, s, m or h")),
    };
    let time = number.checked_mul(unit_ms).map(Duration::from_millis).filter(|time| *time <= TIME_MAX);
    time.ok_or_else(|| format!("{text:?} is longer than a year"))
}

/// Why `--facts` is refused.
const FACTS_OF_SCENARIOS: &str = "--facts needs a scenario: nodes write down what clients cannot see from their start on, and only a \
    scenario starts nodes of its own; name a file of chaos/scenarios, or leave --facts out";

/// Longest time that may be asked for.
const TIME_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

/// Loads, does faults, counts. What fails once nodes are started is in the report; after a signal there is none.
///
/// # Errors
/// When there is no such cluster or scenario, the machine does not allow what is required, or results cannot be written.
pub async fn run(args: Args) -> anyhow::Result<Result<Report, Stopped>> {
    anyhow::ensure!(!args.facts || args.scenario.is_some(), FACTS_OF_SCENARIOS);
    [Some(&args.html), args.history.as_ref()].into_iter().flatten().try_for_each(|path| try_to_write(path))?;
    let scenario = match &args.scenario {
        Some(path) => Scenario::read(path)?,
        None => Scenario {
            about: "kills".into(),
            partitions: args.partitions,
            producers: args.producers,
            rate: args.rate,
            pause_s: args.every.as_secs_f64(),
            faults: vec![Fault::Kill { who: args.kill, down_s: 0.0 }],
            ..Scenario::default()
        },
    };
    let (mut report, course) = match args.scenario {
        // Nodes end with the future that has them.
        Some(_) => tokio::select! {
            biased;
            stopped = stopped() => return Ok(Err(stopped)),
            ran = on_own_nodes(&args, &scenario, probe::refused) => ran?,
        },
        None => {
            let target = Target::running(args.cluster.as_deref())?;
            let load = begin(&args, &scenario, &target).await?;
            tokio::select! {
                biased;
                stopped = stopped() => {
                    // A second signal does not wait for that.
                    tokio::select! {
                        () = load.abandon() => {}
                        _ = self::stopped() => {}
                    }
                    return Ok(Err(stopped));
                }
                ran = storm(&args, &scenario, &target, args.total, load.clone(), BTreeSet::new()) => ran,
            }
        }
    };
    match std::fs::write(&args.html, html::page(&scenario.about, &report, &course)) {
        Ok(()) => eprintln!("plots: {}", args.html.display()),
        Err(error) => report.failures.push(format!("could not write {}: {error}", args.html.display())),
    }
    Ok(Ok(report))
}

/// Whether a file of results can be written, while there are none to lose. What is there stays.
fn try_to_write(path: &Path) -> anyhow::Result<()> {
    let is_new = !path.exists();
    let opened = std::fs::File::options().append(true).create(true).open(path);
    opened.with_context(|| format!("could not write {}", path.display()))?;
    if is_new {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// `refused` says why the machine does not allow something.
async fn on_own_nodes(
    args: &Args,
    scenario: &Scenario,
    refused: impl AsyncFn(Ability, &Path) -> Option<String>,
) -> anyhow::Result<(Report, Course)> {
    let folder = args
        .dir
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("highwater-chaos-{}", std::process::id())));
    std::fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let without = probe::probe(scenario, &args.require, &folder, refused).await?;
    let needed: BTreeSet<Ability> = scenario.needs().into_iter().filter(|n| !without.contains_key(n)).collect();
    let disks = match needed.iter().any(|ability| ability.is_of_disks()) {
        true => Some(Disks::make(&folder, scenario.nodes).await?),
        false => None,
    };
    let clocks = needed.contains(&Ability::Clock);
    let net = match needed.contains(&Ability::Netns) {
        true => Net::Spaces(Spaces::make(scenario.nodes)?),
        false => Net::Proxies(Proxies::new()),
    };
    let facts = args.facts.then(|| Facts::make(&folder)).transpose()?;
    let target = Target::Own(Own::make(&folder, (scenario, args.port), net, disks, clocks, facts).await?);
    let total = Duration::from_secs_f64(60.0 * args.minutes.unwrap_or(scenario.minutes));
    let (mut report, course) = match begin(args, scenario, &target).await {
        Ok(load) => storm(args, scenario, &target, total, load, without.keys().copied().collect()).await,
        Err(error) => (Report::failed(&error), Course::default()),
    };
    drop(target);
    report.require(&args.require);
    report.not_applied = without.iter().map(|(ability, why)| format!("{ability:?}: {why}")).collect();
    match report.is_good() && args.dir.is_none() {
        true => std::fs::remove_dir_all(&folder)?,
        false => eprintln!("logs and data are in {}", folder.display()),
    }
    Ok((report, course))
}

/// A cluster that answers, and a topic for the load.
async fn begin(args: &Args, scenario: &Scenario, target: &Target) -> anyhow::Result<Rc<Load>> {
    if let Target::Own(own) = target {
        own.start().await?;
    }
    let cluster = target.file()?;
    let shown = args.certificate.as_deref().zip(args.key.as_deref());
    let identity = shown.map(|(certificate, key)| Identity::read(certificate, key)).transpose()?;
    let tls = tls::client_config(&Roots::read(&cluster.ca)?, identity.as_ref())?;
    let dialer: Arc<dyn Dialer> = Arc::new(QuicDialer::new(tls)?);
    let connect = || {
        let builder = Client::builder().dialer(dialer.clone());
        cluster.addresses().into_iter().fold(builder, Builder::bootstrap).connect()
    };
    let (client, onlooker) = (connect().await?, connect().await?);
    target.learn(&client).await?;
    let unique = highwater_raft::env::Env::real().random_u64();
    let topic: TopicName = format!("chaos-{unique:016x}").parse()?;
    let load = Load::new([client, onlooker], dialer, topic, scenario.partitions);
    load.create().await?;
    Ok(Rc::new(load))
}

async fn storm(
    args: &Args,
    scenario: &Scenario,
    target: &Target,
    total: Duration,
    load: Rc<Load>,
    without: BTreeSet<Ability>,
) -> (Report, Course) {
    let mut storm = Storm::new(scenario, target, &load, without);
    let ended = under_load(scenario, &load, &mut storm, total).await;
    let looked = storm.look();
    let Done { gaps, faults, mut failures, .. } = storm.done;
    let mut history = load.history();
    let heard = hear(target, &mut history, load.begun_us()).await;
    let written = args.history.as_deref().map_or(Ok(()), |path| write(&history, path));
    let (facts, heard) = heard.map_or_else(|error| (0, Err(error)), |facts| (facts, Ok(())));
    let failed = [ended, looked, heard, written].into_iter().filter_map(Result::err);
    failures.extend(failed.map(|error| format!("{error:#}")));
    let (gap_p50_ms, gap_max_ms) = gaps.summary(&load.acks(), load.end());
    let report = Report {
        seconds: (load.end() - load.begun()).as_secs_f64(),
        faults,
        facts,
        datagrams_lost: target.own().map_or(0, |own| own.net.dropped()),
        failures,
        failovers: gaps.count(),
        gap_p50_ms,
        gap_max_ms,
        ..Report::of(checker::check(&history))
    };
    (report, Course::of(&history, load.acked_at()))
}

/// Ends the nodes and puts what they said of themselves into the history; gives how many facts they are.
async fn hear(target: &Target, history: &mut History, begun_us: u64) -> anyhow::Result<u64> {
    let Target::Own(own) = target else { return Ok(0) };
    let Some(facts) = &own.facts else { return Ok(0) };
    own.end().await?;
    facts.merge_into(history, begun_us)
}

fn write(history: &History, path: &Path) -> anyhow::Result<()> {
    let file = std::fs::File::create(path).with_context(|| format!("could not write {}", path.display()))?;
    Ok(history.write(&mut std::io::BufWriter::new(file))?)
}

/// Producers and readers at work while the faults are done; then everything is read again.
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
    let mut readers = tokio::task::JoinSet::new();
    for process in 101..=102 {
        readers.spawn_local(load.clone().consume(process));
    }
    readers.spawn_local(load.clone().read(201));
    readers.spawn_local(load.clone().watch(202));
    storm.run(Instant::now() + total).await?;
    load.stop();
    while let Some(ended) = producers.join_next().await {
        ended.context("a producer panicked")??;
    }
    let silent = gaps::silent(&load.acks(), scenario.partitions, storm.done.healed).into_iter();
    let told = |partition| format!("partition {partition} acknowledged nothing of what was sent after the last fault");
    storm.done.failures.extend(silent.map(told));
    storm.done.failures.extend(load.catch_up().await?);
    while let Some(ended) = readers.join_next().await {
        ended.context("a reader panicked")??;
    }
    load.finish().await
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

/// Says that a test was not run, where the output of tests is captured too: that is what macros print, not what is written.
#[cfg(test)]
fn not_run(why: &str) {
    use std::io::Write as _;
    let line = format!("not run: {}: {why}\n", std::thread::current().name().unwrap_or("a test"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Args {
        Command::try_parse_from([&["run"], words].concat()).unwrap().args
    }

    #[tokio::test]
    async fn a_scenario_has_what_is_required_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let words = [&kills().0, "--require", "disk-full", "--dir", dir.path().to_str().unwrap()];
        let error = run(args(&words)).await.unwrap_err().to_string();
        assert_eq!(error, "DiskFull is required, and nothing in the scenario needs it");
    }

    async fn no_disks(_: Ability, _: &Path) -> Option<String> {
        Some("no loop devices".into())
    }

    #[tokio::test]
    async fn what_is_required_and_not_possible_here_fails_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let power = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/power.toml");
        let words = [power.to_str().unwrap(), "--require", "power-loss", "--dir", dir.path().to_str().unwrap()];
        let ran = on_own_nodes(&args(&words), &Scenario::read(&power).unwrap(), no_disks).await;
        let error = ran.err().unwrap().to_string();
        assert_eq!(error, "PowerLoss is required, and not possible here: no loop devices");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was begun");
    }

    #[tokio::test]
    async fn facts_of_a_cluster_that_runs_are_refused_with_the_reason() {
        let error = run(args(&["--facts"])).await.unwrap_err().to_string();
        assert!(error.starts_with("--facts needs a scenario: nodes write down"), "{error}");
    }

    #[tokio::test]
    async fn files_that_cannot_be_written_are_refused_before_anything_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        let (nodes, kept) = (dir.path().join("nodes"), dir.path().join("kept.html"));
        std::fs::write(&kept, "of the run before").unwrap();
        let (scenario, port) = kills();
        let missing = dir.path().join("missing/file");
        for (flag, other) in [("--html", "--history"), ("--history", "--html")] {
            let words = [&scenario, "--port", &port, "--dir", nodes.to_str().unwrap(), flag, missing.to_str().unwrap()];
            let words = [&words[..], &[other, kept.to_str().unwrap()]].concat();
            let ran = tokio::task::LocalSet::new().run_until(run(args(&words))).await;
            let said = ran.map(|_| "it ran").unwrap_err().to_string();
            assert!(said.starts_with(&format!("could not write {}", missing.display())), "{flag}: {said}");
        }
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "of the run before");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was begun");
    }

    #[test]
    fn words_that_make_no_load_are_refused() {
        for words in
            [["--partitions", "0"], ["--producers", "0"], ["--for", "18446744073709551615h"], ["--every", "9000h"]]
        {
            assert!(Command::try_parse_from([&["run"], &words[..]].concat()).is_err(), "{words:?}");
        }
        let times = ["500ms", "90", "90s", "2m", "1h"].map(|text| duration(text).unwrap().as_millis());
        assert_eq!(times, [500, 90_000, 90_000, 120_000, 3_600_000]);
    }

    #[test]
    fn a_command_is_told_as_it_is_typed() {
        let typed = "run kills.toml --minutes 2.5 --facts --require power-loss,clock";
        let words: Vec<_> = typed.split(' ').skip(2).chain(["--dir", "/somewhere", "--port", "9000"]).collect();
        assert_eq!(args(&[&["chaos/scenarios/kills.toml"], &words[..]].concat()).command(), typed);
    }

    /// A scenario without rights, and first ports of nodes that are free around it.
    fn kills() -> (String, String) {
        let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/kills.toml");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        (scenario.to_str().unwrap().to_owned(), (socket.local_addr().unwrap().port() - 30).to_string())
    }

    #[tokio::test]
    async fn nodes_that_never_serve_are_a_report_with_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let html = dir.path().join("page.html");
        let (scenario, port) = kills();
        let words =
            [&scenario, "--port", &port, "--dir", dir.path().to_str().unwrap(), "--html", html.to_str().unwrap()];
        // This program is no node: what is started ends at once.
        let report = tokio::task::LocalSet::new().run_until(run(args(&words))).await.unwrap().unwrap();
        assert!(!report.is_good() && report.failures[0].contains("ended while it started"), "{report:?}");
        assert!(std::fs::read_to_string(html).unwrap().contains("ended while it started"));
    }
}
