//! Faults as data: what a storm draws from its seed, what a script holds, and how each is made.

use super::{net::Rough, world::World};
use serde::{Deserialize, Serialize};
use std::{rc::Rc, time::Duration};

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
}

impl Fault {
    /// All kinds: a set of storms has each of them.
    pub const KINDS: [&str; 21] = [
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
        "sync_error",
        "write_error",
        "jump",
        "flip",
        "wipe",
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
            Fault::Deaf { .. } => "deaf",
            Fault::Transfer { .. } => "transfer",
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

/// Makes a fault; returns when it is over.
pub(super) async fn make(world: &Rc<World>, fault: &Fault) {
    world.fault(serde_json::to_string(fault).unwrap_or_default());
    world.sums.borrow_mut().make(fault.name());
    match fault.clone() {
        Fault::Crash { node, down_ms } => crash(world, node, down_ms).await,
        Fault::CrashLeader { partition, down_ms } => match world.leader_of(partition) {
            Some(node) => crash(world, node, down_ms).await,
            None => wait(down_ms).await,
        },
        Fault::Kill { node, down_ms } => {
            world.kill(node);
            wait(down_ms).await;
            world.start(node).await;
        }
        Fault::Blackout { down_ms } => {
            until_unsynced(world, 1).await;
            world.sums.borrow_mut().blackouts += 1;
            world.everybody().for_each(|node| world.crash(node));
            wait(down_ms).await;
            for node in world.everybody() {
                world.start(node).await;
            }
        }
        Fault::Alone { node, clients, ms } => {
            world.isolate(node);
            if clients {
                world.cut_clients(node);
            }
            parted(world, ms).await;
        }
        Fault::OneWay { from, to, ms } => {
            world.net.block(from, to);
            parted(world, ms).await;
        }
        Fault::Bridge { node, ms } => {
            let others: Vec<u32> = world.everybody().filter(|other| *other != node).collect();
            let (left, right) = others.split_at(others.len() / 2);
            for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))) {
                world.net.partition(a, b);
            }
            parted(world, ms).await;
        }
        Fault::Break { from, to } => {
            world.net.break_connection(from, to);
            world.cut_clients(from);
            if world.options.full {
                // QUIC mends what is shorter.
                parted(world, GAP_MS).await;
            }
        }
        Fault::Slow { jitter_ms, break_one_in, ms } => {
            world.net.be(Rough { jitter_ms, break_one_in, ..Rough::default() });
            wait(ms).await;
            world.net.be(Rough::default());
        }
        Fault::Weather { from, to, jitter_ms, lost, twice, late, ms } => {
            let rough = Rough { jitter_ms, lost, twice, late, ..Rough::default() };
            world.net.be_between(from, to, rough);
            wait(ms).await;
            world.net.be_between(from, to, Rough::default());
        }
        Fault::Pause { node, ms } => {
            if let Some(tasks) = world.tasks_of(node) {
                tasks.pause();
                wait(ms).await;
                tasks.resume();
            }
        }
        Fault::Together { faults } => {
            let all: Vec<_> = faults.iter().map(|fault| Box::pin(make(world, fault))).collect();
            futures_util::future::join_all(all).await;
        }
        Fault::Stall { node, ms } => world.on_disk(node, |disk| disk.stall(Duration::from_millis(ms))),
        Fault::Full { node, ms } => {
            world.on_disk(node, |disk| disk.fill_up(true));
            wait(ms).await;
            world.on_disk(node, |disk| disk.fill_up(false));
        }
        Fault::SyncError { node } => world.on_disk(node, |disk| disk.fail_next_sync()),
        Fault::WriteError { node } => world.on_disk(node, |disk| disk.fail_next_write()),
        Fault::ReadError { node } => world.on_disk(node, |disk| disk.fail_next_read()),
        Fault::Jump { node, by_ms } => world.jump(node, by_ms),
        Fault::Flip { node, within, draw, down_ms } => {
            world.flip(node, &within, draw);
            world.crash(node);
            wait(down_ms).await;
            world.start(node).await;
        }
        Fault::Wipe { node, down_ms } => {
            world.crash(node);
            world.wipe(node);
            wait(down_ms).await;
            world.start(node).await;
        }
        Fault::Deaf { process, ms } => {
            world.deafen(process, Duration::from_millis(ms)).await;
        }
        Fault::Transfer { partition, unreachable } => transfer(world, partition, unreachable).await,
    }
}

async fn crash(world: &World, node: u32, down_ms: u64) {
    until_unsynced(world, node).await;
    world.crash(node);
    wait(down_ms).await;
    world.start(node).await;
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

async fn parted(world: &World, ms: u64) {
    world.sums.borrow_mut().partitions += 1;
    wait(ms).await;
    world.net.heal();
}

async fn transfer(world: &Rc<World>, partition: u32, unreachable: bool) {
    let Some(from) = world.leader_of(partition) else { return };
    let to = from % world.options.nodes + 1;
    if unreachable {
        world.sums.borrow_mut().partitions += 1;
        world.net.partition(from, to);
    }
    let asked = super::clients::transfer(world, partition, to);
    let _ = tokio::time::timeout(Duration::from_secs(3), asked).await;
    if unreachable {
        world.net.heal_between(from, to);
    }
}
