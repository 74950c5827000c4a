//! Whoever waits for a mark is woken in the virtual instant in which it is reached.

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
    /// Waiters whose mark is reached and who were not woken yet.
    due: BTreeSet<(u64, u64)>,
}

struct Waiter {
    partition: Partition,
    unit: usize,
    at: u64,
    /// Since when its mark is reached.
    due: Option<u64>,
}

pub(super) fn check(events: &[Event], found: &mut Vec<Anomaly>) {
    let mut replicas: BTreeMap<(u64, u64), Replica> = BTreeMap::new();
    for event in events {
        let What::Saw { life, fact } = &event.what else { continue };
        let late = match fact {
            Fact::Marks { group, bytes, high_watermark, .. } => {
                let replica = replicas.entry((*life, *group)).or_default();
                replica.advance(event.at, *bytes, *high_watermark);
                replica.forgotten(event.at)
            }
            Fact::Parked { group, partition, token, by_bytes, at } => {
                let replica = replicas.entry((*life, *group)).or_default();
                replica.park(event.at, *token, *partition, usize::from(!*by_bytes), *at);
                None
            }
            Fact::Fired { group, token, .. } | Fact::Unparked { group, token } => {
                replicas.entry((*life, *group)).or_default().end(*token).filter(|(_, _, due)| *due < event.at)
            }
            _ => None,
        };
        if let Some((partition, mark, due)) = late {
            let text = format!(
                "a waiter for mark {mark} on node {} was due at {due} µs and not woken before {} µs",
                event.process, event.at
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
        let due = (self.mark(unit) >= at).then_some(now);
        match due {
            Some(due) => self.due.insert((due, token)),
            None => self.waiting[unit].insert((at, token)),
        };
        self.places.insert(token, Waiter { partition, unit, at, due });
    }

    fn advance(&mut self, now: u64, bytes: u64, offset: u64) {
        (self.bytes, self.offset) = (bytes, offset);
        for unit in 0..2 {
            let mark = self.mark(unit);
            while let Some((at, token)) = self.waiting[unit].first().copied().filter(|(at, _)| *at <= mark) {
                self.waiting[unit].remove(&(at, token));
                self.due.insert((now, token));
                if let Some(waiter) = self.places.get_mut(&token) {
                    waiter.due = Some(now);
                }
            }
        }
    }

    /// Forgets a waiter; gives where, its mark, and since when it was due.
    fn end(&mut self, token: u64) -> Option<(Partition, u64, u64)> {
        let Waiter { partition, unit, at, due } = self.places.remove(&token)?;
        self.waiting[unit].remove(&(at, token));
        let due = due?;
        self.due.remove(&(due, token));
        Some((partition, at, due))
    }

    /// A waiter that was due before this instant and still waits. Each is told once.
    fn forgotten(&mut self, now: u64) -> Option<(Partition, u64, u64)> {
        let (_, token) = self.due.first().copied().filter(|(due, _)| *due < now)?;
        self.end(token)
    }
}
