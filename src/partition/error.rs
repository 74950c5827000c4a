//! What can go wrong, per operation, and how the native protocol says it.

use super::machine::Refusal;
use crate::{
    advice::{Advice, Reaction},
    runtime::Lost,
    types::NodeId,
    wire::{Code, Refused},
};

fn or_unknown(leader: &Option<NodeId>) -> String {
    leader.map_or_else(|| "unknown".into(), |node| format!("node {node}"))
}

/// Why batches were not appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// Another replica leads.
    #[error("this node does not lead the partition (leader: {})", or_unknown(leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
        /// In which epoch.
        epoch: u64,
    },
    /// Leads, but is not sure of its log yet.
    #[error("the leader of epoch {epoch} is not ready yet")]
    NotReady {
        /// Its epoch.
        epoch: u64,
    },
    /// The machine does not take a batch.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No quorum answers; surely not appended.
    #[error("no quorum of replicas answers")]
    NoQuorum,
    /// Free space is low.
    #[error("the data directory is below its low-water mark of free space")]
    DiskFull,
    /// The leader lost its role with the batches on their way: they may appear or not.
    #[error("leadership moved while the batches were on their way (leader now: {})", or_unknown(leader))]
    Unknown {
        /// Who leads, if known.
        leader: Option<NodeId>,
        /// In which epoch.
        epoch: u64,
    },
    /// The replica has failed, was removed, or the node shuts down.
    #[error("the replica is gone from this node")]
    Gone,
}

impl Lost for Result<super::Produced, ProduceError> {
    fn lost() -> Self {
        Err(ProduceError::Unknown { leader: None, epoch: 0 })
    }
}

impl ProduceError {
    /// What it is for a request of which an earlier batch is in the log: nobody may take it for one that left nothing.
    pub(super) fn behind_an_appended_one(self) -> Self {
        match self {
            Self::NotLeader { leader, epoch } => Self::Unknown { leader, epoch },
            Self::NoQuorum | Self::Gone => Self::Unknown { leader: None, epoch: 0 },
            other => other,
        }
    }

    /// As the native protocol says it.
    pub fn refused(&self) -> Refused {
        let (code, leader, leader_epoch) = match self {
            Self::NotLeader { leader, epoch } => (Code::NotLeader, *leader, *epoch),
            Self::Unknown { leader, epoch } => (Code::OutcomeUnknown, *leader, *epoch),
            Self::NotReady { epoch } => (Code::NotReady, None, *epoch),
            Self::Refused(refusal) => (code_of(refusal), None, 0),
            Self::NoQuorum => (Code::NoQuorum, None, 0),
            Self::DiskFull => (Code::DiskFull, None, 0),
            Self::Gone => (Code::NotLeader, None, 0),
        };
        Refused { code, message: self.to_string(), leader, leader_epoch }
    }
}

fn code_of(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::OutOfOrder { .. } => Code::OutOfOrderSequence,
        Refusal::Fenced { .. } => Code::ProducerFenced,
        Refusal::UnknownProducer { .. } => Code::UnknownProducer,
        Refusal::BadBatch(_) => Code::BadBatch,
        Refusal::NoOffsets { .. }
        | Refusal::TrimBeyondEnd { .. }
        | Refusal::Malformed { .. }
        | Refusal::UnknownCommand { .. } => Code::Internal,
    }
}

impl Advice for ProduceError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::NotLeader { .. } | Self::Unknown { .. } | Self::Gone => Reaction::Refresh,
            Self::NotReady { .. } => Reaction::Retry { after_ms: 20 },
            Self::DiskFull => Reaction::Retry { after_ms: 1_000 },
            Self::NoQuorum => Reaction::Retry { after_ms: 200 },
            Self::Refused(refusal) => refusal.reaction(),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::NotLeader { .. } | Self::Gone => "ask for the partition's leader again and produce there".into(),
            Self::Unknown { .. } => {
                "send the same batches with the same sequence to the new leader; it drops what it has".into()
            }
            Self::NotReady { .. } => "try again in some milliseconds".into(),
            Self::NoQuorum => "try again; if it stays so, start the nodes that are down".into(),
            Self::Refused(refusal) => refusal.advice(),
            Self::DiskFull => "free space on the leader's disk, or shorten the retention of its topics".into(),
        }
    }
}

/// Why a read gives nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Trimmed.
    #[error("offset {offset} is below the log start {log_start}")]
    OutOfRange {
        /// What was asked.
        offset: u64,
        /// First offset there.
        log_start: u64,
    },
    /// Not known here yet: a later leader or a lagging replica will know it.
    #[error("offset {offset} is above the high watermark {high_watermark} of this replica")]
    NotYet {
        /// What was asked.
        offset: u64,
        /// The next offset here.
        high_watermark: u64,
    },
    /// This replica does not serve readers now.
    #[error("this node cannot serve the partition now (leader: {})", or_unknown(leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
        /// In which epoch.
        epoch: u64,
    },
    /// Leads, but is not sure of its log yet.
    #[error("the leader of epoch {epoch} is not ready yet")]
    NotReady {
        /// Its epoch.
        epoch: u64,
    },
    /// The bytes on disk do not check out.
    #[error("the log is damaged at offset {offset}: {why}")]
    Damaged {
        /// Where.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// The disk failed.
    #[error("reading the log failed: {why}")]
    Io {
        /// The system's words.
        why: String,
    },
}

impl FetchError {
    /// As the native protocol says it.
    pub fn refused(&self) -> Refused {
        let (code, leader, leader_epoch) = match self {
            Self::OutOfRange { .. } => (Code::OffsetOutOfRange, None, 0),
            Self::NotYet { .. } => (Code::NotReady, None, 0),
            Self::NotReady { epoch } => (Code::NotReady, None, *epoch),
            Self::NotLeader { leader, epoch } => (Code::NotLeader, *leader, *epoch),
            Self::Damaged { .. } | Self::Io { .. } => (Code::Internal, None, 0),
        };
        Refused { code, message: self.to_string(), leader, leader_epoch }
    }
}

impl Advice for FetchError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::OutOfRange { .. } => Reaction::Reject,
            Self::NotYet { .. } | Self::NotReady { .. } => Reaction::Retry { after_ms: 50 },
            Self::NotLeader { .. } | Self::Damaged { .. } | Self::Io { .. } => Reaction::Refresh,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::OutOfRange { log_start, .. } => {
                format!("go on at offset {log_start}, or keep records longer than consumers need")
            }
            Self::NotYet { .. } | Self::NotReady { .. } => "try again in some milliseconds".into(),
            Self::NotLeader { .. } => "ask for the partition's leader again and read there".into(),
            Self::Damaged { .. } => "read from another replica; this one is repaired from its peers".into(),
            Self::Io { .. } => "read from another replica and look at this node's disk".into(),
        }
    }
}

/// Why the leader could not show that it leads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Another replica leads.
    #[error("this node does not lead (leader: {})", or_unknown(leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
        /// In which epoch.
        epoch: u64,
    },
    /// No quorum answered in time.
    #[error("no quorum of replicas answered in time")]
    NoQuorum,
    /// The replica has failed, was removed, or the node shuts down.
    #[error("the replica is gone from this node")]
    Gone,
}

impl Lost for Result<(), Unavailable> {
    fn lost() -> Self {
        Err(Unavailable::NotLeader { leader: None, epoch: 0 })
    }
}

impl Unavailable {
    /// As the native protocol says it.
    pub fn refused(&self) -> Refused {
        let (code, leader, leader_epoch) = match self {
            Self::NotLeader { leader, epoch } => (Code::NotLeader, *leader, *epoch),
            Self::NoQuorum => (Code::NoQuorum, None, 0),
            Self::Gone => (Code::NotLeader, None, 0),
        };
        Refused { code, message: self.to_string(), leader, leader_epoch }
    }
}

impl Advice for Unavailable {
    fn reaction(&self) -> Reaction {
        match self {
            Self::NotLeader { .. } | Self::Gone => Reaction::Refresh,
            Self::NoQuorum => Reaction::Retry { after_ms: 200 },
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::NotLeader { .. } | Self::Gone => "ask for the leader again".into(),
            Self::NoQuorum => "try again; if it stays so, start the nodes that are down".into(),
        }
    }
}
