//! Bytes and requests that make no sense, against a node that must live on.

use crate::support::{self, Cluster, Wire, topic};
use bytes::{BufMut as _, Bytes, BytesMut};
use highwater::{
    batch::{Builder, Compression},
    types::{AckLevel, TopicId},
    wire::{
        self, Code, FetchPartition, Frame, FrameError, HEADER_LEN, Kind, ListOffsets, Message, OffsetQuery, Refused,
    },
};
use std::{fs, net::SocketAddr, path::Path, time::Duration};

/// What the node may take more at the end than before, all kinds of nonsense together.
const RSS_GROWTH_MAX_KIB: u64 = 48 << 10;
/// What the same once more may add: buffers and pools are as large as they get, so what is left is what is kept for good.
/// Measured: 28 to 620 KiB.
const RSS_AGAIN_MAX_KIB: u64 = 2 << 10;

/// A frame of each kind, as the golden files have it.
fn frames() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wire");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let bytes = |text: &str| {
        let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect::<Vec<u8>>()
    };
    files
        .iter()
        .map(|file| (file.file_stem().unwrap().to_string_lossy().into(), bytes(&fs::read_to_string(file).unwrap())))
        .collect()
}

/// A connection on which any bytes can be sent.
struct Raw {
    endpoint: quinn::Endpoint,
    address: SocketAddr,
}

impl Raw {
    fn new(cluster: &Cluster) -> Self {
        let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        endpoint
            .set_default_client_config(wire::quic::client_config(cluster.tls(), wire::quic::Way::Loopback).unwrap());
        Self { endpoint, address: cluster.node(1).native }
    }

    /// A connection that has said Hello.
    async fn connect(&self) -> quinn::Connection {
        let connection = self.endpoint.connect(self.address, "127.0.0.1").unwrap().await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        let hello = wire::Hello { version_min: 1, version_max: 1, client: "test".into() };
        send.write_all(&Frame::new(0, hello).encode_head()).await.unwrap();
        let mut welcome = [0; HEADER_LEN];
        receive.read_exact(&mut welcome).await.unwrap();
        connection
    }

    /// Sends bytes and the end of the stream; gives why the node closed the connection, `None` if it lives.
    async fn closed_by(&self, bytes: &[u8]) -> Option<String> {
        let connection = self.connect().await;
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        let _ = send.write_all(bytes).await;
        let _ = send.finish();
        let rest = receive.read_to_end(1 << 20);
        let ended = tokio::time::timeout(Duration::from_secs(30), rest).await.expect("the node answers or closes");
        // What closes a connection arrives before or with the end of its streams.
        match (ended, connection.close_reason()) {
            (_, Some(quinn::ConnectionError::ApplicationClosed(why))) => {
                Some(String::from_utf8_lossy(&why.reason).into())
            }
            (Ok(_), None) => None,
            (ended, other) => panic!("{ended:?} {other:?}"),
        }
    }
}

fn header(version: u8, kind: u8, head_len: u32, body_len: u32) -> Vec<u8> {
    let mut header = BytesMut::new();
    header.put_u8(version);
    header.put_u8(kind);
    header.put_u16(0);
    header.put_u32(7);
    header.put_u32(head_len);
    header.put_u32(body_len);
    header.to_vec()
}

/// A frame whose head is any serialisable thing.
fn head(kind: Kind, head: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    head.serialize(&mut rmp_serde::Serializer::new(&mut bytes).with_struct_map()).unwrap();
    [header(1, kind as u8, u32::try_from(bytes.len()).unwrap(), 0), bytes].concat()
}

#[derive(serde::Serialize)]
struct AnyTopic {
    n: String,
    p: i64,
    r: u32,
}

#[derive(serde::Serialize)]
struct AnyFetch {
    p: [AnyPlace; 1],
}

#[derive(serde::Serialize)]
struct AnyPlace {
    t: TopicId,
    o: i64,
}

fn assert_says(what: &str, found: Option<String>, expected: &str) {
    let found = found.unwrap_or_else(|| panic!("{what}: the connection lives, {expected:?} was expected"));
    assert!(found.contains(expected), "{what}: {found:?} does not say {expected:?}");
}

async fn malformed(raw: &Raw) -> usize {
    let mut tried = 0;
    for (name, frame) in frames() {
        // At each byte, the stream given up there: the connection goes on with its other links.
        let connection = raw.connect().await;
        for cut in 0..frame.len() {
            let (mut send, _receive) = connection.open_bi().await.unwrap();
            send.write_all(&frame[..cut]).await.unwrap();
            let _ = send.reset(0u8.into());
            tried += 1;
        }
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&Frame::new(9, wire::Metadata::default()).encode_head()).await.unwrap();
        let mut answer = [0; HEADER_LEN];
        receive
            .read_exact(&mut answer)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}: {:?}", connection.close_reason()));
        connection.close(0u8.into(), b"");
        // The stream ended there: the node says so and closes.
        let body = frame.len().saturating_sub(HEADER_LEN);
        for cut in [1, 2, 8, HEADER_LEN - 1, HEADER_LEN + body / 2, frame.len() - 1]
            .into_iter()
            .filter(|cut| *cut < frame.len())
        {
            assert_says(&format!("{name} cut at {cut}"), raw.closed_by(&frame[..cut]).await, "cut off");
            tried += 1;
        }
        for (what, at, said) in [("head", 8, "head of 2147483648 bytes"), ("body", 12, "body of 2147483648 bytes")] {
            let mut long = frame.clone();
            long[at..at + 4].copy_from_slice(&(1u32 << 31).to_be_bytes());
            assert_says(&format!("{name}, long {what}"), raw.closed_by(&long).await, said);
            tried += 1;
        }
        let other = [&[9], &frame[1..]].concat();
        assert_says(&name, raw.closed_by(&other).await, "frame version 9, this side speaks 1");
        // A head of this kind that is no head.
        let garbage: Vec<u8> = (0..64u32).map(|n| u8::try_from(n * 167 % 251).unwrap()).collect();
        let garbage = [header(1, frame[1], 64, 0), garbage].concat();
        assert_says(&name, raw.closed_by(&garbage).await, "does not decode");
        tried += 2;
    }
    for kind in [0, 99, 200, 255] {
        assert_says("kind", raw.closed_by(&header(1, kind, 0, 0)).await, &format!("unknown frame kind {kind}"));
        tried += 1;
    }
    tried
}

async fn names(raw: &Raw, cluster: &Cluster) {
    for (name, said) in [("a/b", "/"), ("..", ".."), ("", "at least one"), (&"x".repeat(300), "249"), ("sp ace", " ")] {
        for (kind, partitions) in [(Kind::CreateTopic, 1), (Kind::DeleteTopic, 0)] {
            let bytes = head(kind, &AnyTopic { n: name.into(), p: partitions, r: 1 });
            assert_says(&format!("{name:?}"), raw.closed_by(&bytes).await, said);
        }
        let output = cluster.try_run(&["topic", "create", name]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name:?}: {error}");
        assert!(error.contains(said), "{name:?}: {error}");
    }
    // A count below zero is no count.
    assert_says(
        "partitions",
        raw.closed_by(&head(Kind::CreateTopic, &AnyTopic { n: "x".into(), p: -1, r: 1 })).await,
        "does not decode",
    );
    let mut wire = cluster.wire(1).await;
    for (partitions, copies) in [(1_000_000, 1), (1, 100)] {
        let create = wire::CreateTopic {
            name: topic("big"),
            id: None,
            partitions,
            replication_factor: copies,
            settings: Vec::new(),
        };
        refused(wire.ask(Frame::new(1, create)).await, Code::BadSetting);
    }
}

fn refused(frame: Frame, expected: Code) -> Refused {
    let Message::Refused(refused) = frame.message else { panic!("{:?} instead of {expected:?}", frame.message) };
    assert_eq!(refused.code, expected, "{refused:?}");
    assert!(!refused.message.is_empty());
    refused
}

async fn offsets(raw: &Raw, wire: &mut Wire, id: TopicId) {
    // An offset below zero is no offset.
    let place = AnyPlace { t: id, o: 0 };
    assert_eq!(raw.closed_by(&head(Kind::Fetch, &AnyFetch { p: [place] })).await, None);
    for kind in [Kind::Fetch, Kind::Subscribe] {
        let below = head(kind, &AnyFetch { p: [AnyPlace { t: id, o: -1 }] });
        assert_says("offset -1", raw.closed_by(&below).await, "does not decode: invalid value: integer `-1`");
    }
    let fetch = |topic, partition, offset| wire::Fetch {
        wait_ms_max: 100,
        partitions: vec![FetchPartition { topic, partition, offset, bytes_max: 0, from_follower: false }],
        ..wire::Fetch::default()
    };
    let none = TopicId(*b"no such topic id");
    for (topic, partition, offset, code) in [
        (id, 0, u64::MAX, Code::NotReady),
        (id, 0, 1 << 63, Code::NotReady),
        (id, 0, 100_000, Code::NotReady),
        (id, 7, 0, Code::UnknownPartition),
        (id, u32::MAX, 0, Code::UnknownPartition),
        (none, 0, 0, Code::UnknownTopic),
    ] {
        let answer = wire.ask(Frame::new(1, fetch(topic, partition, offset))).await;
        let Message::Fetched(fetched) = answer.message else { panic!("{answer:?}") };
        let refused = fetched.partitions[0].refused.as_ref().unwrap();
        assert_eq!(refused.code, code, "{refused:?}");
        let query = OffsetQuery { topic, partition, at: highwater::types::Position::Latest };
        let answer = wire.ask(Frame::new(2, ListOffsets { partitions: vec![query] })).await;
        let Message::ListedOffsets(listed) = answer.message else { panic!("{answer:?}") };
        let said = listed.partitions[0].refused.as_ref().map(|refused| refused.code);
        assert_eq!(said, Some(code).filter(|code| *code != Code::NotReady));
        let end = listed.partitions[0].offset;
        if code == Code::NotReady {
            // Whether it is only unknown to this leader, the leader finds out when it is asked for the offset.
            let query = OffsetQuery { topic, partition, at: highwater::types::Position::Offset(offset) };
            let answer = wire.ask(Frame::new(3, ListOffsets { partitions: vec![query] })).await;
            let Message::ListedOffsets(listed) = answer.message else { panic!("{answer:?}") };
            let refused = listed.partitions[0].refused.as_ref().unwrap();
            assert_eq!((refused.code, listed.partitions[0].offset), (Code::OffsetOutOfRange, end), "{refused:?}");
            let said = format!("offset {offset} is above the high watermark");
            assert!(refused.message.contains(&said), "{refused:?}");
        }
    }
    // Answers are no questions.
    for (name, frame) in frames() {
        let kind = Kind::from_u8(frame[1]).unwrap();
        if matches!(kind, Kind::Welcome | Kind::Produced | Kind::Fetched | Kind::Refused | Kind::Done) {
            let rest = Bytes::copy_from_slice(&frame[HEADER_LEN..]);
            let header = wire::Header::decode(&frame).unwrap_or_else(|error: FrameError| panic!("{name}: {error}"));
            let frame = Frame { body: Vec::new(), ..Frame::decode(header, rest).unwrap() };
            refused(wire.ask(frame).await, Code::BadRequest);
        }
    }
}

fn batch(values: usize) -> Vec<u8> {
    let mut builder = Builder::new(Compression::None);
    (0..values).for_each(|_| builder.push(1, Some(b"key"), Some(&[b'v'; 100]), &[]).unwrap());
    builder.build().unwrap().bytes().to_vec()
}

/// The checksum of a batch, over what lies behind it.
fn seal(mut batch: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

async fn batches(wire: &mut Wire, id: TopicId) {
    let produce = |body: Vec<u8>| {
        let produce = wire::Produce { topic: id, partition: 0, ack: AckLevel::Quorum, timeout_ms: 10_000 };
        Frame::new(1, produce).with_body(vec![body.into()])
    };
    let with = |at: usize, bytes: &[u8]| {
        let mut batch = batch(3);
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        batch
    };
    let large = {
        let mut large = batch(3);
        large.resize((1 << 20) + 100, 0);
        let length = u32::try_from(large.len() - 12).unwrap();
        large[8..12].copy_from_slice(&length.to_be_bytes());
        seal(large)
    };
    for (what, body, code) in [
        ("oversized", large, Code::BatchTooLarge),
        ("wrong checksum", with(80, b"x"), Code::BadBatch),
        ("wrong count", seal(with(57, &2u32.to_be_bytes())), Code::BadBatch),
        ("no records", seal(with(57, &0u32.to_be_bytes())), Code::BadBatch),
        ("count of 2^31", seal(with(57, &(1u32 << 31).to_be_bytes())), Code::BadBatch),
        ("wrong magic", with(16, &[1]), Code::BadBatch),
        ("length below the header", with(8, &3u32.to_be_bytes()), Code::BadBatch),
        ("length above the body", with(8, &100_000u32.to_be_bytes()), Code::BadBatch),
        ("length of 2^31 - 1", with(8, &i32::MAX.to_be_bytes()), Code::BatchTooLarge),
        // The field has a sign: this length is below zero.
        ("length of 2^31", with(8, &(1u32 << 31).to_be_bytes()), Code::BadBatch),
        ("cut", batch(3)[..100].to_vec(), Code::BadBatch),
        ("cut in the header", batch(3)[..20].to_vec(), Code::BadBatch),
        ("garbage", vec![0xa5; 500], Code::BadBatch),
        ("nothing", Vec::new(), Code::BadRequest),
    ] {
        let answer = wire.ask(produce(body)).await;
        eprintln!("batch, {what}: {code:?} expected");
        let said = refused(answer, code);
        eprintln!("  {}", said.message);
    }
    let whole = wire.ask(produce(batch(3))).await;
    assert!(matches!(whole.message, Message::Produced(_)), "{:?}", whole.message);
}

/// All kinds of nonsense; gives how many malformed frames that were.
async fn everything(raw: &Raw, cluster: &Cluster, id: TopicId) -> usize {
    let tried = malformed(raw).await;
    names(raw, cluster).await;
    offsets(raw, &mut cluster.wire(1).await, id).await;
    batches(&mut cluster.wire(1).await, id).await;
    // A connection that does not begin with Hello, and one that speaks no version that the node does.
    let versions = wire::Hello { version_min: 7, version_max: 9, client: "test".into() };
    for (first, code) in
        [(Message::from(wire::Metadata::default()), Code::BadRequest), (versions.into(), Code::UnsupportedVersion)]
    {
        let connection = raw.endpoint.connect(raw.address, "127.0.0.1").unwrap().await.unwrap();
        let connection = wire::quic::QuicConnection::new(connection);
        let mut link = wire::Connection::open(&connection).await.unwrap();
        link.sender.send(vec![Frame::new(1, first)]).await.unwrap();
        refused(link.receiver.receive().await.unwrap(), code);
    }
    tried
}

#[test]
fn nonsense_is_refused_and_the_node_lives() {
    let _turn = support::turn();
    let cluster = Cluster::one("");
    let runtime = support::runtime();
    let node = cluster.node(1);
    runtime.block_on(async {
        let client = cluster.client().await;
        let name = topic("orders");
        support::create(&client, &name, 1).await;
        let id = client.topic(&name).await.unwrap().id;
        let raw = Raw::new(&cluster);
        // Buffers that stay are there before memory is looked at.
        assert_eq!(raw.closed_by(&[]).await, None);
        let before = support::rss_kib(node.pid());
        let tried = everything(&raw, &cluster, id).await;
        let once = support::rss_kib(node.pid());
        everything(&raw, &cluster, id).await;
        let twice = support::rss_kib(node.pid());
        eprintln!("{tried} malformed frames; RSS {before} -> {once} KiB, the same again -> {twice} KiB");
        assert_eq!(
            support::http(node.http, "/health/ready").map(|answer| answer.0),
            Some(200),
            "{}",
            cluster.log_of(1)
        );
        assert!(once < before + RSS_GROWTH_MAX_KIB, "RSS grew from {before} to {once} KiB");
        assert!(twice < once + RSS_AGAIN_MAX_KIB, "RSS grew from {once} to {twice} KiB by the same nonsense again");
        let log = cluster.log_of(1);
        assert!(!log.contains("panicked"), "{log}");
    });
}
