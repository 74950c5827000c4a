//! A service of yours under faults: a whole cluster in one thread and in virtual time, from one seed. Its nodes lose
//! power in the middle of the work; the service must have done all of it, and know what it may have done twice.
//!
//! In your own crate this is a `#[test]`, with `highwater = { …, features = ["testing"] }` among the dev-dependencies.

mod common;

use anyhow::{Context, Result, ensure};
use common::Printed;
use highwater::{
    client::{Client, NewTopic, Record},
    testing::{REPLAYS, TestCluster},
    types::{Position, TopicName},
};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

const ORDERS: u64 = 200;
const GROUP: &str = "invoicing";

/// The service: writes an invoice for each order, then commits that it did.
async fn invoice(client: Client, orders: TopicName, invoices: TopicName) -> Result<()> {
    let producer = client.producer().build();
    let mut consumer = client.consumer().start(Position::Earliest).subscribe(GROUP.parse()?, [orders]).await?;
    loop {
        let given = consumer.poll(Duration::from_secs(1)).await?;
        let mut receipts = Vec::new();
        for order in &given {
            let again = if order.redelivered { "maybe again" } else { "first" };
            let key = order.value.clone().unwrap_or_default();
            receipts.push(producer.send(Record::new(invoices.clone(), again).key(key)).await?);
        }
        // Each by itself: what failed before a flush, its receipt alone tells.
        for receipt in receipts {
            receipt.await?;
        }
        consumer.commit().await?;
    }
}

/// How many invoices of each order there are, and how many of them do not say that they may be repeats.
async fn count(client: &Client, invoices: &TopicName) -> Result<BTreeMap<String, (u32, u32)>> {
    let ends = client.admin().list_offsets(invoices, Position::Latest).await?;
    let mut left: u64 = ends.values().sum();
    let all = ends.keys().map(|partition| (invoices.clone(), *partition, Position::Earliest));
    let mut consumer = client.consumer().assign(all).await?;
    let mut counted = BTreeMap::new();
    while left > 0 {
        for invoice in consumer.poll(Duration::from_secs(10)).await? {
            let order = String::from_utf8_lossy(invoice.key.as_deref().unwrap_or_default()).into_owned();
            let (all, first): &mut (u32, u32) = counted.entry(order).or_default();
            *all += 1;
            *first += u32::from(invoice.value.as_deref() == Some(b"first"));
            left -= 1;
        }
    }
    consumer.close().await?;
    Ok(counted)
}

/// What came of a run: orders with an invoice, invoices, and a hash over when it was over and what stands in the topic.
async fn scenario(cluster: TestCluster) -> Result<(usize, u32, u64)> {
    let begun = tokio::time::Instant::now();
    let client = cluster.client().await;
    let (orders, invoices): (TopicName, TopicName) = ("orders".parse()?, "invoices".parse()?);
    for topic in [&orders, &invoices] {
        client.admin().create_topic(NewTopic::new(topic.clone()).partitions(3)).await?;
    }
    let service = tokio::task::spawn_local(invoice(cluster.client().await, orders.clone(), invoices.clone()));

    let producer = client.producer().build();
    for n in 0..ORDERS {
        drop(producer.send(Record::new(orders.clone(), n.to_string())).await?);
        tokio::time::sleep(Duration::from_millis(5)).await;
        if n == ORDERS / 3 {
            // One leader after the other goes, with all that was not on its disk.
            for partition in 0..2 {
                let leader = cluster.leader(&orders, partition).await;
                cluster.lose_power(leader);
                tokio::time::sleep(Duration::from_secs(3)).await;
                cluster.start(leader).await;
            }
        }
        if n == 2 * ORDERS / 3 {
            for node in cluster.nodes() {
                cluster.lose_power(node);
            }
            for node in cluster.nodes() {
                cluster.start(node).await;
            }
        }
    }
    producer.flush().await?;
    let done = async {
        while client.admin().describe_group(&GROUP.parse()?).await?.lag() != Some(0) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(60), done).await.context("the service did not do all of its work")??;
    ensure!(!service.is_finished(), "the service gave up: {:?}", service.await);
    service.abort();

    let counted = count(&client, &invoices).await?;
    // Written twice without a word: what the service can never tell from two orders.
    let unmarked = counted.values().filter(|(_, first)| *first > 1).count();
    ensure!(unmarked == 0, "{unmarked} orders have two invoices that both say `first`");
    let mut course = DefaultHasher::new();
    (begun.elapsed(), &counted).hash(&mut course);
    Ok((counted.len(), counted.values().map(|(all, _)| *all).sum(), course.finish()))
}

fn main() -> Result<()> {
    let mut printed = Printed::default();
    for seed in 1..=3 {
        let (invoiced, invoices, _) = TestCluster::builder().seed(seed).run(scenario)?;
        printed.line(format!("seed {seed}: {invoiced} of {ORDERS} orders have an invoice"));
        eprintln!("  {invoices} invoices, {} of them marked repeats", u64::from(invoices) - ORDERS);
    }
    let run = || TestCluster::builder().seed(7).run(scenario);
    let same = run()? == run()?;
    // Where it is not, each cluster says what the build lacks.
    printed.line(format!("seed 7 twice is the same: {}", same || !REPLAYS));
    printed.check(&[
        "seed 1: 200 of 200 orders have an invoice",
        "seed 2: 200 of 200 orders have an invoice",
        "seed 3: 200 of 200 orders have an invoice",
        "seed 7 twice is the same: true",
    ])
}
