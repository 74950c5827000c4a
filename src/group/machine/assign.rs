//! Who gets which partition: a pure function of wants, partitions and the assignment before.
//!
//! 1. A partition stays where it was, if its member still wants the topic.
//! 2. A free partition goes to the member with the fewest among those who want it.
//! 3. While a member has at least two more than another who wants one of its partitions, one goes over, from the fullest
//!    to the emptiest. Each such move makes the sum of squares smaller, so it ends.
//!
//! Among members with equal wants this is balanced to within one, and moves no more than balance needs: a member gives
//! only above its final share and takes only below it.

use crate::types::{MemberId, TopicId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};

type Assignment = BTreeMap<TopicPartition, MemberId>;

/// Shares the partitions of each topic (`partitions`: how many it has) out among the members that want it.
pub fn assign(
    wants: &BTreeMap<MemberId, BTreeSet<TopicId>>,
    partitions: &BTreeMap<TopicId, u32>,
    previous: &Assignment,
) -> Assignment {
    let mut shares = Shares::new(wants);
    let mut free = Vec::new();
    for (topic, count) in partitions {
        for partition in (0..*count).map(|partition| TopicPartition { topic: *topic, partition }) {
            match previous.get(&partition).and_then(|member| wants.get_key_value(member)) {
                Some((member, topics)) if topics.contains(topic) => shares.give(partition, member),
                _ => free.push(partition),
            }
        }
    }
    for partition in free {
        if let Some((_, member)) = shares.emptiest(partition.topic) {
            shares.give(partition, member);
        }
    }
    while let Some((partition, from, to)) = shares.next_move(previous) {
        shares.take(partition, from);
        shares.give(partition, to);
    }
    let mut assignment = Assignment::new();
    for (member, held) in shares.held {
        assignment.extend(held.into_iter().map(|partition| (partition, member.clone())));
    }
    assignment
}

struct Shares<'a> {
    wants: &'a BTreeMap<MemberId, BTreeSet<TopicId>>,
    held: BTreeMap<&'a MemberId, BTreeSet<TopicPartition>>,
    /// Members by load, emptiest first.
    loads: BTreeSet<(usize, &'a MemberId)>,
    /// The same, of those who want a topic.
    wanting: BTreeMap<TopicId, BTreeSet<(usize, &'a MemberId)>>,
}

impl<'a> Shares<'a> {
    fn new(wants: &'a BTreeMap<MemberId, BTreeSet<TopicId>>) -> Self {
        let mut wanting: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (member, topics) in wants {
            for topic in topics {
                wanting.entry(*topic).or_default().insert((0, member));
            }
        }
        let held = wants.keys().map(|member| (member, BTreeSet::new())).collect();
        let loads = wants.keys().map(|member| (0, member)).collect();
        Self { wants, held, loads, wanting }
    }

    fn emptiest(&self, topic: TopicId) -> Option<(usize, &'a MemberId)> {
        self.wanting.get(&topic)?.first().copied()
    }

    fn give(&mut self, partition: TopicPartition, member: &'a MemberId) {
        self.change(member, |held| held.insert(partition));
    }

    fn take(&mut self, partition: TopicPartition, member: &'a MemberId) {
        self.change(member, |held| held.remove(&partition));
    }

    fn change(&mut self, member: &'a MemberId, change: impl FnOnce(&mut BTreeSet<TopicPartition>) -> bool) {
        let held = self.held.get_mut(member).expect("every member has a set");
        let before = held.len();
        assert!(change(held), "a partition is given when free and taken from who has it");
        let after = held.len();
        let moved = |set: &mut BTreeSet<(usize, &'a MemberId)>| {
            set.remove(&(before, member));
            set.insert((after, member));
        };
        moved(&mut self.loads);
        for topic in &self.wants[member] {
            self.wanting.get_mut(topic).map(moved);
        }
    }

    fn next_move(&self, previous: &Assignment) -> Option<(TopicPartition, &'a MemberId, &'a MemberId)> {
        self.loads.iter().rev().find_map(|(load, from)| {
            let held = &self.held[from];
            let better = |topic: &&TopicId| self.emptiest(**topic).is_some_and(|(least, _)| least + 2 <= *load);
            let gives = |topic: &TopicId| {
                let of_topic = || {
                    let at = |partition| TopicPartition { topic: *topic, partition };
                    held.range(at(0)..=at(u32::MAX)).rev().copied()
                };
                of_topic().find(|partition| previous.get(partition) != Some(from)).or_else(|| of_topic().next())
            };
            let partition = self.wants[*from].iter().filter(better).find_map(gives)?;
            self.emptiest(partition.topic).map(|(_, to)| (partition, *from, to))
        })
    }
}
