//! What a home of groups does that no client sees: whom it told what, who said what, what was committed.

use super::{
    actor::HomeDomain,
    machine::{Command, HomeMachine, Reply},
};
use crate::{
    replica::{Entry, Status},
    types::{Generation, GroupName, MemberId, NodeId},
    wire,
};
use highwater_raft::observe::{TARGET, is_on};
use std::fmt::Write as _;

pub(super) use highwater_raft::observe::reached;

/// Which node was this home's last, as far as its replica knows.
#[derive(Default)]
pub(super) struct LastHome(Option<NodeId>);

impl LastHome {
    /// Whether this node is the home from now on and another one was. A node that leads again was it all the time, and one that
    /// has just started does not know.
    pub(super) fn moves_here(&mut self, status: &Status) -> bool {
        let Some(leader) = status.leader else { return false };
        self.0.replace(leader).is_some_and(|last| last != leader) && status.leading
    }
}

/// A member was told what to consume.
#[inline]
pub(super) fn told(group: &GroupName, member: &MemberId, answer: &wire::HeartbeatAnswer) {
    if is_on() {
        let partitions = joined(answer.assigned.iter().map(|given| (given.topic, given.partition)));
        let generation = answer.generation.0;
        tracing::trace!(
            target: TARGET, fact = "told", of = group.as_str(), member = member.as_str(), generation, partitions = &*partitions
        );
    }
}

/// A member said what it consumes.
#[inline]
pub(super) fn said(beat: &wire::Heartbeat) {
    if is_on() {
        let partitions = joined(beat.owned.iter().map(|owned| (owned.topic, owned.partition)));
        let (of, member) = (beat.group.as_str(), beat.member.as_str());
        let generation = beat.generation.0;
        tracing::trace!(target: TARGET, fact = "said", of, member, generation, partitions = &*partitions);
    }
}

/// An entry was applied: commits, resets, members that are none any more.
#[inline]
pub(super) fn applied(machine: &HomeMachine, entry: &Entry<'_, HomeDomain>) {
    if is_on() {
        for (raw, reply) in entry.commands.iter().zip(entry.replies) {
            if let Some(Ok(command)) = Command::decode(raw) {
                told_by(machine, entry.at.index, &command, reply);
            }
        }
    }
}

fn told_by(machine: &HomeMachine, index: u64, command: &Command, reply: &Reply) {
    let offset = |of: &GroupName, offset: &super::machine::CommitOffset, reset: bool| {
        let partition = offset.partition.to_string();
        tracing::trace!(
            target: TARGET, fact = "committed", of = of.as_str(), index, place = &*partition, offset = offset.offset, reset
        );
    };
    let gone = |of: &GroupName, member: &MemberId| {
        let generation = machine.group(of).map_or(Generation::default(), |group| group.generation()).0;
        tracing::trace!(target: TARGET, fact = "gone", of = of.as_str(), member = member.as_str(), generation, index);
    };
    match (command, reply) {
        (Command::Commit(commit), Reply::Committed { refused }) => {
            let taken = (0u32..).zip(&commit.offsets).filter(|(i, _)| !refused.iter().any(|(place, _)| place == i));
            taken.for_each(|(_, one)| offset(&commit.group, one, false));
        }
        (Command::Reset(reset), Reply::Reset) => reset.offsets.iter().for_each(|one| offset(&reset.group, one, true)),
        (Command::Leave(leave), Reply::Left) => gone(&leave.group, &leave.member),
        (Command::Expire(expire), Reply::Expired) => gone(&expire.group, &expire.member),
        _ => {}
    }
}

fn joined(partitions: impl Iterator<Item = (crate::types::TopicId, u32)>) -> String {
    partitions.fold(String::new(), |mut out, (topic, partition)| {
        let space = if out.is_empty() { "" } else { " " };
        let _ = write!(out, "{space}{topic}/{partition}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_moves_only_to_another_node() {
        let mut last = LastHome::default();
        let mut moves = |leader: Option<u32>, leading| {
            last.moves_here(&Status { leader: leader.map(NodeId), leading, ..Status::default() })
        };
        assert!(!moves(Some(1), true), "nobody knows who was it before");
        assert!(!moves(None, false));
        assert!(!moves(Some(1), true), "it was elected again");
        assert!(!moves(Some(2), false), "that is for node 2 to say");
        assert!(moves(Some(1), true));
        assert!(!moves(Some(1), true), "once");
    }
}
