//! A node whose disk takes no more writes: it stops, says where, and the others go on. A limit on the size of files is set on the
//! running process, which needs no rights: what it writes behind that size fails as on a disk that is full or broken.

use crate::support::{self, BINARY, Cluster, topic};
use bytes::Bytes;
use highwater::{
    client::{Client, Record},
    types::{Position, TopicName},
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::{process::Command, time::Duration};

/// The write-ahead log is behind it by then, and the node's own output is not.
const FILE_BYTES: usize = 1 << 20;
const RECORD_BYTES: usize = 64 << 10;

/// The binary with the signal ignored that would kill it; the write then fails with EFBIG.
fn deaf() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", BINARY]);
    command
}

fn no_larger_files(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let before =
        prlimit(Some(pid), Resource::Fsize, Rlimit { current: Some(FILE_BYTES as u64), maximum: None }).unwrap();
    assert_eq!(before.current, None, "it had no limit");
}

/// Writes records of 64 KiB and waits for each.
async fn write(client: &Client, name: &TopicName, count: usize) {
    let producer = client.producer().linger(Duration::ZERO).build();
    for _ in 0..count {
        let record = Record::new(name.clone(), Bytes::from(vec![b'x'; RECORD_BYTES])).partition(0);
        producer.send(record).await.unwrap().await.unwrap();
    }
}

#[test]
fn a_node_whose_disk_fails_stops_and_says_where() {
    let _turn = support::turn();
    let mut cluster = Cluster::prepared(3, "");
    (1..=3).for_each(|id| cluster.start_by(deaf(), id));
    cluster.ready();
    let runtime = support::runtime();
    runtime.block_on(async {
        let client = cluster.client().await;
        let name = topic("orders");
        support::create(&client, &name, 1).await;
        write(&client, &name, 2 * FILE_BYTES / RECORD_BYTES).await;
        let failing = support::leaders(&client, &name).await[&0];
        no_larger_files(cluster.node(failing).pid());
        // Of what is under way at its leader nothing is lost: the producer follows the next one.
        write(&client, &name, 10).await;
        let status = cluster.ended(failing);
        let said = cluster.log_of(failing);
        let last = said.trim_end().lines().last().unwrap_or_default();
        eprintln!("node {failing}: {status}: {last}");
        assert_eq!(status.code(), Some(1), "{said}");
        let words = ["storage failed", &format!("node-{failing}/wal/"), "File too large", "check the disk"];
        let end: Vec<&str> = said.lines().rev().take(2).collect();
        for word in words {
            assert!(end.iter().any(|line| line.contains(word)), "{word:?} is not in the last words {end:?}");
        }
        assert!(!said.contains("panicked"), "{said}");
        // On a disk that takes writes it is what it was.
        cluster.start(failing);
        cluster.ready();
        write(&client, &name, 10).await;
        support::settled(&client).await;
        let ends = client.admin().list_offsets(&name, Position::Latest).await.unwrap();
        assert_eq!(ends[&0], (2 * FILE_BYTES / RECORD_BYTES + 20) as u64, "none is missing and none is there twice");
    });
}
