//! Record batches: Kafka's format, version 2, in memory, on disk and on the wire.
//!
//! A batch is one [`Bytes`] from the producer's socket to the consumer's: checked once at admission
//! ([`Batch::parse`]: header and checksum, no decompression), never encoded again. Offset and leader epoch lie in
//! front of the checksum, so that [`place`] sets them for each reader and shares the rest.
//!
//! **Invariants**
//! - A [`Batch`] is whole and intact: magic 2, its length, CRC-32C, `1 ≤ count == last_offset_delta + 1`, at most
//!   [`limits::BATCH_BYTES_MAX`] bytes, a codec that is served.
//! - Reading records never yields more than [`limits::RECORDS_BYTES_MAX`] bytes and never panics, whatever a producer sent.
//!
//! Not here: sequences and offsets (the partition's machine decides), Kafka's gzip and snappy (with its gateway).

mod builder;
mod compression;
mod error;
mod header;
mod partitioner;
mod records;
#[cfg(test)]
mod tests;
mod varint;

pub use builder::Builder;
pub use compression::Compression;
pub use error::{BatchError, BuildError, RecordsError};
pub use header::{HEADER_LEN, Header, PREFIX_LEN, Producer};
pub use partitioner::{murmur2, partition_of_key};
pub use records::{Record, RecordHeader, Records};

use crate::limits;
use bytes::{BufMut, Bytes, BytesMut};
use header::CHECKED_FROM;

/// One whole, intact batch. Clones share the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    header: Header,
    bytes: Bytes,
}

impl Batch {
    /// Checks that `bytes` are exactly one batch.
    pub fn parse(bytes: Bytes) -> Result<Self, BatchError> {
        let batch = Self::trusted(bytes)?;
        let header = &batch.header;
        let count = header.records_count;
        if count < 1 || header.last_offset_delta.checked_add(1) != Some(count) {
            return Err(BatchError::Count { count, last_offset_delta: header.last_offset_delta });
        }
        header.compression()?;
        let actual = crc32c::crc32c(&batch.bytes[CHECKED_FROM..]);
        if actual != header.crc {
            return Err(BatchError::Checksum { expected: header.crc, actual });
        }
        Ok(batch)
    }

    /// Like [`parse`](Self::parse) for bytes that were checked at admission and are under another checksum since
    /// (the log's, a frame's): the shape only, no CRC.
    pub fn trusted(bytes: Bytes) -> Result<Self, BatchError> {
        let (header, len) = measure(&bytes)?;
        match bytes.len() - len {
            0 => Ok(Self { header, bytes }),
            extra => Err(BatchError::Trailing { extra: extra as u64 }),
        }
    }

    /// What admission asks of a producer's batch beyond [`parse`](Self::parse): no broker's attributes, and producer
    /// id, epoch and sequence all given or all absent.
    pub fn check_produced(&self) -> Result<(), BatchError> {
        let header = &self.header;
        if header.foreign_attributes() != 0 {
            return Err(BatchError::Attributes { attributes: header.attributes });
        }
        let (id, epoch, sequence) = (header.producer_id, header.producer_epoch, header.base_sequence);
        if header.producer().is_none() && (id, epoch, sequence) != (-1, -1, -1) {
            return Err(BatchError::Producer { id, epoch, sequence });
        }
        Ok(())
    }

    /// The decoded header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The whole batch.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The whole batch.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// How many records, at least one.
    pub fn count(&self) -> u32 {
        self.header.records_count.unsigned_abs()
    }

    /// Size in bytes.
    pub fn bytes_len(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("a batch is below its limit")
    }

    /// Who produced it; `None` without idempotence.
    pub fn producer(&self) -> Option<Producer> {
        self.header.producer()
    }

    /// The same records under this producer: header and checksum anew, nothing recompressed.
    pub fn with_producer(&self, producer: Producer) -> Self {
        let mut header = self.header;
        header.producer_id = producer.id.0;
        header.producer_epoch = producer.epoch.cast_signed();
        header.base_sequence = producer.sequence.cast_signed();
        let records = &self.bytes[HEADER_LEN..];
        header.crc = crc32c::crc32c_append(crc32c::crc32c(&header.to_bytes()[CHECKED_FROM..]), records);
        let bytes = [&header.to_bytes()[..], records].concat();
        Self { header, bytes: bytes.into() }
    }

    /// The records, decompressed when the first one is asked for. Offsets count from the header's base offset.
    pub fn records(&self) -> Records {
        Records::new(self.clone())
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({} records, {} bytes)", self.count(), self.bytes.len())
    }
}

/// Header and length of the batch at the front of `bytes`, if it is all there and within the limit.
fn measure(bytes: &[u8]) -> Result<(Header, usize), BatchError> {
    let header = Header::read(bytes)?;
    if header.magic != 2 {
        return Err(BatchError::Magic { actual: header.magic });
    }
    let len = header.bytes_len()?;
    if len > limits::BATCH_BYTES_MAX as usize {
        return Err(BatchError::TooLarge { bytes: len as u64, bytes_max: limits::BATCH_BYTES_MAX });
    }
    if bytes.len() < len {
        return Err(BatchError::Truncated { needed: len as u64, actual: bytes.len() as u64 });
    }
    Ok((header, len))
}

/// The batches that stand one behind the other in `bytes`, each checked by [`Batch::parse`]. Ends at the first error.
pub fn split(bytes: Bytes) -> impl Iterator<Item = Result<Batch, BatchError>> {
    pieces(bytes).map(|piece| piece.and_then(Batch::parse))
}

/// Like [`split`], checked by [`Batch::trusted`].
pub fn split_trusted(bytes: Bytes) -> impl Iterator<Item = Result<Batch, BatchError>> {
    pieces(bytes).map(|piece| piece.and_then(Batch::trusted))
}

fn pieces(mut rest: Bytes) -> impl Iterator<Item = Result<Bytes, BatchError>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let piece = measure(&rest).map(|(_, len)| rest.split_to(len));
        if piece.is_err() {
            rest.clear();
        }
        Some(piece)
    })
}

/// Gives a stored batch its place in the partition: the first 16 bytes anew, the rest shared.
///
/// # Panics
/// When `batch` is shorter than a header, or offset or epoch are beyond Kafka's signed types: programming errors.
pub fn place(batch: &Bytes, base_offset: u64, leader_epoch: u32) -> (Bytes, Bytes) {
    assert!(batch.len() >= HEADER_LEN, "only whole batches are placed");
    let offset = i64::try_from(base_offset).expect("offsets stay below 2^63");
    let epoch = i32::try_from(leader_epoch).expect("epochs stay below 2^31");
    let mut prefix = BytesMut::with_capacity(PREFIX_LEN);
    prefix.put_i64(offset);
    prefix.put_slice(&batch[8..12]);
    prefix.put_i32(epoch);
    (prefix.freeze(), batch.slice(PREFIX_LEN..))
}
