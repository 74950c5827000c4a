//! The types with which openraft is instantiated, and what ours are in its terms.

use super::{apply::Applier, replica::Shared, runtime::Runtime};
use crate::{
    NodeId, Payload, ReplicaId,
    group::{Event, Refusal},
    log,
};
use ::openraft::{
    EntryPayload, OptionalSend, RaftTypeConfig, alias,
    errors::{ClientWriteError, ForwardReason, ForwardToLeader},
    impls::{self, leader_id_std},
    raft::{ClientWriteResult, responder::Responder},
};
use std::{any::Any, fmt, sync::Arc};

/// openraft's parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Proposal;
    type R = ();
    type NodeId = ReplicaId;
    type Node = NodeId;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, ReplicaId>;
    type Vote = impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Proposal, ReplicaId, NodeId>;
    type Entry = alias::DefaultEntryOf<Types>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Outcome
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = anyerror::AnyError;
}

pub(crate) type Raft = ::openraft::Raft<Types, Applier>;
pub(super) type LogId = alias::LogIdOf<Types>;
pub(super) type Vote = alias::VoteOf<Types>;
pub(super) type Entry = alias::EntryOf<Types>;
pub(super) type Content = alias::PayloadOf<Types>;
pub(super) type Membership = ::openraft::Membership<ReplicaId, NodeId>;
pub(super) type StoredMembership = alias::StoredMembershipOf<Types>;
pub(super) type SnapshotMeta = alias::SnapshotMetaOf<Types>;
pub(super) type Snapshot = alias::SnapshotOf<Types, log::Checkpoint>;

pub(super) fn log_id(id: log::LogId) -> LogId {
    LogId::new_term_index(id.term, id.index)
}

pub(super) fn own_id(id: &LogId) -> log::LogId {
    log::LogId { term: id.leader_id.term, index: id.index }
}

/// What openraft carries as an entry's data. Headers read back from the log carry none.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Proposal {
    /// What was proposed.
    pub(super) payload: Payload,
    /// The proposer's number, on the replica that proposed.
    pub(super) id: Option<u64>,
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.payload.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Tells the owner how a proposal ended, if it did not end in apply.
pub(crate) struct Outcome {
    shared: Arc<Shared>,
    proposal: u64,
    told: bool,
}

impl Outcome {
    pub(super) fn new(shared: Arc<Shared>, proposal: u64) -> Self {
        Outcome { shared, proposal, told: false }
    }

    fn refuse(&mut self, why: Refusal) {
        self.told = true;
        self.shared.owner.event(Event::Refused { proposal: self.proposal, why });
    }
}

impl<T: OptionalSend + 'static> Responder<Types, T> for Outcome {
    fn on_complete(mut self, result: T) {
        self.told = true;
        match (&result as &dyn Any).downcast_ref::<ClientWriteResult<Types>>() {
            Some(Ok(_)) => {}
            Some(Err(error)) => self.refuse(refusal(error)),
            None => debug_assert!(false, "a responder of a write completes with the result of a write"),
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        // Raft stopped with the proposal inside: it may be in the log.
        if !self.told {
            self.refuse(Refusal::Unknown);
        }
    }
}

fn refusal(error: &ClientWriteError<Types>) -> Refusal {
    match error {
        ClientWriteError::ForwardToLeader(forward) => match forward.reason {
            ForwardReason::NotLeader => Refusal::NotLeader { hint: hint(forward) },
            ForwardReason::LeadershipTransfer | ForwardReason::LeaseExpired => Refusal::NotNow,
        },
        ClientWriteError::LogEntryDiscarded(_) => Refusal::Unknown,
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => Refusal::NotNow,
    }
}

/// Whom an error of openraft points to.
pub(super) fn hint(forward: &ForwardToLeader<Types>) -> Option<(ReplicaId, NodeId)> {
    Some((forward.leader_id?, forward.leader_node?))
}
