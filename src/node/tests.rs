//! Whole nodes in virtual time: one thread, simulated disks and network.

use super::*;
use crate::{
    batch::{Batch, Builder as BatchBuilder, Compression},
    controller::{
        Answer,
        machine::{Command, CreateTopic},
    },
    partition::{Handle, Produce, ProduceError, Produced, Read, Role, Served},
    runtime::{BytePermit, Env, ReplySlot, TaskSet},
    types::{AckLevel, Position, TopicId, TopicPartition},
    wire,
};
use highwater_raft::{
    BootId,
    testing::{
        disk::{SimDisk, SimLimits},
        network::{Hub, Timing},
    },
};
use std::collections::BTreeMap;
use tokio::task::LocalSet;

mod behind;
mod controller;
mod expiry;
mod fetching;
mod groups;
mod leaders;
mod metrics;
mod positions;
mod repair;
mod retention;
mod seeds;
mod storage;

const EPOCH_MS: u64 = 1_700_000_000_000;
/// From the death of a leader to the next acknowledgement: suspicion, election, and a write.
const NO_LEADER_MAX: Duration = Duration::from_secs(2);

struct Slot {
    config: Config,
    node: Option<Node>,
    tasks: TaskSet,
    env: Env,
    disk: Arc<SimDisk>,
    lives: u64,
}

struct World {
    hub: Hub,
    seed: u64,
    slots: Vec<Slot>,
}

impl World {
    async fn new(nodes: u16, seed: u64) -> Self {
        Self::with(nodes, seed, |_| ()).await
    }

    async fn with(nodes: u16, seed: u64, set: impl Fn(&mut Config)) -> Self {
        let mut world = Self::stopped(nodes, seed, set);
        for n in 0..world.slots.len() {
            world.start(n).await;
        }
        for slot in &world.slots {
            within(30, slot.node.as_ref().unwrap().serving()).await;
        }
        world
    }

    /// No node runs yet.
    fn stopped(nodes: u16, seed: u64, set: impl Fn(&mut Config)) -> Self {
        let hub = Hub::new(seed, Timing::default());
        let slot = |id: u16| {
            let mut config = Config::local(id, nodes);
            config.listeners.0.clear();
            config.log.wal_file_bytes = 1 << 20;
            config.log.segment_bytes = 1 << 20;
            config.log.free_bytes_min = 1 << 20;
            set(&mut config);
            let env = Env::simulated(seed + u64::from(id), EPOCH_MS, TaskSet::default());
            Slot {
                config,
                node: None,
                tasks: TaskSet::default(),
                env: env.clone(),
                disk: SimDisk::new(env, SimLimits::default()),
                lives: 0,
            }
        };
        Self { hub, seed, slots: (1..=nodes).map(slot).collect() }
    }

    async fn start(&mut self, n: usize) {
        let slot = &mut self.slots[n];
        slot.lives += 1;
        slot.tasks = TaskSet::default();
        let env = Env::simulated(self.seed * 1_000 + slot.lives * 10 + n as u64, EPOCH_MS, slot.tasks.clone());
        if slot.lives > 1 {
            slot.disk = slot.disk.restart_losing_unsynced(env.clone());
        }
        slot.env = env.clone();
        let boot = BootId(env.random_u64());
        let network = self.hub.join(slot.config.node.id.into(), boot, &env);
        let builder = Node::builder(slot.config.clone()).env(env.clone()).boot(boot);
        let builder = builder.disk(slot.disk.clone()).network(network);
        slot.node = Some(slot.tasks.tag(builder.start()).await.unwrap());
    }

    fn crash(&mut self, n: usize) {
        let slot = &mut self.slots[n];
        self.hub.cut(slot.config.node.id.into());
        slot.disk.crash();
        slot.tasks.crash();
        slot.node = None;
    }

    /// Moves the wall clocks of all nodes.
    fn jump_clocks(&self, ms: i64) {
        self.slots.iter().for_each(|slot| slot.env.jump_clock(ms));
    }

    fn node(&self, n: usize) -> &Node {
        self.slots[n].node.as_ref().unwrap()
    }

    fn alive(&self) -> impl Iterator<Item = &Node> {
        self.slots.iter().filter_map(|slot| slot.node.as_ref())
    }

    async fn topic(&self, name: &str, partitions: u32, copies: u32) -> TopicId {
        self.topic_with(name, partitions, copies, &[]).await
    }

    async fn topic_with(&self, name: &str, partitions: u32, copies: u32, settings: &[(&str, &str)]) -> TopicId {
        let id = TopicId::from_random([name.as_bytes()[0]; 16]);
        let name = name.parse().unwrap();
        let create = CreateTopic {
            name,
            id,
            partitions,
            replication_factor: copies,
            settings: settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            avoid: Default::default(),
        };
        let answer = self.node(0).controller().execute(Command::CreateTopic(create), secs(20)).await.unwrap();
        assert!(matches!(answer, Answer::TopicCreated { .. }), "{answer:?}");
        id
    }

    /// Waits for the leader of a partition.
    async fn leader(&self, partition: TopicPartition) -> (usize, Handle) {
        let find = async {
            loop {
                for (n, slot) in self.slots.iter().enumerate() {
                    let handle = slot.node.as_ref().and_then(|node| node.partitions().find(partition));
                    if let Some(handle) =
                        handle.filter(|handle| handle.marks().role == Role::Leader && handle.marks().ready)
                    {
                        return (n, handle);
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(20, find).await
    }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

async fn within<T>(limit: u64, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(secs(limit), future).await.unwrap_or_else(|_| panic!("not within {limit} s of virtual time"))
}

fn batch(value: &str) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(1_000, None, Some(value.as_bytes()), &[]).unwrap();
    builder.build().unwrap()
}

async fn produce(handle: &Handle, ack: AckLevel, value: &str) -> Result<Produced, ProduceError> {
    let (slot, answer) = ReplySlot::channel();
    handle.produce(Produce { ack, batches: vec![batch(value)], permit: BytePermit::internal(), slot });
    within(20, answer).await
}

/// Produces until it is acknowledged, wherever the leader is.
async fn produce_surely(world: &World, partition: TopicPartition, value: &str) -> Produced {
    loop {
        let (_, handle) = world.leader(partition).await;
        match produce(&handle, AckLevel::Quorum, value).await {
            Ok(produced) => return produced,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn read(handle: &Handle, offset: u64) -> Vec<Served> {
    match handle.read(offset, 1 << 20) {
        Read::Hot(served) => served,
        Read::Cold(served) => within(5, served).await.unwrap(),
        Read::Empty => Vec::new(),
        Read::Refused(error) => panic!("{error}"),
    }
}

fn values(served: &[Served]) -> Vec<String> {
    served
        .iter()
        .flat_map(|served| Batch::parse([&served.prefix[..], &served.rest[..]].concat().into()).unwrap().records())
        .map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap())
        .collect()
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

#[tokio::test(start_paused = true)]
async fn one_node_serves_what_it_acknowledged_over_a_restart() {
    local(async {
        let mut world = World::new(1, 7).await;
        let topic = world.topic("alpha", 2, 1).await;
        let partition = TopicPartition { topic, partition: 1 };
        let (_, handle) = world.leader(partition).await;
        for n in 0..5 {
            let produced = produce(&handle, AckLevel::Quorum, &format!("v{n}")).await.unwrap();
            assert_eq!((produced.base_offset, produced.quorum, produced.voters), (Some(n), 1, 1));
        }
        let on_leader = produce(&handle, AckLevel::Leader, "leader").await.unwrap();
        assert_eq!((on_leader.base_offset, on_leader.level), (None, AckLevel::Leader));
        within(5, handle.barrier()).await.unwrap();
        assert_eq!(handle.offset_at(Position::Latest).await.unwrap().offset, 6);
        assert_eq!(handle.offset_at(Position::Time(1_000)).await.unwrap().offset, 0);
        let before = values(&read(&handle, 0).await);
        assert_eq!(before, ["v0", "v1", "v2", "v3", "v4", "leader"]);
        world.crash(0);
        world.start(0).await;
        within(30, world.node(0).serving()).await;
        let (_, handle) = world.leader(partition).await;
        assert_eq!(values(&read(&handle, 0).await), before);
        assert_eq!(produce(&handle, AckLevel::Quorum, "next").await.unwrap().base_offset, Some(6));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_the_leaders_disk_alone_waits_for_no_other() {
    local(async {
        let world = World::new(3, 13).await;
        let topic = world.topic("alpha", 1, 3).await;
        let partition = TopicPartition { topic, partition: 0 };
        let (n, handle) = world.leader(partition).await;
        assert_eq!(produce(&handle, AckLevel::Quorum, "all hear of it").await.unwrap().base_offset, Some(0));
        world.hub.isolate(world.slots[n].config.node.id.into());
        let begun = tokio::time::Instant::now();
        let on_leader = produce(&handle, AckLevel::Leader, "nobody else does").await.unwrap();
        assert_eq!((on_leader.level, on_leader.quorum, on_leader.voters), (AckLevel::Leader, 1, 3));
        assert!(begun.elapsed() < Duration::from_millis(20), "{:?}", begun.elapsed());
        assert_eq!(handle.marks().high_watermark, 1, "no quorum has it");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn three_nodes_go_on_when_the_leader_dies() {
    local(async {
        let mut world = World::new(3, 11).await;
        let topic = world.topic("alpha", 3, 3).await;
        let partition = TopicPartition { topic, partition: 0 };
        let mut acknowledged = Vec::new();
        for n in 0..10 {
            let value = format!("a{n}");
            let produced = produce_surely(&world, partition, &value).await;
            assert_eq!((produced.quorum, produced.voters), (2, 3));
            acknowledged.push((produced.base_offset.unwrap(), value));
        }
        let (first, _) = world.leader(partition).await;
        world.crash(first);
        let crashed = Instant::now();
        for n in 0..10 {
            let value = format!("b{n}");
            acknowledged.push((produce_surely(&world, partition, &value).await.base_offset.unwrap(), value));
            if n == 0 {
                eprintln!("from the crash to the next acknowledgement: {:?} of virtual time", crashed.elapsed());
                assert!(crashed.elapsed() < NO_LEADER_MAX, "{:?}", crashed.elapsed());
            }
        }
        world.start(first).await;
        within(30, world.node(first).serving()).await;
        acknowledged.push((produce_surely(&world, partition, "c").await.base_offset.unwrap(), "c".into()));
        let (_, handle) = world.leader(partition).await;
        let there = values(&read(&handle, 0).await);
        for (offset, value) in &acknowledged {
            assert_eq!(&there[usize::try_from(*offset).unwrap()], value);
        }
        // The one that was away has everything, too.
        let caught_up = async {
            loop {
                let returned = world.node(first).partitions().find(partition);
                if let Some(returned) = returned.filter(|handle| handle.marks().high_watermark >= there.len() as u64) {
                    return returned;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let returned = within(20, caught_up).await;
        assert_eq!(values(&read(&returned, 0).await), there);
        // Every node knows who leads.
        tokio::time::sleep(secs(1)).await;
        let (_, handle) = world.leader(partition).await;
        let epoch = handle.marks().epoch;
        for node in world.alive() {
            assert!(
                node.controller().leader_of(partition).is_some_and(|(_, known)| known == epoch),
                "node {}",
                node.id()
            );
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_storage_error_ends_the_node_with_an_error() {
    local(async {
        let world = World::new(1, 17).await;
        let topic = world.topic("alpha", 1, 1).await;
        let (_, handle) = world.leader(TopicPartition { topic, partition: 0 }).await;
        world.slots[0].disk.fail_next_sync();
        let (slot, answer) = ReplySlot::channel();
        handle.produce(Produce {
            ack: AckLevel::Quorum,
            batches: vec![batch("lost")],
            permit: BytePermit::internal(),
            slot,
        });
        let ended = within(20, world.node(0).run()).await;
        assert!(matches!(ended, Err(NodeError::Storage(_))), "{ended:?}");
        assert!(within(20, answer).await.is_err(), "nothing that is not on disk is acknowledged");
        assert_eq!(handle.marks().role, Role::Gone);
    })
    .await;
}
