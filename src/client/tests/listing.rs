//! What is told of groups, topics and offsets: of homes that do not answer, of what was changed just now, of what is not there.

use crate::{
    client::{
        Code, NewTopic, Record,
        consumer::{Credit, OutOfRange},
    },
    testing::TestCluster,
    types::{GroupName, Position, TopicName},
};
use std::time::Duration;
use tokio::time::Instant;

/// Enough for five nodes to share.
const HOMES: u64 = 16;

#[test]
fn a_list_of_groups_says_which_nodes_gave_none() {
    TestCluster::builder().seed(31).run(|cluster| async move {
        let client = cluster.client().await;
        let builder = client.consumer().start(Position::Earliest);
        let consumer = builder.subscribe("readers".parse().unwrap(), ["orders".parse().unwrap()]).await.unwrap();
        let found = client.admin().groups().await.unwrap();
        assert_eq!(found.groups.iter().map(|group| group.group.as_str()).collect::<Vec<_>>(), ["readers"]);
        assert!(found.missing.is_empty(), "{:?}", found.missing);

        let nodes: Vec<_> = cluster.nodes().collect();
        cluster.kill(nodes[0]);
        // Its homes are elsewhere by then.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let found = client.admin().groups().await.unwrap();
        assert_eq!(found.groups.len(), 1);
        assert_eq!(found.missing.keys().copied().collect::<Vec<_>>(), [nodes[0]]);

        cluster.kill(nodes[1]);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let error = client.admin().groups().await.unwrap_err();
        assert!(error.to_string().contains("homes of consumer groups"), "{error}");
        drop(consumer);
    });
}

#[test]
fn a_list_of_groups_says_which_homes_are_lost_while_their_nodes_list_others() {
    TestCluster::builder().nodes(5).home_groups(HOMES).seed(37).run(|cluster| async move {
        let client = cluster.client().await;
        let names: Vec<GroupName> = (0..24).map(|n| format!("readers-{n}").parse().unwrap()).collect();
        let mut consumers = Vec::new();
        for name in &names {
            let builder = client.consumer().start(Position::Earliest);
            consumers.push(builder.subscribe(name.clone(), ["orders".parse().unwrap()]).await.unwrap());
        }
        let found = client.admin().groups().await.unwrap();
        assert_eq!((found.groups.len(), found.homes_missing.len()), (24, 0));

        let nodes: Vec<_> = cluster.nodes().collect();
        cluster.kill(nodes[0]);
        cluster.kill(nodes[1]);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let found = client.admin().groups().await.unwrap();
        // A node that leads no home with groups says so as an error: then homes of its own are lost that no other names.
        assert!([nodes[0], nodes[1]].iter().all(|node| found.missing.contains_key(node)), "{:?}", found.missing);
        let is_lost =
            |name: &GroupName| found.homes_missing.contains(&(1 + crate::group::machine::home_of(name, HOMES)));
        assert!(names.iter().any(is_lost), "{:?}", found.homes_missing);
        assert!(!found.groups.is_empty() && found.groups.iter().all(|group| !is_lost(&group.group)));
        drop(consumers);
    });
}

#[test]
fn who_changed_a_topic_sees_it_changed() {
    TestCluster::builder().seed(32).run(|cluster| async move {
        let orders: TopicName = "orders".parse().unwrap();
        cluster.client().await.admin().create_topic(NewTopic::new(orders.clone())).await.unwrap();
        // It answers clients as before, and hears of no change.
        cluster.isolate(cluster.nodes().last().unwrap());
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut changed = 0;
        for n in 0..12 {
            let admin = cluster.client().await.admin();
            let set = vec![("retention.ms".to_owned(), (1_000 + n).to_string())];
            let asked = set.iter().cloned().map(|(name, value)| (name, Some(value))).collect();
            // What the node that is alone is asked to change is not changed.
            if admin.alter_topic(&orders, asked, 0).await.is_ok() {
                assert_eq!(admin.describe_topic(&orders).await.unwrap().settings, set);
                assert_eq!(admin.topics().await.unwrap()[0].settings, set);
                changed += 1;
            }
        }
        assert!(changed > 5, "{changed}");
    });
}

#[test]
fn partitions_that_another_client_added_are_listed() {
    TestCluster::builder().seed(34).run(|cluster| async move {
        let orders: TopicName = "orders".parse().unwrap();
        let (client, other) = (cluster.client().await, cluster.client().await);
        other.admin().create_topic(NewTopic::new(orders.clone())).await.unwrap();
        let listed = async || client.admin().list_offsets(&orders, Position::Latest).await.unwrap();
        assert_eq!(listed().await.into_keys().collect::<Vec<_>>(), [0]);
        other.admin().alter_topic(&orders, Vec::new(), 3).await.unwrap();
        // Every node has heard of it.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(listed().await.into_keys().collect::<Vec<_>>(), [0, 1, 2]);
    });
}

#[test]
fn a_group_is_not_moved_behind_the_end_and_is_told_so_at_once() {
    TestCluster::builder().seed(33).run(|cluster| async move {
        let client = cluster.client().await;
        let admin = client.admin();
        let orders: TopicName = "orders".parse().unwrap();
        admin.create_topic(NewTopic::new(orders.clone())).await.unwrap();
        client.producer().build().send(Record::new(orders.clone(), "one")).await.unwrap().await.unwrap();
        let group = "readers".parse().unwrap();
        let builder = client.consumer().start(Position::Earliest);
        let mut consumer = builder.subscribe("readers".parse().unwrap(), [orders.clone()]).await.unwrap();
        while consumer.poll(Duration::from_secs(1)).await.unwrap().is_empty() {}
        consumer.close().await.unwrap();
        let begun = Instant::now();
        let error = admin.reset_group(&group, &[], Position::Offset(2)).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::OffsetOutOfRange), "{error}");
        assert!(error.to_string().contains("offset 2 is above the high watermark 1"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(admin.reset_group(&group, &[], Position::Offset(1)).await.unwrap(), [(orders, 0, 1)]);
    });
}

#[test]
fn a_reader_above_the_end_is_told_so_and_one_at_the_end_never_is() {
    TestCluster::builder().seed(34).run(|cluster| async move {
        let client = cluster.client().await;
        let orders: TopicName = "orders".parse().unwrap();
        client.admin().create_topic(NewTopic::new(orders.clone())).await.unwrap();
        let producer = client.producer().build();
        let send = async || producer.send(Record::new(orders.clone(), "one")).await.unwrap().await.unwrap();
        send().await;
        let reader = async |offset| {
            let builder = client.consumer().out_of_range(OutOfRange::Error);
            builder.assign([(orders.clone(), 0, Position::Offset(offset))]).await.unwrap()
        };
        let minute = Duration::from_secs(60);
        let said = "orders/0 ends at offset 1, offset 2 is not there yet";
        assert_eq!(reader(2).await.poll(minute).await.unwrap_err().to_string(), said);
        let mut listening = reader(2).await.listen(Credit::default(), |_| async {});
        assert_eq!(listening.failed().await.to_string(), said);

        let mut at_end = reader(1).await;
        for _ in 0..3 {
            let leader = cluster.leader(&orders, 0).await;
            cluster.lose_power(leader);
            assert_eq!(at_end.poll(Duration::from_secs(5)).await.unwrap(), []);
            cluster.start(leader).await;
        }
        send().await;
        assert_eq!(at_end.poll(minute).await.unwrap()[0].offset, 1);
    });
}
