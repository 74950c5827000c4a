//! How effects reach other nodes: asked of a [`Courier`], which `peer/` implements.

use crate::{
    advice::{Advice, Reaction},
    types::NodeId,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::time::Duration;

/// What a broker asks another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Service {
    /// Run a command of the controller.
    Execute = 1,
    /// Who leads what you lead?
    Leaders = 2,
    /// Are you empty, and is your `[cluster]` section mine?
    Seed = 3,
    /// Give applied entries of a group: a segment of mine is damaged.
    Entries = 4,
}

impl Service {
    /// The service of this number.
    pub fn from_u8(n: u8) -> Option<Self> {
        [Self::Execute, Self::Leaders, Self::Seed, Self::Entries].into_iter().find(|service| *service as u8 == n)
    }
}

/// Carries broker-to-broker requests.
pub trait Courier: Send + Sync + 'static {
    /// Asks the broker of node `to`; a request to this node is served here.
    fn ask(
        &self,
        to: NodeId,
        service: Service,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CourierError>>;
    /// The other nodes that are alive, as far as this one knows, ascending.
    fn others(&self) -> Vec<NodeId>;
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CourierError {
    /// It was not sent.
    #[error("node {node} cannot be reached")]
    Unreachable {
        /// Which node.
        node: NodeId,
    },
    /// It may have been served.
    #[error("node {node} gave no answer: {why}")]
    NoAnswer {
        /// Which node.
        node: NodeId,
        /// What happened.
        why: String,
    },
}

impl Advice for CourierError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Unreachable { .. } | Self::NoAnswer { .. } => Reaction::Retry { after_ms: 200 },
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Unreachable { node } => {
                format!("check that node {node} runs and that its peer ports are open to this node")
            }
            Self::NoAnswer { node, .. } => format!("try again; if it stays so, read the log of node {node}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn services_keep_their_numbers_and_have_golden_files() {
        let known = |n| Some((n, Service::from_u8(n)?));
        let files = (0..=u8::MAX).filter_map(known).map(|(n, service)| match service {
            Service::Execute => (n, "executed"),
            Service::Leaders => (n, "gossip"),
            Service::Seed => (n, "seeding"),
            Service::Entries => (n, "entries-page"),
        });
        let files: Vec<_> = files.collect();
        assert_eq!(files, [(1, "executed"), (2, "gossip"), (3, "seeding"), (4, "entries-page")]);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/peers");
        assert!(files.iter().all(|(_, name)| folder.join(format!("{name}.hex")).exists()));
    }
}
