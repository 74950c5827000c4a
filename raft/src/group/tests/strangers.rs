//! Messages from and to replicas that are not what they say, or not there any more.

use super::world::{GROUP, World, sim};
use crate::{
    GroupId, NodeId, Payload, ReplicaId,
    transport::{
        Lane,
        rpc::{APPEND, CallError, VOTE},
    },
};
use bytes::{BufMut, BytesMut};
use std::{collections::BTreeSet, time::Duration};

const HEARTBEAT: u8 = 2;
const VOTE_REQUEST: u8 = 3;
const PRE_VOTE_REQUEST: u8 = 4;
/// The first byte of an answer: the target replica is not hosted here.
const UNKNOWN_REPLICA: u8 = 0;

/// A message as `openraft/codec.rs` has it, up to the vote that it begins with.
fn message(kind: u8, group: GroupId, from: u64, to: u64, (term, committed): (u64, bool)) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(1);
    out.put_u8(kind);
    out.put_u64_le(group.0);
    out.put_u64_le(from);
    out.put_u64_le(to);
    out.put_u64_le(term);
    out.put_u64_le(from);
    out.put_u8(u8::from(committed));
    out
}

/// The sender wants to be elected, and has all that there can be.
fn vote(group: GroupId, from: u64, to: u64, term: u64) -> (u8, Payload) {
    vote_of(VOTE_REQUEST, group, from, to, term)
}

fn vote_of(kind: u8, group: GroupId, from: u64, to: u64, term: u64) -> (u8, Payload) {
    let mut out = message(kind, group, from, to, (term, false));
    out.put_u8(1);
    out.put_u64_le(term);
    out.put_u64_le(1 << 40);
    // Not even a lease stands in its way.
    out.put_u8(1);
    (VOTE, out.freeze().into())
}

/// The sender leads, and this comes behind the entry before it.
fn append(group: GroupId, from: u64, to: u64, term: u64, before: (u64, u64)) -> (u8, Payload) {
    const COMMAND: u8 = 1;
    let mut out = message(HEARTBEAT, group, from, to, (term, true));
    out.put_u8(1);
    out.put_u64_le(before.0);
    out.put_u64_le(before.1);
    out.put_u8(0);
    out.put_u32_le(1);
    out.put_u64_le(term);
    out.put_u8(COMMAND);
    out.put_u32_le(64);
    out.put_bytes(b'y', 64);
    (APPEND, out.freeze().into())
}

async fn ask(world: &World, from: u32, to: u32, (service, message): (u8, Payload)) -> Result<Payload, CallError> {
    let rpc = &world.node(from).group().node.net.rpc;
    rpc.call(NodeId(to), Lane::Control, GROUP.0, service, message, Duration::from_millis(200)).await
}

#[test]
fn who_asks_for_a_replica_that_is_not_there_hears_so_and_makes_none() {
    sim(50, async {
        let world = World::start(50, 3).await;
        let leader = world.leader().await;
        world.propose(leader, 0..10);
        world.all_applied(10).await;
        let directory = world.node(1).directory.as_ref().unwrap();
        let (groups, role) = (directory.groups(), world.node(1).owner.role());
        for (group, to) in [(GROUP, 65_536), (GROUP, 2), (GroupId(77), 1)] {
            for request in [vote(group, 3, to, 50), append(group, 3, to, 50, (1, 5))] {
                let answer = ask(&world, 3, 1, request).await.unwrap();
                assert_eq!(answer.contiguous()[..], [UNKNOWN_REPLICA], "group {group}, replica {to}");
            }
        }
        world.pass(1_000).await;
        assert_eq!((directory.groups(), world.node(1).owner.role()), (groups, role));
        assert!(world.node(1).host.as_ref().unwrap().group(GroupId(77)).is_none());
    });
}

#[test]
fn a_node_that_speaks_as_another_nodes_replica_is_not_heard() {
    sim(51, async {
        let world = World::start(51, 3).await;
        let leader = world.leader().await;
        world.propose(leader, 0..10);
        world.all_applied(10).await;
        let [other, third] = [1, 2, 3].into_iter().filter(|id| *id != leader).collect::<Vec<_>>()[..] else {
            unreachable!("three nodes")
        };
        let (role, log) = (world.node(other).owner.role(), world.node(other).group().log());
        let last = log.last().unwrap();
        let before = (last.term, last.index);
        for request in [
            vote(GROUP, u64::from(leader), u64::from(other), role.term + 1),
            append(GROUP, u64::from(leader), u64::from(other), role.term, before),
            append(GROUP, u64::from(leader), u64::from(other), role.term + 1, before),
        ] {
            let answer = ask(&world, third, other, request).await;
            assert!(answer.is_err(), "{answer:?}");
            assert_eq!((world.node(other).owner.role(), log.last()), (role.clone(), Some(last)));
        }
        // What was sent is heard from the one that it names.
        let request = append(GROUP, u64::from(leader), u64::from(other), role.term + 1, before);
        ask(&world, leader, other, request).await.unwrap();
        assert!(log.last() > Some(last));
    });
}

#[test]
fn who_is_asked_whether_it_would_vote_says_so_and_keeps_its_term() {
    sim(62, async {
        let world = World::start(62, 3).await;
        let leader = world.leader().await;
        world.propose(leader, 0..10);
        world.all_applied(10).await;
        // All leases end.
        world.pass(20_000).await;
        let [other, third] = [1, 2, 3].into_iter().filter(|id| *id != leader).collect::<Vec<_>>()[..] else {
            unreachable!("three nodes")
        };
        let roles = || world.living().map(|(_, node)| node.owner.role()).collect::<Vec<_>>();
        let before = roles();
        let request = vote_of(PRE_VOTE_REQUEST, GROUP, third.into(), other.into(), before[0].term + 1);
        let answer = ask(&world, third, other, request).await.unwrap().contiguous();
        // The kind, the vote that it has, and whether it would give this one.
        assert_eq!((answer[0], answer[18]), (6, 1), "{answer:?}");
        world.pass(2_000).await;
        assert_eq!(roles(), before);
    });
}

/// A follower cannot know all members: who was added, and leads, may be in entries that it lacks.
#[test]
fn who_is_behind_hears_a_leader_that_it_does_not_know() {
    sim(52, async {
        let world = World::start(52, 4).await;
        let leader = world.leader().await;
        let behind = if leader == 3 { 2 } else { 3 };
        world.propose(leader, 0..10);
        for id in 1..=3 {
            world.applied(id, 10).await;
        }
        world.hub.isolate(NodeId(behind));
        let group = world.node(leader).group().clone();
        group.add_learner(ReplicaId(4), NodeId(4)).await.unwrap();
        world.applied(4, 10).await;
        group.set_voters((1..=4).map(ReplicaId).collect(), false).await.unwrap();
        group.transfer(ReplicaId(4)).await.unwrap();
        assert_eq!(world.leader().await, 4);
        world.propose(4, 10..20);
        world.applied(4, 20).await;
        assert!(!world.node(behind).owner.role().members.contains_key(&ReplicaId(4)));
        world.hub.heal();
        world.all_applied(20).await;
        world.check_equal();
    });
}

/// It was replaced while it was away: nobody told it, and its log says that it votes.
#[test]
fn a_replaced_replica_that_comes_back_under_its_old_id_disturbs_nobody() {
    sim(53, async {
        let mut world = World::start(53, 4).await;
        let leader = world.leader().await;
        let replaced = if leader == 3 { 2 } else { 3 };
        world.propose(leader, 0..10);
        for id in 1..=3 {
            world.applied(id, 10).await;
        }
        world.hub.isolate(NodeId(replaced));
        let group = world.node(leader).group().clone();
        group.add_learner(ReplicaId(4), NodeId(4)).await.unwrap();
        let voters: BTreeSet<_> = (1..=4).filter(|id| *id != replaced).map(|id| ReplicaId(u64::from(id))).collect();
        group.set_voters(voters.clone(), true).await.unwrap();
        // All leases of the group end: nothing but logs stands in the way of a vote.
        world.pass(20_000).await;
        let role = world.node(leader).owner.role();
        world.crash(replaced);
        world.hub.heal();
        world.restart(replaced).await;
        let last = world.node(replaced).group().log().last();
        world.pass(100).await;
        assert!(world.node(replaced).owner.role().members[&ReplicaId(u64::from(replaced))].voter);
        world.pass(20_000).await;
        assert_eq!(world.node(leader).owner.role(), role, "same leader, same term");
        let left = world.node(replaced).owner.role();
        assert!(!left.leading && left.term <= role.term, "{left:?}");
        world.propose(leader, 10..20);
        for id in (1..=4).filter(|id| *id != replaced) {
            world.applied(id, 20).await;
        }
        assert_eq!(world.node(replaced).group().log().last(), last, "it is sent nothing");
    });
}
