//! What replicated machines leave on disk, byte for byte: their commands and their checkpoints. A difference here is a new
//! format: raise the machine's version, or add a field that older releases skip and remove the file.
//!
//! `HIGHWATER_GOLDEN=write` writes files that are missing.

#![allow(clippy::unwrap_used, reason = "a test")]

use bytes::Bytes;
use highwater::{
    batch::{Builder, Compression, Producer},
    controller::machine as controller,
    group::machine as home,
    partition::machine as partition,
    types::{Generation, NodeId, Position, ProducerId, TopicId, TopicPartition},
};
use highwater_raft::{
    DirectoryId, GroupId, ReplicaId,
    machine::{At, Command, Machine},
    testing::{golden, golden_text},
};
use std::{collections::BTreeSet, fmt::Debug};

/// Commands and checkpoint of a machine are the stored ones, and all kinds of commands that it knows are among them.
fn check<M: Machine<Reply: Debug> + Default>(name: &str, version: u8, commands: &[Command]) {
    let lines = commands.iter().map(|Command { kind, body }| {
        let digits = body.iter().map(|byte| format!("{byte:02x}"));
        format!("{kind} {}\n", digits.collect::<String>())
    });
    golden_text(&format!("machines/{name}-commands.hex"), &lines.collect::<String>());
    let mut machine = M::default();
    for (n, command) in (1..).zip(commands) {
        let reply = machine.apply(At { index: n, term: 3, stamp_ms: 1_000 * n }, command, &mut Vec::new());
        let said = format!("{reply:?}");
        assert!(!said.contains("Malformed") && !said.contains("UnknownCommand"), "{name}, command {n}: {said}");
    }
    let is_known = |kind: &u8| {
        let command = Command { kind: *kind, body: Bytes::new() };
        let reply = M::default().apply(At { index: 1, term: 3, stamp_ms: 0 }, &command, &mut Vec::new());
        !format!("{reply:?}").contains("UnknownCommand")
    };
    let known: BTreeSet<u8> = (0..=u8::MAX).filter(is_known).collect();
    assert_eq!(known, commands.iter().map(|command| command.kind).collect(), "{name}: kinds, and those in the file");

    let written = machine.checkpoint();
    golden(&format!("machines/{name}-checkpoint-v{version}.hex"), &written);
    assert_eq!(written[0], version);
    let mut restored = M::default();
    restored.restore(&written).unwrap();
    assert_eq!(restored.checkpoint(), written, "{name}: what is read is written the same");
    // A map of one entry more: a field of a later release.
    let mut later = written.to_vec();
    assert_eq!(later[1] & 0xf0, 0x80, "a small map");
    later[1] += 1;
    later.extend([0xa2, b'z', b'z', 0x07]);
    M::default().restore(&later.into()).unwrap_or_else(|e| panic!("{name}: a field that it does not know: {e}"));
    let mut newer = written.to_vec();
    newer[0] += 1;
    let refused = M::default().restore(&newer.into()).unwrap_err().to_string();
    assert!(refused.contains("of another release"), "{refused}");
}

#[test]
fn partition_machine() {
    let batch = |producer: Option<(i64, u32)>, records: usize| {
        let mut builder = Builder::new(Compression::None);
        for n in 0..records {
            builder.push(1_000, Some(b"key"), Some(format!("value {n}").as_bytes()), &[]).unwrap();
        }
        builder.producer(producer.map(|(id, sequence)| Producer { id: ProducerId(id), epoch: 0, sequence }));
        partition::produce(builder.build().unwrap().into_bytes())
    };
    let commands = [
        batch(None, 2),
        batch(Some((7, 0)), 3),
        batch(Some((7, 3)), 1),
        batch(Some((8, 0)), 1),
        partition::Trim { offset: 3 }.command(),
        partition::ExpireProducers { before_ms: 3_500 }.command(),
    ];
    check::<partition::PartitionMachine>("partition", partition::CHECKPOINT_VERSION, &commands);
}

#[test]
fn controller_machine() {
    use controller::Command as C;
    let addresses = |node: u32| controller::Addresses {
        native: format!("node-{node}:7420"),
        peer: format!("node-{node}:7421"),
        control: format!("node-{node}:7422"),
        http: String::new(),
    };
    let seed = |node: u32| controller::Seed {
        node: NodeId(node),
        directory: Some(DirectoryId(u64::from(node))),
        addresses: addresses(node),
    };
    let name = |name: &str| name.parse().unwrap();
    let commands = [
        C::Bootstrap(controller::Bootstrap { cluster_id: 0x1234, seeds: [1, 2, 3].map(seed).into(), homes: 2 }),
        C::RegisterNode(controller::RegisterNode {
            node: NodeId(1),
            directory: DirectoryId(1),
            addresses: addresses(1),
        }),
        C::CreateTopic(controller::CreateTopic {
            name: name("orders"),
            id: TopicId([1; 16]),
            partitions: 2,
            replication_factor: 2,
            settings: vec![("retention.ms".into(), "60000".into())],
            avoid: [NodeId(3)].into(),
        }),
        C::CreateTopic(controller::CreateTopic {
            name: name("gone"),
            id: TopicId([2; 16]),
            partitions: 1,
            replication_factor: 3,
            settings: Vec::new(),
            avoid: Default::default(),
        }),
        C::AlterTopic(controller::AlterTopic {
            name: name("orders"),
            settings: vec![("retention.bytes".into(), Some("1000000".into())), ("retention.ms".into(), None)],
            partitions: 3,
            avoid: Default::default(),
        }),
        C::DeleteTopic(controller::DeleteTopic { name: name("gone"), id: None }),
        C::TakeProducerBlock(controller::TakeProducerBlock { node: NodeId(2) }),
    ];
    let mut commands: Vec<Command> = commands.iter().map(C::encode).collect();
    // A damaged replica, and its way to another one.
    let mut machine = controller::ControllerMachine::default();
    for command in &commands {
        machine.apply(At { index: 1, term: 3, stamp_ms: 0 }, command, &mut Vec::new());
    }
    let faulty = machine.metadata().groups[&GroupId(1_024)].replicas[0].id;
    let faulty = C::ReplicaFaulty(controller::ReplicaFaulty { group: GroupId(1_024), replica: faulty }).encode();
    machine.apply(At { index: 1, term: 3, stamp_ms: 0 }, &faulty, &mut Vec::new());
    let replicas = &machine.metadata().groups[&GroupId(1_024)].replicas;
    let newest = replicas.iter().map(|replica| replica.id).max().unwrap();
    let voters: std::collections::BTreeSet<ReplicaId> = replicas.iter().map(|replica| replica.id).collect();
    commands.push(faulty);
    commands.push(C::ReplicaCaughtUp(controller::ReplicaCaughtUp { group: GroupId(1_024), replica: newest }).encode());
    commands.push(C::Swapped(controller::Swapped { group: GroupId(1_024), voters }).encode());
    // Another directory: of two replicas one is not replaced, and is sound when the old one is back.
    let (node, directory) = (NodeId(2), DirectoryId(22));
    commands.push(C::RegisterNode(controller::RegisterNode { node, directory, addresses: addresses(2) }).encode());
    check::<controller::ControllerMachine>("controller", controller::CHECKPOINT_VERSION, &commands);
}

#[test]
fn home_machine() {
    use home::Command as C;
    let (orders, gone) = (TopicId([1; 16]), TopicId([2; 16]));
    let at = |partition| TopicPartition { topic: orders, partition };
    let group = |name: &str| name.parse().unwrap();
    let member = |name: &str| name.parse().unwrap();
    let facts = |name: &str, partitions| home::TopicFacts { name: name.parse().unwrap(), partitions };
    let join = |who: Option<&str>, start| {
        C::Join(home::Join {
            group: group("billing"),
            member: who.map(member),
            topics: vec!["orders".parse().unwrap()],
            session_ms: 6_000,
            kind: home::Kind::Offset,
            start,
        })
    };
    let report = |who: &str, generation, owned: &[(u32, u64)]| {
        let owned = owned.iter().map(|(partition, delivered)| (at(*partition), *delivered)).collect();
        let generation = Generation(generation);
        C::Reconciled(home::Reconciled { group: group("billing"), member: member(who), generation, owned })
    };
    let offset = |partition, offset| home::CommitOffset {
        partition: at(partition),
        offset,
        leader_epoch: 4,
        metadata: "by hand".into(),
    };
    let commands = [
        C::TopicsChanged(home::TopicsChanged {
            version: 3,
            set: vec![(orders, facts("orders", 3)), (gone, facts("gone", 1))],
            gone: Vec::new(),
        }),
        join(Some("one"), Some(Position::Earliest)),
        C::Start(home::Start {
            group: group("billing"),
            member: member("one"),
            generation: Generation(1),
            offsets: vec![(at(0), 0), (at(1), 5)],
        }),
        join(Some("two"), None),
        report("one", 2, &[(0, 7), (1, 9)]),
        C::Commit(home::Commit {
            group: group("billing"),
            member: Some(member("one")),
            generation: Generation(3),
            n: 1,
            offsets: vec![offset(0, 6)],
        }),
        join(Some("three"), None),
        C::Expire(home::Expire { group: group("billing"), member: member("three"), session: 3 }),
        C::Leave(home::Leave { group: group("billing"), member: member("two") }),
        join(None, None),
        C::Commit(home::Commit {
            group: group("audit"),
            member: None,
            generation: Generation(0),
            n: 0,
            offsets: vec![offset(2, 70)],
        }),
        C::Reset(home::Reset { group: group("audit"), offsets: vec![offset(2, 60)] }),
        C::Commit(home::Commit {
            group: group("brief"),
            member: None,
            generation: Generation(0),
            n: 0,
            offsets: vec![offset(0, 1)],
        }),
        C::Delete(home::Delete { group: group("brief") }),
        C::TopicsChanged(home::TopicsChanged { version: 4, set: Vec::new(), gone: vec![gone] }),
    ];
    let commands = commands.iter().map(C::encode).collect::<Vec<_>>();
    check::<home::HomeMachine>("home", home::CHECKPOINT_VERSION, &commands);
}
