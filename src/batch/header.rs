//! The 61 bytes in front of the records.
//!
//! ```text
//!  0            8         12        16  17   21    23      27       35       43   51    53      57     61
//!  ├ base offset ┼ length ─┼ epoch ──┼ m ┼ crc ┼ attr ┼ delta ┼ first ts ┼ max ts ┼ pid ┼ pep ┼ seq ─┼ n ┤ records
//!  └────── set when served ──────────┘        └────────────────── covered by the CRC-32C ─────────────────────…
//! ```

use super::{BatchError, Compression};
use crate::types::ProducerId;

/// Length of a batch's header.
pub const HEADER_LEN: usize = 61;
/// Length of the part in front of the header that serving sets: base offset, batch length, leader epoch.
pub const PREFIX_LEN: usize = 16;
/// Base offset and batch length: what the length field does not count.
pub(super) const LENGTH_BASE: usize = 12;
/// Where the bytes begin that the checksum covers.
pub(super) const CHECKED_FROM: usize = 21;

const CODEC_MASK: u16 = 0b111;
const LOG_APPEND_TIME: u16 = 1 << 3;
const TRANSACTIONAL: u16 = 1 << 4;
const CONTROL: u16 = 1 << 5;

/// Who produced a batch, for idempotence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Its id.
    pub id: ProducerId,
    /// Its epoch: a higher one fences the lower.
    pub epoch: u16,
    /// Number of the batch's first record in this partition; wraps from `i32::MAX` to 0.
    pub sequence: u32,
}

/// A decoded header, fields as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Offset of the first record; 0 as produced, set when served.
    pub base_offset: i64,
    /// Bytes behind this field.
    pub batch_length: i32,
    /// The leader's epoch; −1 as produced, set when served.
    pub partition_leader_epoch: i32,
    /// The format: 2.
    pub magic: i8,
    /// CRC-32C of all behind it.
    pub crc: u32,
    /// Codec in bits 0–2, 3 log append time, 4 transactional, 5 control.
    pub attributes: u16,
    /// Offset of the last record, relative to the first.
    pub last_offset_delta: i32,
    /// Timestamp that the records' are relative to, in milliseconds since 1970.
    pub base_timestamp: i64,
    /// Largest timestamp of a record, in milliseconds since 1970; as the producer says.
    pub max_timestamp: i64,
    /// −1 without idempotence.
    pub producer_id: i64,
    /// −1 without idempotence.
    pub producer_epoch: i16,
    /// −1 without idempotence.
    pub base_sequence: i32,
    /// How many records.
    pub records_count: i32,
}

impl Header {
    /// Decodes the first [`HEADER_LEN`] bytes without judging them.
    pub fn read(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some((head, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(BatchError::Truncated { needed: HEADER_LEN as u64, actual: bytes.len() as u64 });
        };
        let mut rest = head.as_slice();
        let header = Self {
            base_offset: i64::from_be_bytes(take(&mut rest)),
            batch_length: i32::from_be_bytes(take(&mut rest)),
            partition_leader_epoch: i32::from_be_bytes(take(&mut rest)),
            magic: i8::from_be_bytes(take(&mut rest)),
            crc: u32::from_be_bytes(take(&mut rest)),
            attributes: u16::from_be_bytes(take(&mut rest)),
            last_offset_delta: i32::from_be_bytes(take(&mut rest)),
            base_timestamp: i64::from_be_bytes(take(&mut rest)),
            max_timestamp: i64::from_be_bytes(take(&mut rest)),
            producer_id: i64::from_be_bytes(take(&mut rest)),
            producer_epoch: i16::from_be_bytes(take(&mut rest)),
            base_sequence: i32::from_be_bytes(take(&mut rest)),
            records_count: i32::from_be_bytes(take(&mut rest)),
        };
        debug_assert!(rest.is_empty());
        Ok(header)
    }

    /// Encodes.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut rest = out.as_mut_slice();
        put(&mut rest, self.base_offset.to_be_bytes());
        put(&mut rest, self.batch_length.to_be_bytes());
        put(&mut rest, self.partition_leader_epoch.to_be_bytes());
        put(&mut rest, self.magic.to_be_bytes());
        put(&mut rest, self.crc.to_be_bytes());
        put(&mut rest, self.attributes.to_be_bytes());
        put(&mut rest, self.last_offset_delta.to_be_bytes());
        put(&mut rest, self.base_timestamp.to_be_bytes());
        put(&mut rest, self.max_timestamp.to_be_bytes());
        put(&mut rest, self.producer_id.to_be_bytes());
        put(&mut rest, self.producer_epoch.to_be_bytes());
        put(&mut rest, self.base_sequence.to_be_bytes());
        put(&mut rest, self.records_count.to_be_bytes());
        debug_assert!(rest.is_empty());
        out
    }

    /// Bytes of the whole batch, as its length field says.
    pub fn bytes_len(&self) -> Result<usize, BatchError> {
        let length =
            usize::try_from(self.batch_length).map_err(|_| BatchError::Length { length: self.batch_length })?;
        if length < HEADER_LEN - LENGTH_BASE {
            return Err(BatchError::Length { length: self.batch_length });
        }
        Ok(length + LENGTH_BASE)
    }

    /// How the records are compressed.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        let id = (self.attributes & CODEC_MASK) as u8;
        Compression::from_id(id).ok_or(BatchError::Codec { id })
    }

    /// Whether all records carry `max_timestamp`, set by a broker, in place of their own.
    pub const fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// Whether the batch belongs to a transaction.
    pub const fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether the batch is the broker's own marker, not data.
    pub const fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Attribute bits that a producer may not set.
    pub(super) const fn foreign_attributes(&self) -> u16 {
        self.attributes & !CODEC_MASK
    }

    /// Who produced it; `None` without idempotence.
    pub fn producer(&self) -> Option<Producer> {
        let epoch = u16::try_from(self.producer_epoch).ok()?;
        let sequence = u32::try_from(self.base_sequence).ok()?;
        (self.producer_id >= 0).then_some(Producer { id: ProducerId(self.producer_id), epoch, sequence })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (front, behind) = rest.split_first_chunk().expect("the fields of a header have its length");
    *rest = behind;
    *front
}

fn put<const N: usize>(rest: &mut &mut [u8], field: [u8; N]) {
    let (front, behind) = std::mem::take(rest).split_first_chunk_mut().expect("the fields of a header have its length");
    *front = field;
    *rest = behind;
}
