use super::*;
use crate::types::ProducerId;
use proptest::prelude::*;

macro_rules! golden {
    ($name:literal) => {
        Bytes::from_static(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/batch/", $name, ".bin")))
    };
}

type Fields = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<RecordHeader>);

/// What each golden batch holds. They were written by kafka-python 3.0.12.
fn golden_records() -> Vec<Fields> {
    let key = |text: &str| Some(text.as_bytes().to_vec());
    let headers = vec![RecordHeader::new("trace", &b"\x01\x02"[..]), RecordHeader::new("empty", &b""[..])];
    vec![
        (1_700_000_000_000, key("alpha"), key("first value"), headers),
        (1_700_000_000_250, None, key("no key"), vec![]),
        (1_699_999_999_000, key("beta"), None, vec![RecordHeader { name: "null".into(), value: None }]),
        (1_700_000_001_000, key(""), key(&"x".repeat(300)), vec![]),
    ]
}

fn fields(batch: &Batch) -> Vec<Fields> {
    let records = batch.records().map(|record| record.unwrap());
    records.map(|r| (r.timestamp, r.key.map(Into::into), r.value.map(Into::into), r.headers)).collect()
}

fn build(records: &[Fields], compression: Compression, producer: Option<Producer>) -> Batch {
    let mut builder = Builder::new(compression);
    builder.producer(producer);
    for (timestamp, key, value, headers) in records {
        builder.push(*timestamp, key.as_deref(), value.as_deref(), headers).unwrap();
    }
    builder.build().unwrap()
}

const PRODUCER: Producer = Producer { id: ProducerId(0x12_3456_7890), epoch: 7, sequence: 42 };

#[test]
fn reads_what_kafka_clients_write() {
    for (bytes, codec, producer) in [
        (golden!("plain"), Compression::None, None),
        (golden!("idempotent"), Compression::None, Some(PRODUCER)),
        (golden!("lz4"), Compression::Lz4, None),
        (golden!("zstd"), Compression::Zstd, None),
    ] {
        let batch = Batch::parse(bytes).unwrap();
        assert_eq!(batch.header().compression(), Ok(codec));
        assert_eq!(batch.producer(), producer);
        assert_eq!(batch.header().max_timestamp, 1_700_000_001_000);
        assert_eq!(batch.check_produced(), Ok(()));
        assert_eq!(fields(&batch), golden_records());
    }
}

#[test]
fn writes_the_same_bytes_as_kafka_clients() {
    // Theirs says leader epoch 0, ours −1 as Java's: outside the checksum, and set when served.
    for (golden, producer) in [(golden!("plain"), None), (golden!("idempotent"), Some(PRODUCER))] {
        let built = build(&golden_records(), Compression::None, producer);
        assert_eq!(place(built.bytes(), 0, 0), place(&golden, 0, 0));
    }
}

#[test]
fn every_damage_is_noticed() {
    let golden = golden!("plain");
    for at in 0..golden.len() {
        assert!(Batch::parse(golden.slice(..at)).is_err(), "cut at {at}");
        let mut bytes = golden.to_vec();
        bytes[at] ^= 0x10;
        // Base offset and leader epoch are set when served, so they lie outside the checksum.
        let outside = at < 8 || (12..16).contains(&at);
        assert_eq!(Batch::parse(bytes.into()).is_ok(), outside, "flipped in byte {at}");
    }
}

#[test]
fn refusals_say_what_is_wrong() {
    let damaged = |change: fn(&mut Header)| {
        let golden = golden!("plain");
        let mut header = Header::read(&golden).unwrap();
        change(&mut header);
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(&golden[HEADER_LEN..]);
        let crc = crc32c::crc32c(&bytes[CHECKED_FROM..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        Batch::parse(bytes.into()).and_then(|batch| batch.check_produced()).unwrap_err().to_string()
    };
    let said = [
        damaged(|h| h.magic = 1),
        damaged(|h| h.batch_length = -5),
        damaged(|h| h.batch_length = 48),
        damaged(|h| h.batch_length = i32::MAX),
        damaged(|h| h.batch_length += 1),
        damaged(|h| h.batch_length -= 1),
        damaged(|h| h.records_count = 0),
        damaged(|h| h.records_count = i32::MIN),
        damaged(|h| h.last_offset_delta = i32::MAX),
        damaged(|h| h.attributes = 1),
        damaged(|h| h.attributes = 0x20),
        damaged(|h| h.producer_id = 5),
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    the record batch has format (magic) 1, only 2 is served
    the record batch announces a length of -5
    the record batch announces a length of 48
    the record batch has 2147483659 bytes, at most 1048576 are accepted
    the record batch ends after 442 bytes, 443 were announced
    1 bytes follow the record batch
    the record batch counts 0 records but its last offset delta is 3
    the record batch counts -2147483648 records but its last offset delta is 3
    the record batch counts 4 records but its last offset delta is 2147483647
    the record batch is compressed with codec 1, served are none (0), lz4 (3) and zstd (4)
    the record batch has attributes 0x0020, which no producer may set
    the record batch has producer id 5, epoch -1 and sequence -1: either all or none are given
    ");
}

#[test]
fn a_bomb_is_refused() {
    let zeros = vec![0; limits::RECORDS_BYTES_MAX as usize + 1];
    for codec in [Compression::Lz4, Compression::Zstd] {
        let records = compression::compress(codec, &zeros).unwrap();
        assert_eq!(
            compression::decompress(codec, &records.into()),
            Err(RecordsError::TooLarge { bytes_max: limits::RECORDS_BYTES_MAX })
        );
    }
}

#[test]
fn a_window_larger_than_the_records_is_refused() {
    // A frame header that asks for a window of 2^27 bytes, and one raw empty last block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, (27 - 10) << 3, 1, 0, 0];
    let refused = compression::decompress(Compression::Zstd, &Bytes::copy_from_slice(&frame));
    assert!(matches!(refused, Err(RecordsError::Compressed { codec: Compression::Zstd, .. })), "{refused:?}");
}

#[test]
fn placing_shares_all_but_the_prefix() {
    let golden = golden!("lz4");
    let (prefix, rest) = place(&golden, 1_234_567, 9);
    assert_eq!((prefix.len(), rest.as_ptr()), (PREFIX_LEN, golden[PREFIX_LEN..].as_ptr()));
    let placed = Batch::parse([prefix, rest].concat().into()).unwrap();
    assert_eq!((placed.header().base_offset, placed.header().partition_leader_epoch), (1_234_567, 9));
    let offsets: Vec<_> = placed.records().map(|record| record.unwrap().offset).collect();
    assert_eq!(offsets, [1_234_567, 1_234_568, 1_234_569, 1_234_570]);
}

#[test]
fn a_buffer_of_batches_is_split() {
    let joined = Bytes::from([golden!("plain"), golden!("zstd"), golden!("lz4")].concat());
    let lens: Vec<_> = split(joined.clone()).map(|batch| batch.unwrap().bytes_len()).collect();
    assert_eq!(lens, [442, 161, 178]);
    assert_eq!(split_trusted(joined.clone()).count(), 3);
    let cut: Vec<_> = split(joined.slice(..joined.len() - 1)).collect();
    assert_eq!(cut.len(), 3);
    assert_eq!(cut[2], Err(BatchError::Truncated { needed: 178, actual: 177 }));
    assert_eq!(split(Bytes::new()).count(), 0);
}

#[test]
fn the_builder_keeps_the_limits() {
    let big = vec![1; limits::BATCH_BYTES_MAX as usize];
    let mut plain = Builder::new(Compression::None);
    assert!(matches!(plain.push(0, None, Some(&big), &[]), Err(BuildError::TooLarge { .. })));
    assert!(plain.is_empty());
    let mut packed = Builder::new(Compression::Zstd);
    for _ in 0..15 {
        packed.push(0, None, Some(&big), &[]).unwrap();
    }
    assert!(matches!(packed.push(0, None, Some(&big), &[]), Err(BuildError::RecordsTooLarge { .. })));
    let batch = packed.build().unwrap();
    assert!(batch.bytes_len() < 10_000, "{}", batch.bytes_len());
    assert_eq!(batch.records().count(), 15);
    let many = vec![RecordHeader { name: String::new(), value: None }; limits::RECORD_HEADERS_MAX as usize + 1];
    assert!(matches!(Builder::default().push(0, None, None, &many), Err(BuildError::Headers { .. })));
    assert_eq!(Builder::default().build().unwrap_err(), BuildError::Empty);
}

fn any_record() -> impl Strategy<Value = Fields> {
    let field = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
    let headers = proptest::collection::vec(("[a-z]{0,4}", field()), 0..4);
    (any::<i64>(), field(), field(), headers).prop_map(|(timestamp, key, value, headers)| {
        let headers = headers.into_iter().map(|(name, value)| RecordHeader { name, value: value.map(Bytes::from) });
        (timestamp, key, value, headers.collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_what_it_built(
        records in proptest::collection::vec(any_record(), 1..30),
        codec in proptest::sample::select(&Compression::ALL[..]),
    ) {
        let mut builder = Builder::new(codec);
        for (timestamp, key, value, headers) in &records {
            let bound = builder.bytes_with(key.as_deref(), value.as_deref());
            builder.push(*timestamp, key.as_deref(), value.as_deref(), headers).unwrap();
            prop_assert!(!headers.is_empty() || builder.bytes_len() <= bound);
        }
        let batch = builder.build().unwrap();
        prop_assert_eq!(&Batch::parse(batch.bytes().clone()).unwrap(), &batch);
        prop_assert_eq!(batch.header().max_timestamp, records.iter().map(|r| r.0).max().unwrap());
        prop_assert_eq!(fields(&batch), records);
    }

    #[test]
    fn any_records_are_read_or_refused(
        codec in proptest::sample::select(&Compression::ALL[..]),
        count in 1..5i32,
        junk in proptest::collection::vec(any::<u8>(), 0..200),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut records = build(&golden_records(), Compression::None, None).bytes()[HEADER_LEN..].to_vec();
        for (at, with) in flips {
            let at = at.index(records.len());
            records[at] ^= with;
        }
        records.extend_from_slice(&junk);
        let records = compression::compress(codec, &records).unwrap_or(records);
        let golden = golden!("plain");
        let mut header = Header::read(&golden).unwrap();
        header.attributes = u16::from(codec.id());
        (header.records_count, header.last_offset_delta) = (count, count - 1);
        header.batch_length = i32::try_from(HEADER_LEN - 12 + records.len()).unwrap();
        let bytes = [&header.to_bytes()[..], &records].concat();
        let batch = Batch::trusted(bytes.into()).unwrap();
        prop_assert!(batch.records().count() <= 5);
    }
}
