//! Consuming by assignment.

use crate::{
    client::{Client, ConsumeError, Consumer, Delivery, consumer::OutOfRange, testing::World},
    types::{Position, TopicName},
};
use futures_util::StreamExt;
use std::time::Duration;
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(20);

async fn reader(client: &Client, topic: &TopicName, partitions: u32, from: Position) -> Consumer {
    let all = (0..partitions).map(|partition| (topic.clone(), partition, from));
    client.consumer().assign(all).await.unwrap()
}

fn value(delivery: &Delivery) -> String {
    String::from_utf8(delivery.value.clone().unwrap().to_vec()).unwrap()
}

async fn take(consumer: &mut Consumer, n: usize) -> Vec<Delivery> {
    let mut given = Vec::new();
    while given.len() < n {
        let more = consumer.poll(LONG).await.unwrap();
        assert!(!more.is_empty(), "{} of {n} came", given.len());
        given.extend(more);
    }
    assert_eq!(given.len(), n);
    given
}

#[tokio::test(start_paused = true)]
async fn reads_in_order_and_waits_at_the_end() {
    let world = World::new(3);
    let topic = world.topic("t", 3);
    world.with(|state| (0..3).for_each(|p| state.append(&topic, p, &["a", "b", "c"])));
    let client = world.client().await;
    let mut consumer = reader(&client, &topic, 3, Position::Earliest).await;
    let given = take(&mut consumer, 9).await;
    for partition in 0..3 {
        let of: Vec<_> = given.iter().filter(|d| d.partition == partition).map(|d| (d.offset, value(d))).collect();
        assert_eq!(of, [(0, "a".into()), (1, "b".into()), (2, "c".into())]);
    }
    assert!(given.iter().all(|d| d.attempt == 1 && !d.redelivered && d.leader_epoch == 1));
    let begun = Instant::now();
    assert_eq!(consumer.poll(Duration::from_secs(30)).await.unwrap(), []);
    assert_eq!(begun.elapsed().as_secs(), 30);
    // One long poll per node and second while nothing comes.
    assert!(client.stats().fetch_requests < 3 * 33, "{:?}", client.stats());

    let begun = Instant::now();
    let (next, ()) = tokio::join!(consumer.poll(LONG), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.with(|state| state.append(&topic, 1, &["d"]));
    });
    assert_eq!(next.unwrap().iter().map(value).collect::<Vec<_>>(), ["d"]);
    assert!(begun.elapsed() < Duration::from_millis(2_050), "{:?}", begun.elapsed());
    assert_eq!(consumer.position(&topic, 1), Some(4));
    assert_eq!(consumer.high_watermark(&topic, 1), Some(4));
    assert_eq!(client.stats().connections, 3);
}

#[tokio::test(start_paused = true)]
async fn starts_where_it_is_told() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    world.with(|state| state.append(&topic, 0, &["0", "1", "2", "3", "4"]));
    let client = world.client().await;
    let mut consumer = reader(&client, &topic, 1, Position::Offset(3)).await;
    assert_eq!(take(&mut consumer, 2).await[0].offset, 3);
    consumer.seek(&topic, 0, Position::Offset(1)).unwrap();
    assert_eq!(take(&mut consumer, 4).await[0].offset, 1);
    consumer.seek(&topic, 0, Position::Earliest).unwrap();
    assert_eq!(take(&mut consumer, 5).await[0].offset, 0);
    let mut latest = reader(&client, &topic, 1, Position::Latest).await;
    assert_eq!(latest.poll(Duration::from_secs(1)).await.unwrap(), []);
    world.with(|state| state.append(&topic, 0, &["5"]));
    assert_eq!(take(&mut latest, 1).await[0].offset, 5);
    let unknown = client.consumer().assign([(topic.clone(), 1, Position::Earliest)]).await.err();
    assert_eq!(unknown, Some(ConsumeError::UnknownPartition { topic, partition: 1 }));
}

#[tokio::test(start_paused = true)]
async fn a_paused_partition_gives_nothing_and_the_others_go_on() {
    let world = World::new(1);
    let topic = world.topic("t", 2);
    let client = world.client().await;
    let mut consumer = reader(&client, &topic, 2, Position::Earliest).await;
    consumer.pause(&topic, 0).unwrap();
    world.with(|state| (0..2).for_each(|p| state.append(&topic, p, &["x", "y"])));
    assert!(take(&mut consumer, 2).await.iter().all(|d| d.partition == 1));
    assert_eq!(consumer.poll(Duration::from_secs(1)).await.unwrap(), []);
    consumer.resume(&topic, 0).unwrap();
    assert!(take(&mut consumer, 2).await.iter().all(|d| d.partition == 0));
    assert!(matches!(consumer.pause(&topic, 7), Err(ConsumeError::NotAssigned { .. })));
}

#[tokio::test(start_paused = true)]
async fn follows_leaders_through_moves_cuts_and_silence() {
    let world = World::new(3);
    let topic = world.topic("t", 2);
    let client = world.client().await;
    let mut consumer = reader(&client, &topic, 2, Position::Earliest).await;
    let mut expected = 0;
    for round in 0..6u32 {
        match round {
            1 => world.with(|state| state.lead(&topic, 0, 2)),
            2 => world.cut(2),
            3 => world.with(|state| state.lead(&topic, 0, 3)),
            4 => {
                world.silence(3);
                tokio::time::sleep(Duration::from_secs(1)).await;
                world.with(|state| state.lead(&topic, 0, 1));
            }
            5 => world.restore(3),
            _ => {}
        }
        world.with(|state| state.append(&topic, 0, &["x", "y"]));
        let begun = Instant::now();
        let given = take(&mut consumer, 2).await;
        assert_eq!(given.iter().map(|d| d.offset).collect::<Vec<_>>(), [expected, expected + 1], "round {round}");
        assert!(begun.elapsed() < Duration::from_millis(2_500), "round {round}: {:?}", begun.elapsed());
        expected += 2;
    }
    let stats = client.stats();
    assert!(stats.fetch_refused_not_leader > 0, "{stats:?}");
    assert_eq!((stats.refused_twice, stats.sent_after_refusal), (0, 0), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn what_retention_took_is_handled_as_asked() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    for n in 0..10 {
        world.with(|state| state.append(&topic, 0, &[&n.to_string()]));
    }
    let start = |state: &mut crate::client::testing::State| {
        let at = state.at(&topic, 0);
        let part = state.parts.get_mut(&at).unwrap();
        part.start = 4;
        part.log.retain(|(base, _)| *base >= 4);
    };
    world.with(start);
    let client = world.client().await;
    let at = |policy| client.consumer().out_of_range(policy).assign([(topic.clone(), 0, Position::Offset(2))]);
    let mut earliest = at(OutOfRange::Earliest).await.unwrap();
    assert_eq!(take(&mut earliest, 6).await[0].offset, 4);
    let mut latest = at(OutOfRange::Latest).await.unwrap();
    assert_eq!(latest.poll(Duration::from_secs(1)).await.unwrap(), []);
    world.with(|state| state.append(&topic, 0, &["10"]));
    assert_eq!(take(&mut latest, 1).await[0].offset, 10);
    let mut failing = at(OutOfRange::Error).await.unwrap();
    let error = failing.poll(LONG).await.unwrap_err();
    assert_eq!(error.to_string(), "t/0 begins at offset 4, offset 2 is gone");
    assert_eq!(failing.poll(Duration::from_secs(1)).await.unwrap(), []);
    failing.seek(&topic, 0, Position::Earliest).unwrap();
    assert_eq!(take(&mut failing, 7).await[0].offset, 4);
}

#[tokio::test(start_paused = true)]
async fn a_position_above_the_end_is_handled_as_asked() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    world.with(|state| state.append(&topic, 0, &["0", "1", "2"]));
    let client = world.client().await;
    let at = |policy| client.consumer().out_of_range(policy).assign([(topic.clone(), 0, Position::Offset(9))]);
    let mut failing = at(OutOfRange::Error).await.unwrap();
    let error = failing.poll(LONG).await.unwrap_err();
    assert_eq!(error.to_string(), "t/0 ends at offset 3, offset 9 is not there yet");
    assert_eq!(failing.poll(LONG).await.unwrap(), []);
    assert_eq!(world.with(|state| state.questions.clone()), [Position::Offset(9)], "it is asked once");
    assert_eq!(client.stats().fetch_requests, 1);
    failing.seek(&topic, 0, Position::Offset(2)).unwrap();
    assert_eq!(take(&mut failing, 1).await[0].offset, 2);
    let mut earliest = at(OutOfRange::Earliest).await.unwrap();
    assert_eq!(take(&mut earliest, 3).await[0].offset, 0);
    let mut latest = at(OutOfRange::Latest).await.unwrap();
    assert_eq!(latest.poll(Duration::from_secs(1)).await.unwrap(), []);
    world.with(|state| state.append(&topic, 0, &["3"]));
    assert_eq!(take(&mut latest, 1).await[0].offset, 3);
}

/// A leader that is new does not know all that was shown before: to a reader at the end that is no reason to be sent away.
#[tokio::test(start_paused = true)]
async fn a_position_that_a_new_leader_does_not_know_yet_stays() {
    let world = World::new(2);
    let topic = world.topic("t", 1);
    world.with(|state| state.append(&topic, 0, &["0", "1", "2"]));
    let client = world.client().await;
    let builder = client.consumer().out_of_range(OutOfRange::Error);
    let mut consumer = builder.assign([(topic.clone(), 0, Position::Earliest)]).await.unwrap();
    take(&mut consumer, 3).await;
    world.with(|state| {
        state.lead(&topic, 0, 2);
        let at = state.at(&topic, 0);
        state.parts.get_mut(&at).unwrap().known = Some(1);
    });
    assert_eq!(consumer.poll(LONG).await.unwrap(), []);
    assert_eq!(world.with(|state| state.questions.clone()), [Position::Earliest, Position::Offset(3)]);
    assert_eq!(consumer.position(&topic, 0), Some(3));
    world.with(|state| state.append(&topic, 0, &["3"]));
    assert_eq!(take(&mut consumer, 1).await[0].offset, 3);
}

#[tokio::test(start_paused = true)]
async fn what_was_fetched_before_retention_took_it_is_given() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    world.with(|state| state.append(&topic, 0, &["0", "1", "2", "3", "4"]));
    let client = world.client().await;
    let builder = client.consumer().poll_records_max(1);
    let mut consumer = builder.assign([(topic.clone(), 0, Position::Earliest)]).await.unwrap();
    assert_eq!(take(&mut consumer, 1).await[0].offset, 0);
    world.with(|state| {
        (5..10).for_each(|n| state.append(&topic, 0, &[&n.to_string()]));
        let at = state.at(&topic, 0);
        let part = state.parts.get_mut(&at).unwrap();
        part.start = 8;
        part.log.retain(|(base, _)| *base >= 8);
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asked = client.stats().fetch_requests;
    assert!(asked < 15, "{asked} fetches while the program does not look");
    let offsets: Vec<_> = take(&mut consumer, 6).await.iter().map(|d| d.offset).collect();
    assert_eq!(offsets, [1, 2, 3, 4, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn fetches_ahead_no_more_than_the_buffer_holds() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    let text = "x".repeat(10_000);
    for _ in 0..100 {
        world.with(|state| state.append(&topic, 0, &[&text]));
    }
    let client = world.client().await;
    let builder = client.consumer().prefetch_bytes(100_000).poll_records_max(1);
    let mut consumer = builder.assign([(topic.clone(), 0, Position::Earliest)]).await.unwrap();
    assert_eq!(consumer.poll(LONG).await.unwrap().len(), 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(world.with(|state| state.fetch_bytes_max) <= 100_000);
    let ahead =
        |world: &World| world.with(|state| state.fetches.iter().flat_map(|(_, p)| p.iter().map(|(_, o)| *o)).max());
    assert!(ahead(&world).unwrap() <= 11, "{:?}", ahead(&world));
    for offset in 1..100 {
        assert_eq!(consumer.poll(LONG).await.unwrap()[0].offset, offset);
    }
}

#[tokio::test(start_paused = true)]
async fn is_a_stream() {
    let world = World::new(2);
    let topic = world.topic("t", 2);
    world.with(|state| (0..2).for_each(|p| state.append(&topic, p, &["a", "b"])));
    let client = world.client().await;
    let consumer = reader(&client, &topic, 2, Position::Earliest).await;
    let given: Vec<_> = consumer.take(4).map(|d| value(&d.unwrap())).collect().await;
    assert_eq!(given.len(), 4);
    assert_eq!(client.stats().records_delivered, 4);
}

#[tokio::test(start_paused = true)]
async fn damage_is_said_and_not_given() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    world.with(|state| state.append(&topic, 0, &["good"]));
    world.with(|state| state.append(&topic, 0, &["bad"]));
    world.with(|state| {
        let at = state.at(&topic, 0);
        let (_, batch) = &mut state.parts.get_mut(&at).unwrap().log[1];
        let mut bytes = batch.bytes().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        *batch = crate::batch::Batch::trusted(bytes.into()).unwrap();
    });
    let client = world.client().await;
    let mut consumer = reader(&client, &topic, 1, Position::Earliest).await;
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        outcomes.push(consumer.poll(LONG).await);
    }
    let given: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().ok()).flatten().map(value).collect();
    assert_eq!(given, ["good"]);
    assert!(outcomes.iter().any(|o| matches!(o, Err(ConsumeError::Damaged { offset: 1, .. }))), "{outcomes:?}");
}
