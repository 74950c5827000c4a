//! Push: the broker sends records to a listener over the network, and never more than its credit. It is in a group, which goes on
//! behind what it handled.

mod common;

use anyhow::{Result, ensure};
use common::{Cluster, Printed};
use highwater::{
    client::{Delivery, NewTopic, Record, consumer::Credit},
    types::{GroupName, Position, TopicName},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

#[tokio::main]
async fn main() -> Result<()> {
    let cluster = Cluster::with_listener().await?;
    let client = cluster.connect().await?;
    let mut printed = Printed::default();
    let topic: TopicName = "events".parse()?;
    client.admin().create_topic(NewTopic::new(topic.clone()).partitions(3)).await?;
    let producer = client.producer().build();
    for n in 0..300u32 {
        drop(producer.send(Record::new(topic.clone(), n.to_string()).partition(n % 3)).await?);
    }
    producer.close().await?;

    let handled = Arc::new(AtomicU64::new(0));
    let count = handled.clone();
    let slow = move |_: Delivery| {
        let count = count.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let group: GroupName = "readers".parse()?;
    let consumer = client.consumer().start(Position::Earliest).subscribe(group.clone(), [topic.clone()]).await?;
    let mut listening = consumer.listen(Credit { records: 10, ..Credit::default() }, slow);
    let mut held_max = 0;
    let watch = async {
        while handled.load(Ordering::Relaxed) < 300 {
            held_max = held_max.max(listening.held());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), watch).await.is_ok();
    if !in_time {
        let why = tokio::time::timeout(Duration::from_millis(1), listening.failed()).await;
        anyhow::bail!("only {} records came: {why:?}", handled.load(Ordering::Relaxed));
    }
    ensure!((1..=10).contains(&held_max), "{held_max} records were held within a credit of 10");
    printed.line(format!("{} records handled, never more than 10 held", handled.load(Ordering::Relaxed)));
    listening.stop().await?;
    ensure!(client.stats().fetch_requests == 0, "nothing was polled for");
    let committed = client.admin().committed(&group, &topic).await?;
    printed.line(format!("the group goes on at {:?}", committed.values().collect::<Vec<_>>()));
    client.close();
    cluster.stop().await?;
    printed.check(&["300 records handled, never more than 10 held", "the group goes on at [100, 100, 100]"])
}
