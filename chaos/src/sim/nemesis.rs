//! The storm: one fault after the other, drawn from the seed like cards, or as a script says.

use super::{
    faults::{self, Fault, Step},
    net::Rough,
    world::World,
};
use std::rc::Rc;

#[derive(Clone, Copy)]
enum Card {
    Crash,
    CrashLeader,
    Blackout,
    Alone,
    OneWay,
    Break,
    Stall,
    Jump,
    Rare,
}

/// A storm that gets through the deck once has had what every storm must have.
const DECK: [Card; 18] = {
    use Card::*;
    [
        Crash,
        Crash,
        Crash,
        CrashLeader,
        CrashLeader,
        CrashLeader,
        Blackout,
        Alone,
        Alone,
        OneWay,
        OneWay,
        Break,
        Stall,
        Jump,
        Rare,
        Rare,
        Rare,
        Rare,
    ]
};

/// Makes faults until the storm is over, then heals.
pub(super) async fn storm(world: Rc<World>) {
    match world.options.script.clone() {
        Some(script) => {
            for Step { pause_ms, fault } in script.iter() {
                faults::wait(*pause_ms).await;
                faults::make(&world, fault).await;
            }
        }
        None => draw_on(&world).await,
    }
    world.net.heal();
    world.net.be(Rough::default());
    world.everybody().for_each(|node| world.on_disk(node, |disk| disk.fill_up(false)));
    for node in world.everybody() {
        world.start(node).await;
    }
}

async fn draw_on(world: &Rc<World>) {
    let mut deck = Vec::new();
    while !world.is_calm() {
        if deck.is_empty() {
            deck = DECK.to_vec();
        }
        let card = usize::try_from(world.env.random_below(deck.len() as u64)).unwrap_or(0);
        let fault = match is_mild(world) {
            true => draw(world, Card::CrashLeader),
            false => draw(world, deck.swap_remove(card)),
        };
        let pause_ms = between(world, 200, 1_500);
        world.drawn.borrow_mut().push(Step { pause_ms, fault: fault.clone() });
        faults::wait(pause_ms).await;
        faults::make(world, &fault).await;
    }
}

/// Fewer crashes lost bytes by now than a storm must have, spread over its time.
fn is_mild(world: &World) -> bool {
    let due = super::sometimes::LOSSY_CRASHES_MIN * world.now() / (world.options.seconds.max(1) * 1_000_000);
    world.options.seconds >= 60 && world.sums.borrow().lossy_crashes < due
}

fn draw(world: &World, card: Card) -> Fault {
    match card {
        Card::Crash => Fault::Crash { node: any(world), down_ms: down(world) },
        Card::CrashLeader => Fault::CrashLeader { partition: partition(world), down_ms: down(world) },
        Card::Blackout => Fault::Blackout { down_ms: between(world, 100, 1_000) },
        Card::Alone => {
            Fault::Alone { node: any(world), clients: world.env.random_below(2) == 0, ms: between(world, 300, 4_000) }
        }
        Card::OneWay => {
            let (from, to) = pair(world);
            Fault::OneWay { from, to, ms: between(world, 300, 3_000) }
        }
        Card::Break => {
            let (from, to) = pair(world);
            Fault::Break { from, to }
        }
        Card::Stall => Fault::Stall { node: any(world), ms: between(world, 50, 1_500) },
        Card::Jump => {
            let by = i64::try_from(world.env.random_below(20_000)).unwrap_or(0) - 10_000;
            Fault::Jump { node: any(world), by_ms: by }
        }
        Card::Rare => rare(world),
    }
}

fn rare(world: &World) -> Fault {
    match world.env.random_below(12) {
        0 => Fault::Kill { node: any(world), down_ms: down(world) },
        1 => Fault::Bridge { node: any(world), ms: between(world, 300, 3_000) },
        2 => Fault::Slow { jitter_ms: between(world, 10, 60), break_one_in: 200, ms: between(world, 500, 3_000) },
        3 => Fault::Full { node: any(world), ms: between(world, 500, 3_000) },
        4 => Fault::SyncError { node: any(world) },
        5 => Fault::Transfer { partition: partition(world), unreachable: false },
        6 | 7 => Fault::Transfer { partition: partition(world), unreachable: true },
        8 | 9 => Fault::Deaf {
            process: 21 + u32::try_from(world.env.random_below(2)).unwrap_or(0),
            ms: between(world, 1_000, 6_000),
        },
        10 => match world.fragile() {
            Some(node) => {
                // Damaged segments are said and not served; nobody fetches them from a peer yet (chaos/scripts/open).
                let (within, draw) = ("wal/".to_owned(), world.env.random_u64() >> 1);
                Fault::Flip { node, within, draw, down_ms: down(world) }
            }
            None => Fault::Break { from: 1, to: 2 },
        },
        _ => match world.fragile() {
            Some(node) => Fault::Wipe { node, down_ms: between(world, 100, 2_000) },
            None => Fault::Break { from: 2, to: 1 },
        },
    }
}

fn between(world: &World, least: u64, most: u64) -> u64 {
    least + world.env.random_below(most - least)
}

/// Now and then faster than anybody suspects it.
fn down(world: &World) -> u64 {
    let most = if world.env.random_below(3) == 0 { 300 } else { 2_500 };
    between(world, 20, most)
}

fn any(world: &World) -> u32 {
    1 + u32::try_from(world.env.random_below(world.options.nodes.into())).unwrap_or(0)
}

fn partition(world: &World) -> u32 {
    u32::try_from(world.env.random_below(world.options.partitions.into())).unwrap_or(0)
}

/// Two nodes that differ.
fn pair(world: &World) -> (u32, u32) {
    let from = any(world);
    let others = world.options.nodes.saturating_sub(1).max(1);
    let step = 1 + u32::try_from(world.env.random_below(others.into())).unwrap_or(0);
    (from, (from - 1 + step) % world.options.nodes + 1)
}
