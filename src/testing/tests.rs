//! The kit itself: what its faults do, and that a seed is a run.

use super::{REPLAYS, TestCluster};
use crate::{
    client::{Client, NewTopic, Producer, Record},
    types::{NodeId, Position, TopicName},
};
use std::time::Duration;
use tokio::time::{Instant, timeout};

const BOUND: Duration = Duration::from_secs(30);

fn orders() -> TopicName {
    "orders".parse().unwrap()
}

/// A client, its producer, and the leader of the only partition.
async fn begin(cluster: &TestCluster) -> (Client, Producer, NodeId) {
    let client = cluster.client().await;
    client.admin().create_topic(NewTopic::new(orders())).await.unwrap();
    let producer = client.producer().build();
    (client, producer, cluster.leader(&orders(), 0).await)
}

async fn send(producer: &Producer, value: &'static str) -> Option<u64> {
    producer.send(Record::new(orders(), value)).await.unwrap().await.unwrap().offset
}

async fn read(client: &Client, records: usize) -> Vec<String> {
    let mut consumer = client.consumer().assign([(orders(), 0, Position::Earliest)]).await.unwrap();
    let mut read = Vec::new();
    while read.len() < records {
        let polled = timeout(BOUND, consumer.poll(Duration::from_secs(1))).await.expect("it was acknowledged").unwrap();
        read.extend(polled.iter().map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap()).into_owned()));
    }
    read
}

#[test]
fn a_leader_that_is_cut_off_gives_way_and_comes_back() {
    TestCluster::builder().seed(3).run(|cluster| async move {
        let (client, producer, leader) = begin(&cluster).await;
        assert_eq!(send(&producer, "one").await, Some(0));
        cluster.isolate(leader);
        assert_eq!(timeout(BOUND, send(&producer, "two")).await, Ok(Some(1)));
        let another = async {
            while cluster.leader(&orders(), 0).await == leader {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(BOUND, another).await.expect("the others elect one of them");
        cluster.heal();
        for node in cluster.nodes().filter(|node| *node != leader) {
            cluster.kill(node);
            cluster.start(node).await;
        }
        assert_eq!(timeout(BOUND, send(&producer, "three")).await, Ok(Some(2)));
        assert_eq!(read(&client, 3).await, ["one", "two", "three"]);
    });
}

#[test]
fn all_lose_power_and_clients_are_cut_off_and_nothing_is_lost() {
    TestCluster::builder().seed(4).run(|cluster| async move {
        let (client, producer, _) = begin(&cluster).await;
        send(&producer, "one").await;
        let (begun, began_ms) = (Instant::now(), cluster.now_ms());
        cluster.deafen_clients(Duration::from_secs(2));
        assert_eq!(timeout(BOUND, send(&producer, "two")).await, Ok(Some(1)));
        assert!(begun.elapsed() >= Duration::from_secs(2), "nobody could have heard of it before");
        assert_eq!(u128::from(cluster.now_ms() - began_ms), begun.elapsed().as_millis());
        cluster.nodes().for_each(|node| cluster.lose_power(node));
        assert!(cluster.nodes().all(|node| cluster.node(node).is_none()));
        for node in cluster.nodes() {
            cluster.start(node).await;
        }
        assert_eq!(read(&client, 2).await, ["one", "two"]);
    });
}

#[test]
fn a_node_whose_disk_fails_stops_and_says_why() {
    TestCluster::builder().seed(5).run(|cluster| async move {
        let (client, producer, leader) = begin(&cluster).await;
        cluster.disk(leader).fail_next_sync();
        assert_eq!(timeout(BOUND, send(&producer, "one")).await, Ok(Some(0)));
        let stopped = async {
            while cluster.node(leader).is_some() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(BOUND, stopped).await.expect("it does not go on");
        let why = cluster.stopped(leader).unwrap_or_default();
        assert!(why.contains("simulated sync failure"), "{why}");
        cluster.start(leader).await;
        assert_eq!(read(&client, 1).await, ["one"]);
    });
}

#[test]
fn a_seed_is_a_run_and_each_says_which() {
    let run = |seed| {
        TestCluster::builder().seed(seed).run(|cluster| async move {
            let begun = Instant::now();
            let (_client, producer, leader) = begin(&cluster).await;
            cluster.lose_power(leader);
            send(&producer, "one").await;
            (leader, begun.elapsed())
        })
    };
    assert_ne!(run(1).1, run(2).1);
    assert!(!REPLAYS || run(1) == run(1));
    let said = TestCluster::builder().nodes(5).seed(9).to_string();
    assert!(said.starts_with("a simulated cluster of 5 nodes from seed 9"), "{said}");
    assert_eq!(REPLAYS, !said.contains("tokio_unstable"), "{said}");
}
