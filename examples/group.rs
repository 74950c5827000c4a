//! Groups: members share the partitions of a topic, each group sees all of it, and who comes later goes on where it stopped.

mod common;

use anyhow::{Context as _, Result, ensure};
use common::{Cluster, Printed};
use highwater::{
    client::{Client, Consumer, NewTopic, Producer, Record},
    types::{GroupName, Position, TopicName},
};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::Instant;

const PARTITIONS: u32 = 6;
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<()> {
    let cluster = Cluster::without_port().await?;
    let client = cluster.in_process().await?;
    let mut printed = Printed::default();
    let topic: TopicName = "jobs".parse()?;
    client.admin().create_topic(NewTopic::new(topic.clone()).partitions(PARTITIONS)).await?;
    let producer = client.producer().build();
    send(&producer, &topic, 0..60).await?;

    let mut first = join(&client, "workers", &topic).await?;
    let mut second = join(&client, "workers", &topic).await?;
    let mut seen = BTreeSet::new();
    collect(&mut [&mut first, &mut second], &mut seen, 60).await?;
    balanced(&mut first, &mut second).await?;
    printed.line(format!("two members saw {} records", seen.len()));
    printed.line(format!("they consume {} and {} partitions", first.assignment().len(), second.assignment().len()));

    first.close().await?;
    send(&producer, &topic, 60..120).await?;
    collect(&mut [&mut second], &mut seen, 120).await?;
    printed.line(format!("the one that stayed saw the rest: {}", seen.len()));
    second.close().await?;

    let mut other = join(&client, "auditors", &topic).await?;
    let mut all = BTreeSet::new();
    collect(&mut [&mut other], &mut all, 120).await?;
    printed.line(format!("another group saw all: {}", all.len()));
    other.close().await?;

    let details = client.admin().describe_group(&"workers".parse()?).await?;
    printed.line(format!("lag of the workers: {}", details.lag().context("a partition has no leader")?));
    producer.close().await?;
    client.close();
    cluster.stop().await?;
    printed.check(&[
        "two members saw 60 records",
        "they consume 3 and 3 partitions",
        "the one that stayed saw the rest: 120",
        "another group saw all: 120",
        "lag of the workers: 0",
    ])
}

async fn join(client: &Client, group: &str, topic: &TopicName) -> Result<Consumer> {
    let group: GroupName = group.parse()?;
    Ok(client.consumer().start(Position::Earliest).subscribe(group, [topic.clone()]).await?)
}

async fn send(producer: &Producer, topic: &TopicName, jobs: std::ops::Range<u32>) -> Result<()> {
    for job in jobs {
        drop(producer.send(Record::new(topic.clone(), job.to_string()).partition(job % PARTITIONS)).await?);
    }
    Ok(producer.flush().await?)
}

/// Polls until so many different records were seen; none may come twice.
async fn collect(consumers: &mut [&mut Consumer], seen: &mut BTreeSet<(u32, u64)>, until: usize) -> Result<()> {
    let begun = Instant::now();
    while seen.len() < until {
        ensure!(begun.elapsed() < PATIENCE, "only {} of {until} records came", seen.len());
        for consumer in consumers.iter_mut() {
            for delivery in consumer.poll(Duration::from_millis(100)).await? {
                ensure!(seen.insert((delivery.partition, delivery.offset)), "{delivery:?} came twice");
            }
        }
    }
    Ok(())
}

async fn balanced(first: &mut Consumer, second: &mut Consumer) -> Result<()> {
    let begun = Instant::now();
    while first.assignment().len() != second.assignment().len() {
        ensure!(begun.elapsed() < PATIENCE, "{:?} and {:?}", first.assignment(), second.assignment());
        // Who polls says that it is done with what it was given: only then partitions move.
        ensure!(first.poll(Duration::from_millis(50)).await?.is_empty(), "all was seen before");
        ensure!(second.poll(Duration::from_millis(50)).await?.is_empty(), "all was seen before");
    }
    Ok(())
}
