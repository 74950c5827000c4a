//! After the storm: everything is read by a fresh reader, and the replicas are compared.

use super::{
    clients,
    world::{World, last_client},
};
use crate::history::{Value, What};
use highwater::{
    types::{Position, TopicId},
    wire::{Connection, Fetch, FetchPartition, Frame, Hello, Message},
};
use std::{collections::BTreeMap, time::Duration};

/// Reads every partition from its start to its end; gives the ends.
pub(super) async fn read_all(world: &World) -> BTreeMap<u32, u64> {
    let client = last_client(world).await;
    let ends = loop {
        match client.admin().list_offsets(&clients::topic(), Position::Latest).await {
            Ok(ends) if ends.len() == world.options.partitions as usize => break ends,
            answer => world.waits(format!("the ends of all partitions: {answer:?}")),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let all = ends.keys().map(|partition| (clients::topic(), *partition, Position::Earliest));
    let mut logs: BTreeMap<u32, Vec<(u64, Value)>> = ends.keys().map(|partition| (*partition, Vec::new())).collect();
    let mut consumer = loop {
        match client.consumer().assign(all.clone()).await {
            Ok(consumer) => break consumer,
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let is_read = |logs: &BTreeMap<u32, Vec<(u64, Value)>>| {
        ends.iter().all(|(partition, end)| *end == 0 || logs[partition].last().is_some_and(|last| last.0 + 1 >= *end))
    };
    while !is_read(&logs) {
        let at: Vec<_> = logs.values().map(|log| log.last().map_or(0, |last| last.0 + 1)).collect();
        match consumer.poll(Duration::from_millis(500)).await {
            Ok(records) => {
                world.waits(format!("reads up to {ends:?}, stands at {at:?}"));
                for record in records {
                    logs.entry(record.partition).or_default().push((record.offset, clients::decode(&record)));
                }
            }
            Err(error) => world.waits(format!("reads up to {ends:?}, stands at {at:?}: {error}")),
        }
    }
    let _ = consumer.close().await;
    client.close();
    for (partition, records) in logs {
        world.note(99, What::Final { partition, records });
    }
    ends
}

/// Waits until every replica has everything, then writes down what each would serve.
pub(super) async fn compare_replicas(world: &World, ends: &BTreeMap<u32, u64>) {
    let client = last_client(world).await;
    let id = loop {
        if let Ok(topic) = client.topic(&clients::topic()).await {
            break topic.id;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    client.close();
    for node in 1..=world.options.nodes {
        for (partition, end) in ends {
            let (log_start, high_watermark, digest) = loop {
                match read_replica(world, node, id, *partition, *end).await {
                    Some(replica) => break replica,
                    None => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            };
            world.note(99, What::Replica { node, partition: *partition, log_start, high_watermark, digest });
        }
    }
}

/// Log start, end and a hash over the bytes below `end` of one replica, as it would serve them to a consumer nearby.
async fn read_replica(world: &World, node: u32, topic: TopicId, partition: u32, end: u64) -> Option<(u64, u64, u64)> {
    let connection = world.node(node)?.local();
    let mut link = connection.open().await.ok()?;
    let hello = Hello { version_min: 1, version_max: 1, client: "replica reader".into() };
    link.sender.send(vec![Frame::new(0, hello)]).await.ok()?;
    link.receiver.receive().await.ok()?;
    let (mut offset, mut start, mut hash) = (0, 0, 0xcbf2_9ce4_8422_2325u64);
    while offset < end {
        let part = FetchPartition { topic, partition, offset, bytes_max: 0, from_follower: true };
        let fetch = Fetch { bytes_max: 1 << 20, partitions: vec![part], ..Fetch::default() };
        link.sender.send(vec![Frame::new(1, fetch)]).await.ok()?;
        let frame = link.receiver.receive().await.ok()?;
        let Message::Fetched(fetched) = &frame.message else { return None };
        let answer = fetched.partitions.first()?;
        if answer.refused.is_some() || answer.high_watermark < end {
            return None;
        }
        if offset == 0 {
            start = answer.log_start;
        }
        let body = frame.body();
        if body.is_empty() {
            return None;
        }
        for batch in highwater::batch::split(body) {
            let batch = batch.ok()?;
            offset = batch.header().base_offset.try_into().unwrap_or(0u64) + u64::from(batch.count());
            for byte in batch.into_bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
    }
    Some((start, offset, hash))
}
