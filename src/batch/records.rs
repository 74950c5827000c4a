//! Reading the records of a batch.

use super::{Batch, RecordsError, compression, header::HEADER_LEN, varint};
use crate::limits;
use bytes::Bytes;

/// One record, sharing the batch's (or its decompressed) bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset in the partition.
    pub offset: u64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// What decides the partition and the order.
    pub key: Option<Bytes>,
    /// The content; `None` deletes the key in a compacted topic.
    pub value: Option<Bytes>,
    /// In the order in which the producer gave them; a name may come twice.
    pub headers: Vec<RecordHeader>,
}

/// A named fact beside a record's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Option<Bytes>,
}

impl RecordHeader {
    /// A header with a value.
    pub fn new(name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self { name: name.into(), value: Some(value.into()) }
    }
}

/// Iterates over the records of a batch; ends after the first error.
pub struct Records {
    batch: Batch,
    records: Option<Bytes>,
    position: usize,
    next: u32,
    ended: bool,
}

impl Records {
    pub(super) fn new(batch: Batch) -> Self {
        Self { batch, records: None, position: 0, next: 0, ended: false }
    }

    fn read(&mut self) -> Result<Option<Record>, RecordsError> {
        let records = match &self.records {
            Some(records) => records.clone(),
            None => {
                let codec = self.batch.header().compression().unwrap_or_default();
                self.records.insert(compression::decompress(codec, &self.batch.bytes().slice(HEADER_LEN..))?).clone()
            }
        };
        if self.next == self.batch.count() {
            return match records.len() - self.position {
                0 => Ok(None),
                extra => Err(RecordsError::Trailing { extra: extra as u64 }),
            };
        }
        let mut cursor = Cursor { bytes: &records, position: self.position, end: records.len(), index: self.next };
        let record = cursor.record(&self.batch)?;
        self.position = cursor.position;
        self.next += 1;
        Ok(Some(record))
    }
}

impl Iterator for Records {
    type Item = Result<Record, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.read().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

struct Cursor<'a> {
    bytes: &'a Bytes,
    position: usize,
    /// End of the current record once its length is read.
    end: usize,
    index: u32,
}

impl Cursor<'_> {
    fn record(&mut self, batch: &Batch) -> Result<Record, RecordsError> {
        let header = batch.header();
        let len =
            self.length("the record's length")?.ok_or_else(|| self.malformed("the record's length is negative"))?;
        self.end = self.position + len;

        self.slice(1, "the record ends before its attributes")?;
        let timestamp_delta = self.i64("the timestamp")?;
        let offset_delta = self.i32("the offset")?;
        if u32::try_from(offset_delta) != Ok(self.index) {
            return Err(self.malformed("the offset delta is not the record's position"));
        }
        let timestamp = match header.is_log_append_time() {
            true => header.max_timestamp,
            false => header.base_timestamp.wrapping_add(timestamp_delta),
        };
        let key = self.field("the key")?;
        let value = self.field("the value")?;
        let headers = self.headers()?;
        if self.position != self.end {
            return Err(self.malformed("the record is longer than its fields"));
        }
        let offset = header.base_offset.max(0).unsigned_abs() + u64::from(self.index);
        Ok(Record { offset, timestamp, key, value, headers })
    }

    fn headers(&mut self) -> Result<Vec<RecordHeader>, RecordsError> {
        let count = self.i32("the number of headers")?;
        let count = u32::try_from(count).map_err(|_| self.malformed("the number of headers is negative"))?;
        if count > limits::RECORD_HEADERS_MAX {
            return Err(self.malformed("too many headers"));
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = self.field("a header's name")?.ok_or_else(|| self.malformed("a header has no name"))?;
            let name = str::from_utf8(&name).map_err(|_| self.malformed("a header's name is not UTF-8"))?.to_owned();
            headers.push(RecordHeader { name, value: self.field("a header's value")? });
        }
        Ok(headers)
    }

    /// A length (−1 is `None`) and as many bytes.
    fn field(&mut self, what: &'static str) -> Result<Option<Bytes>, RecordsError> {
        match self.length(what)? {
            Some(len) => self.slice(len, what).map(Some),
            None => Ok(None),
        }
    }

    /// A length that fits into what is left.
    fn length(&mut self, what: &'static str) -> Result<Option<usize>, RecordsError> {
        let len = self.i32(what)?;
        if len == -1 {
            return Ok(None);
        }
        match usize::try_from(len) {
            Ok(len) if len <= self.end - self.position => Ok(Some(len)),
            _ => Err(self.malformed(what)),
        }
    }

    fn slice(&mut self, len: usize, what: &'static str) -> Result<Bytes, RecordsError> {
        if len > self.end - self.position {
            return Err(self.malformed(what));
        }
        let slice = self.bytes.slice(self.position..self.position + len);
        self.position += len;
        Ok(slice)
    }

    fn i32(&mut self, what: &'static str) -> Result<i32, RecordsError> {
        varint::read_i32(&self.bytes[..self.end], &mut self.position).map_err(|_| self.malformed(what))
    }

    fn i64(&mut self, what: &'static str) -> Result<i64, RecordsError> {
        varint::read_i64(&self.bytes[..self.end], &mut self.position).map_err(|_| self.malformed(what))
    }

    fn malformed(&self, what: &'static str) -> RecordsError {
        RecordsError::Malformed { index: self.index, position: self.position as u64, what }
    }
}
