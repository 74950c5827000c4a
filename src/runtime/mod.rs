//! What actors need of actix and of the machine they run on: arbiters, turns, byte permits, reply slots, phases of a
//! node's life, and the trait by which effects reach other nodes.
//!
//! **Invariants**
//! - A request that carries a [`ReplySlot`] is always answered: by its handler, or by the slot's `Drop`.
//! - Memory of requests is bounded by [`BytePool`]s, never by the length of a mailbox.
//! - At most one [`Turn`] per actor is on its way ([`Wake`]).
//!
//! Not here: what is done in a turn (`replica/`), and who listens (`gateway/`).

mod arbiters;
mod courier;
mod permit;
mod phase;
mod slot;
mod wake;

pub use arbiters::{Arbiters, ArbitersError, start};
pub use courier::{Courier, CourierError, Service};
pub use highwater_raft::env::{Env, TaskSet};
pub use permit::{BytePermit, BytePool, PoolFull};
pub use phase::{Phase, Phases};
pub use slot::{Lost, ReplySlot};
pub use wake::{Turn, Wake};
