//! `highwater bench`: figures of a cluster, beside what its disk can do and, with `--beside`, beside other brokers.

mod cold;
mod consume;
mod load;
mod probe;
mod usage;

use super::{ClusterNode, Context, config, output, signals::Signals};
use crate::{
    client::{Admin, Client, Code, NewTopic, Record},
    types::TopicName,
};
use anyhow::Context as _;
use bytes::Bytes;
use load::{Figures, Shape};
use probe::Probe;
use std::{
    cell::Cell,
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
    time::Duration,
};
use usage::Usage;

/// `highwater bench …`
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Acknowledgements per second at several numbers of records in flight
    Produce(ProduceArgs),
    /// Megabytes per second of records that were written just now, or (--topic) long before
    Consume(consume::Args),
    /// From a producer's send to a consumer's hand, one record at a time
    Latency(consume::LatencyArgs),
}

/// The topic that is made for the measurement, and removed behind it.
#[derive(clap::Args)]
pub(super) struct Bed {
    /// Partitions
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// Copies of each; the cluster's default when 0
    #[arg(long, default_value_t = 0)]
    replicas: u32,
    /// Bytes of a record
    #[arg(long, default_value_t = 1024, value_parser = up_to(SIZE_MAX))]
    size: usize,
    /// Where the disk is probed; choose the disk of the nodes [default: the data of a node of `dev`, else this folder]
    #[arg(long, value_name = "DIR")]
    probe_dir: Option<PathBuf>,
}

impl Bed {
    fn probe(&self, context: &Context) -> anyhow::Result<Probe> {
        let of_a_node = || {
            let cluster = context.cluster().ok().filter(|cluster| cluster.from_dev)?;
            data_dir(cluster.nodes.first()?).ok().filter(|data| data.is_dir())
        };
        let directory = self.probe_dir.clone().or_else(of_a_node).unwrap_or_else(|| ".".into());
        probe::run(&directory, self.size)
    }

    /// The disk's figures as a line under a table.
    fn beside(&self, probe: &Probe) -> String {
        let Probe { directory, p50_ms, p99_ms } = probe;
        let place = directory.as_deref().unwrap_or(Path::new("."));
        format!(
            "\nthe disk of {} alone, append {} B and fdatasync: p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms",
            place.display(),
            self.size
        )
    }
}

/// Where a node of `dev` keeps its data: it runs in the folder of its config.
fn data_dir(node: &ClusterNode) -> anyhow::Result<PathBuf> {
    let folder = node.config.parent().unwrap_or(Path::new("."));
    Ok(folder.join(config::load(&node.config)?.node.data_dir))
}

#[derive(clap::Args)]
pub(super) struct ProduceArgs {
    #[command(flatten)]
    bed: Bed,
    /// Records in flight, one load after the other
    #[arg(long, value_delimiter = ',', default_value = "1,64,1000", value_parser = up_to(INFLIGHT_MAX))]
    inflight: Vec<usize>,
    /// Seconds that are measured, each load
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    seconds: u64,
    /// Seconds before, not measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(..=SECONDS_MAX))]
    warm: u64,
    /// Batches of so many bytes: as many records more are in flight as fill two of them per partition [default: what
    /// the records in flight give, at most 262144]
    #[arg(long, value_parser = up_to(SIZE_MAX))]
    batch_bytes: Option<usize>,
    /// How long a batch waits for more records, milliseconds [default: 0; with --batch-bytes until it is full]
    #[arg(long)]
    linger_ms: Option<u64>,
    /// Lines of JSON with the same keys, from other brokers: shown in the same table
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
}

/// Largest record and batch that may be asked for: far more than any broker takes.
const SIZE_MAX: u64 = 64 << 20;
/// Most records in flight that may be asked for.
const INFLIGHT_MAX: u64 = 1_000_000;
/// Longest load that may be asked for.
const SECONDS_MAX: u64 = 7 * 24 * 3_600;

/// From 1 on: nothing has no figures.
fn up_to(most: u64) -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..=most)
}

/// Largest batch when none is asked for.
const BATCH_BYTES: usize = 256 << 10;
/// Longer than any batch takes to fill.
const UNTIL_FULL: Duration = Duration::from_secs(30);
/// What a record takes in the producer's buffer beside its bytes, at most.
const RECORD_BOOKKEEPING: usize = 256;

impl ProduceArgs {
    /// Records that must be in flight for full batches everywhere: while one of a partition is under way, the next fills.
    fn inflight(&self, asked: usize) -> usize {
        let Some(batch) = self.batch_bytes else { return asked };
        asked.max(2 * self.bed.partitions as usize * batch.div_ceil(self.bed.size.max(1)))
    }

    fn linger(&self) -> Duration {
        let default = if self.batch_bytes.is_some() { UNTIL_FULL } else { Duration::ZERO };
        self.linger_ms.map_or(default, Duration::from_millis)
    }
}

pub(super) async fn run(context: Context, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Produce(args) => produce(context, args).await,
        Command::Consume(args) => consume::run(context, args).await,
        Command::Latency(args) => consume::latency(context, args).await,
    }
}

/// Makes the topic, measures on it, and removes it whatever came of that. A signal ends the measurement, a second one the removal.
async fn on_bed(
    client: &Client,
    bed: &Bed,
    measure: impl AsyncFnOnce(TopicName, u32) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::heard()?;
    let unique = highwater_raft::env::Env::real().random_u64();
    let name: TopicName = format!("bench-{unique:016x}").parse()?;
    let admin = client.admin();
    let topic = NewTopic::new(name.clone()).partitions(bed.partitions).replication_factor(bed.replicas);
    // Not cut off: what is half made could not be removed.
    let measured = match admin.create_topic(topic).await {
        Ok(made) => tokio::select! {
            biased;
            code = signals.next() => Ok(ExitCode::from(code)),
            measured = measure(name.clone(), made.replication_factor) => measured,
        },
        Err(error) => Err(super::advise(error)),
    };
    let removed = tokio::select! {
        biased;
        _ = signals.next() => Err(anyhow::anyhow!("its removal was interrupted")),
        removed = remove(&admin, &name) => removed,
    };
    match removed {
        Ok(()) => measured,
        Err(error) => {
            eprintln!("error: topic {name} may be left: {error:#}; remove it with `highwater topic delete {name}`");
            measured.map(|_| ExitCode::FAILURE)
        }
    }
}

/// Removes the topic, if it was made.
async fn remove(admin: &Admin, name: &TopicName) -> anyhow::Result<()> {
    match admin.delete_topic(name).await {
        Err(error) if error.code() == Some(Code::UnknownTopic) => Ok(()),
        removed => removed.map_err(super::advise),
    }
}

/// What was measured before the load.
struct Before {
    disk: Probe,
    /// Memory of the largest node, where it is known.
    idle_rss_mb: Option<f64>,
    binary_mb: Option<f64>,
}

async fn produce(context: Context, args: ProduceArgs) -> anyhow::Result<ExitCode> {
    let client = context.client().await?;
    let beside = args.beside.as_deref().map(read_beside).transpose()?.unwrap_or_default();
    let disk = args.bed.probe(&context)?;
    let idle_rss_mb = Usage::now(&context.cluster()?).map(|usage| usage.node_rss_mb);
    let before = Before { disk, idle_rss_mb, binary_mb: usage::binary_mb() };
    let measured = on_bed(&client, &args.bed, async |topic: TopicName, replicas: u32| {
        let mut rows = Vec::new();
        for &asked in &args.inflight {
            let figures = load_once(&context, &args, &client, (&topic, replicas), asked, &before).await?;
            if context.output == output::Output::Json {
                output::say(serde_json::to_string(&figures)?)?;
            }
            rows.push(figures);
        }
        print(&context, &args, &rows, &beside, &before)?;
        Ok(verdict(&rows))
    })
    .await;
    client.close();
    measured
}

/// One load: so many records in flight for some seconds.
async fn load_once(
    context: &Context,
    args: &ProduceArgs,
    client: &Client,
    (topic, replicas): (&TopicName, u32),
    asked: usize,
    before: &Before,
) -> anyhow::Result<Figures> {
    let inflight = args.inflight(asked);
    let peer = "highwater".to_owned();
    let shape = Shape { peer, inflight, size: args.bed.size, partitions: args.bed.partitions, replicas };
    let buffer = (32 << 20).max(inflight * (args.bed.size + RECORD_BOOKKEEPING));
    let producer = client.producer().batch_bytes(args.batch_bytes.unwrap_or(BATCH_BYTES)).linger(args.linger());
    let producer = Rc::new(producer.buffer_bytes(buffer).build());
    let (value, topic) = (Bytes::from(vec![b'x'; args.bed.size]), topic.clone());
    let sender = producer.clone();
    // All that is acknowledged, the warm-up too: as the client counts its batches.
    let (acknowledged, batches_before) = (Rc::new(Cell::new(0u64)), client.stats().batches_acknowledged);
    let counted = acknowledged.clone();
    // Full batches everywhere need as many records for each partition.
    let partitions = args.batch_bytes.map(|_| args.bed.partitions);
    let send = move |task: usize| {
        let (producer, value, topic, count) = (sender.clone(), value.clone(), topic.clone(), acknowledged.clone());
        async move {
            let mut record = Record::new(topic, value).key(Bytes::copy_from_slice(&task.to_be_bytes()));
            record.partition = partitions.map(|partitions| u32::try_from(task).unwrap_or(0) % partitions);
            let receipt = producer.send(record).await.map_err(|error| super::advise(error).to_string())?;
            receipt.await.map_err(|error| super::advise(error).to_string())?;
            count.set(count.get() + 1);
            Ok::<_, String>(())
        }
    };
    let cluster = context.cluster()?;
    let usage = move || Usage::now(&cluster);
    let (warm, measure) = (Duration::from_secs(args.warm), Duration::from_secs(args.seconds));
    let last = producer.clone();
    let flush = async move {
        // What fails is counted by those who wait for it.
        let _ = last.flush().await;
    };
    let mut figures = load::run(shape, warm, measure, usage, flush, send).await;
    let batches = client.stats().batches_acknowledged - batches_before;
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    let mean = (counted.get() * args.bed.size as u64) as f64 / batches.max(1) as f64;
    figures.batch_bytes = Some(mean);
    (figures.node_idle_rss_mb, figures.binary_mb) = (before.idle_rss_mb, before.binary_mb);
    figures.disk = Some(before.disk.clone());
    producer.close().await.map_err(super::advise)?;
    Ok(figures)
}

fn print(
    context: &Context,
    args: &ProduceArgs,
    rows: &[Figures],
    beside: &[Figures],
    before: &Before,
) -> anyhow::Result<()> {
    match context.output {
        output::Output::Table => {
            print_table(rows.iter().chain(beside))?;
            output::say(args.bed.beside(&before.disk))?;
            if let Some((idle, binary)) = before.idle_rss_mb.zip(before.binary_mb) {
                output::say(format!("a node before the load: {idle:.0} MB at most; this program: {binary:.1} MB"))?;
            }
        }
        // Ours were printed when they were there.
        output::Output::Json => {
            for figures in beside {
                output::say(serde_json::to_string(figures)?)?;
            }
        }
    }
    Ok(())
}

/// Says what failed: the figures are of the rest.
fn verdict(rows: &[Figures]) -> ExitCode {
    let Some(first) = rows.iter().find_map(|row| row.first_error.as_ref()) else { return ExitCode::SUCCESS };
    let failed = output::counted(rows.iter().map(|row| row.errors).sum(), "record");
    eprintln!("error: {failed} failed, the first with: {first}");
    ExitCode::FAILURE
}

fn print_table<'a>(rows: impl Iterator<Item = &'a Figures>) -> anyhow::Result<()> {
    let columns = [
        "PEER",
        "IN FLIGHT",
        "SIZE",
        "PARTITIONS",
        "REPLICAS",
        "ACKS/S",
        "MB/S",
        "P50 MS",
        "P99 MS",
        "P99.9 MS",
        "MAX MS",
        "GAP MS",
        "ERRORS",
        "CPU S/GB",
        "NODE MB",
        "BATCH KIB",
    ];
    let known = |figure: Option<f64>| figure.map_or_else(|| "-".into(), |figure| format!("{figure:.1}"));
    let cells = rows.map(|row| {
        vec![
            row.peer.clone(),
            row.inflight.to_string(),
            row.size.to_string(),
            row.partitions.to_string(),
            row.replicas.to_string(),
            format!("{:.0}", row.acks_per_s),
            format!("{:.1}", row.mb_per_s),
            format!("{:.2}", row.p50_ms),
            format!("{:.2}", row.p99_ms),
            format!("{:.2}", row.p999_ms),
            format!("{:.1}", row.max_ms),
            format!("{:.1}", row.gap_ms),
            row.errors.to_string(),
            known(row.cpu_s_per_gb),
            known(row.node_rss_mb),
            known(row.batch_bytes.map(|bytes| bytes / 1024.0)),
        ]
    });
    output::say(output::table(&columns, cells))
}

fn read_beside(path: &Path) -> anyhow::Result<Vec<Figures>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    let lines = text.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("not a line of figures: {line}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ProduceArgs,
    }

    fn args(words: &[&str]) -> ProduceArgs {
        Line::try_parse_from([&["bench"], words].concat()).map(|line| line.args).unwrap()
    }

    #[test]
    fn loads_that_have_no_figures_are_refused() {
        for words in [
            ["--inflight", "0"],
            ["--inflight", "1,99999999999999999"],
            ["--seconds", "0"],
            ["--seconds", "18446744073709551615"],
            ["--warm", "18446744073709551615"],
            ["--size", "0"],
            ["--partitions", "0"],
            ["--batch-bytes", "0"],
        ] {
            assert!(Line::try_parse_from([&["bench"], &words[..]].concat()).is_err(), "{words:?}");
        }
        assert_eq!((args(&["--warm", "0"]).warm, args(&["--inflight", "1,64"]).inflight), (0, vec![1, 64]));
    }

    #[test]
    fn full_batches_have_enough_in_flight() {
        let plain = args(&["--partitions", "300"]);
        assert_eq!((plain.inflight(1_000), plain.linger()), (1_000, Duration::ZERO));
        let full = args(&["--partitions", "300", "--batch-bytes", "16384"]);
        assert_eq!((full.inflight(1_000), full.linger()), (300 * 16 * 2, UNTIL_FULL));
        assert_eq!(args(&["--batch-bytes", "16384"]).inflight(1_000), 1_000);
    }

    #[test]
    fn lines_of_other_brokers_are_read_with_and_without_what_only_we_know() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers");
        let line = r#"{"peer":"nats","inflight":1,"size":1024,"partitions":1,"replicas":3,"acks_per_s":508.0,"mb_per_s":0.5,"p50_ms":1.9,"p99_ms":3.0,"p999_ms":4.0,"max_ms":9.0,"errors":0,"gap_ms":10.0"#;
        let disk = r#","batch_bytes":1024.0,"disk":{"p50_ms":0.18,"p99_ms":0.4}"#;
        std::fs::write(&path, format!("# made today\n{line}}}\n{line}{disk}}}\n")).unwrap();
        let rows = read_beside(&path).unwrap();
        assert_eq!((rows.len(), rows[0].disk.is_none()), (2, true));
        // Printed again they have the same keys.
        assert!(serde_json::to_string(&rows[1]).unwrap().contains(disk));
    }
}
