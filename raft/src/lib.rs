//! A replicated, durable, ordered log.
//!
//! This crate knows groups, replicas, entries and disks. It knows no topic, client or protocol: what an entry means
//! is the business of whoever owns the group's machine.
//!
//! ```text
//!  propose ─▶ proposer ─▶ openraft ─▶ log::Group ─▶ WAL thread ─▶ fdatasync ─▶ flushed
//!                            │  ▲                                               │
//!                            ▼  └───────────── quorum of flushed ◀──────────────┤
//!                        transport ──▶ other replicas ──▶ their WAL ────────────┘
//!                            │
//!  Event::Committed ◀── apply (one batch at a time, answered by `Done`)
//! ```
//!
//! Three counts that are never mixed:
//! * **index**: Raft's position of an entry in its group (every entry has one);
//! * **offset**: what clients see; made by the machine in apply, unknown here but for the sparse index of segments;
//! * **sync_seq**: the count of flushes of one data directory.
//!
//! **Invariant:** an entry is reported flushed only after `fdatasync` of the frame that holds it and of all before it.
//! **Invariant:** `purged ≤ checkpoint ≤ applied ≤ committed ≤ last`; a checkpoint never runs ahead of its durable log.
//! **Invariant:** a replica id is used once. What lost its disk comes back under a new id.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod disk;
pub mod env;
pub mod group;
mod ids;
pub mod log;
pub mod machine;
pub mod observe;
mod openraft;
mod payload;
pub mod sabotage;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport;

pub use ids::{BootId, DirectoryId, GroupId, NodeId, ReplicaId};
pub use payload::{Payload, Reader};
