//! What of a world is whole, and whose files may therefore be damaged next: no majority of a group's voters ever loses its disks.

use super::world::World;
use crate::history::Fact;
use highwater::controller::machine::{Metadata, ReplicaState};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// After a bit turned in a node's files no other's are damaged for so long.
const HEALS: Duration = Duration::from_secs(20);

/// The last damage to anybody's files.
#[derive(Clone, Copy)]
pub(super) struct Damage {
    pub(super) node: u32,
    /// When it is taken to have begun.
    pub(super) at: Instant,
    /// The whole disk is gone, which shows at the next start; a bit that turned may be found late.
    pub(super) disk: bool,
}

/// Who votes in which group, and on which disks.
#[derive(Default)]
pub(super) struct Votes {
    /// Per group the newest entry that says so, and what it says: two sets while they change.
    newest: BTreeMap<u64, (u64, Vec<BTreeSet<u64>>)>,
    /// The node and its how manieth disk on which each replica of a group began.
    began: BTreeMap<(u64, u64), (u32, u32)>,
    /// How many disks each node has lost.
    lost: BTreeMap<u32, u32>,
}

impl Votes {
    /// What a node says of itself.
    pub(super) fn hear(&mut self, node: u32, fact: &Fact) {
        match fact {
            Fact::Voters { group, index, sets } if self.newest.get(group).is_none_or(|(newest, _)| newest < index) => {
                let set = |set: &str| set.split(',').filter_map(|replica| replica.parse().ok()).collect();
                self.newest.insert(*group, (*index, sets.split(' ').map(set).collect()));
            }
            Fact::Opened { group, replica, .. } => {
                let disk = self.lost.get(&node).copied().unwrap_or(0);
                self.began.entry((*group, *replica)).or_insert((node, disk));
            }
            _ => {}
        }
    }

    /// A node's disk is gone, with the votes that it held.
    pub(super) fn lose(&mut self, node: u32) {
        *self.lost.entry(node).or_default() += 1;
    }

    /// Whether all who vote in a group do so from disks that are there.
    fn is_whole(&self, group: u64) -> bool {
        let stands = |replica: &u64| {
            let began = self.began.get(&(group, *replica));
            began.is_some_and(|(node, disk)| self.lost.get(node).copied().unwrap_or(0) == *disk)
        };
        let Some((_, sets)) = self.newest.get(&group) else { return false };
        matches!(&sets[..], [voters] if voters.iter().all(stands))
    }
}

impl World {
    /// A node whose files may be damaged: one at a time, or a majority could be.
    pub(super) fn fragile(&self) -> Option<u32> {
        let may_others = match self.damaged.get() {
            // Others need not know that it is replaced.
            Some(Damage { disk: true, .. }) => self.is_replaced(),
            // It takes a while until anybody knows.
            Some(Damage { at, .. }) => at.elapsed() >= HEALS && self.is_whole(),
            None => self.is_whole(),
        };
        match self.damaged.get() {
            Some(Damage { node, .. }) if !may_others => Some(node),
            _ if !may_others => None,
            _ => self
                .all_live()
                .then(|| 1 + u32::try_from(self.env.random_below(self.options.nodes.into())).unwrap_or(0)),
        }
    }

    /// Another node than the one that lost its disk last, once Raft has voters in the place of what was on it.
    pub(super) fn next_to_lose(&self, draw: u64) -> Option<u32> {
        let Damage { node: last, disk: true, .. } = self.damaged.get()? else { return None };
        let others: Vec<u32> = self.everybody().filter(|node| *node != last).collect();
        let next =
            usize::try_from(draw % (others.len() as u64).max(1)).ok().and_then(|which| others.get(which).copied());
        next.filter(|_| self.all_live() && self.is_replaced())
    }

    /// Whether any node may lose its disk: all live, no replica is being replaced, and no damage is young.
    pub(super) fn is_sound(&self) -> bool {
        let healed = self.damaged.get().is_none_or(|damage| damage.at.elapsed() >= HEALS);
        healed && self.all_live() && self.is_whole()
    }

    fn all_live(&self) -> bool {
        self.everybody().all(|node| self.lives(node))
    }

    fn metadata(&self) -> impl Iterator<Item = (u32, Arc<Metadata>)> {
        self.everybody().filter_map(|node| Some((node, self.node(node)?.controller().metadata())))
    }

    /// Whether in each group all voters are on disks that are there, whoever knows.
    fn is_replaced(&self) -> bool {
        let votes = self.votes.borrow();
        self.newest().is_some_and(|metadata| metadata.groups.keys().all(|group| votes.is_whole(group.0)))
    }

    /// Whether no node knows of a replica that is being replaced.
    fn is_whole(&self) -> bool {
        self.newest().is_some() && self.unsettled().is_none()
    }

    /// The newest metadata that any node ever had, unless all who had them are away or do not know it any more: who has just
    /// started knows nothing before somebody leads.
    fn newest(&self) -> Option<Arc<Metadata>> {
        let newest = self.metadata().map(|(_, metadata)| metadata).max_by_key(|metadata| metadata.version);
        newest.filter(|metadata| metadata.version >= self.known.get())
    }

    /// A node that ends takes with it what it knows.
    pub(super) fn note_known(&self, id: u32) {
        let version = self.node(id).map_or(0, |node| node.controller().metadata().version);
        self.known.set(self.known.get().max(version));
    }

    /// A replica that is being replaced, and who knows of it.
    pub(super) fn unsettled(&self) -> Option<String> {
        let settled = |state| matches!(state, ReplicaState::Voter | ReplicaState::Observer);
        self.metadata().find_map(|(id, metadata)| {
            let mut replicas =
                metadata.groups.iter().flat_map(|(group, it)| it.replicas.iter().map(move |r| (group, r)));
            let (group, replica) = replicas.find(|(_, replica)| !settled(replica.state))?;
            Some(format!("node {id} at version {} knows in group {} of {replica:?}", metadata.version, group.0))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_whole_when_its_voters_are_on_disks_that_are_there() {
        let mut votes = Votes::default();
        let voters = |index, sets: &str| Fact::Voters { group: 7, index, sets: sets.into() };
        let opened = |replica| Fact::Opened { group: 7, replica, end: 0, state: 0 };
        assert!(!votes.is_whole(7), "nobody has said who votes");
        for (node, replica) in [(1, 10), (2, 20), (3, 30)] {
            votes.hear(node, &opened(replica));
        }
        votes.hear(1, &voters(1, "10,20,30"));
        assert!(votes.is_whole(7));
        votes.lose(3);
        assert!(!votes.is_whole(7));
        votes.hear(3, &opened(31));
        votes.hear(1, &voters(8, "10,20,30 10,20,31"));
        assert!(!votes.is_whole(7), "the former voters decide as well");
        votes.hear(1, &voters(9, "10,20,31"));
        votes.hear(2, &voters(8, "10,20,30 10,20,31"));
        assert!(votes.is_whole(7), "another may be later to apply what is older");
        votes.lose(3);
        votes.hear(3, &opened(31));
        assert!(!votes.is_whole(7), "a replica that comes back empty has lost what it held");
    }
}
