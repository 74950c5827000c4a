//! Groups as the broker sees them: a [`Host`] per node, a [`Group`] per replica hosted there, and an [`Owner`] per
//! group to whom all that happens is told as [`Event`]s. Nothing here is generic over the machine and no type of
//! openraft shows.
//!
//! ```text
//!  Group::propose ─▶ FIFO ─▶ Raft ─▶ HandedOver ─▶ Flushed ─▶ Committed { entries, done } ─▶ owner applies ─▶ done
//!                             └────▶ Refused (in the order of proposals, before any later outcome)
//! ```
//!
//! **Invariant:** `Committed` comes in index order, one batch at a time: the next one only after the `done` before.
//! **Invariant:** `HandedOver` and `Refused` of one group come in the order of its proposals.
//! **Invariant:** a refused proposal is in no log, unless its refusal says [`Refusal::Unknown`].
//! **Invariant:** all tasks of a group run on the runtime on which [`Host::open`] was called.

mod error;
mod event;
mod handle;
mod host;
#[cfg(test)]
mod tests;

pub use error::{BarrierError, ChangeError, OpenError, RequestError, TransferError};
pub use event::{AppliedAnswer, Committed, Event, MachineState, Member, Owner, Refusal, Role};
pub use handle::Group;
pub use host::{Arbiters, Host, HostOptions, Server, Timing};
