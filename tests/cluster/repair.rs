//! Disks that lost something: said, not served, not voted with, repaired from peers.

use crate::{
    drain::read_all,
    support::{self, Cluster, seconds, topic},
};
use highwater::{
    client::{Client, Record},
    types::{NodeId, Position, TopicName},
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

const PARTITIONS: u32 = 3;
/// Small files, so that some megabytes make segments and checkpoints of all kinds.
const SMALL: &str = "\n[log]\nwal_file_bytes = 4_194_304\nsegment_bytes = 1_048_576\ncache_bytes = 4_194_304\nfree_bytes_min = 134_217_728\n";

type Acked = BTreeMap<(u32, u64), String>;

async fn fill(client: &Client, name: &TopicName, what: &str, (count, bytes): (u32, usize)) -> Acked {
    let producer = client.producer().linger(Duration::from_millis(2)).build();
    let mut open = Vec::new();
    for n in 0..count {
        let value = format!("{what} {n:06}{}", ".".repeat(bytes));
        let record = Record::new(name.clone(), value.clone()).partition(n % PARTITIONS);
        open.push((value, producer.send(record).await.unwrap()));
    }
    let mut acked = BTreeMap::new();
    for (value, receipt) in open {
        let at = receipt.await.unwrap();
        acked.insert((at.partition, at.offset.unwrap()), value);
    }
    acked
}

struct Ledger {
    cluster: Cluster,
    runtime: Runtime,
    client: Client,
    name: TopicName,
    acked: Acked,
}

impl Ledger {
    fn new(more: &str, (count, bytes): (u32, usize)) -> Self {
        let cluster = Cluster::three(more);
        let runtime = support::runtime();
        let name = topic("ledger");
        let client = runtime.block_on(cluster.client());
        runtime.block_on(support::create(&client, &name, PARTITIONS));
        let mut acked = runtime.block_on(fill(&client, &name, "before", (count, bytes)));
        acked.extend(runtime.block_on(fill(&client, &name, "and after", (300, 0))));
        // Sealed: behind the last flush is another frame.
        std::thread::sleep(Duration::from_secs(1));
        Self { cluster, runtime, client, name, acked }
    }

    /// Node 3 comes back, says what is wrong, and is made whole; the repair is seen in the cluster's status.
    fn back(&mut self, what: &str, said: &str) {
        let (from, begun) = (self.cluster.log_of(3).len(), Instant::now());
        self.cluster.start(3);
        self.cluster.ready();
        let log = support::wait("it is said", || {
            let log = self.cluster.log_of(3).split_off(from);
            log.contains(said).then_some(log)
        });
        for line in log.lines().filter(|line| line.contains("ERROR")).take(3) {
            eprintln!("{what}: {line}");
        }
        let seen = self.runtime.block_on(support::repaired(&self.client));
        eprintln!("{what}: whole again after {}; seen meanwhile: {seen:?}", seconds(begun.elapsed()));
        assert!(!log.contains("panicked"), "{log}");
    }

    /// Nodes 2 and 3 alone serve all that was acknowledged, and take more.
    fn whole_without_node_1(&mut self) {
        self.cluster.kill(1);
        let (client, name) = (&self.client, &self.name);
        let records = self.runtime.block_on(async {
            let ends = support::wait_for("two nodes serve", || async {
                client.admin().list_offsets(name, Position::Latest).await.ok()
            });
            read_all(client, name, &ends.await).await
        });
        assert!(records == self.acked, "{} of {} records", records.len(), self.acked.len());
        self.acked.extend(self.runtime.block_on(fill(client, name, "by two", (30, 0))));
        self.cluster.start(1);
        self.cluster.ready();
        self.runtime.block_on(support::settled(client));
    }
}

#[test]
fn a_wiped_node_comes_back_as_somebody_else() {
    let _turn = support::turn();
    let mut ledger = Ledger::new("", (1_500, 0));
    let directory = |ledger: &Ledger| fs::read(ledger.cluster.data_of(3).join("directory")).unwrap();
    let before = directory(&ledger);
    ledger.cluster.kill(3);
    fs::remove_dir_all(ledger.cluster.data_of(3)).unwrap();
    ledger.acked.extend(ledger.runtime.block_on(fill(&ledger.client, &ledger.name, "meanwhile", (300, 0))));
    ledger.back("wiped", "serving");
    assert_ne!(directory(&ledger), before, "the directory has a new id, so its replicas do");
    ledger.whole_without_node_1();
}

/// The last write-ahead log file that holds these bytes, and where in it they are last.
fn find(cluster: &Cluster, node: u32, bytes: &[u8]) -> (PathBuf, u64) {
    let files = fs::read_dir(cluster.data_of(node).join("wal")).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "wal")).collect();
    files.sort();
    let mut found = files.into_iter().filter_map(|path| {
        let content = fs::read(&path).unwrap();
        let at = content.windows(bytes.len()).rposition(|window| window == bytes)?;
        Some((path, at as u64))
    });
    found.next_back().expect("the record is in the log")
}

/// A frame of the write-ahead log begins with this, on a page of its own; its directory follows behind so many bytes.
const FRAME: [u8; 4] = *b"HWWF";
const PAGE: u64 = 4_096;
const DIRECTORY: u64 = 36;

/// Where the frame begins that this byte belongs to.
fn frame_of(path: &Path, at: u64) -> u64 {
    let file = fs::File::open(path).unwrap();
    let mut starts = (0..=at / PAGE).rev().map(|page| page * PAGE);
    let begins = |start: &u64| {
        let mut magic = [0; FRAME.len()];
        file.read_exact_at(&mut magic, *start).unwrap();
        magic == FRAME
    };
    starts.find(begins).expect("a frame begins before it")
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[test]
fn flipped_bits_and_a_missing_file_of_the_log_are_said_and_repaired() {
    let _turn = support::turn();
    let mut ledger = Ledger::new("", (1_500, 0));
    // A record of a frame that was synced long ago; one of the last frame, which is sealed; a frame's directory.
    for (what, needle, in_directory, said) in [
        ("a record", "before 000300", false, "the group is faulty"),
        ("a record of the last flush", "and after 000299", false, "the group is faulty"),
        ("a frame's directory", "before 000600", true, "the directory's write-ahead log is damaged"),
    ] {
        ledger.cluster.kill(3);
        let (path, at) = find(&ledger.cluster, 3, needle.as_bytes());
        flip(&path, if in_directory { frame_of(&path, at) + DIRECTORY } else { at });
        ledger.back(what, said);
        ledger.whole_without_node_1();
    }
    ledger.cluster.kill(3);
    let (path, _) = find(&ledger.cluster, 3, b"by two 000029");
    fs::remove_file(path).unwrap();
    ledger.back("the newest file", "the newest file is missing");
    ledger.whole_without_node_1();
}

/// Files of node 3's partitions with this end, largest first.
fn files(cluster: &Cluster, end: &str) -> Vec<PathBuf> {
    let folders = fs::read_dir(cluster.data_of(3).join("groups")).unwrap().map(|folder| folder.unwrap().path());
    let all = folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()));
    // The partitions' groups begin at 1,024.
    let is_partition = |path: &PathBuf| {
        let folder = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        u64::from_str_radix(&folder[..16], 16).unwrap() >= 1_024
    };
    let mut found: Vec<_> = all.filter(|path| path.to_str().unwrap().ends_with(end)).filter(is_partition).collect();
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    found
}

#[test]
fn flipped_bits_of_checkpoints_and_segments_are_said_and_repaired() {
    let _turn = support::turn();
    let mut ledger = Ledger::new(SMALL, (1_200, 16 << 10));
    support::wait("there are segments and checkpoints", || {
        (!files(&ledger.cluster, "/restart").is_empty() && files(&ledger.cluster, ".seg").len() > 3).then_some(())
    });
    ledger.cluster.kill(3);
    let path = files(&ledger.cluster, "/restart").remove(0);
    flip(&path, fs::metadata(&path).unwrap().len() / 2);
    ledger.back("a checkpoint", "does not verify");
    ledger.whole_without_node_1();

    // A sealed segment, while the node runs: whoever reads it finds the damage, and nobody is given it.
    let path = files(&ledger.cluster, ".seg").remove(0);
    flip(&path, fs::metadata(&path).unwrap().len() / 2);
    // A life that has nothing of it in memory, and leads.
    ledger.cluster.kill(3);
    ledger.cluster.start(3);
    ledger.cluster.ready();
    let begun = Instant::now();
    ledger.runtime.block_on(async {
        support::settled(&ledger.client).await;
        for partition in 0..PARTITIONS {
            support::wait_for("node 3 leads", || async {
                let admin = ledger.client.admin();
                let _ = admin.transfer_leader(&ledger.name, partition, NodeId(3)).await;
                let topic = admin.describe_topic(&ledger.name).await.ok()?;
                (topic.partitions[partition as usize].leader == Some(NodeId(3))).then_some(())
            })
            .await;
        }
    });
    let ends = ledger.runtime.block_on(ledger.client.admin().list_offsets(&ledger.name, Position::Latest)).unwrap();
    let records = ledger.runtime.block_on(read_all(&ledger.client, &ledger.name, &ends));
    assert!(records == ledger.acked, "{} of {} records", records.len(), ledger.acked.len());
    let log = support::wait("the segment is replaced", || {
        let log = ledger.cluster.log_of(3);
        log.contains("a damaged segment was replaced").then_some(log)
    });
    for line in log.lines().filter(|line| line.contains("damaged")) {
        eprintln!("a segment: {line}");
    }
    eprintln!("a segment: whole again after {}", seconds(begun.elapsed()));
    ledger.whole_without_node_1();
}
