//! Groups whose assignment the test decides.

use crate::{
    types::{DELIVERED_UNKNOWN, Generation, MemberId, Position, TopicName, TopicPartition},
    wire::{
        AssignedPartition, Code, Commit, Committed, Heartbeat, HeartbeatAnswer, Join, Joined, OwnedPartition, Refused,
        Start, StartOffset, Started,
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
    granted: BTreeMap<TopicPartition, Generation>,
    commits: BTreeMap<MemberId, u64>,
    /// The home does not take starts.
    pub(in crate::client) starts_refused: bool,
    pub(in crate::client) committed: BTreeMap<TopicPartition, u64>,
    pub(in crate::client) delivered: BTreeMap<TopicPartition, u64>,
    pub(in crate::client) start: Option<Position>,
    /// The home's own session, for members that name none.
    pub(in crate::client) session_ms: Option<u32>,
    /// All that happened, for snapshots.
    pub(in crate::client) story: Vec<String>,
}

impl Group {
    pub(in crate::client) fn assign(&mut self, assignments: Assignments) {
        self.generation += 1;
        self.target = assignments;
    }

    /// Members choose random names: here they are numbered as they stand.
    fn alias(&self, member: &MemberId) -> String {
        let place = self.members.iter().position(|m| m == member);
        place.map_or_else(|| "a stranger".into(), |place| format!("member-{}", place + 1))
    }

    pub(super) fn join(&mut self, join: Join) -> Joined {
        let named = join.member.expect("a client names itself");
        if !self.members.contains(&named) {
            self.members.push(named.clone());
        }
        let session_ms = if join.session_ms == 0 { self.session_ms.unwrap_or(10_000) } else { join.session_ms };
        let start = *self.start.get_or_insert(join.start.unwrap_or(Position::Latest));
        self.story.push(format!("{} joins", self.alias(&named)));
        self.generation += 1;
        Joined { member: named, session_ms, created: false, start }
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
                    let who = self.alias(member);
                    self.story.push(format!("{who} gave up {} at {:?}", at.partition, self.committed.get(&at)));
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
            let owner = self.owner.entry(at).or_insert_with(|| {
                self.granted.insert(at, Generation(self.generation));
                member.clone()
            });
            if owner == member {
                assigned.push(AssignedPartition {
                    topic: at.topic,
                    name,
                    partition: at.partition,
                    committed: self.committed.get(&at).copied(),
                    delivered: self.delivered.get(&at).copied().unwrap_or(0),
                    attempts: 1,
                    granted: self.granted[&at],
                });
            }
        }
        Ok(Some(HeartbeatAnswer { generation: Generation(self.generation), assigned }))
    }

    /// As a home does it: where nothing is committed.
    pub(super) fn start(&mut self, start: &Start) -> Started {
        let mut offsets = Vec::new();
        for said in start.offsets.iter().filter(|_| !self.starts_refused) {
            let at = TopicPartition { topic: said.topic, partition: said.partition };
            if self.owner.get(&at) == Some(&start.member) {
                let offset = *self.committed.entry(at).or_insert(said.offset);
                offsets.push(StartOffset { offset, ..*said });
            }
        }
        if !self.starts_refused {
            self.story.push(format!("{} starts {} partitions", self.alias(&start.member), offsets.len()));
        }
        Started { offsets }
    }

    pub(super) fn commit(&mut self, commit: &Commit) -> Committed {
        let mut refused = Vec::new();
        if let Some(member) = &commit.member {
            let last = self.commits.entry(member.clone()).or_default();
            assert!(commit.n >= *last, "{member} made commit {} after commit {last}", commit.n);
            *last = commit.n;
        }
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
        self.story.push(format!("{} leaves", self.alias(member)));
        self.members.retain(|m| m != member);
        self.owner.retain(|_, owner| owner != member);
        self.generation += 1;
    }

    pub(in crate::client) fn expire(&mut self, member: &MemberId) {
        let held = self.owner.iter().filter(|(_, owner)| *owner == member).map(|(at, _)| (*at, DELIVERED_UNKNOWN));
        self.delivered.extend(held.collect::<Vec<_>>());
        self.story.push(format!("{} expires", self.alias(member)));
        self.leave(member);
    }
}
