//! Consumer groups: everybody gets everything, repeats say so, no partition has two owners.

use super::{Anomaly, anomaly, facts::Facts};
use crate::history::{Event, Fact, Partition, What};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(events: &[Event], facts: &Facts, found: &mut Vec<Anomaly>) {
    deliveries(events, facts, found);
    ownership(events, found);
}

fn deliveries(events: &[Event], facts: &Facts, found: &mut Vec<Anomaly>) {
    let mut given: BTreeMap<(u32, Partition), BTreeSet<u64>> = BTreeMap::new();
    for event in events {
        let What::Given { group, partition, offset, redelivered, .. } = event.what else { continue };
        let again = !given.entry((group, partition)).or_default().insert(offset);
        if again && !redelivered {
            let text = format!("group {group} got offset {offset} again without being told");
            found.push(anomaly("group unmarked", partition, text));
        }
    }
    let empty = BTreeSet::new();
    for group in &facts.groups {
        for (partition, log) in &facts.finals {
            let got = given.get(&(*group, *partition)).unwrap_or(&empty);
            if let Some(offset) = log.keys().find(|offset| !got.contains(offset)) {
                found.push(anomaly("group lost", *partition, format!("group {group} never got offset {offset}")));
            }
        }
    }
}

/// The number of the partition in `topic/partition`.
pub(super) fn number(place: &str) -> Partition {
    place.rsplit_once('/').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// What members of one group hold: from being told to saying otherwise. A fact costs what it names and what its member holds,
/// however many partitions the group has.
#[derive(Default)]
struct Ownership<'h> {
    /// What a member holds, and the generation in which it was told to give it up.
    held: BTreeMap<&'h str, BTreeMap<&'h str, Option<u64>>>,
    /// Who holds a partition.
    holders: BTreeMap<&'h str, BTreeSet<&'h str>>,
    /// The newest generation that a member was told.
    told: BTreeMap<&'h str, u64>,
    /// Ends of memberships that were seen: every replica says each.
    gone: BTreeSet<(u64, &'h str)>,
    /// Partitions that were looked at.
    looked: u64,
}

/// Gives how many partitions it looked at.
pub(super) fn ownership(events: &[Event], found: &mut Vec<Anomaly>) -> u64 {
    let mut groups: BTreeMap<&str, Ownership<'_>> = BTreeMap::new();
    for event in events {
        let What::Saw { fact, .. } = &event.what else { continue };
        match fact {
            Fact::Told { of, member, generation, partitions } => {
                let group = groups.entry(of).or_default();
                for (partition, other) in group.told(member, *generation, partitions) {
                    let text = format!(
                        "{of}: {member} was told {partition} in generation {generation} while {other} had it ({} µs)",
                        event.at
                    );
                    found.push(anomaly("ownership overlaps", number(partition), text));
                }
            }
            Fact::Said { of, member, generation, partitions } => {
                groups.entry(of).or_default().said(member, *generation, partitions);
            }
            Fact::Gone { of, member, generation, index } => {
                groups.entry(of).or_default().gone(member, *generation, *index);
            }
            _ => {}
        }
    }
    groups.values().map(|group| group.looked).sum()
}

impl<'h> Ownership<'h> {
    /// Gives the partitions that somebody else holds, and who.
    fn told(&mut self, member: &'h str, generation: u64, partitions: &'h str) -> Vec<(&'h str, &'h str)> {
        let newest = self.told.entry(member).or_default();
        // An answer of a home that is none any more: the member does not go back.
        if generation < *newest {
            return Vec::new();
        }
        *newest = generation;
        let named: BTreeSet<&str> = partitions.split_whitespace().collect();
        let held = self.held.entry(member).or_default();
        self.looked += (held.len() + named.len()) as u64;
        for (_, revoked) in held.iter_mut().filter(|(partition, _)| !named.contains(*partition)) {
            revoked.get_or_insert(generation);
        }
        let mut overlaps = Vec::new();
        for partition in named {
            let holders = self.holders.entry(partition).or_default();
            overlaps.extend(holders.iter().filter(|other| **other != member).map(|other| (partition, *other)));
            holders.insert(member);
            held.insert(partition, None);
        }
        overlaps
    }

    fn said(&mut self, member: &str, generation: u64, partitions: &str) {
        let named: BTreeSet<&str> = partitions.split_whitespace().collect();
        let Some(held) = self.held.get_mut(member) else { return };
        self.looked += (held.len() + named.len()) as u64;
        held.retain(|partition, revoked| {
            let gives_up = revoked.is_some_and(|revoked| generation >= revoked) && !named.contains(partition);
            if gives_up {
                self.holders.entry(partition).or_default().remove(member);
            }
            !gives_up
        });
    }

    fn gone(&mut self, member: &'h str, generation: u64, index: u64) {
        if self.gone.insert((index, member)) {
            let held = self.held.remove(member).unwrap_or_default();
            self.looked += held.len() as u64;
            for partition in held.keys() {
                self.holders.entry(partition).or_default().remove(member);
            }
            // What an old home still tells it does not count.
            self.told.insert(member, generation + 1);
        }
    }
}
