//! Bodies of the fuzz targets above the log: frames, batches, config; machines are in `machines`, what nodes ask of each
//! other in `services`. See [`highwater_raft::testing::fuzz`].

mod machines;
mod services;

pub use highwater_raft::testing::fuzz::{Input, Target};

use crate::{
    batch::{self, Batch, Builder, Compression, HEADER_LEN, Producer, Record, RecordHeader},
    config::Config,
    limits,
    types::{AckLevel, GroupName, NodeId, ProducerId, TopicId},
    wire::{self, Frame, Header, Kind, Message},
};
use bytes::{Bytes, BytesMut};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// All bodies: those of this crate and of the log's.
pub fn targets() -> Vec<Target> {
    let own = [
        Target { name: "wire_frame", run: wire_frame, seeds: wire_seeds, allocates_max: 256 * KIB },
        // The records of a batch, in a buffer that doubles.
        Target { name: "record_batch", run: record_batch, seeds: batch_seeds, allocates_max: 80 * MIB },
        Target { name: "config", run: config, seeds: config_seeds, allocates_max: MIB },
    ];
    own.into_iter().chain(machines::TARGETS.iter().copied()).chain([services::TARGET]).chain(raft_targets()).collect()
}

fn raft_targets() -> impl Iterator<Item = Target> {
    highwater_raft::testing::fuzz::TARGETS.iter().copied()
}

/// One of them.
///
/// # Panics
/// When there is none of this name.
pub fn target(name: &str) -> Target {
    targets().into_iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no fuzz target {name}"))
}

/// A frame as it comes from a client or a node. Promises: what decodes encodes to a frame that decodes to the same; the
/// body is what stood behind the head; a length above the limits is refused before anything is made for it.
pub fn wire_frame(data: &[u8]) {
    if let Ok(header) = Header::decode(data) {
        assert!(header.head_len <= limits::FRAME_HEAD_BYTES_MAX && header.body_len <= limits::FRAME_BODY_BYTES_MAX);
        let rest = Bytes::copy_from_slice(&data[wire::HEADER_LEN..]);
        if let Ok(frame) = Frame::decode(header, rest.clone()) {
            assert_eq!(frame.body(), rest.slice(header.head_len as usize..));
            assert_eq!(again(&frame), frame);
        }
    }
    // The lengths put right.
    let mut input = Input::new(data);
    let kind = Kind::ALL[input.below(Kind::ALL.len())];
    if let Ok(message) = Message::decode(kind, input.rest()) {
        let mut encoded = BytesMut::new();
        message.encode(&mut encoded);
        assert_eq!(Message::decode(kind, &encoded).as_ref(), Ok(&message));
    }
}

fn again(frame: &Frame) -> Frame {
    let head = frame.encode_head();
    let header = Header::decode(&head).expect("what was encoded decodes");
    let rest = [&head[wire::HEADER_LEN..], &frame.body()].concat();
    Frame::decode(header, rest.into()).expect("what was encoded decodes")
}

fn wire_seeds() -> Vec<Vec<u8>> {
    // Golden files are frames without a body.
    let golden = |message: Message| {
        let mut head = BytesMut::new();
        message.encode(&mut head);
        let kind = Kind::ALL.iter().position(|kind| *kind == message.kind()).unwrap_or_default();
        [&[u8::try_from(kind).unwrap_or_default()], &head[..]].concat()
    };
    let produce = wire::Produce { topic: TopicId([7; 16]), partition: 3, ack: AckLevel::Leader, timeout_ms: 500 };
    let group: GroupName = "billing".parse().expect("a name");
    let refused = wire::GroupFound { node: Some(NodeId(2)), address: "host:7420".into() };
    let whole = Frame::new(7, produce.clone()).with_body(vec![Bytes::from_static(b"body")]);
    let whole = [whole.encode_head(), whole.body()].concat();
    vec![whole, golden(produce.into()), golden(wire::FindGroup { group }.into()), golden(refused.into())]
}

/// Batches as a producer sends them. Promises: what is taken lies in the input, one batch behind the other; reading
/// records ends within the limits; records that were read make a batch that is read as the same; a batch under another
/// producer, or at another place, has the same records.
pub fn record_batch(data: &[u8]) {
    let mut input = Input::new(data);
    let mut bytes = match input.u8() % 4 {
        0 => input.rest().to_vec(),
        1 => sealed(input.rest().to_vec()),
        // A body behind a sound header: what compression hides.
        choice => {
            let codec = [Compression::Lz4, Compression::Zstd][usize::from(choice) % 2];
            let (count, last) = (u32::from(input.u16()).max(1), input.u8());
            let header = header(codec, count.cast_signed(), last);
            sealed([&header[..], input.rest()].concat())
        }
    };
    let mut left = bytes.len();
    for batch in batch::split(std::mem::take(&mut bytes).into()) {
        let Ok(batch) = batch else { return };
        left = left.checked_sub(batch.bytes().len()).expect("batches lie in the input");
        check_batch(&batch);
    }
    assert_eq!(left, 0, "what is left is said to be no batch");
}

fn check_batch(batch: &Batch) {
    assert_eq!(Batch::trusted(batch.bytes().clone()).as_ref(), Ok(batch));
    let produced = batch.check_produced().is_ok();
    let mut records = Vec::new();
    let mut bytes = 0;
    for record in batch.records() {
        let Ok(record) = record else {
            records.clear();
            break;
        };
        let fields = [&record.key, &record.value].into_iter().flatten().map(Bytes::len).sum::<usize>();
        bytes += fields + record.headers.iter().map(|header| header.name.len()).sum::<usize>();
        records.push(record);
    }
    assert!(bytes <= limits::RECORDS_BYTES_MAX as usize && records.len() <= batch.count() as usize);
    let producer = Producer { id: ProducerId(9), epoch: 2, sequence: 77 };
    let other = batch.with_producer(producer);
    assert_eq!(other.producer(), Some(producer));
    assert_eq!(Batch::parse(other.bytes().clone()).as_ref(), Ok(&other));
    let (prefix, rest) = batch::place(batch.bytes(), 1 << 40, 5);
    let placed = Batch::parse([prefix, rest].concat().into()).expect("the checksum does not cover the place");
    assert_eq!((placed.header().base_offset, placed.header().partition_leader_epoch), (1 << 40, 5));
    if produced && !records.is_empty() && bytes < 64 * KIB {
        let base = batch.header().base_offset.max(0).unsigned_abs();
        let built = rebuilt(&records, batch);
        let placed = built.records().map(|record| record.expect("what was built is read"));
        let placed = placed.map(|record| Record { offset: record.offset + base, ..record });
        assert!(placed.eq(records), "records that were read and written are others");
    }
}

fn rebuilt(records: &[Record], batch: &Batch) -> Batch {
    let mut builder = Builder::new(batch.header().compression().expect("a batch that was taken has one"));
    builder.producer(batch.producer());
    for Record { timestamp, key, value, headers, .. } in records {
        builder.push(*timestamp, key.as_deref(), value.as_deref(), headers).expect("below the limits");
    }
    builder.build().expect("below the limits")
}

fn header(codec: Compression, count: i32, last: u8) -> [u8; HEADER_LEN] {
    batch::Header {
        base_offset: 0,
        batch_length: 0,
        partition_leader_epoch: -1,
        magic: 2,
        crc: 0,
        attributes: codec.id().into(),
        last_offset_delta: count - 1,
        base_timestamp: i64::from(last),
        max_timestamp: 9,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        records_count: count,
    }
    .to_bytes()
}

/// Length, format and checksum of one batch put right.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    const CHECKED_FROM: usize = 21;
    if bytes.len() >= HEADER_LEN {
        let len = u32::try_from(bytes.len() - 12).unwrap_or(u32::MAX);
        bytes[8..12].copy_from_slice(&len.to_be_bytes());
        bytes[16] = 2;
        let crc = crc32c::crc32c(&bytes[CHECKED_FROM..]).to_be_bytes();
        bytes[17..21].copy_from_slice(&crc);
    }
    bytes
}

fn batch_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for codec in Compression::ALL {
        let mut builder = Builder::new(codec);
        let headers = [RecordHeader::new("trace", "a"), RecordHeader { name: "none".into(), value: None }];
        for (n, key) in [Some(&b"key"[..]), None, Some(b"")].into_iter().enumerate() {
            let value = format!("value value value value {n}");
            builder.push(1_000, key, Some(value.as_bytes()), &headers[..n]).expect("below the limits");
        }
        builder.producer(Some(Producer { id: ProducerId(7), epoch: 0, sequence: 3 }));
        let whole = builder.build().expect("below the limits").into_bytes();
        seeds.push([&[0], &whole[..]].concat());
        seeds.push([&[0], &whole[..], &whole].concat());
        seeds.push([&[1], &whole[..]].concat());
        let mode = match codec {
            Compression::None => continue,
            Compression::Lz4 => 2,
            Compression::Zstd => 3,
        };
        seeds.push([&[mode, 3, 0, 1], &whole[HEADER_LEN..]].concat());
    }
    seeds
}

/// The text of a config file. Promises: a config prints as a file that is read as the same; everything wrong has a line
/// of the file, and says something in one line.
pub fn config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match Config::parse(text, "node.toml") {
        Ok(config) => assert_eq!(Config::parse(&config.to_toml(), "again").as_ref(), Ok(&config)),
        Err(problems) => {
            assert!(!problems.0.is_empty());
            let lines = 1..=1 + text.lines().count();
            for problem in &problems.0 {
                let line = problem.line.expect("it was read");
                assert!(lines.contains(&line), "{problem}");
                assert!(!problem.message.is_empty() && !problem.message.contains('\n'), "{problem}");
            }
        }
    }
}

fn config_seeds() -> Vec<Vec<u8>> {
    let sections = include_str!("../../../config/highwater.toml");
    let plain: String = sections
        .lines()
        .filter(|line| !line.starts_with('#'))
        .fold(String::new(), |out, line| out + line.split(" #").next().unwrap_or_default().trim_end() + "\n");
    let broken = "[node]\nid = 0\ndata_dirr = \"x\"\n[cluster]\nseeds = [{ id = 1, peer = \"a\" }]\n";
    let dup = "[[listener]]\nkind = \"native\"\nbind = \"0.0.0.0:7420\"\n[[listener]]\nkind = \"http\"\nbind = \"127.0.0.1:7420\"\n";
    vec![plain.into(), Config::local(2, 3).to_toml().into(), broken.into(), dup.into()]
}
