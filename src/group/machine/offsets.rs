//! Commit, start, reset, delete: everything that changes where a group stands.

use super::{
    Commit, CommitOffset, Committed, Delete, Group, HomeMachine, Refusal, Reply, Reset, Start, TopicFacts,
    state::Cursor,
};
use crate::{
    limits,
    sabotage::{self, Bug},
    types::{Generation, GroupName, MemberId, TopicId, TopicPartition},
};
use std::collections::BTreeMap;

impl HomeMachine {
    pub(super) fn commit(&mut self, command: Commit) -> Result<Reply, Refusal> {
        let Commit { group: name, member, generation, n, offsets } = command;
        match &member {
            Some(_) if sabotage::on(Bug::GenerationUnchecked) => drop(self.make_group(&name, None)?),
            Some(member) => {
                let group = self.group_with(&name, member)?;
                let last = &mut group.members.get_mut(member).expect("it was found").commits;
                if n > 0 && n < *last {
                    return Err(Refusal::OldCommit { n, last: *last });
                }
                *last = n.max(*last);
            }
            None => {
                self.make_group(&name, None)?;
                self.without_members(&name)?;
            }
        }
        let mut refused = Vec::new();
        for (place, offset) in (0u32..).zip(offsets) {
            let sound = self.check(&offset);
            let group = self.groups.get_mut(&name).expect("found or made above");
            let owned =
                || member.as_ref().map_or(Ok(()), |member| group.may_commit(member, generation, offset.partition));
            match sound.and_then(|()| owned()) {
                Ok(()) => group.cursors.entry(offset.partition).or_default().commit(offset),
                Err(refusal) => refused.push((place, refusal)),
            }
        }
        Ok(Reply::Committed { refused })
    }

    pub(super) fn start(&mut self, command: &Start) -> Result<Reply, Refusal> {
        let sound = |(partition, offset): &(TopicPartition, u64)| {
            is_known(&self.topics, *partition) && i64::try_from(*offset).is_ok()
        };
        let mut offsets: Vec<_> = command.offsets.iter().copied().filter(sound).collect();
        let group = self.group_with(&command.group, &command.member)?;
        offsets.retain(|(at, _)| group.may_commit(&command.member, command.generation, *at).is_ok());
        for (partition, offset) in &mut offsets {
            let start = Committed { offset: *offset, leader_epoch: 0, metadata: String::new() };
            *offset = group.cursors.entry(*partition).or_default().committed.get_or_insert(start).offset;
        }
        Ok(Reply::Started { offsets })
    }

    pub(super) fn reset(&mut self, command: Reset) -> Result<Reply, Refusal> {
        self.without_members(&command.group)?;
        command.offsets.iter().try_for_each(|offset| self.check(offset))?;
        if let Some(group) = self.groups.get_mut(&command.group) {
            for offset in command.offsets {
                let cursor = group.cursors.entry(offset.partition).or_default();
                *cursor = Cursor::default();
                cursor.commit(offset);
            }
        }
        Ok(Reply::Reset)
    }

    pub(super) fn delete(&mut self, command: &Delete) -> Result<Reply, Refusal> {
        self.without_members(&command.group)?;
        if let Some(group) = self.groups.remove(&command.group) {
            self.generation_floor = self.generation_floor.max(group.generation);
        }
        Ok(Reply::Deleted)
    }

    fn without_members(&self, name: &GroupName) -> Result<(), Refusal> {
        let group = self.groups.get(name).ok_or_else(|| Refusal::UnknownGroup { group: name.clone() })?;
        match u32::try_from(group.members.len()).unwrap_or(u32::MAX) {
            0 => Ok(()),
            members => Err(Refusal::NotEmpty { group: name.clone(), members }),
        }
    }

    fn check(&self, offset: &CommitOffset) -> Result<(), Refusal> {
        let bytes = offset.metadata.len();
        if bytes > limits::COMMIT_METADATA_BYTES_MAX as usize {
            return Err(Refusal::MetadataTooLong { bytes });
        }
        if i64::try_from(offset.offset).is_err() {
            return Err(Refusal::BadOffset { offset: offset.offset });
        }
        if !is_known(&self.topics, offset.partition) {
            return Err(Refusal::UnknownPartition { partition: offset.partition });
        }
        Ok(())
    }
}

fn is_known(topics: &BTreeMap<TopicId, TopicFacts>, partition: TopicPartition) -> bool {
    topics.get(&partition.topic).is_some_and(|facts| partition.partition < facts.partitions)
}

impl Group {
    /// Only the owner commits, and only in a generation from which on it has owned the partition without a break.
    fn may_commit(&self, member: &MemberId, found: Generation, partition: TopicPartition) -> Result<(), Refusal> {
        match self.owners.get(&partition) {
            _ if sabotage::on(Bug::GenerationUnchecked) => Ok(()),
            Some(owner) if owner.member == *member && found >= owner.granted => Ok(()),
            Some(owner) if owner.member == *member => {
                Err(Refusal::StaleGeneration { partition, granted: owner.granted, found })
            }
            other => Err(Refusal::NotOwner { partition, owner: other.map(|owner| owner.member.clone()) }),
        }
    }
}

impl Cursor {
    fn commit(&mut self, CommitOffset { offset, leader_epoch, metadata, .. }: CommitOffset) {
        self.committed = Some(Committed { offset, leader_epoch, metadata });
        if offset >= self.handed && !self.unsure {
            (self.handed, self.attempts) = (0, 0);
        }
    }
}
