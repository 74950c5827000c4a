//! Consumer sessions: one per connection. What is parked for whom, push within credit, and the reading itself.
//!
//! Entry points: [`Ground`], what all sessions of a node share: produce, offsets and requests about the cluster go through
//! it; [`Session`], the address of a connection's actor: fetches and subscriptions. The rules are in `machine` (with `polling` for long
//! polls and `subscription` for push); the actor only translates, and reads what the machine says.
//!
//! **Invariants**
//! - Nothing here polls: a session does something when a request, a fire, a deadline or a finished read comes.
//! - Bytes of answers are taken from the response pool before they are kept, when a fetch fires and not while it waits.
//! - Records are read for a subscription only within credit that was reserved first.
//!
//! Not here: who may connect (`auth`), links and frames (`gateway`), which records a group's member reads (`group`).

mod actor;
mod desk;
mod fill;
mod ground;
mod machine;
mod observe;
mod polling;
mod port;
mod subscription;
#[cfg(test)]
mod tests;

pub use actor::{Polled, Push, Session};
pub use ground::Ground;
