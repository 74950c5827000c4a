//! Join, leave, expire, and what members report: everything that changes who consumes what.

use super::{
    Effect, Expire, Group, GroupSpec, HomeMachine, Join, Kind, Leave, Member, Reconciled, Refusal, Reply, TopicFacts,
    assign::assign,
    state::{Cursor, Owner},
};
use crate::{
    limits,
    sabotage::{self, Bug},
    types::{Generation, GroupName, MemberId, Position, TopicId, TopicName, TopicPartition},
};
use std::collections::{BTreeMap, BTreeSet};

impl HomeMachine {
    pub(super) fn join(&mut self, command: Join, effects: &mut Vec<Effect>) -> Result<Reply, Refusal> {
        let Join { group: name, member, topics, session_ms, kind, start } = command;
        let topics: BTreeSet<_> = topics.into_iter().collect();
        if kind == Kind::Lease {
            return Err(Refusal::LeasesUnsupported { group: name });
        }
        if topics.len() > limits::TOPICS_PER_MEMBER_MAX as usize {
            return Err(Refusal::TooManyTopics { topics: topics.len() });
        }
        let created = self.make_group(&name, start)?;
        let member = member.unwrap_or_else(|| self.name_member(&name));
        self.next_session += 1;
        let session = self.next_session;
        let session_ms = session_of(session_ms);

        let group = self.groups.get_mut(&name).expect("it was there or was made");
        if group.members.len() >= limits::MEMBERS_PER_GROUP_MAX as usize && !group.members.contains_key(&member) {
            return Err(Refusal::TooManyMembers { group: name });
        }
        // A new generation for its own sake: the member's first heartbeat is answered even when it gets nothing.
        group.generation.0 += 1;
        let changed = group.generation;
        // Who joins again goes on counting: commits from before may still be under way.
        let commits = group.members.get(&member).map_or(0, |member| member.commits);
        group.members.insert(member.clone(), Member { topics, session_ms, session, changed, commits });
        effects.push(Effect::Watch { group: name.clone(), member: member.clone(), session, session_ms });
        self.reassign(&name, effects);
        let group = &self.groups[&name];
        let (generation, start) = (group.generation, group.spec.start);
        Ok(Reply::Joined { member, session, session_ms, generation, created, start })
    }

    pub(super) fn leave(&mut self, command: &Leave, effects: &mut Vec<Effect>) -> Result<Reply, Refusal> {
        self.group_with(&command.group, &command.member)?;
        self.remove(&command.group, &command.member, Farewell::Said, effects);
        Ok(Reply::Left)
    }

    pub(super) fn expire(&mut self, command: &Expire, effects: &mut Vec<Effect>) -> Result<Reply, Refusal> {
        let group = self.group_with(&command.group, &command.member)?;
        if group.members[&command.member].session != command.session {
            return Ok(Reply::Kept);
        }
        self.remove(&command.group, &command.member, Farewell::None, effects);
        Ok(Reply::Expired)
    }

    pub(super) fn reconcile(&mut self, command: &Reconciled, effects: &mut Vec<Effect>) -> Result<Reply, Refusal> {
        let group = self.group_with(&command.group, &command.member)?;
        for (partition, delivered) in group.progress(command) {
            let cursor = group.cursors.entry(partition).or_default();
            cursor.reported(delivered);
        }
        let given_up = group.given_up(command);
        for partition in &given_up {
            group.release(*partition);
        }
        if !given_up.is_empty() {
            let told = group.grant(BTreeSet::new());
            push_assigned(&command.group, group, told, effects);
        }
        Ok(Reply::Reconciled { generation: group.generation })
    }

    /// Whether a member's report would change anything: else it need not be proposed.
    pub fn would_change(&self, command: &Reconciled) -> bool {
        let group = self.groups.get(&command.group).filter(|group| group.members.contains_key(&command.member));
        group.is_some_and(|group| !group.progress(command).is_empty() || !group.given_up(command).is_empty())
    }

    /// Whether it had to be made.
    pub(super) fn make_group(&mut self, name: &GroupName, start: Option<Position>) -> Result<bool, Refusal> {
        if self.groups.contains_key(name) {
            return Ok(false);
        }
        if self.groups.len() >= limits::GROUPS_PER_HOME_MAX as usize {
            return Err(Refusal::TooManyGroups { groups: u32::try_from(self.groups.len()).unwrap_or(u32::MAX) });
        }
        self.next_group += 1;
        let spec = GroupSpec::offsets(self.next_group, start.unwrap_or(Position::Latest));
        self.groups.insert(name.clone(), Group::new(spec, self.generation_floor));
        Ok(true)
    }

    pub(super) fn group_with(&mut self, name: &GroupName, member: &MemberId) -> Result<&mut Group, Refusal> {
        let group = self.groups.get_mut(name).ok_or_else(|| Refusal::UnknownGroup { group: name.clone() })?;
        if group.members.contains_key(member) {
            Ok(group)
        } else {
            Err(Refusal::UnknownMember { group: name.clone(), member: member.clone() })
        }
    }

    /// Shares the group's partitions out anew.
    pub(super) fn reassign(&mut self, name: &GroupName, effects: &mut Vec<Effect>) {
        if let Some(group) = self.groups.get_mut(name) {
            let told = group.reassign(&self.topics, &self.names);
            push_assigned(name, group, told, effects);
        }
    }

    fn remove(&mut self, name: &GroupName, member: &MemberId, farewell: Farewell, effects: &mut Vec<Effect>) {
        if let Some(group) = self.groups.get_mut(name) {
            group.remove(member, farewell);
            effects.push(Effect::Gone { group: name.clone(), member: member.clone() });
        }
        self.reassign(name, effects);
    }

    fn name_member(&mut self, group: &GroupName) -> MemberId {
        loop {
            self.next_member += 1;
            let name: MemberId = format!("member-{}", self.next_member).parse().expect("letters, digits and '-'");
            if self.groups.get(group).is_none_or(|group| !group.members.contains_key(&name)) {
                return name;
            }
        }
    }
}

/// How a member went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Farewell {
    /// By itself: it said before how far it was given records.
    Said,
    /// Silently.
    None,
}

fn session_of(asked_ms: u32) -> u32 {
    let ms = if asked_ms == 0 { limits::SESSION_GRACE_MS_DEFAULT } else { u64::from(asked_ms) };
    u32::try_from(ms.clamp(limits::SESSION_GRACE_MS_MIN, limits::SESSION_GRACE_MS_MAX)).unwrap_or(u32::MAX)
}

fn push_assigned(name: &GroupName, group: &Group, told: BTreeSet<MemberId>, effects: &mut Vec<Effect>) {
    if !told.is_empty() {
        let members = told.into_iter().collect();
        effects.push(Effect::Assigned { group: name.clone(), generation: group.generation, members });
    }
}

impl Group {
    /// Gives each partition a target; revokes what goes elsewhere, grants what is free. Returns whose assignment changed.
    fn reassign(
        &mut self,
        topics: &BTreeMap<TopicId, TopicFacts>,
        names: &BTreeMap<TopicName, TopicId>,
    ) -> BTreeSet<MemberId> {
        let wanted = |member: &Member| member.topics.iter().filter_map(|name| names.get(name)).copied().collect();
        let wants: BTreeMap<_, BTreeSet<_>> =
            self.members.iter().map(|(id, member)| (id.clone(), wanted(member))).collect();
        let partitions =
            wants.values().flatten().filter_map(|id| topics.get(id).map(|facts| (*id, facts.partitions))).collect();
        self.target = assign(&wants, &partitions, &self.target);

        let next = Generation(self.generation.0 + 1);
        let mut told = self.drop_gone(topics);
        for (partition, owner) in &mut self.owners {
            let keeps = self.target.get(partition) == Some(&owner.member);
            if keeps == owner.revoked.is_none() {
                continue;
            }
            owner.revoked = if keeps { None } else { Some(next) };
            told.insert(owner.member.clone());
            // It gets back what it may have given up meanwhile: then it begins again at what is committed.
            if let Some(cursor) = self.cursors.get_mut(partition).filter(|_| keeps) {
                cursor.change_hands();
            }
        }
        self.grant(told)
    }

    /// Ends ownership in topics that are gone.
    fn drop_gone(&mut self, topics: &BTreeMap<TopicId, TopicFacts>) -> BTreeSet<MemberId> {
        let gone: Vec<_> = self.owners.keys().filter(|p| !topics.contains_key(&p.topic)).copied().collect();
        gone.iter().filter_map(|partition| self.owners.remove(partition)).map(|owner| owner.member).collect()
    }

    /// Grants what is free to whom it is meant for. A new generation if that, or what the caller did before, changes
    /// somebody's assignment.
    fn grant(&mut self, mut told: BTreeSet<MemberId>) -> BTreeSet<MemberId> {
        let granted = Generation(self.generation.0 + 1);
        for (partition, member) in &self.target {
            self.owners.entry(*partition).or_insert_with(|| {
                told.insert(member.clone());
                Owner { member: member.clone(), granted, revoked: None }
            });
        }
        if !told.is_empty() {
            self.generation = granted;
        }
        for member in &told {
            if let Some(member) = self.members.get_mut(member) {
                member.changed = granted;
            }
        }
        told
    }

    fn remove(&mut self, member: &MemberId, farewell: Farewell) {
        self.members.remove(member);
        let held: Vec<_> = self.owners.iter().filter(|(_, owner)| owner.member == *member).map(|(p, _)| *p).collect();
        for partition in held {
            if farewell == Farewell::None {
                self.cursors.entry(partition).or_default().unsure = true;
            }
            self.release(partition);
        }
    }

    /// Ends an ownership: what was given and not committed counts as tried once more.
    fn release(&mut self, partition: TopicPartition) {
        self.owners.remove(&partition);
        if let Some(cursor) = self.cursors.get_mut(&partition) {
            cursor.change_hands();
        }
    }

    /// Partitions of which the member says that it was given more than is known.
    fn progress(&self, command: &Reconciled) -> Vec<(TopicPartition, u64)> {
        let is_news = |partition: &TopicPartition, delivered: u64| match self.cursors.get(partition) {
            Some(cursor) => {
                delivered > cursor.delivered || cursor.unsure && delivered > 0 && delivered == cursor.delivered
            }
            None => delivered > 0,
        };
        let owns = |partition: &TopicPartition| {
            let owner = self.owners.get(partition).filter(|owner| owner.member == command.member);
            owner.is_some_and(|owner| command.generation >= owner.granted)
        };
        let more = |(partition, delivered): &&(TopicPartition, u64)| owns(partition) && is_news(partition, *delivered);
        command.owned.iter().filter(more).copied().collect()
    }

    /// Partitions that the member was told to give up, and does not name in a report that knows of it.
    fn given_up(&self, command: &Reconciled) -> Vec<TopicPartition> {
        let named: BTreeSet<_> = command.owned.iter().map(|(partition, _)| *partition).collect();
        let free = |(partition, owner): &(&TopicPartition, &Owner)| {
            let knows = owner
                .revoked
                .is_some_and(|revoked| command.generation >= revoked || sabotage::on(Bug::GenerationUnchecked));
            owner.member == command.member && knows && !named.contains(partition)
        };
        self.owners.iter().filter(free).map(|(partition, _)| *partition).collect()
    }
}

impl Cursor {
    fn change_hands(&mut self) {
        if self.unsure || self.delivered > self.done() {
            (self.handed, self.attempts) = (self.delivered, self.attempts.saturating_add(1));
        } else {
            (self.handed, self.attempts) = (0, 0);
        }
    }

    /// A member says how far it, and as far as it could find out any before it, was given records.
    fn reported(&mut self, delivered: u64) {
        self.delivered = self.delivered.max(delivered);
        if std::mem::take(&mut self.unsure) {
            self.handed = self.delivered;
            if self.done() >= self.handed {
                (self.handed, self.attempts) = (0, 0);
            }
        }
    }

    fn done(&self) -> u64 {
        self.committed.as_ref().map_or(0, |committed| committed.offset)
    }
}
