//! What groups have committed: it rises, but for resets that somebody asked for; and an acknowledged commit or reset is seen.

use super::{Anomaly, anomaly, groups::number, rising::Rising};
use crate::history::{Deed, Event, Fact, Partition, What};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(events: &[Event], found: &mut Vec<Anomaly>) {
    logged(events, found);
    told(events, found);
}

/// What homes have in their logs.
fn logged(events: &[Event], found: &mut Vec<Anomaly>) {
    // Every replica says each entry: it counts once.
    let mut last: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    let mut asked: BTreeSet<(&str, Partition, u64)> = BTreeSet::new();
    for event in events {
        if let What::Admin { deed: Deed::Reset { of, partition, offset, .. } } = &event.what {
            asked.insert((of, *partition, *offset));
        }
        let What::Saw { fact: Fact::Committed { of, index, place, offset, reset }, .. } = &event.what else { continue };
        let before = last.get(&(of.as_str(), place.as_str())).copied();
        if before.is_some_and(|(at, _)| *index <= at) {
            continue;
        }
        last.insert((of, place), (*index, *offset));
        let partition = number(place);
        if *reset && !asked.contains(&(of.as_str(), partition, *offset)) {
            let text = format!("{of} was reset to {offset} with entry {index}");
            found.push(anomaly("reset of nobody", partition, text));
        }
        if let Some((_, before)) = before.filter(|(_, before)| !reset && offset < before) {
            let text = format!("{of} went from {before} to {offset} with entry {index}");
            found.push(anomaly("commit regressed", partition, text));
        }
    }
}

/// What clients are told, in real-time order.
fn told<'h>(events: &'h [Event], found: &mut Vec<Anomaly>) {
    let mut known: BTreeMap<(u32, Partition), Told> = BTreeMap::new();
    let mut newest: BTreeMap<(&'h str, Partition), Newest> = BTreeMap::new();
    let mut names: BTreeMap<u32, &'h str> = BTreeMap::new();
    for event in events {
        match &event.what {
            What::Saw { fact: Fact::Committed { of, index, place, reset, .. }, .. } => {
                newest.entry((of, number(place))).or_default().take(*index, *reset);
            }
            What::Admin { deed: Deed::Reset { group, of, partition, offset } } => {
                names.insert(*group, of);
                newest.entry((of, *partition)).or_default().moved = false;
                known.entry((*group, *partition)).or_default().asked(event.process, *offset);
            }
            What::AdminOk { deed: Deed::Reset { group, partition, offset, .. } } => {
                known.entry((*group, *partition)).or_default().reset(event.process, event.at, *offset);
            }
            What::AdminFail { deed: Deed::Reset { group, partition, .. }, .. } => {
                known.entry((*group, *partition)).or_default().answered(event.process);
            }
            What::AdminInfo { deed: Deed::Reset { group, partition, .. } } => {
                known.entry((*group, *partition)).or_default().unknown(event.process);
            }
            What::CommitOk { group, partition, asked, offset } => {
                known.entry((*group, *partition)).or_default().committed(event.at, *asked, *offset);
            }
            What::CommitInfo { group, partition, .. } => {
                known.entry((*group, *partition)).or_default().exact = None;
            }
            What::Committed { group, partition, asked, offset } => {
                let told = known.entry((*group, *partition)).or_default();
                let moved = names.get(group).and_then(|of| newest.get(&(*of, *partition))).is_some_and(|n| n.moved);
                if let Some((kind, text)) = told.answer(event.at, *asked, *offset, moved) {
                    let text = format!("group {group}: asked at {asked} µs, {text}; the answer was {offset}");
                    found.push(anomaly(kind, *partition, text));
                }
            }
            _ => {}
        }
    }
}

/// The newest entry of a home that any replica said.
#[derive(Default)]
struct Newest {
    index: u64,
    /// A member committed since a reset was asked for last.
    moved: bool,
}

impl Newest {
    fn take(&mut self, index: u64, reset: bool) {
        if index > self.index {
            (self.index, self.moved) = (index, !reset);
        }
    }
}

/// What is known of one group's commits in one partition.
#[derive(Default)]
struct Told {
    /// Since the last reset.
    rising: Rising,
    /// When that was over: what was asked before may say anything.
    since: u64,
    /// Where it is until somebody commits.
    exact: Option<u64>,
    /// Where resets that are asked for and not answered go, by process; and the same, lowest first.
    open: BTreeMap<u32, u64>,
    lowest: BTreeSet<(u64, u32)>,
    /// The lowest of the resets that may come at any time.
    loose: Option<u64>,
}

impl Told {
    /// A reset is asked for.
    fn asked(&mut self, process: u32, offset: u64) {
        // Commits before this are not told from those after the last reset any more.
        self.exact = None;
        self.answered(process);
        self.open.insert(process, offset);
        self.lowest.insert((offset, process));
    }

    /// The reset that a process asked for is over; gives where it goes.
    fn answered(&mut self, process: u32) -> Option<u64> {
        let offset = self.open.remove(&process)?;
        self.lowest.remove(&(offset, process));
        Some(offset)
    }

    fn unknown(&mut self, process: u32) {
        let offset = self.answered(process);
        self.loose = self.loose.into_iter().chain(offset).min();
    }

    /// The lowest offset to which a reset may come.
    fn may_come(&self) -> Option<u64> {
        let open = self.lowest.first().map(|(offset, _)| *offset);
        open.into_iter().chain(self.loose).min()
    }

    fn reset(&mut self, process: u32, at: u64, offset: u64) {
        self.answered(process);
        (self.rising, self.since) = (Rising::default(), at);
        self.exact = Some(offset).filter(|_| self.may_come().is_none());
        // Known right before: whoever asks in the same microsecond is told no less.
        self.rising.reached(at.saturating_sub(1), offset);
    }

    /// A member's commit was acknowledged. One that it asked for before a reset was over says nothing of what came then.
    fn committed(&mut self, at: u64, asked: u64, offset: u64) {
        self.exact = self.exact.filter(|exact| *exact == offset);
        if asked > self.since && self.open.is_empty() {
            self.rising.reached(at, offset);
        }
    }

    /// What is wrong with an answer.
    fn answer(&mut self, at: u64, asked: u64, offset: u64, moved: bool) -> Option<(&'static str, String)> {
        if asked < self.since {
            return None;
        }
        let may_come = self.may_come();
        if let Some(exact) = self.exact.filter(|exact| !moved && may_come.is_none() && *exact != offset) {
            return Some(("reset lost", format!("after a reset to {exact} and no commit")));
        }
        let bound = self.rising.before(asked);
        if may_come.is_none_or(|lowest| lowest > offset) && offset < bound {
            return Some(("commit regressed", format!("after {bound} was told")));
        }
        self.rising.reached(at, offset);
        None
    }
}
