//! A produce at a leader that is not sure of its log, in a cluster in virtual time.

use crate::{
    client::{NewTopic, Record},
    partition::Role,
    testing::TestCluster,
    types::{TopicName, TopicPartition},
};
use std::time::Duration;
use tokio::time::timeout;

/// Nothing is damaged, so a majority will answer some time: nobody is told before that the outcome is unknown.
#[test]
fn a_produce_waits_for_a_leader_that_is_not_ready_while_its_partition_is_sound() {
    TestCluster::builder().seed(21).run(|cluster| async move {
        let client = cluster.client().await;
        let orders: TopicName = "orders".parse().unwrap();
        client.admin().create_topic(NewTopic::new(orders.clone())).await.unwrap();
        let topic = client.topic(&orders).await.unwrap().id;
        let leader = cluster.leader(&orders, 0).await;
        let producer = client.producer().idempotent(false).linger(Duration::ZERO).build();
        let send = || producer.send(Record::new(orders.clone(), "one"));
        send().await.unwrap().await.unwrap();

        cluster.nodes().filter(|node| *node != leader).for_each(|node| cluster.kill(node));
        let receipt = send().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let node = cluster.node(leader).unwrap();
        let handle = node.partitions().find(TopicPartition { topic, partition: 0 }).unwrap();
        // As a leader is that has not applied an entry of its term yet.
        handle.strand(true);
        let early = timeout(Duration::from_millis(2_500), receipt).await;
        assert!(early.is_err(), "{early:?}");
        let marks = handle.marks();
        assert!(marks.role == Role::Leader && !marks.ready, "{marks:?}");
    });
}
