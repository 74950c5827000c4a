//! What can go wrong, per operation.

use crate::{GroupId, NodeId, ReplicaId};
use std::time::Duration;

/// Why a group was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// This node hosts it already.
    #[error("group {group} is already open as replica {replica}")]
    AlreadyOpen {
        /// Which group.
        group: GroupId,
        /// As which replica.
        replica: ReplicaId,
    },
    /// The log refused: another living replica of this group is here, or its data is damaged.
    #[error("group {group}: {source}")]
    Log {
        /// Which group.
        group: GroupId,
        /// What the log says.
        source: crate::log::CreateError,
    },
    /// The machine did not take its checkpoint, or Raft its log.
    #[error("group {group} cannot start: {why}")]
    Start {
        /// Which group.
        group: GroupId,
        /// What happened.
        why: String,
    },
}

/// Why a barrier was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// Ask there.
    #[error("this replica does not lead (leader: {hint:?})")]
    NotLeader {
        /// Who leads, if known.
        hint: Option<(ReplicaId, NodeId)>,
    },
    /// No quorum answered in time.
    #[error("no quorum answered in {after:?}")]
    NoQuorum {
        /// How long it was waited for.
        after: Duration,
    },
    /// This replica has failed or was closed.
    #[error("replica is gone: {why}")]
    Gone {
        /// What happened.
        why: String,
    },
}

/// Why the membership did not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Ask there.
    #[error("this replica does not lead (leader: {hint:?})")]
    NotLeader {
        /// Who leads, if known.
        hint: Option<(ReplicaId, NodeId)>,
    },
    /// Another change is not committed yet.
    #[error("another change of this group is under way")]
    InProgress,
    /// What was asked for cannot be.
    #[error("{why}")]
    Impossible {
        /// What is wrong with it.
        why: String,
    },
    /// It was proposed, but not seen applied in time: it may or may not happen.
    #[error("not applied after {after:?}")]
    TimedOut {
        /// How long it was waited for.
        after: Duration,
    },
    /// This replica has failed or was closed.
    #[error("replica is gone: {why}")]
    Gone {
        /// What happened.
        why: String,
    },
}

/// Why leadership was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Ask there.
    #[error("this replica does not lead (leader: {hint:?})")]
    NotLeader {
        /// Who leads, if known.
        hint: Option<(ReplicaId, NodeId)>,
    },
    /// Not a voter of this group.
    #[error("replica {to} is not a voter")]
    NotVoter {
        /// To whom.
        to: ReplicaId,
    },
    /// Its node is suspected, or its log does not reach the tail of ours.
    #[error("replica {to} is not ready to lead: {why}")]
    NotReady {
        /// To whom.
        to: ReplicaId,
        /// What it lacks.
        why: String,
    },
    /// The target did not take over; the other voters were asked to elect.
    #[error("replica {to} did not take over within {after:?}; the others elect")]
    TimedOut {
        /// To whom.
        to: ReplicaId,
        /// How long it was waited for.
        after: Duration,
    },
    /// This replica has failed or was closed.
    #[error("replica is gone: {why}")]
    Gone {
        /// What happened.
        why: String,
    },
}

/// Why a request to another node has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It was not sent.
    #[error("node {node} is unreachable")]
    Unreachable {
        /// Which node.
        node: NodeId,
    },
    /// It may have been served.
    #[error("node {node} did not answer within {after:?}")]
    TimedOut {
        /// Which node.
        node: NodeId,
        /// How long it was waited for.
        after: Duration,
    },
    /// The connection broke, or the other side dropped the request: it may have been served.
    #[error("node {node} gave no answer: {why}")]
    Lost {
        /// Which node.
        node: NodeId,
        /// What happened.
        why: String,
    },
}
