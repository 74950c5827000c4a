//! What retention removes is gone from the files of every node, by size and by age, over a kill of all.

use crate::support::{self, Cluster, topic};
use bytes::Bytes;
use highwater::{
    client::{Client, Record},
    types::{Position, TopicName},
};
use std::{fs, path::Path};

/// Small files, so that a little load makes many.
const FILES: &str = "
[log]
wal_file_bytes = 4_194_304
segment_bytes = 2_097_152

[retention]
check_ms = 1_000
";
const SEGMENT_BYTES: u64 = 2 << 20;
const KEPT: u64 = 6 << 20;
const RECORD_BYTES: usize = 16 << 10;
const RECORDS: u64 = 2_048;

/// Bytes in the segments of a node's partitions.
fn segments(data: &Path) -> u64 {
    let groups = fs::read_dir(data.join("groups")).into_iter().flatten();
    // Groups below belong to the cluster itself.
    let of_partition = |name: &str| u64::from_str_radix(name.get(..16).unwrap_or(""), 16).is_ok_and(|id| id >= 1_024);
    let partitions = groups.filter_map(Result::ok).filter(|entry| of_partition(&entry.file_name().to_string_lossy()));
    let files = partitions.flat_map(|entry| fs::read_dir(entry.path()).into_iter().flatten()).filter_map(Result::ok);
    let segments = files.filter(|file| file.file_name().to_string_lossy().ends_with(".seg"));
    segments.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

async fn fill(client: &Client, name: &TopicName) {
    let producer = client.producer().build();
    for n in 0..RECORDS {
        let value = Bytes::from(format!("{n:08}").repeat(RECORD_BYTES / 8));
        drop(producer.send(Record::new(name.clone(), value).partition(0)).await.unwrap());
    }
    producer.close().await.unwrap();
}

async fn start_of(client: &Client, name: &TopicName) -> Option<u64> {
    client.admin().list_offsets(name, Position::Earliest).await.ok()?.get(&0).copied()
}

/// All that is still there, in order and as it was written.
async fn read(client: &Client, name: &TopicName) -> u64 {
    let mut consumer = client.consumer().assign([(name.clone(), 0, Position::Earliest)]).await.unwrap();
    let (mut first, mut next) = (None, 0);
    while next < RECORDS {
        for record in consumer.poll(support::SOON).await.unwrap() {
            let start = *first.get_or_insert(record.offset);
            assert!(record.offset == start || record.offset == next, "{} behind {next}", record.offset);
            assert_eq!(record.value.unwrap()[..8], *format!("{:08}", record.offset).as_bytes());
            next = record.offset + 1;
        }
    }
    consumer.close().await.unwrap();
    first.unwrap()
}

#[test]
fn what_is_too_much_or_too_old_leaves_every_disk() {
    let _turn = support::turn();
    let mut cluster = Cluster::three(FILES);
    let runtime = support::runtime();
    let data: Vec<_> = (1..=3).map(|id| cluster.data_of(id)).collect();
    let bytes = || data.iter().map(|data| segments(data)).collect::<Vec<_>>();

    // By size: what is in segments is at most two of them above the limit; the newest records are not in segments yet.
    cluster.run(&["topic", "create", "many", "--set", &format!("retention.bytes={KEPT}"), "--set", "retention.ms=-1"]);
    let (client, name) = (runtime.block_on(cluster.client()), topic("many"));
    runtime.block_on(fill(&client, &name));
    let small = || bytes().iter().all(|bytes| (1..=KEPT + 2 * SEGMENT_BYTES).contains(bytes));
    let start = || async { start_of(&client, &name).await.filter(|start| *start > 0) };
    runtime.block_on(support::wait_for("the oldest records go", start));
    support::wait("old segments go everywhere", || small().then_some(()));
    cluster.kill_all();
    (1..=3).for_each(|id| cluster.start(id));
    cluster.ready();
    let first = runtime.block_on(read(&client, &name));
    eprintln!("{} of {RECORDS} records stay, {:?} bytes of segments", RECORDS - first, bytes());
    assert!(first > 0 && (RECORDS - first) * RECORD_BYTES as u64 >= KEPT, "from {first} on");
    support::wait("the files stay away", || small().then_some(()));
    cluster.run(&["topic", "delete", "many"]);
    support::wait("a deleted topic leaves no segment", || bytes().iter().all(|bytes| *bytes == 0).then_some(()));

    // By age: everything goes, but for the segment that is open.
    cluster.run(&["topic", "create", "old", "--set", "retention.ms=-1"]);
    let name = topic("old");
    runtime.block_on(fill(&client, &name));
    // A follower may be behind: the others are a majority.
    let all = || Some(bytes()).filter(|bytes| bytes.iter().all(|bytes| *bytes > 4 * SEGMENT_BYTES));
    let before = support::wait("every node has written segments", all);
    assert_eq!(runtime.block_on(start_of(&client, &name)), Some(0), "nothing goes without a limit");
    cluster.run(&["topic", "alter", "old", "--set", "retention.ms=2000"]);
    runtime.block_on(support::wait_for("all records are too old", || async {
        (start_of(&client, &name).await == Some(RECORDS)).then_some(())
    }));
    support::wait("their segments go", || bytes().iter().all(|bytes| *bytes <= SEGMENT_BYTES).then_some(()));
    eprintln!("bytes of segments: {before:?} before, {:?} after", bytes());
    // What went took no offset with it.
    let producer = client.producer().build();
    let next = runtime.block_on(async {
        producer.send(Record::new(name.clone(), "next").partition(0)).await.unwrap().await.unwrap()
    });
    assert_eq!(next.offset, Some(RECORDS));
}
