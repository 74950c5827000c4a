//! What a group tells its owner.

use crate::{
    NodeId, Payload, ReplicaId,
    log::{LogId, Stamp},
    machine::Damaged,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// Who owns a group's machine. Called on the group's own thread, from Raft's tasks: an implementation only enqueues and
/// wakes.
pub trait Owner: Send + Sync + 'static {
    /// Takes one event.
    fn event(&self, event: Event);
}

/// What happened to a group.
#[derive(Debug)]
pub enum Event {
    /// Apply these in order and answer with one stamp per entry. Dropping `done` fails this replica.
    Committed {
        /// Consecutive entries, bounded in bytes.
        entries: Vec<Committed>,
        /// A segment ends behind the last of them: answer the machine's state there too.
        checkpoint_after: bool,
        /// Where the answer goes.
        done: oneshot::Sender<AppliedAnswer>,
    },
    /// Answer the machine's state at what is applied now.
    Checkpoint {
        /// Where the answer goes; dropping it only skips this checkpoint.
        reply: oneshot::Sender<MachineState>,
    },
    /// Replace the machine.
    Restore {
        /// Its bytes, as an earlier answer gave them.
        machine: Bytes,
        /// The next offset.
        offset: u64,
        /// Last entry that is in it.
        last: LogId,
        /// Where the answer goes; an error or a drop fails this replica.
        done: oneshot::Sender<Result<(), Damaged>>,
    },
    /// A proposal got its index and went to the log's writer.
    HandedOver {
        /// The number that the proposer gave.
        proposal: u64,
        /// Its index.
        index: u64,
    },
    /// All entries up to `index` are on this replica's disk.
    Flushed {
        /// The last of them.
        index: u64,
    },
    /// A proposal will not be applied, or nobody here knows.
    Refused {
        /// The number that the proposer gave.
        proposal: u64,
        /// Why.
        why: Refusal,
    },
    /// Role, term, leader, readiness or membership changed.
    Role(Role),
    /// This replica has left Raft: no vote, no ack, no apply.
    Failed {
        /// What happened.
        why: String,
    },
}

/// A committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// What was proposed; empty for Raft's own entries (blank, membership).
    pub payload: Payload,
}

/// The answer to [`Event::Committed`].
#[derive(Clone, Debug, Default)]
pub struct AppliedAnswer {
    /// One per entry, in order.
    pub stamps: Vec<Stamp>,
    /// The machine behind the last entry, if `checkpoint_after` asked for it.
    pub machine: Option<MachineState>,
}

/// A machine at some index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineState {
    /// Its bytes.
    pub machine: Bytes,
    /// The next offset.
    pub offset: u64,
}

/// Why a proposal has no index here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Surely not in any log: this replica does not lead, or not in the proposal's term.
    NotLeader {
        /// Who leads, if known.
        hint: Option<(ReplicaId, NodeId)>,
    },
    /// Surely not in any log: this replica leads but cannot show that it still does (its lease ran out), or is handing
    /// over leadership. Propose again after [`super::Group::barrier`].
    NotNow,
    /// It was in the log of a leader that lost its role: it may or may not be applied later.
    Unknown,
    /// This replica has failed.
    Fatal,
}

/// What a replica is in its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Highest term seen.
    pub term: u64,
    /// Who leads that term, if known.
    pub leader: Option<(ReplicaId, NodeId)>,
    /// It is this replica.
    pub leading: bool,
    /// It is this replica, and the first entry of its term is applied here.
    pub ready: bool,
    /// All members, those too of a change that is not decided yet.
    pub members: BTreeMap<ReplicaId, Member>,
    /// The entry that named them.
    pub members_at: u64,
}

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it lives.
    pub node: NodeId,
    /// It votes; else it only learns.
    pub voter: bool,
}
