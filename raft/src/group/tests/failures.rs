//! Crashes, partitions, stalls.

use super::world::{GROUP, Outcome, TestOwner, World, sim};
use crate::{
    GroupId, NodeId, ReplicaId,
    group::{Role, TransferError},
    transport::Lane,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

#[test]
fn a_crashed_leader_is_followed_by_another_and_nothing_is_lost() {
    for seed in 10..20 {
        sim(seed, async move {
            let mut world = World::start(seed, 3).await;
            let first = world.leader().await;
            world.propose(first, 0..100);
            world.all_applied(100).await;
            world.crash(first);
            let crashed = tokio::time::Instant::now();
            let second = world.leader().await;
            let gap = crashed.elapsed();
            assert!(gap < Duration::from_millis(1_500), "{gap:?}");
            world.propose(second, 100..200);
            world.all_applied(200).await;
            world.restart(first).await;
            world.all_applied(200).await;
            world.check_equal();
            assert_eq!(world.leading(), [second]);
        });
    }
}

#[test]
fn a_restart_of_all_loses_nothing_that_was_applied() {
    for seed in 20..30 {
        sim(seed, async move {
            let mut world = World::start(seed, 3).await;
            let mut count = 0;
            for _ in 0..3 {
                let leader = world.leader().await;
                world.propose(leader, count..count + 300);
                // Some are applied, some are under way.
                world.pass(u64::from(world.began.elapsed().subsec_millis()) % 7 + 2).await;
                let applied = world.living().map(|(_, node)| node.owner.count()).max().unwrap();
                assert!(applied >= count);
                world.restart_all().await;
                let leader = world.leader().await;
                assert!(
                    world.node(leader).owner.count() >= applied,
                    "{} < {applied}",
                    world.node(leader).owner.count()
                );
                count = world.node(leader).owner.count();
                world.all_applied(count).await;
                world.check_equal();
            }
        });
    }
}

#[test]
fn a_leader_that_restarts_at_once_is_replaced_or_elected_anew() {
    sim(31, async {
        let mut world = World::start(31, 3).await;
        let leader = world.leader().await;
        world.propose(leader, 0..10);
        world.all_applied(10).await;
        world.crash(leader);
        world.pass(50).await;
        world.restart(leader).await;
        let leader = world.leader().await;
        world.propose(leader, 10..20);
        world.all_applied(20).await;
        world.check_equal();
    });
}

#[test]
fn a_follower_of_an_idle_group_that_restarts_does_not_depose_its_leader() {
    sim(32, async {
        let mut world = World::start(32, 3).await;
        let leader = world.leader().await;
        world.pass(10_000).await;
        let term = world.node(leader).owner.role().term;
        let follower = if leader == 1 { 2 } else { 1 };
        world.crash(follower);
        world.pass(50).await;
        world.restart(follower).await;
        world.pass(5_000).await;
        assert_eq!(world.leading(), [leader]);
        assert_eq!(world.node(leader).owner.role().term, term);
    });
}

#[test]
fn refusals_in_the_middle_of_a_pipeline_keep_the_order() {
    sim(33, async {
        let world = World::start(33, 3).await;
        let leader = world.leader().await;
        let followers: Vec<u32> = (1..=3).filter(|id| *id != leader).collect();
        let term = world.node(leader).owner.role().term;
        for step in 0..1_000 {
            if step == 100 {
                followers.iter().for_each(|id| world.node(*id).disk.stall(Duration::from_millis(1_100)));
            }
            world.node(leader).group().propose(step, term, super::world::payload(step));
            world.pass(3).await;
        }
        world.pass(3_000).await;
        let outcomes = world.node(leader).owner.outcomes();
        let order: Vec<u64> = outcomes.iter().map(|(proposal, _)| *proposal).collect();
        assert!(order.is_sorted(), "outcomes out of order");
        assert!(outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Refused(_))), "nothing was refused");
        let applied = world.node(leader).owner.proposals_applied();
        assert!(applied.is_sorted(), "applied out of order");
        world.check_equal();
    });
}

#[test]
fn a_transfer_to_an_unreachable_target_recovers() {
    sim(34, async {
        let world = World::start(34, 3).await;
        let leader = world.leader().await;
        world.propose(leader, 0..10);
        world.all_applied(10).await;
        let target = if leader == 1 { 2 } else { 1 };
        world.hub.isolate(NodeId(target));
        let to = world.node(target).replica;
        let result = world.node(leader).group().transfer(to).await;
        assert!(matches!(result, Err(TransferError::TimedOut { .. })), "{result:?}");
        world.hub.heal();
        world.pass(3_000).await;
        let leader = world.leader().await;
        world.propose(leader, 10..20);
        world.all_applied(20).await;
        world.check_equal();
    });
}

/// What the target lacks it gets from the leader that gave up, or nobody could be elected (seed 130351 of the simulation).
#[test]
fn a_failed_transfer_to_the_only_one_that_is_left_recovers_though_it_lacks_entries() {
    sim(36, async {
        let mut world = World::start(36, 3).await;
        let leader = world.leader().await;
        let term = world.node(leader).owner.role().term;
        world.propose(leader, 0..10);
        world.all_applied(10).await;
        let [target, third] = [1, 2, 3].into_iter().filter(|id| *id != leader).collect::<Vec<_>>()[..] else {
            unreachable!("three nodes")
        };
        world.crash(third);
        world.hub.isolate(NodeId(target));
        world.propose(leader, 10..12);
        world.pass(100).await;
        let to = world.node(target).replica;
        let result = world.node(leader).group().transfer(to).await;
        assert!(matches!(result, Err(TransferError::TimedOut { .. })), "{result:?}");
        // The target is suspected by now, and what is sent to it waits long.
        world.pass(1_000).await;
        world.hub.heal();
        let healed = tokio::time::Instant::now();
        let is_next = |role: &Role| role.leading && role.ready && role.term > term;
        while !world.living().any(|(_, node)| is_next(&node.owner.role())) {
            world.pass(10).await;
            assert!(
                healed.elapsed() < Duration::from_secs(3),
                "no other leader: {:?}",
                world.node(target).owner.role()
            );
        }
        world.all_applied(12).await;
        world.check_equal();
    });
}

#[test]
fn a_transfer_that_nobody_waits_for_to_the_end_leaves_no_leader_that_refuses_all() {
    sim(48, async {
        let mut world = World::start(48, 3).await;
        let leader = world.leader().await;
        world.propose(leader, 0..10);
        world.all_applied(10).await;
        // Who writes finds out that no quorum answers: nobody does.
        world.pass(10_000).await;
        let target = if leader == 1 { 2 } else { 1 };
        let to = world.node(target).replica;
        world.crash(target);
        let transfer = world.node(leader).group().transfer(to);
        assert!(tokio::time::timeout(Duration::from_millis(100), transfer).await.is_err());
        world.pass(3_000).await;
        let next = world.leader().await;
        world.node(next).group().barrier().await.unwrap();
        assert_ne!(next, leader);
    });
}

#[test]
fn who_missed_that_its_leader_has_left_hears_it_again() {
    sim(49, async {
        let mut world = World::start(49, 3).await;
        let leader = world.leader().await;
        world.propose(leader, 0..10);
        world.all_applied(10).await;
        for other in (1..=3).filter(|id| *id != leader) {
            world.hub.break_connection(NodeId(leader), NodeId(other), Lane::Control);
        }
        // Its node lives on: nobody suspects it.
        let group = world.nodes.get_mut(&leader).unwrap().group.take().unwrap();
        group.close().await;
        let next = world.leader().await;
        world.propose(next, 10..20);
        world.all_applied(20).await;
        world.check_equal();
    });
}

#[test]
fn a_partitioned_leader_is_replaced_and_follows_after_healing() {
    sim(35, async {
        let world = World::start(35, 3).await;
        let first = world.leader().await;
        world.propose(first, 0..10);
        world.all_applied(10).await;
        world.hub.isolate(NodeId(first));
        world.pass(2_000).await;
        let second = world.leader().await;
        assert_ne!(first, second);
        world.propose(first, 500..510);
        world.propose(second, 10..20);
        world.pass(3_000).await;
        world.hub.heal();
        world.all_applied(20).await;
        world.pass(2_000).await;
        assert_eq!(world.leading().len(), 1);
        world.check_equal();
        assert_eq!(world.node(second).owner.count(), 20);
    });
}

#[test]
fn a_replica_that_is_opened_again_acknowledges_nothing_that_is_not_on_its_disk() {
    sim(47, async {
        let mut world = World::start(47, 3).await;
        let leader = world.leader().await;
        world.propose(leader, 0..10);
        world.all_applied(10).await;
        // The leader can commit with one of its followers alone, whose disk stands still.
        let others: Vec<u32> = (1..=3).filter(|id| *id != leader).collect();
        let (follower, absent) = (others[0], others[1]);
        world.hub.isolate(NodeId(absent));
        world.node(follower).disk.stall(Duration::from_millis(300));
        world.propose(leader, 10..20);
        world.pass(20).await;
        let host = world.node(follower).host.clone().unwrap();
        world.node(follower).group().close().await;
        let (owner, replica) = (Arc::new(TestOwner::default()), world.node(follower).replica);
        let opening = tokio::task::spawn_local({
            let owner = owner.clone();
            async move { host.open(GROUP, replica, owner).await.unwrap() }
        });
        world.pass(200).await;
        assert_eq!(world.node(leader).owner.count(), 10, "what is on one disk was committed");
        let node = world.nodes.get_mut(&follower).unwrap();
        (node.group, node.owner) = (Some(opening.await.unwrap()), owner);
        world.hub.heal();
        world.all_applied(20).await;
        world.check_equal();
    });
}

/// What it starts would go on without a place in its node.
#[test]
fn a_group_that_is_removed_while_it_is_opened_is_gone() {
    sim(58, async {
        let world = World::start(58, 3).await;
        let host = world.node(1).host.clone().unwrap();
        let (group, owner) = (GroupId(GROUP.0 + 1), Arc::new(TestOwner::default()));
        let (opened, removed) = tokio::join!(host.open(group, ReplicaId(1), owner), host.remove(group));
        removed.unwrap();
        assert!(opened.is_ok() && host.group(group).is_none());
        // Another one takes its place and leads.
        let founders = BTreeMap::from([(ReplicaId(2), NodeId(1))]);
        assert!(host.found(group, ReplicaId(2), &founders).await.unwrap());
        let next = Arc::new(TestOwner::default());
        host.open(group, ReplicaId(2), next.clone()).await.unwrap().stand_first();
        world.pass(5_000).await;
        assert!(next.role().ready, "{:?}", next.role());
    });
}
