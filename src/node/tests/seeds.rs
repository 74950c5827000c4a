//! How a cluster comes to be: by all of its seeds, with the same `[cluster]`.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_majority_of_seeds_founds_nothing_and_the_last_one_does() {
    local(async {
        let mut world = World::stopped(3, 47, |_| ());
        world.start(0).await;
        world.start(1).await;
        let serving = tokio::time::timeout(secs(300), world.node(0).serving()).await;
        assert!(serving.is_err(), "two of three seeds made a cluster");
        for n in 0..2 {
            assert_eq!(world.node(n).controller().metadata().cluster_id, None);
        }
        world.start(2).await;
        for n in 0..3 {
            within(30, world.node(n).serving()).await;
        }
        let ids: Vec<_> = world.alive().map(|node| node.controller().metadata().cluster_id).collect();
        assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn seeds_that_disagree_about_the_cluster_say_so_and_end() {
    local(async {
        let mut world = World::stopped(3, 53, |_| ());
        world.slots[2].config.cluster.home_groups = 4;
        for n in 0..3 {
            world.start(n).await;
        }
        // Who is asked answers until its program has heard of the failure.
        tokio::time::sleep(secs(5)).await;
        let ended = within(30, world.node(2).run()).await;
        assert!(
            matches!(ended, Err(NodeError::OtherConfig { node: NodeId(1 | 2), sections: "[cluster]" })),
            "{ended:?}"
        );
        for n in 0..2 {
            let ended = within(30, world.node(n).run()).await;
            assert!(matches!(ended, Err(NodeError::OtherConfig { node: NodeId(3), .. })), "node {}: {ended:?}", n + 1);
            assert_eq!(world.node(n).controller().metadata().cluster_id, None);
        }
    })
    .await;
}

/// A leader's lease rests on how long the others wait.
#[tokio::test(start_paused = true)]
async fn seeds_with_another_lease_say_so_and_end() {
    local(async {
        let mut world = World::stopped(3, 59, |_| ());
        world.slots[2].config.raft.election_ms_max = 1_000;
        for n in 0..3 {
            world.start(n).await;
        }
        // Who is asked answers until its program has heard of the failure.
        tokio::time::sleep(secs(5)).await;
        for n in 0..3 {
            let ended = within(30, world.node(n).run()).await.unwrap_err();
            assert!(ended.to_string().contains("another [raft] than this node"), "node {}: {ended}", n + 1);
        }
    })
    .await;
}
