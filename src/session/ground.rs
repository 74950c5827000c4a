//! What the sessions of a node stand on, and where its partitions are not.

use super::machine::{Seen, View, partition_of};
use crate::{
    config::Config,
    controller::Controller,
    group::Groups,
    metrics::Metrics,
    partition::{Handle, Partitions, Role},
    runtime::{BytePool, Courier, Env},
    types::{NodeId, TopicPartition},
    wire::{Code, FetchPartition, Refused},
};
use std::sync::{Arc, atomic::AtomicU64};

/// What all sessions of a node share. Clones share.
#[derive(Clone)]
pub struct Ground {
    /// Time, tasks, randomness.
    pub(super) env: Env,
    /// The cluster's name, and what requests are given that leave something open.
    pub(super) config: Arc<Config>,
    pub(super) metrics: Metrics,
    /// Replicas hosted here.
    pub(super) partitions: Partitions,
    pub(super) controller: Controller,
    pub(super) groups: Groups,
    /// Knows which nodes live.
    pub(super) courier: Arc<dyn Courier>,
    /// Bytes of answers.
    pub(super) responses: BytePool,
    /// The last token given out.
    pub(super) tokens: Arc<AtomicU64>,
}

impl Ground {
    /// Of these parts.
    pub fn new(
        env: Env,
        config: &Config,
        metrics: Metrics,
        (partitions, controller, groups): (Partitions, Controller, Groups),
        courier: Arc<dyn Courier>,
        responses: BytePool,
    ) -> Self {
        Self {
            env,
            config: Arc::new(config.clone()),
            metrics,
            partitions,
            controller,
            groups,
            courier,
            responses,
            tokens: Arc::default(),
        }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.controller.node()
    }

    /// Where requests are counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The cluster's minted id; 0 before there is one.
    pub fn cluster_id(&self) -> u64 {
        self.controller.metadata().cluster_id.unwrap_or(0)
    }

    /// Whether a node lives, as far as this one knows.
    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        node == self.node() || self.courier.others().contains(&node)
    }

    /// The replica of a partition that is hosted here and serves.
    pub(super) fn find(&self, partition: TopicPartition) -> Result<Handle, Refused> {
        match self.partitions.find(partition) {
            Some(handle) if handle.marks().role != Role::Gone => Ok(handle),
            _ => Err(self.elsewhere(partition)),
        }
    }

    /// Why a partition is not served here.
    pub(super) fn elsewhere(&self, partition: TopicPartition) -> Refused {
        let metadata = self.controller.metadata();
        if metadata.version == 0 {
            return Refused::new(Code::NotReady, "this node does not know the cluster's topics yet: try again");
        }
        let Some(topic) = metadata.topic(partition.topic) else {
            let said = format!("there is no topic {}: it was deleted, or made a moment ago", partition.topic);
            return Refused::new(Code::UnknownTopic, said);
        };
        if metadata.group_of(partition).is_none() {
            let said = format!(
                "the topic has {} partitions, from 0: there is no {}",
                topic.partitions.len(),
                partition.partition
            );
            return Refused::new(Code::UnknownPartition, said);
        }
        let leader = self.controller.leader_of(partition);
        if let Some(offline) = self.offline(partition, leader.map(|(node, _)| node)) {
            return offline;
        }
        match leader {
            Some((leader, leader_epoch)) if leader != self.node() => Refused {
                leader: Some(leader),
                leader_epoch,
                ..Refused::new(Code::NotLeader, format!("node {leader} leads the partition: ask there"))
            },
            _ => Refused::new(Code::NotReady, "the partition is about to have a leader: try again"),
        }
    }
}

impl Ground {
    /// Why nobody serves a partition, if that is because most of its replicas are damaged: then nobody is elected, and
    /// waiting does not help. While another living node leads it, as far as is known, that one has the word.
    pub(super) fn offline(&self, partition: TopicPartition, leader: Option<NodeId>) -> Option<Refused> {
        if leader.is_some_and(|leader| leader != self.node() && self.is_alive(leader)) {
            return None;
        }
        let metadata = self.controller.metadata();
        let placement = metadata.placement_of(partition).filter(|placement| placement.is_offline())?;
        Some(Refused::offline(&placement.damaged(), placement.founders.len()))
    }

    /// A replica's refusal, or that its partition is offline where that is the reason.
    pub(super) fn or_offline(&self, partition: TopicPartition, refused: Refused) -> Refused {
        match refused.code {
            Code::NotLeader | Code::NoQuorum => self.offline(partition, refused.leader).unwrap_or(refused),
            _ => refused,
        }
    }
}

impl View for Ground {
    fn see(&self, want: &FetchPartition) -> Result<Seen, Refused> {
        let partition = partition_of(want);
        let marks = self.find(partition)?.marks();
        let serves = marks.ready && (want.from_follower || marks.role == Role::Leader);
        if let Some(offline) = (!serves).then(|| self.offline(partition, marks.leader)).flatten() {
            return Err(offline);
        }
        Ok(Seen {
            log_start: marks.log_start,
            high_watermark: marks.high_watermark,
            bytes: marks.bytes_at_hw,
            epoch: marks.epoch,
            leading: marks.role == Role::Leader,
            ready: marks.ready,
            leader: marks.leader,
        })
    }
}
