//! What other nodes and this one say of replicas that are not well, beside the metadata, which knows the lost ones; and which
//! nodes are about to end.

use crate::types::NodeId;
use highwater_raft::GroupId;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What is wrong with a replica that keeps its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Ailment {
    /// It failed again soon after it had been opened anew: it stays out for a while.
    Failed = 1,
    /// A damaged segment is being fetched from a peer.
    Mending = 2,
    /// Its data are damaged: another replica is asked for in its place.
    Damaged = 3,
}

impl Ailment {
    /// The ailment of this number.
    pub fn from_u8(n: u8) -> Option<Self> {
        [Self::Failed, Self::Mending, Self::Damaged].into_iter().find(|one| *one as u8 == n)
    }
}

/// By node. A hint for operators; nothing rests on it. Clones share.
#[derive(Clone, Default)]
pub struct Ailing(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    replicas: BTreeMap<NodeId, BTreeMap<GroupId, Ailment>>,
    ending: BTreeSet<NodeId>,
}

impl Ailing {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a node says of all of its replicas; whether that is news.
    pub fn note(&self, node: NodeId, said: BTreeMap<GroupId, Ailment>) -> bool {
        let all = &mut self.said().replicas;
        let before = if said.is_empty() { all.remove(&node) } else { all.insert(node, said.clone()) };
        before.unwrap_or_default() != said
    }

    /// What a node said.
    pub fn of(&self, node: NodeId) -> BTreeMap<GroupId, Ailment> {
        self.said().replicas.get(&node).cloned().unwrap_or_default()
    }

    /// All that is known.
    pub fn all(&self) -> BTreeMap<NodeId, BTreeMap<GroupId, Ailment>> {
        self.said().replicas.clone()
    }

    /// A node says whether it is about to end.
    pub fn note_ending(&self, node: NodeId, ending: bool) {
        let all = &mut self.said().ending;
        let _ = if ending { all.insert(node) } else { all.remove(&node) };
    }

    /// Whether a node is about to end.
    pub fn is_ending(&self, node: NodeId) -> bool {
        self.said().ending.contains(&node)
    }
}
