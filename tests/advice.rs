//! All texts that a user can read when something goes wrong, in one place to read and to judge:
//! `tests/snapshots/advice__texts.snap`. `tests/tidy.rs` holds that no variant of a public error is left out.

#![allow(clippy::unwrap_used, reason = "test helpers fail by panicking")]

use highwater::{
    advice::Advice,
    auth::AdmissionError,
    batch::{BatchError, BuildError, Compression, RecordsError},
    client::{
        self, AdminError, ConnectError, ConsumeError, LookupError, RequestError, SendError, producer::FlushError,
    },
    config::{Problem, Problems},
    controller::{ExecuteError, machine::SettingError},
    gateway::ListenError,
    node::NodeError,
    partition::{self, FetchError, Unavailable},
    runtime::{ArbitersError, CourierError, PoolFull},
    tls::TlsError,
    types::{Generation, GroupName, MemberId, NameError, NodeId, ProducerId, TopicId, TopicName, TopicPartition},
    wire::{Code, FrameError, Kind, LinkClosed, Refused, quic::NEEDS_CERTIFICATE},
};
use highwater_raft::{
    self as raft, GroupId, ReplicaId, group, log, machine,
    transport::{self, Lane, quic, rpc, tls},
};
use std::{fmt, fmt::Write as _, io, time::Duration};

#[test]
fn texts() {
    let mut out = String::new();
    say(&mut out, "raft: open a log", opening_a_log());
    say(&mut out, "raft: create a log", creating_a_log());
    say(&mut out, "raft: read a log", reading_a_log());
    say(&mut out, "raft: open a group", opening_a_group());
    say(&mut out, "raft: barrier", at_a_barrier());
    say(&mut out, "raft: change members", changing_members());
    say(&mut out, "raft: transfer", transferring());
    say(&mut out, "raft: request", requests_of_a_host());
    say(
        &mut out,
        "raft: machines",
        [machine::Damaged { what: "partition checkpoint", why: "it ends in a field".into() }],
    );
    say(&mut out, "raft: send", sends_of_a_network());
    say(&mut out, "raft: call", calls());
    say(&mut out, "raft: trust", trust());
    say(&mut out, "raft: identity", identities());
    say(&mut out, "raft: start a network", starting_a_network());
    say(&mut out, "names", names());
    say(&mut out, "batches", batches());
    say(&mut out, "records", records());
    say(&mut out, "building batches", building());
    say(&mut out, "certificates", certificates());
    say(&mut out, "frames", frames());
    say(&mut out, "connections", [LinkClosed("reset by peer".into())]);
    say(&mut out, "config", [Problems(vec![problem(Some(3), "unknown key nodes"), problem(None, "cannot be read")])]);
    say(&mut out, "pools", [PoolFull { pool: "produce", wanted: 70_000, taken: 60_000, limit: 100_000 }]);
    say(&mut out, "arbiters", [ArbitersError::Stopped { arbiter: 2 }]);
    say(&mut out, "between nodes", between_nodes());
    say(&mut out, "settings", settings());
    say(&mut out, "listeners", listeners());
    say(&mut out, "partition: produce", produce_at_partition());
    say(&mut out, "partition: fetch", fetch_at_partition());
    say(&mut out, "partition: lead", leading());
    say(&mut out, "partition: refusals", refusals_of_partition());
    say(&mut out, "controller", at_controller());
    say(&mut out, "controller: refusals", refusals_of_controller());
    say(&mut out, "group: refusals", refusals_of_group());
    say(&mut out, "node", at_node());
    say(&mut out, "client: connect", connecting());
    say(&mut out, "client: request", requests());
    say(&mut out, "client: topics", lookups());
    say(&mut out, "client: send", sends());
    say(&mut out, "client: produce", produce_at_client());
    say(&mut out, "client: flush", [FlushError { failures: 3, first: client::ProduceError::Closed }]);
    say(&mut out, "client: consume", consume_at_client());
    say(&mut out, "client: administer", administering());
    say(&mut out, "embed: publish", publishing());
    insta::assert_snapshot!(out);
}

fn say<E: Advice + fmt::Display + fmt::Debug>(out: &mut String, title: &str, errors: impl IntoIterator<Item = E>) {
    writeln!(out, "== {title}").unwrap();
    for error in errors {
        let (text, advice) = (error.to_string(), error.advice());
        assert!(!text.is_empty() && !advice.is_empty(), "{error:?}");
        assert!(!text.ends_with('.') && !advice.ends_with('.'), "no full stop: {error:?}: {text}: {advice}");
        writeln!(out, "{text}\n    {:?}: {advice}", error.reaction()).unwrap();
    }
}

fn topic() -> TopicName {
    "orders".parse().unwrap()
}

fn refused() -> Refused {
    Refused::new(Code::NotLeader, "node 2 leads")
}

fn failed() -> io::Error {
    io::Error::other("Input/output error")
}

fn opening_a_log() -> Vec<log::OpenError> {
    use log::OpenError;
    vec![
        OpenError::Io(failed()),
        OpenError::Damaged { file: "directory".into(), why: "its checksum does not match".into() },
        OpenError::Version { file: "wal/7".into(), found: 9, known: 1 },
    ]
}

fn creating_a_log() -> Vec<log::CreateError> {
    use log::CreateError;
    let group = GroupId(1_024);
    vec![
        CreateError::Exists { group, existing: ReplicaId(65_536), wanted: ReplicaId(65_537) },
        CreateError::Dead { group, replica: ReplicaId(65_536) },
        CreateError::Io(failed()),
    ]
}

fn reading_a_log() -> Vec<log::ReadError> {
    use log::ReadError;
    vec![ReadError::BelowStart { start: 300 }, ReadError::Damaged { first: 7, end: 90 }, ReadError::Io(failed())]
}

fn opening_a_group() -> Vec<group::OpenError> {
    use group::OpenError;
    let (group, replica) = (GroupId(1_024), ReplicaId(65_536));
    vec![
        OpenError::AlreadyOpen { group, replica },
        OpenError::Log { group, source: log::CreateError::Dead { group, replica } },
        OpenError::Start { group, why: "partition checkpoint: it ends in a field".into() },
    ]
}

/// Who leads.
fn hint() -> Option<(ReplicaId, raft::NodeId)> {
    Some((ReplicaId(65_536), raft::NodeId(2)))
}

fn stopped() -> String {
    "replica has stopped".into()
}

fn at_a_barrier() -> Vec<group::BarrierError> {
    use group::BarrierError;
    vec![
        BarrierError::NotLeader { hint: hint() },
        BarrierError::NotLeader { hint: None },
        BarrierError::NoQuorum { after: Duration::from_millis(900) },
        BarrierError::Gone { why: stopped() },
    ]
}

fn changing_members() -> Vec<group::ChangeError> {
    use group::ChangeError;
    vec![
        ChangeError::NotLeader { hint: hint() },
        ChangeError::InProgress,
        ChangeError::Impossible { why: "Learner 65537 not found".into() },
        ChangeError::TimedOut { after: Duration::from_secs(10) },
        ChangeError::Gone { why: stopped() },
    ]
}

fn transferring() -> Vec<group::TransferError> {
    use group::TransferError;
    let to = ReplicaId(65_537);
    vec![
        TransferError::NotLeader { hint: hint() },
        TransferError::NotVoter { to },
        TransferError::NotReady { to, why: "node 3 is suspected".into() },
        TransferError::TimedOut { to, after: Duration::from_secs(1) },
        TransferError::Gone { why: stopped() },
    ]
}

fn requests_of_a_host() -> Vec<group::RequestError> {
    let node = raft::NodeId(2);
    vec![
        group::RequestError::Unreachable { node },
        group::RequestError::TimedOut { node, after: Duration::from_secs(5) },
        group::RequestError::Lost { node, why: "node 2 dropped the request".into() },
    ]
}

fn sends_of_a_network() -> Vec<transport::SendError> {
    use transport::SendError;
    let node = raft::NodeId(2);
    vec![
        SendError::UnknownPeer { node },
        SendError::NotConnected { node },
        SendError::Full { node, waiting: 8_000_000, limit: 8_388_608 },
        SendError::TooLarge { node, bytes: 20_000_000, limit: 16_777_216 },
    ]
}

fn calls() -> Vec<rpc::CallError> {
    use rpc::CallError;
    let node = raft::NodeId(2);
    vec![
        CallError::NotSent(transport::SendError::NotConnected { node }),
        CallError::Down { node, lane: Lane::Data },
        CallError::TimedOut { node, after: Duration::from_secs(5) },
        CallError::Dropped { node },
        CallError::NotServed { node, service: 9 },
    ]
}

fn trust() -> Vec<tls::NotTrusted> {
    use tls::NotTrusted;
    let whose = || "node 2".to_owned();
    vec![
        NotTrusted::OtherCa { whose: whose() },
        NotTrusted::Expired { whose: whose(), seconds_ago: 90 },
        NotTrusted::NotYetValid { whose: whose(), seconds_ahead: 90 },
        NotTrusted::OtherCluster { expected: "orders".into(), actual: "billing".into() },
        NotTrusted::OtherNode { expected: raft::NodeId(2), actual: raft::NodeId(3) },
        NotTrusted::NoNode,
        NotTrusted::Other { whose: whose(), why: "invalid peer certificate: Revoked".into() },
    ]
}

fn identities() -> Vec<tls::IdentityError> {
    use tls::IdentityError;
    vec![
        IdentityError::ClusterName { name: "Köln".into() },
        IdentityError::Pem { what: "private key", why: "no items found".into() },
        IdentityError::Key(rustls::Error::General("keys may not be consistent".into())),
        IdentityError::Own(tls::NotTrusted::Expired { whose: "node 1".into(), seconds_ago: 90 }),
        IdentityError::Tls("no cipher suite is left".into()),
    ]
}

fn starting_a_network() -> Vec<quic::StartError> {
    use quic::StartError;
    vec![
        StartError::Identity(tls::IdentityError::Pem { what: "private key", why: "no items found".into() }),
        StartError::Bind { address: ([127, 0, 0, 1], 7421).into(), error: io::ErrorKind::AddrInUse.into() },
        StartError::Mtu { mtu: 1_000, why: "QUIC needs 1200" },
        StartError::Tls("no initial cipher suite found".into()),
        StartError::Thread(failed()),
    ]
}

fn names() -> Vec<NameError> {
    let what = "topic";
    vec![
        NameError::Empty { what },
        NameError::TooLong { what, len: 300 },
        NameError::Character { what, found: '/' },
        NameError::Reserved { what, name: "..".into() },
    ]
}

fn batches() -> Vec<BatchError> {
    vec![
        BatchError::Truncated { needed: 100, actual: 61 },
        BatchError::Trailing { extra: 3 },
        BatchError::Length { length: -1 },
        BatchError::TooLarge { bytes: 2_000_000, bytes_max: 1_048_576 },
        BatchError::Magic { actual: 1 },
        BatchError::Checksum { expected: 0x1234_5678, actual: 0xabcd },
        BatchError::Count { count: 3, last_offset_delta: 5 },
        BatchError::Codec { id: 2 },
        BatchError::Attributes { attributes: 0x20 },
        BatchError::Producer { id: 5, epoch: -1, sequence: -1 },
    ]
}

fn records() -> Vec<RecordsError> {
    vec![
        RecordsError::Compressed { codec: Compression::Zstd, why: "unknown frame".into() },
        RecordsError::TooLarge { bytes_max: 16_777_216 },
        RecordsError::Malformed { index: 2, position: 77, what: "the key" },
        RecordsError::Trailing { extra: 9 },
    ]
}

fn building() -> Vec<BuildError> {
    vec![
        BuildError::Empty,
        BuildError::TooLarge { bytes: 2_000_000, bytes_max: 1_048_576 },
        BuildError::RecordsTooLarge { bytes: 20_000_000, bytes_max: 16_777_216 },
        BuildError::Headers { count: 2_000, count_max: 1_024 },
    ]
}

fn certificates() -> Vec<TlsError> {
    vec![
        TlsError::Read { file: "certs/ca.pem".into(), why: "No such file or directory".into() },
        TlsError::Write { file: "certs/ca.pem".into(), why: "Permission denied".into() },
        TlsError::Pem { file: "certs/ca.pem".into(), what: "certificate", why: "there is none in it".into() },
        TlsError::Refused { why: "keys may not be consistent".into() },
        TlsError::AuthorityExists { file: "certs/ca.pem".into() },
        TlsError::OtherAuthority { file: "certs/ca.pem".into(), cluster: "orders".into() },
        TlsError::Name { what: "cluster", name: "Köln".into() },
        TlsError::Host { host: "a b".into() },
    ]
}

fn frames() -> Vec<FrameError> {
    vec![
        FrameError::Version { found: 9 },
        FrameError::UnknownKind { found: 200 },
        FrameError::TooLong { what: "head", len: u32::MAX, max: 1_048_576 },
        FrameError::CutOff { found: 3, expected: 16 },
        FrameError::Head { kind: Kind::Hello, why: "invalid type".into() },
    ]
}

fn between_nodes() -> Vec<CourierError> {
    vec![
        CourierError::Unreachable { node: NodeId(2) },
        CourierError::NoAnswer { node: NodeId(2), why: "the connection broke".into() },
    ]
}

fn settings() -> Vec<SettingError> {
    vec![
        SettingError::Unknown { name: "retention.mss".into(), nearest: Some("retention.ms") },
        SettingError::Value { name: "retention.ms", value: "soon".into(), wanted: "milliseconds".into() },
    ]
}

fn listeners() -> Vec<ListenError> {
    let bind = ([0, 0, 0, 0], 7420).into();
    vec![
        ListenError::Admission(AdmissionError::OpenToNetwork { bind }),
        ListenError::Tls(TlsError::Host { host: "a b".into() }),
        ListenError::Bind { bind, why: "Address already in use".into() },
    ]
}

fn produce_at_partition() -> Vec<partition::ProduceError> {
    use partition::{ProduceError, machine::Refusal};
    vec![
        ProduceError::NotLeader { leader: Some(NodeId(2)), epoch: 7 },
        ProduceError::NotReady { epoch: 7 },
        ProduceError::Refused(Refusal::OutOfOrder { producer: ProducerId(77), expected: 5, found: 9 }),
        ProduceError::Refused(Refusal::Fenced { producer: ProducerId(77), current: 3, found: 2 }),
        ProduceError::Refused(Refusal::UnknownProducer { producer: ProducerId(77), found: 4 }),
        ProduceError::Refused(Refusal::BadBatch(BatchError::Codec { id: 2 })),
        ProduceError::NoQuorum,
        ProduceError::DiskFull,
        ProduceError::Unknown { leader: None, epoch: 7 },
        ProduceError::Gone,
    ]
}

fn leading() -> Vec<Unavailable> {
    vec![Unavailable::NotLeader { leader: Some(NodeId(2)), epoch: 7 }, Unavailable::NoQuorum, Unavailable::Gone]
}

fn refusals_of_partition() -> Vec<partition::machine::Refusal> {
    use partition::machine::Refusal;
    vec![
        Refusal::OutOfOrder { producer: ProducerId(77), expected: 5, found: 9 },
        Refusal::Fenced { producer: ProducerId(77), current: 3, found: 2 },
        Refusal::UnknownProducer { producer: ProducerId(77), found: 4 },
        Refusal::BadBatch(BatchError::Codec { id: 2 }),
        Refusal::NoOffsets { next_offset: u64::MAX >> 1, records: 3 },
        Refusal::TrimBeyondEnd { offset: 300, next_offset: 200 },
        Refusal::Malformed { kind: 2, why: "invalid type".into() },
        Refusal::UnknownCommand { kind: 200 },
    ]
}

fn refusals_of_controller() -> Vec<highwater::controller::machine::Refusal> {
    use highwater::controller::machine::Refusal;
    let name = topic;
    vec![
        Refusal::NotBootstrapped,
        Refusal::Bootstrapped { cluster_id: 77 },
        Refusal::BadBootstrap { why: "there are 1 to 16 homes of consumer groups" },
        Refusal::BadNode { node: NodeId(0) },
        Refusal::UnknownNode { node: NodeId(4) },
        Refusal::TopicExists { name: name() },
        Refusal::TopicIdExists { id: TopicId([1; 16]) },
        Refusal::UnknownTopic { name: name() },
        Refusal::TooFewNodes { replication_factor: 3, nodes: 1 },
        Refusal::TooManyCopies { replication_factor: 9 },
        Refusal::TooManyPartitions { partitions: 2_000 },
        Refusal::FewerPartitions { name: name(), partitions: 12, wanted: 3 },
        Refusal::NodesFull { node: NodeId(2) },
        Refusal::BadSetting(SettingError::Unknown { name: "retention.mss".into(), nearest: Some("retention.ms") }),
        Refusal::UnknownGroup { group: GroupId(1_024) },
        Refusal::UnknownReplica { group: GroupId(1_024), replica: ReplicaId(65_536) },
        Refusal::NoProducerIds,
        Refusal::Malformed { kind: 3, why: "invalid type".into() },
        Refusal::UnknownCommand { kind: 200 },
    ]
}

fn refusals_of_group() -> Vec<highwater::group::machine::Refusal> {
    use highwater::group::machine::Refusal;
    let group = || -> GroupName { "billing".parse().unwrap() };
    let member = || -> MemberId { "billing-1".parse().unwrap() };
    let partition = TopicPartition { topic: TopicId([1; 16]), partition: 3 };
    vec![
        Refusal::UnknownGroup { group: group() },
        Refusal::UnknownMember { group: group(), member: member() },
        Refusal::StaleGeneration { partition, granted: Generation(9), found: Generation(7) },
        Refusal::NotOwner { partition, owner: Some(member()) },
        Refusal::OldCommit { n: 4, last: 6 },
        Refusal::UnknownPartition { partition },
        Refusal::NotEmpty { group: group(), members: 2 },
        Refusal::LeasesUnsupported { group: group() },
        Refusal::TooManyMembers { group: group() },
        Refusal::TooManyGroups { groups: 10_000 },
        Refusal::TooManyTopics { topics: 5_000 },
        Refusal::MetadataTooLong { bytes: 9_000 },
        Refusal::BadOffset { offset: u64::MAX },
        Refusal::Malformed { kind: 3, why: "invalid type".into() },
        Refusal::UnknownCommand { kind: 200 },
    ]
}

fn problem(line: Option<usize>, message: &str) -> Problem {
    Problem { file: "node-1.toml".into(), line, message: message.into() }
}

fn at_controller() -> Vec<ExecuteError> {
    vec![
        ExecuteError::Refused(Refused::new(
            Code::TopicExists,
            "topic orders exists; choose another name, or alter the topic",
        )),
        ExecuteError::NotLeader { leader: Some(NodeId(2)) },
        ExecuteError::NoQuorum,
        ExecuteError::TimedOut,
    ]
}

fn at_node() -> Vec<NodeError> {
    vec![
        NodeError::Directory("creating /data: permission denied".into()),
        NodeError::Log(log::OpenError::Version { file: "wal/7".into(), found: 9, known: 1 }),
        NodeError::Replica(group::OpenError::Start { group: GroupId(7), why: "the disk is slow".into() }),
        NodeError::Network(quic::StartError::Mtu { mtu: 9_000, why: "more is lost silently" }),
        NodeError::Storage(io::Error::other("writing wal/7: no space left on device")),
        NodeError::Identity("the certificate is for node 2, not for node 1".into()),
        NodeError::Listen { what: "listener 127.0.0.1:7420".into(), why: "address in use".into() },
        NodeError::OtherConfig { node: NodeId(2), sections: "[raft]" },
        NodeError::OtherCluster { stored: 1, found: 2 },
        NodeError::Refused { why: "0 is not a node id: they are 1 to 65535".into() },
        NodeError::Threads("arbiter 0 has stopped".into()),
    ]
}

fn fetch_at_partition() -> Vec<FetchError> {
    vec![
        FetchError::OutOfRange { offset: 3, log_start: 100 },
        FetchError::NotYet { offset: 300, high_watermark: 200 },
        FetchError::NotLeader { leader: None, epoch: 7 },
        FetchError::NotReady { epoch: 7 },
        FetchError::Damaged { offset: 42, why: "checksum".into() },
        FetchError::Io { why: "Input/output error".into() },
    ]
}

fn connecting() -> Vec<ConnectError> {
    vec![
        ConnectError::NoBootstrap,
        ConnectError::Unreachable { attempts: vec![("localhost:7420".into(), "timed out".into())] },
        ConnectError::Unreachable { attempts: vec![("localhost:7420".into(), NEEDS_CERTIFICATE.into())] },
        ConnectError::Setup { why: "no certificate".into() },
    ]
}

fn requests() -> Vec<RequestError> {
    let node = || "node 2".to_owned();
    vec![
        RequestError::Refused { refused: refused() },
        RequestError::Unreachable { node: node(), why: "connection lost".into() },
        RequestError::TimedOut { node: node(), waited: Duration::from_secs(5) },
        RequestError::Unexpected { node: node(), asked: "Fetch", found: "Produced".into() },
        RequestError::Closed,
    ]
}

fn lookups() -> Vec<LookupError> {
    vec![
        LookupError::UnknownTopic { topic: topic() },
        LookupError::Unreachable { topic: topic(), why: "no node answers".into() },
    ]
}

fn sends() -> Vec<SendError> {
    vec![
        SendError::Lookup(LookupError::UnknownTopic { topic: topic() }),
        SendError::UnknownPartition { topic: topic(), partition: 12, partitions: 12 },
        SendError::Record(BuildError::Headers { count: 2_000, count_max: 1_024 }),
        SendError::TooLarge { bytes: 9_000_000, buffer_bytes: 1_000_000 },
        SendError::Closed,
    ]
}

fn produce_at_client() -> Vec<client::ProduceError> {
    use client::ProduceError;
    let timed_out = |maybe_appended| ProduceError::TimedOut {
        topic: topic(),
        partition: 3,
        waited: Duration::from_secs(30),
        sends: 4,
        last: "node 2 is not reachable".into(),
        maybe_appended,
    };
    let too_large = |maybe_appended| ProduceError::Refused {
        topic: topic(),
        partition: 3,
        refused: Refused::new(Code::BatchTooLarge, "a batch of 2000000 bytes, the topic takes 1048576"),
        maybe_appended,
    };
    let offline = |maybe_appended| ProduceError::Offline {
        topic: topic(),
        partition: 3,
        refused: Refused::offline(&[NodeId(2), NodeId(3)], 3),
        maybe_appended,
    };
    vec![
        too_large(true),
        too_large(false),
        timed_out(true),
        timed_out(false),
        ProduceError::OutcomeUnknown { topic: topic(), partition: 3, last: "no answer".into() },
        offline(true),
        offline(false),
        ProduceError::Batch(BuildError::Empty),
        ProduceError::Closed,
    ]
}

fn administering() -> Vec<AdminError> {
    let topic = || "orders".to_owned();
    vec![
        AdminError::Lookup(LookupError::UnknownTopic { topic: self::topic() }),
        AdminError::Request(RequestError::Refused { refused: Refused::new(Code::TopicExists, "topic orders exists") }),
        AdminError::NoLeader { topic: topic(), partition: 3, why: "node 2 is not reachable: it was shut down".into() },
        AdminError::Partition { topic: topic(), partition: 3, refused: Refused::offline(&[NodeId(2), NodeId(3)], 3) },
    ]
}

fn publishing() -> Vec<highwater::embed::PublishError> {
    use highwater::embed::PublishError;
    vec![
        PublishError::Full { bytes_max: 8 << 20 },
        PublishError::Send(SendError::Closed),
        PublishError::Produce(client::ProduceError::Closed),
        PublishError::Ended,
    ]
}

fn consume_at_client() -> Vec<ConsumeError> {
    let (topic, partition) = (topic, 3);
    vec![
        ConsumeError::Lookup(LookupError::UnknownTopic { topic: topic() }),
        ConsumeError::UnknownPartition { topic: topic(), partition },
        ConsumeError::OutOfRange { topic: topic(), partition, offset: 3, nearest: 100 },
        ConsumeError::OutOfRange { topic: topic(), partition, offset: 300, nearest: 100 },
        ConsumeError::Damaged { topic: topic(), partition, offset: 42, why: "record 2 is malformed".into() },
        ConsumeError::Refused { topic: topic(), partition, refused: refused() },
        ConsumeError::Group { group: "billing".parse().unwrap(), refused: refused() },
        ConsumeError::Request(RequestError::Closed),
        ConsumeError::NotAssigned { topic: topic(), partition },
        ConsumeError::NoGroup,
        ConsumeError::Closed,
    ]
}
