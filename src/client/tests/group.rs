//! Consuming as a member of a group.

use crate::{
    client::{
        Consumer,
        testing::{Assignments, World},
    },
    types::{GroupName, Position, TopicName},
};
use std::time::Duration;

const SOON: Duration = Duration::from_millis(500);

fn group() -> GroupName {
    "g".parse().unwrap()
}

/// `"member-1: 0 1, member-2: 2"`: members by their order of joining.
fn assign(world: &World, topic: &TopicName, text: &str) {
    world.with(|state| {
        let mut assignments = Assignments::new();
        for line in text.split(", ") {
            let (member, partitions) = line.split_once(':').unwrap();
            let at = |p: &str| (topic.clone(), state.at(topic, p.parse().unwrap()));
            let place: usize = member.strip_prefix("member-").unwrap().parse().unwrap();
            let member = state.groups[&group()].members[place - 1].clone();
            assignments.insert(member, partitions.split_whitespace().map(at).collect());
        }
        state.groups.get_mut(&group()).unwrap().assign(assignments);
    });
}

fn committed(world: &World, topic: &TopicName, partition: u32) -> Option<u64> {
    world.with(|state| state.groups[&group()].committed.get(&state.at(topic, partition)).copied())
}

fn append(world: &World, topic: &TopicName, partitions: u32, values: &[&str]) {
    world.with(|state| (0..partitions).for_each(|p| state.append(topic, p, values)));
}

async fn take(consumer: &mut Consumer, n: usize) -> Vec<(u32, u64, bool)> {
    let mut given = Vec::new();
    for _ in 0..50 {
        if given.len() >= n {
            break;
        }
        given.extend(consumer.poll(SOON).await.unwrap().iter().map(|d| (d.partition, d.offset, d.redelivered)));
    }
    assert_eq!(given.len(), n, "{given:?}");
    given.sort_unstable();
    given
}

fn partitions(consumer: &Consumer) -> Vec<u32> {
    consumer.assignment().into_iter().map(|(_, partition)| partition).collect()
}

#[tokio::test(start_paused = true)]
async fn resumes_at_what_is_committed() {
    let world = World::new(3);
    let topic = world.topic("t", 2);
    append(&world, &topic, 2, &["a", "b"]);
    let client = world.client().await;
    let mut consumer = client.consumer().start(Position::Earliest).subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0 1");
    assert_eq!(take(&mut consumer, 4).await.len(), 4);
    // The last poll's records count as done with the next poll, and the interval commits them.
    assert_eq!(consumer.poll(Duration::from_secs(2)).await.unwrap(), []);
    assert_eq!((committed(&world, &topic, 0), committed(&world, &topic, 1)), (Some(2), Some(2)));
    append(&world, &topic, 1, &["c"]);
    take(&mut consumer, 1).await;
    consumer.close().await.unwrap();
    assert_eq!(committed(&world, &topic, 0), Some(3), "close commits what was given");
    append(&world, &topic, 1, &["d"]);
    let mut again = client.consumer().subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0 1");
    assert_eq!(take(&mut again, 1).await, [(0, 3, false)]);
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_moves_is_done_and_committed_first_and_what_is_kept_goes_on() {
    let world = World::new(1);
    let topic = world.topic("t", 2);
    append(&world, &topic, 2, &["a", "b"]);
    let client = world.client().await;
    let join = || client.consumer().start(Position::Earliest).auto_commit(Some(Duration::from_secs(3600)));
    let mut first = join().subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0 1");
    assert_eq!(take(&mut first, 4).await.len(), 4);

    let mut second = join().subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0, member-2: 1");
    append(&world, &topic, 2, &["c"]);
    // The first still works on what it was given of partition 1, so the second does not have it yet.
    assert_eq!(second.poll(Duration::from_secs(5)).await.unwrap(), []);
    assert!(partitions(&second).is_empty());
    assert_eq!(partitions(&first), [0]);
    // It asks for more: only now it is done.
    assert_eq!(take(&mut first, 1).await, [(0, 2, false)]);
    assert_eq!(take(&mut second, 1).await, [(1, 2, false)]);
    let story = world.with(|state| state.groups[&group()].story.clone());
    let tale = ["member-1 joins", "member-1 starts 2 partitions", "member-2 joins", "member-1 gave up 1 at Some(2)"];
    assert_eq!(story, tale);
    // Partition 0 was never asked for twice: it went on at 2 in the fetch that was under way.
    let again = world.with(|state| {
        let fetches = state.fetches.iter().flat_map(|(_, parts)| parts.iter().filter(|(p, o)| (*p, *o) == (0, 0)));
        fetches.count()
    });
    assert_eq!(again, 1);
}

#[tokio::test(start_paused = true)]
async fn commits_by_hand() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    append(&world, &topic, 1, &["a", "b"]);
    let client = world.client().await;
    let builder = client.consumer().start(Position::Earliest).auto_commit(None);
    let mut consumer = builder.subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0");
    take(&mut consumer, 2).await;
    assert_eq!(consumer.poll(Duration::from_secs(5)).await.unwrap(), []);
    assert_eq!(committed(&world, &topic, 0), Some(0), "only where it starts");
    consumer.commit().await.unwrap();
    assert_eq!(committed(&world, &topic, 0), Some(2));
    append(&world, &topic, 1, &["c"]);
    take(&mut consumer, 1).await;
    consumer.commit_async();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(committed(&world, &topic, 0), Some(3));
    assert!(client.stats().commits >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_owner_is_told_what_may_have_been_given_before() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    append(&world, &topic, 1, &["a", "b", "c"]);
    let client = world.client().await;
    let join = || client.consumer().start(Position::Earliest).auto_commit(None);
    let mut first = join().subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0");
    // No heartbeat says how far it came.
    take(&mut first, 3).await;
    let member = first.member().unwrap();
    drop(first);
    world.with(|state| state.groups.get_mut(&group()).unwrap().expire(&member));
    let mut second = join().subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0");
    let given = second.poll(SOON).await.unwrap();
    let said: Vec<_> = given.iter().map(|d| (d.offset, d.redelivered, d.attempt)).collect();
    assert_eq!(said, [(0, true, 2), (1, true, 2), (2, true, 2)]);
    append(&world, &topic, 1, &["d"]);
    let given = second.poll(SOON).await.unwrap();
    assert_eq!(given.iter().map(|d| (d.offset, d.redelivered, d.attempt)).collect::<Vec<_>>(), [(3, false, 1)]);
    assert_eq!(client.stats().records_redelivered, 3);
}

#[tokio::test(start_paused = true)]
async fn a_home_that_moves_loses_nothing() {
    let world = World::new(3);
    let topic = world.topic("t", 1);
    append(&world, &topic, 1, &["a"]);
    let client = world.client().await;
    let mut consumer = client.consumer().start(Position::Earliest).subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0");
    take(&mut consumer, 1).await;
    world.with(|state| state.home = crate::types::NodeId(2));
    world.cut(1);
    append(&world, &topic, 1, &["b"]);
    assert_eq!(take(&mut consumer, 1).await, [(0, 1, false)]);
    assert_eq!(consumer.poll(Duration::from_secs(3)).await.unwrap(), []);
    assert_eq!(committed(&world, &topic, 0), Some(2));
    assert_eq!(client.stats().joins, 1);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_expired_joins_again_and_starts_at_what_is_committed() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    append(&world, &topic, 1, &["a", "b"]);
    let client = world.client().await;
    let builder = client.consumer().start(Position::Earliest).auto_commit(None);
    let mut consumer = builder.subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0");
    take(&mut consumer, 2).await;
    consumer.commit().await.unwrap();
    append(&world, &topic, 1, &["c"]);
    take(&mut consumer, 1).await;
    let member = consumer.member().unwrap();
    world.with(|state| state.groups.get_mut(&group()).unwrap().expire(&member));
    assert_eq!(take(&mut consumer, 1).await[0].1, 2, "what was not committed comes again");
    assert_eq!(client.stats().joins, 2);
}

#[tokio::test(start_paused = true)]
async fn without_a_word_from_the_home_nothing_is_given_after_a_session() {
    let world = World::new(2);
    let topic = world.topic("t", 2);
    let client = world.client().await;
    let mut consumer = client.consumer().start(Position::Earliest).subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0 1");
    append(&world, &topic, 2, &["a"]);
    take(&mut consumer, 2).await;
    // Done, and committed by the interval.
    assert_eq!(consumer.poll(Duration::from_secs(2)).await.unwrap(), []);
    world.silence(1);
    assert_eq!(consumer.poll(Duration::from_secs(15)).await.unwrap(), []);
    append(&world, &topic, 2, &["b"]);
    assert_eq!(consumer.poll(Duration::from_secs(5)).await.unwrap(), []);
    world.restore(1);
    assert_eq!(take(&mut consumer, 2).await.iter().map(|d| d.1).collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn who_names_no_session_has_the_homes() {
    let world = World::new(2);
    let topic = world.topic("t", 2);
    world.with(|state| state.groups.entry(group()).or_default().session_ms = Some(3_000));
    let client = world.client().await;
    let mut consumer = client.consumer().start(Position::Earliest).subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0 1");
    append(&world, &topic, 2, &["a"]);
    take(&mut consumer, 2).await;
    world.silence(1);
    append(&world, &topic, 2, &["b"]);
    assert_eq!(take(&mut consumer, 1).await, [(1, 1, false)], "node 2 serves its partition while the session lasts");
    assert_eq!(consumer.poll(Duration::from_secs(4)).await.unwrap(), []);
    append(&world, &topic, 2, &["c"]);
    assert_eq!(consumer.poll(Duration::from_secs(2)).await.unwrap(), [], "after 3 s others may have it");
}

#[tokio::test(start_paused = true)]
async fn a_home_that_was_away_is_no_reason_to_give_anything_again() {
    let world = World::new(2);
    let topic = world.topic("t", 2);
    append(&world, &topic, 2, &["a", "b"]);
    let client = world.client().await;
    let builder = client.consumer().start(Position::Earliest).auto_commit(None);
    let mut consumer = builder.subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0 1");
    take(&mut consumer, 4).await;
    world.silence(1);
    append(&world, &topic, 2, &["c"]);
    assert_eq!(take(&mut consumer, 1).await, [(1, 2, false)], "node 2 serves its partition until the session is over");
    assert_eq!(consumer.poll(Duration::from_secs(40)).await.unwrap(), []);
    append(&world, &topic, 2, &["d"]);
    assert_eq!(consumer.poll(Duration::from_secs(5)).await.unwrap(), [], "others may have it by now");
    // Nobody had it: the home still knows the member.
    world.restore(1);
    assert_eq!(take(&mut consumer, 3).await, [(0, 2, false), (0, 3, false), (1, 3, false)]);
    let stats = client.stats();
    assert_eq!((stats.joins, stats.records_redelivered), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_away_while_the_home_was_silent_comes_to_the_next_owner_with_its_history() {
    let world = World::new(2);
    let topic = world.topic("t", 2);
    world.with(|state| state.append(&topic, 1, &["a", "b", "c"]));
    let client = world.client().await;
    let join = || client.consumer().start(Position::Earliest).auto_commit(None);
    let mut first = join().subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0 1");
    take(&mut first, 3).await;
    let mut second = join().subscribe(group(), [topic.clone()]).await.unwrap();
    // The home dies; the one that comes after a session takes partition 1 away, of which it knows nothing but its owner.
    world.silence(1);
    assert_eq!(first.poll(Duration::from_secs(20)).await.unwrap(), []);
    assign(&world, &topic, "member-1: 0, member-2: 1");
    world.with(|state| state.home = crate::types::NodeId(2));
    let (first, second) = tokio::join!(first.poll(Duration::from_secs(5)), take(&mut second, 3));
    assert_eq!(first.unwrap(), []);
    assert_eq!(second, [(1, 0, true), (1, 1, true), (1, 2, true)]);
}

#[tokio::test(start_paused = true)]
async fn a_home_that_moves_every_few_seconds_costs_no_record_twice_and_none_at_all() {
    let world = World::new(3);
    let topic = world.topic("t", 3);
    let client = world.client().await;
    let session = Duration::from_secs(6);
    let builder = client.consumer().start(Position::Earliest).session(session).auto_commit(Some(SOON));
    let mut consumer = builder.subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0 1 2");
    let (mut given, mut sent) = (Vec::new(), 0);
    for round in 0..20u32 {
        let (old, new) = (round % 3 + 1, (round + 1) % 3 + 1);
        // Every other home dies without a word; it is back when the next one but one dies. Others lead its partitions.
        world.with(|state| {
            (0..3).for_each(|p| state.lead(&topic, p, new));
            state.home = crate::types::NodeId(new);
        });
        if round % 2 == 0 {
            world.silence(old);
        } else {
            world.cut(old);
        }
        world.restore((round + 2) % 3 + 1);
        for _ in 0..8 {
            append(&world, &topic, 3, &["x"]);
            sent += 3;
            given.extend(consumer.poll(SOON).await.unwrap().iter().map(|d| (d.partition, d.offset)));
        }
    }
    while given.len() < sent {
        let more = consumer.poll(Duration::from_secs(5)).await.unwrap();
        assert!(!more.is_empty(), "{} of {sent}", given.len());
        given.extend(more.iter().map(|d| (d.partition, d.offset)));
    }
    consumer.close().await.unwrap();
    for partition in 0..3 {
        let offsets = given.iter().filter(|(p, _)| *p == partition).map(|(_, offset)| *offset);
        assert!(offsets.eq(0..sent as u64 / 3), "partition {partition}");
        assert_eq!(committed(&world, &topic, partition), Some(sent as u64 / 3));
    }
    let stats = client.stats();
    assert_eq!((stats.joins, stats.records_redelivered), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_before_the_home_knows_where_the_group_starts() {
    let world = World::new(2);
    let topic = world.topic("t", 2);
    append(&world, &topic, 2, &["before"]);
    let client = world.client().await;
    let join = || client.consumer().start(Position::Latest).auto_commit(None);
    let mut first = join().subscribe(group(), [topic.clone()]).await.unwrap();
    world.with(|state| state.groups.get_mut(&group()).unwrap().starts_refused = true);
    assign(&world, &topic, "member-1: 0 1");
    assert_eq!(first.poll(SOON).await.unwrap(), []);
    append(&world, &topic, 2, &["a", "b"]);
    assert_eq!(first.poll(Duration::from_secs(3)).await.unwrap(), []);
    world.with(|state| state.groups.get_mut(&group()).unwrap().starts_refused = false);
    assert_eq!(take(&mut first, 4).await, [(0, 1, false), (0, 2, false), (1, 1, false), (1, 2, false)]);
    assert_eq!((committed(&world, &topic, 0), committed(&world, &topic, 1)), (Some(1), Some(1)));
    // It commits nothing and goes: who comes after it starts where it did, not at a later end.
    let member = first.member().unwrap();
    drop(first);
    world.with(|state| state.groups.get_mut(&group()).unwrap().expire(&member));
    let mut second = join().subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0 1");
    assert_eq!(take(&mut second, 4).await, [(0, 1, true), (0, 2, true), (1, 1, true), (1, 2, true)]);
}

#[tokio::test(start_paused = true)]
async fn a_seek_before_the_home_knows_where_the_group_starts_holds() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    append(&world, &topic, 1, &["a", "b", "c"]);
    let client = world.client().await;
    let builder = client.consumer().start(Position::Latest).auto_commit(None);
    let mut consumer = builder.subscribe(group(), [topic.clone()]).await.unwrap();
    world.with(|state| state.groups.get_mut(&group()).unwrap().starts_refused = true);
    assign(&world, &topic, "member-1: 0");
    assert_eq!(consumer.poll(SOON).await.unwrap(), []);
    consumer.seek(&topic, 0, Position::Offset(1)).unwrap();
    // The home took what the member said before, though its answer got lost.
    world.with(|state| {
        let at = state.at(&topic, 0);
        let group = state.groups.get_mut(&group()).unwrap();
        group.committed.insert(at, 3);
        group.starts_refused = false;
    });
    assert_eq!(take(&mut consumer, 2).await, [(0, 1, false), (0, 2, false)]);
}

#[tokio::test(start_paused = true)]
async fn what_leaves_goes_with_the_commit_of_it_and_not_with_a_later_heartbeat() {
    let world = World::new(1);
    let topic = world.topic("t", 2);
    append(&world, &topic, 2, &["a"]);
    let client = world.client().await;
    // Heartbeats are parked for 5 s.
    let session = Duration::from_secs(60);
    let join = || client.consumer().start(Position::Earliest).auto_commit(None).session(session);
    let mut first = join().subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0 1");
    take(&mut first, 2).await;
    let second = join().subscribe(group(), [topic.clone()]).await.unwrap();
    assign(&world, &topic, "member-1: 0, member-2: 1");
    tokio::time::sleep(SOON).await;
    assert_eq!(partitions(&first), [0]);
    first.commit().await.unwrap();
    tokio::time::sleep(SOON).await;
    assert_eq!(partitions(&second), [1]);
}
