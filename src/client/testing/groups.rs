//! Groups whose assignment the test decides.

use crate::{
    types::{DELIVERED_UNKNOWN, Generation, GroupName, MemberId, Position, TopicName, TopicPartition},
    wire::{
        AssignedPartition, Code, Commit, Committed, Heartbeat, HeartbeatAnswer, Join, Joined, OwnedPartition, Refused,
    },
};
use std::collections::BTreeMap;

/// Who is meant to consume what.
pub(in crate::client) type Assignments = BTreeMap<MemberId, Vec<(TopicName, TopicPartition)>>;

/// One group.
#[derive(Default)]
pub(in crate::client) struct Group {
    pub(in crate::client) generation: u64,
    pub(in crate::client) members: Vec<MemberId>,
    pub(in crate::client) target: Assignments,
    pub(in crate::client) owner: BTreeMap<TopicPartition, MemberId>,
    pub(in crate::client) committed: BTreeMap<TopicPartition, u64>,
    pub(in crate::client) delivered: BTreeMap<TopicPartition, u64>,
    pub(in crate::client) start: Option<Position>,
    /// All that happened, for snapshots.
    pub(in crate::client) story: Vec<String>,
}

impl Group {
    pub(in crate::client) fn assign(&mut self, assignments: Assignments) {
        self.generation += 1;
        self.target = assignments;
    }

    pub(super) fn join(&mut self, join: Join) -> Joined {
        let named = join.member.unwrap_or_else(|| format!("member-{}", self.members.len() + 1).parse().unwrap());
        if !self.members.contains(&named) {
            self.members.push(named.clone());
        }
        let start = *self.start.get_or_insert(join.start.unwrap_or(Position::Latest));
        self.story.push(format!("{named} joins"));
        self.generation += 1;
        Joined { member: named, heartbeat_ms: 1000, created: false, start }
    }

    /// Takes what the member says; gives an answer when there is one for it now.
    pub(super) fn heartbeat(
        &mut self,
        heartbeat: &Heartbeat,
        arrives: bool,
    ) -> Result<Option<HeartbeatAnswer>, Refused> {
        let member = &heartbeat.member;
        if !self.members.contains(member) {
            return Err(Refused::new(Code::UnknownMember, "who is that?"));
        }
        if arrives {
            for OwnedPartition { topic, partition, delivered } in &heartbeat.owned {
                if *delivered > 0 {
                    self.delivered.insert(TopicPartition { topic: *topic, partition: *partition }, *delivered);
                }
            }
            if heartbeat.generation.0 == self.generation {
                let owns = |at: &TopicPartition| {
                    heartbeat.owned.iter().any(|o| (o.topic, o.partition) == (at.topic, at.partition))
                };
                let target = self.target.get(member).cloned().unwrap_or_default();
                let given_up: Vec<_> =
                    self.owner.iter().filter(|(at, owner)| *owner == member && !owns(at)).map(|(at, _)| *at).collect();
                for at in given_up.into_iter().filter(|at| !target.iter().any(|(_, t)| t == at)) {
                    self.story.push(format!("{member} gave up {} at {:?}", at.partition, self.committed.get(&at)));
                    self.owner.remove(&at);
                    self.generation += 1;
                }
            }
        }
        if heartbeat.generation.0 == self.generation {
            return Ok(None);
        }
        let mut assigned = Vec::new();
        for (name, at) in self.target.get(member).cloned().unwrap_or_default() {
            let owner = self.owner.entry(at).or_insert_with(|| member.clone());
            if owner == member {
                assigned.push(AssignedPartition {
                    topic: at.topic,
                    name,
                    partition: at.partition,
                    committed: self.committed.get(&at).copied(),
                    delivered: self.delivered.get(&at).copied().unwrap_or(0),
                    attempts: 1,
                });
            }
        }
        Ok(Some(HeartbeatAnswer { generation: Generation(self.generation), assigned }))
    }

    pub(super) fn commit(&mut self, commit: &Commit) -> Committed {
        let mut refused = Vec::new();
        for (i, offset) in commit.offsets.iter().enumerate() {
            let at = TopicPartition { topic: offset.topic, partition: offset.partition };
            if commit.member.is_some() && self.owner.get(&at) != commit.member.as_ref() {
                refused.push((u32::try_from(i).unwrap(), Refused::new(Code::StaleGeneration, "not the owner")));
                continue;
            }
            self.committed.insert(at, offset.offset);
        }
        Committed { refused }
    }

    pub(super) fn leave(&mut self, member: &MemberId) {
        self.story.push(format!("{member} leaves"));
        self.members.retain(|m| m != member);
        self.owner.retain(|_, owner| owner != member);
        self.generation += 1;
    }

    pub(in crate::client) fn expire(&mut self, group: &GroupName, member: &MemberId) {
        let held = self.owner.iter().filter(|(_, owner)| *owner == member).map(|(at, _)| (*at, DELIVERED_UNKNOWN));
        self.delivered.extend(held.collect::<Vec<_>>());
        self.leave(member);
        self.story.push(format!("{member} of {group} expired"));
    }
}
