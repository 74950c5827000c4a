//! Where leaderships are: at home after a node's return, with others before a node ends.

use super::*;

const PARTITIONS: u32 = 6;

async fn leaders(world: &World, topic: TopicId) -> Vec<usize> {
    let mut leaders = Vec::new();
    for partition in 0..PARTITIONS {
        leaders.push(world.leader(TopicPartition { topic, partition }).await.0);
    }
    leaders
}

#[tokio::test(start_paused = true)]
async fn leaderships_go_home_when_a_node_is_back() {
    local(async {
        let mut world = World::new(3, 23).await;
        let topic = world.topic("alpha", PARTITIONS, 3).await;
        tokio::time::sleep(secs(8)).await;
        let home = leaders(&world, topic).await;
        assert_eq!([0, 1, 2].map(|n| home.iter().filter(|leader| **leader == n).count()), [2, 2, 2]);
        world.crash(1);
        tokio::time::sleep(secs(3)).await;
        assert!(!leaders(&world, topic).await.contains(&1));
        world.start(1).await;
        tokio::time::sleep(secs(4)).await;
        assert!(!leaders(&world, topic).await.contains(&1), "not before it has been there for a while");
        tokio::time::sleep(secs(8)).await;
        assert_eq!(leaders(&world, topic).await, home);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_ends_hands_its_leaderships_over_first() {
    local(async {
        let world = World::new(3, 29).await;
        let topic = world.topic("alpha", PARTITIONS, 3).await;
        tokio::time::sleep(secs(8)).await;
        let partition = TopicPartition { topic, partition: 0 };
        produce_surely(&world, partition, "before").await;
        let (first, handle) = world.leader(partition).await;
        let node = world.node(first).clone();
        let ends = tokio::task::spawn_local(async move { node.shutdown().await });
        let mut follows = false;
        while !ends.is_finished() {
            follows |= handle.marks().role == Role::Follower;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(follows, "it led to its end");
        assert_ne!(world.leader(partition).await.0, first);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_group_whose_first_replica_never_came_is_founded_by_another() {
    local(async {
        let mut world = World::new(3, 31).await;
        tokio::time::sleep(secs(8)).await;
        world.crash(1);
        // Nobody misses the node yet: some partitions are placed to be founded and led by it.
        let topic = world.topic("alpha", PARTITIONS, 3).await;
        let placements = world.node(0).controller().metadata();
        let firsts = placements.groups.values().filter(|group| group.preferred() == Some(NodeId(2))).count();
        assert!(firsts >= 2, "{placements:?}");
        assert!(!within(20, leaders(&world, topic)).await.contains(&1));
        for partition in 0..PARTITIONS {
            produce_surely(&world, TopicPartition { topic, partition }, "without it").await;
        }
        world.start(1).await;
        tokio::time::sleep(secs(20)).await;
        let home = leaders(&world, topic).await;
        assert_eq!([0, 1, 2].map(|n| home.iter().filter(|leader| **leader == n).count()), [2, 2, 2]);
    })
    .await;
}

/// While it answers what is in flight the others see it alive.
#[tokio::test(start_paused = true)]
async fn leaderships_do_not_go_home_to_a_node_that_ends() {
    local(async {
        let world = World::new(3, 41).await;
        let topic = world.topic("alpha", PARTITIONS, 3).await;
        tokio::time::sleep(secs(8)).await;
        let node = world.node(1).clone();
        let in_flight = node.pools().produce.take(100).unwrap();
        let ends = tokio::task::spawn_local(async move { node.shutdown().await });
        tokio::time::sleep(secs(2)).await;
        for _ in 0..40 {
            assert!(!leaders(&world, topic).await.contains(&1));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        drop(in_flight);
        within(20, ends).await.unwrap().unwrap();
    })
    .await;
}

/// Nothing of a deleted topic is unwell.
#[tokio::test(start_paused = true)]
async fn a_replica_that_failed_is_forgotten_with_its_topic() {
    local(async {
        let world = World::new(3, 43).await;
        let topic = world.topic("alpha", 1, 3).await;
        let partition = TopicPartition { topic, partition: 0 };
        let mut n = 0;
        for _ in 0..2 {
            let (leader, handle) = world.leader(partition).await;
            n = leader;
            handle.panic();
            tokio::time::sleep(secs(7)).await;
        }
        let node = world.node(n);
        assert!(!node.0.hosting.failed().is_empty());
        let name = "alpha".parse().unwrap();
        let delete = crate::controller::machine::DeleteTopic { name, id: Some(topic) };
        node.controller().execute(Command::DeleteTopic(delete), secs(5)).await.unwrap();
        tokio::time::sleep(secs(2)).await;
        assert!(node.0.hosting.failed().is_empty());
        assert!(world.alive().all(|node| node.controller().ailing().all().is_empty()));
    })
    .await;
}
