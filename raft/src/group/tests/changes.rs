//! Membership, transfer, checkpoints for those who are behind.

use super::world::{World, sim};
use crate::{NodeId, ReplicaId};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::Instant;

#[test]
fn leadership_is_handed_over() {
    sim(40, async {
        let world = World::start(40, 3).await;
        let leader = world.leader().await;
        world.propose(leader, 0..10);
        world.all_applied(10).await;
        let target = if leader == 3 { 2 } else { 3 };
        let to = world.node(target).replica;
        world.node(leader).group().transfer(to).await.unwrap();
        assert_eq!(world.leader().await, target);
        world.propose(target, 10..20);
        world.all_applied(20).await;
        world.check_equal();
    });
}

#[test]
fn nobody_runs_against_the_one_who_is_handed_the_lead() {
    sim(43, async {
        let world = World::start(43, 3).await;
        for round in 0..30u64 {
            let leader = world.leader().await;
            world.propose(leader, round * 10..round * 10 + 10);
            world.all_applied(round * 10 + 10).await;
            let group = world.node(leader).group();
            let term = group.role().borrow().term;
            let target = 1 + (leader + u32::try_from(round % 2).unwrap()) % 3;
            group.transfer(world.node(target).replica).await.unwrap();
            world.pass(400).await;
            assert_eq!(world.leader().await, target, "round {round}");
            assert_eq!(
                world.node(target).group().role().borrow().term,
                term + 1,
                "round {round}: one election is enough"
            );
        }
    });
}

#[test]
fn a_new_replica_takes_the_place_of_a_wiped_one() {
    sim(41, async {
        let mut world = World::start(41, 3).await;
        let leader = world.leader().await;
        world.propose(leader, 0..200);
        world.all_applied(200).await;
        let wiped = if leader == 1 { 2 } else { 1 };
        world.crash(wiped);
        // Its disk is gone: the node comes back empty, under a new replica id.
        world.start_empty(wiped, 65_536).await;
        let leader = world.leader().await;
        let group = world.node(leader).group().clone();
        group.add_learner(ReplicaId(65_536), NodeId(wiped)).await.unwrap();
        world.all_applied(200).await;
        let kept = (1..=3).filter(|id| *id != wiped).map(|id| ReplicaId(u64::from(id)));
        let voters: BTreeSet<_> = kept.chain([ReplicaId(65_536)]).collect();
        group.set_voters(voters.clone(), true).await.unwrap();
        world.propose(leader, 200..300);
        world.all_applied(300).await;
        world.check_equal();
        let role = world.node(wiped).owner.role();
        assert_eq!(role.members.keys().copied().collect::<BTreeSet<_>>(), voters);
        assert!(role.members.values().all(|member| member.voter));
    });
}

#[test]
fn a_follower_behind_the_start_installs_a_checkpoint() {
    sim(42, async {
        let mut world = World::start(42, 3).await;
        let leader = world.leader().await;
        world.propose(leader, 0..100);
        world.all_applied(100).await;
        let follower = if leader == 1 { 2 } else { 1 };
        world.crash(follower);
        let leader = world.leader().await;
        let count = purge_past_a_follower(&world, leader).await;
        world.restart(follower).await;
        world.all_applied(count).await;
        world.check_equal();
        assert!(world.node(follower).owner.restored() > 0);
        world.propose(leader, count..count + 100);
        world.all_applied(count + 100).await;
        world.restart_all().await;
        world.leader().await;
        world.all_applied(count + 100).await;
        world.check_equal();
    });
}

/// Writes behind the first hundred until the leader has dropped what one that is away lacks; gives how much there is.
async fn purge_past_a_follower(world: &World, leader: u32) -> u64 {
    for step in 1..20 {
        world.propose(leader, step * 100..(step + 1) * 100);
        world.all_applied((step + 1) * 100).await;
    }
    // A segment can go once the log has written what replaces it.
    let mut count = 2_000;
    while world.node(leader).group().log().purged().is_none_or(|purged| purged.index < 1_000) {
        // It waits for the next try towards the one that is away, up to 30 s.
        assert!(count < 60_000, "nothing is purged");
        world.propose(leader, count..count + 100);
        count += 100;
        world.all_applied(count).await;
        for (_, node) in world.living() {
            node.group().compact(1_500).await.unwrap();
        }
        world.pass(100).await;
    }
    count
}

#[test]
fn a_follower_behind_the_start_gets_its_checkpoint_as_soon_as_it_is_back() {
    sim(46, async {
        let mut world = World::start(46, 3).await;
        let leader = world.leader().await;
        world.propose(leader, 0..100);
        world.all_applied(100).await;
        let follower = if leader == 1 { 2 } else { 1 };
        world.crash(follower);
        let count = purge_past_a_follower(&world, leader).await;
        // Entries were tried and are not to be had; the checkpoint was tried, and that waits for its next turn.
        world.pass(40_000).await;
        world.restart(follower).await;
        let back = Instant::now();
        world.all_applied(count).await;
        assert!(world.node(follower).owner.restored() > 0);
        assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
    });
}

/// Four nodes, of which the last has a learner's replica that is to take the leader's place.
async fn with_a_learner(seed: u64) -> (World, u32, BTreeSet<ReplicaId>) {
    let world = World::start(seed, 4).await;
    let leader = world.leader().await;
    world.node(leader).group().add_learner(ReplicaId(4), NodeId(4)).await.unwrap();
    world.propose(leader, 0..10);
    world.all_applied(10).await;
    let voters = (1..=4).filter(|id| *id != leader).map(|id| ReplicaId(u64::from(id))).collect();
    (world, leader, voters)
}

#[test]
fn a_leader_that_took_itself_out_is_followed_by_another_though_its_heir_is_dead() {
    sim(44, async {
        let (mut world, leader, voters) = with_a_learner(44).await;
        world.node(leader).group().set_voters(voters, true).await.unwrap();
        world.pass(20).await;
        // It is to take over: the last of those who have all. Nobody suspects it when it is told.
        world.crash(4);
        world.pass(2_000).await;
        let next = world.leader().await;
        assert_ne!(next, leader);
        world.propose(next, 10..20);
        let left: Vec<u32> = (1..=3).filter(|id| *id != leader).collect();
        for id in left {
            world.applied(id, 20).await;
        }
    });
}

#[test]
fn a_leader_that_was_taking_itself_out_stands_when_it_alone_can_be_elected() {
    sim(45, async {
        let (mut world, leader, voters) = with_a_learner(45).await;
        let others: Vec<u32> = (1..=3).filter(|id| *id != leader).collect();
        let (second, third) = (others[0], others[1]);
        let group = world.node(leader).group().clone();
        let mut role = group.role();
        let changing = tokio::task::spawn_local(async move { group.set_voters(voters, true).await });
        let me = world.node(leader).replica;
        role.wait_for(|role| !role.members.contains_key(&me)).await.unwrap();
        // The last step of the change is in its own log only. Of the three voters before one is gone with it.
        world.hub.isolate(NodeId(leader));
        world.crash(third);
        world.pass(50).await;
        changing.abort();
        world.crash(leader);
        // What was under way is lost with the connections.
        world.pass(6_000).await;
        world.hub.heal();
        world.restart(leader).await;
        world.leader().await;
        // It ends the change, and hands over.
        world.pass(2_000).await;
        let next = world.leader().await;
        assert_ne!(next, leader);
        world.propose(next, 10..20);
        for id in [second, 4] {
            world.applied(id, 20).await;
        }
    });
}
