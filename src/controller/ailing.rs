//! What other nodes and this one say of replicas that are not well: beside the metadata, which knows the lost ones.

use crate::types::NodeId;
use highwater_raft::GroupId;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
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
pub struct Ailing(Arc<Mutex<BTreeMap<NodeId, BTreeMap<GroupId, Ailment>>>>);

impl Ailing {
    /// What a node says of all of its replicas; whether that is news.
    pub fn note(&self, node: NodeId, said: BTreeMap<GroupId, Ailment>) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = if said.is_empty() { all.remove(&node) } else { all.insert(node, said.clone()) };
        before.unwrap_or_default() != said
    }

    /// What a node said.
    pub fn of(&self, node: NodeId) -> BTreeMap<GroupId, Ailment> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned().unwrap_or_default()
    }

    /// All that is known.
    pub fn all(&self) -> BTreeMap<NodeId, BTreeMap<GroupId, Ailment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
