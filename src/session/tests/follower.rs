//! A long poll at a follower, in a cluster in virtual time.

use crate::{
    client::{NewTopic, Record},
    testing::TestCluster,
    types::TopicName,
    wire::{Connection as _, Fetch, FetchPartition, Frame, Hello, Message},
};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Longer than all that the test waits for.
const WAIT: Duration = Duration::from_secs(600);
const BOUND: Duration = Duration::from_secs(30);

/// It hears of a commit with the next append, or with a heartbeat: until then its own mark stands, and the fetch waits.
#[test]
fn a_fetch_that_waits_at_a_follower_fires_when_the_followers_own_mark_rises() {
    TestCluster::builder().seed(11).run(|cluster| async move {
        let client = cluster.client().await;
        let orders: TopicName = "orders".parse().unwrap();
        client.admin().create_topic(NewTopic::new(orders.clone())).await.unwrap();
        let topic = client.topic(&orders).await.unwrap().id;
        let leader = cluster.leader(&orders, 0).await;
        let producer = client.producer().linger(Duration::ZERO).build();
        let send = || async { producer.send(Record::new(orders.clone(), "one")).await.unwrap().await.unwrap().offset };
        assert_eq!(send().await, Some(0));
        let follower = cluster.nodes().find(|node| *node != leader).unwrap();

        let connection = cluster.node(follower).unwrap().local();
        let mut link = connection.open().await.unwrap();
        let hello = Hello { version_min: 1, version_max: 1, client: "nearby".into() };
        link.sender.send(vec![Frame::new(0, hello)]).await.unwrap();
        assert!(matches!(link.receiver.receive().await.unwrap().message, Message::Welcome(_)));
        let mut fetch = async |offset, wait: Duration| {
            let want = FetchPartition { topic, partition: 0, offset, bytes_max: 0, from_follower: true };
            let wait_ms_max = u32::try_from(wait.as_millis()).unwrap();
            let fetch = Fetch { wait_ms_max, partitions: vec![want], ..Fetch::default() };
            link.sender.send(vec![Frame::new(1, fetch)]).await.unwrap();
            let frame = link.receiver.receive().await.unwrap();
            let Message::Fetched(fetched) = &frame.message else { panic!("{frame:?}") };
            assert_eq!(fetched.partitions[0].refused, None);
            (fetched.partitions[0].high_watermark, !frame.body().is_empty(), Instant::now())
        };
        // What is there is served at once.
        let begun = Instant::now();
        let (mark, full, at) = fetch(0, WAIT).await;
        assert!(mark == 1 && full && at - begun < Duration::from_secs(1), "{mark}, {full}, {:?}", at - begun);

        // The follower is cut off: the others acknowledge, and it does not know.
        cluster.partition(leader, follower);
        let mut waiting = Box::pin(fetch(1, WAIT));
        assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err(), "there is nothing for it");
        assert_eq!(timeout(BOUND, send()).await.unwrap(), Some(1));
        let early = timeout(Duration::from_millis(100), &mut waiting).await;
        assert!(early.is_err(), "its own mark has not risen: {early:?}");
        cluster.heal();
        let (mark, full, _) = timeout(BOUND, &mut waiting).await.expect("long before its time is up");
        assert!(mark == 2 && full, "{mark}, {full}");
        drop(waiting);

        // In one piece the news is there within the hold of a commit and a way between nodes.
        let mut waiting = Box::pin(fetch(2, WAIT));
        assert!(timeout(Duration::from_secs(5), &mut waiting).await.is_err(), "there is nothing for it");
        assert_eq!(send().await, Some(2));
        let acknowledged = Instant::now();
        let (mark, full, at) = timeout(BOUND, &mut waiting).await.expect("long before its time is up");
        let late = at.saturating_duration_since(acknowledged);
        assert!(mark == 3 && full && late < Duration::from_millis(50), "{mark}, {full}, {late:?} later");
        drop(waiting);
    });
}
