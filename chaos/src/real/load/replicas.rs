//! At the end, healed and quiet: each replica is read by itself, as its node would serve it to a consumer nearby. All must hold the
//! same bytes.
//!
//! Replicas that are known to be unsound, and those that are about to take their place, are not read.

use super::Load;
use crate::{
    history::What,
    workload::{Served, read_replica},
};
use anyhow::{Context as _, ensure};
use highwater::{
    client::ReplicaStatus,
    types::{NodeId, TopicId, TopicPartition},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::{Instant, timeout};

/// How long a partition's replicas may need to have everything.
const EQUAL_MAX: Duration = Duration::from_secs(120);
/// How long one replica of a partition may take to be read.
const READ_MAX: Duration = Duration::from_secs(60);
/// Those that are behind are looked at again after this.
const PAUSE: Duration = Duration::from_millis(200);

impl Load {
    /// Waits until every sound replica has everything below `ends`, and writes down what each serves.
    pub(super) async fn compare_replicas(&self, ends: &BTreeMap<u32, u64>) -> anyhow::Result<()> {
        for (partition, end) in ends {
            let deadline = Instant::now() + EQUAL_MAX;
            let mut served = BTreeMap::new();
            while let Err(error) = self.read_replicas(*partition, *end, &mut served).await {
                if Instant::now() > deadline {
                    let within = EQUAL_MAX.as_secs();
                    return Err(error.context(format!("not all replicas could be read within {within} s")));
                }
                tokio::time::sleep(PAUSE).await;
            }
            for (node, (log_start, high_watermark, digest)) in served {
                self.note(0, What::Replica { node, partition: *partition, log_start, high_watermark, digest });
            }
        }
        Ok(())
    }

    /// Reads those that were not read yet.
    async fn read_replicas(&self, partition: u32, end: u64, served: &mut BTreeMap<u32, Served>) -> anyhow::Result<()> {
        let (topic, hosts) = self.hosts(partition).await?;
        for (node, address) in hosts {
            if served.contains_key(&node.0) {
                continue;
            }
            let damaged = |text| self.note(0, What::Damaged { partition, text });
            let read = async {
                let connection = self.dialer.dial(Some(node), &address).await.map_err(|error| error.to_string())?;
                read_replica(&*connection, node, TopicPartition { topic, partition }, 0..end, damaged).await
            };
            let too_long = |_| Err(format!("it takes more than {} s", READ_MAX.as_secs()));
            let read = timeout(READ_MAX, read).await.unwrap_or_else(too_long).map_err(anyhow::Error::msg);
            served.insert(node.0, read.with_context(|| format!("node {node}, partition {partition}"))?);
        }
        Ok(())
    }

    /// The topic's id, and the nodes with a sound replica of the partition with their addresses.
    async fn hosts(&self, partition: u32) -> anyhow::Result<(TopicId, Vec<(NodeId, String)>)> {
        let admin = self.onlooker.admin();
        let (topic, cluster) = (admin.describe_topic(&self.topic).await?, admin.cluster_status().await?);
        let here =
            |replica: &&ReplicaStatus| replica.topic.as_ref() == Some(&self.topic) && replica.partition == partition;
        let unsound: BTreeSet<NodeId> = cluster.replicas.iter().filter(here).map(|replica| replica.node).collect();
        let named = &topic.partitions.get(partition as usize).context("the topic has no such partition")?.replicas;
        let is_sound = |node: &NodeId| named.contains(node) && !unsound.contains(node);
        let sound = cluster.nodes.iter().filter(|one| is_sound(&one.node));
        let hosts: Vec<_> = sound.map(|one| (one.node, one.address.clone())).collect();
        ensure!(!hosts.is_empty(), "partition {partition} has no sound replica");
        Ok((topic.id, hosts))
    }
}
