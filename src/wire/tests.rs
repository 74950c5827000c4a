//! Every kind of frame: its bytes as golden files, its readers' tolerance, and what becomes of damaged ones.
//!
//! `HIGHWATER_GOLDEN=write cargo test --lib wire::` writes files that are missing.

use super::*;
use crate::types::{AckLevel, Generation, NodeId, Position, ProducerId, TopicId};
use bytes::Bytes;
use highwater_raft::testing::{golden, golden_text};

const TOPIC: TopicId = TopicId(*b"0123456789abcdef");

fn refused() -> Refused {
    Refused { leader: Some(NodeId(3)), leader_epoch: 9, ..Refused::new(Code::NotLeader, "ask node 3") }
}

fn wanted() -> FetchPartition {
    FetchPartition { topic: TOPIC, partition: 2, offset: 1 << 40, bytes_max: 1 << 20, from_follower: true }
}

fn fetched() -> FetchedPartition {
    FetchedPartition { topic: TOPIC, partition: 2, refused: None, log_start: 5, high_watermark: 900, bytes: 70 }
}

fn committed() -> CommitOffset {
    CommitOffset { topic: TOPIC, partition: 1, offset: 77, leader_epoch: 4, metadata: "by hand".into() }
}

/// One message of each kind with every field set.
pub(crate) fn samples() -> Vec<Message> {
    let name = || "orders".parse::<crate::types::TopicName>().unwrap();
    let group = || "billing".parse::<crate::types::GroupName>().unwrap();
    let member = || "m-1".parse::<crate::types::MemberId>().unwrap();
    let owned = OwnedPartition { topic: TOPIC, partition: 1, delivered: 80 };
    let assigned = AssignedPartition {
        topic: TOPIC,
        name: name(),
        partition: 1,
        committed: Some(77),
        delivered: 80,
        attempts: 2,
        granted: Generation(4),
    };
    let start = StartOffset { topic: TOPIC, partition: 1, offset: 70 };
    let topic = TopicMetadata {
        name: name(),
        id: TOPIC,
        replication_factor: 3,
        settings: vec![("retention.ms".into(), "1000".into())],
        partitions: vec![PartitionMetadata {
            leader: Some(NodeId(1)),
            leader_epoch: 4,
            replicas: vec![NodeId(1), NodeId(2)],
            offline: true,
            damaged: Vec::new(),
        }],
    };
    let status = NodeStatus { node: NodeId(1), address: "host:7420".into(), alive: true, leaders: 4, replicas: 12 };
    vec![
        refused().into(),
        Hello { version_min: 1, version_max: 2, client: "test".into() }.into(),
        Welcome { version: 1, node: NodeId(2), cluster_id: 1 << 60, batch_bytes_max: 1 << 20 }.into(),
        Metadata { topics: Some(vec![name()]), wait_ms: 750, after: 12 }.into(),
        MetadataAnswer {
            version: 12,
            nodes: vec![NodeAddress { node: NodeId(1), address: "host:7420".into() }],
            topics: vec![topic],
            news: 40,
        }
        .into(),
        Produce { topic: TOPIC, partition: 3, ack: AckLevel::Leader, timeout_ms: 500 }.into(),
        Produced {
            base_offset: Some(900),
            leader_epoch: 4,
            level: AckLevel::Quorum,
            quorum: 2,
            voters: 3,
            duplicate: true,
        }
        .into(),
        Fetch { wait_ms_max: 500, bytes_min: 1, records_min: 2, bytes_max: 1 << 20, partitions: vec![wanted()] }.into(),
        Fetched { partitions: vec![fetched(), FetchedPartition { refused: Some(refused()), bytes: 0, ..fetched() }] }
            .into(),
        ListOffsets { partitions: vec![OffsetQuery { topic: TOPIC, partition: 1, at: Position::Time(-5) }] }.into(),
        ListedOffsets { partitions: vec![OffsetAnswer { refused: Some(refused()), offset: 7, leader_epoch: 4 }] }
            .into(),
        InitProducer {}.into(),
        ProducerReady { producer: ProducerId(1 << 50), epoch: 3 }.into(),
        Subscribe { partitions: vec![wanted()], records: 100, bytes: 1 << 20 }.into(),
        Delivery { partition: fetched(), records: 7 }.into(),
        Grant { records: 10, bytes: 1000 }.into(),
        Unsubscribe { partitions: vec![(TOPIC, 2)] }.into(),
        Done {}.into(),
        CreateTopic {
            name: name(),
            id: None,
            partitions: 12,
            replication_factor: 3,
            settings: vec![("retention.ms".into(), "1000".into())],
        }
        .into(),
        TopicCreated { id: TOPIC, partitions: 12, replication_factor: 3 }.into(),
        DeleteTopic { name: name(), id: None }.into(),
        AlterTopic { name: name(), settings: vec![("retention.ms".into(), None)], partitions: 24 }.into(),
        FindGroup { group: group() }.into(),
        GroupFound { node: Some(NodeId(2)), address: "host:7420".into() }.into(),
        Join {
            group: group(),
            member: Some(member()),
            topics: vec![name()],
            session_ms: 10_000,
            kind: GroupKind::Lease,
            start: Some(Position::Earliest),
        }
        .into(),
        Joined { member: member(), session_ms: 9000, created: true, start: Position::Offset(5) }.into(),
        Heartbeat { group: group(), member: member(), generation: Generation(4), owned: vec![owned], wait_ms: 3000 }
            .into(),
        HeartbeatAnswer { generation: Generation(5), assigned: vec![assigned] }.into(),
        Leave { group: group(), member: member() }.into(),
        Commit { group: group(), member: Some(member()), generation: Generation(5), n: 6, offsets: vec![committed()] }
            .into(),
        Committed { refused: vec![(0, refused())] }.into(),
        ListGroups {}.into(),
        GroupList {
            groups: vec![GroupSummary {
                group: group(),
                kind: GroupKind::Offset,
                members: 2,
                generation: Generation(5),
            }],
            missing: vec![3],
        }
        .into(),
        DescribeGroup { group: group() }.into(),
        GroupDescription {
            kind: GroupKind::Offset,
            start: Position::Latest,
            generation: Generation(5),
            members: vec![(member(), vec![name()])],
            partitions: vec![GroupPartition {
                topic: TOPIC,
                name: "orders".into(),
                partition: 1,
                committed: Some(77),
                member: Some(member()),
            }],
        }
        .into(),
        ResetGroup { group: group(), offsets: vec![committed()] }.into(),
        DeleteGroup { group: group() }.into(),
        ClusterStatus {}.into(),
        ClusterStatusAnswer {
            name: "prod".into(),
            cluster_id: 1 << 60,
            controller: Some(NodeId(1)),
            nodes: vec![status],
            topics: 3,
            partitions: 36,
            leaderless: 1,
            offline: 2,
            replicas: vec![ReplicaStatus {
                group: 1_030,
                topic: Some(name()),
                partition: 6,
                node: NodeId(3),
                replica: 65_600,
                state: ReplicaState::Learner,
            }],
        }
        .into(),
        TransferLeader { topic: TOPIC, partition: 1, to: NodeId(2) }.into(),
        Start { group: group(), member: member(), generation: Generation(4), offsets: vec![start] }.into(),
        Started { offsets: vec![start] }.into(),
    ]
}

fn encode(message: Message) -> Vec<u8> {
    Frame::new(0x0102_0304, message).encode_head().to_vec()
}

fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
    let header = Header::decode(bytes)?;
    Frame::decode(header, Bytes::copy_from_slice(&bytes[HEADER_LEN..]))
}

#[test]
fn there_is_a_sample_of_every_kind() {
    let kinds: Vec<_> = samples().iter().map(Message::kind).collect();
    assert_eq!(kinds, Kind::ALL);
}

#[test]
fn frames_are_what_they_were() {
    for message in samples() {
        let bytes = encode(message.clone());
        golden(&format!("wire/{:02}-{:?}.hex", message.kind() as u8, message.kind()), &bytes);
        assert_eq!(decode(&bytes).unwrap().message, message);
    }
    assert_eq!(VERSION, 1);
}

/// Their numbers are in refusals, their names in metrics.
#[test]
fn codes_are_what_they_were() {
    let lines = Code::ALL.iter().map(|code| format!("{} {}\n", *code as u16, code.name()));
    golden_text("codes.txt", &lines.collect::<String>());
    // One that is left out of the list would be read as another.
    let read = (0..=u16::MAX).filter(|n| u16::from(Code::from(*n)) == *n);
    assert_eq!(read.collect::<Vec<_>>(), (1..=Code::OutcomeUnknown as u16).collect::<Vec<_>>());
}

#[test]
fn an_unknown_field_is_skipped() {
    for message in samples() {
        let mut head = encode(message.clone()).split_off(HEADER_LEN);
        assert_eq!(head[0] & 0xf0, 0x80, "heads are maps of fewer than 15 fields");
        head[0] += 1;
        // "zz": [1, {"a": nil}], which no version knows.
        head.extend([0xa2, b'z', b'z', 0x92, 0x01, 0x81, 0xa1, b'a', 0xc0]);
        assert_eq!(Message::decode(message.kind(), &head), Ok(message));
    }
}

#[test]
fn a_frame_cut_anywhere_is_refused() {
    for message in samples() {
        let kind = message.kind();
        let whole = encode(message);
        let expected = whole.len() - HEADER_LEN;
        for len in 0..whole.len() {
            let said = decode(&whole[..len]).unwrap_err().to_string();
            let missing = match len.checked_sub(HEADER_LEN) {
                None => format!("frame cut off: {len} of {HEADER_LEN} bytes"),
                Some(found) => format!("frame cut off: {found} of {expected} bytes"),
            };
            assert_eq!(said, missing, "{kind:?} cut to {len} bytes");
        }
        // A head cut with its length set right: a map that ends too early.
        for len in 0..whole.len() - HEADER_LEN {
            let said = Message::decode(kind, &whole[HEADER_LEN..HEADER_LEN + len]).unwrap_err().to_string();
            let missing = format!("head of {kind:?} does not decode: it ends after {len} bytes, with more announced");
            assert_eq!(said, missing);
        }
    }
}

#[test]
fn any_byte_changed_is_another_frame_or_refused_but_never_a_panic() {
    for message in samples() {
        let whole = encode(message);
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] ^= flip;
                let _ = decode(&changed);
            }
        }
    }
}

#[test]
fn a_list_is_not_believed_its_length() {
    // {"p": array of 2^32-1 elements}: nothing is made for what is not there.
    let mut head = vec![0x81, 0xa1, b'p', 0xdd, 0xff, 0xff, 0xff, 0xff];
    head.extend([0xc0; 4]);
    for kind in [Kind::Fetch, Kind::Fetched, Kind::ListOffsets, Kind::Unsubscribe] {
        assert!(Message::decode(kind, &head).is_err());
    }
}

#[test]
fn names_are_checked_in_heads_too() {
    for bad in ["", "..", "a/b", &"x".repeat(300)] {
        let mut head = vec![0x81, 0xa1, b'n', 0xda];
        head.extend(u16::try_from(bad.len()).unwrap().to_be_bytes());
        head.extend(bad.as_bytes());
        let error = Message::decode(Kind::DeleteTopic, &head).unwrap_err();
        assert!(error.to_string().contains("name"), "{error}");
    }
}
