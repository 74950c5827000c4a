//! How elections go: who stands when, and who does not.

use super::world::{GROUP, TestOwner, World, sim};
use crate::{
    GroupId, NodeId, ReplicaId,
    group::{BarrierError, Group, Host, Role},
    log,
    transport::Lane,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;

#[test]
fn a_follower_that_was_cut_off_under_load_comes_back_without_raising_the_term() {
    sim(54, async {
        let world = World::start(54, 3).await;
        let leader = world.leader().await;
        let follower = if leader == 1 { 2 } else { 1 };
        let term = world.node(leader).owner.role().term;
        world.propose(leader, 0..10);
        world.all_applied(10).await;
        world.hub.isolate(NodeId(follower));
        let mut next = 10;
        let mut load = async |ms: u64| {
            for _ in 0..ms / 20 {
                world.propose(leader, next..next + 1);
                next += 1;
                world.pass(20).await;
            }
            next
        };
        load(10_000).await;
        assert_eq!(world.node(follower).owner.role().term, term, "it asked, and nobody answered");
        world.hub.heal();
        let count = load(5_000).await;
        world.all_applied(count).await;
        assert_eq!(world.leading(), [leader]);
        for id in 1..=3 {
            assert_eq!(world.node(id).owner.role().term, term, "node {id}");
        }
        assert_eq!(world.node(leader).owner.refused(), 0);
    });
}

/// What it was silent for is over: a quorum has just elected it.
#[test]
fn a_leader_that_gave_up_for_want_of_a_quorum_is_not_silent_in_a_later_term() {
    sim(57, async {
        let world = World::start(57, 3).await;
        let leader = world.leader().await;
        world.hub.isolate(NodeId(leader));
        // A quorum that does not answer takes its time to be missed; a leader that is silent does not ask.
        let mut next = 0;
        let silent = loop {
            world.propose(leader, next..next + 1);
            next += 1;
            world.pass(20).await;
            let asked = Instant::now();
            let said = tokio::time::timeout(Duration::from_millis(10), world.node(leader).group().barrier()).await;
            if let Ok(Err(BarrierError::NoQuorum { .. })) = said {
                break asked;
            }
        };
        let other = world.leader().await;
        assert_ne!(other, leader);
        world.hub.heal();
        let replica = world.node(leader).replica;
        while world.node(leader).owner.role().leader.is_none_or(|(_, node)| node != NodeId(other)) {
            world.pass(5).await;
        }
        // A follower says who leads.
        let said = world.node(leader).group().barrier().await;
        assert!(matches!(said, Err(BarrierError::NotLeader { .. })), "{said:?}");
        while world.leading() != [leader] {
            let _ = world.node(other).group().transfer(replica).await;
            world.pass(5).await;
        }
        let said = world.node(leader).group().barrier().await;
        assert!(silent.elapsed() < 2 * world.host_options.timing.election_max, "too late to show it");
        assert!(said.is_ok(), "{said:?}");
    });
}

const GROUPS: u64 = 50;

/// As many groups more on each of three nodes, all led by the first.
async fn many_groups(world: &World) -> BTreeMap<(u32, GroupId), (Group, Arc<TestOwner>)> {
    let founders: BTreeMap<_, _> = (1..=3).map(|id| (ReplicaId(id.into()), NodeId(id))).collect();
    let mut opened = BTreeMap::new();
    for id in 1..=3 {
        let host: Host = world.node(id).host.clone().unwrap();
        for group in (1..=GROUPS).map(|number| GroupId(GROUP.0 + number)) {
            let (host, founders, owner) = (host.clone(), founders.clone(), Arc::new(TestOwner::default()));
            let told = owner.clone();
            let open = world.node(id).tasks.tag(async move {
                host.found(group, ReplicaId(id.into()), &founders).await.unwrap();
                host.open(group, ReplicaId(id.into()), told).await.unwrap()
            });
            opened.insert((id, group), (open.await, owner));
        }
    }
    opened.iter().filter(|((id, _), _)| *id == 1).for_each(|(_, (group, _))| group.stand_first());
    opened
}

/// Those who could stand do so one after the other, and who is first is another one in each group.
#[test]
fn when_a_node_dies_that_led_many_groups_few_need_a_second_election() {
    sim(55, async {
        let mut world = World::start(55, 3).await;
        world.leader().await;
        let opened = many_groups(&world).await;
        let roles = |id: u32| opened.iter().filter(move |((of, _), _)| *of == id).map(|(_, (_, owner))| owner.role());
        let began = Instant::now();
        while !roles(1).all(|role: Role| role.ready) {
            assert!(began.elapsed() < Duration::from_secs(5), "the first leads all of them");
            world.pass(10).await;
        }
        let term = roles(1).map(|role| role.term).max().unwrap();
        world.pass(3_000).await;
        world.crash(1);
        let crashed = Instant::now();
        let leaderless = || roles(2).zip(roles(3)).filter(|(two, three)| !two.ready && !three.ready).count();
        while leaderless() > 0 {
            assert!(crashed.elapsed() < Duration::from_secs(10), "{} groups are not led", leaderless());
            world.pass(5).await;
        }
        let gap = crashed.elapsed();
        let second = roles(2).filter(|role| role.leading).count();
        let more = roles(2).zip(roles(3)).filter(|(two, three)| two.term.max(three.term) > term + 1).count();
        eprintln!("{GROUPS} groups: all led after {gap:?}, {second} by node 2; {more} needed more than one term");
        assert!(more <= 2, "{more} of {GROUPS} groups needed more than one term");
        assert!((10..=40).contains(&second), "{second} of {GROUPS} are led by node 2");
    });
}

/// Of two that are left the first in order lacks an entry and cannot be elected; the other's own turn never comes.
#[test]
fn a_group_whose_turns_lead_nowhere_elects_by_the_back_stop() {
    sim(56, async {
        let small = log::Options { wal_file_bytes: 64 << 10, segment_bytes: 16 << 10, ..log::Options::default() };
        let never = Duration::from_secs(3_600);
        let mut world = World::start_tuned(56, 3, small, |options| options.timing.rank_step = never).await;
        // Ranks begin with the replica at the remainder of the group's number by that of the voters.
        let first = u32::try_from(GROUP.0 % 3).unwrap() + 1;
        let leader = world.leader().await;
        let (behind, last) = match leader {
            1 if first == 2 => (2, 3),
            _ => unreachable!("the first to stand leads, and ranks begin behind it: {leader}, {first}"),
        };
        world.propose(leader, 0..10);
        world.all_applied(10).await;
        world.hub.isolate(NodeId(behind));
        world.propose(leader, 10..20);
        world.applied(last, 20).await;
        world.crash(leader);
        // What was under way to the one that lacks it is lost.
        Lane::ALL.into_iter().for_each(|lane| world.hub.break_connection(NodeId(leader), NodeId(behind), lane));
        world.hub.heal();
        let crashed = Instant::now();
        assert_eq!(world.leader().await, last);
        let gap = crashed.elapsed();
        eprintln!("led after {gap:?}");
        let timing = &world.host_options.timing;
        assert!(
            gap >= timing.backstop && gap < timing.suspicion + timing.backstop + 4 * timing.election_max,
            "{gap:?}"
        );
        world.propose(last, 20..30);
        world.all_applied(30).await;
        world.check_equal();
    });
}
