//! After the storm: everything is read by a fresh reader, and the replicas are compared.

use super::{
    admins, clients,
    world::{World, last_client},
};
use crate::{
    history::{Value, What},
    workload,
};
use highwater::{
    client::{Client, ConsumeError, consumer::OutOfRange},
    controller::machine::ReplicaState,
    types::{NodeId, Position, TopicPartition},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What the final reads found: `(offset, value)` of each partition.
pub(super) type Logs = BTreeMap<u32, Vec<(u64, Value)>>;

/// Reads every partition from its start to its end.
pub(super) async fn read_all(world: &World) -> Logs {
    let client = last_client(world).await;
    stop_retention(world, &client).await;
    let ends = offsets(world, &client, Position::Latest).await;
    loop {
        // With retention a log may begin later when the reader comes to it: then it is read again.
        let starts = offsets(world, &client, Position::Earliest).await;
        if let Some(logs) = read(world, &client, &starts, &ends).await {
            client.close();
            for (partition, records) in &logs {
                let start = starts[partition];
                world.note(99, What::Final { partition: *partition, start, records: records.clone() });
            }
            return logs;
        }
    }
}

/// From here on nothing is taken away while it is read.
async fn stop_retention(world: &World, client: &Client) {
    if world.options.retention_ms.is_none() {
        return;
    }
    admins::set(world, client, 99, "retention.ms", "unlimited").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
}

/// Which topics there are, when all nodes know the same.
pub(super) async fn list_topics(world: &World) {
    let client = last_client(world).await;
    loop {
        let versions: BTreeSet<u64> =
            world.everybody().filter_map(|node| Some(world.node(node)?.controller().metadata().version)).collect();
        if versions.len() == 1 && admins::list(world, &client, 99, true).await {
            return client.close();
        }
        world.waits(format!("equal metadata: {versions:?}"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn offsets(world: &World, client: &Client, at: Position) -> BTreeMap<u32, u64> {
    loop {
        let asked = world.now();
        match client.admin().list_offsets(&clients::topic(), at).await {
            Ok(offsets) if offsets.len() == world.options.partitions as usize => {
                if at == Position::Latest {
                    for (partition, offset) in &offsets {
                        world.note(99, What::Latest { partition: *partition, asked, offset: *offset });
                    }
                }
                return offsets;
            }
            answer => world.waits(format!("the {at:?} offsets of all partitions: {answer:?}")),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn read(world: &World, client: &Client, starts: &BTreeMap<u32, u64>, ends: &BTreeMap<u32, u64>) -> Option<Logs> {
    let mut logs: Logs = ends.keys().map(|partition| (*partition, Vec::new())).collect();
    let from = starts.iter().map(|(partition, start)| (clients::topic(), *partition, Position::Offset(*start)));
    let mut consumer = loop {
        match client.consumer().out_of_range(OutOfRange::Error).assign(from.clone()).await {
            Ok(consumer) => break consumer,
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let stands = |logs: &Logs, partition: &u32| logs[partition].last().map_or(starts[partition], |last| last.0 + 1);
    while !ends.iter().all(|(partition, end)| stands(&logs, partition) >= *end) {
        let at: Vec<_> = logs.keys().map(|partition| stands(&logs, partition)).collect();
        match consumer.poll(Duration::from_millis(500)).await {
            Ok(records) => {
                world.waits(format!("reads up to {ends:?}, stands at {at:?}"));
                for record in records {
                    logs.entry(record.partition).or_default().push((record.offset, workload::decode(&record)));
                }
            }
            Err(ConsumeError::OutOfRange { .. }) => return None,
            Err(error) => {
                clients::note_damage(world, &error);
                world.waits(format!("reads up to {ends:?}, stands at {at:?}: {error}"));
            }
        }
    }
    let _ = consumer.close().await;
    Some(logs)
}

/// Waits until every replica has everything, then writes down what each would serve.
pub(super) async fn compare_replicas(world: &World, logs: &Logs) {
    let client = last_client(world).await;
    let id = loop {
        if let Ok(topic) = client.topic(&clients::topic()).await {
            break topic.id;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    for (partition, log) in logs {
        let end = log.last().map_or(0, |last| last.0 + 1);
        let replicas = loop {
            // A trim that was under way when retention ended may have come since.
            let start = offsets(world, &client, Position::Earliest).await[partition].min(end);
            match read_replicas(world, TopicPartition { topic: id, partition: *partition }, start..end).await {
                Ok(replicas) => break replicas,
                Err(why) => world.waits(why),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        for (node, (log_start, high_watermark, digest)) in replicas {
            world.note(99, What::Replica { node, partition: *partition, log_start, high_watermark, digest });
        }
    }
    client.close();
}

type Replicas = Vec<(u32, workload::Served)>;

/// The same range at every node that has it.
async fn read_replicas(world: &World, at: TopicPartition, range: std::ops::Range<u64>) -> Result<Replicas, String> {
    let partition = at.partition;
    let damaged = |text| world.note(99, What::Damaged { partition, text });
    let mut replicas = Replicas::new();
    for node in hosts(world, at).await {
        let read = match world.node(node) {
            Some(lives) => workload::read_replica(&lives.local(), NodeId(node), at, range.clone(), damaged).await,
            None => Err("it is down".into()),
        };
        replicas.push((node, read.map_err(|why| format!("node {node}, partition {partition}: {why}"))?));
    }
    Ok(replicas)
}

/// Which nodes have a replica that votes.
async fn hosts(world: &World, partition: TopicPartition) -> Vec<u32> {
    loop {
        let live = world.everybody().find_map(|node| world.node(node));
        if let Some(node) = live
            && let Some(placement) = node.controller().metadata().placement_of(partition)
        {
            let votes = placement.replicas.iter().filter(|replica| replica.state == ReplicaState::Voter);
            return votes.map(|replica| replica.node.0).collect();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
