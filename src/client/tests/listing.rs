//! What a list of groups says of homes that do not answer.

use crate::{
    testing::TestCluster,
    types::{GroupName, Position},
};
use std::time::Duration;

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
