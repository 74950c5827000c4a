//! The only place that names openraft. It decides what is committed and who may lead; when to elect, how appends are sent
//! and what is on disk is decided here.
//!
//! ```text
//!  group::Host ─▶ Node ─┬─ Replica ─ proposer ─▶ ╔══════════╗ ─▶ Store   ─▶ log::Group
//!                       │   │        driver   ─▶ ║ openraft ║ ─▶ Applier ─▶ Owner
//!  transport::Rpc ─▶ Demux ─┴─ inbound ────────▶ ╚══════════╝ ─▶ Client  ─▶ transport::Rpc
//! ```
//!
//! **Invariant:** openraft's node id is a [`ReplicaId`](crate::ReplicaId); its node is the [`NodeId`](crate::NodeId)
//! where that replica lives. Nothing creates a replica because of a message.
//! **Invariant:** `IOFlushed` fires only after `fdatasync`, and `save_vote` returns only after it.
//! **Invariant:** openraft's ticks are off but for a group that has had no leader for longer than the back-stop.

mod apply;
mod change;
mod codec;
mod completions;
mod driver;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
mod network;
mod node;
mod pace;
mod proposer;
mod replica;
mod runtime;
mod serve;
mod store;
mod stream;
mod types;
mod watch;

pub(crate) use node::Node;
pub(crate) use proposer::Proposed;
pub(crate) use replica::Replica;
