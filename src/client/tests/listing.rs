//! What a list of groups says of homes that do not answer.

use crate::{testing::TestCluster, types::Position};
use std::time::Duration;

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
