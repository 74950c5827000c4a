//! A node that was away for longer than the others keep their log: it is given a checkpoint, with all producers in it.

use crate::support::{self, BINARY, Cluster, Wire, seconds, topic};
use highwater::{
    batch::{Batch, Builder, Compression, Producer},
    client::Client,
    limits,
    types::{AckLevel, NodeId, Position, ProducerId, TopicId, TopicName},
    wire::{Fetch, FetchPartition, Frame, Message, Produce, Produced},
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

const PRODUCERS: u32 = limits::PRODUCERS_PER_PARTITION_MAX;
/// Small files, so that a little load makes many.
const FILES: &str = "
[log]
wal_file_bytes = 4_194_304
segment_bytes = 1_048_576
free_bytes_min = 134_217_728

[retention]
check_ms = 1_000
";
/// As large as two segments: the records of the producers go soon.
const KEPT: &str = "2097152";
/// Records that it has before it goes.
const FEW: u64 = 10;
/// Requests on their way at a time; a link takes 256.
const CHUNK: usize = 200;
/// What a checkpoint file says before and behind the checkpoint itself: format and replica, checksum.
const FILE_HEAD: usize = 24;
const FILE_TAIL: usize = 4;

/// One record. With a producer it is that producer's only batch.
fn batch(producer: Option<u32>, bytes: usize) -> Batch {
    let mut builder = Builder::new(Compression::None);
    let id = |n| ProducerId(i64::from(n) + 1);
    builder.producer(producer.map(|n| Producer { id: id(n), epoch: 0, sequence: 0 }));
    builder.push(1_000, None, Some(&vec![b'v'; bytes]), &[]).unwrap();
    builder.build().unwrap()
}

/// Partition 0 of a topic.
struct Bed {
    client: Client,
    name: TopicName,
    id: TopicId,
}

impl Bed {
    /// Makes a node lead. To whom the lead belongs gets it back soon, so it is asked for until it is seen.
    async fn lead(&self, node: u32) {
        support::wait_for(&format!("node {node} leads"), || async {
            let admin = self.client.admin();
            let _ = admin.transfer_leader(&self.name, 0, NodeId(node)).await;
            let topic = admin.describe_topic(&self.name).await.ok()?;
            (topic.partitions[0].leader == Some(NodeId(node))).then_some(())
        })
        .await;
    }

    /// Sends batches to a node, again until it takes them: so a batch of no producer may come twice.
    async fn produce(&self, cluster: &Cluster, node: u32, batches: &[Batch]) -> Vec<Produced> {
        let mut wire = cluster.wire(node).await;
        let mut taken = Vec::new();
        let begun = Instant::now();
        for chunk in batches.chunks(CHUNK) {
            while let Err(refused) = self.try_produce(&mut wire, chunk).await.map(|produced| taken.extend(produced)) {
                assert!(begun.elapsed() < support::SOON, "node {node}: {refused:?}");
                self.lead(node).await;
            }
        }
        taken
    }

    /// One of the refusals, if there are any.
    async fn try_produce(&self, wire: &mut Wire, batches: &[Batch]) -> Result<Vec<Produced>, Message> {
        let frame = |batch: &Batch| {
            let produce = Produce { topic: self.id, partition: 0, ack: AckLevel::Quorum, timeout_ms: 10_000 };
            Frame::new(1, produce).with_body(vec![batch.bytes().clone()])
        };
        wire.first.sender.send(batches.iter().map(frame).collect()).await.unwrap();
        let mut answers = Vec::new();
        for _ in batches {
            let answer = tokio::time::timeout(support::SOON, wire.first.receiver.receive()).await;
            answers.push(match answer.expect("an answer in time").unwrap().message {
                Message::Produced(produced) => Ok(produced),
                other => Err(other),
            });
        }
        answers.into_iter().collect()
    }

    /// What a node's replica holds, leader or not: its log start, its watermark, and all batches between them.
    async fn holds(&self, cluster: &Cluster, node: u32) -> Option<(u64, u64, Vec<u8>)> {
        let mut wire = cluster.wire(node).await;
        let ask = |offset| {
            let partition = FetchPartition { topic: self.id, partition: 0, offset, bytes_max: 0, from_follower: true };
            Frame::new(1, Fetch { partitions: vec![partition], ..Fetch::default() })
        };
        let (mut start, mut end, mut log) = (0, u64::MAX, Vec::new());
        let mut next = 0;
        while next < end {
            let answer = wire.ask(ask(next)).await;
            let Message::Fetched(fetched) = &answer.message else { panic!("{answer:?}") };
            let found = fetched.partitions.first()?;
            if found.refused.is_some() {
                // What is below the log start is refused, and the start is said.
                if next >= found.log_start {
                    return None;
                }
                (start, next) = (found.log_start, found.log_start);
                log.clear();
                continue;
            }
            end = found.high_watermark;
            let body = answer.body();
            next = next_offset(&body)?;
            log.extend_from_slice(&body);
        }
        Some((start, end, log))
    }
}

/// The offset behind the last of these batches.
fn next_offset(mut batches: &[u8]) -> Option<u64> {
    let mut next = None;
    while !batches.is_empty() {
        let length = usize::try_from(u32::from_be_bytes(batches[8..12].try_into().unwrap())).unwrap() + 12;
        let base = u64::from_be_bytes(batches[..8].try_into().unwrap());
        next = Some(base + u64::from(u32::from_be_bytes(batches[23..27].try_into().unwrap())) + 1);
        batches = &batches[length..];
    }
    next
}

/// The only partition's files at a node with this end, by the index that their names begin with.
fn files(data: &Path, end: &str) -> BTreeMap<u64, PathBuf> {
    let hex = |name: &str| u64::from_str_radix(name.get(..16)?, 16).ok();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let groups = fs::read_dir(data.join("groups")).into_iter().flatten().map(|folder| folder.unwrap().path());
    // Groups below belong to the cluster itself.
    let folders = groups.filter(|folder| hex(&name(folder)).is_some_and(|group| group >= limits::PARTITION_GROUP_MIN));
    let files = folders.flat_map(|folder| fs::read_dir(folder).into_iter().flatten()).map(|file| file.unwrap().path());
    files.filter(|path| name(path).ends_with(end)).filter_map(|path| Some((hex(&name(&path))?, path))).collect()
}

#[test]
fn a_node_behind_the_log_start_is_given_a_checkpoint_with_all_its_producers() {
    let _turn = support::turn();
    let mut cluster = Cluster::three(FILES);
    let runtime = support::runtime();
    let settings = ["--set", &format!("retention.bytes={KEPT}"), "--set", "retention.ms=-1"];
    cluster.run(&[&["topic", "create", "orders"][..], &settings].concat());
    let (client, name) = (runtime.block_on(cluster.client()), topic("orders"));
    let id = runtime.block_on(client.topic(&name)).unwrap().id;
    let bed = Bed { client, name, id };
    let earliest = async || bed.client.admin().list_offsets(&bed.name, Position::Earliest).await.ok()?.get(&0).copied();

    // It has the beginning, and nothing of what follows.
    let few: Vec<Batch> = (0..FEW).map(|_| batch(None, 10)).collect();
    runtime.block_on(async {
        bed.lead(1).await;
        bed.produce(&cluster, 1, &few).await;
        support::wait_for("node 3 has the beginning", || async {
            bed.holds(&cluster, 3).await.filter(|(_, end, _)| *end >= FEW)
        })
        .await;
    });
    cluster.kill(3);
    let batches: Vec<Batch> = (0..PRODUCERS).map(|n| batch(Some(n), 10)).collect();
    let large: Vec<Batch> = (0..16).map(|_| batch(None, 64 << 10)).collect();
    let begun = Instant::now();
    let (originals, start) = runtime.block_on(async {
        bed.lead(1).await;
        let originals: Vec<u64> =
            bed.produce(&cluster, 1, &batches).await.into_iter().map(|p| p.base_offset.unwrap()).collect();
        let last = *originals.iter().max().unwrap();
        let start = support::wait_for("what node 3 lacks goes from the others", || async {
            bed.produce(&cluster, 1, &large).await;
            let gone = |node| files(&cluster.data_of(node), ".seg").keys().next().is_some_and(|first| *first > FEW);
            earliest().await.filter(|start| *start > last && gone(1) && gone(2))
        })
        .await;
        (originals, start)
    });
    eprintln!("{PRODUCERS} producers and a log that starts at {start}: {}", seconds(begun.elapsed()));

    let (from, begun) = (cluster.log_of(3).len(), Instant::now());
    let mut command = Command::new(BINARY);
    command.env("RUST_LOG", "info,highwater::observe=trace");
    cluster.start_by(command, 3);
    cluster.ready();
    let logs = runtime.block_on(support::wait_for("node 3 has caught up", || async {
        let mut logs = Vec::new();
        for node in 1..=3 {
            logs.push(bed.holds(&cluster, node).await?);
        }
        logs.windows(2).all(|two| two[0].0 == two[1].0 && two[0].1 == two[1].1).then_some(logs)
    }));
    let (start, end, log) = &logs[0];
    eprintln!("node 3 has offsets {start} to {end}, {} bytes, {} after its start", log.len(), seconds(begun.elapsed()));
    for (node, (_, _, other)) in (1..).zip(&logs) {
        let differs = log.iter().zip(other).position(|(here, there)| here != there);
        assert!(log == other, "node {node} has {} bytes of {}, other ones from {differs:?} on", other.len(), log.len());
    }
    let said = cluster.log_of(3).split_off(from);
    assert!(said.contains("checkpoint installed"), "{said}");

    // The state at a boundary of segments, which all replicas have at the same index, is in files of the same bytes.
    let (index, bases) = support::wait("all have the same checkpoint", || {
        let all = [1, 2, 3].map(|node| files(&cluster.data_of(node), ".base"));
        let index = all[2].keys().copied().find(|index| all.iter().all(|bases| bases.contains_key(index)))?;
        let read = |bases: &BTreeMap<u64, PathBuf>| fs::read(&bases[&index]).ok();
        Some((index, all.iter().map(read).collect::<Option<Vec<_>>>()?))
    });
    let state = |file: &[u8]| file[FILE_HEAD..file.len() - FILE_TAIL].to_vec();
    eprintln!("a checkpoint file of {} bytes; the log of node 3 begins at entry {index}", bases[0].len());
    let first = files(&cluster.data_of(3), ".seg").keys().next().copied();
    assert!(index > FEW && first.is_none_or(|first| first >= index), "its log begins with a segment from {first:?} on");
    assert!(bases.iter().all(|base| state(base) == state(&bases[0])), "checkpoints differ");

    // Who was given the checkpoint knows the producers of before: what they sent is not taken again.
    let begun = Instant::now();
    let again = runtime.block_on(bed.produce(&cluster, 3, &batches));
    for (n, (produced, original)) in again.iter().zip(&originals).enumerate() {
        assert_eq!((produced.base_offset, produced.duplicate), (Some(*original), true), "producer {n}");
    }
    eprintln!("{} batches again, to node 3: {}", again.len(), seconds(begun.elapsed()));
    let ends = runtime.block_on(bed.client.admin().list_offsets(&bed.name, Position::Latest)).unwrap();
    assert_eq!(ends, BTreeMap::from([(0, *end)]), "nothing was taken");
    assert_eq!(again.len(), PRODUCERS as usize);
}
