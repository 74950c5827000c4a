//! Consumer groups on whole nodes, with the real client: homes that die under their members.

use super::*;
use crate::{
    client::{self, Client, Consumer, Record},
    types::{GroupName, NodeId, TopicName},
    wire::{Connection, LinkClosed},
};
use futures_util::future::BoxFuture;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Mutex,
};

thread_local! {
    /// Ways into the nodes that live: a dialer must be `Send`, a node is not.
    static DOORS: RefCell<BTreeMap<u32, Node>> = const { RefCell::new(BTreeMap::new()) };
}

type Dialled = (u32, Arc<wire::MemoryConnection>);

/// Connections of one client.
#[derive(Clone, Default)]
pub(super) struct Dialer(Arc<Mutex<Vec<Dialled>>>);

impl Dialer {
    /// The node is gone, and its connections with it.
    pub(super) fn cut(&self, node: u32) {
        self.0.lock().unwrap().retain(|(to, connection)| {
            if *to == node {
                connection.close("the node died");
            }
            *to != node
        });
    }
}

impl client::Dialer for Dialer {
    fn dial(&self, node: Option<NodeId>, address: &str) -> BoxFuture<'static, Result<Arc<dyn Connection>, LinkClosed>> {
        let to = node.map_or_else(|| address.parse().unwrap(), |node| node.0);
        let this = self.clone();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let door = DOORS.with_borrow(|doors| doors.get(&to).map(Node::local));
            let connection = Arc::new(door.ok_or_else(|| LinkClosed(format!("node {to} is down")))?);
            this.0.lock().unwrap().push((to, connection.clone()));
            Ok(connection as Arc<dyn Connection>)
        })
    }
}

struct Host(Mutex<u64>);

impl client::Host for Host {
    fn now_ms(&self) -> i64 {
        i64::try_from(EPOCH_MS).unwrap()
    }

    fn random_u64(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(tokio::task::spawn_local(task));
    }
}

pub(super) async fn connect(dialer: &Dialer, seed: u64) -> Client {
    let mut builder = Client::builder().dialer(Arc::new(dialer.clone())).host(Arc::new(Host(Mutex::new(seed))));
    for node in 1..=3 {
        builder = builder.bootstrap(node.to_string());
    }
    builder.connect().await.unwrap()
}

pub(super) fn open_doors(world: &World) {
    let nodes = world.alive().map(|node| (node.id().0, node.clone()));
    DOORS.set(nodes.collect());
}

pub(super) fn readers() -> GroupName {
    "readers".parse().unwrap()
}

pub(super) fn alpha() -> TopicName {
    "alpha".parse().unwrap()
}

/// The place of the node that is the group's home, as the others see it.
async fn home(world: &World) -> usize {
    let found = async {
        loop {
            let said = world.alive().find_map(|node| node.groups().home_of(&readers()).1);
            let place = world.slots.iter().position(|slot| slot.node.is_some() && said == Some(slot.config.node.id));
            if let Some(place) = place {
                return place;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(20, found).await
}

/// The home's node dies, and is back a little later.
async fn kill_home(world: &mut World, dialer: &Dialer) {
    let n = home(world).await;
    let node = world.node(n).id().0;
    DOORS.with_borrow_mut(|doors| doors.remove(&node));
    world.crash(n);
    dialer.cut(node);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    world.start(n).await;
    open_doors(world);
}

type Given = Rc<RefCell<Vec<(u32, u64, bool)>>>;

/// Consumes until told to stop.
fn consume(mut consumer: Consumer, given: &Given, over: &Rc<RefCell<bool>>) -> tokio::task::JoinHandle<()> {
    let (given, over) = (given.clone(), over.clone());
    tokio::task::spawn_local(async move {
        while !*over.borrow() {
            let records = consumer.poll(Duration::from_millis(200)).await.unwrap();
            given.borrow_mut().extend(records.iter().map(|r| (r.partition, r.offset, r.redelivered)));
        }
        consumer.close().await.unwrap();
    })
}

#[tokio::test(start_paused = true)]
async fn members_live_on_while_each_of_their_homes_is_killed() {
    local(async {
        let mut world = World::new(3, 29).await;
        world.topic("alpha", 4, 3).await;
        open_doors(&world);
        let dialer = Dialer::default();
        let client = connect(&dialer, 1).await;
        let (given, over) = (Given::default(), Rc::new(RefCell::new(false)));
        let mut members = Vec::new();
        for _ in 0..2 {
            let builder = client.consumer().start(Position::Earliest).session(secs(6));
            let consumer = within(20, builder.subscribe(readers(), [alpha()])).await.unwrap();
            members.push(consume(consumer, &given, &over));
        }
        let shared = async {
            loop {
                let details = client.admin().describe_group(&readers()).await.unwrap();
                let owners: BTreeSet<_> = details.partitions.iter().filter_map(|p| p.member.clone()).collect();
                if owners.len() == 2 {
                    return details.generation;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let generation = within(20, shared).await;
        let producer = client.producer().linger(Duration::from_millis(5)).build();
        let sending = over.clone();
        let producing = tokio::task::spawn_local(async move {
            let mut sent = 0u64;
            while !*sending.borrow() {
                let partition = u32::try_from(sent % 4).unwrap();
                let record = Record::new(alpha(), format!("{sent}")).partition(partition);
                producer.send(record).await.unwrap().await.unwrap();
                sent += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            sent
        });
        for _ in 0..6 {
            tokio::time::sleep(secs(3)).await;
            kill_home(&mut world, &dialer).await;
        }
        tokio::time::sleep(secs(3)).await;
        *over.borrow_mut() = true;
        let sent = producing.await.unwrap();
        for member in members {
            within(30, member).await.unwrap();
        }
        let given = given.borrow().clone();
        let seen: BTreeSet<_> = given.iter().map(|(partition, offset, _)| (*partition, *offset)).collect();
        assert!(sent > 500, "{sent}");
        assert!(given.iter().all(|(_, _, redelivered)| !redelivered));
        assert_eq!(given.len(), seen.len(), "each once");
        let stats = client.stats();
        assert_eq!((stats.joins, stats.records_redelivered), (2, 0));
        let details = client.admin().describe_group(&readers()).await.unwrap();
        // Two members left since: nothing else may have happened to anybody's assignment.
        assert!(details.generation.0 <= generation.0 + 4, "{} after {generation}", details.generation);
        for partition in details.partitions {
            let got = seen.iter().filter(|(p, _)| *p == partition.partition).count() as u64;
            assert_eq!(
                (partition.committed, partition.lag),
                (Some(got), partition.high_watermark.map(|end| end - got))
            );
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn where_a_group_starts_outlives_its_home_and_its_first_member() {
    local(async {
        let mut world = World::new(3, 31).await;
        world.topic("alpha", 4, 3).await;
        open_doors(&world);
        let dialer = Dialer::default();
        let client = connect(&dialer, 2).await;
        let producer = client.producer().build();
        let send = async |count: u32| {
            for n in 0..count {
                let record = Record::new(alpha(), "x").partition(n % 4);
                producer.send(record).await.unwrap().await.unwrap();
            }
        };
        send(8).await;
        let join = || client.consumer().start(Position::Latest).auto_commit(None).session(secs(6));
        let mut first = within(20, join().subscribe(readers(), [alpha()])).await.unwrap();
        while first.assignment().len() < 4 || (0..4).any(|p| first.position(&alpha(), p).is_none()) {
            assert_eq!(first.poll(Duration::from_millis(100)).await.unwrap(), []);
        }
        // It has a start, was given nothing, and goes without a word; so does its home.
        drop(first);
        kill_home(&mut world, &dialer).await;
        send(12).await;
        let mut second = within(20, join().subscribe(readers(), [alpha()])).await.unwrap();
        let mut given = Vec::new();
        while given.len() < 12 {
            given.extend(second.poll(secs(20)).await.unwrap().into_iter().map(|r| (r.partition, r.offset)));
            assert!(!given.is_empty());
        }
        given.sort_unstable();
        let expected: Vec<_> = (0..4).flat_map(|p| (2..5).map(move |offset| (p, offset))).collect();
        assert_eq!(given, expected);
        within(20, second.close()).await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn records_say_which_attempt_they_are() {
    local(async {
        let world = World::new(1, 37).await;
        world.topic("alpha", 1, 1).await;
        open_doors(&world);
        let client = connect(&Dialer::default(), 3).await;
        let producer = client.producer().build();
        let send = async |value: &'static str| producer.send(Record::new(alpha(), value)).await.unwrap().await.unwrap();
        send("given").await;
        let join = || client.consumer().start(Position::Earliest).auto_commit(None).session(secs(6));
        for attempt in 1..=3 {
            let mut member = within(20, join().subscribe(readers(), [alpha()])).await.unwrap();
            let mut next = async || {
                let given = within(20, member.poll(secs(20))).await.unwrap();
                given.iter().map(|r| (r.offset, r.attempt, r.redelivered)).collect::<Vec<_>>()
            };
            assert_eq!(next().await, [(0, attempt, attempt > 1)]);
            if attempt == 3 {
                send("new").await;
                assert_eq!(next().await, [(1, 1, false)]);
            }
            // It goes without a word, and commits nothing.
        }
    })
    .await;
}

/// What an acknowledgement says of each level, and that the record is there to be read.
#[tokio::test(start_paused = true)]
async fn each_level_of_acknowledgement_says_what_it_promises() {
    local(async {
        let world = World::new(3, 41).await;
        world.topic("alpha", 1, 3).await;
        open_doors(&world);
        let client = connect(&Dialer::default(), 4).await;
        let mut reader = client.consumer().assign([(alpha(), 0, Position::Earliest)]).await.unwrap();
        for (offset, ack, copies, voters) in
            [(0, AckLevel::Quorum, 2, 3), (1, AckLevel::Leader, 1, 3), (2, AckLevel::None, 0, 0)]
        {
            let producer = client.producer().ack(ack).build();
            let acked = producer.send(Record::new(alpha(), format!("{ack:?}"))).await.unwrap().await.unwrap();
            let placed = (ack == AckLevel::Quorum).then_some(offset);
            assert_eq!(
                (acked.offset, acked.level, acked.quorum, acked.voters),
                (placed, ack, copies, voters),
                "{ack:?}"
            );
            let read = within(20, reader.poll(secs(20))).await.unwrap();
            let read: Vec<_> = read.iter().map(|r| (r.offset, r.value.clone().unwrap())).collect();
            assert_eq!(read, [(offset, format!("{ack:?}").into())]);
            within(20, producer.close()).await.unwrap();
        }
    })
    .await;
}

pub(super) async fn join(node: &Node) -> wire::Joined {
    let join = wire::Join {
        group: "readers".parse().unwrap(),
        member: None,
        topics: vec!["alpha".parse().unwrap()],
        session_ms: 6_000,
        kind: wire::GroupKind::Offset,
        start: Some(Position::Earliest),
    };
    let joined = async {
        loop {
            match node.groups().join(join.clone()).await {
                Ok(joined) => return joined,
                Err(refused) => assert!(refused.code.is_retriable(), "{refused:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(20, joined).await
}

/// One heartbeat that says "I consume what you gave me".
pub(super) async fn beat(node: &Node, member: &wire::Joined, last: &wire::HeartbeatAnswer) -> wire::HeartbeatAnswer {
    let owned = |given: &wire::AssignedPartition| wire::OwnedPartition {
        topic: given.topic,
        partition: given.partition,
        delivered: 0,
    };
    let heartbeat = wire::Heartbeat {
        group: "readers".parse().unwrap(),
        member: member.member.clone(),
        generation: last.generation,
        owned: last.assigned.iter().map(owned).collect(),
        wait_ms: member.session_ms / 3,
    };
    node.groups().heartbeat(heartbeat).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_group_shares_partitions_and_takes_over_from_the_silent() {
    local(async {
        let world = World::new(1, 13).await;
        let topic = world.topic("alpha", 4, 1).await;
        let node = world.node(0);
        let one = join(node).await;
        assert!(one.created);
        let mut first = wire::HeartbeatAnswer::default();
        while first.assigned.len() < 4 {
            first = beat(node, &one, &first).await;
        }
        let two = join(node).await;
        assert!(!two.created);
        let mut second = wire::HeartbeatAnswer::default();
        while (first.assigned.len(), second.assigned.len()) != (2, 2) {
            first = beat(node, &one, &first).await;
            second = beat(node, &two, &second).await;
        }
        assert!(first.assigned.iter().all(|a| second.assigned.iter().all(|b| a.partition != b.partition)));
        let mine = &first.assigned[0];
        let offset = wire::CommitOffset {
            topic,
            partition: mine.partition,
            offset: 5,
            leader_epoch: 1,
            metadata: String::new(),
        };
        let group: crate::types::GroupName = "readers".parse().unwrap();
        let commit = wire::Commit {
            group: group.clone(),
            member: Some(one.member.clone()),
            generation: first.generation,
            n: 1,
            offsets: vec![offset],
        };
        assert_eq!(node.groups().commit(commit).await.unwrap(), wire::Committed::default());
        let silent_since = Instant::now();
        while second.assigned.len() < 4 {
            second = beat(node, &two, &second).await;
        }
        let waited = silent_since.elapsed();
        assert!(waited >= secs(5) && waited <= secs(10), "expired after {waited:?}");
        let inherited = second.assigned.iter().find(|given| given.partition == mine.partition).unwrap();
        assert_eq!(inherited.committed, Some(5));
        let described = node.groups().describe(wire::DescribeGroup { group }).await.unwrap();
        assert_eq!((described.members.len(), described.partitions.len()), (1, 4));
        assert_eq!(node.groups().list().await.groups.len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_member_is_waited_for_as_long_as_the_config_says() {
    local(async {
        let world = World::with(1, 43, |config| config.groups.session_grace_ms = 3_000).await;
        world.topic("alpha", 4, 1).await;
        open_doors(&world);
        let (lost, dialer) = (Dialer::default(), Dialer::default());
        let consumer = connect(&lost, 1).await.consumer();
        let silent = within(20, consumer.subscribe(readers(), [alpha()])).await.unwrap();
        while silent.assignment().len() < 4 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut other = within(20, connect(&dialer, 2).await.consumer().subscribe(readers(), [alpha()])).await.unwrap();
        while (silent.assignment().len(), other.assignment().len()) != (2, 2) {
            other.poll(Duration::from_millis(50)).await.unwrap();
        }
        let silent_since = Instant::now();
        DOORS.with_borrow_mut(BTreeMap::clear);
        lost.cut(1);
        drop(silent);
        while other.assignment().len() < 4 {
            other.poll(Duration::from_millis(50)).await.unwrap();
        }
        let waited = silent_since.elapsed();
        assert!(waited >= Duration::from_millis(2_300) && waited < secs(5), "its partitions went after {waited:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_home_sends_its_members_away_at_once() {
    local(async {
        let world = World::new(3, 37).await;
        world.topic("alpha", 2, 3).await;
        let node = world.node(home(&world).await);
        let one = join(node).await;
        let mut last = wire::HeartbeatAnswer::default();
        while last.assigned.len() < 2 {
            last = beat(node, &one, &last).await;
        }
        let (of_home, parked) = (node.clone(), one.clone());
        let parked = tokio::task::spawn_local(async move {
            let member = parked.member.clone();
            let beat = wire::Heartbeat {
                group: readers(),
                member,
                generation: last.generation,
                owned: Vec::new(),
                wait_ms: 3_000,
            };
            (of_home.groups().heartbeat(beat).await, Instant::now())
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begun = Instant::now();
        node.shutdown().await.unwrap();
        let (answer, at) = parked.await.unwrap();
        assert_eq!(answer.unwrap_err().code, wire::Code::NotHome);
        assert!(at - begun < secs(1), "{:?}", at - begun);
    })
    .await;
}

type Seen = Rc<RefCell<Vec<(u64, Instant)>>>;

/// A listener that takes so long for each record.
async fn listen(client: &Client, takes: Duration, seen: &Seen) -> client::consumer::Listening {
    thread_local! {
        static SEEN: RefCell<Vec<Seen>> = const { RefCell::new(Vec::new()) };
    }
    let place = SEEN.with_borrow_mut(|all| {
        all.push(seen.clone());
        all.len() - 1
    });
    let all = (0..4).map(|partition| (alpha(), partition, Position::Earliest));
    let consumer = client.consumer().assign(all).await.unwrap();
    consumer.listen(
        client::consumer::Credit { records: 40, bytes: 8 << 20 },
        move |delivery: client::Delivery| async move {
            tokio::time::sleep(takes).await;
            SEEN.with_borrow(|all| all[place].borrow_mut().push((delivery.offset, Instant::now())));
        },
    )
}

#[tokio::test(start_paused = true)]
async fn a_slow_listener_holds_its_credit_and_slows_nobody() {
    local(async {
        let world = World::new(3, 41).await;
        world.topic("alpha", 4, 3).await;
        open_doors(&world);
        let dialer = Dialer::default();
        let client = connect(&dialer, 3).await;
        let (slow, fast) = (Rc::default(), Rc::default());
        let slow_one = listen(&client, Duration::from_millis(500), &slow).await;
        let fast_one = listen(&client, Duration::ZERO, &fast).await;
        let producer = client.producer().linger(Duration::from_millis(5)).build();
        // Both have found the leaders of all partitions.
        tokio::time::sleep(secs(2)).await;
        let mut held = (0, 0);
        for n in 0..1_000u32 {
            let receipt = producer.send(Record::new(alpha(), "x").partition(n % 4)).await.unwrap();
            if n % 50 == 49 {
                receipt.await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
                // What was acknowledged a tenth of a second ago is with the fast one, whatever the slow one does.
                assert_eq!(fast.borrow().len(), n as usize + 1);
                held = (held.0.max(slow_one.held()), held.1.max(fast_one.held()));
            }
        }
        // The broker asserts by itself that it sends no more than it was granted.
        assert_eq!(held.0, 40, "all of its credit, and no more");
        assert!(slow.borrow().len() < 20);
        fast_one.stop().await.unwrap();
        slow_one.stop().await.unwrap();
    })
    .await;
}
