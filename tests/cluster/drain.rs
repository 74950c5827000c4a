//! Ends of nodes: all at once without warning, and by SIGTERM.

use crate::support::{self, Cluster, seconds, topic};
use highwater::{
    client::{Client, Delivery, Record, consumer::OutOfRange},
    types::{Position, TopicName},
};
use rustix::process::Signal;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

type Acked = BTreeMap<(u32, u64), String>;

/// Sends until told to stop; gives what was acknowledged.
async fn write(client: Client, name: TopicName, partitions: u32, acked: Arc<Mutex<Acked>>, over: Arc<AtomicBool>) {
    let producer = client.producer().linger(Duration::from_millis(2)).build();
    let mut open = Vec::new();
    for n in 0u32.. {
        if over.load(Relaxed) {
            break;
        }
        let value = format!("record {n}");
        let record = Record::new(name.clone(), value.clone()).partition(n % partitions);
        open.push((value, producer.send(record).await.unwrap()));
        if n.is_multiple_of(100) {
            for (value, receipt) in open.drain(..) {
                let at = receipt.await.unwrap();
                let place = (at.partition, at.offset.unwrap());
                assert_eq!(acked.lock().unwrap().insert(place, value), None, "{place:?} was given out twice");
            }
        }
    }
    producer.close().await.unwrap();
    for (value, receipt) in open {
        let at = receipt.await.unwrap();
        acked.lock().unwrap().insert((at.partition, at.offset.unwrap()), value);
    }
}

/// A consumer at the end must never hear that its offset does not exist.
async fn follow(client: Client, name: TopicName, partitions: u32, over: Arc<AtomicBool>) -> BTreeSet<(u32, u64)> {
    let all = (0..partitions).map(|partition| (name.clone(), partition, Position::Earliest));
    let mut consumer = client.consumer().out_of_range(OutOfRange::Error).assign(all).await.unwrap();
    let mut seen = BTreeSet::new();
    while !over.load(Relaxed) {
        let records = consumer.poll(Duration::from_millis(100)).await.expect("never out of range");
        for record in records {
            assert!(seen.insert((record.partition, record.offset)), "{}/{} twice", record.partition, record.offset);
        }
    }
    seen
}

/// Ends never go back, whoever answers.
async fn watch(client: Client, name: TopicName, over: Arc<AtomicBool>) -> u64 {
    let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
    let mut answers = 0;
    while !over.load(Relaxed) {
        if let Ok(now) = client.admin().list_offsets(&name, Position::Latest).await {
            answers += 1;
            for (partition, end) in now {
                let before = ends.insert(partition, end).unwrap_or(0);
                assert!(before <= end, "the end of partition {partition} went back from {before} to {end}");
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    answers
}

#[test]
fn what_was_acknowledged_survives_the_kill_of_all_nodes() {
    let _turn = support::turn();
    const PARTITIONS: u32 = 6;
    let mut cluster = Cluster::three("");
    let runtime = support::runtime();
    let name = topic("ledger");
    let client = runtime.block_on(cluster.client());
    runtime.block_on(support::create(&client, &name, PARTITIONS));
    let (acked, over, read) =
        (Arc::<Mutex<Acked>>::default(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let writing = runtime.spawn(write(client.clone(), name.clone(), PARTITIONS, acked.clone(), over.clone()));
    // Readers of their own: what one connection waits for must not hold up another.
    let reading = runtime.spawn(follow(runtime.block_on(cluster.client()), name.clone(), PARTITIONS, read.clone()));
    let watching = runtime.spawn(watch(runtime.block_on(cluster.client()), name.clone(), read.clone()));
    for round in 1..=2 {
        let before = acked.lock().unwrap().len();
        support::wait("records are acknowledged", || {
            assert!(!writing.is_finished(), "the writer has failed: its panic says why");
            (acked.lock().unwrap().len() >= before + 1_000).then_some(())
        });
        cluster.kill_all();
        let (at, acknowledged) = (Instant::now(), acked.lock().unwrap().len());
        (1..=3).for_each(|id| cluster.start(id));
        cluster.ready();
        let ready = at.elapsed();
        support::wait("acknowledged again", || {
            assert!(!writing.is_finished(), "the writer has failed: its panic says why");
            (acked.lock().unwrap().len() > acknowledged).then_some(())
        });
        eprintln!(
            "all killed, round {round}: {acknowledged} acknowledged before; ready after {}, first acknowledgement after {}",
            seconds(ready),
            seconds(at.elapsed())
        );
    }
    over.store(true, Relaxed);
    runtime.block_on(writing).unwrap();
    let ends = runtime.block_on(client.admin().list_offsets(&name, Position::Latest)).unwrap();
    let records = runtime.block_on(read_all(&client, &name, &ends));
    let acked = acked.lock().unwrap();
    let lost: Vec<_> = acked.iter().filter(|(place, value)| records.get(place) != Some(*value)).take(10).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
    assert_eq!(records.len(), acked.len(), "nothing is there twice");
    // Both go on to the end before they are told to stop.
    std::thread::sleep(Duration::from_secs(1));
    read.store(true, Relaxed);
    let seen = runtime.block_on(reading).unwrap();
    assert_eq!(
        support::missing(&records.keys().copied().collect(), &seen),
        [],
        "the consumer at the end missed something"
    );
    eprintln!(
        "{} acknowledged, {} read; ends asked for {} times",
        acked.len(),
        seen.len(),
        runtime.block_on(watching).unwrap()
    );
}

pub(crate) async fn read_all(client: &Client, name: &TopicName, ends: &BTreeMap<u32, u64>) -> Acked {
    let mut records = Acked::new();
    let put = |record: Delivery| {
        let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
        records.insert((record.partition, record.offset), value);
    };
    support::read_to(client, name, ends, put).await;
    records
}

#[test]
fn a_node_that_is_told_to_stop_hands_over_first() {
    let _turn = support::turn();
    const PARTITIONS: u32 = 6;
    let mut cluster = Cluster::three("");
    let runtime = support::runtime();
    let name = topic("ledger");
    let client = runtime.block_on(cluster.client());
    runtime.block_on(async {
        support::create(&client, &name, PARTITIONS).await;
        support::settled(&client).await;
    });
    let led = runtime.block_on(support::leaders(&client, &name));
    let leaver = led[&0];
    let (acked, over) = (Arc::<Mutex<Acked>>::default(), Arc::<AtomicBool>::default());
    let writing = runtime.spawn(write(client.clone(), name.clone(), PARTITIONS, acked.clone(), over.clone()));
    support::wait("records are acknowledged", || (acked.lock().unwrap().len() >= 500).then_some(()));
    let at = Instant::now();
    let status = cluster.stop(leaver, Signal::TERM);
    let ended = at.elapsed();
    assert!(status.success(), "a drained node exits 0, this one: {status}\n{}", cluster.log_of(leaver));
    let now = runtime.block_on(support::wait_for("others lead", || async {
        let topic = client.admin().describe_topic(&name).await.ok()?;
        let leaders: Option<Vec<u32>> = topic.partitions.iter().map(|p| p.leader.map(|node| node.0)).collect();
        leaders.filter(|leaders| !leaders.contains(&leaver))
    }));
    let before = acked.lock().unwrap().len();
    support::wait("acknowledged by the others", || (acked.lock().unwrap().len() >= before + 500).then_some(()));
    eprintln!(
        "SIGTERM to node {leaver}, which led {} of {PARTITIONS}: exit after {}, leaders now {now:?}",
        led.values().filter(|node| **node == leaver).count(),
        seconds(ended)
    );
    // It comes back and takes part again, without anybody's help.
    cluster.start(leaver);
    cluster.ready();
    runtime.block_on(support::settled(&client));
    over.store(true, Relaxed);
    runtime.block_on(writing).unwrap();
    let ends = runtime.block_on(client.admin().list_offsets(&name, Position::Latest)).unwrap();
    assert_eq!(runtime.block_on(read_all(&client, &name, &ends)), *acked.lock().unwrap());
    // SIGINT stops at once, and cleanly.
    let at = Instant::now();
    let status = cluster.stop(leaver, Signal::INT);
    assert!(status.success(), "{status}");
    eprintln!("SIGINT: exit after {}", seconds(at.elapsed()));
}
