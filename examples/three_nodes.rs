//! Three nodes in one process: one stops in the middle, and nothing is lost, repeated or out of order.

mod common;

use anyhow::{Context, Result, ensure};
use common::{Cluster, Printed};
use highwater::{
    client::{NewTopic, Record},
    types::{Position, TopicName},
};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<()> {
    let mut cluster = Cluster::of_three().await?;
    let client = cluster.in_process().await?;
    let mut printed = Printed::default();
    let topic: TopicName = "ledger".parse()?;
    client.admin().create_topic(NewTopic::new(topic.clone()).replication_factor(3)).await?;

    let producer = client.producer().build();
    let mut receipts = Vec::new();
    for n in 0..200u32 {
        receipts.push(producer.send(Record::new(topic.clone(), n.to_string())).await?);
        if n == 100 {
            let leader = client.admin().describe_topic(&topic).await?.partitions[0].leader.context("no leader")?;
            let at = cluster.nodes.iter().position(|node| node.id() == leader).context("an unknown leader")?;
            cluster.nodes.remove(at).stop().await?;
            printed.line("the leader was stopped");
        }
    }
    for (n, receipt) in receipts.into_iter().enumerate() {
        let acked = receipt.await?;
        ensure!(acked.offset == Some(u64::try_from(n)?), "record {n} is at {:?}", acked.offset);
        ensure!((acked.quorum, acked.voters) == (2, 3), "{acked:?}");
    }
    printed.line("200 records are acknowledged on 2 of 3, at offsets 0 to 199");
    producer.close().await?;

    let mut consumer = client.consumer().assign([(topic, 0, Position::Earliest)]).await?;
    let mut values = Vec::new();
    while values.len() < 200 {
        let given = consumer.poll(Duration::from_secs(30)).await?;
        ensure!(!given.is_empty(), "only {} records came", values.len());
        values.extend(given.into_iter().map(|d| String::from_utf8_lossy(&d.value.unwrap_or_default()).into_owned()));
    }
    let expected: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    printed.line(format!("read back, each once and in order: {}", values == expected));
    consumer.close().await?;
    let stats = client.stats();
    ensure!((stats.refused_twice, stats.sent_after_refusal) == (0, 0), "{stats:?}");
    client.close();
    cluster.stop().await?;
    printed.check(&[
        "the leader was stopped",
        "200 records are acknowledged on 2 of 3, at offsets 0 to 199",
        "read back, each once and in order: true",
    ])
}
