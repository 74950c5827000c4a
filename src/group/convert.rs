//! Between the native protocol's words and the home machine's.

use super::{
    actor::Request,
    machine::{self, CommitOffset, Group, HomeMachine, Refusal, Reply},
};
use crate::{
    advice::Advice,
    types::{GroupName, MemberId, TopicPartition},
    wire::{self, Code, Refused},
};

pub(super) fn not_home() -> Refused {
    Refused::new(Code::NotHome, "this node is not the group's home now; find it again")
}

pub(super) fn unknown_member(group: &GroupName, member: &MemberId) -> Refused {
    refused(&Refusal::UnknownMember { group: group.clone(), member: member.clone() })
}

/// A request that is not even tried.
pub(super) fn refuse(request: Request, why: &Refused) {
    match request {
        Request::Join(_, slot) => slot.answer(Err(why.clone())),
        Request::Heartbeat(_, slot) => slot.answer(Err(why.clone())),
        Request::Leave(_, slot) => slot.answer(Err(why.clone())),
        Request::Start(_, slot) => slot.answer(Err(why.clone())),
        Request::Commit(_, slot) => slot.answer(Err(why.clone())),
        Request::Describe(_, slot) => slot.answer(Err(why.clone())),
        Request::List(slot) => slot.answer(Err(why.clone())),
        Request::Reset(_, slot) => slot.answer(Err(why.clone())),
        Request::Delete(_, slot) => slot.answer(Err(why.clone())),
        Request::TopicsChanged => {}
    }
}

pub(super) fn join(join: wire::Join) -> machine::Join {
    machine::Join {
        group: join.group,
        member: join.member,
        topics: join.topics,
        session_ms: join.session_ms,
        kind: match join.kind {
            wire::GroupKind::Offset => machine::Kind::Offset,
            wire::GroupKind::Lease => machine::Kind::Lease,
        },
        start: join.start,
    }
}

pub(super) fn offset(offset: wire::CommitOffset) -> CommitOffset {
    CommitOffset {
        partition: TopicPartition { topic: offset.topic, partition: offset.partition },
        offset: offset.offset,
        leader_epoch: offset.leader_epoch,
        metadata: offset.metadata,
    }
}

pub(super) fn commit(commit: wire::Commit) -> machine::Commit {
    let offsets = commit.offsets.into_iter().map(offset).collect();
    machine::Commit { group: commit.group, member: commit.member, generation: commit.generation, n: commit.n, offsets }
}

pub(super) fn start(start: wire::Start) -> machine::Start {
    let offset = |at: wire::StartOffset| (TopicPartition { topic: at.topic, partition: at.partition }, at.offset);
    let offsets = start.offsets.into_iter().map(offset).collect();
    machine::Start { group: start.group, member: start.member, generation: start.generation, offsets }
}

pub(super) fn started(reply: Option<Reply>) -> Result<wire::Started, Refused> {
    let offset =
        |(at, offset): (TopicPartition, u64)| wire::StartOffset { topic: at.topic, partition: at.partition, offset };
    match reply {
        Some(Reply::Started { offsets }) => Ok(wire::Started { offsets: offsets.into_iter().map(offset).collect() }),
        other => Err(Refused::new(Code::Internal, format!("a start was answered with {other:?}"))),
    }
}

pub(super) fn joined(reply: Option<Reply>) -> Result<wire::Joined, Refused> {
    match reply {
        Some(Reply::Joined { member, session_ms, created, start, .. }) => {
            Ok(wire::Joined { member, session_ms, created, start })
        }
        other => Err(Refused::new(Code::Internal, format!("a join was answered with {other:?}"))),
    }
}

pub(super) fn committed(reply: Option<Reply>) -> wire::Committed {
    match reply {
        Some(Reply::Committed { refused: list }) => {
            wire::Committed { refused: list.iter().map(|(place, refusal)| (*place, refused(refusal))).collect() }
        }
        _ => wire::Committed::default(),
    }
}

pub(super) fn assignment(machine: &HomeMachine, group: &Group, member: &MemberId) -> Option<wire::HeartbeatAnswer> {
    let assigned = group.assigned(member)?;
    let assigned = assigned.into_iter().filter_map(|assigned| {
        Some(wire::AssignedPartition {
            topic: assigned.partition.topic,
            name: machine.topics().get(&assigned.partition.topic)?.name.clone(),
            partition: assigned.partition.partition,
            committed: assigned.committed,
            delivered: assigned.delivered,
            attempts: assigned.attempts,
            granted: assigned.granted,
        })
    });
    Some(wire::HeartbeatAnswer { generation: group.generation(), assigned: assigned.collect() })
}

pub(super) fn description(machine: &HomeMachine, name: &GroupName) -> Result<wire::GroupDescription, Refused> {
    let group = machine.group(name).ok_or_else(|| refused(&Refusal::UnknownGroup { group: name.clone() }))?;
    let partition = |partition: TopicPartition| wire::GroupPartition {
        topic: partition.topic,
        name: machine.topics().get(&partition.topic).map(|facts| facts.name.to_string()).unwrap_or_default(),
        partition: partition.partition,
        committed: group.committed(partition).map(|committed| committed.offset),
        member: group.owner(partition).cloned(),
    };
    Ok(wire::GroupDescription {
        kind: kind(group),
        start: group.spec().start,
        generation: group.generation(),
        members: group
            .members()
            .iter()
            .map(|(id, member)| (id.clone(), member.topics.iter().cloned().collect()))
            .collect(),
        partitions: group.partitions().into_iter().map(partition).collect(),
    })
}

pub(super) fn summaries(machine: &HomeMachine) -> Vec<wire::GroupSummary> {
    let summary = |(name, group): (&GroupName, &Group)| wire::GroupSummary {
        group: name.clone(),
        kind: kind(group),
        members: u32::try_from(group.members().len()).expect("limited per group"),
        generation: group.generation(),
    };
    machine.groups().iter().map(summary).collect()
}

fn kind(group: &Group) -> wire::GroupKind {
    match group.spec().kind {
        machine::Kind::Offset => wire::GroupKind::Offset,
        machine::Kind::Lease => wire::GroupKind::Lease,
    }
}

pub(super) fn refused(refusal: &Refusal) -> Refused {
    let code = match refusal {
        Refusal::UnknownGroup { .. } => Code::UnknownGroup,
        Refusal::UnknownMember { .. } => Code::UnknownMember,
        Refusal::StaleGeneration { .. } | Refusal::NotOwner { .. } | Refusal::OldCommit { .. } => Code::StaleGeneration,
        Refusal::UnknownPartition { .. } => Code::UnknownPartition,
        Refusal::NotEmpty { .. } => Code::GroupNotEmpty,
        Refusal::LeasesUnsupported { .. } => Code::Unsupported,
        Refusal::TooManyMembers { .. } | Refusal::TooManyGroups { .. } | Refusal::TooManyTopics { .. } => {
            Code::BadSetting
        }
        Refusal::MetadataTooLong { .. }
        | Refusal::BadOffset { .. }
        | Refusal::Malformed { .. }
        | Refusal::UnknownCommand { .. } => Code::BadRequest,
    };
    Refused::new(code, format!("{refusal}; {}", refusal.advice()))
}
