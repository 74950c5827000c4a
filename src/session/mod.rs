//! Consumer sessions: one per connection. What is parked for whom, push within credit, and the reading itself.
//!
//! Entry point: [`Session`], the address of a connection's actor. The rules are in `machine` (with `polling` for long
//! polls and `subscription` for push); the actor only translates, and reads what the machine says.
//!
//! **Invariants**
//! - Nothing here polls: a session does something when a request, a fire, a deadline or a finished read comes.
//! - Bytes of answers are taken from the response pool before they are kept, when a fetch fires and not while it waits.
//! - Records are read for a subscription only within credit that was reserved first.
//!
//! Not here: who may connect (`auth`), links and frames (`gateway`), which records a group's member reads (`group`).

mod actor;
mod fill;
mod machine;
mod polling;
mod subscription;
#[cfg(test)]
mod tests;

pub use actor::{Polled, Push, Session};
pub use fill::Ground;
