//! At the end, healed and quiet: each replica is read by itself, as its node would serve it to a consumer nearby. All must hold the
//! same bytes.
//!
//! Replicas that are known to be unsound, and those that are about to take their place, are not read.

use super::Load;
use crate::history::What;
use anyhow::{Context as _, anyhow, bail, ensure};
use highwater::{
    batch,
    client::ReplicaStatus,
    types::{NodeId, TopicId},
    wire::{Fetch, FetchPartition, Frame, Hello, Link, LinkClosed, Message},
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
/// Bytes of one answer.
const ANSWER_BYTES: u32 = 1 << 20;

/// First offset, next offset, and a hash over the bytes in between.
type Served = (u64, u64, u64);

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
            let read = match timeout(READ_MAX, self.read_replica(node, &address, (topic, partition), end)).await {
                Ok(read) => read,
                Err(_) => Err(anyhow!("it takes more than {} s", READ_MAX.as_secs())),
            };
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

    async fn read_replica(
        &self,
        node: NodeId,
        address: &str,
        (topic, partition): (TopicId, u32),
        end: u64,
    ) -> anyhow::Result<Served> {
        let connection = self.dialer.dial(Some(node), address).await?;
        let mut link = connection.open().await?;
        let hello = Hello { version_min: 1, version_max: 1, client: "replica reader".into() };
        let answer = ask(&mut link, hello).await?.message;
        ensure!(matches!(&answer, Message::Welcome(welcome) if welcome.node == node), "it answers {answer:?}");
        let (mut offset, mut begins, mut digest) = (0, None, 0xcbf2_9ce4_8422_2325u64);
        while offset < end {
            let part = FetchPartition { topic, partition, offset, bytes_max: 0, from_follower: true };
            let fetch = Fetch { bytes_max: ANSWER_BYTES, partitions: vec![part], ..Fetch::default() };
            let frame = ask(&mut link, fetch).await?;
            let Message::Fetched(fetched) = &frame.message else { bail!("it answers {:?}", frame.message) };
            let answer = fetched.partitions.first().context("it has nothing to say")?;
            if let Some(refused) = &answer.refused {
                bail!("it refuses: {}", refused.message);
            }
            let body = frame.body();
            let mark = answer.high_watermark;
            ensure!(mark >= end && !body.is_empty(), "it is at {offset}, its watermark is {mark}, {end} is wanted");
            for batch in batch::split(body) {
                let batch = batch.map_err(|error| {
                    let text = format!("node {node} serves a batch behind {offset} that does not verify: {error}");
                    self.note(0, What::Damaged { partition, text: text.clone() });
                    anyhow!(text)
                })?;
                let base = batch.header().base_offset.try_into().unwrap_or(0u64);
                if base >= end {
                    // Of a send whose outcome nobody knew; others may not have it yet.
                    break;
                }
                begins.get_or_insert(base);
                offset = base + u64::from(batch.count());
                for byte in batch.into_bytes() {
                    // FNV-1a
                    digest = (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
                }
            }
        }
        Ok((begins.unwrap_or(0), offset, digest))
    }
}

async fn ask(link: &mut Link, message: impl Into<Message>) -> Result<Frame, LinkClosed> {
    link.sender.send(vec![Frame::new(0, message)]).await?;
    link.receiver.receive().await
}
