//! Gateways over a real partition and controller, whose Raft commits at once.

use super::{Gateway, admin::Facts};
use crate::{
    auth::AdmissionError,
    batch::{Batch, Builder, Compression},
    config::{self, Listener, ListenerKind},
    controller::{
        self, Controller,
        machine::{Bootstrap, Command, CreateTopic, Seed},
    },
    group::Groups,
    metrics::Metrics,
    partition::{Around, Handle, Partitions, TailBudget},
    quota::Pools,
    replica::{Consensus, Identity, Keeper, Leaders},
    runtime::{Arbiters, Courier, CourierError, Env, Phase, Phases, Service, TaskSet},
    session::Ground,
    tls,
    types::{AckLevel, NodeId, Position, TopicId, TopicPartition},
    wire::{self, Code, Connection, Fetch, FetchPartition, Frame, Hello, Kind, Link, Message, quic},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use highwater_raft::{
    GroupId, Payload, ReplicaId,
    group::{BarrierError, Committed, Event, Member, Owner, Role},
    log::{Directory, Options},
    testing::disk::{SimDisk, SimLimits},
};
use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    task::LocalSet,
    time::{Instant, timeout},
};

/// A Raft of one, that commits what it is told at once.
struct Solo {
    keeper: Keeper,
    index: AtomicU64,
}

impl Consensus for Solo {
    fn propose(&self, proposal: u64, term: u64, payload: Payload) {
        let index = self.index.fetch_add(1, Ordering::Relaxed) + 1;
        let owner = self.keeper.owner();
        owner.event(Event::HandedOver { proposal, index });
        owner.event(Event::Flushed { index });
        let entries = vec![Committed { index, term, payload }];
        owner.event(Event::Committed { entries, checkpoint_after: false, done: oneshot::channel().0 });
    }

    fn barrier(&self) -> Pin<Box<dyn Future<Output = Result<u64, BarrierError>> + Send>> {
        let index = self.index.load(Ordering::Relaxed);
        Box::pin(async move { Ok(index) })
    }
}

async fn host(keeper: &Keeper) {
    keeper.opened(Arc::new(Solo { keeper: keeper.clone(), index: AtomicU64::new(0) }));
    let (done, restored) = oneshot::channel();
    keeper.owner().event(Event::Restore { machine: Bytes::new(), offset: 0, last: Default::default(), done });
    restored.await.unwrap().unwrap();
    set_role(keeper, 1, true);
    settle().await;
}

fn set_role(keeper: &Keeper, term: u64, leading: bool) {
    let node = highwater_raft::NodeId(if leading { 1 } else { 2 });
    let members = BTreeMap::from([(ReplicaId(1), Member { node: highwater_raft::NodeId(1), voter: true })]);
    let leader = Some((ReplicaId(u64::from(node.0)), node));
    keeper.owner().event(Event::Role(Role { term, leader, leading, ready: leading, members, members_at: 0 }));
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

struct Alone;

impl Courier for Alone {
    fn ask(&self, to: NodeId, _: Service, _: Bytes, _: Duration) -> BoxFuture<'static, Result<Bytes, CourierError>> {
        Box::pin(async move { Err(CourierError::Unreachable { node: to }) })
    }
    fn others(&self) -> Vec<NodeId> {
        Vec::new()
    }
}

struct World {
    gateway: Gateway,
    phases: Phases,
    /// Of the topic's two partitions.
    keepers: Vec<Keeper>,
    topic: TopicId,
}

impl World {
    async fn new(env: Env, pools: config::Pools) -> Self {
        let disk = SimDisk::new(env.clone(), SimLimits::default());
        let options = Options { wal_file_bytes: 1 << 20, free_bytes_min: 0, ..Options::default() };
        let directory = Directory::open(disk, options, env.clone()).await.unwrap();
        let (leaders, courier): (_, Arc<dyn Courier>) = (Leaders::default(), Arc::new(Alone));
        let controller = Controller::new(NodeId(1), leaders.clone(), courier.clone());
        let identity = |group| {
            let on_failed = Rc::new(|why: String| panic!("a replica failed: {why}"));
            Identity { group, replica: ReplicaId(1), leaders: leaders.clone(), on_failed }
        };
        host(&controller.host(&env, identity(controller::GROUP))).await;
        leaders.note(controller::GROUP, Some(NodeId(1)), 1);
        let wait = Duration::from_secs(1);
        let seed = Seed { node: NodeId(1), directory: None, addresses: Default::default() };
        let bootstrap = Bootstrap { cluster_id: 77, seeds: vec![seed], homes: 1 };
        controller.execute(Command::Bootstrap(bootstrap), wait).await.unwrap();
        let topic = TopicId([5; 16]);
        let create = CreateTopic {
            name: "orders".parse().unwrap(),
            id: topic,
            partitions: 2,
            replication_factor: 1,
            settings: Vec::new(),
            avoid: Default::default(),
        };
        controller.execute(Command::CreateTopic(create), wait).await.unwrap();
        let metrics = Metrics::new(NodeId(1));
        let around = Around {
            env: env.clone(),
            directory: directory.clone(),
            metrics: metrics.clone(),
            tails: TailBudget::new(4 << 20),
        };
        let partitions = Partitions::default();
        let mut keepers = Vec::new();
        for partition in 0..2 {
            let at = TopicPartition { topic, partition };
            let group: GroupId = controller.metadata().group_of(at).unwrap();
            let (handle, keeper) = Handle::host(&around, at, ReplicaId(1), identity(group), None);
            host(&keeper).await;
            partitions.insert(handle);
            keepers.push(keeper);
        }
        let pools = Pools::new(&pools);
        let groups = Groups::new(Arc::new(controller.clone()), metrics.clone());
        let parts = (partitions, controller, groups);
        let responses = pools.response.clone();
        let ground = Ground::new(env.clone(), &config::Config::default(), metrics, parts, courier, responses);
        let phases = Phases::default();
        phases.enter(Phase::Serving);
        let gateway = Gateway::new(env, Arbiters::here(), phases.clone(), pools, ground);
        Self { gateway, phases, keepers, topic }
    }

    /// A connection that was welcomed.
    async fn client(&self) -> Client {
        let connection = Arc::new(self.gateway.connect());
        let mut link = Client { link: connection.open().await.unwrap(), next: 0, connection };
        let hello = Hello { version_min: 1, version_max: 1, client: "test".into() };
        let Message::Welcome(welcome) = link.ask(hello, None).await.message else { panic!("not welcome") };
        assert_eq!((welcome.version, welcome.node, welcome.cluster_id), (1, NodeId(1), 77));
        link
    }

    fn want(&self, partition: u32, offset: u64) -> FetchPartition {
        FetchPartition { topic: self.topic, partition, offset, bytes_max: 0, from_follower: false }
    }

    fn poll(&self, wait_ms_max: u32, offset: u64) -> Fetch {
        Fetch { wait_ms_max, partitions: vec![self.want(0, offset), self.want(1, 0)], ..Fetch::default() }
    }

    fn produce(&self, partition: u32) -> wire::Produce {
        wire::Produce { topic: self.topic, partition, ack: AckLevel::Quorum, timeout_ms: 1000 }
    }
}

struct Client {
    link: Link,
    next: u32,
    connection: Arc<dyn Connection>,
}

impl Client {
    async fn open(&self) -> Self {
        Self { link: self.connection.open().await.unwrap(), next: 0, connection: self.connection.clone() }
    }

    async fn send(&mut self, message: impl Into<Message>, body: Option<Bytes>) -> u32 {
        self.next += 1;
        let frame = Frame::new(self.next, message).with_body(body.into_iter().collect());
        self.link.sender.send(vec![frame]).await.unwrap();
        self.next
    }

    async fn receive(&mut self) -> Frame {
        timeout(Duration::from_secs(100), self.link.receiver.receive()).await.expect("an answer").unwrap()
    }

    async fn ask(&mut self, message: impl Into<Message>, body: Option<Bytes>) -> Frame {
        let correlation = self.send(message, body).await;
        let frame = self.receive().await;
        assert_eq!(frame.correlation, correlation);
        frame
    }

    async fn refused(&mut self, message: impl Into<Message>, body: Option<Bytes>) -> (Code, String) {
        match self.ask(message, body).await.message {
            Message::Refused(refused) => (refused.code, refused.message),
            other => panic!("{other:?} is no refusal"),
        }
    }
}

fn batch(records: usize) -> Bytes {
    let mut builder = Builder::new(Compression::None);
    for n in 0..records {
        builder.push(1000, None, Some(format!("record {n}").as_bytes()), &[]).unwrap();
    }
    builder.build().unwrap().into_bytes()
}

fn simulated() -> Env {
    Env::simulated(1, 1_700_000_000_000, TaskSet::default())
}

async fn local(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

async fn world() -> World {
    World::new(simulated(), config::Pools::default()).await
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_waits_for_more_holds_no_bytes() {
    local(async {
        let world = world().await;
        let mut client = world.client().await;
        let produced = client.ask(world.produce(0), Some(batch(3))).await.message;
        assert!(matches!(produced, Message::Produced(_)), "{produced:?}");
        let mut poller = client.open().await;
        let some = u32::try_from(batch(3).len()).unwrap();
        poller.send(Fetch { bytes_min: some + 1, ..world.poll(30_000, 0) }, None).await;
        settle().await;
        assert_eq!(world.gateway.pools().response.taken(), 0, "it is parked, with some of what it wants there");
        client.ask(world.produce(0), Some(batch(3))).await;
        let answer = poller.receive().await;
        let Message::Fetched(fetched) = &answer.message else { panic!("not fetched") };
        assert_eq!(fetched.partitions[0].bytes, 2 * some);
        settle().await;
        assert_eq!(world.gateway.pools().response.taken(), 0, "and given back when it was sent");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_produced_is_fetched_and_a_parked_fetch_wakes_for_it() {
    local(async {
        let world = world().await;
        let mut client = world.client().await;
        let mut poller = client.open().await;
        let parked = poller.send(world.poll(30_000, 0), None).await;
        let started = Instant::now();
        settle().await;
        for expected in [0, 3] {
            let Message::Produced(produced) = client.ask(world.produce(0), Some(batch(3))).await.message else {
                panic!("not produced")
            };
            settle().await;
            assert_eq!((produced.base_offset, produced.quorum, produced.voters), (Some(expected), 1, 1));
        }
        let answer = poller.receive().await;
        assert_eq!(answer.correlation, parked);
        assert!(started.elapsed() < Duration::from_secs(1), "it did not wait for its deadline");
        let Message::Fetched(fetched) = &answer.message else { panic!("not fetched") };
        let [partition] = &fetched.partitions[..] else { panic!("one partition has data: {fetched:?}") };
        assert_eq!((partition.partition, partition.high_watermark), (0, 3));
        assert_eq!(partition.bytes as usize, answer.body().len());
        let batch = Batch::parse(answer.body()).unwrap();
        assert_eq!((batch.header().base_offset, batch.header().partition_leader_epoch, batch.count()), (0, 1, 3));

        let Message::Fetched(rest) = poller.ask(world.poll(30_000, 3), None).await.message else {
            panic!("not fetched")
        };
        assert_eq!(rest.partitions[0].high_watermark, 6);
        let started = Instant::now();
        let empty = poller.ask(world.poll(50, 6), None).await;
        assert_eq!(started.elapsed(), Duration::from_millis(50), "at its deadline, neither sooner nor later");
        assert_eq!((empty.message, empty.body), (wire::Fetched::default().into(), Vec::new()));
        assert_eq!(world.gateway.pools().response.taken(), 0, "what has left is given back");
        assert_eq!(world.gateway.pools().produce.taken(), 0);
        assert_eq!(world.gateway.pools().control.taken(), 0);
    })
    .await;
}

/// Also to one that fetches in turn with another: of all fetches of the connection every second one is its own.
#[tokio::test(start_paused = true)]
async fn an_answer_that_has_room_for_one_batch_goes_to_the_partitions_in_turn() {
    local(async {
        let world = world().await;
        let mut client = world.client().await;
        for partition in [0, 0, 0, 1, 1, 1] {
            client.ask(world.produce(partition), Some(batch(1))).await;
        }
        let mut pollers = [client.open().await, client.open().await];
        let mut served = [Vec::new(), Vec::new()];
        for _ in 0..6 {
            for (poller, served) in pollers.iter_mut().zip(&mut served) {
                let offset = |partition| served.iter().filter(|one| **one == partition).count() as u64;
                let partitions = [0, 1].map(|partition| world.want(partition, offset(partition))).into();
                let fetch = Fetch { bytes_max: 1, partitions, ..Fetch::default() };
                let Message::Fetched(fetched) = poller.ask(fetch, None).await.message else { panic!("not fetched") };
                let [one] = &fetched.partitions[..] else { panic!("one batch: {fetched:?}") };
                served.push(one.partition);
            }
        }
        assert_eq!(served, [[0, 1, 0, 1, 0, 1]; 2]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn answers_come_in_the_order_of_requests_and_other_links_do_not_wait() {
    local(async {
        let world = world().await;
        let mut client = world.client().await;
        let first = client.send(world.poll(500, 0), None).await;
        let second = client.send(wire::Metadata::default(), None).await;
        let third = client.send(world.produce(1), Some(batch(1))).await;
        let mut other = client.open().await;
        let started = Instant::now();
        other.ask(wire::Metadata::default(), None).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        // The produce behind the fetch wakes it.
        let frames = [client.receive().await, client.receive().await, client.receive().await];
        assert_eq!(frames.clone().map(|frame| frame.correlation), [first, second, third]);
        assert_eq!(frames.map(|frame| frame.message.kind()), [Kind::Fetched, Kind::MetadataAnswer, Kind::Produced]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bad_requests_get_words_and_the_link_goes_on() {
    local(async {
        let world = world().await;
        let mut client = world.client().await;
        let whole = batch(3);
        let mut wrong_checksum = whole.to_vec();
        *wrong_checksum.last_mut().unwrap() ^= 1;
        let mut too_many = whole.to_vec();
        too_many[57..61].copy_from_slice(&4_i32.to_be_bytes());
        let mut large = whole.to_vec();
        large[8..12].copy_from_slice(&(2_i32 << 20).to_be_bytes());
        large.resize((2 << 20) + 12, 0);
        let mut old = whole.to_vec();
        old[16] = 1;
        let unknown_topic = wire::Produce { topic: TopicId([9; 16]), ..world.produce(0) };
        let follower = wire::Produce { partition: 2, ..world.produce(0) };
        let table: Vec<(Message, Vec<u8>, Code, &str)> = vec![
            (world.produce(0).into(), vec![], Code::BadRequest, "at least one record batch"),
            (world.produce(0).into(), whole[..40].to_vec(), Code::BadBatch, "40"),
            (world.produce(0).into(), whole[..whole.len() - 1].to_vec(), Code::BadBatch, "announced"),
            (world.produce(0).into(), wrong_checksum, Code::BadBatch, "checksum"),
            (world.produce(0).into(), too_many, Code::BadBatch, "4 records"),
            (world.produce(0).into(), large, Code::BatchTooLarge, "at most 1048576"),
            (world.produce(0).into(), old, Code::BadBatch, "magic"),
            (unknown_topic.into(), whole.to_vec(), Code::UnknownTopic, "there is no topic"),
            (follower.into(), whole.to_vec(), Code::UnknownPartition, "2 partitions"),
            (wire::Metadata::default().into(), vec![1], Code::BadRequest, "has no body"),
            (Hello::default().into(), vec![], Code::BadRequest, "another one"),
            (wire::Produced::default().into(), vec![], Code::BadRequest, "only a broker sends it"),
        ];
        for (message, body, code, words) in table {
            let kind = message.kind();
            let body = (!body.is_empty()).then(|| body.into());
            let (found, said) = client.refused(message, body).await;
            assert!(found == code && said.contains(words), "{kind:?}: {found:?} {said}");
        }
        assert_eq!(client.ask(world.produce(0), Some(whole)).await.message.kind(), Kind::Produced);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn partitions_of_a_fetch_are_refused_one_by_one() {
    local(async {
        let world = world().await;
        let mut client = world.client().await;
        client.ask(world.produce(0), Some(batch(2))).await;
        let unknown = FetchPartition { topic: TopicId([9; 16]), ..world.want(0, 0) };
        let partitions = vec![unknown, world.want(0, 1), world.want(7, 0), world.want(1, 100)];
        let fetch = Fetch { wait_ms_max: 30_000, partitions, ..Fetch::default() };
        let frame = client.ask(fetch, None).await;
        let Message::Fetched(fetched) = frame.message else { panic!("not fetched") };
        let told: Vec<_> = fetched.partitions.iter().map(|p| p.refused.as_ref().map(|refused| refused.code)).collect();
        assert_eq!(told, [Some(Code::UnknownTopic), None, Some(Code::UnknownPartition), Some(Code::NotReady)]);
        assert!(fetched.partitions[1].bytes > 0, "who is not refused gets its records");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn offsets_are_listed_by_meaning() {
    local(async {
        let world = world().await;
        let mut client = world.client().await;
        client.ask(world.produce(0), Some(batch(5))).await;
        let query = |partition, at| wire::OffsetQuery { topic: world.topic, partition, at };
        let partitions = vec![
            query(0, Position::Earliest),
            query(0, Position::Latest),
            query(0, Position::Offset(3)),
            query(0, Position::Offset(99)),
            query(1, Position::Latest),
            query(4, Position::Latest),
        ];
        let Message::ListedOffsets(listed) = client.ask(wire::ListOffsets { partitions }, None).await.message else {
            panic!("not listed")
        };
        let found: Vec<_> =
            listed.partitions.iter().map(|p| p.refused.as_ref().map_or(Ok(p.offset), |r| Err(r.code))).collect();
        let wanted = [Ok(0), Ok(5), Ok(3), Err(Code::OffsetOutOfRange), Ok(0), Err(Code::UnknownPartition)];
        assert_eq!(found, wanted);
        assert_eq!(listed.partitions[3].offset, 5, "the nearest that is there");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_told_when_the_leader_moves() {
    local(async {
        let world = world().await;
        let mut client = world.client().await;
        let mut listener = client.open().await;
        client.send(world.poll(30_000, 0), None).await;
        let subscribe = wire::Subscribe { partitions: vec![world.want(0, 0)], records: 10, bytes: 1 << 20 };
        listener.send(subscribe, None).await;
        settle().await;
        set_role(&world.keepers[0], 2, false);
        let Message::Fetched(fetched) = client.receive().await.message else { panic!("not fetched") };
        let refused = fetched.partitions[0].refused.as_ref().unwrap();
        assert_eq!((refused.code, refused.leader, refused.leader_epoch), (Code::NotLeader, Some(NodeId(2)), 2));
        let Message::Delivery(delivery) = listener.receive().await.message else { panic!("not told") };
        assert_eq!(delivery.partition.refused.unwrap().code, Code::NotLeader);
        let (code, _) = client.refused(world.produce(0), Some(batch(1))).await;
        assert_eq!(code, Code::NotLeader);
        let unacknowledged = wire::Produce { ack: AckLevel::None, ..world.produce(0) };
        assert_eq!(client.refused(unacknowledged, Some(batch(1))).await.0, Code::NotLeader);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_read_for_a_listener_that_left_meanwhile_holds_no_bytes() {
    local(async {
        let world = world().await;
        let mut client = world.client().await;
        client.ask(world.produce(0), Some(batch(3))).await;
        client.ask(world.produce(1), Some(batch(3))).await;
        let partitions = vec![world.want(0, 0), world.want(1, 0)];
        let subscribe = || wire::Subscribe { partitions: partitions.clone(), records: 10, bytes: 1 << 20 };
        // In one write, so that it is read for the subscription as it ends; then for a partition as that leaves.
        for left in [vec![], vec![(world.topic, 0)]] {
            let mut listener = client.open().await;
            let unsubscribe = wire::Unsubscribe { partitions: left };
            let frames = vec![Frame::new(1, subscribe()), Frame::new(2, unsubscribe)];
            listener.link.sender.send(frames).await.unwrap();
            while listener.receive().await.message.kind() != Kind::Done {}
            drop(listener);
            settle().await;
            assert_eq!(world.gateway.pools().response.taken(), 0);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_gets_what_it_has_credit_for_and_no_more() {
    local(async {
        let world = world().await;
        let mut client = world.client().await;
        let mut listener = client.open().await;
        let partitions = vec![world.want(0, 0), world.want(1, 0)];
        let correlation = listener.send(wire::Subscribe { partitions, records: 5, bytes: 1 << 20 }, None).await;
        for partition in [0, 1, 0, 1] {
            client.ask(world.produce(partition), Some(batch(4))).await;
        }
        let mut taken = BTreeMap::from([(0, 0), (1, 0)]);
        let mut take = |frame: Frame| {
            let Message::Delivery(delivery) = &frame.message else { panic!("{frame:?} is no delivery") };
            assert_eq!(frame.correlation, correlation);
            let at = taken.get_mut(&delivery.partition.partition).unwrap();
            // The first batch may begin before what is wanted; the rest of the last one comes again.
            let first = Batch::parse(frame.body().slice(..batch(4).len())).unwrap();
            assert!(u64::try_from(first.header().base_offset).unwrap() <= *at);
            *at += u64::from(delivery.records);
            delivery.records
        };
        assert_eq!(take(listener.receive().await) + take(listener.receive().await), 5);
        settle().await;
        listener.send(wire::Grant { records: 100, bytes: 1 << 20 }, None).await;
        let mut rest = 0;
        while rest < 11 {
            rest += take(listener.receive().await);
        }
        assert_eq!(taken, BTreeMap::from([(0, 8), (1, 8)]));

        client.ask(world.produce(1), Some(batch(4))).await;
        let ended = listener.send(wire::Unsubscribe::default(), None).await;
        assert_eq!(listener.receive().await.message.kind(), Kind::Delivery, "made before the end");
        let done = listener.receive().await;
        assert_eq!((done.correlation, done.message), (ended, wire::Done {}.into()));
        assert_eq!(world.gateway.pools().response.taken(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn overload_is_refused_and_over_when_it_is_over() {
    local(async {
        let pools = config::Pools { produce_bytes: 1_000, ..config::Pools::default() };
        let world = World::new(simulated(), pools).await;
        let mut client = world.client().await;
        let large = batch(200);
        assert!(large.len() > 1_000);
        let (code, said) = client.refused(world.produce(0), Some(large)).await;
        assert_eq!(code, Code::Overloaded);
        assert!(said.contains("produce pool"), "{said}");
        client.ask(wire::Metadata::default(), None).await;
        assert_eq!(world.gateway.pools().produce.taken(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn versions_that_do_not_meet_are_told_so() {
    local(async {
        let world = world().await;
        let hello = |min, max| Message::from(Hello { version_min: min, version_max: max, client: "test".into() });
        let table = [
            (hello(2, 9), Code::UnsupportedVersion, "2 to 9"),
            (hello(0, 0), Code::UnsupportedVersion, "0 to 0"),
            (hello(9, 1), Code::UnsupportedVersion, "9 to 1"),
            (wire::Metadata::default().into(), Code::BadRequest, "begins with Hello"),
        ];
        for (first, code, words) in table {
            let connection = Arc::new(world.gateway.connect());
            let mut client = Client { link: connection.open().await.unwrap(), next: 0, connection };
            let (found, said) = client.refused(first, None).await;
            assert!(found == code && said.contains(words), "{found:?} {said}");
            assert_eq!(client.link.receiver.receive().await.unwrap_err().0, said);
        }
        let connection = Arc::new(world.gateway.connect());
        let mut client = Client { link: connection.open().await.unwrap(), next: 0, connection };
        assert_eq!(client.ask(hello(0, 40), None).await.message.kind(), Kind::Welcome);
        let silent = world.gateway.connect();
        let mut link = silent.open().await.unwrap();
        assert_eq!(link.receiver.receive().await.unwrap_err().0, "no Hello within 10 s");
        drop(client);
        settle().await;
        assert_eq!(world.gateway.connections(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_shuts_down_lets_go_of_its_clients() {
    local(async {
        let world = world().await;
        let mut client = world.client().await;
        client.send(world.poll(30_000, 0), None).await;
        settle().await;
        world.phases.enter(Phase::Draining);
        let Message::Refused(refused) = client.receive().await.message else { panic!("not refused") };
        assert_eq!(refused.code, Code::ShuttingDown);
        assert_eq!(client.ask(world.produce(0), Some(batch(1))).await.message.kind(), Kind::Produced);
        world.phases.enter(Phase::Closing);
        assert_eq!(client.link.receiver.receive().await.unwrap_err().0, "this node is shutting down");
        settle().await;
        assert_eq!(world.gateway.connections(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_cluster_is_described() {
    local(async {
        let world = world().await;
        let mut client = world.client().await;
        let Message::MetadataAnswer(metadata) = client.ask(wire::Metadata::default(), None).await.message else {
            panic!("no metadata")
        };
        let topic = &metadata.topics[0];
        assert_eq!((topic.name.as_str(), topic.id, topic.partitions.len()), ("orders", world.topic, 2));
        assert_eq!((topic.partitions[0].leader, topic.partitions[0].leader_epoch), (Some(NodeId(1)), 1));
        let Message::ClusterStatusAnswer(status) = client.ask(wire::ClusterStatus {}, None).await.message else {
            panic!("no status")
        };
        assert_eq!((status.cluster_id, status.partitions, status.leaderless), (77, 2, 0));
        assert_eq!((status.nodes[0].alive, status.nodes[0].leaders, status.nodes[0].replicas), (true, 2, 2));
        let ids: Vec<_> =
            [client.ask(wire::InitProducer {}, None).await, client.ask(wire::InitProducer {}, None).await]
                .into_iter()
                .map(|frame| frame.message)
                .collect();
        let [Message::ProducerReady(first), Message::ProducerReady(second)] = &ids[..] else { panic!("no producers") };
        assert_ne!(first.producer, second.producer);
        let create = wire::CreateTopic {
            name: "orders".parse().unwrap(),
            id: None,
            partitions: 1,
            replication_factor: 1,
            settings: Vec::new(),
        };
        assert_eq!(client.refused(create, None).await.0, Code::TopicExists);
        let group = "billing".parse().unwrap();
        assert_eq!(client.refused(wire::DescribeGroup { group }, None).await.0, Code::NotHome);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn metadata_wait_for_news() {
    local(async {
        let world = world().await;
        let mut client = world.client().await;
        let wait_ms = 1_500;
        let told = async |client: &mut Client, after| {
            let begun = Instant::now();
            let asked = wire::Metadata { topics: None, wait_ms, after };
            let Message::MetadataAnswer(answer) = client.ask(asked, None).await.message else { panic!("no metadata") };
            (answer.news, answer.topics[0].partitions[1].leader_epoch, begun.elapsed().as_millis())
        };
        let (news, epoch, waited) = told(&mut client, 0).await;
        assert_eq!((epoch, waited), (1, 0), "all is news at first");
        assert_eq!(told(&mut client, news).await, (news, 1, u128::from(wait_ms)), "there was nothing to tell");
        let (later, ()) = futures_util::join!(told(&mut client, news), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(world.gateway.pools().control.taken(), 0, "what commits need");
            set_role(&world.keepers[1], 2, true);
        });
        assert_eq!((later.1, later.2), (2, 1_003), "with what came in the 3 ms after");
        assert_ne!(later.0, news);
        let (again, _, waited) = told(&mut client, news).await;
        assert_eq!((again, waited), (later.0, 3), "who has not heard it waits for nothing");
    })
    .await;
}

fn listener(kind: ListenerKind, ip: [u8; 4]) -> Listener {
    Listener { kind, bind: (ip, 0).into(), advertised: None, anonymous: false, client_certificates: false }
}

#[tokio::test]
async fn the_same_over_quic_and_garbage_ends_only_its_own_connection() {
    local(async {
        let world = World::new(Env::real(), config::Pools::default()).await;
        let authority = tls::Authority::create("test", 10, Env::real().now_ms()).unwrap();
        let issued = authority.issue_node(NodeId(1), &[], 10).unwrap();
        let (identity, roots) = (issued.identity().unwrap(), authority.roots().unwrap());
        let open = world.gateway.listen(&listener(ListenerKind::Native, [0, 0, 0, 0]), &identity, &roots);
        assert!(matches!(open.err().unwrap(), super::ListenError::Admission(AdmissionError::OpenToNetwork { .. })));
        let native = world.gateway.listen(&listener(ListenerKind::Native, [127, 0, 0, 1]), &identity, &roots).unwrap();
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let config = quic::client_config(tls::client_config(&roots, None).unwrap(), quic::Way::Loopback).unwrap();
        let address = native.local_addr().unwrap();
        let dial = || async {
            let connection = quic::connect(&endpoint, config.clone(), address, "localhost").await.unwrap();
            let mut client =
                Client { link: connection.open().await.unwrap(), next: 0, connection: Arc::new(connection.clone()) };
            let hello = Hello { version_min: 1, version_max: 1, client: "test".into() };
            assert_eq!(client.ask(hello, None).await.message.kind(), Kind::Welcome);
            (client, connection)
        };
        let (mut client, connection) = dial().await;
        let mut poller = client.open().await;
        poller.send(world.poll(30_000, 0), None).await;
        assert_eq!(client.ask(world.produce(0), Some(batch(100))).await.message.kind(), Kind::Produced);
        let fetched = poller.receive().await;
        assert_eq!(Batch::parse(fetched.body()).unwrap().count(), 100);

        let whole = crate::wire::tests::samples();
        for message in &whole {
            let mut bytes = Frame::new(1, message.clone()).encode_head().to_vec();
            // A map that says one field more than there is.
            bytes[16] += 1;
            let (_, bad) = dial().await;
            let (mut send, _receive) = bad.quinn().open_bi().await.unwrap();
            send.write_all(&bytes).await.unwrap();
            let why = timeout(Duration::from_secs(10), bad.closed()).await.unwrap().0;
            assert!(why.contains("does not decode"), "{:?}: {why}", message.kind());
        }
        assert_eq!(client.ask(world.produce(0), Some(batch(1))).await.message.kind(), Kind::Produced);
        world.phases.enter(Phase::Closing);
        assert_eq!(connection.closed().await.0, "this node is shutting down");
        native.close().await;
    })
    .await;
}

struct Fixed;

impl Facts for Fixed {
    fn live(&self) -> Result<(), String> {
        Ok(())
    }
    fn ready(&self) -> Result<(), String> {
        Err("the controller is not known yet".into())
    }
    fn metrics(&self) -> String {
        "highwater_up 1\n".into()
    }
}

#[tokio::test]
async fn health_and_metrics_over_http() {
    let (stop, stopped) = oneshot::channel::<()>();
    let until = async {
        let _ = stopped.await;
    };
    let http = listener(ListenerKind::Http, [127, 0, 0, 1]);
    let admin = super::admin::Admin::listen(&http, Arc::new(Fixed), &Env::real(), until).await.unwrap();
    let address = admin.local_addr();
    let get = |path: &'static str| async move {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(get("/health/live").await.starts_with("HTTP/1.1 200"));
    let ready = get("/health/ready").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.ends_with("the controller is not known yet\n"), "{ready}");
    let metrics = get("/metrics").await;
    assert!(metrics.contains("application/openmetrics-text") && metrics.ends_with("highwater_up 1\n"), "{metrics}");
    assert!(get("/").await.starts_with("HTTP/1.1 404"));
    drop(stop);
}
