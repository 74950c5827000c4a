//! A topic is deleted under whoever consumes it.

use crate::{
    client::{Client, ConsumeError, Consumer, Delivery, LookupError, Record, consumer::Credit, testing::World},
    types::{GroupName, Position, TopicName},
};
use std::time::Duration;
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(500);

fn delete(world: &World, topic: &TopicName) {
    world.with(|state| {
        let (id, _) = state.topics.remove(topic).unwrap();
        state.parts.retain(|at, _| at.topic != id);
        state.metadata_version += 1;
    });
}

async fn reader(client: &Client, topic: &TopicName) -> Consumer {
    client.consumer().assign([(topic.clone(), 0, Position::Earliest)]).await.unwrap()
}

fn is_gone(topic: &TopicName) -> ConsumeError {
    LookupError::UnknownTopic { topic: topic.clone() }.into()
}

#[tokio::test(start_paused = true)]
async fn a_consumer_is_told_and_asks_no_more() {
    let world = World::new(2);
    let topic = world.topic("t", 1);
    world.with(|state| state.append(&topic, 0, &["a"]));
    let client = world.client().await;
    let mut consumer = reader(&client, &topic).await;
    assert_eq!(consumer.poll(LONG).await.unwrap().len(), 1);
    delete(&world, &topic);
    let begun = Instant::now();
    assert_eq!(consumer.poll(LONG).await, Err(is_gone(&topic)));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let before = client.stats();
    assert_eq!(consumer.poll(LONG).await.unwrap(), [], "it is said once");
    let after = client.stats();
    assert_eq!(after.fetch_requests, before.fetch_requests);
    assert!(after.metadata_answers <= before.metadata_answers + 2, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_whose_node_is_gone_too_is_told() {
    let world = World::new(2);
    let topic = world.topic("t", 1);
    let client = world.client().await;
    let mut consumer = reader(&client, &topic).await;
    assert_eq!(consumer.poll(SOON).await.unwrap(), []);
    world.silence(1);
    delete(&world, &topic);
    let begun = Instant::now();
    assert_eq!(consumer.poll(LONG).await, Err(is_gone(&topic)));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_producer_keeps_no_worker_for_topics_that_are_gone() {
    let world = World::new(2);
    let client = world.client().await;
    let producer = client.producer().build();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut seen = Vec::new();
    for n in 0..24 {
        let topic = world.topic(&format!("t-{n}"), 3);
        for partition in 0..3 {
            let record = Record::new(topic.clone(), "a").partition(partition);
            producer.send(record).await.unwrap().await.unwrap();
        }
        seen.push(tasks());
        delete(&world, &topic);
        // Ids are given by how many there are.
        world.topic(&format!("stays-{n}"), 1);
        tokio::time::sleep(LONG).await;
    }
    // Once all lanes of both connections are there.
    assert!(seen[23] <= seen[17], "tasks after each topic: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_listener_is_told() {
    let world = World::new(2);
    let topic = world.topic("t", 1);
    let client = world.client().await;
    let consumer = reader(&client, &topic).await;
    let mut listening = consumer.listen(Credit::default(), |_: Delivery| std::future::ready(()));
    tokio::time::sleep(SOON).await;
    delete(&world, &topic);
    let failed = tokio::time::timeout(LONG, listening.failed()).await.unwrap();
    assert_eq!(failed, is_gone(&topic));
}

/// The home says that the group's only member consumes these partitions.
fn assign(world: &World, partitions: &[(&TopicName, u32)]) {
    world.with(|state| {
        let all: Vec<_> =
            partitions.iter().map(|(topic, partition)| ((*topic).clone(), state.at(topic, *partition))).collect();
        let group = state.groups.get_mut(&group()).unwrap();
        let assignments = [(group.members[0].clone(), all)].into();
        group.assign(assignments);
    });
}

fn group() -> GroupName {
    "g".parse().unwrap()
}

async fn values(consumer: &mut Consumer, n: usize) -> Vec<String> {
    let mut given = Vec::new();
    for _ in 0..20 {
        if given.len() >= n {
            break;
        }
        let records = consumer.poll(SOON).await.unwrap();
        given.extend(records.iter().map(|record| String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap()));
    }
    given.sort_unstable();
    given
}

/// What a member consumes is the home's matter: it is no error that a topic is gone, and the others go on.
#[tokio::test(start_paused = true)]
async fn a_member_goes_on_with_its_other_topics_and_with_the_next_of_the_same_name() {
    let world = World::new(1);
    let (topic, kept, next) = (world.topic("t", 2), world.topic("kept", 1), world.topic("next", 2));
    world.with(|state| {
        state.append(&topic, 1, &["a"]);
        state.append(&kept, 0, &["b"]);
    });
    let client = world.client().await;
    let builder = client.consumer().start(Position::Earliest);
    let mut consumer = builder.subscribe(group(), [topic.clone(), kept.clone()]).await.unwrap();
    assign(&world, &[(&topic, 1), (&kept, 0)]);
    assert_eq!(values(&mut consumer, 2).await, ["a", "b"]);

    // The home has not heard of it yet.
    delete(&world, &topic);
    let asked = || {
        let fetches = world.with(|state| state.fetches.clone());
        fetches.iter().filter(|(_, all)| all.iter().any(|(partition, _)| *partition == 1)).count()
    };
    let before = asked();
    assert_eq!(consumer.poll(Duration::from_secs(5)).await.unwrap(), []);
    assert!(asked() <= before + 10, "{} fetches of what is gone", asked() - before);
    world.with(|state| state.append(&kept, 0, &["c"]));
    assert_eq!(values(&mut consumer, 1).await, ["c"]);

    // Another one of the same name.
    world.with(|state| {
        let made = state.topics.remove(&next).unwrap();
        state.topics.insert(topic.clone(), made);
        state.metadata_version += 1;
        state.append(&topic, 1, &["d"]);
    });
    assign(&world, &[(&topic, 1), (&kept, 0)]);
    assert_eq!(values(&mut consumer, 1).await, ["d"]);
    world.with(|state| state.append(&topic, 1, &["e"]));
    assert_eq!(values(&mut consumer, 1).await, ["e"]);
    assert_eq!(client.stats().records_redelivered, 0);
}
