//! The workload: producers that pipeline, readers by assignment, a slow listener with little credit, a group whose members come
//! and go, and a watcher that asks for the watermark. Each writes down what it did and saw. Administrators are in `admins`.

use super::{admins, world::World};
use crate::{
    history::What,
    workload::{decode, encode},
};
use highwater::{
    client::{
        Acked, Client, ConsumeError, Delivery, ProduceError, Record,
        consumer::{Credit, OutOfRange},
    },
    types::{GroupName, NodeId, Position, TopicName},
};
use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

/// The one topic.
pub(super) fn topic() -> TopicName {
    "storm".parse().expect("a good name")
}

/// A client of its own for a process.
pub(super) async fn connect(world: &World, process: u32) -> Client {
    let delay = Duration::from_micros(world.env.random_below(2_000));
    let dialer = world.way_of(process, delay).dialer();
    loop {
        let mut builder =
            Client::builder().dialer(dialer.clone()).host(Arc::new(world.host())).name(format!("process {process}"));
        for node in 1..=world.options.nodes {
            builder = builder.bootstrap(world.net.bootstrap(node));
        }
        match builder.connect().await {
            Ok(client) => return client,
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Before a client that was told of an error begins again.
const AGAIN: Duration = Duration::from_millis(50);

/// One of the producers gives up so soon that some of what it hands over is surely never sent.
fn patience(process: u32) -> Duration {
    if process == IMPATIENT { Duration::from_millis(700) } else { Duration::from_secs(30) }
}

const IMPATIENT: u32 = 3;

/// Sends until the storm is over, then waits for every outcome.
pub(super) async fn produce(world: Rc<World>, process: u32) {
    let client = connect(&world, process).await;
    let producer = client.producer().linger(Duration::from_millis(2)).delivery_timeout(patience(process)).build();
    let mut count = 0u64;
    let mut outcomes = tokio::task::JoinSet::new();
    while !world.is_calm() {
        let partition = u32::try_from(world.env.random_below(world.options.partitions.into())).unwrap_or(0);
        count += 1;
        let value = (u64::from(process) << 32) | count;
        let record = Record::new(topic(), encode(value)).partition(partition);
        match producer.send(record).await {
            Ok(receipt) => {
                world.note(process, What::Send { partition, value });
                let world = world.clone();
                outcomes.spawn_local(async move {
                    let what = match receipt.await {
                        Ok(acked) => match acked.offset {
                            Some(offset) => What::SendOk { partition, value, offset, epoch: acked.leader_epoch },
                            None => What::SendInfo { partition, value },
                        },
                        Err(ProduceError::Refused { maybe_appended: false, .. } | ProduceError::Batch(_)) => {
                            What::SendFail { partition, value }
                        }
                        Err(ProduceError::TimedOut { maybe_appended: false, .. }) => {
                            What::SendFail { partition, value }
                        }
                        Err(_) => What::SendInfo { partition, value },
                    };
                    world.note(process, what);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        let pause = world.env.random_below(40);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    let _ = producer.close().await;
    while outcomes.join_next().await.is_some() {}
    client.close();
}

/// Reads all partitions from the start, alone; now and then goes back to the start as a new reader.
pub(super) async fn read(world: Rc<World>, process: u32) {
    let client = connect(&world, process).await;
    while !world.is_calm() {
        let all = (0..world.options.partitions).map(|partition| (topic(), partition, Position::Earliest));
        let builder = client.consumer().out_of_range(OutOfRange::Error).fetch_wait(Duration::from_millis(500));
        let Ok(mut consumer) = builder.assign(all).await else { continue };
        for partition in 0..world.options.partitions {
            world.note(process, What::Seek { partition });
        }
        let rounds = 20 + world.env.random_below(100);
        for _ in 0..rounds {
            if world.is_calm() {
                break;
            }
            match consumer.poll(Duration::from_millis(500)).await {
                Ok(records) => polled(&world, process, &records),
                Err(ConsumeError::OutOfRange { partition, offset, .. }) => {
                    world.note(process, What::OutOfRange { partition, offset });
                    break;
                }
                Err(error) => {
                    note_damage(&world, &error);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        let _ = consumer.close().await;
    }
    client.close();
}

/// A batch that does not verify is an anomaly, whatever the client does about it.
pub(super) fn note_damage(world: &World, error: &ConsumeError) {
    if let ConsumeError::Damaged { partition, .. } = error {
        world.note(99, What::Damaged { partition: *partition, text: error.to_string() });
    }
}

thread_local! {
    /// The world on this thread, for listeners: they must be `Send`, worlds are not.
    static LISTENS: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// Has all partitions pushed to it, with little credit, and takes its time for each record; now and then begins anew, from
/// what is new.
pub(super) async fn listen(world: Rc<World>, process: u32) {
    LISTENS.set(Some(world.clone()));
    let client = connect(&world, process).await;
    while !world.is_calm() {
        let all = (0..world.options.partitions).map(|partition| (topic(), partition, Position::Latest));
        let builder = client.consumer().out_of_range(OutOfRange::Error);
        let Ok(consumer) = builder.assign(all).await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        for partition in 0..world.options.partitions {
            world.note(process, What::Seek { partition });
        }
        let credit = Credit { records: 1 + below(&world, 40), bytes: 1 << 20 };
        let mut listening = consumer.listen(credit, move |delivery: Delivery| {
            let noted = LISTENS.with_borrow(|world| {
                let world = world.as_ref()?;
                polled(world, process, &[delivery]);
                Some(below(world, 30))
            });
            tokio::time::sleep(Duration::from_millis(noted.unwrap_or_default().into()))
        });
        let rest = Duration::from_millis(2_000 + u64::from(below(&world, 8_000)));
        match tokio::time::timeout(rest, listening.failed()).await {
            Ok(ConsumeError::OutOfRange { partition, offset, .. }) => {
                world.note(process, What::OutOfRange { partition, offset });
            }
            Ok(error) => {
                note_damage(&world, &error);
                // What is known to be offline is told at once.
                tokio::time::sleep(AGAIN).await;
            }
            Err(_) => drop(tokio::time::timeout(Duration::from_secs(5), listening.stop()).await),
        }
    }
    LISTENS.set(None);
    client.close();
}

pub(super) fn below(world: &World, limit: u64) -> u32 {
    u32::try_from(world.env.random_below(limit)).unwrap_or(0)
}

/// With all healed every partition takes a record, and the controller a change: asks until each did.
pub(super) async fn ask_all(world: Rc<World>, process: u32) {
    let client = connect(&world, process).await;
    let producer = client.producer().delivery_timeout(Duration::from_secs(120)).build();
    let served = |what: String, asked| world.note(process, What::Served { what, asked });
    let mut values = (u64::from(process) << 32)..;
    for partition in 0..world.options.partitions {
        let (asked, what) = (world.now(), format!("a record in partition {partition}"));
        for value in values.by_ref() {
            world.waits(what.clone());
            world.note(process, What::Send { partition, value });
            let outcome = match producer.send(Record::new(topic(), encode(value)).partition(partition)).await {
                Ok(receipt) => receipt.await.ok(),
                Err(_) => None,
            };
            if let Some(Acked { offset: Some(offset), leader_epoch: epoch, .. }) = outcome {
                world.note(process, What::SendOk { partition, value, offset, epoch });
                break;
            }
            world.note(process, What::SendInfo { partition, value });
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        served(what, asked);
    }
    let _ = producer.close().await;
    let asked = world.now();
    admins::set(&world, &client, process, "max.batch.bytes", "1000000").await;
    served("a change of the topic".into(), asked);
    client.close();
}

/// Asks the leader of a partition to hand it over; gives whether it did.
pub(super) async fn transfer(world: &World, partition: u32, to: u32) -> bool {
    let client = connect(world, 51).await;
    let done = client.admin().transfer_leader(&topic(), partition, NodeId(to)).await.is_ok();
    client.close();
    done
}

fn polled(world: &World, process: u32, records: &[Delivery]) {
    for partition in 0..world.options.partitions {
        let mine: Vec<_> = records.iter().filter(|r| r.partition == partition).map(|r| (r.offset, decode(r))).collect();
        if !mine.is_empty() {
            world.note(process, What::Poll { partition, records: mine, assigned: true });
        }
    }
}

fn group() -> GroupName {
    "readers".parse().expect("a good name")
}

/// The group that members of [`join`] are in.
pub(super) const GROUP: u32 = 1;

/// A member of a group: comes, consumes for a while, leaves or just vanishes, comes again. After the storm it stays until
/// the group has seen `ends`.
pub(super) async fn join(world: Rc<World>, process: u32) {
    let client = connect(&world, process).await;
    let group = group();
    world.note(process, What::Joined { group: GROUP });
    while !world.is_over() {
        let builder = client
            .consumer()
            .start(Position::Earliest)
            .session(Duration::from_secs(3))
            .fetch_wait(Duration::from_millis(500))
            .auto_commit(Some(Duration::from_millis(500)));
        let Ok(mut consumer) = builder.subscribe(group.clone(), [topic()]).await else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let least = world.options.storm.member_polls;
        let rounds = least + world.env.random_below(5 * least);
        for _ in 0..rounds {
            if world.is_over() {
                break;
            }
            match consumer.poll(Duration::from_millis(500)).await {
                Ok(records) => {
                    if !records.is_empty() {
                        world.note(process, What::Polled { group: GROUP });
                    }
                    for record in &records {
                        world.given(process, GROUP, record);
                    }
                }
                Err(error) => {
                    note_damage(&world, &error);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        if world.env.random_below(2) == 0 {
            let _ = consumer.close().await;
        }
    }
    client.close();
}

/// Asks for the watermarks and for what the group has committed, again and again.
pub(super) async fn watch(world: Rc<World>, process: u32) {
    let client = connect(&world, process).await;
    while !world.is_calm() {
        let asked = world.now();
        if let Ok(offsets) = client.admin().list_offsets(&topic(), Position::Latest).await {
            for (partition, offset) in offsets {
                world.note(process, What::Latest { partition, asked, offset });
            }
        }
        ask_committed(&world, &client, process, GROUP, &group()).await;
        tokio::time::sleep(Duration::from_millis(100 + world.env.random_below(200))).await;
    }
    client.close();
}

/// Asks what a group has committed.
pub(super) async fn ask_committed(world: &World, client: &Client, process: u32, group: u32, of: &GroupName) {
    let asked = world.now();
    if let Ok(offsets) = client.admin().committed(of, &topic()).await {
        for (partition, offset) in offsets {
            world.note(process, What::Committed { group, partition, asked, offset });
        }
    }
}
