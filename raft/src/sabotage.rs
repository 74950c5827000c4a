//! Planted bugs, one switch each, to show that histories give them away: those of this crate and those of the broker above it,
//! so that there is one list. Without the feature `sabotage` every switch is off at compile time, and so is the place that
//! asks for it.

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident = $name:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$doc])* $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$bug,)*];

            /// What commands call it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Bug::$bug => $name,)*
                }
            }
        }
    };
}

bugs! {
    /// An append is reported flushed before it is.
    AckBeforeSync = "ack-before-fsync",
    /// A vote is given before it is on disk.
    VoteNotSynced = "vote-not-synced",
    /// A leader resumes its term after a restart.
    LeaderRestore = "leader-restore",
    /// A batch's offset is what the leader guessed when it proposed it.
    OffsetsAtPropose = "offsets-at-propose",
    /// Proposals count whatever their number within the term. The gate would hide it, which proposes nothing more once Raft
    /// refused something: it stays open then, as it could if it relied on the fence alone.
    Unfenced = "unfenced-proposal",
    /// A new term begins without its producers' sequences.
    ProducersDropped = "producers-dropped",
    /// A waiter is parked without a look at the mark that it waits for.
    ParkBlind = "park-without-compare",
    /// A leader serves what it has proposed and nobody has committed.
    ReadAboveMark = "read-above-watermark",
    /// A leader answers without showing that it still is one.
    StaleLeader = "stale-leader",
    /// Checksums of what lies on disk are not looked at.
    CrcIgnored = "crc-ignored",
    /// A node with an empty disk keeps the replica ids that it had.
    WipedKeepsId = "wiped-keeps-id",
    /// A restart checkpoint is written before the entries that it holds are.
    CheckpointAhead = "checkpoint-ahead",
    /// A write-ahead log file is recycled before what is still needed of it stands elsewhere.
    RecycledEarly = "recycled-early",
    /// Whoever commits or reports is believed, in whatever generation.
    GenerationUnchecked = "generation-unchecked",
    /// What was delivered to a subscription does not count.
    CreditOvershot = "credit-overshot",
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
