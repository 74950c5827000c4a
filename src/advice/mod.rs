//! What to do about an error: for the program that got it ([`Reaction`]) and for the person who reads it.
//!
//! Every public error enum of the workspace implements [`Advice`] by a `match` that names each variant, so that a new
//! variant does not compile before somebody has thought about both. `tests/tidy.rs` holds this. Those of `highwater-raft`,
//! which stands below the trait, do so in `raft.rs`.

#[cfg(feature = "node")]
mod raft;

use crate::types::{NAME_BYTES_MAX, NameError};

/// What a program does next. Clients decide on nothing else, so that a new error needs no new client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// The same request may succeed later, at the same node.
    Retry {
        /// How long to wait first, in milliseconds.
        after_ms: u32,
    },
    /// The same request may succeed elsewhere: find the leader (or the group's home) again, then retry.
    Refresh,
    /// The request itself is wrong or not allowed: it will never succeed unchanged.
    Reject,
    /// Whoever got it must stop: going on would lie or lose data.
    Stop,
}

impl Reaction {
    /// Whether sending the same request again can help.
    pub const fn is_retriable(self) -> bool {
        matches!(self, Self::Retry { .. } | Self::Refresh)
    }
}

/// Implemented by every error: `Display` says what happened, with facts; this says what to do.
pub trait Advice {
    /// What the program that got the error does next.
    fn reaction(&self) -> Reaction;
    /// What the person who reads it does next: one sentence that begins with a verb and has no full stop.
    fn advice(&self) -> String;
}

impl Advice for NameError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Empty { .. } | Self::TooLong { .. } | Self::Character { .. } | Self::Reserved { .. } => {
                Reaction::Reject
            }
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Empty { what } => format!("give the {what} a name"),
            Self::TooLong { what, .. } => format!("choose a {what} name of at most {NAME_BYTES_MAX} bytes"),
            Self::Character { what, .. } => format!("use only letters, digits, '.', '_' and '-' in the {what} name"),
            Self::Reserved { what, .. } => format!("choose another {what} name"),
        }
    }
}
