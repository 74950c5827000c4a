//! A broker inside a program: one node, no port, a client over channels.

mod common;

use anyhow::Result;
use common::{Cluster, Printed};
use highwater::{
    client::{NewTopic, Record},
    types::{Position, TopicName},
};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<()> {
    let cluster = Cluster::without_port().await?;
    let client = cluster.in_process().await?;
    let mut printed = Printed::default();

    let topic: TopicName = "greetings".parse()?;
    client.admin().create_topic(NewTopic::new(topic.clone())).await?;

    let producer = client.producer().build();
    for name in ["Ada", "Grace", "Barbara"] {
        let receipt = producer.send(Record::new(topic.clone(), format!("hello {name}"))).await?;
        let acked = receipt.await?;
        printed.line(format!("acknowledged at offset {:?} on {} of {}", acked.offset, acked.quorum, acked.voters));
    }
    producer.close().await?;

    let mut consumer = client.consumer().assign([(topic, 0, Position::Earliest)]).await?;
    let mut read = 0;
    while read < 3 {
        for delivery in consumer.poll(Duration::from_secs(10)).await? {
            let text = String::from_utf8_lossy(delivery.value.as_deref().unwrap_or_default()).into_owned();
            printed.line(format!("offset {}: {text}", delivery.offset));
            read += 1;
        }
    }
    consumer.close().await?;
    client.close();
    cluster.stop().await?;
    printed.check(&[
        "acknowledged at offset Some(0) on 1 of 1",
        "acknowledged at offset Some(1) on 1 of 1",
        "acknowledged at offset Some(2) on 1 of 1",
        "offset 0: hello Ada",
        "offset 1: hello Grace",
        "offset 2: hello Barbara",
    ])
}
