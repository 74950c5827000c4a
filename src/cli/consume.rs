//! `highwater consume`: records to stdout, alone or as a member of a group. Ends at the watermark that it found, after `--count`
//! records, or never (`--follow`).

use super::{Context, output, signals::Signals};
use crate::{
    client::{Admin, Code, ConsumeError, Consumer, Delivery},
    types::{GroupName, Position, TopicName},
};
use std::{collections::BTreeMap, future::pending, io::Write, pin::pin, process::ExitCode, time::Duration};

/// What to read, and how to print it.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The topic
    topic: TopicName,
    /// As a member of this group: its members share the partitions, and it goes on where it stopped
    #[arg(short, long, value_name = "GROUP")]
    group: Option<GroupName>,
    /// Where to begin: earliest, latest, an offset, or @MILLISECONDS since 1970. A group that exists goes on where it stopped
    #[arg(long, value_name = "POSITION", value_parser = super::position, allow_hyphen_values = true)]
    from: Option<Position>,
    /// Only this partition (not with a group)
    #[arg(long, conflicts_with = "group")]
    partition: Option<u32>,
    /// End after so many records
    #[arg(long)]
    count: Option<u64>,
    /// Wait for more instead of ending where the topic ended at the start
    #[arg(long)]
    follow: bool,
    /// Print keys, followed by this
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
}

/// One wait for records.
const POLL: Duration = Duration::from_millis(500);
/// How often the group is asked how far it is: partitions may be with other members.
const ASK_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(context: Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::heard()?;
    let client = context.client().await?;
    // A group takes topics that are yet to be made: it would wait for this one.
    let topic = client.topic(&args.topic).await.map_err(super::advise)?;
    let admin = client.admin();
    let mut left: BTreeMap<u32, u64> = match args.follow || args.count.is_some() {
        true => BTreeMap::new(),
        false => admin.list_offsets(&args.topic, Position::Latest).await.map_err(super::advise)?,
    };
    let mut consumer = match &args.group {
        Some(group) => {
            let known = match admin.describe_group(group).await {
                Ok(details) => Some(details),
                Err(error) if error.code() == Some(Code::UnknownGroup) => None,
                Err(error) => return Err(super::advise(error)),
            };
            match &known {
                Some(details) => {
                    let lag = details.lag().map_or_else(|| "unknown".into(), output::count);
                    eprintln!("group {group} goes on where it stopped (lag {lag})");
                    // What is committed already will not come again.
                    for p in details.partitions.iter().filter(|p| p.topic == args.topic.as_str()) {
                        if p.committed
                            .is_some_and(|committed| left.get(&p.partition).is_some_and(|end| committed >= *end))
                        {
                            left.remove(&p.partition);
                        }
                    }
                }
                None => {
                    let all: Vec<u32> = (0..topic.partitions).collect();
                    check_range(&admin, &args, &all).await?;
                    eprintln!("group {group} is new and starts at {}", args.from.unwrap_or(Position::Earliest));
                }
            }
            let builder = client.consumer().start(args.from.unwrap_or(Position::Earliest));
            builder.subscribe(group.clone(), [args.topic.clone()]).await.map_err(super::advise)?
        }
        None => {
            let partitions: Vec<u32> = args.partition.map_or_else(|| (0..topic.partitions).collect(), |p| vec![p]);
            check_range(&admin, &args, &partitions).await?;
            left.retain(|partition, _| partitions.contains(partition));
            let from = args.from.unwrap_or(Position::Earliest);
            let all = partitions.into_iter().map(|partition| (args.topic.clone(), partition, from));
            client.consumer().assign(all).await.map_err(super::advise)?
        }
    };
    left.retain(|_, end| *end > 0);
    let mut printer = Printer {
        out: std::io::BufWriter::new(std::io::stdout()),
        separator: args.key_separator.clone(),
        json: context.output == output::Output::Json,
    };
    let bounded = !args.follow && args.count.is_none();
    let mut reached = pin!(reached(&admin, args.group.as_ref().filter(|_| bounded), &args.topic, left.clone()));
    let mut given = 0;
    // Only a signal ends `--follow`; any other end was to come by itself.
    let stopped = |code| if args.follow && args.count.is_none() { ExitCode::SUCCESS } else { ExitCode::from(code) };
    let result = loop {
        if args.count.is_some_and(|count| given >= count) || (bounded && is_done(&consumer, &args.topic, &mut left)) {
            break Ok(ExitCode::SUCCESS);
        }
        let records = tokio::select! {
            biased;
            code = signals.next() => break Ok(stopped(code)),
            () = &mut reached => break Ok(ExitCode::SUCCESS),
            records = consumer.poll(POLL) => records,
        };
        match records {
            Ok(records) => {
                let wanted =
                    args.count.map_or(usize::MAX, |count| usize::try_from(count - given).unwrap_or(usize::MAX));
                let wanted = wanted.min(records.len());
                // Whose reader is gone got nothing of these.
                let printed = printer.print_all(&records[..wanted]);
                let consumed = if printed.is_ok() { wanted } else { 0 };
                for record in &records[..consumed] {
                    given += 1;
                    if left.get(&record.partition).is_some_and(|end| record.offset + 1 >= *end) {
                        left.remove(&record.partition);
                    }
                }
                if args.group.is_some() {
                    // What was not printed was not consumed: the group goes on behind the last line.
                    for first in unprinted(&records[consumed..]) {
                        consumer
                            .seek(&args.topic, first.partition, Position::Offset(first.offset))
                            .map_err(super::advise)?;
                    }
                }
                if let Err(error) = printed {
                    break Err(error);
                }
            }
            Err(error) => break Err(super::advise(error)),
        }
    };
    consumer.close().await.map_err(super::advise)?;
    client.close();
    eprintln!("{}", output::counted(given, "record"));
    result
}

/// Who asks for an offset is told where it is not there, before anything is read or a group is made.
async fn check_range(admin: &Admin, args: &Args, partitions: &[u32]) -> anyhow::Result<()> {
    let Some(Position::Offset(offset)) = args.from else { return Ok(()) };
    let starts = admin.list_offsets(&args.topic, Position::Earliest).await.map_err(super::advise)?;
    let ends = admin.list_offsets(&args.topic, Position::Latest).await.map_err(super::advise)?;
    for &partition in partitions {
        let (start, end) = (starts.get(&partition).copied(), ends.get(&partition).copied());
        let nearest = start.filter(|start| offset < *start).or(end.filter(|end| offset > *end));
        if let Some(nearest) = nearest {
            let topic = args.topic.clone();
            return Err(super::advise(ConsumeError::OutOfRange { topic, partition, offset, nearest }));
        }
    }
    Ok(())
}

/// Nothing is left below the watermarks that were found at the start.
fn is_done(consumer: &Consumer, topic: &TopicName, left: &mut BTreeMap<u32, u64>) -> bool {
    left.retain(|partition, end| consumer.position(topic, *partition).is_none_or(|next| next < *end));
    left.is_empty()
}

/// Until the group has committed up to these ends, whoever of its members did. What keeps it from answering, the consumer says.
async fn reached(admin: &Admin, group: Option<&GroupName>, topic: &TopicName, ends: BTreeMap<u32, u64>) {
    let Some(group) = group else { return pending().await };
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        let committed = admin.committed(group, topic).await.unwrap_or_default();
        if ends.iter().all(|(partition, end)| committed.get(partition).is_some_and(|next| next >= end)) {
            return;
        }
    }
}

/// The first of each partition.
fn unprinted(records: &[Delivery]) -> Vec<&Delivery> {
    let mut firsts: BTreeMap<u32, &Delivery> = BTreeMap::new();
    for record in records {
        firsts.entry(record.partition).or_insert(record);
    }
    firsts.into_values().collect()
}

struct Printer {
    out: std::io::BufWriter<std::io::Stdout>,
    separator: Option<String>,
    json: bool,
}

impl Printer {
    fn print_all(&mut self, records: &[Delivery]) -> anyhow::Result<()> {
        records.iter().try_for_each(|record| self.print(record))?;
        Ok(self.out.flush()?)
    }

    fn print(&mut self, record: &Delivery) -> anyhow::Result<()> {
        let text = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map(|b| String::from_utf8_lossy(b).into_owned());
        if self.json {
            let line = serde_json::json!({
                "topic": record.topic.as_str(),
                "partition": record.partition,
                "offset": record.offset,
                "timestamp": record.timestamp,
                "key": text(&record.key),
                "value": text(&record.value),
                "attempt": record.attempt,
                "redelivered": record.redelivered,
            });
            serde_json::to_writer(&mut self.out, &line).map_err(std::io::Error::from)?;
        } else {
            if let (Some(separator), Some(key)) = (&self.separator, &record.key) {
                self.out.write_all(key)?;
                self.out.write_all(separator.as_bytes())?;
            }
            self.out.write_all(record.value.as_deref().unwrap_or_default())?;
        }
        Ok(self.out.write_all(b"\n")?)
    }
}
