//! Planted bugs, one switch each, to show that histories give them away. Without the feature `sabotage` every switch is off at
//! compile time, and so is the place that asks for it.

/// A bug of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A batch's offset is what the leader guessed when it proposed it.
    OffsetsAtPropose,
    /// Proposals count whatever their number within the term.
    Unfenced,
    /// A new term begins without its producers' sequences.
    ProducersDropped,
    /// A waiter is parked without a look at the mark that it waits for.
    ParkBlind,
    /// A leader serves what it has proposed and nobody has committed.
    ReadAboveMark,
    /// A leader answers without showing that it still is one.
    StaleLeader,
    /// A node with an empty disk keeps the replica ids that it had.
    WipedKeepsId,
    /// Whoever commits or reports is believed, in whatever generation.
    GenerationUnchecked,
    /// What was delivered to a subscription does not count.
    CreditOvershot,
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
