//! The kit itself: what its faults do, and that a seed is a run.

use super::{HOW_TO_REPLAY, REPLAYS, TestCluster};
use crate::{
    advice::Advice,
    client::{AdminError, Client, ConsumeError, Delivery, NewTopic, ProduceError, Producer, Record, consumer},
    controller::machine::Metadata,
    types::{NodeId, Position, TopicName},
    wire::Code,
};
use highwater_raft::observe::digest;
use std::{cell::RefCell, collections::BTreeSet, time::Duration};
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
fn a_node_that_is_killed_while_it_starts_stays_down() {
    TestCluster::builder().seed(5).run(|cluster| async move {
        let (client, producer, leader) = begin(&cluster).await;
        assert_eq!(send(&producer, "one").await, Some(0));
        for outage in [TestCluster::kill, TestCluster::lose_power] {
            cluster.kill(leader);
            tokio::join!(cluster.start(leader), async { outage(&cluster, leader) });
            tokio::time::sleep(BOUND).await;
            assert!(cluster.node(leader).is_none());
            cluster.start(leader).await;
        }
        // It is the one that is needed.
        let other = cluster.nodes().find(|node| *node != leader).unwrap();
        cluster.kill(other);
        assert_eq!(timeout(BOUND, send(&producer, "two")).await, Ok(Some(1)));
        assert_eq!(read(&client, 2).await, ["one", "two"]);
    });
}

#[test]
fn a_node_that_is_cut_off_hears_nobody_who_starts_later() {
    TestCluster::builder().seed(6).run(|cluster| async move {
        let (_client, producer, _) = begin(&cluster).await;
        send(&producer, "one").await;
        let [one, two, three] = cluster.nodes().collect::<Vec<_>>()[..] else { panic!("there are three nodes") };
        cluster.kill(two);
        cluster.isolate(one);
        cluster.start(two).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        cluster.kill(three);
        // One and two would be a majority.
        let mut receipt = producer.send(Record::new(orders(), "two")).await.unwrap();
        let early = timeout(BOUND, &mut receipt).await;
        assert!(early.is_err(), "a majority took it: {early:?}");
        cluster.heal();
        let acked = timeout(BOUND, receipt).await.expect("now they are one").unwrap();
        assert_eq!(acked.offset, Some(1));
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
        assert_eq!(cluster.stopped(leader), None, "that was its last life");
        assert_eq!(read(&client, 1).await, ["one"]);
    });
}

/// All that a service sees and all faults, each with its instant: a leader that loses power, one that is cut off, clients that
/// hear nothing, a disk that fails, and a node that is killed while a member of a group consumes.
async fn course(cluster: TestCluster) -> Vec<String> {
    let begun = Instant::now();
    let seen = RefCell::new(Vec::new());
    let note = |what: String| seen.borrow_mut().push(format!("{} µs: {what}", begun.elapsed().as_micros()));
    let (client, producer, leader) = begin(&cluster).await;
    note(format!("node {leader} leads"));
    let builder = client.consumer().start(Position::Earliest).session(Duration::from_secs(2));
    let mut member = builder.subscribe("invoicing".parse().unwrap(), [orders()]).await.unwrap();
    let consume = async {
        let mut given = BTreeSet::new();
        while given.len() < 24 {
            match member.poll(Duration::from_millis(300)).await {
                Ok(records) => {
                    for record in &records {
                        given.insert(record.offset);
                        let Delivery { offset, leader_epoch, timestamp, redelivered, .. } = record;
                        note(format!("given {offset} of epoch {leader_epoch}, {timestamp} ms, again: {redelivered}"));
                    }
                }
                Err(error) => note(error.to_string()),
            }
        }
    };
    let produce = async {
        for n in 0..24 {
            let leader = cluster.leader(&orders(), 0).await;
            match n {
                4 => cluster.lose_power(leader),
                8 => cluster.isolate(leader),
                12 => cluster.deafen_clients(Duration::from_secs(1)),
                16 => cluster.disk(leader).fail_next_sync(),
                20 => cluster.kill(leader),
                _ => {}
            }
            let acked = producer.send(Record::new(orders(), "an order")).await.unwrap().await.unwrap();
            note(format!("{n} at {:?} in {}, leader was {leader}", acked.offset, acked.leader_epoch));
            cluster.heal();
            for node in cluster.nodes() {
                note(format!("{node}: {:?}", cluster.stopped(node)));
                cluster.start(node).await;
            }
        }
    };
    timeout(2 * BOUND, async { tokio::join!(produce, consume) }).await.expect("every order is given");
    seen.into_inner()
}

#[test]
fn a_seed_is_a_course_to_the_microsecond_with_all_that_goes_wrong() {
    let run = |seed| TestCluster::builder().seed(seed).run(course);
    let hash = |course: &[String]| digest(course.iter().map(String::as_bytes));
    let first = run(1);
    assert!(first.iter().any(|line| line.contains("simulated sync failure")), "{first:#?}");
    assert_ne!(hash(&first), hash(&run(2)), "the seed decides");
    if REPLAYS {
        let again = run(1);
        let parts = first.iter().zip(&again).find(|(one, other)| one != other);
        assert_eq!(hash(&first), hash(&again), "the same until {parts:?}");
    }
}

#[test]
fn each_cluster_says_which_it_is_and_what_the_build_lacks() {
    let builder = TestCluster::builder().nodes(5).seed(9);
    let which = "a simulated cluster of 5 nodes from seed 9";
    assert_eq!(builder.says(true), which);
    let lacking = builder.says(false);
    assert!(lacking.starts_with(which) && lacking.ends_with(HOW_TO_REPLAY), "{lacking}");
    // What it tells others to put there is what stands in our own file.
    let ours = include_str!("../../.cargo/config.toml");
    let line = "rustflags = [\"--cfg\", \"tokio_unstable\"]";
    assert!(HOW_TO_REPLAY.contains(line) && ours.contains(line), "{HOW_TO_REPLAY}");
    assert_eq!(builder.to_string() == which, REPLAYS);
}

/// Flips a bit of a record in a node's write-ahead log.
fn damage(cluster: &TestCluster, node: NodeId, value: &[u8]) {
    let disk = cluster.disk(node);
    for (path, _) in disk.files().into_iter().filter(|(path, _)| path.ends_with(".wal")) {
        let content = disk.content(&path).unwrap_or_default();
        if let Some(at) = content.windows(value.len()).rposition(|window| window == value) {
            return disk.flip_bit(&path, at as u64, 2);
        }
    }
    panic!("node {node} has it in no file");
}

/// The partition's replicas are damaged on two of three nodes: on the followers, whose leader stays one in vain, or on the
/// leader and a follower.
fn offline(seed: u64, leader_survives: bool) {
    TestCluster::builder().seed(seed).run(|cluster| async move {
        let (client, producer, leader) = begin(&cluster).await;
        for value in ["value 0", "value 1", "value 2", "value 3"] {
            send(&producer, value).await;
        }
        let at_end = || client.consumer().assign([(orders(), 0, Position::Latest)]);
        let mut waiting = at_end().await.unwrap();
        assert!(waiting.poll(Duration::from_secs(1)).await.unwrap().is_empty());

        let followers = cluster.nodes().filter(|node| *node != leader);
        let damaged: Vec<_> = if leader_survives { followers.collect() } else { followers.take(1).chain([leader]).collect() };
        for node in &damaged {
            cluster.kill(*node);
        }
        let under_way = producer.send(Record::new(orders(), "under way")).await.unwrap();
        for node in &damaged {
            damage(&cluster, *node, b"value 1");
            cluster.start(*node).await;
        }
        let said = async {
            loop {
                let topic = client.admin().describe_topic(&orders()).await.unwrap();
                match topic.partitions.into_iter().next().unwrap() {
                    said if said.offline => return said,
                    _ => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        };
        let mut said = timeout(BOUND, said).await.expect("the controller hears of the damage");
        said.damaged.sort_unstable();
        let mut expected = damaged.clone();
        expected.sort_unstable();
        assert_eq!(said.damaged, expected);

        let soon = Duration::from_secs(5);
        let outcome = timeout(soon, under_way).await.expect("long before its delivery timeout");
        assert!(matches!(outcome, Err(ProduceError::Offline { .. })), "{outcome:?}");
        let receipt = producer.send(Record::new(orders(), "later")).await.unwrap();
        let error = timeout(soon, receipt).await.expect("long before its delivery timeout").unwrap_err();
        assert!(matches!(error, ProduceError::Offline { maybe_appended: false, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("offline") && damaged.iter().all(|node| text.contains(&format!("node {node}"))), "{text}");
        assert!(error.advice().contains("delete the topic and create it again"), "{}", error.advice());

        let is_offline = |error: &ConsumeError| matches!(error, ConsumeError::Refused { refused, .. } if refused.code == Code::Offline);
        let error = waiting.poll(soon).await.unwrap_err();
        assert!(is_offline(&error), "{error:?}");
        assert!(waiting.poll(soon).await.unwrap().is_empty(), "it is said once");
        let error = at_end().await.unwrap().poll(soon).await.unwrap_err();
        assert!(is_offline(&error), "{error:?}");
        let mut pushed = at_end().await.unwrap().listen(consumer::Credit::default(), |_: Delivery| std::future::ready(()));
        let error = timeout(soon, pushed.failed()).await.expect("it is told");
        assert!(is_offline(&error), "{error:?}");
        let listed = timeout(soon, client.admin().list_offsets(&orders(), Position::Latest)).await.expect("it is told");
        assert!(matches!(&listed, Err(AdminError::Partition { refused, .. }) if refused.code == Code::Offline), "{listed:?}");
    });
}

#[test]
fn an_offline_partition_whose_leader_survives_says_so() {
    offline(11, true);
}

#[test]
fn an_offline_partition_whose_leader_is_damaged_says_so() {
    offline(12, false);
}

/// Cuts clients off as soon as a node sees the change, which is before its answer is there.
async fn cut_off_when(cluster: &TestCluster, seen: impl Fn(&Metadata) -> bool) {
    let changed = async {
        while !cluster.nodes().filter_map(|node| cluster.node(node)).any(|node| seen(&node.controller().metadata())) {
            tokio::time::sleep(Duration::from_micros(50)).await;
        }
    };
    timeout(BOUND, changed).await.expect("it is done");
    cluster.deafen_clients(Duration::from_millis(300));
}

#[test]
fn what_is_repeated_over_a_broken_connection_is_answered_as_the_first_time() {
    TestCluster::builder().seed(13).run(|cluster| async move {
        let client = cluster.client().await;
        let admin = client.admin();
        let is_there = |metadata: &Metadata| metadata.topics.contains_key(&orders());
        let create = || admin.create_topic(NewTopic::new(orders()).partitions(3));
        let (made, ()) = tokio::join!(create(), cut_off_when(&cluster, is_there));
        assert_eq!(made.unwrap().partitions, 3);
        let error = create().await.unwrap_err();
        assert_eq!(error.code(), Some(Code::TopicExists), "another request is another topic");
        let (name, is_gone) = (orders(), |metadata: &Metadata| !is_there(metadata));
        let (deleted, ()) = tokio::join!(admin.delete_topic(&name), cut_off_when(&cluster, is_gone));
        deleted.unwrap();
    });
}
