//! What all replicated actors share: the value `Replica` over a machine, the leader and the follower actor that hold
//! it in turn, the proposer's gate, and who waits for which mark.

mod park;
mod post;

pub use park::{Doorman, Fired, Parked, Waiter, WakeAt, Why};
pub use post::{Envelope, Post};
