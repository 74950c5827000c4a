//! What a medium may hold after a loss of power: all of it, state by state.
//!
//! Of the changes since a file's last sync any subset may be there, and of one write any sectors; of the changes to names
//! since their folder's last sync a prefix is there. (A journalling file system writes names in order and data in none.)
//! A folder is a name in the folder above; a folder that is empty is the same as none.

use crate::testing::disk::{NameChange, Names, Step, put};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const SECTOR: usize = 512;
/// Above so many unsynced changes only the last ones are there or not, each by itself; the others as prefixes.
pub(super) const SUBSETS_OF: usize = 12;

pub(super) type Files = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Default)]
pub(super) struct Medium {
    inodes: BTreeMap<u64, Inode>,
    names: Names,
    unsynced_names: Vec<NameChange>,
    /// Counts changes.
    changes: u64,
}

#[derive(Clone, Default)]
struct Inode {
    synced: Vec<u8>,
    /// Tells what is synced from what was synced before.
    version: u64,
    unsynced: Vec<(u64, Change)>,
}

#[derive(Clone)]
enum Change {
    Write(u64, Bytes),
    Length(usize),
}

impl Change {
    fn sectors(&self) -> usize {
        if let Change::Write(_, bytes) = self { bytes.len().div_ceil(SECTOR) } else { 0 }
    }
    fn apply(&self, into: &mut Vec<u8>, sectors: &Sectors) {
        match self {
            Change::Length(len) => into.resize(*len, 0),
            Change::Write(at, bytes) => {
                for (i, sector) in (0u32..).zip(bytes.chunks(SECTOR)).filter(|(i, _)| sectors.has(*i)) {
                    put(into, at + u64::from(i) * SECTOR as u64, sector);
                }
            }
        }
    }
}

/// Which sectors of a write are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Sectors {
    All,
    First(u32),
    From(u32),
    Without(u32),
    Only(u32),
    /// By bits, of the first 64.
    Mask(u64),
}

impl Sectors {
    fn has(&self, i: u32) -> bool {
        match *self {
            Sectors::All => true,
            Sectors::First(count) => i < count,
            Sectors::From(first) => i >= first,
            Sectors::Without(one) => i != one,
            Sectors::Only(one) => i == one,
            Sectors::Mask(mask) => i < 64 && mask & (1 << i) != 0,
        }
    }
}

/// One state, without its bytes: which changes are there, and how many changes of names. Equal states have equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct State {
    names: BTreeMap<String, u64>,
    versions: BTreeMap<u64, u64>,
    /// By the change's number.
    kept: BTreeMap<u64, Sectors>,
}

impl Medium {
    /// A medium that holds these files.
    pub(super) fn of(files: &Files) -> Self {
        let mut medium = Medium::default();
        for (inode, synced) in (1..).zip(files.values()) {
            medium.inodes.insert(inode, Inode { synced: synced.clone(), ..Inode::default() });
        }
        medium.names = Names::of(files.keys().cloned().zip(1..).collect());
        medium
    }

    pub(super) fn take(&mut self, step: &Step) {
        self.changes += 1;
        match step {
            Step::Wrote { inode, position, bytes } => {
                let change = Change::Write(*position, bytes.clone());
                self.inodes.entry(*inode).or_default().unsynced.push((self.changes, change));
            }
            Step::Length { inode, len } => {
                let change = Change::Length(usize::try_from(*len).unwrap());
                self.inodes.entry(*inode).or_default().unsynced.push((self.changes, change));
            }
            Step::Synced { inode, changes } => {
                let inode = self.inodes.entry(*inode).or_default();
                inode.version = self.changes;
                for (_, change) in inode.unsynced.drain(..*changes) {
                    change.apply(&mut inode.synced, &Sectors::All);
                }
            }
            Step::Named(change) => self.unsynced_names.push(change.clone()),
            Step::FolderSynced(folder) => {
                let (done, left) = self.unsynced_names.drain(..).partition(|change| change.is_in(folder));
                self.unsynced_names = left;
                let done: Vec<NameChange> = done;
                done.iter().for_each(|change| self.names.apply(change));
            }
        }
    }

    /// All states that a loss of power may leave now. `deep`: all subsets of the sectors of a write, where they are few.
    pub(super) fn states(&self, deep: bool) -> BTreeSet<State> {
        let mut states = BTreeSet::new();
        let mut names = self.names.clone();
        for change in std::iter::once(None).chain(self.unsynced_names.iter().map(Some)) {
            if let Some(change) = change {
                names.apply(change);
            }
            let mut reached = names.clone();
            reached.forget_unreachable();
            let named: BTreeSet<u64> = reached.files.values().copied().collect();
            let of = |(id, inode): (&u64, &Inode)| named.contains(id).then_some((*id, inode.version));
            let versions: BTreeMap<u64, u64> = self.inodes.iter().filter_map(of).collect();
            let unsynced = self.inodes.iter().filter(|(id, _)| named.contains(id)).flat_map(|(_, i)| &i.unsynced);
            let mut unsynced: Vec<(u64, usize)> = unsynced.map(|(n, change)| (*n, change.sectors())).collect();
            unsynced.sort_unstable();
            for kept in subsets(&unsynced, deep) {
                states.insert(State { names: reached.files.clone(), versions: versions.clone(), kept });
            }
        }
        states
    }

    /// Changes of files that a loss of power may take or leave now, each by itself.
    pub(super) fn unsynced(&self) -> usize {
        self.inodes.values().map(|inode| inode.unsynced.len()).sum()
    }

    /// The bytes of a state.
    pub(super) fn files(&self, state: &State) -> Files {
        let content = |inode: &u64| {
            let Some(inode) = self.inodes.get(inode) else { return Vec::new() };
            let mut content = inode.synced.clone();
            for (n, change) in &inode.unsynced {
                if let Some(sectors) = state.kept.get(n) {
                    change.apply(&mut content, sectors);
                }
            }
            content
        };
        state.names.iter().map(|(name, inode)| (name.clone(), content(inode))).collect()
    }
}

type Kept = BTreeMap<u64, Sectors>;

/// Which of these changes (number, sectors) may be there.
fn subsets(unsynced: &[(u64, usize)], deep: bool) -> Vec<Kept> {
    let whole = |chosen: &[(u64, usize)]| chosen.iter().map(|(n, _)| (*n, Sectors::All)).collect::<Kept>();
    let mut all: Vec<Kept> = (0..=unsynced.len()).map(|len| whole(&unsynced[..len])).collect();
    let (first, last) = unsynced.split_at(unsynced.len().saturating_sub(SUBSETS_OF));
    for mask in 0u32..1 << last.len() {
        let chosen = last.iter().enumerate().filter(|(i, _)| mask & (1 << i) != 0).map(|(_, change)| *change);
        let chosen: Vec<_> = first.iter().copied().chain(chosen).collect();
        all.push(whole(&chosen));
    }
    // One write is torn; the others are there, or only those before it, or none.
    for (i, (n, sectors)) in unsynced.iter().enumerate() {
        for torn in tears(u32::try_from(*sectors).unwrap(), deep) {
            for others in [unsynced, &unsynced[..i], &[]] {
                let mut kept = whole(others);
                kept.insert(*n, torn);
                all.push(kept);
            }
        }
    }
    all
}

/// Prefixes of a write, and all but one of its sectors; of a large one those at some places. `deep`: any of its sectors.
fn tears(sectors: u32, deep: bool) -> Vec<Sectors> {
    if deep && sectors <= 9 {
        return (1..(1u64 << sectors) - 1).map(Sectors::Mask).collect();
    }
    let step = (sectors / 8).max(1);
    let places = (0..sectors).filter(|at| at % step == 0 || *at + 1 == sectors);
    let all = places.flat_map(|at| {
        let few = [Sectors::First(at), Sectors::Without(at)];
        let more = [Sectors::From(at), Sectors::Only(at)];
        few.into_iter().chain(deep.then_some(more).into_iter().flatten())
    });
    all.filter(|tear| !matches!(tear, Sectors::First(0) | Sectors::From(0))).collect()
}
