//! `highwater bench`: figures of a cluster, beside what its disk can do and, with `--beside`, beside other brokers.

mod consume;
mod load;
mod probe;
mod usage;

use super::{Context, output};
use crate::{
    client::{Client, NewTopic, Record},
    types::TopicName,
};
use anyhow::Context as _;
use bytes::Bytes;
use load::{Figures, Shape};
use std::{path::PathBuf, process::ExitCode, rc::Rc, time::Duration};
use usage::Usage;

/// `highwater bench …`
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Acknowledgements per second at several numbers of records in flight
    Produce(ProduceArgs),
    /// Megabytes per second of a topic's records, read twice: cold, then hot
    Consume(consume::Args),
    /// From a producer's send to a consumer's hand, one record at a time
    Latency(consume::LatencyArgs),
}

/// The topic that is made for the measurement, and removed behind it.
#[derive(clap::Args)]
pub(super) struct Bed {
    /// Partitions
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    /// Copies of each; the cluster's default when 0
    #[arg(long, default_value_t = 0)]
    replicas: u32,
    /// Bytes of a record
    #[arg(long, default_value_t = 1024)]
    size: usize,
}

#[derive(clap::Args)]
pub(super) struct ProduceArgs {
    #[command(flatten)]
    bed: Bed,
    /// Records in flight, one load after the other
    #[arg(long, value_delimiter = ',', default_value = "1,64,1000")]
    inflight: Vec<usize>,
    /// Seconds that are measured, each load
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds before, not measured
    #[arg(long, default_value_t = 3)]
    warm: u64,
    /// Largest batch of the producer, bytes
    #[arg(long, default_value_t = 256 << 10)]
    batch_bytes: usize,
    /// How long a batch waits for more records, milliseconds
    #[arg(long, default_value_t = 0)]
    linger_ms: u64,
    /// Lines of JSON with the same keys, from other brokers: shown in the same table
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
    /// Where the disk is probed; choose the disk of the nodes
    #[arg(long, default_value = ".", value_name = "DIR")]
    probe_dir: PathBuf,
}

pub(super) async fn run(context: Context, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Produce(args) => produce(context, args).await,
        Command::Consume(args) => consume::run(context, args).await,
        Command::Latency(args) => consume::latency(context, args).await,
    }
}

/// Makes the topic and gives its name and its copies.
async fn lay_bed(client: &Client, bed: &Bed) -> anyhow::Result<(TopicName, u32)> {
    let unique = highwater_raft::env::Env::real().random_u64();
    let name: TopicName = format!("bench-{unique:016x}").parse()?;
    let topic = NewTopic::new(name.clone()).partitions(bed.partitions).replication_factor(bed.replicas);
    let created = client.admin().create_topic(topic).await.map_err(super::advise)?;
    Ok((name, created.replication_factor))
}

async fn produce(context: Context, args: ProduceArgs) -> anyhow::Result<ExitCode> {
    let client = context.client().await?;
    let probe = probe::run(&args.probe_dir, args.bed.size)?;
    let (topic, replicas) = lay_bed(&client, &args.bed).await?;
    let mut rows = Vec::new();
    for &inflight in &args.inflight {
        let peer = "highwater".to_owned();
        let shape = Shape { peer, inflight, size: args.bed.size, partitions: args.bed.partitions, replicas };
        let producer =
            client.producer().batch_bytes(args.batch_bytes).linger(Duration::from_millis(args.linger_ms)).build();
        let producer = Rc::new(producer);
        let (value, topic) = (Bytes::from(vec![b'x'; args.bed.size]), topic.clone());
        let sender = producer.clone();
        let send = move |task: usize| {
            let (producer, value, topic) = (sender.clone(), value.clone(), topic.clone());
            async move {
                let record = Record::new(topic, value).key(Bytes::copy_from_slice(&task.to_be_bytes()));
                match producer.send(record).await {
                    Ok(receipt) => receipt.await.is_ok(),
                    Err(_) => false,
                }
            }
        };
        let cluster = context.cluster()?;
        let usage = move || Usage::now(&cluster);
        let (warm, measure) = (Duration::from_secs(args.warm), Duration::from_secs(args.seconds));
        let figures = load::run(shape, warm, measure, usage, send).await;
        if context.output == output::Output::Json {
            output::say(serde_json::to_string(&figures)?)?;
        }
        rows.push(figures);
        producer.close().await?;
    }
    client.admin().delete_topic(&topic).await.map_err(super::advise)?;
    if context.output == output::Output::Table {
        if let Some(path) = &args.beside {
            rows.extend(read_beside(path)?);
        }
        print_table(&rows);
        println!(
            "\nthis disk alone, append {} B and fdatasync: p50 {:.2} ms, p99 {:.2} ms",
            args.bed.size, probe.p50_ms, probe.p99_ms
        );
    }
    client.close();
    Ok(ExitCode::SUCCESS)
}

fn print_table(rows: &[Figures]) {
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
    ];
    let known = |figure: Option<f64>| figure.map_or_else(|| "-".into(), |figure| format!("{figure:.1}"));
    let cells = rows.iter().map(|row| {
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
        ]
    });
    println!("{}", output::table(&columns, cells));
}

fn read_beside(path: &std::path::Path) -> anyhow::Result<Vec<Figures>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    let lines = text.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("not a line of figures: {line}"))).collect()
}
