//! What a home knows of topics. Assignment is a function of the log, so partition counts are in it.

use super::{Committed, Effect, Group, HomeMachine, Reply, TopicFacts, TopicsChanged};
use crate::{
    limits,
    types::{GroupName, TopicId, TopicPartition},
};
use std::collections::{BTreeMap, BTreeSet};

/// A topic that is new or has more partitions.
struct Grown {
    topic: TopicId,
    from: u32,
    to: u32,
}

impl HomeMachine {
    pub(super) fn topics_changed(&mut self, command: TopicsChanged, effects: &mut Vec<Effect>) -> Reply {
        let TopicsChanged { version, set, gone } = command;
        if version <= self.topics_version {
            return Reply::TopicsKnown { version: self.topics_version };
        }
        // What the home learns first is not new: it only did not know it.
        let knows_nothing = self.topics_version == 0;
        self.topics_version = version;
        let mut touched = BTreeSet::new();
        for topic in gone {
            self.forget(topic, &mut touched);
        }
        for (topic, facts) in set {
            let grown = self.learn(topic, facts, &mut touched);
            touched.insert(topic);
            for group in self.groups.values_mut().filter(|_| !knows_nothing) {
                group.start_added(&grown, &self.topics);
            }
        }
        let concerned = |group: &Group| {
            let consumed = group.target.keys().chain(group.owners.keys()).any(|p| touched.contains(&p.topic));
            let wanted = || group.members.values().flat_map(|m| &m.topics).filter_map(|name| self.names.get(name));
            consumed || wanted().any(|topic| touched.contains(topic))
        };
        let groups: Vec<GroupName> =
            self.groups.iter().filter(|(_, group)| concerned(group)).map(|(n, _)| n.clone()).collect();
        for name in groups {
            self.reassign(&name, effects);
        }
        Reply::TopicsKnown { version }
    }

    fn learn(&mut self, topic: TopicId, facts: TopicFacts, touched: &mut BTreeSet<TopicId>) -> Grown {
        let before = self.topics.get(&topic).cloned();
        if let Some(before) = before.as_ref().filter(|before| before.name != facts.name) {
            self.names.remove(&before.name);
        }
        if let Some(other) = self.names.get(&facts.name).copied().filter(|other| *other != topic) {
            self.forget(other, touched);
        }
        let from = before.map_or(0, |before| before.partitions);
        let to = facts.partitions.min(limits::PARTITIONS_PER_TOPIC_MAX).max(from);
        self.names.insert(facts.name.clone(), topic);
        self.topics.insert(topic, TopicFacts { name: facts.name, partitions: to });
        Grown { topic, from, to }
    }

    /// A deleted topic's id never comes back: neither do offsets in it.
    fn forget(&mut self, topic: TopicId, touched: &mut BTreeSet<TopicId>) {
        let Some(facts) = self.topics.remove(&topic) else { return };
        self.names.remove(&facts.name);
        touched.insert(topic);
        for group in self.groups.values_mut() {
            group.cursors.retain(|partition, _| partition.topic != topic);
        }
    }
}

impl Group {
    /// Partitions that appear while the group is there start at 0, whatever the group's start: what is in them came later.
    fn start_added(&mut self, grown: &Grown, topics: &BTreeMap<TopicId, TopicFacts>) {
        let Some(facts) = topics.get(&grown.topic) else { return };
        let wanted = self.members.values().any(|member| member.topics.contains(&facts.name));
        if !wanted && !self.partitions().iter().any(|partition| partition.topic == grown.topic) {
            return;
        }
        for partition in (grown.from..grown.to).map(|partition| TopicPartition { topic: grown.topic, partition }) {
            let cursor = self.cursors.entry(partition).or_default();
            cursor.committed.get_or_insert(Committed { offset: 0, leader_epoch: 0, metadata: String::new() });
        }
    }
}
