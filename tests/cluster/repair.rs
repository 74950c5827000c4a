//! Disks that lost something: a wiped data directory, a flipped bit.

use crate::{
    drain::read_all,
    support::{self, Cluster, seconds, topic},
};
use highwater::{
    client::{Client, Record},
    types::{Position, TopicName},
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};

const PARTITIONS: u32 = 3;

async fn fill(client: &Client, name: &TopicName, what: &str, count: u32) -> BTreeMap<(u32, u64), String> {
    let producer = client.producer().linger(Duration::from_millis(2)).build();
    let mut open = Vec::new();
    for n in 0..count {
        let value = format!("{what} {n:06}");
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

/// Node 3 holds everything again, and shows it: nodes 2 and 3 alone serve all that was acknowledged. Nothing says from
/// outside when a replacement was swapped in, so that it is tried until it is so.
fn whole_without_node_1(
    cluster: &mut Cluster,
    client: &Client,
    name: &TopicName,
    expected: &BTreeMap<(u32, u64), String>,
) {
    let runtime = support::runtime();
    let begun = Instant::now();
    for patience in 1.. {
        runtime.block_on(support::settled(client));
        std::thread::sleep(Duration::from_secs(2 * patience));
        cluster.kill(1);
        let read = async {
            let ends = support::wait_for("two nodes serve", || async {
                client.admin().list_offsets(name, Position::Latest).await.ok()
            });
            read_all(client, name, &ends.await).await
        };
        let read = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(12), read).await });
        if let Ok(records) = read {
            assert_eq!(&records, expected);
            break;
        }
        assert!(begun.elapsed() < support::SOON, "nodes 2 and 3 alone do not serve");
        cluster.start(1);
        cluster.ready();
    }
    let more = runtime.block_on(fill(client, name, "by two", 30));
    assert_eq!(more.len(), 30);
    eprintln!("served by nodes 2 and 3 alone, {} after", seconds(begun.elapsed()));
}

#[test]
fn a_wiped_node_comes_back_as_somebody_else() {
    let _turn = support::turn();
    let mut cluster = Cluster::three("");
    let runtime = support::runtime();
    let name = topic("ledger");
    let client = runtime.block_on(cluster.client());
    runtime.block_on(support::create(&client, &name, PARTITIONS));
    let mut acked = runtime.block_on(fill(&client, &name, "before", 1_500));
    let directory = |cluster: &Cluster| fs::read(cluster.data_of(3).join("directory")).unwrap();
    let before = directory(&cluster);
    cluster.kill(3);
    fs::remove_dir_all(cluster.data_of(3)).unwrap();
    acked.extend(runtime.block_on(fill(&client, &name, "meanwhile", 300)));
    cluster.start(3);
    cluster.ready();
    assert_ne!(directory(&cluster), before, "the directory has a new id, so its replicas do");
    whole_without_node_1(&mut cluster, &client, &name, &acked);
    let log = cluster.log_of(3);
    assert!(!log.contains("panicked"), "{log}");
}

/// The write-ahead log file that holds these bytes, and where.
fn find(cluster: &Cluster, node: u32, bytes: &[u8]) -> (PathBuf, u64) {
    let files = fs::read_dir(cluster.data_of(node).join("wal")).unwrap().map(|file| file.unwrap().path());
    let found = files.filter_map(|path| {
        let content = fs::read(&path).unwrap();
        let at = content.windows(bytes.len()).position(|window| window == bytes)?;
        Some((path, at as u64))
    });
    found.last().expect("the record is in the log")
}

#[test]
fn a_flipped_bit_is_said_and_repaired_from_peers() {
    let _turn = support::turn();
    let mut cluster = Cluster::three("");
    let runtime = support::runtime();
    let name = topic("ledger");
    let client = runtime.block_on(cluster.client());
    runtime.block_on(support::create(&client, &name, PARTITIONS));
    let mut acked = runtime.block_on(fill(&client, &name, "before", 1_500));
    acked.extend(runtime.block_on(fill(&client, &name, "and after", 300)));
    cluster.kill(3);
    // Of a frame that was synced long ago: others came behind it.
    let (path, at) = find(&cluster, 3, b"before 000300");
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    drop(file);
    cluster.start(3);
    cluster.ready();
    let log = support::wait("the damage is said", || {
        let log = cluster.log_of(3);
        log.contains("is faulty").then_some(log)
    });
    for line in log.lines().filter(|line| line.contains("faulty") || line.contains("damaged")) {
        eprintln!("node 3: {line}");
    }
    whole_without_node_1(&mut cluster, &client, &name, &acked);
}
