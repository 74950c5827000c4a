//! Segments: files of applied entries.

use super::LogId;

/// What is known of a segment without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Index of its first entry.
    pub(super) first: u64,
    /// The entry before it.
    pub(super) base: Option<LogId>,
    /// The next offset before its first entry.
    pub(super) offset: u64,
    /// Synced bytes.
    pub(super) len: u64,
}

impl Segment {
    /// The empty segment that begins behind `base`.
    pub(super) fn behind(base: Option<LogId>, offset: u64) -> Self {
        Self { first: base.map_or(0, |b| b.index + 1), base, offset, len: 0 }
    }
}
