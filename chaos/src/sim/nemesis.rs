//! The storm: one fault after the other, all from the seed.

use super::world::World;
use highwater_raft::{NodeId, transport::Lane};
use std::{rc::Rc, time::Duration};

#[derive(Clone, Copy)]
enum Fault {
    Crash,
    Blackout,
    Partition,
    OneWay,
    Break,
    Stall,
    Jump,
}

/// Faults are drawn like cards: a storm that gets through the deck once has had them all.
const DECK: [Fault; 14] = {
    use Fault::*;
    [Crash, Crash, Crash, Crash, Crash, Crash, Blackout, Partition, Partition, OneWay, OneWay, Break, Stall, Jump]
};

/// Makes faults until the storm is over, then heals.
pub(super) async fn storm(world: Rc<World>) {
    let mut deck = Vec::new();
    while !world.is_calm() {
        if deck.is_empty() {
            deck = DECK.to_vec();
        }
        let card = usize::try_from(world.env.random_below(deck.len() as u64)).unwrap_or(0);
        let fault = deck.swap_remove(card);
        pause(&world, 200, 2_000).await;
        match fault {
            Fault::Crash => crash_one(&world).await,
            Fault::Blackout => blackout(&world).await,
            Fault::Partition => partition(&world).await,
            Fault::OneWay => one_way(&world).await,
            Fault::Break => break_connections(&world).await,
            Fault::Stall => stall(&world),
            Fault::Jump => jump(&world),
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

/// Two nodes that differ.
fn pair(world: &World) -> (u32, u32) {
    let from = any(world);
    let others = world.options.nodes.saturating_sub(1).max(1);
    let step = 1 + u32::try_from(world.env.random_below(others.into())).unwrap_or(0);
    (from, (from - 1 + step) % world.options.nodes + 1)
}

/// Waits until a node has written what it has not synced: a crash in between is the one that hurts.
async fn until_unsynced(world: &World, node: u32) {
    for _ in 0..100 {
        if world.unsynced_bytes(node) > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn crash_one(world: &World) {
    let node = any(world);
    until_unsynced(world, node).await;
    world.crash(node);
    // Now and then faster than anybody suspects it.
    let most = if world.env.random_below(3) == 0 { 300 } else { 3_000 };
    pause(world, 20, most).await;
    world.start(node).await;
}

async fn blackout(world: &World) {
    until_unsynced(world, any(world)).await;
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
    let (from, to) = pair(world);
    world.fault(format!("nothing goes from node {from} to node {to}"));
    world.sums.borrow_mut().partitions += 1;
    world.hub.block(NodeId(from), NodeId(to));
    pause(world, 300, 3_000).await;
    world.hub.heal();
}

async fn break_connections(world: &World) {
    let (from, to) = pair(world);
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
