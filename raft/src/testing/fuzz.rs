//! Bodies of the fuzz targets: every decoder of bytes from outside, as a function of arbitrary bytes.
//!
//! A body panics when a promise is broken, and only then. What each promises stands at the body; all of them promise to
//! end, and to allocate no more than [`Target::allocates_max`]. libFuzzer calls them through thin shells (`chaos/fuzz`);
//! a plain test replays the inputs that were kept (`chaos/tests/corpora.rs`).
//!
//! Checksums would keep a fuzzer out of all that lies behind them: where the first byte of an input says so, a body puts
//! them right, as whoever damages a program's memory and not its disk would.

use crate::{log, transport};

/// One body.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of its shell and of its corpus.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Inputs to begin with, made by the encoders of this release.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes that may be allocated at a time beyond 64 times the input.
    pub allocates_max: usize,
}

const KIB: usize = 1 << 10;

/// The decoders of this crate.
pub const TARGETS: &[Target] = &[
    Target {
        name: "peer_message",
        run: peer_message,
        seeds: crate::openraft::fuzz::seeds,
        // A framer reserves what a header announces.
        allocates_max: 2 << 20,
    },
    Target {
        name: "wal_frame",
        run: log::fuzz::wal_frame,
        seeds: log::fuzz::wal_frame_seeds,
        allocates_max: 256 * KIB,
    },
    Target {
        name: "wal_record",
        run: log::fuzz::wal_record,
        seeds: log::fuzz::wal_record_seeds,
        allocates_max: 256 * KIB,
    },
    Target {
        name: "wal_recovery",
        run: log::fuzz::recovery,
        seeds: log::fuzz::recovery_seeds,
        // The new file, the cache of a directory, the pages of its disk.
        allocates_max: 16 << 20,
    },
    Target { name: "segment", run: log::fuzz::segment, seeds: log::fuzz::segment_seeds, allocates_max: 2 << 20 },
    Target {
        name: "log_checkpoint",
        run: log::fuzz::checkpoint,
        seeds: log::fuzz::checkpoint_seeds,
        allocates_max: 256 * KIB,
    },
    Target { name: "entry", run: entry, seeds: entry_seeds, allocates_max: 256 * KIB },
];

/// Takes bytes apart as a program of choices; zeros when they end.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of it.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    /// Whether all was taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }
    /// The next two, little-endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }
    /// A number: small ones from one byte, the ends of the range, or eight bytes.
    pub fn u64(&mut self) -> u64 {
        match self.u8() {
            0xff => u64::from_le_bytes(std::array::from_fn(|_| self.u8())),
            0xfe => u64::MAX,
            0xfd => u64::MAX - 1,
            0xfc => i64::MAX.unsigned_abs(),
            small => u64::from(small),
        }
    }
    /// A number below `end`, from one byte; 0 when `end` is.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.u8()) % end.max(1)
    }
    /// Up to `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
    /// What is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// What a peer gave for a damaged segment from entry 5 and offset 40 on; whether it takes the segment's place. Promises: then it
/// is read as it was given, and nothing overlaps.
pub fn replacement(entries: &[log::Applied]) -> bool {
    log::fuzz::replacement(entries)
}

/// The choice of a heartbeat: one byte, so that inputs which chose by their remainder keep what they choose.
pub(crate) const HEARTBEAT: u8 = 8;

/// Promises: what decodes encodes to bytes that decode to the same.
fn peer_message(data: &[u8]) {
    let mut input = Input::new(data);
    let what = input.u8();
    match what % 8 {
        _ if what == HEARTBEAT => transport::detector::fuzz(input.rest()),
        what @ 0..6 => crate::openraft::fuzz::message(what, input.rest()),
        6 => transport::quic::fuzz(input.rest()),
        _ => transport::rpc::fuzz(input.rest()),
    }
}

/// Promises: what decodes encodes to the same bytes, and its commands are slices of them.
fn entry(data: &[u8]) {
    let payload = crate::Payload::from(bytes::Bytes::copy_from_slice(data));
    let Ok((head, commands)) = crate::machine::decode(&payload) else { return };
    assert_eq!(head.commands.len(), commands.len());
    let again = crate::machine::encode(head.term, head.n, head.stamp_ms, &commands);
    assert_eq!(again, payload, "one entry, two encodings");
}

fn entry_seeds() -> Vec<Vec<u8>> {
    let command = |kind, body: &'static [u8]| crate::machine::Command { kind, body: bytes::Bytes::from_static(body) };
    let commands = [command(1, b"a batch"), command(2, b""), command(200, &[0x81, 0xa1, b'o', 7])];
    (0..=commands.len())
        .map(|n| crate::machine::encode(3, 17, 1_700_000_000_000, &commands[..n]).contiguous().to_vec())
        .collect()
}
