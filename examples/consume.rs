//! Consuming over the network, partitions chosen by the program: poll, stream, seek.

mod common;

use anyhow::Result;
use common::{Cluster, Printed};
use futures_util::StreamExt;
use highwater::{
    client::{NewTopic, Record},
    types::{Position, TopicName},
};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<()> {
    let cluster = Cluster::with_listener().await?;
    let client = cluster.connect().await?;
    let mut printed = Printed::default();
    let topic: TopicName = "readings".parse()?;
    client.admin().create_topic(NewTopic::new(topic.clone()).partitions(2)).await?;
    let producer = client.producer().build();
    for n in 0..100u32 {
        drop(producer.send(Record::new(topic.clone(), n.to_string()).partition(n % 2)).await?);
    }
    producer.flush().await?;

    let mut consumer = client.consumer().assign((0..2).map(|p| (topic.clone(), p, Position::Earliest))).await?;
    let mut read = 0;
    while read < 100 {
        read += consumer.poll(Duration::from_secs(10)).await?.len();
    }
    printed.line(format!("polled {read} records"));

    consumer.seek(&topic, 0, Position::Offset(45))?;
    let mut offsets = Vec::new();
    while offsets.len() < 5 {
        offsets.extend(consumer.poll(Duration::from_secs(10)).await?.iter().map(|delivery| delivery.offset));
    }
    printed.line(format!("after seek: {offsets:?}"));

    // A long poll is answered when something comes, not before.
    let (next, sent) = tokio::join!(consumer.next(), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        producer.send(Record::new(topic.clone(), "late").partition(1)).await?.await?;
        anyhow::Ok(())
    });
    sent?;
    let next = next.ok_or_else(|| anyhow::anyhow!("the stream ended"))??;
    printed.line(format!("streamed {:?} at {}/{}", next.value.unwrap_or_default(), next.partition, next.offset));
    consumer.close().await?;
    producer.close().await?;
    client.close();
    cluster.stop().await?;
    printed.check(&["polled 100 records", "after seek: [45, 46, 47, 48, 49]", "streamed b\"late\" at 1/50"])
}
