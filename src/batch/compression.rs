//! The codecs of a batch. A bomb is refused at the cap, before the memory for it exists.

use super::RecordsError;
use crate::limits;
use bytes::Bytes;
use std::{
    fmt,
    io::{self, Read},
    str::FromStr,
};

/// How the records of a batch are compressed. Kafka's gzip and snappy come with its gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// LZ4 frames: cheapest.
    Lz4,
    /// Zstandard: smallest.
    Zstd,
}

impl Compression {
    /// All that can be chosen.
    pub const ALL: [Self; 3] = [Self::None, Self::Lz4, Self::Zstd];

    /// The number in the lowest three attribute bits.
    pub const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec with this number, if it is served.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The name in configs and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|codec| codec.name() == text);
        found.ok_or_else(|| format!("`{text}` is no compression; choose none, lz4 or zstd"))
    }
}

/// `None` when compressing does not make it smaller.
pub(super) fn compress(codec: Compression, records: &[u8]) -> Option<Vec<u8>> {
    let out = match codec {
        Compression::None => return None,
        Compression::Lz4 => lz4(records),
        Compression::Zstd => zstd::bulk::compress(records, zstd::DEFAULT_COMPRESSION_LEVEL),
    };
    out.ok().filter(|out| out.len() < records.len())
}

fn lz4(records: &[u8]) -> io::Result<Vec<u8>> {
    use std::io::Write;
    // Without the content size and with independent blocks: what every Kafka client reads.
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::with_capacity(records.len() / 2));
    encoder.write_all(records)?;
    Ok(encoder.finish()?)
}

/// Zero-copy for `None`.
pub(super) fn decompress(codec: Compression, records: &Bytes) -> Result<Bytes, RecordsError> {
    match codec {
        Compression::None => Ok(records.clone()),
        Compression::Lz4 => read_all(codec, lz4_flex::frame::FrameDecoder::new(records.as_ref())),
        Compression::Zstd => {
            let corrupt = |source: io::Error| RecordsError::Compressed { codec, why: source.to_string() };
            let mut decoder = zstd::stream::read::Decoder::with_buffer(records.as_ref()).map_err(corrupt)?;
            decoder.window_log_max(limits::ZSTD_WINDOW_LOG_MAX).map_err(corrupt)?;
            read_all(codec, decoder)
        }
    }
}

fn read_all(codec: Compression, from: impl Read) -> Result<Bytes, RecordsError> {
    let max = limits::RECORDS_BYTES_MAX;
    let mut out = Vec::new();
    from.take(u64::from(max) + 1)
        .read_to_end(&mut out)
        .map_err(|source| RecordsError::Compressed { codec, why: source.to_string() })?;
    if out.len() > max as usize {
        return Err(RecordsError::TooLarge { bytes_max: max });
    }
    Ok(out.into())
}
