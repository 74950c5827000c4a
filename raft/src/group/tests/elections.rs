//! How elections go: who stands when, and who does not.

use super::world::{GROUP, TestOwner, World, sim};
use crate::{
    GroupId, NodeId, ReplicaId,
    group::{Group, Host, Role},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;

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
