//! Writing a batch.

use super::{
    Batch, BuildError, Compression, Header, Producer, RecordHeader, compression,
    header::{CHECKED_FROM, HEADER_LEN, LENGTH_BASE},
    varint,
};
use crate::limits;
use bytes::Bytes;

/// Collects records and makes a batch of them.
///
/// Sizes are checked when a record is pushed, so that a producer learns at once that a record never fits and can
/// close the batch before one that does not fit any more ([`bytes_with`](Self::bytes_with)).
#[derive(Clone, Debug, Default)]
pub struct Builder {
    compression: Compression,
    producer: Option<Producer>,
    records: Vec<u8>,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl Builder {
    /// An empty batch, to be compressed like this.
    pub fn new(compression: Compression) -> Self {
        Self { compression, ..Self::default() }
    }

    /// Says who produces it. May be called until the batch is built.
    pub fn producer(&mut self, producer: Option<Producer>) -> &mut Self {
        self.producer = producer;
        self
    }

    /// Appends a record; `timestamp` in milliseconds since 1970.
    pub fn push(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader],
    ) -> Result<(), BuildError> {
        if headers.len() > limits::RECORD_HEADERS_MAX as usize {
            return Err(BuildError::Headers { count: headers.len(), count_max: limits::RECORD_HEADERS_MAX });
        }
        let base_timestamp = if self.count == 0 { timestamp } else { self.base_timestamp };
        let body = self.body_len(timestamp.wrapping_sub(base_timestamp), key, value, headers);
        let bytes = self.records.len() as u64 + body as u64 + varint::len(signed(body)) as u64;
        if bytes > u64::from(limits::RECORDS_BYTES_MAX) {
            return Err(BuildError::RecordsTooLarge { bytes, bytes_max: limits::RECORDS_BYTES_MAX });
        }
        let uncompressed = bytes + HEADER_LEN as u64;
        if self.compression == Compression::None && uncompressed > u64::from(limits::BATCH_BYTES_MAX) {
            return Err(BuildError::TooLarge { bytes: uncompressed, bytes_max: limits::BATCH_BYTES_MAX });
        }
        self.base_timestamp = base_timestamp;
        self.max_timestamp = if self.count == 0 { timestamp } else { self.max_timestamp.max(timestamp) };

        let out = &mut self.records;
        varint::put(out, signed(body));
        out.push(0);
        varint::put(out, timestamp.wrapping_sub(base_timestamp));
        varint::put(out, i64::from(self.count));
        put_field(out, key);
        put_field(out, value);
        varint::put(out, signed(headers.len()));
        for header in headers {
            put_field(out, Some(header.name.as_bytes()));
            put_field(out, header.value.as_deref());
        }
        self.count += 1;
        debug_assert_eq!(out.len() as u64, bytes);
        Ok(())
    }

    /// Size of the batch, before compression, if a record with this key and value were pushed too (an upper bound
    /// without headers).
    pub fn bytes_with(&self, key: Option<&[u8]>, value: Option<&[u8]>) -> usize {
        const VARINTS_MAX: usize = 5 + 1 + 10 + 5 + 5 + 5 + 1;
        self.bytes_len() + VARINTS_MAX + key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len)
    }

    /// Size of the batch, before compression.
    pub fn bytes_len(&self) -> usize {
        HEADER_LEN + self.records.len()
    }

    /// How many records it has.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Compresses and seals.
    pub fn build(self) -> Result<Batch, BuildError> {
        if self.count == 0 {
            return Err(BuildError::Empty);
        }
        let compressed = compression::compress(self.compression, &self.records);
        let codec = if compressed.is_some() { self.compression } else { Compression::None };
        let records = compressed.as_deref().unwrap_or(&self.records);
        let len = HEADER_LEN + records.len();
        if len > limits::BATCH_BYTES_MAX as usize {
            return Err(BuildError::TooLarge { bytes: len as u64, bytes_max: limits::BATCH_BYTES_MAX });
        }
        let field = |n: usize| i32::try_from(n).expect("a batch is below its limit");
        let count = i32::try_from(self.count).expect("each record has bytes, and they are limited");
        let mut header = Header {
            base_offset: 0,
            batch_length: field(len - LENGTH_BASE),
            partition_leader_epoch: -1,
            magic: 2,
            crc: 0,
            attributes: u16::from(codec.id()),
            last_offset_delta: count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer.map_or(-1, |p| p.id.0),
            producer_epoch: self.producer.map_or(-1, |p| p.epoch.cast_signed()),
            base_sequence: self.producer.map_or(-1, |p| p.sequence.cast_signed()),
            records_count: count,
        };
        let crc = crc32c::crc32c(&header.to_bytes()[CHECKED_FROM..]);
        header.crc = crc32c::crc32c_append(crc, records);
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&header.to_bytes());
        bytes.extend_from_slice(records);
        Ok(Batch { header, bytes: Bytes::from(bytes) })
    }

    fn body_len(&self, delta: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[RecordHeader]) -> usize {
        let facts = headers.iter().map(|h| field_len(Some(h.name.as_bytes())) + field_len(h.value.as_deref()));
        1 + varint::len(delta)
            + varint::len(i64::from(self.count))
            + field_len(key)
            + field_len(value)
            + varint::len(signed(headers.len()))
            + facts.sum::<usize>()
    }
}

fn signed(len: usize) -> i64 {
    i64::try_from(len).expect("lengths fit into 63 bits")
}

fn field_len(field: Option<&[u8]>) -> usize {
    field.map_or(1, |bytes| varint::len(signed(bytes.len())) + bytes.len())
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    varint::put(out, field.map_or(-1, |bytes| signed(bytes.len())));
    out.extend_from_slice(field.unwrap_or_default());
}
