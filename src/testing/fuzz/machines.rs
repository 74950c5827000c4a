//! Replicated machines: any entries, any checkpoints.
//!
//! Promises of `apply`: any bytes give a reply; two machines with the same log are equal, also when one of them went
//! through its checkpoint on the way; so are what they tell, their effects, and what they would do when promoted; each
//! machine's own invariants hold. Promises of a checkpoint: what is read is written as bytes that are read as the same,
//! and a machine that was read takes any command. What stands in front of it, the fence, is read and written as it was.

use super::{Input, KIB, MIB, Target};
use crate::{
    batch,
    controller::machine::{self as controller, ControllerMachine},
    group::machine::{self as group, HomeMachine},
    partition::machine::{self as partition, PartitionMachine},
    replica::Fence,
    types::{Generation, GroupName, MemberId, NodeId, Position, TopicId, TopicName, TopicPartition},
};
use bytes::Bytes;
use highwater_raft::{
    DirectoryId, GroupId, ReplicaId,
    machine::{At, Command, Machine},
};
use std::{any::Any, cell::OnceCell, collections::BTreeSet, fmt::Debug};

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "partition_apply",
        run: apply::<PartitionMachine>,
        seeds: programs::<PartitionMachine>,
        allocates_max: 256 * KIB,
    },
    Target {
        name: "partition_checkpoint",
        run: checkpoint::<PartitionMachine>,
        seeds: checkpoints::<PartitionMachine>,
        allocates_max: 256 * KIB,
    },
    Target {
        name: "controller_apply",
        run: apply::<ControllerMachine>,
        seeds: programs::<ControllerMachine>,
        // A thousand partitions, three replicas each, and two machines.
        allocates_max: 16 * MIB,
    },
    Target {
        name: "controller_checkpoint",
        run: checkpoint::<ControllerMachine>,
        seeds: checkpoints::<ControllerMachine>,
        allocates_max: 16 * MIB,
    },
    Target {
        name: "group_apply",
        run: apply::<HomeMachine>,
        seeds: programs::<HomeMachine>,
        // Some thousand partitions, assigned in two machines.
        allocates_max: 32 * MIB,
    },
    Target {
        name: "group_checkpoint",
        run: checkpoint::<HomeMachine>,
        seeds: checkpoints::<HomeMachine>,
        allocates_max: 32 * MIB,
    },
];

/// Commands of one program at most: a log is long because it has many entries, not because one is.
const COMMANDS_MAX: usize = 20;

trait Fuzzed: Machine<Reply: PartialEq + Debug, Effect: PartialEq + Debug> + Default + Clone + PartialEq + Debug {
    const VERSION: u8;
    /// Commands that lead to a state in which most others find something.
    fn usual() -> Vec<Command>;
    /// That state.
    fn begun() -> Self;
    /// A command that means something, by choices.
    fn command(&self, input: &mut Input<'_>) -> Command;
    /// What holds between a state and the next.
    fn check(before: &Self, after: &Self, reply: &Self::Reply);
}

fn apply<M: Fuzzed>(data: &[u8]) {
    let mut input = Input::new(data);
    let mut machine = M::default();
    let mut at = At { index: 100, term: 1, stamp_ms: 100 };
    if input.u8() % 2 == 1 {
        machine = M::begun();
    }
    let mut other = machine.clone();
    for _ in 0..COMMANDS_MAX {
        if input.is_empty() {
            break;
        }
        let choice = input.u8();
        at = At {
            index: at.index + 1,
            term: at.term + u64::from(choice & 7 == 7),
            stamp_ms: at.stamp_ms.saturating_add(if choice & 8 == 0 { 0 } else { input.u64() }),
        };
        let command = if choice & 16 == 0 { machine.command(&mut input) } else { raw(&mut input) };
        let before = (choice & 64 != 0).then(|| machine.clone());
        let (mut effects, mut others) = (Vec::new(), Vec::new());
        let reply = machine.apply(at, &command, &mut effects);
        if let Some(before) = before {
            M::check(&before, &machine, &reply);
        }
        if choice & 32 != 0 {
            other = restored(&other);
        }
        assert_eq!(other.apply(at, &command, &mut others), reply);
        assert_eq!(others, effects);
    }
    assert_eq!(other.checkpoint(), machine.checkpoint());
    assert_eq!(restored(&other).on_promoted(), machine.on_promoted());
}

/// What the usual commands lead to.
fn after<M: Fuzzed>(commands: Vec<Command>) -> M {
    let mut machine = M::default();
    for (index, command) in (1..).zip(commands) {
        machine.apply(At { index, term: 1, stamp_ms: index }, &command, &mut Vec::new());
    }
    machine
}

/// Made once: it is the beginning of half of all programs.
macro_rules! begun {
    () => {
        fn begun() -> Self {
            thread_local! {
                static BEGUN: OnceCell<Box<dyn Any>> = const { OnceCell::new() };
            }
            BEGUN.with(|begun| {
                let begun = begun.get_or_init(|| Box::new(after::<Self>(Self::usual())));
                begun.downcast_ref::<Self>().expect("one static for each machine").clone()
            })
        }
    };
}

fn raw(input: &mut Input<'_>) -> Command {
    let (kind, len) = (input.u8(), usize::from(input.u8()));
    Command { kind, body: Bytes::copy_from_slice(input.bytes(len)) }
}

fn restored<M: Fuzzed>(machine: &M) -> M {
    let stored = machine.checkpoint();
    let mut read = M::default();
    read.restore(&stored).expect("what was written is read");
    assert_eq!(&read, machine);
    assert_eq!(read.checkpoint(), stored);
    read
}

fn checkpoint<M: Fuzzed>(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.u8();
    let rest = input.rest();
    let bytes = if choice & 1 == 0 { [&[M::VERSION], rest].concat() } else { rest.to_vec() };
    if let Ok((fence, behind)) = Fence::unwrap(Bytes::copy_from_slice(rest)) {
        assert_eq!(fence.wrap(&behind), rest, "one fence, two encodings");
    }
    let mut machine = M::default();
    if machine.restore(&bytes.into()).is_err() {
        assert_eq!(machine, M::default(), "what was refused changed something");
        return;
    }
    restored(&machine);
    let at = At { index: 1, term: 1, stamp_ms: 5 };
    let choices = [choice, choice / 2, 0, 1, choice / 3, 2, 0, 3, 1, choice];
    for n in 0..24 {
        let command = machine.command(&mut Input::new(&[&[n], &choices[..]].concat()));
        machine.apply(at, &command, &mut Vec::new());
    }
    M::usual().iter().for_each(|command| drop(machine.apply(at, command, &mut Vec::new())));
    machine.on_promoted();
    restored(&machine);
}

/// Each usual command as raw bytes; all of them one behind the other; and choices.
fn programs<M: Fuzzed>() -> Vec<Vec<u8>> {
    let raw = |command: &Command| {
        let len = u8::try_from(command.body.len()).unwrap_or(u8::MAX);
        [&[16, command.kind, len], &command.body[..usize::from(len)]].concat()
    };
    let commands: Vec<_> = M::usual().iter().map(raw).collect();
    let all = [vec![0], commands.concat()].concat();
    let choices: Vec<u8> = (0..=240).collect();
    let each = commands.into_iter().map(|command| [vec![1], command].concat());
    each.chain([all, choices.clone(), choices.into_iter().rev().collect()]).collect()
}

fn checkpoints<M: Fuzzed>() -> Vec<Vec<u8>> {
    let mut machine = M::default();
    let mut seeds = Vec::new();
    for (index, command) in (1..).zip(M::usual()) {
        machine.apply(At { index, term: 1, stamp_ms: index }, &command, &mut Vec::new());
        seeds.push([&[1], &machine.checkpoint()[..]].concat());
    }
    let last = seeds.pop().map(|last| [&[0], &last[2..]].concat());
    seeds.into_iter().step_by(3).chain(last).collect()
}

impl Fuzzed for PartitionMachine {
    const VERSION: u8 = partition::CHECKPOINT_VERSION;
    begun!();

    fn usual() -> Vec<Command> {
        vec![
            partition::produce(header_only(None, 2)),
            partition::produce(header_only(Some((1, 0, 0)), 3)),
            partition::produce(header_only(Some((1, 0, 3)), 1)),
            partition::produce(header_only(Some((2, 0, 0)), i32::MAX)),
            partition::produce(header_only(Some((2, 0, i32::MAX)), 4)),
            partition::Trim { offset: 3 }.command(),
            partition::ExpireProducers { before_ms: 1 }.command(),
        ]
    }

    fn command(&self, input: &mut Input<'_>) -> Command {
        let choice = input.u8();
        match choice % 8 {
            0 => partition::Trim { offset: self.next_offset().saturating_sub(input.u64()) }.command(),
            1 => partition::ExpireProducers { before_ms: input.u64() }.command(),
            2 => partition::produce(header_only(None, i32::from(input.u8()))),
            _ => {
                let (id, epoch) = (i64::from(choice >> 6), i16::from(input.u8() % 3));
                let near = i32::from(input.u8());
                let sequence = if near < 192 { near / 8 } else { i32::MAX - (near - 192) / 4 };
                let records = [1, 2, 3, i32::MAX][input.below(4)];
                partition::produce(header_only(Some((id, epoch, sequence)), records))
            }
        }
    }

    fn check(before: &Self, after: &Self, reply: &partition::Reply) {
        assert!(before.log_start() <= after.log_start() && after.log_start() <= after.next_offset());
        let appended = after.next_offset() - before.next_offset();
        match reply {
            partition::Reply::Produced { base_offset, records, duplicate: false, .. } => {
                assert_eq!((*base_offset, u64::from(*records)), (before.next_offset(), appended));
            }
            partition::Reply::Produced { base_offset, records, .. } => {
                assert!(base_offset + u64::from(*records) <= after.next_offset() && appended == 0);
            }
            _ => assert_eq!(appended, 0),
        }
        assert!(after.epochs().iter().all(|(epoch, first)| after.epoch_of(*first) == Some(*epoch)));
        assert_eq!(after.oldest_producer_stamp_ms().is_some(), after.producers_len() > 0);
    }
}

/// A batch without records: the machine does not look at them.
fn header_only(producer: Option<(i64, i16, i32)>, records: i32) -> Bytes {
    let (producer_id, producer_epoch, base_sequence) = producer.unwrap_or((-1, -1, -1));
    let header = batch::Header {
        base_offset: 0,
        batch_length: 49,
        partition_leader_epoch: -1,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: records.wrapping_sub(1),
        base_timestamp: 5,
        max_timestamp: 9,
        producer_id,
        producer_epoch,
        base_sequence,
        records_count: records,
    };
    Bytes::copy_from_slice(&header.to_bytes())
}

const TOPICS: [&str; 3] = ["orders", "logs", "x"];

fn topic_name(n: usize) -> TopicName {
    TOPICS[n % TOPICS.len()].parse().expect("a name")
}

impl Fuzzed for ControllerMachine {
    const VERSION: u8 = controller::CHECKPOINT_VERSION;
    begun!();

    fn usual() -> Vec<Command> {
        use controller::Command as C;
        let seed = |node| controller::Seed {
            node: NodeId(node),
            directory: Some(DirectoryId(node.into())),
            addresses: controller::Addresses::default(),
        };
        let create = |n, partitions| controller::CreateTopic {
            name: topic_name(n),
            id: TopicId([u8::try_from(n).unwrap_or(0); 16]),
            partitions,
            replication_factor: 0,
            settings: vec![("retention.ms".into(), "60000".into())],
            avoid: [NodeId(3)].into(),
        };
        let group = GroupId(1_024);
        let commands = [
            C::Bootstrap(controller::Bootstrap { cluster_id: 0x1234, seeds: [1, 2, 3].map(seed).into(), homes: 2 }),
            C::CreateTopic(create(0, 2)),
            C::CreateTopic(create(1, 1)),
            C::AlterTopic(controller::AlterTopic {
                name: topic_name(0),
                settings: vec![("retention.ms".into(), None)],
                partitions: 3,
                avoid: BTreeSet::new(),
            }),
            C::RegisterNode(controller::RegisterNode {
                node: NodeId(2),
                directory: DirectoryId(77),
                addresses: controller::Addresses::default(),
            }),
            C::TakeProducerBlock(controller::TakeProducerBlock { node: NodeId(2) }),
            C::DeleteTopic(controller::DeleteTopic { name: topic_name(1), id: None }),
            C::ReplicaFaulty(controller::ReplicaFaulty { group, replica: ReplicaId(65_542) }),
            C::ReplicaCaughtUp(controller::ReplicaCaughtUp { group, replica: ReplicaId(65_560) }),
            C::Swapped(controller::Swapped { group, voters: [ReplicaId(65_560)].into() }),
        ];
        commands.iter().map(C::encode).collect()
    }

    fn command(&self, input: &mut Input<'_>) -> Command {
        use controller::Command as C;
        let choice = input.u8();
        let metadata = self.metadata();
        let name = topic_name(usize::from(choice >> 4));
        let node = NodeId(u32::from(input.u8() % 6));
        let groups: Vec<_> = metadata.groups.keys().copied().collect();
        let group = groups.get(input.below(groups.len())).copied().unwrap_or_default();
        let replicas = metadata.groups.get(&group).map(|group| group.replicas.clone()).unwrap_or_default();
        let replica = replicas.get(input.below(replicas.len())).map(|replica| replica.id).unwrap_or_default();
        let avoid = BTreeSet::from([NodeId(u32::from(choice % 4))]);
        let command = match choice % 10 {
            0 | 1 => {
                let id = TopicId([choice >> 4; 16]);
                let (many, replication_factor) = (u32::from(input.u8()), u32::from(input.u8() % 9));
                let partitions = if many < 252 { many % 12 } else { many + 747 };
                let settings = Vec::new();
                C::CreateTopic(controller::CreateTopic { name, id, partitions, replication_factor, settings, avoid })
            }
            2 => {
                let value = std::str::from_utf8(input.bytes(4)).ok().map(str::to_owned);
                let setting = controller::NAMES[input.below(controller::NAMES.len())].to_owned();
                let (settings, partitions) = (vec![(setting, value)], u32::from(input.u8() % 16));
                C::AlterTopic(controller::AlterTopic { name, settings, partitions, avoid })
            }
            3 => C::DeleteTopic(controller::DeleteTopic { name, id: None }),
            4 => {
                let (directory, addresses) = (DirectoryId(input.u64()), controller::Addresses::default());
                C::RegisterNode(controller::RegisterNode { node, directory, addresses })
            }
            5 => C::ReplicaFaulty(controller::ReplicaFaulty { group, replica }),
            6 => C::ReplicaCaughtUp(controller::ReplicaCaughtUp { group, replica }),
            7 => {
                let voters =
                    replicas.iter().filter(|_| input.u8().is_multiple_of(2)).map(|replica| replica.id).collect();
                C::Swapped(controller::Swapped { group, voters })
            }
            8 => C::TakeProducerBlock(controller::TakeProducerBlock { node }),
            _ => {
                let seed = |node| controller::Seed {
                    node: NodeId(node),
                    directory: None,
                    addresses: controller::Addresses::default(),
                };
                let seeds = (0..u32::from(input.u8() % 9)).map(seed).collect();
                C::Bootstrap(controller::Bootstrap { cluster_id: input.u64(), seeds, homes: input.u64() })
            }
        };
        command.encode()
    }

    fn check(before: &Self, after: &Self, _: &controller::Reply) {
        let (before, after) = (before.metadata(), after.metadata());
        assert!(before.version <= after.version);
        assert_eq!(before.version == after.version, before == after, "equal versions are equal metadata");
        let mut ids = BTreeSet::new();
        for replica in after.groups.values().flat_map(|group| &group.replicas) {
            assert!(ids.insert(replica.id), "{} is the id of two replicas", replica.id);
        }
        for topic in after.topics.values() {
            assert!(topic.partitions.iter().all(|group| after.groups.contains_key(group)));
        }
    }
}

impl Fuzzed for HomeMachine {
    const VERSION: u8 = group::CHECKPOINT_VERSION;
    begun!();

    fn usual() -> Vec<Command> {
        use group::Command as C;
        let topics = |version, partitions| {
            let facts = |n| (TopicId([u8::try_from(n).unwrap_or(0); 16]), fact(n, partitions));
            C::TopicsChanged(group::TopicsChanged { version, set: vec![facts(0), facts(1)], gone: Vec::new() })
        };
        let join = |who: Option<usize>| {
            C::Join(group::Join {
                group: group_name(0),
                member: who.map(member),
                topics: vec![topic_name(0), topic_name(1)],
                session_ms: 500,
                kind: group::Kind::Offset,
                start: Some(Position::Earliest),
            })
        };
        let at = |partition| TopicPartition { topic: TopicId([0; 16]), partition };
        let offset = group::CommitOffset { partition: at(0), offset: 7, leader_epoch: 1, metadata: "m".into() };
        let (g, m) = (group_name(0), member(0));
        let commands = [
            topics(1, 2),
            join(Some(0)),
            C::Start(group::Start {
                group: g.clone(),
                member: m.clone(),
                generation: Generation(2),
                offsets: vec![(at(1), 4)],
            }),
            C::Commit(group::Commit {
                group: g.clone(),
                member: Some(m.clone()),
                generation: Generation(2),
                n: 1,
                offsets: vec![offset.clone()],
            }),
            join(Some(1)),
            C::Reconciled(group::Reconciled {
                group: g.clone(),
                member: m.clone(),
                generation: Generation(5),
                owned: vec![(at(0), 9)],
            }),
            topics(2, 4),
            join(None),
            C::Expire(group::Expire { group: g.clone(), member: m, session: 1 }),
            C::Leave(group::Leave { group: g.clone(), member: member(1) }),
            C::Reset(group::Reset { group: g, offsets: vec![offset] }),
            C::Delete(group::Delete { group: group_name(1) }),
        ];
        commands.iter().map(C::encode).collect()
    }

    fn command(&self, input: &mut Input<'_>) -> Command {
        use group::Command as C;
        let choice = input.u8();
        let name = group_name(usize::from(choice >> 7));
        let who = member(input.below(4));
        let now = self.group(&name).map(group::Group::generation).unwrap_or_default();
        let command = match choice % 12 {
            0 | 1 => {
                let wants = input.u8();
                C::Join(group::Join {
                    group: name,
                    member: (wants & 8 == 0).then_some(who),
                    topics: (0..3).filter(|n| wants & (1 << n) != 0).map(topic_name).collect(),
                    session_ms: u32::from(input.u8()),
                    kind: if wants & 16 == 0 { group::Kind::Offset } else { group::Kind::Lease },
                    start: None,
                })
            }
            2 => C::Leave(group::Leave { group: name, member: who }),
            3 => {
                let known = self.group(&name).and_then(|group| group.members().get(&who)).map(|member| member.session);
                let session = known.unwrap_or_default().saturating_sub(input.u64());
                C::Expire(group::Expire { group: name, member: who, session })
            }
            4..=6 => {
                let generation = Generation(now.0.saturating_sub(u64::from(input.u8() % 3)));
                let keeps = input.u8();
                let owned = (0..8).filter(|bit| keeps & (1 << bit) != 0).map(|bit| (place(bit), input.u64())).collect();
                C::Reconciled(group::Reconciled { group: name, member: who, generation, owned })
            }
            7 | 8 => {
                let (generation, n) = (Generation(now.0.saturating_sub(u64::from(input.u8() % 3))), input.u64());
                let member = (choice & 64 == 0).then_some(who);
                C::Commit(group::Commit { group: name, member, generation, n, offsets: vec![commit(input)] })
            }
            9 => {
                let offsets = vec![(place(input.u8()), input.u64())];
                C::Start(group::Start { group: name, member: who, generation: now, offsets })
            }
            10 if choice & 64 == 0 => C::Reset(group::Reset { group: name, offsets: vec![commit(input)] }),
            10 => C::Delete(group::Delete { group: name }),
            _ => {
                let version = self.topics_version().saturating_add(u64::from(input.u8() % 3));
                let n = input.below(4);
                let facts = (TopicId([input.u8() % 4; 16]), fact(n, u32::from(input.u8() % 12)));
                let gone = if choice & 32 == 0 { Vec::new() } else { vec![TopicId([input.u8() % 4; 16])] };
                C::TopicsChanged(group::TopicsChanged { version, set: vec![facts], gone })
            }
        };
        command.encode()
    }

    fn check(before: &Self, after: &Self, reply: &group::Reply) {
        assert!(before.topics_version() <= after.topics_version());
        if matches!(reply, group::Reply::Refused(refusal) if !matches!(refusal, group::Refusal::NotEmpty { .. })) {
            assert_eq!(before.groups(), after.groups(), "{reply:?} changed something");
        }
        for (name, group) in after.groups() {
            if let Some(earlier) = before.group(name) {
                assert!(earlier.generation() <= group.generation());
            }
            for member in group.members().keys() {
                let assigned = group.assigned(member).expect("it is a member");
                assert!(assigned.iter().all(|place| group.owner(place.partition) == Some(member)));
                assert!(assigned.iter().all(|place| place.granted <= group.generation()));
            }
        }
    }
}

fn group_name(n: usize) -> GroupName {
    ["g", "h"][n % 2].parse().expect("a name")
}

fn member(n: usize) -> MemberId {
    ["a", "b", "c", "member-1"][n % 4].parse().expect("a name")
}

fn fact(n: usize, partitions: u32) -> group::TopicFacts {
    group::TopicFacts { name: topic_name(n), partitions }
}

fn place(n: u8) -> TopicPartition {
    TopicPartition { topic: TopicId([n & 1; 16]), partition: u32::from(n >> 1) }
}

fn commit(input: &mut Input<'_>) -> group::CommitOffset {
    let (partition, offset) = (place(input.u8()), input.u64());
    group::CommitOffset { partition, offset, leader_epoch: 1, metadata: String::new() }
}
