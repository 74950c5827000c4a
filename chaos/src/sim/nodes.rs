//! The nodes of a world: their disks, which outlive their lives, and how lives begin and end.

use super::{
    Options, link,
    net::{self, Net},
    whole::Damage,
    world::World,
};
use crate::history::What;
use highwater::{
    config::{Config, Listener, ListenerKind},
    node::Node,
    wire::LinkClosed,
};
use highwater_raft::{
    BootId,
    env::{Env, TaskSet},
    testing::disk::{Failures, SimDisk, SimLimits},
};
use std::{rc::Rc, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Wall-clock time at which worlds begin: 2026-01-01.
pub(super) const EPOCH_MS: u64 = 1_767_225_600_000;
/// Starts of a node in a row that may fail.
const STARTS_MAX: u32 = 12;

/// One node's place: its disk outlives its lives.
pub(super) struct Place {
    disk: Arc<SimDisk>,
    /// The last life ended without a loss of power.
    keeps: bool,
    starting: bool,
    life: Option<Life>,
}

impl Place {
    /// With an empty disk; nothing runs.
    pub(super) fn new(world: &World) -> Self {
        let disk = SimDisk::new(world.env_of(TaskSet::default()), limits(&world.options));
        Self { disk, keeps: false, starting: false, life: None }
    }
}

struct Life {
    number: u64,
    tasks: TaskSet,
    env: Env,
    node: Rc<Node>,
}

/// Starts nodes again that stopped by themselves: as an operator would.
pub(super) async fn start_again(world: std::rc::Weak<World>, mut stops: mpsc::UnboundedReceiver<(u32, u64, String)>) {
    while let Some((id, number, why)) = stops.recv().await {
        let Some(world) = world.upgrade() else { return };
        if !world.is_life(id, number) {
            continue;
        }
        world.fault(format!("node {id} stopped: {why}"));
        world.end(id, false);
        tokio::time::sleep(Duration::from_millis(500 + world.env.random_below(1_000))).await;
        world.start(id).await;
    }
}

impl World {
    pub(super) fn env_of(&self, tasks: TaskSet) -> Env {
        Env::simulated(self.env.random_u64(), EPOCH_MS + self.now() / 1000, tasks)
    }

    pub(super) fn is_life(&self, node: u32, number: u64) -> bool {
        self.nodes.borrow().get(&node).and_then(|place| place.life.as_ref()).is_some_and(|life| life.number == number)
    }

    /// The node, if it lives.
    pub(super) fn node(&self, node: u32) -> Option<Rc<Node>> {
        self.nodes.borrow().get(&node)?.life.as_ref().map(|life| life.node.clone())
    }

    pub(super) fn lives(&self, node: u32) -> bool {
        self.node(node).is_some()
    }

    /// The tasks of a node's life, if it lives.
    pub(super) fn tasks_of(&self, node: u32) -> Option<TaskSet> {
        self.nodes.borrow().get(&node)?.life.as_ref().map(|life| life.tasks.clone())
    }

    /// Starts a node that is down; tries again when its disk is full or fails.
    pub(super) async fn start(&self, id: u32) {
        for attempt in 1.. {
            {
                let mut nodes = self.nodes.borrow_mut();
                let place = nodes.get_mut(&id).expect("all nodes have a place");
                if place.life.is_some() || place.starting {
                    return;
                }
                place.starting = true;
            }
            let started = self.try_start(id).await;
            if let Some(place) = self.nodes.borrow_mut().get_mut(&id) {
                place.starting = false;
            }
            let Err(why) = started else { return };
            self.net.cut(id);
            self.fault(format!("node {id} does not start: {why}"));
            if self.damaged.get().is_some_and(|damage| damage.node == id) && attempt > 1 {
                // A disk that was damaged may be of no use at all: then the node gets another.
                self.wipe(id);
            } else if attempt == STARTS_MAX {
                return super::note_failure(format!("node {id} did not start: {why}"));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn try_start(&self, id: u32) -> Result<(), String> {
        self.note_failures(id);
        let number = self.lives.get() + 1;
        self.lives.set(number);
        let tasks = TaskSet::labelled((number << 8) | u64::from(id));
        let env = self.env_of(tasks.clone());
        env.let_dawdle();
        let disk = {
            let mut nodes = self.nodes.borrow_mut();
            let place = nodes.get_mut(&id).expect("all nodes have a place");
            let (lost, torn) = (place.disk.lost_bytes(), place.disk.torn_writes());
            place.disk = if place.keeps {
                place.disk.restart_keeping_unsynced(env.clone())
            } else {
                place.disk.restart_losing_unsynced(env.clone())
            };
            let lost = place.disk.lost_bytes() - lost;
            let mut sums = self.sums.borrow_mut();
            sums.lossy_crashes += u64::from(lost > 0);
            sums.bytes_lost += lost;
            sums.reach(super::sometimes::TORN, place.disk.torn_writes() - torn);
            place.disk.clone()
        };
        let boot = BootId(env.random_u64());
        let builder = Node::builder(config(&self.options, &self.net, id)).env(env.clone()).boot(boot).disk(disk);
        let builder = match (self.net.join(id, boot, &env), self.net.place(id)) {
            (Some(network), _) => builder.network(network).native_address(self.net.bootstrap(id)),
            (None, Some((_, pem))) => builder.certificates(pem),
            (None, None) => unreachable!("frames or an address"),
        };
        let node = match tasks.tag(builder.start()).await {
            Ok(node) => Rc::new(node),
            Err(error) => {
                tasks.crash();
                return Err(error.to_string());
            }
        };
        let door = Rc::downgrade(&node);
        link::set_door(
            id,
            Some(Box::new(move || match door.upgrade() {
                Some(node) => Ok(node.local()),
                None => Err(LinkClosed(format!("node {id} is down"))),
            })),
        );
        let (runs, stopped) = (node.clone(), self.stopped.clone());
        tasks.spawn_local(async move {
            if let Err(error) = runs.run().await {
                let _ = stopped.send((id, number, error.to_string()));
            }
        });
        if let Some(place) = self.nodes.borrow_mut().get_mut(&id) {
            place.life = Some(Life { number, tasks, env, node });
        }
        self.fault(format!("node {id} is up"));
        Ok(())
    }

    /// Power is lost: links first, then the disk, then whatever ran. Gives whether the node lived.
    pub(super) fn crash(&self, id: u32) -> bool {
        let lived = self.end(id, false);
        if lived {
            self.sums.borrow_mut().crashes += 1;
            self.fault(format!("node {id} loses power"));
        }
        lived
    }

    /// The process ends, the machine does not. Gives whether the node lived.
    pub(super) fn kill(&self, id: u32) -> bool {
        let lived = self.end(id, true);
        if lived {
            self.fault(format!("node {id} is killed"));
        }
        lived
    }

    fn end(&self, id: u32, keeps: bool) -> bool {
        self.note_known(id);
        let life = {
            let mut nodes = self.nodes.borrow_mut();
            let Some(place) = nodes.get_mut(&id) else { return false };
            let Some(life) = place.life.take() else { return false };
            self.net.cut(id);
            place.disk.crash();
            place.keeps = keeps;
            life
        };
        link::set_door(id, None);
        life.tasks.crash();
        drop(life);
        if !self.options.full {
            // Below QUIC nobody tells them.
            self.cut_clients(id);
        }
        true
    }

    /// A node that is down gets an empty disk.
    pub(super) fn wipe(&self, id: u32) {
        self.damaged.set(Some(Damage { node: id, at: Instant::now(), disk: true }));
        self.votes.borrow_mut().lose(id);
        self.failed.borrow_mut().remove(&id);
        self.count_failures(id);
        let disk = SimDisk::new(self.env_of(TaskSet::default()), limits(&self.options));
        if let Some(place) = self.nodes.borrow_mut().get_mut(&id) {
            place.disk = disk;
        }
    }

    /// A bit of one of the node's files turns, if it has such a file.
    pub(super) fn flip(&self, id: u32, within: &str, draw: u64) -> bool {
        let mut bit = false;
        self.on_disk(id, |disk| {
            let files: Vec<_> =
                disk.files().into_iter().filter(|(path, len)| *len > 0 && path.contains(within)).collect();
            let Some((path, len)) = usize::try_from(draw).ok().and_then(|draw| files.get(draw % files.len().max(1)))
            else {
                return;
            };
            let byte = (draw >> 8) % len;
            disk.flip_bit(path, byte, u8::try_from(draw >> 40 & 7).unwrap_or(0));
            self.note(id, What::Tampered);
            self.fault(format!("a bit of {path} turns at byte {byte}"));
            bit = true;
        });
        if bit {
            // Nobody knows of damage in a segment before it is read: then no other node's files are damaged in this run.
            let hidden = if within.contains("wal") { Duration::ZERO } else { Duration::from_secs(86_400) };
            let now = Instant::now() + hidden;
            let at = self.damaged.get().filter(|damage| damage.node == id).map_or(now, |damage| damage.at.max(now));
            self.damaged.set(Some(Damage { node: id, at, disk: false }));
        }
        bit
    }

    pub(super) fn unsynced_bytes(&self, node: u32) -> u64 {
        let nodes = self.nodes.borrow();
        let life = nodes.get(&node).filter(|place| place.life.is_some());
        life.map_or(0, |place| place.disk.unsynced_bytes())
    }

    /// Does something to a node's disk.
    pub(super) fn on_disk(&self, node: u32, act: impl FnOnce(&SimDisk)) {
        let disk = self.nodes.borrow().get(&node).map(|place| place.disk.clone());
        if let Some(disk) = disk {
            act(&disk);
        }
    }

    /// What a node's disk did wrong so far.
    pub(super) fn failures_of(&self, node: u32) -> Failures {
        self.nodes.borrow().get(&node).map(|place| place.disk.failures()).unwrap_or_default()
    }

    /// What a failing disk leaves may look like damage: that nobody touched it is said no more.
    pub(super) fn note_failures(&self, node: u32) {
        let Failures { syncs, writes, reads, .. } = self.failures_of(node);
        let before = self.failed.borrow_mut().insert(node, syncs + writes + reads).unwrap_or(0);
        if syncs + writes + reads > before {
            self.note(node, What::Tampered);
        }
    }

    /// Faults that a disk was told to do, and did. For a disk that is not used any more.
    pub(super) fn count_failures(&self, node: u32) {
        let Failures { syncs, writes, reads, .. } = self.failures_of(node);
        let mut sums = self.sums.borrow_mut();
        for (kind, times) in [("sync_error", syncs), ("write_error", writes), ("read_error", reads)] {
            (0..times).for_each(|_| sums.make(kind));
        }
    }

    pub(super) fn jump(&self, node: u32, ms: i64) -> bool {
        let nodes = self.nodes.borrow();
        let Some(life) = nodes.get(&node).and_then(|place| place.life.as_ref()) else { return false };
        life.env.jump_clock(ms);
        self.note(node, What::Jumped);
        ms != 0
    }
}

fn limits(options: &Options) -> SimLimits {
    SimLimits { sync_max: Duration::from_micros(options.storm.sync_us), ..SimLimits::default() }
}

/// A node's config: small files, so that they are recycled, and segments, so that they are sealed, within a run.
fn config(options: &Options, net: &Net, id: u32) -> Config {
    let small = |n: u32| u16::try_from(n).expect("few nodes");
    let mut config = Config::local(small(id), small(options.nodes));
    config.cluster.name = "sim".into();
    config.cluster.home_groups = 2;
    config.log.wal_file_bytes = options.storm.wal_file_bytes;
    config.log.segment_bytes = options.storm.segment_bytes;
    config.log.free_bytes_min = 1 << 20;
    config.retention.check_ms = 1_000;
    config.listeners.0.clear();
    if let Some(address) = net.address_of(id) {
        (config.node.peer_bind, config.node.control_bind) =
            ((address, net::PEER).into(), (address, net::CONTROL).into());
        for seed in &mut config.cluster.seeds {
            if let Some(address) = net.address_of(seed.id.0) {
                seed.peer = std::net::SocketAddr::new(address, net::PEER).into();
                seed.control = std::net::SocketAddr::new(address, net::CONTROL).into();
            }
        }
        let bind = (address, net::NATIVE).into();
        let native = Listener {
            kind: ListenerKind::Native,
            bind,
            advertised: None,
            anonymous: true,
            client_certificates: false,
        };
        config.listeners.0.push(native);
    }
    config
}
