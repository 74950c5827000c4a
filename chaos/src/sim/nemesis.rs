//! The storm: one fault after the other, all from the seed.

use super::world::World;
use highwater_raft::{NodeId, transport::Lane};
use std::{rc::Rc, time::Duration};

/// Makes faults until the storm is over, then heals.
pub(super) async fn storm(world: Rc<World>) {
    while !world.is_calm() {
        pause(&world, 200, 2_000).await;
        match world.env.random_below(12) {
            0..=4 => crash_one(&world).await,
            5 => blackout(&world).await,
            6..=7 => partition(&world).await,
            8 => one_way(&world).await,
            9 => break_connections(&world).await,
            10 => stall(&world),
            _ => jump(&world),
        }
    }
    world.hub.heal();
    world.hub.break_one_in(0);
    for node in 1..=world.options.nodes {
        world.start(node).await;
    }
}

async fn pause(world: &World, least: u64, most: u64) {
    tokio::time::sleep(Duration::from_millis(least + world.env.random_below(most - least))).await;
}

fn any(world: &World) -> u32 {
    1 + u32::try_from(world.env.random_below(world.options.nodes.into())).unwrap_or(0)
}

async fn crash_one(world: &World) {
    let node = any(world);
    world.crash(node);
    // Now and then faster than anybody suspects it.
    let most = if world.env.random_below(3) == 0 { 300 } else { 3_000 };
    pause(world, 20, most).await;
    world.start(node).await;
}

async fn blackout(world: &World) {
    world.fault("all nodes lose power".into());
    world.sums.borrow_mut().blackouts += 1;
    for node in 1..=world.options.nodes {
        world.crash(node);
    }
    pause(world, 100, 1_000).await;
    for node in 1..=world.options.nodes {
        world.start(node).await;
    }
}

async fn partition(world: &World) {
    let node = any(world);
    world.fault(format!("node {node} is alone"));
    world.sums.borrow_mut().partitions += 1;
    world.hub.isolate(NodeId(node));
    if world.env.random_below(2) == 0 {
        world.cut_clients(node);
    }
    pause(world, 300, 4_000).await;
    world.hub.heal();
}

async fn one_way(world: &World) {
    let (from, to) = (any(world), any(world));
    if from == to {
        return;
    }
    world.fault(format!("nothing goes from node {from} to node {to}"));
    world.sums.borrow_mut().partitions += 1;
    world.hub.block(NodeId(from), NodeId(to));
    pause(world, 300, 3_000).await;
    world.hub.heal();
}

async fn break_connections(world: &World) {
    let (from, to) = (any(world), any(world));
    world.fault(format!("connections from node {from} to node {to} break"));
    for lane in [Lane::Control, Lane::Data, Lane::Bulk] {
        world.hub.break_connection(NodeId(from), NodeId(to), lane);
    }
    world.cut_clients(from);
}

fn stall(world: &World) {
    let node = any(world);
    let time = Duration::from_millis(50 + world.env.random_below(1_500));
    world.fault(format!("the disk of node {node} stalls for {} ms", time.as_millis()));
    world.stall(node, time);
}

fn jump(world: &World) {
    let node = any(world);
    let by = i64::try_from(world.env.random_below(20_000)).unwrap_or(0) - 10_000;
    world.fault(format!("the clock of node {node} jumps by {by} ms"));
    world.jump(node, by);
}
