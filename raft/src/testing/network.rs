//! A network in virtual time: one [`Hub`] per world, one [`SimNetwork`] per life of a node.
//!
//! Models what QUIC shows to us: each node dials each peer once per lane; a connection carries four ordered streams;
//! a message is late, or it and all behind it are lost with the connection, and then both ends hear `down`.
//! While a link is blocked, messages are held as by retransmission: they arrive after healing, unless the connection
//! was given up ([`Timing::notice`]) before. What arrives is one fresh `Bytes`, as from a wire.
//!
//! **Invariant:** same seed and same calls, same history ([`Hub::fingerprint`]).
//! **Invariant:** nothing that a life sends after it was cut is delivered (asserted).
//! **Invariant:** the inbox is called without any lock held, in a task of the receiving node.

mod hub;
mod state;

pub use hub::{Hub, SimNetwork};

use std::time::Duration;

/// How the simulated network behaves. Virtual time moves in steps of 1 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Least time from send to delivery.
    pub delay: Duration,
    /// Random time on top, per message.
    pub jitter: Duration,
    /// When a connection to a dead or unreachable node is given up (QUIC's idle timeout).
    pub notice: Duration,
    /// First wait before a connection is dialled again; doubles up to `redial_max`.
    pub redial_min: Duration,
    /// Longest wait before a connection is dialled again.
    pub redial_max: Duration,
    /// Bytes that may be under way per peer and lane.
    pub waiting_max: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            delay: Duration::from_micros(300),
            jitter: Duration::from_millis(2),
            notice: Duration::from_secs(5),
            redial_min: Duration::from_millis(20),
            redial_max: Duration::from_secs(1),
            waiting_max: 64 << 20,
        }
    }
}

#[cfg(test)]
mod tests;
