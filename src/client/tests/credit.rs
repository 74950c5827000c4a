//! What a listener's credit has to do with large batches, and with polls before it.

use crate::{
    client::{Delivery, consumer::Credit, testing::World},
    types::Position,
};
use futures_util::future::BoxFuture;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

type Seen = Arc<Mutex<Vec<u64>>>;

/// A listener that takes so long for each record and notes its offset.
fn record(seen: &Seen, takes: Duration) -> impl FnMut(Delivery) -> BoxFuture<'static, ()> + Send + 'static {
    let seen = seen.clone();
    move |delivery| {
        let seen = seen.clone();
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            seen.lock().unwrap().push(delivery.offset);
        })
    }
}

/// The first batch leaves less than the second one needs: when it is handled, the rest of the credit comes at once.
#[tokio::test(start_paused = true)]
async fn a_large_batch_behind_a_small_one_comes_within_the_smallest_credit() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    for kib in [200, 900, 100, 1_000] {
        world.with(|state| state.append(&topic, 0, &["x".repeat(kib << 10).as_str()]));
    }
    let client = world.client().await;
    let seen = Seen::default();
    let consumer = client.consumer().assign([(topic, 0, Position::Earliest)]).await.unwrap();
    let credit = Credit { records: 1_000, bytes: 1 << 20 };
    let listening = consumer.listen(credit, record(&seen, Duration::from_millis(10)));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(*seen.lock().unwrap(), [0, 1, 2, 3]);
    listening.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_listener_takes_over_from_polls_and_keeps_to_its_credit() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    for n in 0..100 {
        world.with(|state| state.append(&topic, 0, &[&n.to_string()]));
    }
    let client = world.client().await;
    let builder = client.consumer().poll_records_max(3);
    let mut consumer = builder.assign([(topic, 0, Position::Earliest)]).await.unwrap();
    let polled = consumer.poll(Duration::from_secs(20)).await.unwrap();
    assert_eq!(polled.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 1, 2]);
    let seen = Seen::default();
    let listening = consumer.listen(Credit { records: 10, bytes: 8 << 20 }, record(&seen, Duration::from_millis(10)));
    let mut held_max = 0;
    for _ in 0..400 {
        tokio::time::sleep(Duration::from_millis(7)).await;
        held_max = held_max.max(listening.held());
    }
    assert!((1..=10).contains(&held_max), "{held_max}");
    assert!(world.with(|state| state.credit_out_max) <= 10);
    assert_eq!(*seen.lock().unwrap(), (3..100).collect::<Vec<_>>());
    assert_eq!(client.stats().subscriptions, 1);
    listening.stop().await.unwrap();
}
