//! Planted bugs, one switch each, to show that histories give them away. Without the feature `sabotage` every switch is off at
//! compile time, and so is the place that asks for it.

/// A bug of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An append is reported flushed before it is.
    AckBeforeSync,
    /// A vote is given before it is on disk.
    VoteNotSynced,
    /// A leader resumes its term after a restart.
    LeaderRestore,
    /// Checksums of what lies on disk are not looked at.
    CrcIgnored,
    /// A restart checkpoint is written before the entries that it holds are.
    CheckpointAhead,
    /// A write-ahead log file is recycled before what is still needed of it stands elsewhere.
    RecycledEarly,
}

#[cfg(feature = "sabotage")]
mod switches {
    use super::Bug;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    static PLANTED: AtomicU32 = AtomicU32::new(0);

    /// Plants a bug, for the rest of the process.
    pub fn plant(bug: Bug) {
        PLANTED.fetch_or(1 << bug as u32, Relaxed);
    }

    /// Whether a bug is planted.
    #[inline]
    pub fn on(bug: Bug) -> bool {
        PLANTED.load(Relaxed) & (1 << bug as u32) != 0
    }
}
#[cfg(feature = "sabotage")]
pub use switches::{on, plant};

/// Whether a bug is planted.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub const fn on(_: Bug) -> bool {
    false
}
