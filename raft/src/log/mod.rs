//! The durable log of one data directory: a shared write-ahead log, and segments of applied entries per group.
//! No Raft words here: a *group* is a numbered sequence of entries with a vote beside it.
//!
//! ```text
//!  append ─▶ slots (readable at once) ─▶ queue ─▶ WAL thread: one frame, one write, one fdatasync ─▶ Done
//!                                                   │ file full
//!                                                   ▼
//!  retirer thread: applied entries ─▶ segments (synced) ─▶ restart checkpoint ─▶ rest carried forward ─▶ recycle
//! ```
//!
//! * **Invariant:** a `Done` fires with `Ok` only after `fdatasync` of the frame that holds its record and of all before it.
//! * **Invariant:** flush n+1 is not issued before flush n is synced; so a frame with a later frame behind it was synced.
//! * **Invariant:** no page of a synced frame is written again (frames start on 4 KiB boundaries).
//! * **Invariant:** an entry is in the WAL or in a synced segment, never in neither; segments hold applied entries only.
//! * **Invariant:** recovery writes to no old file, and what it could not prove flushed is in a new, synced file before
//!   anybody sees it.
//!
//! A bit that flips in the last flush before its seal (50 ms) cannot be told from a torn write: it is cut.
//! Deliberately not here: when to trim, what an entry means, who is leader.

mod applied;
mod cache;
mod checkpoint;
mod core;
mod directory;
mod entry;
mod error;
mod frame;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
mod group;
mod index;
mod load;
mod mover;
mod open;
mod reader;
mod record;
mod recovery;
mod replay;
mod retention;
mod retire;
mod scan;
mod segment;
mod state;
mod wal;
mod walfiles;

#[cfg(test)]
mod tests;

pub use directory::{Directory, Health, Options, Stats};
pub use error::{CreateError, OpenError, ReadError};
pub use group::{Checkpointer, Group};

use crate::Payload;
use bytes::Bytes;
use std::io;

/// One entry as the log sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position in the group, dense.
    pub index: u64,
    /// Who put it there.
    pub term: u64,
    /// The owner's numbering (blank, membership, command).
    pub kind: u8,
    /// Content, uninterpreted.
    pub payload: Payload,
}

/// (term, index) of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogId {
    /// Term.
    pub term: u64,
    /// Index.
    pub index: u64,
}

/// Called once, in order of submission per group, on the WAL thread, after `fdatasync` or with the error that stops the node.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What the apply loop says about an applied entry: the log keeps it beside the entry.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Which entry.
    pub index: u64,
    /// The next offset *before* this entry; an entry that serves nothing has `offset == offset_end`.
    pub offset: u64,
    /// The next offset after it.
    pub offset_end: u64,
    /// Highest record timestamp in it, milliseconds; -1 when none.
    pub max_timestamp: i64,
    /// The owner's own note (small): where in the payload served pieces lie. Given back with the entry by [`Group::read_applied`].
    pub note: Bytes,
}

/// An applied entry, with what apply said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The entry.
    pub entry: Entry,
    /// What apply said.
    pub stamp: Stamp,
}

/// The state of a group at an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Last entry that is in it.
    pub last: LogId,
    /// The next offset after it.
    pub offset: u64,
    /// Membership effective there, the owner's encoding.
    pub membership: Bytes,
    /// The machine.
    pub machine: Bytes,
}
