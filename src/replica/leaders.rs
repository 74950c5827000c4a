//! Who leads which group, as far as this node knows: from its own replicas, and from what other nodes tell.

use crate::types::NodeId;
use highwater_raft::GroupId;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// A group's leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Which node; `None` while nobody is known to lead `epoch`.
    pub node: Option<NodeId>,
    /// Its epoch: Raft's term.
    pub epoch: u64,
}

/// The table. A hint for clients; nothing rests on it. Clones share.
#[derive(Clone)]
pub struct Leaders(Arc<Table>);

struct Table {
    groups: Mutex<BTreeMap<GroupId, Leader>>,
    changed: watch::Sender<u64>,
}

impl Default for Leaders {
    fn default() -> Self {
        Self(Arc::new(Table { groups: Mutex::default(), changed: watch::Sender::new(0) }))
    }
}

impl Leaders {
    /// Notes what was heard; an older epoch, or the same one without a node, changes nothing.
    pub fn note(&self, group: GroupId, node: Option<NodeId>, epoch: u64) {
        let changes = {
            let mut groups = self.0.groups.lock().unwrap_or_else(PoisonError::into_inner);
            let known = groups.entry(group).or_insert(Leader { node: None, epoch: 0 });
            let newer = epoch > known.epoch || (epoch == known.epoch && known.node.is_none() && node.is_some());
            if newer {
                *known = Leader { node, epoch };
            }
            newer
        };
        if changes {
            self.0.changed.send_modify(|count| *count += 1);
        }
    }

    /// The leader of a group, if one is known.
    pub fn of(&self, group: GroupId) -> Option<Leader> {
        self.0.groups.lock().unwrap_or_else(PoisonError::into_inner).get(&group).copied()
    }

    /// The groups that `node` leads, with epochs.
    pub fn led_by(&self, node: NodeId) -> Vec<(GroupId, u64)> {
        let groups = self.0.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups
            .iter()
            .filter(|(_, leader)| leader.node == Some(node))
            .map(|(group, leader)| (*group, leader.epoch))
            .collect()
    }

    /// All that is known.
    pub fn all(&self) -> BTreeMap<GroupId, Leader> {
        self.0.groups.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something that is told beside this table has changed.
    pub fn stir(&self) {
        self.0.changed.send_modify(|count| *count += 1);
    }

    /// Forgets a group that was removed.
    pub fn forget(&self, group: GroupId) {
        self.0.groups.lock().unwrap_or_else(PoisonError::into_inner).remove(&group);
    }

    /// Counts changes.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}
