//! Whole groups over simulated disks and a simulated network, in virtual time on one thread.

mod catch_up;
mod changes;
mod elections;
mod failures;
mod sent;
mod strangers;
mod streams;
mod world;

use crate::transport::rpc::{APPEND, ELECT, SNAPSHOT, VOTE};
use world::{World, sim};

#[test]
fn one_node_alone_applies_what_it_proposes() {
    sim(1, async {
        let mut world = World::start(1, 1).await;
        let leader = world.leader().await;
        world.propose(leader, 0..100);
        world.all_applied(100).await;
        world.restart_all().await;
        let leader = world.leader().await;
        world.propose(leader, 100..150);
        world.all_applied(150).await;
        world.check_equal();
    });
}

#[test]
fn three_nodes_elect_one_leader_and_apply_the_same_in_order() {
    sim(2, async {
        let world = World::start(2, 3).await;
        let leader = world.leader().await;
        world.propose(leader, 0..1_000);
        world.all_applied(1_000).await;
        world.check_equal();
        assert_eq!(world.leading(), [leader]);
        assert_eq!(world.node(leader).owner.proposals_applied(), (0..1_000).collect::<Vec<_>>());
    });
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = |seed| {
        sim(seed, async move {
            let mut world = World::start(seed, 3).await;
            let leader = world.leader().await;
            world.propose(leader, 0..200);
            world.all_applied(200).await;
            world.crash(leader);
            let leader = world.leader().await;
            world.propose(leader, 200..300);
            world.all_applied(300).await;
            (world.hub.fingerprint(), tokio::time::Instant::now() - world.began)
        })
    };
    assert_eq!(history(3), history(3));
    assert_ne!(history(3).0, history(4).0);
}

#[test]
fn an_idle_group_is_silent_and_woken_by_the_next_proposal() {
    sim(5, async {
        let world = World::start(5, 3).await;
        let leader = world.leader().await;
        world.propose(leader, 0..10);
        world.all_applied(10).await;
        world.pass(10_000).await;
        let raft = || [APPEND, VOTE, SNAPSHOT, ELECT].map(|service| world.sent.messages(service));
        let before = raft();
        world.pass(20_000).await;
        assert_eq!(raft(), before, "appends and heartbeats, votes, checkpoints, requests to elect");
        assert_eq!(world.leading(), [leader]);
        let term = world.node(leader).owner.role().term;
        world.propose(leader, 10..20);
        world.all_applied(20).await;
        assert_eq!(world.node(leader).owner.role().term, term);
        assert_eq!(world.node(leader).owner.refused(), 0);
    });
}
