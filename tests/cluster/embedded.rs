//! Nodes of one process: the failure of one leaves the host and the others alive, a panic costs one replica.

use crate::support::{self, Cluster, seconds, topic};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use highwater::{
    client::{Client, Record},
    config::Config,
    node::{Node, NodeError},
    partition::Role,
    types::TopicPartition,
};
use highwater_raft::disk::{Disk, File, RealDisk};
use std::{
    collections::BTreeSet,
    fs, io,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

/// A real disk whose syncs can be made to fail.
struct Failing {
    disk: RealDisk,
    fails: Arc<AtomicBool>,
}

struct FailingFile {
    file: Arc<dyn File>,
    fails: Arc<AtomicBool>,
}

impl Disk for Failing {
    fn open<'a>(&'a self, path: &'a str, create: bool) -> BoxFuture<'a, io::Result<Arc<dyn File>>> {
        Box::pin(async move {
            let file = self.disk.open(path, create).await?;
            Ok(Arc::new(FailingFile { file, fails: self.fails.clone() }) as Arc<dyn File>)
        })
    }
    fn list<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Vec<String>>> {
        self.disk.list(path)
    }
    fn create_directory<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.disk.create_directory(path)
    }
    fn sync_directory<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.disk.sync_directory(path)
    }
    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.disk.rename(from, to)
    }
    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.disk.remove(path)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

impl File for FailingFile {
    fn write_at<'a>(&'a self, position: u64, parts: &'a [Bytes]) -> BoxFuture<'a, io::Result<()>> {
        self.file.write_at(position, parts)
    }
    fn read_at<'a>(&'a self, position: u64, len: usize) -> BoxFuture<'a, io::Result<Bytes>> {
        self.file.read_at(position, len)
    }
    fn sync<'a>(&'a self) -> BoxFuture<'a, io::Result<()>> {
        match self.fails.load(Relaxed) {
            true => Box::pin(async { Err(io::Error::other("the disk is gone")) }),
            false => self.file.sync(),
        }
    }
    fn len<'a>(&'a self) -> BoxFuture<'a, io::Result<u64>> {
        self.file.len()
    }
    fn set_len<'a>(&'a self, len: u64) -> BoxFuture<'a, io::Result<()>> {
        self.file.set_len(len)
    }
}

/// A node of the cluster's folder in this process, and what makes its disk fail.
async fn start(cluster: &Cluster, id: u32) -> (Node, Arc<AtomicBool>) {
    let mut config = Config::load(&cluster.config_of(id)).unwrap();
    let dir = cluster.dir.path();
    config.listeners.0.clear();
    config.node.data_dir = dir.join(&config.node.data_dir);
    for path in [&mut config.tls.ca, &mut config.tls.certificate, &mut config.tls.key] {
        *path = dir.join(&*path);
    }
    let fails = Arc::<AtomicBool>::default();
    let disk = Failing { disk: RealDisk::new(&config.node.data_dir).unwrap(), fails: fails.clone() };
    let node = Node::builder(config).disk(Arc::new(disk)).start().await.unwrap();
    (node, fails)
}

async fn produce(client: &Client, partition: u32, count: u64, expected: &mut u64) {
    let producer = client.producer().build();
    for _ in 0..count {
        let record = Record::new(topic("ledger"), expected.to_string()).partition(partition);
        let at = producer.send(record).await.unwrap().await.unwrap();
        assert_eq!(at.offset, Some(*expected), "one after the other, none twice");
        *expected += 1;
    }
    producer.close().await.unwrap();
}

#[test]
fn embedded_nodes_survive_the_failure_of_one_and_a_panic_of_a_replica() {
    let _turn = support::turn();
    let cluster = Cluster::prepared(3, "\n[log]\nwal_file_bytes = 8_388_608\nfree_bytes_min = 134_217_728\n");
    let runtime = support::runtime();
    runtime.block_on(async {
        let mut nodes = Vec::new();
        for id in 1..=3 {
            nodes.push(start(&cluster, id).await);
        }
        for (node, _) in &nodes {
            tokio::time::timeout(support::SOON, node.serving()).await.expect("it serves");
        }
        let client = Client::in_process(nodes.iter().map(|(node, _)| node)).await.unwrap();
        let name = topic("ledger");
        support::create(&client, &name, 2).await;
        let id = client.topic(&name).await.unwrap().id;
        let mut counts = [0, 0];
        for partition in [0, 1] {
            produce(&client, partition, 20, &mut counts[partition as usize]).await;
        }

        // A panic in the leader of one partition: another one leads it, and the node goes on with everything else.
        let first = TopicPartition { topic: id, partition: 0 };
        let leads = |at: TopicPartition| {
            nodes.iter().position(|(node, _)| {
                node.partitions().find(at).is_some_and(|handle| handle.marks().role == Role::Leader)
            })
        };
        let victim = support::wait_for("a leader", || async { leads(first) }).await;
        let at = Instant::now();
        nodes[victim].0.partitions().find(first).unwrap().panic();
        for partition in [0, 1] {
            produce(&client, partition, 20, &mut counts[partition as usize]).await;
        }
        let end = counts[0];
        support::wait_for("the replica is opened again", || async {
            let handle = nodes[victim].0.partitions().find(first)?;
            (handle.marks().role != Role::Gone && handle.marks().high_watermark >= end).then_some(())
        })
        .await;
        eprintln!("a replica panicked: it has everything again after {}", seconds(at.elapsed()));

        // A disk fails: its node ends with an error, the host and the others live.
        let victim = support::wait_for("a leader", || async { leads(first) }).await;
        nodes[victim].1.store(true, Relaxed);
        let at = Instant::now();
        for partition in [0, 1] {
            produce(&client, partition, 20, &mut counts[partition as usize]).await;
        }
        let ended = tokio::time::timeout(support::SOON, nodes[victim].0.run()).await.expect("the node ends");
        assert!(matches!(ended, Err(NodeError::Storage(_))), "{ended:?}");
        eprintln!("a disk failed: written on by the others, its node ended, after {}", seconds(at.elapsed()));
        client.close();
        for (n, (node, _)) in nodes.iter().enumerate() {
            if n != victim {
                node.stop().await.unwrap();
                assert!(node.run().await.is_ok());
            }
        }
    });
}

/// Sockets of this process that the system lists among those of TCP and UDP.
fn ports() -> BTreeSet<String> {
    let listed = ["tcp", "tcp6", "udp", "udp6"].map(|kind| fs::read_to_string(format!("/proc/self/net/{kind}")));
    let listed: BTreeSet<String> = listed
        .into_iter()
        .flatten()
        .flat_map(|text| {
            text.lines().filter_map(|line| Some(line.split_whitespace().nth(9)?.to_owned())).collect::<Vec<_>>()
        })
        .collect();
    let own = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let own = own.filter_map(|to| Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()));
    own.filter(|inode| listed.contains(inode)).collect()
}

#[test]
fn a_node_that_is_told_nothing_opens_no_port() {
    let _turn = support::turn();
    let files = tempfile::tempdir().unwrap();
    let before = ports();
    let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(ports().len(), before.len() + 1, "what is looked for is found");
    drop(probe);
    support::runtime().block_on(async {
        let mut config = Config::default();
        config.node.data_dir = files.path().join("data");
        config.log.free_bytes_min = 1 << 20;
        let node = Node::builder(config).start().await.unwrap();
        tokio::time::timeout(support::SOON, node.serving()).await.expect("it serves");
        let client = Client::in_process([&node]).await.unwrap();
        support::create(&client, &topic("ledger"), 1).await;
        produce(&client, 0, 3, &mut 0).await;
        assert_eq!(ports(), before);
        assert!(node.listeners().is_empty());
        client.close();
        node.stop().await.unwrap();
    });
}
