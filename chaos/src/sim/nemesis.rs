//! The storm: one fault after the other, drawn from the seed like cards, or as a script says.

use super::{
    Course,
    faults::{self, Cast, Fault, Loss, Role, Step, Who},
    net::Rough,
    sometimes::{LOSSY_CRASHES_MIN, PARTITIONS_MIN},
    storm::{Card, Storm},
    world::World,
};
use std::rc::Rc;

/// Cards on top of the deck of a wide storm.
const WIDE: usize = 8;

/// Makes faults until the storm is over, then heals.
pub(super) async fn storm(world: Rc<World>) {
    let mut cast = Cast::default();
    world.net.be(world.options.storm.usual());
    match world.options.script.clone() {
        Some(script) => play(&world, &mut cast, &script).await,
        None if world.options.course == Course::Brief => brief(&world, &mut cast).await,
        None => draw_on(&world, &mut cast).await,
    }
    world.net.heal();
    world.net.be(Rough::default());
    for node in world.everybody() {
        world.on_disk(node, |disk| {
            disk.fill_up(false);
            disk.fail_nothing();
            disk.drag("", 1);
        });
    }
    for node in world.everybody() {
        world.start(node).await;
    }
}

async fn play(world: &Rc<World>, cast: &mut Cast, steps: &[Step]) {
    for Step { pause_ms, fault } in steps {
        faults::wait(*pause_ms).await;
        faults::make(world, cast, fault).await;
    }
}

async fn draw_on(world: &Rc<World>, cast: &mut Cast) {
    let storm = world.options.storm.clone();
    let mut deck = Vec::new();
    while !world.is_calm() {
        if deck.is_empty() {
            deck = storm.cards();
            if world.options.course == Course::Wide {
                deck.extend([Card::Wide; WIDE]);
            }
        }
        let card = usize::try_from(world.env.random_below(deck.len() as u64)).unwrap_or(0);
        let card = lacking(world).unwrap_or_else(|| deck.swap_remove(card));
        let mut steps = match card {
            Card::Scene => scene(world, &storm),
            card => one_or_more(world, draw(world, card)),
        };
        if let Some(first) = steps.first_mut() {
            first.pause_ms += between(world, storm.pause_ms.0, storm.pause_ms.1);
        }
        make(world, cast, steps).await;
    }
}

/// Plays what was drawn, and keeps it for a script.
async fn make(world: &Rc<World>, cast: &mut Cast, steps: Vec<Step>) {
    world.drawn.borrow_mut().extend(steps.iter().cloned());
    play(world, cast, &steps).await;
}

/// A disk is lost in three of four, then a few faults come close together.
async fn brief(world: &Rc<World>, cast: &mut Cast) {
    let pause_ms = between(world, 300, 3_000);
    let roles = Fault::Cast { partition: partition(world), draw: world.env.random_below(2) };
    let mut steps = vec![Step { pause_ms, fault: roles }];
    if world.env.random_below(4) > 0 {
        let node = Who::Role(one_of(world, &[Role::Leader, Role::First, Role::Second]));
        steps.push(Step { pause_ms: 10, fault: Fault::Down { node, loses: Loss::Disk } });
        steps.push(Step { pause_ms: one_of(world, &[20, 300, 1_500]), fault: Fault::Up { node } });
    }
    make(world, cast, steps).await;
    let mut deck = world.options.storm.cards();
    deck.extend([Card::Wide; WIDE]);
    for _ in 0..=world.env.random_below(3) {
        let any = || draw(world, one_of(world, &deck));
        let fault = match world.env.random_below(4) {
            0 => {
                // Two disks that are harmed at once are more than three replicas can bear.
                let harms = |fault: &Fault| matches!(fault, Fault::Wipe { .. } | Fault::Flip { .. });
                let first = any();
                let second = std::iter::repeat_with(any).find(|second| !(harms(&first) && harms(second)));
                Fault::Together { faults: [Some(first), second].into_iter().flatten().collect() }
            }
            _ => any(),
        };
        make(world, cast, vec![Step { pause_ms: one_of(world, &[0, 30, 150, 500, 1_500]), fault }]).await;
    }
}

/// In wide storms a disk is seldom lost alone: others follow, each as soon as may be.
fn one_or_more(world: &World, fault: Fault) -> Vec<Step> {
    let more = if world.options.course == Course::Wide && matches!(fault, Fault::Wipe { .. }) {
        world.env.random_below(4)
    } else {
        0
    };
    let next = |_| {
        let fault = Fault::WipeNext {
            draw: world.env.random_below(1_000),
            within_ms: 15_000,
            down_ms: between(world, 20, 1_000),
        };
        Step { pause_ms: between(world, 0, 300), fault }
    };
    let follow: Vec<_> = (0..more).map(next).collect();
    [Step { pause_ms: 0, fault }].into_iter().chain(follow).collect()
}

/// One of the storm's scenes, with other parts and other pauses.
fn scene(world: &World, storm: &Storm) -> Vec<Step> {
    let which = usize::try_from(world.env.random_below(storm.scenes.len() as u64)).unwrap_or(0);
    let mut steps = storm.scenes.get(which).cloned().unwrap_or_default();
    let takes_a_disk = |step: &Step| matches!(step.fault, Fault::Down { loses: Loss::Disk, .. });
    if steps.iter().any(takes_a_disk) && !world.is_sound() {
        return vec![Step { pause_ms: 0, fault: draw(world, Card::Break) }];
    }
    for step in &mut steps {
        let most = step.pause_ms * storm.wobble / 100;
        step.pause_ms = between(world, step.pause_ms - most, step.pause_ms + most + 1);
        if let Fault::Cast { partition: of, draw } = &mut step.fault {
            (*of, *draw) = (partition(world), world.env.random_below(2));
        }
    }
    steps
}

/// What there is too little of by now for what a storm must have, spread over its time: some more than that, all of it before the
/// end is near.
fn lacking(world: &World) -> Option<Card> {
    let total = world.options.seconds.max(1) * 1_000_000;
    let due = |least: u64| least * world.now() / total;
    let sums = world.sums.borrow();
    match () {
        () if world.options.seconds < 60 => None,
        () if sums.lossy_crashes < due(LOSSY_CRASHES_MIN + 2) => Some(Card::CrashLeader),
        () if sums.partitions < due(PARTITIONS_MIN + 1) => Some(Card::Alone),
        () => None,
    }
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
        Card::Deaf => {
            let process = 21 + u32::try_from(world.env.random_below(world.options.storm.members.into())).unwrap_or(0);
            Fault::Deaf { process, ms: between(world, 1_000, 6_000) }
        }
        Card::Flip if world.env.random_below(2) == 0 => flip(world, ".seg"),
        Card::Flip => flip(world, "wal/"),
        Card::Wipe => match world.fragile() {
            Some(node) => Fault::Wipe { node, down_ms: between(world, 100, 2_000) },
            None => Fault::Break { from: 2, to: 1 },
        },
        Card::Rare | Card::Scene => rare(world),
        Card::Wide => wide(world),
    }
}

/// What only wide storms have.
fn wide(world: &World) -> Fault {
    match world.env.random_below(12) {
        0..3 => Fault::Pause { node: any(world), ms: between(world, 100, 4_000) },
        3 | 4 => weather(world),
        5 => Fault::WriteError { node: any(world) },
        6 => Fault::ReadError { node: any(world) },
        7 => {
            let by = i64::try_from(world.env.random_below(1_200_000)).unwrap_or(0) - 600_000;
            Fault::Jump { node: any(world), by_ms: by }
        }
        8 | 9 => draw(world, Card::Wipe),
        _ => Fault::Together { faults: vec![companion(world), companion(world)] },
    }
}

fn weather(world: &World) -> Fault {
    // One direction of one link, what one node sends or is sent, or all.
    let (from, to) = match world.env.random_below(3) {
        0 => pair(world),
        1 => (any(world), 0),
        _ => (0, 0),
    };
    let of_thousand = |most: u64| u16::try_from(world.env.random_below(most)).unwrap_or(0);
    let (lost, twice, late) = (of_thousand(300), of_thousand(200), of_thousand(200));
    Fault::Weather { from, to, jitter_ms: between(world, 0, 80), lost, twice, late, ms: between(world, 1_000, 6_000) }
}

/// A fault that may come beside any other.
fn companion(world: &World) -> Fault {
    match world.env.random_below(6) {
        0 => Fault::Pause { node: any(world), ms: between(world, 300, 3_000) },
        1 => Fault::Kill { node: any(world), down_ms: down(world) },
        2 => draw(world, Card::Crash),
        3 => draw(world, Card::CrashLeader),
        4 => draw(world, Card::Alone),
        _ => draw(world, Card::Stall),
    }
}

fn flip(world: &World, within: &str) -> Fault {
    match world.fragile() {
        Some(node) => {
            let draw = world.env.random_u64() >> 1;
            Fault::Flip { node, within: within.to_owned(), draw, down_ms: down(world) }
        }
        None => Fault::Break { from: 1, to: 2 },
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
        8 | 9 => draw(world, Card::Deaf),
        10 => flip(world, "wal/"),
        _ => draw(world, Card::Wipe),
    }
}

fn one_of<T: Copy>(world: &World, of: &[T]) -> T {
    of[usize::try_from(world.env.random_below(of.len() as u64)).unwrap_or(0)]
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
