//! Faults as data: what a storm draws from its seed, what a script holds, and how each is made.

use super::{net::Rough, world::World};
use serde::{Deserialize, Serialize};
use std::{rc::Rc, time::Duration};

/// A node, by its number or by its role when [`Fault::Cast`] was made last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Who {
    /// This one.
    Node(u32),
    /// Whoever had the role.
    Role(Role),
}

/// What a node was to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It led.
    Leader,
    /// It followed.
    First,
    /// It followed too.
    Second,
}

/// Who has which role in a partition.
#[derive(Default)]
pub(super) struct Cast {
    partition: u32,
    /// The leader's life.
    life: Option<u64>,
    nodes: Vec<u32>,
}

impl Cast {
    fn node(&self, who: Who) -> Option<u32> {
        match who {
            Who::Node(node) => Some(node),
            Who::Role(role) => self.nodes.get(role as usize).copied(),
        }
    }

    /// The leader first; nobody when there is none.
    fn choose(&mut self, world: &World, partition: u32, draw: u64) -> bool {
        *self = Cast { partition, ..Cast::default() };
        let Some((life, leader)) = world.leading(partition) else { return false };
        let mut nodes: Vec<u32> = world.voters_of(partition).into_iter().filter(|node| *node != leader).collect();
        if !draw.is_multiple_of(2) {
            nodes.reverse();
        }
        nodes.insert(0, leader);
        world.fault(format!("roles in partition {partition}: {nodes:?}"));
        (self.life, self.nodes) = (Some(life), nodes);
        true
    }

    async fn change(&mut self, world: &World, ms: u64) -> bool {
        for _ in 0..ms {
            if let Some((life, leader)) = world.leading(self.partition)
                && Some(life) != self.life
                && let Some(place) = self.nodes.iter().position(|node| *node == leader)
            {
                self.life = Some(life);
                self.nodes.swap(0, place);
                world.fault(format!("roles now: {:?}", self.nodes));
                return true;
            }
            wait(1).await;
        }
        false
    }
}

/// How a node goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Its process dies: nothing that it wrote is lost.
    Process,
    /// Power: what it had not synced is lost.
    Power,
    /// The disk with all that is on it.
    Disk,
}

/// One fault. Times are virtual milliseconds; nodes count from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Fault {
    /// A node loses power, if possible while it has written what it has not synced, and comes back.
    Crash {
        /// Which.
        node: u32,
        /// For how long it is down.
        down_ms: u64,
    },
    /// A process dies: what it wrote survives, synced or not.
    Kill {
        /// Which node.
        node: u32,
        /// For how long it is down.
        down_ms: u64,
    },
    /// The node that leads a partition loses power with an unsynced tail.
    CrashLeader {
        /// Of which partition.
        partition: u32,
        /// For how long it is down.
        down_ms: u64,
    },
    /// All nodes lose power at once.
    Blackout {
        /// For how long.
        down_ms: u64,
    },
    /// A node is cut off from all others, and from its clients or not.
    Alone {
        /// Which.
        node: u32,
        /// From clients too.
        clients: bool,
        /// For how long.
        ms: u64,
    },
    /// Nothing goes from one node to another; the way back is open.
    OneWay {
        /// From here …
        from: u32,
        /// … to there.
        to: u32,
        /// For how long.
        ms: u64,
    },
    /// Two halves see one node and not each other.
    Bridge {
        /// Whom all see.
        node: u32,
        /// For how long.
        ms: u64,
    },
    /// Connections between two nodes, and of one to its clients, break.
    Break {
        /// Dialled by …
        from: u32,
        /// … to.
        to: u32,
    },
    /// The network is slow and uneven, and connections break now and then.
    Slow {
        /// Milliseconds on top of each message, at random from 0.
        jitter_ms: u64,
        /// One message in so many breaks its connection; 0: none.
        break_one_in: u64,
        /// For how long.
        ms: u64,
    },
    /// Links have weather: messages are late, and below QUIC also lost, repeated and overtaken.
    Weather {
        /// Only what this node sends; 0: any.
        from: u32,
        /// Only what this node is sent; 0: any. In frames a single link has no weather of its own.
        to: u32,
        /// Milliseconds on top of each, at random from 0.
        jitter_ms: u64,
        /// Of a thousand.
        lost: u16,
        /// Of a thousand.
        twice: u16,
        /// Of a thousand, by up to 300 ms.
        late: u16,
        /// For how long.
        ms: u64,
    },
    /// A process stands still, as if stopped by a signal: what it is sent waits, its timers go on.
    Pause {
        /// Which node.
        node: u32,
        /// For how long.
        ms: u64,
    },
    /// Some faults at once.
    Together {
        /// They begin together; it is over when the last of them is.
        faults: Vec<Fault>,
    },
    /// A disk does nothing for a while.
    Stall {
        /// Whose.
        node: u32,
        /// For how long.
        ms: u64,
    },
    /// A disk is full for a while.
    Full {
        /// Whose.
        node: u32,
        /// For how long.
        ms: u64,
    },
    /// The next sync of a disk fails: the node stops, and is started again.
    SyncError {
        /// Whose.
        node: u32,
    },
    /// The next write of a disk fails when part of it is written.
    WriteError {
        /// Whose.
        node: u32,
    },
    /// The next read of a disk fails.
    ReadError {
        /// Whose.
        node: u32,
    },
    /// A wall clock jumps.
    Jump {
        /// Whose.
        node: u32,
        /// By so much.
        by_ms: i64,
    },
    /// A bit of a file turns; then the node loses power, so that it reads its files again.
    Flip {
        /// Whose.
        node: u32,
        /// Only files whose path contains this.
        within: String,
        /// Which of them, byte and bit: from this number.
        draw: u64,
        /// For how long the node is down.
        down_ms: u64,
    },
    /// A node loses its disk and comes back with an empty one.
    Wipe {
        /// Which.
        node: u32,
        /// For how long it is down.
        down_ms: u64,
    },
    /// As soon as Raft has voters in the place of what was on the last disk that was lost, reported or not, another node loses
    /// its disk.
    WipeNext {
        /// Which of the others: from this number.
        draw: u64,
        /// Not later than this.
        within_ms: u64,
        /// For how long it is down.
        down_ms: u64,
    },
    /// A client is cut off from all nodes for a while.
    Deaf {
        /// Which process of the workload.
        process: u32,
        /// For how long.
        ms: u64,
    },
    /// The leader of a partition hands over to the next node, which does not hear it if `unreachable`.
    Transfer {
        /// Which partition.
        partition: u32,
        /// The target is cut off right before.
        unreachable: bool,
    },
    /// Roles of a partition are given to its voters, the followers' by `draw`. Those that follow are over at once: what they did
    /// stays until it is undone, or the storm is over.
    Cast {
        /// Which partition.
        partition: u32,
        /// Odd: the followers' roles the other way round.
        draw: u64,
    },
    /// Waits until the partition's lead changed hands, or was won again by a node that had been down. Its new leader and its old
    /// one change roles.
    Recast {
        /// At most so long.
        ms: u64,
    },
    /// A node is cut off from all others, and from its clients or not.
    Cut {
        /// Which.
        node: Who,
        /// From clients too.
        clients: bool,
    },
    /// It is cut off no more.
    Join {
        /// Which.
        node: Who,
    },
    /// A node goes down.
    Down {
        /// Which.
        node: Who,
        /// What it loses.
        loses: Loss,
    },
    /// Syncs of some of a node's files take longer, in later lives too.
    Drag {
        /// Whose.
        node: Who,
        /// Files whose path contains this.
        within: String,
        /// So many times as long; 1: as usual again.
        times: u32,
    },
    /// A node that is down starts.
    Up {
        /// Which.
        node: Who,
    },
}

impl Fault {
    /// All kinds: a set of storms has each of them.
    pub const KINDS: [&str; 23] = [
        "crash",
        "kill",
        "crash_leader",
        "blackout",
        "alone",
        "one_way",
        "bridge",
        "break",
        "slow",
        "weather",
        "pause",
        "together",
        "stall",
        "full",
        "read_error",
        "sync_error",
        "write_error",
        "jump",
        "flip",
        "wipe",
        "wipe_next",
        "deaf",
        "transfer",
    ];

    fn name(&self) -> &'static str {
        match self {
            Fault::Crash { .. } => "crash",
            Fault::Kill { .. } => "kill",
            Fault::CrashLeader { .. } => "crash_leader",
            Fault::Blackout { .. } => "blackout",
            Fault::Alone { .. } => "alone",
            Fault::OneWay { .. } => "one_way",
            Fault::Bridge { .. } => "bridge",
            Fault::Break { .. } => "break",
            Fault::Slow { .. } => "slow",
            Fault::Weather { .. } => "weather",
            Fault::Pause { .. } => "pause",
            Fault::Together { .. } => "together",
            Fault::Stall { .. } => "stall",
            Fault::Full { .. } => "full",
            Fault::SyncError { .. } => "sync_error",
            Fault::WriteError { .. } => "write_error",
            Fault::ReadError { .. } => "read_error",
            Fault::Jump { .. } => "jump",
            Fault::Flip { .. } => "flip",
            Fault::Wipe { .. } => "wipe",
            Fault::WipeNext { .. } => "wipe_next",
            Fault::Deaf { .. } => "deaf",
            Fault::Transfer { .. } => "transfer",
            Fault::Cast { .. } => "cast",
            Fault::Recast { .. } => "recast",
            Fault::Cut { .. } => "cut",
            Fault::Join { .. } => "join",
            Fault::Down { .. } => "down",
            Fault::Drag { .. } => "drag",
            Fault::Up { .. } => "up",
        }
    }
}

/// What lies between two faults, and the second of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Virtual milliseconds before it.
    pub pause_ms: u64,
    /// What is done then.
    #[serde(flatten)]
    pub fault: Fault,
}

/// Below QUIC a connection that breaks is one that hears nothing for so long.
const GAP_MS: u64 = 700;

pub(super) async fn wait(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Makes a fault; returns when it is over. It counts when it did something.
pub(super) async fn make(world: &Rc<World>, cast: &mut Cast, fault: &Fault) -> bool {
    world.fault(serde_json::to_string(fault).unwrap_or_default());
    let bit = bite(world, cast, fault.clone()).await;
    if bit {
        world.sums.borrow_mut().make(fault.name());
    }
    bit
}

async fn bite(world: &Rc<World>, cast: &mut Cast, fault: Fault) -> bool {
    match fault {
        Fault::Crash { node, down_ms } => crash(world, node, down_ms).await,
        Fault::CrashLeader { partition, down_ms } => match world.leader_of(partition) {
            Some(node) => crash(world, node, down_ms).await,
            None => {
                wait(down_ms).await;
                false
            }
        },
        Fault::Kill { node, down_ms } => {
            let bit = world.kill(node);
            wait(down_ms).await;
            world.start(node).await;
            bit
        }
        Fault::Blackout { down_ms } => {
            until_unsynced(world, 1).await;
            let down = world.everybody().filter(|node| world.crash(*node)).count();
            world.sums.borrow_mut().blackouts += u64::from(down > 1);
            wait(down_ms).await;
            for node in world.everybody() {
                world.start(node).await;
            }
            down > 1
        }
        Fault::Alone { node, clients, ms } => {
            world.isolate(node);
            if clients {
                world.cut_clients(node);
            }
            let pairs = others(world, &[node]).into_iter().map(|other| (node, other)).collect();
            parted(world, pairs, ms).await
        }
        Fault::OneWay { from, to, ms } => {
            world.net.block(from, to);
            parted(world, vec![(from, to)], ms).await
        }
        Fault::Bridge { node, ms } => {
            let others = others(world, &[node]);
            let (left, right) = others.split_at(others.len() / 2);
            let pairs: Vec<_> = left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))).collect();
            pairs.iter().for_each(|(a, b)| world.net.partition(*a, *b));
            parted(world, pairs, ms).await
        }
        Fault::Break { from, to } => {
            world.net.break_connection(from, to);
            world.cut_clients(from);
            if world.options.full {
                // QUIC mends what is shorter.
                return parted(world, vec![(from, to)], GAP_MS).await;
            }
            world.lives(from) && world.lives(to)
        }
        Fault::Slow { jitter_ms, break_one_in, ms } => {
            let usual = world.options.storm.usual();
            world.net.be(Rough { jitter_ms: usual.jitter_ms.max(jitter_ms), break_one_in, ..usual });
            wait(ms).await;
            world.net.be(usual);
            jitter_ms > usual.jitter_ms || break_one_in > 0
        }
        Fault::Weather { from, to, jitter_ms, lost, twice, late, ms } => {
            let rough = Rough { jitter_ms, lost, twice, late, ..Rough::default() };
            world.net.be_between(from, to, rough);
            wait(ms).await;
            world.net.be_between(from, to, world.options.storm.usual());
            // Frames are late at most.
            jitter_ms > 0 || world.options.full && lost + twice + late > 0
        }
        Fault::Pause { node, ms } => {
            let Some(tasks) = world.tasks_of(node) else { return false };
            tasks.pause();
            wait(ms).await;
            tasks.resume();
            true
        }
        Fault::Together { faults } => {
            // Each with roles of its own.
            let alone = async |fault: &Fault| Box::pin(make(world, &mut Cast::default(), fault)).await;
            let bit = futures_util::future::join_all(faults.iter().map(alone)).await;
            bit.into_iter().filter(|bit| *bit).count() > 1
        }
        Fault::Stall { node, ms } => {
            world.on_disk(node, |disk| disk.stall(Duration::from_millis(ms)));
            world.lives(node)
        }
        Fault::Full { node, ms } => {
            let refused = || world.failures_of(node).full;
            let before = refused();
            world.on_disk(node, |disk| disk.fill_up(true));
            wait(ms).await;
            world.on_disk(node, |disk| disk.fill_up(false));
            refused() > before
        }
        // They count when the disk does it: `World::count_failures`.
        Fault::SyncError { node } => {
            world.on_disk(node, |disk| disk.fail_next_sync());
            false
        }
        Fault::WriteError { node } => {
            world.on_disk(node, |disk| disk.fail_next_write());
            false
        }
        Fault::ReadError { node } => {
            world.on_disk(node, |disk| disk.fail_next_read());
            false
        }
        Fault::Jump { node, by_ms } => world.jump(node, by_ms),
        Fault::Flip { node, within, draw, down_ms } => {
            let bit = world.flip(node, &within, draw);
            world.crash(node);
            wait(down_ms).await;
            world.start(node).await;
            bit
        }
        Fault::Wipe { node, down_ms } => {
            let bit = world.crash(node);
            world.wipe(node);
            wait(down_ms).await;
            world.start(node).await;
            bit
        }
        Fault::WipeNext { draw, within_ms, down_ms } => {
            for _ in 0..within_ms {
                if let Some(node) = world.next_to_lose(draw) {
                    world.fault(format!("node {node} is next to lose its disk"));
                    return Box::pin(bite(world, cast, Fault::Wipe { node, down_ms })).await;
                }
                wait(1).await;
            }
            false
        }
        Fault::Deaf { process, ms } => world.deafen(process, Duration::from_millis(ms)).await,
        Fault::Transfer { partition, unreachable } => transfer(world, partition, unreachable).await,
        Fault::Cast { partition, draw } => cast.choose(world, partition, draw),
        Fault::Recast { ms } => cast.change(world, ms).await,
        Fault::Cut { node, .. } | Fault::Join { node } | Fault::Down { node, .. } | Fault::Drag { node, .. } => {
            match cast.node(node) {
                Some(node) => lasting(world, node, &fault),
                None => false,
            }
        }
        Fault::Up { node } => {
            let Some(node) = cast.node(node) else { return false };
            let bit = !world.lives(node);
            world.start(node).await;
            bit
        }
    }
}

/// What stays until it is undone.
fn lasting(world: &World, node: u32, fault: &Fault) -> bool {
    let lives = world.lives(node);
    match fault {
        Fault::Cut { clients, .. } => {
            world.sums.borrow_mut().partitions += u64::from(lives);
            world.isolate(node);
            if *clients {
                world.cut_clients(node);
            }
        }
        Fault::Join { .. } => others(world, &[node]).into_iter().for_each(|other| world.net.heal_between(node, other)),
        Fault::Down { loses: Loss::Process, .. } => drop(world.kill(node)),
        Fault::Down { loses, .. } => {
            world.crash(node);
            if *loses == Loss::Disk {
                world.wipe(node);
            }
        }
        Fault::Drag { within, times, .. } => world.on_disk(node, |disk| disk.drag(within, *times)),
        _ => unreachable!("over when it is made"),
    }
    lives
}

async fn crash(world: &World, node: u32, down_ms: u64) -> bool {
    until_unsynced(world, node).await;
    let bit = world.crash(node);
    wait(down_ms).await;
    world.start(node).await;
    bit
}

/// Waits until a node has written what it has not synced: a crash in between is the one that hurts.
async fn until_unsynced(world: &World, node: u32) {
    for _ in 0..100 {
        if world.unsynced_bytes(node) > 0 {
            return;
        }
        wait(1).await;
    }
}

fn others(world: &World, than: &[u32]) -> Vec<u32> {
    world.everybody().filter(|node| !than.contains(node)).collect()
}

/// A while of which some pairs do not hear each other: it counts when both of one live. Others' breaks stay.
async fn parted(world: &World, pairs: Vec<(u32, u32)>, ms: u64) -> bool {
    let bit = pairs.iter().any(|(a, b)| world.lives(*a) && world.lives(*b));
    world.sums.borrow_mut().partitions += u64::from(bit);
    wait(ms).await;
    pairs.iter().for_each(|(a, b)| world.net.heal_between(*a, *b));
    bit
}

async fn transfer(world: &Rc<World>, partition: u32, unreachable: bool) -> bool {
    let Some(from) = world.leader_of(partition) else { return false };
    let to = from % world.options.nodes + 1;
    if unreachable {
        world.sums.borrow_mut().partitions += u64::from(world.lives(to));
        world.net.partition(from, to);
    }
    let asked = super::clients::transfer(world, partition, to);
    let done = tokio::time::timeout(Duration::from_secs(3), asked).await.unwrap_or(false);
    if unreachable {
        world.net.heal_between(from, to);
    }
    done || unreachable
}
