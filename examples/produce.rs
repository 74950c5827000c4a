//! Producing over the network: keys, compression, acknowledgements.

mod common;

use anyhow::Result;
use common::{Cluster, Printed};
use highwater::{
    batch::Compression,
    client::{NewTopic, Record},
    types::TopicName,
};
use std::{collections::BTreeMap, time::Duration};

#[tokio::main]
async fn main() -> Result<()> {
    let cluster = Cluster::with_listener().await?;
    let client = cluster.connect().await?;
    let mut printed = Printed::default();
    let topic: TopicName = "orders".parse()?;
    client.admin().create_topic(NewTopic::new(topic.clone()).partitions(4)).await?;

    let producer = client.producer().linger(Duration::from_millis(5)).compression(Compression::Zstd).build();
    let mut receipts = Vec::new();
    for order in 0..1_000u32 {
        let customer = format!("customer-{}", order % 10);
        let record =
            Record::new(topic.clone(), format!("order {order}")).key(customer.clone()).header("source", "example");
        receipts.push((customer, producer.send(record).await?));
    }
    producer.close().await?;

    // Records of a key are in one partition, in the order in which they were sent.
    let mut by_key: BTreeMap<String, Vec<(u32, Option<u64>)>> = BTreeMap::new();
    for (customer, receipt) in receipts {
        let acked = receipt.await?;
        by_key.entry(customer).or_default().push((acked.partition, acked.offset));
    }
    for (customer, places) in &by_key {
        let one_partition = places.iter().all(|(partition, _)| *partition == places[0].0);
        let in_order = places.is_sorted_by_key(|(_, offset)| *offset);
        printed
            .line(format!("{customer}: {} orders, one partition: {one_partition}, in order: {in_order}", places.len()));
    }
    let stats = client.stats();
    anyhow::ensure!(stats.produce_requests < 1_000, "records were gathered into batches: {stats:?}");
    client.close();
    cluster.stop().await?;
    let expected: Vec<_> =
        (0..10).map(|n| format!("customer-{n}: 100 orders, one partition: true, in order: true")).collect();
    printed.check(&expected.iter().map(String::as_str).collect::<Vec<_>>())
}
