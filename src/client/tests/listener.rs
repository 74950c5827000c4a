//! Records pushed to a listener.

use crate::{
    client::{
        Delivery,
        consumer::{Credit, Listening, OutOfRange},
        testing::World,
    },
    types::Position,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

type Seen = Arc<Mutex<Vec<(u32, u64)>>>;

fn record(
    seen: &Seen,
    takes: Duration,
) -> impl FnMut(Delivery) -> futures_util::future::BoxFuture<'static, ()> + Send + 'static {
    let seen = seen.clone();
    move |delivery| {
        let seen = seen.clone();
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            seen.lock().unwrap().push((delivery.partition, delivery.offset));
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_listener_holds_its_credit_and_no_more() {
    let world = World::new(3);
    let topic = world.topic("t", 12);
    let values: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    // Batches of 50 records, five times the credit.
    world.with(|state| (0..12).for_each(|p| state.append(&topic, p, &values)));
    let client = world.client().await;
    let seen = Seen::default();
    let consumer = client.consumer().assign((0..12).map(|p| (topic.clone(), p, Position::Earliest))).await.unwrap();
    let credit = Credit { records: 10, bytes: 8 << 20 };
    let listening = consumer.listen(credit, record(&seen, Duration::from_millis(10)));
    let mut held_max = 0;
    for _ in 0..1_000 {
        tokio::time::sleep(Duration::from_millis(7)).await;
        held_max = held_max.max(listening.held());
    }
    assert!((1..=10).contains(&held_max), "{held_max}");
    assert!(world.with(|state| state.credit_out_max) <= 10);
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 600);
    for partition in 0..12 {
        let offsets: Vec<_> = seen.iter().filter(|(p, _)| *p == partition).map(|(_, o)| *o).collect();
        assert_eq!(offsets, (0..50).collect::<Vec<_>>());
    }
    let subscriptions = client.stats().subscriptions;
    assert!((3..=4).contains(&subscriptions), "one per node, of which one may have sat on too much: {subscriptions}");
    assert_eq!(client.stats().fetch_requests, 0);
    listening.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_listener_follows_leaders() {
    let world = World::new(3);
    let topic = world.topic("t", 1);
    let client = world.client().await;
    let seen = Seen::default();
    let consumer = client.consumer().assign([(topic.clone(), 0, Position::Earliest)]).await.unwrap();
    let listening = consumer.listen(Credit::default(), record(&seen, Duration::ZERO));
    for round in 0..4u32 {
        match round {
            1 => world.with(|state| state.lead(&topic, 0, 2)),
            2 => world.cut(2),
            3 => world.with(|state| state.lead(&topic, 0, 1)),
            _ => {}
        }
        world.with(|state| state.append(&topic, 0, &["x"]));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(*seen.lock().unwrap(), [(0, 0), (0, 1), (0, 2), (0, 3)]);
    let stats = client.stats();
    assert!(stats.fetch_refused_not_leader > 0, "{stats:?}");
    assert_eq!((stats.refused_twice, stats.sent_after_refusal), (0, 0), "{stats:?}");
    listening.stop().await.unwrap();
}

/// A group whose listener has handled one of three records and has the second in hand, and is ended then by `end`.
async fn in_a_group(end: impl AsyncFnOnce(Listening)) {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    world.with(|state| state.append(&topic, 0, &["a", "b", "c"]));
    let client = world.client().await;
    let group: crate::types::GroupName = "g".parse().unwrap();
    let builder = client.consumer().start(Position::Earliest);
    let consumer = builder.subscribe(group.clone(), [topic.clone()]).await.unwrap();
    world.with(|state| {
        let at = (topic.clone(), state.at(&topic, 0));
        let group = state.groups.get_mut(&group).unwrap();
        let assignments = [(group.members[0].clone(), vec![at])].into();
        group.assign(assignments);
    });
    let seen = Seen::default();
    let listening = consumer.listen(Credit::default(), record(&seen, Duration::from_secs(1)));
    tokio::time::sleep(Duration::from_millis(1_900)).await;
    end(listening).await;
    assert_eq!(seen.lock().unwrap().len(), 2, "the one in hand is finished");
    world.with(|state| {
        let group = &state.groups[&group];
        assert_eq!(group.committed.values().copied().collect::<Vec<_>>(), [2]);
        assert_eq!(group.members, [], "it left");
    });
}

#[tokio::test(start_paused = true)]
async fn a_listener_in_a_group_commits_what_it_handled() {
    in_a_group(async |listening| listening.stop().await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_whose_handle_is_dropped_does_so_too() {
    in_a_group(async |listening| {
        drop(listening);
        tokio::time::sleep(Duration::from_secs(1)).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_failed_can_be_stopped() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    world.with(|state| {
        let at = state.at(&topic, 0);
        state.parts.get_mut(&at).unwrap().start = 4;
    });
    let client = world.client().await;
    let builder = client.consumer().out_of_range(OutOfRange::Error);
    let consumer = builder.assign([(topic.clone(), 0, Position::Offset(2))]).await.unwrap();
    let mut listening = consumer.listen(Credit::default(), record(&Seen::default(), Duration::ZERO));
    let failed = listening.failed().await;
    assert_eq!(failed.to_string(), "t/0 begins at offset 4, offset 2 is gone");
    assert_eq!(listening.failed().await, failed);
    assert_eq!(listening.stop().await, Err(failed));
}
