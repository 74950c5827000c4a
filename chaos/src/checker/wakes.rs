//! Whoever waits for a mark is woken in the turn of the replica in which it is reached: in virtual time at the same instant.
//!
//! In real time a thread may stand still between the mark and the wake-up. There a turn is counted: a replica tells its marks at
//! most once in each, and wakes at its end. Who was parked in a turn may see that turn's marks first, so the second ones are late.

use super::{Anomaly, anomaly};
use crate::history::{Event, Fact, Partition, What};
use std::collections::{BTreeMap, BTreeSet};

/// One replica's waiters, in one life of its node.
#[derive(Default)]
struct Replica {
    bytes: u64,
    offset: u64,
    /// Mark at which a waiter is due, and its token: for bytes, for offsets.
    waiting: [BTreeSet<(u64, u64)>; 2],
    places: BTreeMap<u64, Waiter>,
    /// Waiters whose mark is reached and who were not woken yet, the first to be due first.
    due: BTreeSet<(Due, u64)>,
    /// How often it told its marks.
    turns: u64,
}

struct Waiter {
    partition: Partition,
    unit: usize,
    at: u64,
    /// Since when its mark is reached.
    due: Option<Due>,
}

/// When a mark was reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: u64,
    turns: u64,
}

pub(super) fn check(events: &[Event], found: &mut Vec<Anomaly>) {
    let mut replicas: BTreeMap<(u64, u64), Replica> = BTreeMap::new();
    let is_real = events.iter().any(|event| matches!(event.what, What::RealTime));
    for event in events {
        let What::Saw { life, fact } = &event.what else { continue };
        let late = match fact {
            Fact::Marks { group, bytes, high_watermark, .. } => {
                let replica = replicas.entry((*life, *group)).or_default();
                replica.advance(event.at, *bytes, *high_watermark);
                replica.forgotten(event.at, is_real)
            }
            Fact::Parked { group, partition, token, by_bytes, mark } => {
                let replica = replicas.entry((*life, *group)).or_default();
                replica.park(event.at, *token, *partition, usize::from(!*by_bytes), *mark);
                None
            }
            Fact::Fired { group, token, .. } | Fact::Unparked { group, token } => {
                let replica = replicas.entry((*life, *group)).or_default();
                replica.end(*token).filter(|(_, _, due)| replica.is_late(*due, event.at, is_real))
            }
            _ => None,
        };
        if let Some((partition, mark, due)) = late {
            let text = format!(
                "a waiter for mark {mark} on node {} was due at {} µs and not woken before {} µs",
                event.process, due.at, event.at
            );
            found.push(anomaly("woken late", partition, text));
        }
    }
}

impl Replica {
    fn mark(&self, unit: usize) -> u64 {
        if unit == 0 { self.bytes } else { self.offset }
    }

    fn park(&mut self, now: u64, token: u64, partition: Partition, unit: usize, at: u64) {
        self.end(token);
        let due = (self.mark(unit) >= at).then_some(Due { at: now, turns: self.turns });
        match due {
            Some(due) => self.due.insert((due, token)),
            None => self.waiting[unit].insert((at, token)),
        };
        self.places.insert(token, Waiter { partition, unit, at, due });
    }

    fn advance(&mut self, now: u64, bytes: u64, offset: u64) {
        (self.bytes, self.offset) = (bytes, offset);
        self.turns += 1;
        let due = Due { at: now, turns: self.turns };
        for unit in 0..2 {
            let mark = self.mark(unit);
            while let Some((at, token)) = self.waiting[unit].first().copied().filter(|(at, _)| *at <= mark) {
                self.waiting[unit].remove(&(at, token));
                self.due.insert((due, token));
                if let Some(waiter) = self.places.get_mut(&token) {
                    waiter.due = Some(due);
                }
            }
        }
    }

    /// Forgets a waiter; gives where, its mark, and since when it was due.
    fn end(&mut self, token: u64) -> Option<(Partition, u64, Due)> {
        let Waiter { partition, unit, at, due } = self.places.remove(&token)?;
        self.waiting[unit].remove(&(at, token));
        let due = due?;
        self.due.remove(&(due, token));
        Some((partition, at, due))
    }

    fn is_late(&self, due: Due, now: u64, is_real: bool) -> bool {
        if is_real { self.turns >= due.turns + 2 } else { due.at < now }
    }

    /// A waiter that should have been woken by now and still waits. Each is told once.
    fn forgotten(&mut self, now: u64, is_real: bool) -> Option<(Partition, u64, Due)> {
        let (_, token) = self.due.first().copied().filter(|(due, _)| self.is_late(*due, now, is_real))?;
        self.end(token)
    }
}
