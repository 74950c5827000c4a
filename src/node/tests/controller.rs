//! The controller's replica of a seed: damaged, replaced, and away.

use super::{
    repair::{flip, replicas_of, seal, whole, wipe},
    *,
};
use crate::controller::{GROUP, machine::ReplicaFaulty};
use highwater_raft::ReplicaId;

fn replica(world: &World, n: usize) -> Option<ReplicaId> {
    world.node(n).0.hosting.all().get(&GROUP).map(|hosted| hosted.replica)
}

/// The first seed wrote the group's membership once, and must not try to do so with its successor.
#[tokio::test(start_paused = true)]
async fn a_seed_whose_controller_replica_is_damaged_gets_another() {
    local(async {
        for n in [0, 1] {
            let mut world = World::new(3, 61).await;
            // Homes have topics' names in their logs too; how long one keeps its records stands in this one alone.
            world.topic_with("alpha", 1, 3, &[("retention.ms", "123456789")]).await;
            seal().await;
            let before = replicas_of(&world, n)[&GROUP];
            world.crash(n);
            flip(&world, n, b"123456789");
            world.start(n).await;
            let node = world.node(n);
            tokio::select! {
                biased;
                ended = node.run() => panic!("{ended:?}"),
                () = within(60, node.serving()) => {}
            }
            whole(&world).await;
            let after = replicas_of(&world, n)[&GROUP];
            assert_ne!(after, before);
            assert_eq!(replica(&world, n), Some(after));
        }
    })
    .await;
}

/// A replica is removed and its successor made by two flushes. Empty it must not vote again.
#[tokio::test(start_paused = true)]
async fn a_seed_that_ends_between_its_controller_replicas_does_not_take_the_first_again() {
    local(async {
        for n in [0, 1] {
            let mut world = World::new(3, 67).await;
            let other = (n + 1) % 3;
            world.node(n).0.hosting.close(GROUP).await;
            world.node(n).0.host.remove(GROUP).await.unwrap();
            world.crash(n);
            let lost = ReplicaFaulty { group: GROUP, replica: ReplicaId(n as u64 + 1) };
            world.node(other).controller().execute(Command::ReplicaFaulty(lost), secs(20)).await.unwrap();
            world.start(n).await;
            let opened = within(60, async {
                loop {
                    match replica(&world, n) {
                        Some(replica) => return replica,
                        None => tokio::time::sleep(Duration::from_millis(1)).await,
                    }
                }
            })
            .await;
            assert_ne!(opened, ReplicaId(n as u64 + 1));
            within(60, world.node(n).serving()).await;
            whole(&world).await;
        }
    })
    .await;
}

/// The first founder of some groups has asked for votes and written nothing.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_wiped_as_it_founds_leaves_no_group_without_a_leader() {
    for seed in 71..75 {
        local(async move {
            let mut world = World::new(3, seed).await;
            wipe(&mut world, 2).await;
            within(60, world.node(2).serving()).await;
            whole(&world).await;
        })
        .await;
    }
}

/// As when a disk was not mounted for one start.
#[tokio::test(start_paused = true)]
async fn a_seed_that_is_back_with_its_directory_hears_of_the_metadata_again() {
    local(async {
        let mut world = World::new(3, 71).await;
        tokio::time::sleep(secs(8)).await;
        let kept = world.slots[2].disk.clone();
        wipe(&mut world, 2).await;
        within(60, world.node(2).serving()).await;
        whole(&world).await;
        world.crash(2);
        world.slots[2].disk = kept;
        world.start(2).await;
        within(60, world.node(2).serving()).await;
        tokio::time::sleep(secs(10)).await;
        let id = world.topic("late", 1, 3).await;
        within(60, async {
            while world.node(2).controller().metadata().topic(id).is_none() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        whole(&world).await;
    })
    .await;
}

/// Two of three controller replicas are away: one is damaged, and its successor takes a leader that is not there.
#[tokio::test(start_paused = true)]
async fn a_replica_that_failed_does_not_wait_for_the_controllers() {
    local(async {
        let mut world = World::new(3, 73).await;
        let topic = world.topic("alpha", 1, 3).await;
        let partition = TopicPartition { topic, partition: 0 };
        produce_surely(&world, partition, "before").await;
        let (n, _) = world.leader(partition).await;
        world.crash((n + 1) % 3);
        world.node(n).0.directory.group(GROUP).unwrap().condemn("a test");
        within(10, async {
            while replica(&world, n).is_some() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        world.node(n).partitions().find(partition).unwrap().panic();
        within(30, produce_surely(&world, partition, "after")).await;
        within(30, async {
            while world.node(n).partitions().find(partition).is_none_or(|here| here.marks().high_watermark < 2) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    })
    .await;
}
