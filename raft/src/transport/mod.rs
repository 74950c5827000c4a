//! Messages between nodes. The seam is [`Network`]: ordered messages per (peer, lane, stream), with QUIC
//! (`transport::quic`) and the simulated network (`testing::network`) behind it. Requests and answers, the failure
//! detector and everything above use the seam only.

pub mod detector;
pub mod quic;
pub mod rpc;
pub mod tls;

use crate::{BootId, NodeId, Payload};
use std::{fmt, sync::Arc};

/// Which connection of a peer a message takes. They never wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Heartbeats, votes, the detector: small, never behind bulk.
    Control,
    /// Appends and their answers; broker-to-broker requests.
    Data,
    /// Checkpoints and catch-up; rate-limited.
    Bulk,
}

impl Lane {
    /// All lanes, in order.
    pub const ALL: [Lane; 3] = [Lane::Control, Lane::Data, Lane::Bulk];
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lane::Control => "control",
            Lane::Data => "data",
            Lane::Bulk => "bulk",
        })
    }
}

/// Ordered, at-most-once messages to known peers.
///
/// Messages with the same `(to, lane, key)` arrive in order or not at all; after a loss [`Inbox::down`] is called on both sides
/// before any later message of that lane arrives. `send` never waits: it takes the message (bounded by bytes per peer and
/// lane) or refuses it.
pub trait Network: Send + Sync + 'static {
    /// Sends; `key` chooses the stream within the lane (groups hash on it).
    fn send(&self, to: NodeId, lane: Lane, key: u64, message: Payload) -> Result<(), SendError>;
    /// Where peers are. Called at start and when the cluster changes; a peer that is left out is disconnected.
    fn set_peers(&self, peers: Vec<Peer>);
    /// Registers the receiver; called once, before the first `set_peers`.
    fn set_inbox(&self, inbox: Arc<dyn Inbox>);
    /// Drops one lane's connections to and from a peer (it is suspected): messages that wait are lost, `down` is called
    /// soon after (never from within this call), and the dialler begins anew.
    fn disconnect(&self, peer: NodeId, lane: Lane);
}

/// A peer's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub node: NodeId,
    /// `host:port` of its data and bulk connections.
    pub address: String,
    /// `host:port` of its control connection.
    pub control_address: String,
}

/// What arrives. Called on the network's own thread: implementations hand over at once and never wait.
pub trait Inbox: Send + Sync + 'static {
    /// A message of an identified peer; `boot` is the life it said in HELLO.
    fn message(&self, from: NodeId, boot: BootId, lane: Lane, message: Payload);
    /// The lane is connected in both directions, so that what is asked now can be answered. Not called again before a `down`.
    fn up(&self, peer: NodeId, boot: BootId, lane: Lane);
    /// The lane to or from that peer broke: answers that were expected over it will not come.
    fn down(&self, peer: NodeId, lane: Lane);
    /// A message was taken for a connection that then was not to be had: the peer hears no `down`, and may wait for it.
    fn lost(&self, _peer: NodeId, _lane: Lane, _message: &Payload) {}
}

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Not in the list of peers.
    #[error("node {node} is not a peer")]
    UnknownPeer {
        /// Who.
        node: NodeId,
    },
    /// No connection now; the dialler keeps trying.
    #[error("node {node} is not connected")]
    NotConnected {
        /// Who.
        node: NodeId,
    },
    /// The bytes that wait for this peer and lane are at their limit.
    #[error("{waiting} bytes wait for node {node}, limit {limit}")]
    Full {
        /// Who.
        node: NodeId,
        /// Bytes that wait.
        waiting: usize,
        /// The limit.
        limit: usize,
    },
    /// No message of this lane may be so large: it never leaves.
    #[error("a message of {bytes} bytes for node {node}, limit {limit}")]
    TooLarge {
        /// Who.
        node: NodeId,
        /// Its bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}
