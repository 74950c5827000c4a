//! The partitions hosted on this node.

use super::Handle;
use crate::types::TopicPartition;
use arc_swap::ArcSwap;
use std::{collections::BTreeMap, sync::Arc};

/// Looked up by every request, without a lock; one writer (the node's reconciler). Clones share.
#[derive(Clone, Default)]
pub struct Partitions(Arc<ArcSwap<BTreeMap<TopicPartition, Handle>>>);

impl Partitions {
    /// The replica hosted here.
    pub fn find(&self, partition: TopicPartition) -> Option<Handle> {
        self.0.load().get(&partition).cloned()
    }

    /// All of them, in order.
    pub fn all(&self) -> Arc<BTreeMap<TopicPartition, Handle>> {
        self.0.load_full()
    }

    pub(crate) fn insert(&self, handle: Handle) {
        self.0.rcu(|map| {
            let mut map = BTreeMap::clone(map);
            map.insert(handle.partition(), handle.clone());
            map
        });
    }

    pub(crate) fn remove(&self, partition: TopicPartition) {
        self.0.rcu(|map| {
            let mut map = BTreeMap::clone(map);
            map.remove(&partition);
            map
        });
    }
}
