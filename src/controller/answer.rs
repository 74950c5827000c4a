//! What the controller answers, here and from another node.

use super::machine::{Refusal, Reply};
use crate::{
    advice::{Advice, Reaction},
    runtime::Lost,
    types::{NodeId, ProducerId, TopicId},
    wire::{Code, Refused},
};
use highwater_raft::ReplicaId;
use serde::{Deserialize, Serialize};

/// Outcome of a command that was not refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The cluster exists.
    #[serde(rename = "b")]
    Bootstrapped {
        /// Its id.
        cluster_id: u64,
    },
    /// The node is known.
    #[serde(rename = "r")]
    Registered {
        /// The cluster's id.
        cluster_id: u64,
        /// The node's replica of the controller group.
        controller: ReplicaId,
    },
    /// The topic is there.
    #[serde(rename = "c")]
    TopicCreated {
        /// Its id.
        id: TopicId,
        /// Its partitions.
        partitions: u32,
        /// Copies of each.
        replication_factor: u32,
    },
    /// The topic is as asked.
    #[serde(rename = "a")]
    TopicAltered,
    /// The topic is gone.
    #[serde(rename = "d")]
    TopicDeleted {
        /// Which it was.
        id: TopicId,
    },
    /// Noted, or known before.
    #[serde(rename = "n")]
    Noted,
    /// Producer ids: `first .. first + count`.
    #[serde(rename = "p")]
    ProducerBlock {
        /// The first one.
        first: ProducerId,
        /// How many.
        count: u64,
    },
}

impl Answer {
    pub(super) fn of(reply: Reply) -> Result<Self, ExecuteError> {
        Ok(match reply {
            Reply::Bootstrapped { cluster_id } => Self::Bootstrapped { cluster_id },
            Reply::Registered { cluster_id, controller, lost: _ } => Self::Registered { cluster_id, controller },
            Reply::TopicCreated { id, partitions, replication_factor } => {
                Self::TopicCreated { id, partitions, replication_factor }
            }
            Reply::TopicAltered => Self::TopicAltered,
            Reply::TopicDeleted { id } => Self::TopicDeleted { id },
            Reply::Noted => Self::Noted,
            Reply::ProducerBlock { first, count } => Self::ProducerBlock { first, count },
            Reply::Refused(refusal) => return Err(ExecuteError::Refused(refused(&refusal))),
        })
    }
}

/// An answer, and the version of metadata in which it is true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executed {
    /// What became of it.
    #[serde(rename = "a")]
    pub answer: Answer,
    /// Snapshots of this version and later ones have it.
    #[serde(rename = "v", default)]
    pub version: u64,
}

/// Why a command has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ExecuteError {
    /// The controller refuses it.
    #[error("{}", .0.message)]
    #[serde(rename = "r")]
    Refused(Refused),
    /// The controller is led elsewhere, or by nobody now.
    #[error("this node does not lead the controller group")]
    #[serde(rename = "l")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Too few of its replicas answer.
    #[error("no quorum of the controller group answers")]
    #[serde(rename = "q")]
    NoQuorum,
    /// The deadline passed; it may be executed or not.
    #[error("the controller group gave no answer in time")]
    #[serde(rename = "t")]
    TimedOut,
}

impl Lost for Result<Executed, ExecuteError> {
    fn lost() -> Self {
        Err(ExecuteError::NotLeader { leader: None })
    }
}

impl ExecuteError {
    /// As the native protocol says it.
    pub fn refused(&self) -> Refused {
        match self {
            Self::Refused(refused) => refused.clone(),
            Self::NotLeader { .. } => Refused::new(Code::NotReady, self.to_string()),
            Self::NoQuorum => Refused::new(Code::NoQuorum, self.to_string()),
            Self::TimedOut => Refused::new(Code::TimedOut, self.to_string()),
        }
    }
}

impl Advice for ExecuteError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Refused(refused) if refused.code.is_retriable() => Reaction::Retry { after_ms: 200 },
            Self::Refused(_) => Reaction::Reject,
            Self::NotLeader { .. } | Self::NoQuorum | Self::TimedOut => Reaction::Retry { after_ms: 200 },
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Refused(_) => "do what the message says".into(),
            Self::NotLeader { .. } | Self::NoQuorum => {
                "try again; if it stays so, start the seed nodes that are down".into()
            }
            Self::TimedOut => "look whether it was done, then try again".into(),
        }
    }
}

fn refused(refusal: &Refusal) -> Refused {
    let code = match refusal {
        Refusal::NotBootstrapped => Code::NotReady,
        Refusal::TopicExists { .. } | Refusal::TopicIdExists { .. } => Code::TopicExists,
        Refusal::UnknownTopic { .. } => Code::UnknownTopic,
        Refusal::TooFewNodes { .. }
        | Refusal::TooManyCopies { .. }
        | Refusal::TooManyPartitions { .. }
        | Refusal::FewerPartitions { .. }
        | Refusal::NodesFull { .. }
        | Refusal::BadSetting(_) => Code::BadSetting,
        Refusal::UnknownGroup { .. } | Refusal::UnknownReplica { .. } => Code::UnknownPartition,
        Refusal::Bootstrapped { .. }
        | Refusal::BadBootstrap { .. }
        | Refusal::BadNode { .. }
        | Refusal::UnknownNode { .. }
        | Refusal::Malformed { .. }
        | Refusal::UnknownCommand { .. } => Code::BadRequest,
        Refusal::NoProducerIds => Code::Internal,
    };
    Refused::new(code, format!("{refusal}; {}", refusal.advice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_what_they_were() {
        let answers = [
            Answer::Bootstrapped { cluster_id: 7 },
            Answer::Registered { cluster_id: 7, controller: ReplicaId(65_536) },
            Answer::TopicCreated { id: TopicId([1; 16]), partitions: 3, replication_factor: 2 },
            Answer::TopicAltered,
            Answer::TopicDeleted { id: TopicId([1; 16]) },
            Answer::Noted,
            Answer::ProducerBlock { first: ProducerId(1 << 40), count: 1_000 },
        ];
        let answers = answers.into_iter().map(|answer| Ok(Executed { answer, version: 12 }));
        let errors = [
            ExecuteError::Refused(Refused::new(Code::TopicExists, "it is there")),
            ExecuteError::NotLeader { leader: Some(NodeId(2)) },
            ExecuteError::NoQuorum,
            ExecuteError::TimedOut,
        ];
        let all: Vec<Result<Executed, ExecuteError>> = answers.chain(errors.into_iter().map(Err)).collect();
        let bytes: Vec<u8> = all.iter().flat_map(|one| rmp_serde::to_vec_named(one).unwrap()).collect();
        highwater_raft::testing::golden("peers/executed.hex", &bytes);
        // All that are read are among them.
        let unknown = |read: Result<(), rmp_serde::decode::Error>| read.unwrap_err().to_string();
        let bytes = rmp_serde::to_vec("?").unwrap();
        let told = unknown(rmp_serde::from_slice::<Answer>(&bytes).map(drop));
        assert_eq!(told, "unknown variant `?`, expected one of `b`, `r`, `c`, `a`, `d`, `n`, `p`");
        let told = unknown(rmp_serde::from_slice::<ExecuteError>(&bytes).map(drop));
        assert_eq!(told, "unknown variant `?`, expected one of `r`, `l`, `q`, `t`");
    }
}
