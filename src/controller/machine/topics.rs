//! Topics: made, altered, deleted.

use super::{
    AlterTopic, ControllerMachine, CreateTopic, DeleteTopic, Placement, Purpose, Refusal, Reply, Settings, Topic,
};
use crate::{
    controller::placement::{loads, place},
    limits,
    types::{NodeId, TopicId, TopicPartition},
};
use highwater_raft::GroupId;
use std::collections::{BTreeMap, BTreeSet};

impl ControllerMachine {
    pub(super) fn create_topic(&mut self, command: CreateTopic) -> Result<Reply, Refusal> {
        let CreateTopic { name, id, partitions, replication_factor, settings, avoid } = command;
        self.bootstrapped()?;
        match self.metadata.topics.get(&name) {
            Some(topic) if topic.id == id => return Ok(created(topic)),
            Some(_) => return Err(Refusal::TopicExists { name }),
            None if self.metadata.names.contains_key(&id) => return Err(Refusal::TopicIdExists { id }),
            None => {}
        }
        let partitions = if partitions == 0 { limits::PARTITIONS_DEFAULT } else { partitions };
        let replication_factor = self.copies(replication_factor)?;
        let mut checked = Settings::default();
        settings.iter().try_for_each(|(name, value)| checked.set(name, Some(value)))?;

        let groups = self.place(id, 0..partitions, replication_factor, &avoid)?;
        let topic = Topic { id, replication_factor, settings: checked, partitions: groups.keys().copied().collect() };
        let reply = created(&topic);
        let metadata = self.change();
        metadata.names.insert(id, name.clone());
        metadata.topics.insert(name, topic);
        metadata.groups.extend(groups);
        Ok(reply)
    }

    pub(super) fn alter_topic(&mut self, command: AlterTopic) -> Result<Reply, Refusal> {
        let AlterTopic { name, settings, partitions, avoid } = command;
        let topic = self.metadata.topics.get(&name).ok_or_else(|| Refusal::UnknownTopic { name: name.clone() })?;
        let mut altered = topic.clone();
        settings.iter().try_for_each(|(name, value)| altered.settings.set(name, value.as_deref()))?;
        let has = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        let wanted = if partitions == 0 { has } else { partitions };
        if wanted < has {
            return Err(Refusal::FewerPartitions { name, partitions: has, wanted });
        }
        let groups = self.place(altered.id, has..wanted, altered.replication_factor, &avoid)?;
        altered.partitions.extend(groups.keys());
        if self.metadata.topics.get(&name) != Some(&altered) {
            let metadata = self.change();
            metadata.topics.insert(name, altered);
            metadata.groups.extend(groups);
        }
        Ok(Reply::TopicAltered)
    }

    pub(super) fn delete_topic(&mut self, command: &DeleteTopic) -> Result<Reply, Refusal> {
        let meant = |topic: &Topic| command.id.is_none_or(|id| id == topic.id);
        if !self.metadata.topics.get(&command.name).is_some_and(meant) {
            return Err(Refusal::UnknownTopic { name: command.name.clone() });
        }
        let metadata = self.change();
        let topic = metadata.topics.remove(&command.name).expect("looked up above");
        metadata.names.remove(&topic.id);
        for group in &topic.partitions {
            metadata.groups.remove(group);
        }
        Ok(Reply::TopicDeleted { id: topic.id })
    }

    fn copies(&self, asked: u32) -> Result<u32, Refusal> {
        let nodes = self.metadata.nodes.len();
        let default = || limits::REPLICATION_FACTOR_DEFAULT.min(u32::try_from(nodes).unwrap_or(u32::MAX));
        let replication_factor = if asked == 0 { default() } else { asked };
        if replication_factor > limits::REPLICATION_FACTOR_MAX {
            return Err(Refusal::TooManyCopies { replication_factor });
        }
        if replication_factor as usize > nodes {
            return Err(Refusal::TooFewNodes { replication_factor, nodes });
        }
        Ok(replication_factor)
    }

    /// New groups for these partitions of a topic. Ids are given out only when all of them have a place.
    fn place(
        &mut self,
        topic: TopicId,
        partitions: std::ops::Range<u32>,
        replication_factor: u32,
        avoid: &BTreeSet<NodeId>,
    ) -> Result<BTreeMap<GroupId, Placement>, Refusal> {
        if partitions.end > limits::PARTITIONS_PER_TOPIC_MAX {
            return Err(Refusal::TooManyPartitions { partitions: partitions.end });
        }
        let loads = loads(&self.metadata, avoid);
        let count = partitions.end - partitions.start;
        let too_few = Refusal::TooFewNodes { replication_factor, nodes: loads.len() };
        let placed = place(&loads, count, replication_factor).ok_or(too_few)?;
        let mut hosted: BTreeMap<NodeId, u32> = loads.iter().map(|(node, load)| (*node, load.replicas)).collect();
        for node in placed.iter().flatten() {
            let replicas = hosted.entry(*node).or_default();
            *replicas += 1;
            if *replicas > limits::REPLICAS_PER_NODE_MAX {
                return Err(Refusal::NodesFull { node: *node });
            }
        }
        let found = |(partition, nodes): (u32, Vec<NodeId>)| {
            let group = self.new_group();
            (group, self.found(Purpose::Partition(TopicPartition { topic, partition }), &nodes))
        };
        Ok(partitions.zip(placed).map(found).collect())
    }
}

fn created(topic: &Topic) -> Reply {
    let partitions = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
    Reply::TopicCreated { id: topic.id, partitions, replication_factor: topic.replication_factor }
}
