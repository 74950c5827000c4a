//! Why a node does not start, or stopped.

use crate::{
    advice::{Advice, Reaction},
    types::NodeId,
};
use highwater_raft::{group, log, transport::quic};
use std::io;

/// A node cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory cannot be used.
    #[error("the data directory: {0}")]
    Directory(String),
    /// Its log does not open.
    #[error(transparent)]
    Log(log::OpenError),
    /// A replica does not open.
    #[error(transparent)]
    Replica(group::OpenError),
    /// A write or sync failed: what is acknowledged could be lost, so nothing goes on.
    #[error("storage failed: {0}")]
    Storage(io::Error),
    /// Certificates or key do not make this node of this cluster.
    #[error("the node's certificates: {0}")]
    Identity(String),
    /// There are no connections to other nodes.
    #[error("replication: {0}")]
    Network(quic::StartError),
    /// An address cannot be listened on.
    #[error("{what}: {why}")]
    Listen {
        /// Which listener.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// What must be the same on all nodes differs at another one.
    #[error("node {node} has another {sections} than this node")]
    OtherConfig {
        /// Which node.
        node: NodeId,
        /// Which sections of the config.
        sections: &'static str,
    },
    /// The directory belongs to another cluster.
    #[error("the data directory belongs to cluster {stored:016x}, the seeds to cluster {found:016x}")]
    OtherCluster {
        /// What the directory says.
        stored: u64,
        /// What the seeds say.
        found: u64,
    },
    /// The cluster does not take this node.
    #[error("the cluster refuses this node: {why}")]
    Refused {
        /// Its words.
        why: String,
    },
    /// Threads cannot be started, or ended by themselves.
    #[error("threads: {0}")]
    Threads(String),
}

impl Advice for NodeError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Log(error) => error.reaction(),
            Self::Network(error) => error.reaction(),
            // While it runs the node tries again by itself: for whoever gets this it has ended.
            Self::Replica(_)
            | Self::Directory(_)
            | Self::Storage(_)
            | Self::Identity(_)
            | Self::Listen { .. }
            | Self::OtherConfig { .. }
            | Self::OtherCluster { .. }
            | Self::Refused { .. }
            | Self::Threads(_) => Reaction::Stop,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Directory(_) => {
                "check `node.data_dir`: it must exist or be creatable, be writable, and be used by one node only".into()
            }
            Self::Log(error) => error.advice(),
            Self::Replica(error) => error.advice(),
            Self::Network(error) => error.advice(),
            Self::Storage(_) => "check the disk, then start the node again: it keeps all that it acknowledged".into(),
            Self::Identity(_) => {
                "check that the files of [tls] are there and readable, and were made by `highwater cert` for \
                 `cluster.name` and `node.id`"
                    .into()
            }
            Self::Listen { .. } => "check that the address is this machine's and free".into(),
            Self::OtherConfig { node, sections } => {
                format!("make {sections} the same in the configs of this node and node {node}")
            }
            Self::OtherCluster { .. } => {
                "use the data directory of this cluster, or an empty one to join it as a new node".into()
            }
            Self::Refused { .. } => "do what the message says, then start the node again".into(),
            Self::Threads(_) => "check the limits of processes and memory for this user".into(),
        }
    }
}
