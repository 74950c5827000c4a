//! Administrators: one makes, alters and deletes topics and asks which there are, one resets a group. What they ask for and what
//! they are told is in the history.

use super::{clients, world::World};
use crate::{
    history::{Deed, What},
    workload::told,
};
use highwater::{
    client::{AdminError, Client, Consumer, Delivery, NewTopic, Record},
    types::{GroupName, Position, TopicName},
};
use std::{collections::BTreeMap, rc::Rc, time::Duration};

/// Asks for something, and writes down what came of it.
pub(super) async fn ask<T>(
    world: &World,
    process: u32,
    deed: Deed,
    asking: impl Future<Output = Result<T, AdminError>>,
) -> Result<T, AdminError> {
    world.note(process, What::Admin { deed: deed.clone() });
    let answer = asking.await;
    world.note(process, told(deed, &answer));
    answer
}

/// Makes a topic, with records that go after a while or stay.
pub(super) async fn create(
    world: &World,
    client: &Client,
    process: u32,
    name: &TopicName,
    partitions: u32,
    retention_ms: Option<u64>,
) -> Result<(), AdminError> {
    if let Some(ms) = retention_ms.filter(|_| *name == clients::topic()) {
        world.note(process, What::Keeps { ms });
    }
    let deed = Deed::Create { topic: name.to_string(), partitions };
    let topic = NewTopic::new(name.clone()).partitions(partitions);
    let topic = retention_ms.into_iter().fold(topic, |topic, ms| topic.setting("retention.ms", ms.to_string()));
    ask(world, process, deed, client.admin().create_topic(topic)).await.map(drop)
}

async fn alter(world: &World, client: &Client, process: u32, name: &TopicName, partitions: u32) {
    let deed = Deed::Alter { topic: name.to_string(), partitions };
    let _ = ask(world, process, deed, client.admin().alter_topic(name, Vec::new(), partitions)).await;
}

/// Changes a setting of the run's topic; asks until it is done.
pub(super) async fn set(world: &World, client: &Client, process: u32, name: &str, value: &str) {
    let deed = || Deed::Alter { topic: clients::topic().to_string(), partitions: 0 };
    let setting = || vec![(name.to_owned(), Some(value.to_owned()))];
    let admin = client.admin();
    while let Err(error) = ask(world, process, deed(), admin.alter_topic(&clients::topic(), setting(), 0)).await {
        world.waits(format!("{name} of the topic to be {value}: {error}"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Makes topics, produces a little, asks for what is done already, deletes most of them.
pub(super) async fn churn(world: Rc<World>, process: u32) {
    let client = clients::connect(&world, process).await;
    let mut count = 0;
    while !world.is_calm() {
        count += 1;
        let name: TopicName = format!("side-{count}").parse().expect("a good name");
        let partitions = 1 + clients::below(&world, 3);
        if create(&world, &client, process, &name, partitions, None).await.is_ok() {
            let producer = client.producer().delivery_timeout(Duration::from_secs(5)).build();
            for n in 0..clients::below(&world, 50) {
                let _ = producer.send(Record::new(name.clone(), crate::workload::encode(n.into()))).await;
            }
            let _ = producer.close().await;
        }
        match clients::below(&world, 4) {
            0 => drop(create(&world, &client, process, &name, partitions, None).await),
            1 => alter(&world, &client, process, &name, partitions + 1).await,
            2 => drop(list(&world, &client, process, false).await),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(500 + u64::from(clients::below(&world, 4_000)))).await;
        if clients::below(&world, 8) == 0 {
            continue;
        }
        let deed = Deed::Delete { topic: name.to_string() };
        let _ = ask(&world, process, deed, client.admin().delete_topic(&name)).await;
        if clients::below(&world, 4) == 0 {
            alter(&world, &client, process, &name, 0).await;
        }
        tokio::time::sleep(Duration::from_millis(clients::below(&world, 4_000).into())).await;
    }
    client.close();
}

/// Asks which topics there are; gives whether there was an answer.
pub(super) async fn list(world: &World, client: &Client, process: u32, last: bool) -> bool {
    let Ok(topics) = client.admin().topics().await else { return false };
    let partitions = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let topics = topics.into_iter().map(|topic| (topic.name.to_string(), partitions(topic.partitions.len())));
    world.note(process, What::Topics { topics: topics.collect(), last });
    true
}

/// The group that is reset.
const GROUP: u32 = 2;

/// A group of one member that comes, commits and leaves; then it is reset, and asked where it is.
pub(super) async fn reset(world: Rc<World>, process: u32) {
    let client = clients::connect(&world, process).await;
    let group: GroupName = "rereaders".parse().expect("a good name");
    while !world.is_calm() {
        consume(&world, &client, process, &group).await;
        let partition = clients::below(&world, world.options.partitions.into());
        if let Some(offset) = somewhere(&world, &client, partition).await {
            let deed = Deed::Reset { group: GROUP, of: group.to_string(), partition, offset };
            let (admin, place) = (client.admin(), [(clients::topic(), partition)]);
            let asking = admin.reset_partitions(&group, &place, Position::Offset(offset));
            let _ = ask(&world, process, deed, asking).await;
        }
        for _ in 0..=clients::below(&world, 3) {
            clients::ask_committed(&world, &client, process, GROUP, &group).await;
            tokio::time::sleep(Duration::from_millis(clients::below(&world, 500).into())).await;
        }
        tokio::time::sleep(Duration::from_millis(500 + u64::from(clients::below(&world, 3_000)))).await;
    }
    client.close();
}

/// As a member: polls a few times, and commits each time.
async fn consume(world: &World, client: &Client, process: u32, group: &GroupName) {
    let builder = client.consumer().start(Position::Earliest).session(Duration::from_secs(2)).auto_commit(None);
    let Ok(mut consumer) = builder.poll_records_max(50).subscribe(group.clone(), [clients::topic()]).await else {
        return;
    };
    for _ in 0..=clients::below(world, 3) {
        let polled = consumer.poll(Duration::from_millis(500)).await;
        let given = polled.unwrap_or_else(|error| {
            clients::note_damage(world, &error);
            Vec::new()
        });
        commit(world, process, &consumer, &given).await;
    }
    let _ = consumer.close().await;
}

/// Commits, and writes down what came of it in the partitions of which something was given since the last time: the commit
/// has nothing new of others.
async fn commit(world: &World, process: u32, consumer: &Consumer, given: &[Delivery]) {
    let ends: BTreeMap<u32, u64> = given.iter().map(|record| (record.partition, record.offset + 1)).collect();
    let asked = world.now();
    let taken = consumer.commit().await.is_ok();
    for (partition, offset) in ends {
        // A partition that went to others meanwhile is not in the commit.
        let stays = consumer.position(&clients::topic(), partition) == Some(offset);
        let what = match taken && stays {
            true => What::CommitOk { group: GROUP, partition, asked, offset },
            false => What::CommitInfo { group: GROUP, partition, offset },
        };
        world.note(process, what);
    }
}

/// An offset of the partition.
async fn somewhere(world: &World, client: &Client, partition: u32) -> Option<u64> {
    let admin = client.admin();
    let first = admin.list_known_offsets(&clients::topic(), Position::Earliest).await.ok()?.remove(&partition)?;
    let end = admin.list_known_offsets(&clients::topic(), Position::Latest).await.ok()?.remove(&partition)?;
    Some(first + world.env.random_below(end.saturating_sub(first) + 1))
}
