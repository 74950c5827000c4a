//! Reading: megabytes per second (of what is in memory still, or of what is on disk), and the time from a send to the consumer's hand.

use super::{Bed, cold, on_bed, probe::Probe};
use crate::{
    cli::{Context, advise, output},
    client::{Client, Record},
    types::{Position, TopicName},
};
use bytes::Bytes;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::{
    collections::{BTreeMap, VecDeque},
    process::ExitCode,
    time::Duration,
};
use tokio::time::Instant;

/// `bench consume`
#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    bed: Bed,
    /// Megabytes to write and read
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=MEGABYTES_MAX))]
    megabytes: u64,
    /// Write nothing: read this topic, which stays. What was written before the nodes were started, or before more than they
    /// keep in memory (log.cache_bytes, log.tail_bytes), comes from their disks the first time
    #[arg(long, value_name = "NAME", conflicts_with_all = ["megabytes", "partitions", "replicas"])]
    topic: Option<TopicName>,
    /// Have the system forget the nodes' files before the first read, so that what the nodes themselves do not keep in memory
    /// (see --topic) is read from the disk
    #[arg(long)]
    cold: bool,
}

/// `bench latency`
#[derive(clap::Args)]
pub(in crate::cli) struct LatencyArgs {
    #[command(flatten)]
    bed: Bed,
    /// Records, one after the other
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
}

#[derive(Serialize)]
struct Read {
    megabytes: f64,
    /// Absent where nothing was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    write_mb_per_s: Option<f64>,
    /// The system had forgotten the nodes' files before the first read.
    cold: bool,
    first_read_mb_per_s: f64,
    second_read_mb_per_s: f64,
    /// The disk alone, right before.
    disk: Probe,
}

#[derive(Serialize)]
struct Latency {
    records: u64,
    /// From the send to the consumer's hand.
    to_hand: Quantiles,
    /// From the send to the acknowledgement.
    to_ack: Quantiles,
    /// The wake-up of a parked fetch: from the producer's acknowledgement to the consumer's hand; 0 where the record was there
    /// before the acknowledgement.
    wake_up: Quantiles,
    /// How many were there before it.
    before_ack: u64,
    /// The disk alone, right before.
    disk: Probe,
}

/// Milliseconds.
#[derive(Serialize)]
struct Quantiles {
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

impl Quantiles {
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    fn of(micros: &Histogram<u64>) -> Self {
        let at = |q: f64| micros.value_at_quantile(q) as f64 / 1e3;
        Self { p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999), max_ms: at(1.0) }
    }

    fn row(&self, what: &str) -> Vec<String> {
        let ms = |ms: f64| format!("{ms:.2}");
        vec![what.into(), ms(self.p50_ms), ms(self.p99_ms), ms(self.p999_ms), ms(self.max_ms)]
    }
}

/// Most that may be asked for: a terabyte.
const MEGABYTES_MAX: u64 = 1 << 20;
/// Until the consumer has found its partitions and its first fetch is parked.
const TO_PARK: Duration = Duration::from_millis(200);
/// Longest wait for a record that was acknowledged.
const PATIENCE: Duration = Duration::from_secs(10);
/// Records whose acknowledgement is not waited for yet; the producer's buffer bounds their bytes.
const OPEN_MAX: usize = 100_000;

pub(in crate::cli) async fn run(context: Context, args: Args) -> anyhow::Result<ExitCode> {
    let client = context.client().await?;
    let disk = args.bed.probe(&context)?;
    let measured = match &args.topic {
        Some(topic) => read_twice(&context, &args, &client, topic, None, disk).await,
        None => {
            on_bed(&client, &args.bed, async |topic: TopicName, _: u32| {
                let written = write(&client, &topic, &args).await?;
                read_twice(&context, &args, &client, &topic, Some(written), disk).await
            })
            .await
        }
    };
    client.close();
    measured
}

/// Reads the topic, which took so long to write, and prints the figures.
async fn read_twice(
    context: &Context,
    args: &Args,
    client: &Client,
    topic: &TopicName,
    written: Option<Duration>,
    disk: Probe,
) -> anyhow::Result<ExitCode> {
    if args.cold {
        cold::forget(&context.cluster()?)?;
    }
    let first = read(client, topic).await?;
    let second = read(client, topic).await?;
    let figures = Read {
        megabytes: first.megabytes,
        write_mb_per_s: written.map(|time| first.megabytes / time.as_secs_f64()),
        cold: args.cold,
        first_read_mb_per_s: first.per_s(),
        second_read_mb_per_s: second.per_s(),
        disk,
    };
    context.output.value(&figures, || {
        let written = figures.write_mb_per_s.map(|speed| format!("written {speed:.0} MB/s, ")).unwrap_or_default();
        format!(
            "{:.0} MB: {written}read{} {:.0} MB/s, read again {:.0} MB/s\n{}",
            figures.megabytes,
            if figures.cold { " cold" } else { "" },
            figures.first_read_mb_per_s,
            figures.second_read_mb_per_s,
            args.bed.beside(&figures.disk)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Fills the topic, and gives the time that it took. All of it is acknowledged.
async fn write(client: &Client, topic: &TopicName, args: &Args) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let producer = client.producer().linger(Duration::from_millis(2)).batch_bytes(256 << 10).build();
    let value = Bytes::from(vec![b'x'; args.bed.size]);
    let mut open = VecDeque::new();
    for n in 0..(args.megabytes << 20) / args.bed.size.max(1) as u64 {
        let record = Record::new(topic.clone(), value.clone()).key(Bytes::copy_from_slice(&n.to_be_bytes()));
        open.push_back(producer.send(record).await.map_err(advise)?);
        if open.len() > OPEN_MAX
            && let Some(receipt) = open.pop_front()
        {
            receipt.await.map_err(advise)?;
        }
    }
    producer.close().await.map_err(advise)?;
    let took = start.elapsed();
    // An earlier failure shows here alone.
    for receipt in open {
        receipt.await.map_err(advise)?;
    }
    Ok(took)
}

/// What was read, of values alone, and in which time.
struct Volume {
    megabytes: f64,
    time: Duration,
}

impl Volume {
    fn per_s(&self) -> f64 {
        self.megabytes / self.time.as_secs_f64()
    }
}

/// Reads all that the topic holds now.
async fn read(client: &Client, topic: &TopicName) -> anyhow::Result<Volume> {
    let admin = client.admin();
    let from = admin.list_offsets(topic, Position::Earliest).await.map_err(advise)?;
    let to = admin.list_offsets(topic, Position::Latest).await.map_err(advise)?;
    let mut left: BTreeMap<u32, u64> =
        to.into_iter().filter(|(at, end)| from.get(at).is_none_or(|start| start < end)).collect();
    anyhow::ensure!(!left.is_empty(), "topic {topic} is empty: produce to it first, or leave out --topic");
    let start = Instant::now();
    let all: Vec<_> = left.keys().map(|partition| (topic.clone(), *partition, Position::Earliest)).collect();
    let mut consumer = client.consumer().poll_records_max(10_000).assign(all).await.map_err(advise)?;
    let mut bytes = 0;
    while !left.is_empty() {
        let given = consumer.poll(PATIENCE).await.map_err(advise)?;
        let seconds = PATIENCE.as_secs();
        anyhow::ensure!(
            !given.is_empty(),
            "{} of {topic} gave nothing for {seconds} s",
            output::counted(left.len() as u64, "partition")
        );
        for record in given {
            bytes += record.value.map_or(0, |value| value.len() as u64);
            if left.get(&record.partition).is_some_and(|end| record.offset + 1 >= *end) {
                left.remove(&record.partition);
            }
        }
    }
    consumer.close().await.map_err(advise)?;
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    let megabytes = bytes as f64 / 1e6;
    Ok(Volume { megabytes, time: start.elapsed() })
}

pub(in crate::cli) async fn latency(context: Context, args: LatencyArgs) -> anyhow::Result<ExitCode> {
    // A connection each: what the consumer is sent waits for no packet of the producer's.
    let (client, nearby) = (context.client().await?, context.client().await?);
    let disk = args.bed.probe(&context)?;
    let measured = on_bed(&client, &args.bed, async |topic: TopicName, _: u32| {
        one_by_one(&context, &args, (&client, &nearby), &topic, disk).await
    })
    .await;
    client.close();
    nearby.close();
    measured
}

/// Sends one record after the other, waits for each, and prints the figures.
async fn one_by_one(
    context: &Context,
    args: &LatencyArgs,
    (client, nearby): (&Client, &Client),
    topic: &TopicName,
    disk: Probe,
) -> anyhow::Result<ExitCode> {
    let producer = client.producer().linger(Duration::ZERO).build();
    let all = (0..args.bed.partitions).map(|partition| (topic.clone(), partition, Position::Earliest));
    let mut consumer = nearby.consumer().assign(all).await.map_err(advise)?;
    let value = Bytes::from(vec![b'x'; args.bed.size]);
    let micros = || Histogram::<u64>::new_with_bounds(1, 600_000_000, 3);
    let (mut to_hand, mut to_ack, mut wake_up) = (micros()?, micros()?, micros()?);
    let (mut before_ack, mut to_park) = (0, TO_PARK);
    for n in 0..args.records {
        tokio::time::sleep(to_park).await;
        let sent = Instant::now();
        let record = Record::new(topic.clone(), value.clone()).key(Bytes::copy_from_slice(&n.to_be_bytes()));
        let receipt = producer.send(record).await.map_err(advise)?;
        let acked = async {
            receipt.await.map_err(advise)?;
            anyhow::Ok(sent.elapsed())
        };
        let handed = async {
            let given = consumer.poll(PATIENCE).await.map_err(advise)?;
            anyhow::ensure!(!given.is_empty(), "record {n} did not come within {} s", PATIENCE.as_secs());
            anyhow::Ok(sent.elapsed())
        };
        let (acked, handed) = tokio::try_join!(acked, handed)?;
        to_hand.saturating_record(u64::try_from(handed.as_micros())?);
        to_ack.saturating_record(u64::try_from(acked.as_micros())?);
        wake_up.saturating_record(u64::try_from(handed.saturating_sub(acked).as_micros())?);
        before_ack += u64::from(handed < acked);
        // The next fetch left by now, and has half the way of a record that is acknowledged.
        to_park = acked.max(handed);
    }
    consumer.close().await.map_err(advise)?;
    producer.close().await.map_err(advise)?;
    let figures = Latency {
        records: args.records,
        to_hand: Quantiles::of(&to_hand),
        to_ack: Quantiles::of(&to_ack),
        wake_up: Quantiles::of(&wake_up),
        before_ack,
        disk,
    };
    context.output.value(&figures, || {
        let rows = [
            figures.to_hand.row("send to hand"),
            figures.to_ack.row("send to acknowledgement"),
            figures.wake_up.row("acknowledgement to hand"),
        ];
        let columns = ["ONE RECORD AT A TIME", "P50 MS", "P99 MS", "P99.9 MS", "MAX MS"];
        let wake_up = format!(
            "\nThe consumer's fetch is parked before each record is sent: acknowledgement to hand is its wake-up, from the \
             producer's acknowledgement to the consumer's hand. {} of {} were there before and count as 0.\n",
            figures.before_ack, figures.records
        );
        output::table(&columns, rows) + &wake_up + &args.bed.beside(&figures.disk)
    })?;
    Ok(ExitCode::SUCCESS)
}
